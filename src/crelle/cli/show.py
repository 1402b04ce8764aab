"""What a command prints: arrays, trees, plans and tables for people; JSON for machines."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from crelle._plan import Plan
from crelle._verify import CheckResult
from crelle.backends import framework_of, get_backend
from crelle.cli.frameworks import to_numpy

#: Columns that are assumed where there is no terminal to ask.
WIDTH = 120
#: Styles of the keys of a printed plan.
_STYLES = {"chosen": "green", "rejected": "yellow", "checked": "cyan", "notes": "magenta"}


def width() -> int | None:
    """Columns of the terminal, or of ``COLUMNS``; ``None`` where lines go to a file or a pipe and may be long."""
    if os.environ.get("COLUMNS", "").isdigit():
        return max(40, int(os.environ["COLUMNS"]))
    return max(40, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def console() -> Console:
    """Where people read. Nothing that is printed is markup, so ``f64[3]`` stays what it is."""
    return Console(markup=False, highlight=False, emoji=False, width=width() or WIDTH)


def text(content: str, style: str = "") -> None:
    """Print lines; those that are too long for the terminal go on below, indented."""
    screen = console()
    for line in content.splitlines() or [""]:
        for part in _folded(line):
            screen.print(Text(part, style=style), soft_wrap=True)


def _folded(line: str) -> list[str]:
    """A line in parts that fit the terminal; first the gaps of its columns give way, then it is broken."""
    limit = width()
    if limit is None or len(line) <= limit:
        return [line]
    leading = len(line) - len(line.lstrip())
    if leading:  # the gaps of a plan's columns, but for the one after a key
        line = line[:12] + re.sub(r"(?<=\S) {3,}(?=\S)", "  ", line[12:])
    indent = " " * (0 if not leading else 14 if leading <= 2 else leading + 2)
    return textwrap.wrap(
        line, limit, subsequent_indent=indent, replace_whitespace=False, break_long_words=False, break_on_hyphens=False
    )


def lines(body: list[str]) -> None:
    """A title, then lines that begin with an indented key."""
    screen = console()
    for i, line in enumerate(body):
        for j, part in enumerate(_folded(line)):
            styled = Text(part, style="bold" if i == 0 else "")
            key = line.split(maxsplit=1)[0] if line.strip() else ""
            if i and not j and line.startswith(f"  {key} "):
                styled.stylize(_STYLES.get(key, "bold"), 2, 2 + len(key))
            screen.print(styled, soft_wrap=True)


def report(shown: CheckResult) -> None:
    """A check as it prints itself, with its verdict in colour."""
    head, *rest = str(shown).splitlines()
    text(head, style="bold green" if shown.ok else "bold red")
    for line in rest:
        text(line)


def summary(shown: Plan) -> list[str]:
    """The head of a plan: what was asked, how it was answered, and whether it was checked."""
    chosen = shown.candidates[0]
    rows = [("chosen", f"{chosen.label}, {chosen.work}")]
    rows += [("checked", shown.checked)] if shown.checked else []
    rows += [("notes" if i == 0 else "", note) for i, note in enumerate(shown.notes)]
    return [str(shown).splitlines()[0], *(f"  {key:<9} {what}" for key, what in rows)]


def tree(content: Any, name: str) -> None:
    """Every array of a tree under a heading with its path and type."""
    for path, leaf in named_leaves(content):
        values = to_numpy(leaf)
        values = values + 0.0 if values.dtype.kind in "fc" else values  # -0. says nothing here
        text(" ".join(filter(None, [name, "/".join(path), type_text(leaf)])), style="bold")
        body = np.array2string(values, precision=6, suppress_small=True, max_line_width=(width() or WIDTH) - 2)
        console().print(Text(textwrap.indent(body, "  ")), soft_wrap=True)


def type_text(leaf: Any) -> str:
    """``f64[3,4]``; numbers are those of Python."""
    owner = framework_of(leaf)
    return str(get_backend(owner).array_type(leaf)) if owner else type(leaf).__name__


def named_leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of a tree, each with its keys and positions."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from named_leaves(value, (*path, str(key)))
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from named_leaves(value, (*path, str(i)))
    else:
        yield path, content


def as_data(content: Any) -> Any:
    """A tree as JSON holds it: arrays are nested lists, complex numbers are pairs, NaN and infinities are texts."""
    if isinstance(content, dict):
        return {str(key): as_data(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [as_data(value) for value in content]
    if content is None or isinstance(content, (str, bool)):
        return content
    return _plain(to_numpy(content).tolist())


def as_types(content: Any) -> Any:
    """A tree with arrays replaced by their types, in the form of :func:`as_data`."""
    if isinstance(content, dict):
        return {str(key): as_types(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [as_types(value) for value in content]
    return type_text(content)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, complex):
        return [_plain(value.real), _plain(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def plan_data(shown: Plan) -> dict[str, Any]:
    """A plan as JSON, as ``Plan.save`` writes it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "plan.json")
        shown.save(file)
        data: dict[str, Any] = json.loads(file.read_text())
    return data


def machine(data: Any) -> None:
    """Print JSON, strict, and nothing else."""
    sys.stdout.write(as_json(data))


def as_json(data: Any) -> str:
    """Strict JSON: two spaces of indent for what has names, one line for what is numbers."""
    return _indented(_plain_tree(data), 0) + "\n"


def _plain_tree(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain_tree(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain_tree(value) for value in data]
    return _plain(data)


def _indented(data: Any, depth: int) -> str:
    pad, end = "  " * (depth + 1), "  " * depth
    if isinstance(data, dict) and data:
        items = [f"{pad}{json.dumps(key)}: {_indented(value, depth + 1)}" for key, value in data.items()]
        return "{\n" + ",\n".join(items) + f"\n{end}}}"
    if isinstance(data, list) and any(isinstance(item, dict) for item in data):
        return "[\n" + ",\n".join(pad + _indented(item, depth + 1) for item in data) + f"\n{end}]"
    return json.dumps(data, allow_nan=False)
