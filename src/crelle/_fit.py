"""Holding a plan to its memory bound by measurement: an estimate chose the chunk, what the backend measures decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crelle._arrays import bytes_text, types_text
from crelle._errors import CrelleMemoryError, describe
from crelle._plan import Candidate, Plan
from crelle.backends._protocol import Call, Method, Trace

#: Measurements before a method is given up; each may be a compilation.
ATTEMPTS = 5
#: The next chunk aims at this share of the bound.
AIM = 0.9


def fit(call: Call, captured: Any, trace: Trace, plan: Plan, methods: list[Method]) -> tuple[Plan, list[Method]]:
    """The plan with the working set measured, and the chunk made smaller where it was over the bound.

    Raises:
        CrelleMemoryError: no method stays within the bound, not even with one seed at a time.
    """
    bound = call.request.memory
    if bound is None:
        return plan, methods
    over: list[tuple[Candidate, int]] = []
    for method in methods:
        candidate = next(c for c in plan.candidates if (c.mode, c.chunk) == (method.mode, method.chunk))
        first, measured, fitted = _measure(call, captured, trace, candidate, method, bound)
        if measured is None:
            return plan, methods
        if measured > bound and call.request.chunk is None:
            over.append((candidate, measured))
            continue
        chosen = replace(candidate, chunk=fitted.chunk, measured_bytes=measured, reason="")
        others = [
            replace(c, reason=f"measured {bytes_text(size)} with one seed at a time, over memory={bytes_text(bound)}")
            if (size := next((s for o, s in over if o is c), None))
            else c
            for c in plan.candidates
            if c is not candidate
        ]
        notes = list(plan.notes)
        if fitted.chunk != method.chunk:
            was = "all seeds at once" if method.chunk is None else f"chunks of {method.chunk:,}"
            notes.append(
                f"{was} were estimated at {bytes_text(candidate.bytes)} and measured at {bytes_text(first)}: "
                f"made smaller, {bytes_text(measured)}"
            )
        elif measured > bound:
            notes.append(f"chunk={method.chunk} was asked for, and is over the bound")
        plan = replace(
            plan, mode=chosen.mode, unit=chosen.unit, passes=chosen.passes, chunk=chosen.chunk, seconds=chosen.seconds,
            bytes=chosen.bytes, candidates=(chosen, *others), notes=tuple(notes),
        )  # fmt: skip
        rest = [m for m in methods if m is not method and not any(o.mode == m.mode for o, _ in over)]
        return plan, [fitted, *rest]
    least = min(size for _, size in over)
    raise CrelleMemoryError(
        describe(
            f"{call.text}: memory={bytes_text(bound)} is too small for even one pass",
            called=types_text(call.inputs, call.names),
            expected=f"at least {bytes_text(least)}, as measured with one seed at a time",
            try_=f'memory="{bytes_text(least * 1.05)}" or more, or mode= / smaller inputs',
        )
    )


def _measure(
    call: Call, captured: Any, trace: Trace, candidate: Candidate, method: Method, bound: int
) -> tuple[int, int | None, Method]:
    """(first measurement, last one, method with the chunk it was made for); ``None`` where nothing can be measured."""
    work = candidate.passes // trace.units.get(candidate.mode, ("", 1))[1]
    first = 0
    known: list[tuple[int, int]] = []
    while True:
        measured = trace.temporary_bytes(method, call, captured)
        if measured is None:
            return 0, None, method
        chunk = min(method.chunk or work, work)
        known.append((chunk, measured))
        first = first or measured
        if measured <= bound or chunk <= 1 or call.request.chunk is not None or method.ways is not None:
            return first, measured, method
        smaller = 1 if len(known) == ATTEMPTS - 1 else min(chunk - 1, max(1, _next_chunk(known, bound)))
        method = replace(method, chunk=smaller)


def _next_chunk(known: list[tuple[int, int]], bound: int) -> int:
    """Where a line through the last two measurements, or through zero, meets the aim."""
    (chunk, measured), target = known[-1], AIM * bound
    if len(known) > 1 and known[-2][1] > measured:
        slope = (known[-2][1] - measured) / (known[-2][0] - chunk)
        return int(chunk - (measured - target) / slope)
    return int(chunk * target / measured)
