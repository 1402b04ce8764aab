"""From a bound call to something that runs: trace, plan, build, check once, and reuse what is still true."""

from __future__ import annotations

import functools
import time
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from crelle import _check
from crelle._arrays import types_text
from crelle._errors import CrelleCheckError, CrelleError, CrelleShapeError, describe
from crelle._fit import fit
from crelle._plan import Plan
from crelle._planner import make_plan
from crelle.backends._protocol import Call, Runner, Trace

#: After this many traces of one function, f is run anew each time instead of being traced again ...
MAX_TRACES = 12
#: ... unless the kept traces were used this often for each further one.
HITS_PER_TRACE = 20
#: Signatures kept for one function.
KEPT_SIGNATURES = 64
#: Traces kept for one signature: enough for flags that toggle.
KEPT_TRACES = 8
#: Functions whose traces are kept.
KEPT_FUNCTIONS = 256


class Prepared:
    """A plan with what it takes to run it, for one function at one signature."""

    def __init__(self, call: Call, trace: Trace) -> None:
        self.trace = trace
        self.plan, self._methods = make_plan(call, trace)
        self.method = self._methods[0]
        self.runner: Runner = trace.build(self.method)
        self.untried = True

    def run(self, call: Call, captured: Any) -> Any:
        """The answer; on the first run with concrete values also the check."""
        if self.untried:
            return self._first_run(call, captured)
        return self.runner(call, captured)

    def _first_run(self, call: Call, captured: Any) -> Any:
        """Try the methods in the order of their price until one runs and passes the check."""
        wrong = ""
        failure: Exception | None = None
        reasons: list[str] = []
        if not call.abstract:
            self.plan, self._methods = fit(call, captured, self.trace, self.plan, self._methods)
        for method in self._methods:
            if method is not self.method:
                self.method, self.runner = method, self.trace.build(method)
            try:
                answer = self.runner(call, captured)
            except CrelleError:
                raise
            except Exception as error:  # a rule that is missing only for batches, or only for replay
                failure = failure or error
                reasons.append(f"failed: {type(error).__name__}")
                continue
            if call.abstract:
                verdict = "no: no concrete values (inside a transformation)"
                break
            if not call.request.check:
                verdict = "no: check=False"
                break
            report = self.trace.check(call, captured, answer, method)
            verdict, wrong = _check.judge(call, self.trace, method, report, first_error=wrong)
            if verdict:
                break
            reasons.append("failed the check")
        else:
            if wrong:
                raise CrelleCheckError(wrong) from failure
            assert failure is not None
            raise failure
        self.untried = call.abstract
        self.plan = replace(self.plan, checked=verdict)
        if reasons:
            self._reroute(reasons)
        return answer

    def _reroute(self, reasons: list[str]) -> None:
        """Record in the plan that its first choices did not work, each with its reason."""
        good = self.method
        dropped = {(m.mode, m.chunk): why for m, why in zip(self._methods, reasons, strict=False)}
        candidates = list(self.plan.candidates)
        index = next(i for i, c in enumerate(candidates) if (c.mode, c.chunk) == (good.mode, good.chunk))
        chosen = replace(candidates.pop(index), reason="")
        rest = [replace(c, reason=dropped.get((c.mode, c.chunk), c.reason)) for c in candidates]
        notes = [f"{c.label} {c.reason} and was dropped" for c in rest if (c.mode, c.chunk) in dropped]
        self.plan = replace(
            self.plan, mode=chosen.mode, unit=chosen.unit, passes=chosen.passes, chunk=chosen.chunk,
            seconds=chosen.seconds, bytes=chosen.bytes, candidates=(chosen, *rest), notes=(*self.plan.notes, *notes),
        )  # fmt: skip

    def analyzed(self, call: Call, captured: Any, budget_seconds: float = 2.0) -> Plan:
        """The plan with measured columns: every usable candidate is run; the slow ones once."""
        self.run(call, captured)
        measured: dict[tuple[str, int | None], tuple[float, int | None]] = {}
        for method in self._methods:
            runner = self.runner if method is self.method else self.trace.build(method)

            def run(runner: Runner = runner) -> None:
                call.backend.block_until_ready(runner(call, captured))

            try:
                seconds = seconds_of(run, budget_seconds)
            except Exception:  # it was dropped for that, and the plan says so
                continue
            measured[method.mode, method.chunk] = (seconds, self.trace.temporary_bytes(method, call, captured))
        nothing = (None, None)
        candidates = [
            replace(c, measured=found[0], measured_bytes=found[1])
            for c in self.plan.candidates
            for found in [measured.get((c.mode, c.chunk), nothing)]
        ]
        return replace(self.plan, candidates=tuple(candidates))


def seconds_of(run: Callable[[], None], budget_seconds: float) -> float:
    """Median seconds of a few runs after one to warm up; a run that takes long is not repeated."""
    times: list[float] = []
    start = time.perf_counter()
    while True:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
        if len(times) > 20 or time.perf_counter() - start > budget_seconds / 4:
            break
    times = times[1:] or times
    return sorted(times)[len(times) // 2]


class Space:
    """What is kept of one function under one request: per signature, prepared traces, newest first; how they did."""

    __slots__ = ("hits", "kept", "traced")

    def __init__(self) -> None:
        self.kept: OrderedDict[Hashable, list[Prepared]] = OrderedDict()
        self.traced = self.hits = 0

    def at(self, signature: Hashable) -> list[Prepared]:
        """The traces at a signature; the oldest signature is forgotten when there are too many."""
        found = self.kept.get(signature)
        if found is None:
            found = self.kept[signature] = []
            if len(self.kept) > KEPT_SIGNATURES:
                self.kept.popitem(last=False)
        return found


_spaces: OrderedDict[Hashable, Space] = OrderedDict()


def clear_caches() -> None:
    """Forget every trace and plan that Crelle keeps, and free what they hold."""
    _spaces.clear()


def space_for(f: Callable[..., Any], key: Hashable) -> Space:
    """Where the traces of f are kept: by its code, so that a lambda made anew in a loop finds them again.

    Whether a trace is true for this very f is decided by :meth:`Trace.match`.
    """
    full = (_code_of(f), key)
    space = _spaces.get(full)
    if space is None:
        space = _spaces[full] = Space()
        if len(_spaces) > KEPT_FUNCTIONS:
            _spaces.popitem(last=False)
    else:
        _spaces.move_to_end(full)
    return space


def _code_of(f: Any) -> Hashable:
    """What stays the same when a function, method, partial or module is made anew."""
    if isinstance(f, types.FunctionType):
        return f.__code__
    if isinstance(f, types.MethodType):
        return type(f.__self__), _code_of(f.__func__)
    if isinstance(f, functools.partial):
        return "partial", _code_of(f.func)
    inner = getattr(f, "function", None) if type(f).__module__ == "crelle._transforms" else None
    if inner is not None:
        return f.request, f.request.selection.key, _code_of(inner)
    # an object that is called: two of a class have little in common; should an id come back, match() decides
    return type(f), id(f)


def prepared_for(call: Call, space: Space) -> tuple[Prepared, Any]:
    """A prepared plan that is true for f as it is now, and the values f captures now."""
    kept = space.at(call.signature)
    for i, prepared in enumerate(kept):
        captured = prepared.trace.match(call)
        if captured is not None:
            if i:
                kept.insert(0, kept.pop(i))
            space.hits += 1
            return prepared, captured
    if not call.abstract:
        space.traced += 1
    if space.traced > MAX_TRACES + space.hits // HITS_PER_TRACE and not call.abstract:
        why = f"f or its inputs changed in {MAX_TRACES} of the first calls: it is run anew each time"
        trace = call.backend.eager(call, why)
    else:
        trace = call.backend.trace(call)
    prepared = Prepared(call, trace)
    captured = trace.match(call)
    if captured is None:  # something that f reads changes by being looked at
        prepared = Prepared(call, call.backend.eager(call, "what f captures could not be pinned down"))
        captured = prepared.trace.match(call)
    if not call.abstract:  # what was traced under a transformation belongs to it and must not outlive it
        kept.insert(0, prepared)
        del kept[KEPT_TRACES:]
    return prepared, captured


def frozen(call: Call, prepared: Prepared, captured: Any, rebind: Callable[..., Call]) -> Plan:
    """The plan made callable: the same trace and captured values, whatever f does later."""
    signature, checks = call.signature, call.request.check
    planned = replace(call, args=(), kwargs={}, active=[], leaves=[], memo=None)  # a plan keeps no array of its call

    def run(*args: Any, **kwargs: Any) -> Any:
        now = rebind(args, kwargs)
        if now.signature != signature:
            raise mismatch(planned, now)
        if prepared.untried and checks and not prepared.trace.holds(now, captured):
            return prepared.runner(now, captured)  # f has changed since, and says nothing about this plan any more
        return prepared.run(now, captured)

    return replace(prepared.plan, _run=run)


def mismatch(planned: Call, now: Call) -> CrelleShapeError:
    """What is said of a plan that is called with other inputs."""
    lines = []
    for i, (name, expected) in enumerate(zip(planned.names, planned.inputs, strict=True)):
        got = now.inputs[i] if i < len(now.inputs) else None
        mark = "✅" if got is not None and got.fits(expected) else "❌"
        lines.append(f"{mark} {name}: planned {expected}, got {got if got is not None else 'nothing'}")
    if len(now.inputs) > len(planned.inputs):
        lines.append(f"❌ {len(now.inputs) - len(planned.inputs)} further arrays")
    if not any(line.startswith("❌") for line in lines):
        lines.append("❌ another argument, or a global setting, differs from the planned one")
    return CrelleShapeError(
        describe(
            f"{planned.text}: this plan was made for other inputs",
            called="\n".join(lines),
            expected=types_text(planned.inputs, planned.names),
            try_=f"make a plan for these inputs, or call crelle.{planned.request.kind}(f)(...), which plans by itself",
        )
    )
