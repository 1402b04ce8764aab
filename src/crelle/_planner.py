"""Candidates and their prices: from pass costs to a plan. Framework-free."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crelle._arrays import bytes_text, total_size, types_text
from crelle._errors import CrelleMemoryError, CrelleValueError, describe
from crelle._plan import Candidate, Plan
from crelle._select import Selected
from crelle.backends._protocol import Call, Method, Trace
from crelle.tangent.cost import PassCost, Rates, pass_seconds

#: Share of the free memory that an unbounded plan may use before it is cut into chunks.
DEFAULT_SHARE = 0.5
#: Candidates whose prices differ by less than this are a tie, settled by the order of ``MODES``.
TIE = 1.02
#: Colours are not looked for where as many passes as this, or as few entries, give everything.
FEW_PASSES, FEW_ENTRIES = 8, 2_500


def make_plan(call: Call, trace: Trace) -> tuple[Plan, list[Method]]:
    """Price every candidate and choose.

    Returns:
        The plan, and the usable methods, chosen first, in the order in which they should be tried.
    """
    request, backend = call.request, call.backend
    n, m = total_size(call.inputs), total_size(trace.outputs)
    rows = n if request.kind == "hessian" else m
    selected = request.selection.resolve(rows, n)
    device = call.inputs[0].device if call.inputs else ""
    free = backend.available_memory(device)
    _verify_size(call, trace, selected, rows, n, free)
    # an unknown amount of free memory is no bound
    budget = request.memory or (int(free * DEFAULT_SHARE) if free else None)
    mode, chunk = request.mode, request.chunk
    rates = backend.rates(device)

    priced: list[tuple[Candidate, Method]] = []
    over: list[Candidate] = []
    for name, cost in trace.costs.items():
        options = _candidates(name, cost, trace, request.kind, selected, rows, n, call, rates, budget, chunk)
        for candidate, method in options:
            if budget is not None and candidate.bytes > budget and chunk is None:
                over.append(candidate)
            else:
                priced.append((candidate, method))
    if request.kind != "gradient" and not request.selection.partial and chunk is None:
        coloured = _coloured(call, trace, rates, rows, n, selected)
        if coloured is not None and (budget is None or coloured[0].bytes <= budget):
            priced.append(coloured)
    if not priced:
        raise _too_small(call, over, budget)
    allowed = [pair for pair in priced if _is_allowed(pair[0].mode, mode)]
    if not allowed:
        raise _mode_unavailable(call, mode, trace, over, budget)
    order = [*trace.costs, *COLOURED]
    best = min(c.seconds for c, _ in allowed)
    chosen = min(
        allowed,
        key=lambda pair: (
            0 if pair[0].seconds <= best * TIE else pair[0].seconds,
            order.index(pair[0].mode),
            pair[0].chunk is not None,
        ),
    )
    others = sorted((p for p in priced if p is not chosen), key=lambda p: p[0].seconds)
    candidates = [chosen[0]]
    candidates += [_rejected(c, chosen[0], forced=mode not in ("auto", c.mode)) for c, _ in others]
    candidates += [_with_reason(c, f"needs {bytes_text(c.bytes)}, over {_bound(request.memory, budget)}") for c in over]
    candidates += [Candidate(name, "", -1, None, math.inf, 0, reason) for name, reason in trace.unavailable.items()]
    plan = Plan(
        kind=request.kind,
        function=call.name,
        inputs=call.inputs,
        outputs=trace.outputs,
        input_names=call.names,
        backend=backend.name,
        version=backend.version,
        device=device,
        mode=chosen[0].mode,
        unit=chosen[0].unit,
        passes=chosen[0].passes,
        chunk=chosen[0].chunk,
        seconds=chosen[0].seconds,
        bytes=chosen[0].bytes,
        memory=request.memory,
        candidates=tuple(candidates),
        result=_result_text(call, trace, rows, n, selected),
        notes=(*trace.notes, *(chosen[1].ways.notes if chosen[1].ways is not None else ())),
    )
    usable = [chosen[1], *(method for c, method in others if _is_allowed(c.mode, mode))]
    return plan, usable


def _verify_size(call: Call, trace: Trace, selected: Selected, m: int, n: int, free: int | None) -> None:
    """Refuse a result that does not fit in memory, before anything is computed."""
    if free is None or call.abstract or call.request.kind == "gradient":
        return
    if selected.entries is not None:
        count = len(selected.entries[0])
    else:
        count = (m if selected.rows is None else len(selected.rows)) * (
            n if selected.cols is None else len(selected.cols)
        )
    size = count * max((t.itemsize for t in (*call.inputs, *trace.outputs)), default=8)
    if size > free:
        raise CrelleMemoryError(
            describe(
                f"{call.text}: the dense result takes {bytes_text(size)}, and {bytes_text(free)} are free",
                called=f"{types_text(call.inputs, call.names)}, {m:,} × {n:,}",
                try_='format="sparse" if most of it is zero, rows=, cols= or entries= for a part, '
                "or crelle.jvp, crelle.vjp and crelle.hvp for products",
            )
        )


def _candidates(
    mode: str,
    cost: PassCost,
    trace: Trace,
    kind: str,
    selected: Selected,
    m: int,
    n: int,
    call: Call,
    rates: Rates,
    budget: int | None,
    chunk: int | None,
) -> list[tuple[Candidate, Method]]:
    """All at once, and in chunks if those are asked for or needed."""
    side = selected.side(kind, mode, m, n)
    seeds = selected.passes(side, m if side == "rows" else n)
    work = triangle(seeds) if mode == "forward-over-forward" else seeds
    unit, per_seed = trace.units[mode]
    itemsize = max((t.itemsize for t in (*call.inputs, *trace.outputs)), default=8)
    line = (n if side == "rows" else m) * itemsize  # one row or column of the result, staged before it is written
    per_seed_bytes = cost.peak_bytes + line

    def candidate(size: int | None) -> tuple[Candidate, Method]:
        batch = work if size is None else min(size, work)
        batches = 1 if size is None else math.ceil(work / max(batch, 1))
        seconds = pass_seconds(cost, rates, work, batches) + seeds * line / rates.bandwidth
        working = int(cost.residual_bytes + batch * per_seed_bytes)
        return Candidate(mode, unit, work * per_seed, size, seconds, working), Method(mode, side, size, selected)

    if chunk is not None:
        return [candidate(chunk)]
    options = [candidate(None)]
    if budget is not None and options[0][0].bytes > budget and work > 1:
        fitting = int((budget - cost.residual_bytes) // max(per_seed_bytes, 1))
        options.append(candidate(max(1, min(fitting, work - 1))))
    if mode in trace.loop_modes and work > 1 and options[-1][0].chunk != 1:
        options.append(candidate(1))
    return options


#: Names of candidates by the kind of their colouring.
COLOURED = ("coloured columns", "coloured rows", "coloured columns and rows", "coloured symmetric", "zero")


def _is_allowed(candidate: str, mode: str) -> bool:
    return mode in ("auto", candidate) or (mode == "coloured" and candidate in COLOURED)


def _coloured(
    call: Call, trace: Trace, rates: Rates, m: int, n: int, selected: Selected
) -> tuple[Candidate, Method] | None:
    """Coloured products whose entries are written into a dense matrix of zeros, where there may be enough to save."""
    asked = call.request.mode in ("coloured", *COLOURED)
    few = min(m, n) <= FEW_PASSES or m * n <= FEW_ENTRIES
    if not asked and (call.request.mode != "auto" or few):
        return None
    ways = trace.ways(call)
    if ways is None:
        return None
    itemsize = max(t.itemsize for t in (*call.inputs, *trace.outputs))
    zeros = m * n * itemsize / rates.bandwidth
    hessian = call.request.kind == "hessian"
    if ways.coloring is None:
        nothing = Candidate("zero", "product", 0, None, rates.call + zeros, 0)
        return nothing, Method("zero", "rows", None, selected, ways)
    kind = ways.coloring.kind
    forward, reverse = ("forward", "reverse")
    if hessian:
        forward = min((c for c in trace.costs if c != "forward-over-forward"), default="",
                      key=lambda c: pass_seconds(trace.costs[c], rates, ways.passes, 1))  # fmt: skip
    used: list[str] = []
    total, working = zeros + rates.call, 0.0
    for mode, passes in ((forward, ways.coloring.column_passes), (reverse, ways.coloring.row_passes)):
        if passes:
            if mode not in trace.costs:
                return None
            cost, used = trace.costs[mode], [*used, mode]
            total += pass_seconds(cost, rates, passes, 1)
            line = (n if mode == "reverse" else m) * itemsize
            working += cost.residual_bytes + passes * (cost.peak_bytes + line)
    entries = ways.pattern.nnz
    total += 3 * entries * itemsize / rates.bandwidth
    working += entries * (itemsize + 8)
    name = {"columns": COLOURED[0], "rows": COLOURED[1], "both": COLOURED[2], "symmetric": COLOURED[3]}[kind]
    unit = {"columns": "JVP", "rows": "VJP", "both": "product", "symmetric": "HVP"}[kind]
    found = Candidate(name, unit, ways.passes, None, total, int(working))
    return found, Method(name, "rows", None, selected, ways, used[0])


def triangle(n: int) -> int:
    """Entries on and below the diagonal: what a symmetric matrix needs."""
    return n * (n + 1) // 2


def _with_reason(c: Candidate, reason: str) -> Candidate:
    return Candidate(c.mode, c.unit, c.passes, c.chunk, c.seconds, c.bytes, reason)


def _rejected(c: Candidate, chosen: Candidate, forced: bool) -> Candidate:
    ratio = c.seconds / max(chosen.seconds, 1e-12)
    if 1 / TIE <= ratio < TIE and not forced:
        reason = "tie, dearer passes" if ratio >= 1 else "tie"
    else:
        reason = f"{ratio:.3g}×" if ratio < 2 else f"{ratio:.2g}×" if ratio < 10 else f"{ratio:,.0f}×"
    if forced:
        reason += f"; mode={chosen.mode!r} was asked for"
    return _with_reason(c, reason)


def _bound(memory: int | None, budget: int | None) -> str:
    text = bytes_text(budget or 0)
    return f"memory={text}" if memory else f"{text}, {DEFAULT_SHARE:.0%} of the free memory"


def _too_small(call: Call, over: Sequence[Candidate], budget: int | None) -> CrelleMemoryError:
    least = min(over, key=lambda c: c.bytes)
    return CrelleMemoryError(
        describe(
            f"{call.text}: {_bound(call.request.memory, budget)} is too small for even one pass",
            called=types_text(call.inputs, call.names),
            expected=f"at least {bytes_text(least.bytes)}: {least.label}, the smallest candidate",
            try_=f'memory="{bytes_text(least.bytes * 1.05)}" or more, or mode= / smaller inputs',
        )
    )


def _mode_unavailable(
    call: Call, mode: str, trace: Trace, over: Sequence[Candidate], budget: int | None
) -> CrelleValueError:
    too_big = [c for c in over if c.mode == mode]
    if too_big:
        return _too_small(call, too_big, budget)  # type: ignore[return-value]
    reason = trace.unavailable.get(mode, f"{call.backend.name} functions do not offer it")
    return CrelleValueError(
        describe(
            f"{call.text}: mode={mode!r} cannot be used here",
            called=types_text(call.inputs, call.names),
            likely=reason,
            try_=f"one of {', '.join(map(repr, trace.costs))}, or leave mode= out",
        )
    )


def _result_text(call: Call, trace: Trace, m: int, n: int, selected: Selected) -> str:
    request = call.request
    dtype = next(iter(trace.outputs), None) or next(iter(call.inputs))
    if request.selection.partial:
        if selected.entries is not None:
            return f"{'1 entry' if selected.drop_row else f'{len(selected.entries[0])} entries'} of {m:,} × {n:,}"
        shape = [
            str(count if index is None else len(index))
            for index, count, drop in ((selected.rows, m, selected.drop_row), (selected.cols, n, selected.drop_col))
            if not drop
        ]
        return f"part [{','.join(shape)}] of the {m:,} × {n:,} matrix"
    if request.flatten:
        return f"flat {type(dtype)(dtype.dtype, (m, n) if request.kind != 'gradient' else (n,))}"
    if request.kind == "gradient":
        return f"gradient, {types_text(call.inputs)}"
    outer = call.inputs if request.kind == "hessian" else trace.outputs
    if len(outer) == len(call.inputs) == 1:
        return f"dense {type(dtype)(dtype.dtype, outer[0].shape + call.inputs[0].shape)}"
    return f"dense, a tree of {len(outer)} × {len(call.inputs)} blocks, {m:,} × {n:,} in all"
