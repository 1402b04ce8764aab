"""A tangent program as a readable chain: the chain rule, shown, one line for each linear map."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle._arrays import bytes_text, types_text
from crelle.tangent.program import (
    Add,
    Branch,
    Dependence,
    Gather,
    Lanes,
    LinearMap,
    Loop,
    Mix,
    Opaque,
    Reduce,
    Scale,
    TangentProgram,
    live,
)

#: Lines of a chain that are printed; the middle of a longer one is left out.
LIMIT = 60
#: Operands or results of one map that are named; more are counted.
_NAMED = 4
#: Elements of an operand up to which the matrix of a mix is measured, by laying out its elements.
_MEASURED = 10**7
_INDENT = "  "
_COLUMNS = 7


@dataclass(frozen=True, slots=True)
class _Line:
    """A map and where it stands, or a remark between maps."""

    program: TangentProgram
    names: dict[int, str]
    depth: int
    number: str = ""
    map: LinearMap | None = None
    remark: str = ""


def chain(program: TangentProgram, limit: int | None = LIMIT) -> str:
    """The program, one line for each map: number, operation, structure, operands and result, coefficients, price.

    ``limit=None`` prints all lines.
    """
    rows = _table(program, limit)
    widths = [max((len(row[i]) for row in rows if len(row) > 1), default=0) for i in range(_COLUMNS)]
    lines = [_title(program)]
    for row in rows:
        if len(row) == 1:
            lines.append(f"  {'':<{widths[0]}}  {row[0]}")
            continue
        lines.append("  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip())
    return "\n".join([*lines, *(f"  {line}" for line in _last(program))])


def html_table(program: TangentProgram, limit: int | None = LIMIT) -> str:
    """The same as a table for a notebook."""
    left = ' style="text-align:left;white-space:pre"'
    body = []
    for row in _table(program, limit):
        span = f' colspan="{_COLUMNS}"' if len(row) == 1 else ""
        body.append("<tr>" + "".join(f"<td{span}{left}>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    last = "".join(f'<tr><td colspan="{_COLUMNS}"{left}>{html.escape(line)}</td></tr>' for line in _last(program))
    return f"<table><caption>{html.escape(_title(program))}</caption>{''.join(body)}{last}</table>"


def as_data(program: TangentProgram) -> list[dict[str, Any]]:
    """The live maps as plain texts, numbers and lists, for machines; bodies of loops and branches within them."""
    found = []
    for m in live(program):
        one: dict[str, Any] = {
            "name": m.name, "map": type(m).__name__, "structure": structure_text(program, m),
            "dependence": m.dependence.name.lower(), "flops": m.flops, "bytes": m.bytes,
            "operands": list(m.operands), "results": list(m.results),
            "types": [None if r is None else str(program.types[r]) for r in m.results], "detail": m.detail,
        }  # fmt: skip
        if bodies := _bodies(m):
            one["bodies"] = [as_data(body) for body in bodies]
        found.append(one)
    return found


def _title(program: TangentProgram) -> str:
    kind = "Transposed tangent program" if program.transposed else "Tangent program"
    return f"{kind}: {_coming_in(program)} -> {types_text(tuple(program.output_types))}"


def _last(program: TangentProgram) -> list[str]:
    """What stands below the maps: results, the price of a pass, notes."""
    price = program.cost()
    moved, held = bytes_text(int(price.bytes)), bytes_text(int(price.peak_bytes))
    return [
        f"returns {_returned(program, _names(program))}",
        f"one pass: {_flops(price.flops + price.matmul_flops)}, {moved} moved, {held} live",
        *(f"note: {note}" for note in program.notes),
    ]


def _table(program: TangentProgram, limit: int | None) -> list[tuple[str, ...]]:
    """Cells of every map, and single cells between them; the middle of a long program is left out."""
    lines = list(_lines(program, 0))
    hidden = 0 if limit is None else len(lines) - limit
    if limit is None or hidden <= 0:
        return [_cells(line) for line in lines]
    first = limit // 2
    rows = [_cells(line) for line in lines[:first]]
    rows.append((f"... {hidden:,} more {'line' if hidden == 1 else 'lines'} ...",))
    return rows + [_cells(line) for line in lines[len(lines) - (limit - first) :]]


def _flops(count: float) -> str:
    return f"{count:,.0f} {'flop' if count == 1 else 'flops'}"


def _names(program: TangentProgram) -> dict[int, str]:
    """t0, t1 ... come in; v0, v1 ... are made, numbered as the lines are."""
    names = {v: f"t{k}" for k, v in enumerate(program.inputs)}
    for k, m in enumerate(live(program)):
        made = [r for r in m.results if r is not None]
        names.update((r, f"v{k}" if len(made) == 1 else f"v{k}.{i}") for i, r in enumerate(made))
    return names


def _returned(program: TangentProgram, names: dict[int, str]) -> str:
    return _listed(["0" if v is None else names[v] for v in program.outputs]) or "nothing"


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names if more <= 0 else [*names[:_NAMED], f"{more:,} more"])


def _bodies(m: LinearMap) -> tuple[TangentProgram, ...]:
    return (m.body,) if isinstance(m, Loop) else m.bodies if isinstance(m, Branch) else ()


def _lines(program: TangentProgram, depth: int) -> Iterator[_Line]:
    names = _names(program)
    for k, m in enumerate(live(program)):
        yield _Line(program, names, depth, str(k), m)
        for at, body in enumerate(_bodies(m)):
            own = _names(body)
            which = f"branch {at}" if isinstance(m, Branch) else "each step"
            yield _Line(body, own, depth + 1, remark=f"{which}: {_coming_in(body)}")
            yield from _lines(body, depth + 1)
            yield _Line(body, own, depth + 1, remark=f"returns {_returned(body, own)}")


def _coming_in(program: TangentProgram) -> str:
    """``t0: f64[3], t1: f64[]``."""
    inputs = tuple(program.types[v] for v in program.inputs)
    return types_text(inputs, tuple(f"t{k}" for k in range(len(inputs))))


def _cells(line: _Line) -> tuple[str, ...]:
    shift = _INDENT * line.depth
    m, program, names = line.map, line.program, line.names
    if m is None:
        return (shift + line.remark,)
    operands = _listed(["0" if v is None else names[v] for v in m.operands])
    made = _listed([f"{names[r]}: {program.types[r]}" for r in m.results if r is not None])
    plain = isinstance(m, Gather) and m.dependence is Dependence.CONSTANT  # a move has no coefficients
    return (
        shift + line.number, m.name, structure_text(program, m), f"{operands} -> {made}",
        "" if plain else m.dependence.name.lower(), _flops(m.flops) if m.flops else "",
        bytes_text(m.bytes) if m.bytes else "",
    )  # fmt: skip


def structure_text(program: TangentProgram, m: LinearMap) -> str:
    """What the matrix of a map looks like, in words."""
    if isinstance(m, Gather):
        return "moves"
    if isinstance(m, Scale):
        return "diagonal" if m.keep is None else f"diagonal, {int(m.keep.sum()):,} of {m.keep.size:,} nonzero"
    if isinstance(m, Add):
        return "sum"
    if isinstance(m, Mix):
        return _mix_text(program, m)
    if isinstance(m, Loop):
        return "loop of any number of steps" if m.length is None else f"loop of {m.length:,} steps"
    if isinstance(m, Branch):
        return f"branch, one of {len(m.bodies)}"
    assert isinstance(m, Opaque)
    return "opaque, all on all"


def _mix_text(program: TangentProgram, m: Mix) -> str:
    """``dense 10×16, 128 times``: the matrix along the mixed axis, and how many lie side by side."""
    detail = f", {m.detail}" if m.detail and isinstance(m, Lanes) else ""
    sums = isinstance(m, Reduce)
    size = _measured(program, m)
    if size is None:
        return (
            "sums" if sums else "dense" if m.pattern is None else f"sparse, {len(m.pattern[1]):,} nonzeros"
        ) + detail
    rows, columns, times = size
    many = f", {times:,} times" if times > 1 else ""
    if m.pattern is None and sums and rows == 1:
        return f"sums of {columns:,}{many}{detail}"
    made = f"{rows:,}×{columns:,}"
    if m.pattern is None or len(m.pattern[1]) == rows * columns:
        kind = f"dense {made}"
    else:
        count = len(m.pattern[1])
        kind = f"sparse {made}, {count:,} {'nonzero' if count == 1 else 'nonzeros'}"
    return f"{'sums, ' if sums else ''}{kind}{many}{detail}"


def _measured(program: TangentProgram, m: Mix) -> tuple[int, int, int] | None:
    """Rows and columns of the matrix of a mix, and how many of it lie side by side; ``None`` if that is too large."""
    operand = next(v for v in m.operands if v is not None)
    (result,) = m.results
    type_ = program.types[operand]
    if type_.size > _MEASURED or result is None:
        return None
    columns, times = m.into(np.broadcast_to(np.zeros((), np.int32), type_.shape)).shape
    if m.pattern is not None:
        return len(m.pattern[0]) - 1, columns, times
    rows, rest = divmod(program.types[result].size, max(times, 1))
    return None if rest else (rows, columns, times)
