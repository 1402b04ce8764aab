"""Which leaves of a space a user means: by path, by the beginning of paths, or by position."""

from __future__ import annotations

import re
from typing import Any

from crelle._arrays import types_text
from crelle._errors import CrelleValueError, describe
from crelle.operators._spaces import Space

_PARTS = re.compile(r"\['([^']*)'\]|\[(\w+)\]|([^.\[\]]+)")


def leaves_named(space: Space, wanted: Any, what: str) -> list[int]:
    """Positions of the leaves, in ascending order.

    Args:
        wanted: a leaf's path, or that of a branch (``"layer1"``, ``"layer1.weight"``, ``"['w']"``,
            ``"params['layer1']"``); a position, counted from the end if negative; or a list of such.

    Raises:
        CrelleValueError: no leaf has this name; none was named.
    """
    found: set[int] = set()
    for name in wanted if isinstance(wanted, (list, tuple)) else [wanted]:
        hits = _hits(space, name)
        if not hits:
            raise CrelleValueError(
                describe(
                    f"{what}: no leaf is named {name!r}",
                    expected="\n".join(filter(None, space.names)) or f"a position below {len(space.types)}",
                    likely=_nearest(space, name),
                )
            )
        found.update(hits)
    if not found:
        raise CrelleValueError(describe(f"{what}: no leaf was named", expected=types_text(space.types, space.names)))
    return sorted(found)


def _hits(space: Space, name: Any) -> list[int]:
    if isinstance(name, int) and not isinstance(name, bool):
        count = len(space.types)
        return [name % count] if -count <= name < count else []
    sought = _parts(name) if isinstance(name, str) else []
    return [i for i, path in enumerate(space.names) if sought and _begins(path, sought)]


def _begins(path: str, sought: list[str]) -> bool:
    """Whether a path begins with these parts, with the name of f's argument before them or without it."""
    parts = _parts(path)
    rooted = not path.startswith(("[", "."))
    return parts[: len(sought)] == sought or (rooted and parts[1 : 1 + len(sought)] == sought)


def _parts(path: str) -> list[str]:
    """``params['layer1.weight'][0]`` -> params, layer1, weight, 0.

    >>> _parts("params['layer1.weight'][0]"), _parts("layer1.weight"), _parts(".w")
    (['params', 'layer1', 'weight', '0'], ['layer1', 'weight'], ['w'])
    """
    found = [key or index or rest for key, index, rest in _PARTS.findall(path.replace('"', "'"))]
    return [part for text in found for part in text.split(".") if part]


def _nearest(space: Space, name: Any) -> str | None:
    """A name that holds what was asked for elsewhere in its path."""
    sought = _parts(name) if isinstance(name, str) else []
    close = [path for path in space.names if sought and set(sought) & set(_parts(path))]
    return f"{close[0]} was meant" if close else None
