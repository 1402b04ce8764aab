"""``part=``: which entries of a sparse matrix are wanted. Only these are coloured, computed and handed over."""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

import numpy as np

from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.pattern import SparsityPattern

#: Parts with a name, as a condition on the index of the diagonal that an entry is on: column − row.
NAMED = {"diagonal": (0, 0), "lower": (-np.inf, 0), "upper": (0, np.inf)}
_EXPECTED = 'None | "diagonal" | "lower" | "upper" | ("band", below, above) | ("blocks", rows, columns) | a pattern'


def read_part(part: Any) -> Hashable:
    """The keyword as something hashable.

    Raises:
        CrelleValueError, CrelleTypeError: there is no such part.
    """
    if part is None or isinstance(part, SparsityPattern):
        return part
    if isinstance(part, str):
        if part in NAMED:
            return part
        raise CrelleValueError(describe(f"part={part!r} is not known", expected=_EXPECTED))
    if isinstance(part, tuple) and part and isinstance(part[0], str):
        try:
            name, *sizes = part[0], *map(operator.index, part[1:])
        except TypeError:
            name, sizes = "", []
        if name == "band" and len(sizes) == 2 and min(sizes) >= 0:
            return ("band", *sizes)
        if name == "blocks" and len(sizes) in (1, 2) and min(sizes) >= 1:
            return ("blocks", sizes[0], sizes[-1])
        raise CrelleValueError(describe(f"part={part!r} is not known", expected=_EXPECTED))
    try:
        return SparsityPattern.from_(part)
    except CrelleTypeError:
        raise CrelleTypeError(describe(f"part={part!r} selects no entries", expected=_EXPECTED)) from None


def wanted(part: Any, pattern: SparsityPattern, text: str) -> Any:
    """Which entries of a pattern belong to a part, in CSR order.

    Raises:
        CrelleShapeError: the part has another shape than the matrix.
    """
    rows, cols = pattern.rows, pattern.indices
    if isinstance(part, SparsityPattern):
        if part.shape != pattern.shape:
            raise CrelleShapeError(
                describe(
                    f"{text}: part= is {part.shape[0]:,} × {part.shape[1]:,}",
                    expected=f"{pattern.shape[0]:,} × {pattern.shape[1]:,}: raveled outputs by raveled inputs",
                )
            )
        marked = pattern._as_scipy().astype(np.int8) + (pattern & part)._as_scipy().astype(np.int8)
        return marked.data == 2
    if isinstance(part, str):
        low, high = NAMED[part]
    elif part[0] == "band":
        low, high = -part[1], part[2]
    else:
        _verify_blocks(part, pattern, text)
        return rows // part[1] == cols // part[2]
    offset = cols.astype(np.int64) - rows
    return (offset >= low) & (offset <= high)


def _verify_blocks(part: tuple[str, int, int], pattern: SparsityPattern, text: str) -> None:
    (m, n), (_, p, q) = pattern.shape, part
    if m % p or n % q or m // p != n // q:
        raise CrelleShapeError(
            describe(
                f"{text}: part={part!r} does not cut the {m:,} × {n:,} matrix into blocks",
                expected=f"as many blocks of {p:,} rows as of {q:,} columns",
            )
        )
