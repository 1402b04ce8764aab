"""A tangent program as a readable chain: the chain rule, shown, one line for each linear map."""

from __future__ import annotations

from crelle._arrays import ArrayType, bytes_text
from crelle.tangent.program import (
    Add,
    Branch,
    Dependence,
    Gather,
    LinearMap,
    Loop,
    Mix,
    Opaque,
    Scale,
    TangentProgram,
    live,
)

#: Lines of a chain that are printed; the middle of a longer one is left out.
LIMIT = 60
_WORDS = {Dependence.CONSTANT: "constant", Dependence.PASSIVE: "passive", Dependence.VARYING: "varying"}


def chain(program: TangentProgram, limit: int = LIMIT) -> str:
    """The program, one line for each map: number, operation, structure, operands and result, coefficients, cost."""
    maps = live(program)
    names = {v: f"t{k}" for k, v in enumerate(program.inputs)}
    names.update((r, f"v{k}") for k, m in enumerate(maps) for r in m.results if r is not None)
    rows = [row for k, m in enumerate(maps) for row in _rows(program, m, names, k)]
    hidden = len(rows) - limit
    if hidden > 0:
        half = limit // 2
        rows = [*rows[:half], ("", f"... {hidden:,} more", "", "", "", ""), *rows[len(rows) - (limit - half) :]]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(6)]
    lines = [_title(program)]
    lines += ["  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    outputs = ", ".join("0" if v is None else names.get(v, "?") for v in program.outputs)
    lines.append(f"  returns {outputs}")
    price = program.cost()
    flops = price.flops + price.matmul_flops
    moved, held = bytes_text(int(price.bytes)), bytes_text(int(price.peak_bytes))
    lines.append(f"  one pass: {flops:,.0f} flops, {moved} moved, {held} live")
    lines += [f"  note: {note}" for note in program.notes]
    return "\n".join(lines)


def _title(program: TangentProgram) -> str:
    inputs = ", ".join(f"t{k}: {program.types[v]}" for k, v in enumerate(program.inputs))
    outputs = ", ".join(map(str, program.output_types))
    kind = "Transposed tangent program" if program.transposed else "Tangent program"
    return f"{kind}: {inputs} -> {outputs}"


def _rows(
    program: TangentProgram, m: LinearMap, names: dict[int, str], number: int
) -> list[tuple[str, str, str, str, str, str]]:
    operands = ", ".join("0" if v is None else names.get(v, "?") for v in m.operands)
    results = [program.types[r] for r in m.results if r is not None]
    made = ", ".join(f"{names[r]}: {program.types[r]}" for r in m.results if r is not None)
    cost = f"{m.flops:,.0f} flops" if m.flops else ""
    words = "" if isinstance(m, Gather) else _WORDS[m.dependence]
    rows = [(str(number), m.name, _structure(program, m, results), f"{operands} -> {made}", words, cost)]
    inner = {"": m.body} if isinstance(m, Loop) else {}
    if isinstance(m, Branch):
        inner = {f"branch {k}": body for k, body in enumerate(m.bodies)}
    for label, body in inner.items():
        if label:
            rows.append(("", f"  {label}", "", "", "", ""))
        own = {v: f"t{k}" for k, v in enumerate(body.inputs)}
        maps = live(body)
        own.update((r, f"v{k}") for k, each in enumerate(maps) for r in each.results if r is not None)
        for k, each in enumerate(maps):
            rows += [("", f"  {row[1]}", *row[2:]) for row in _rows(body, each, own, k)]
    return rows


def _structure(program: TangentProgram, m: LinearMap, results: list[ArrayType]) -> str:
    """What the matrix of a map looks like, in words."""
    if isinstance(m, Gather):
        return "moves"
    if isinstance(m, Scale):
        return "diagonal" if m.keep is None else f"diagonal, {int(m.keep.sum()):,} of {m.keep.size:,} nonzero"
    if isinstance(m, Add):
        return "sum"
    if isinstance(m, Mix):
        kind = {"Reduce": "sums", "Contract": "matrix", "Lanes": "lanes"}.get(type(m).__name__, "mix")
        if m.detail:
            return f"{kind}, {m.detail}"
        if m.pattern is None:
            return f"dense {kind}" if kind == "matrix" else kind
        return f"{kind}, {len(m.pattern[1]):,} nonzero"
    if isinstance(m, Loop):
        return "loop, any number of steps" if m.length is None else f"loop of {m.length:,} steps"
    if isinstance(m, Branch):
        return f"one of {len(m.bodies)} branches"
    assert isinstance(m, Opaque)
    size = sum(t.size for t in results)
    return f"opaque: {size:,} × all"
