"""A NumPy function at one signature: what was found of it, its prices, its runners, its check.

Nothing of f is recorded but these findings, and f is evaluated anew at every call, so an answer is never stale. The
findings themselves are tested at each run, at the price of one to six evaluations: where they no longer hold, that run
does without them, and the next call looks at f again.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from crelle import _trees
from crelle._arrays import ArrayType, seconds_text, total_size, types_text
from crelle._errors import CrelleCheckError, CrelleShapeError, CrelleTypeError, describe
from crelle.backends._protocol import Call, CheckReport, Method, Runner
from crelle.backends.numpy import answer, check, run, second, steps
from crelle.backends.numpy.answer import Layout, Wanted
from crelle.backends.numpy.function import BATCH_BYTES, BlackBox, ChangedError, Result
from crelle.backends.numpy.survey import Facts, survey
from crelle.backends.numpy.symmetric import Triangle
from crelle.tangent.cost import PassCost

#: The price of one evaluation is a measured time; ``Rates`` turns flops back into it.
FLOPS_PER_SECOND = 1e9
#: Price of an evaluation with complex numbers, in evaluations: products cost four times as much, much else twice.
COMPLEX = 2.0

T = TypeVar("T")
Compute: TypeAlias = Callable[[BlackBox, Result, str, Facts], T]
"""(f, f(x), mode, what is known of f) -> something: how a run goes on once f(x) is evaluated."""

_BLACK_BOX = "f is a NumPy function: a black box, without derivative rules"
_MODES = {
    "jacobian": ("forward", "reverse"),
    "gradient": ("forward", "reverse"),
    "hessian": ("forward-over-reverse", "reverse-over-forward", "reverse-over-reverse", "forward-over-forward"),
}


class NumpyTrace:
    """What is known of f at one signature, and the runners made from it."""

    outputs: tuple[ArrayType, ...]
    costs: Mapping[str, PassCost]
    unavailable: Mapping[str, str]
    units: Mapping[str, tuple[str, int]]
    loop_modes: tuple[str, ...] = ()

    def __init__(self, call: Call, cautious: str = "") -> None:
        request = self.request = call.request
        self._changed = False
        self._ran = False
        box = BlackBox.of(call)
        result = box.evaluate_base(guard_inputs=True)
        _verify(call, result)
        self.outputs, self._tree, self._kinds = result.types, result.tree, result.kinds
        self.facts = Facts(not_analytic="there is nothing to differentiate")
        hessian = request.kind == "hessian"
        forced = request.mode == "complex-step"
        if box.n and box.m:
            self.facts = survey(box, linear=not forced and not cautious, analytic=forced or not cautious)
            if cautious:
                self.facts = replace(self.facts, batched=False, linear=False)
        self.unavailable = dict.fromkeys(_MODES[request.kind], _BLACK_BOX)
        self._shape = _shape_of(call, result)
        wanted = self._shape[1]
        self.units, self.costs = self._price(box, wanted, hessian)
        if not hessian and not self.facts.analytic:
            self.unavailable = {"complex-step": self.facts.not_analytic, **self.unavailable}
        self.notes = self._notes(hessian, cautious)
        self._uncertain: Any = None
        self._value: Any = None

    def _price(
        self, box: BlackBox, wanted: Wanted, hessian: bool
    ) -> tuple[dict[str, tuple[str, int]], dict[str, PassCost]]:
        """Evaluations for each seed, and what they cost."""
        facts = self.facts
        # in the order of preference, should their prices be the same
        counts = {"complex-step": (2 if self.request.error else 1, COMPLEX)} if facts.analytic and not hessian else {}
        counts["central"] = (1 if facts.linear else steps.EVALUATIONS, 1.0)
        entries = len(wanted.rows)
        if hessian:
            triangle = Triangle(wanted)
            total = second.evaluations(triangle.pairs, triangle.indices, triangle.diagonal, facts.analytic)
            seeds = max(1, min(len(wanted.rows), len(wanted.cols)))
            counts["central"] = (0 if facts.linear else math.ceil(total / seeds), COMPLEX if facts.analytic else 1.0)
            entries = len(wanted.cols)
        block = entries * run.PER_ENTRY * 8.0
        seeds = max(1, len(wanted.cols))
        one_call = float(16 * (box.n + box.base_size))
        all_calls = one_call * seeds * max(count for count, _ in counts.values())
        costs = {
            mode: PassCost(
                flops=count * weight * facts.seconds * FLOPS_PER_SECOND,
                peak_bytes=max(min(block, self.block_bytes / seeds), block / seeds),
                residual_bytes=max(min(self._batch_bytes, all_calls), one_call) if facts.batched else one_call,
            )
            for mode, (count, weight) in counts.items()
        }
        return {mode: ("evaluation", count) for mode, (count, _) in counts.items()}, costs

    @property
    def _batch_bytes(self) -> float:
        """Bytes of the points and values of one batch."""
        memory = self.request.memory
        return min(BATCH_BYTES, memory / 8) if memory else BATCH_BYTES

    @property
    def block_bytes(self) -> float:
        """Bytes of one block of columns before they are written."""
        memory = self.request.memory
        return min(run.BLOCK_BYTES, memory / 4) if memory else run.BLOCK_BYTES

    def _notes(self, hessian: bool, cautious: str) -> list[str]:
        facts = self.facts
        if cautious:
            return [cautious]
        if not facts.seconds:
            return []
        notes = []
        if facts.linear:
            text = "all second derivatives are 0" if hessian else "exact, by unit differences to rounding"
            notes.append(f"f is linear: {text}")
        elif facts.analytic and hessian:
            notes.append("f is analytic: differences of complex steps")
        elif not facts.analytic and not hessian:
            notes.append("f does not admit complex steps: differences, with an estimated error (error=True)")
        if facts.coarse is not None:
            digits = -math.log10(float(facts.coarse.max()))
            notes.append(f"f computes with {digits:.0f} digits inside: it is differentiated with longer steps")
        how = "f takes batches of points" if facts.batched else "f takes one point at a time"
        notes.append(f"{how}; one took {seconds_text(facts.seconds)}, the prices are evaluations times that")
        return notes

    # -- what the protocol asks for

    def ways(self, call: Call) -> None:
        """A black box shows no pattern."""

    def match(self, call: Call) -> Any | None:
        """Nothing is captured: f is evaluated at each call. No match where a run found f to be changed."""
        return None if self._changed else ()

    def holds(self, call: Call, captured: Any) -> bool:
        """A black box is evaluated, not frozen."""
        return True

    def build(self, method: Method) -> Runner:
        """A runner by differences or complex steps."""

        def runner(call: Call, captured: Any) -> Any:
            return self.attempt(
                call,
                method.mode,
                lambda box, result, mode, facts: self._run(call, box, result, mode, method.chunk, facts),
            )

        return runner

    def attempt(self, call: Call, mode: str, compute: Compute[T]) -> T:
        """What is computed with the findings; without them where f is found to be no longer what they say."""
        box = BlackBox.of(call)
        result = box.evaluate_base()
        facts = self.facts
        try:
            if result.kinds != self._kinds or result.tree != self._tree:
                _verify(call, result)
                now, before = types_text(result.types), types_text(self.outputs)
                raise ChangedError(f"f now returns {now}, and returned {before} before")
            box.batch_bytes, box.coarse = int(self._batch_bytes), facts.coarse
            return compute(box, result, mode, facts)
        except ChangedError as changed:
            self._changed = True
            if self.request.mode == "complex-step":
                raise CrelleCheckError(
                    describe(
                        f"{call.text}: mode='complex-step' gives a wrong derivative here",
                        called=types_text(call.inputs, call.names),
                        likely=str(changed),
                        try_="leave mode= out: differences are taken where complex steps fail",
                    )
                ) from None
            box = BlackBox.of(call)
            result = box.evaluate_base()
            box.batch_bytes = int(self._batch_bytes)
            return compute(box, result, "central", Facts(seconds=facts.seconds))

    @property
    def guard(self) -> bool:
        """Whether a run compares complex steps with differences; on the first one the check does."""
        return self._ran or not self.request.check

    def ran(self) -> None:
        """To be said after each run."""
        self._ran = True

    def _run(self, call: Call, box: BlackBox, result: Result, mode: str, chunk: int | None, facts: Facts) -> Any:
        request = self.request
        layout, wanted = self._shape if result.kinds == self._kinds else _shape_of(call, result)
        self._value = box.value
        hessian = request.kind == "hessian"
        size = max(1, len(wanted.cols if hessian else wanted.rows))
        fits = max(1, int(self.block_bytes // (8 * run.PER_ENTRY * size)))
        width = min(fits, chunk) if chunk else fits
        arguments = (facts, wanted, layout.dtype, request.error, width, self.guard)
        computed = run.hessian(box, *arguments) if hessian else run.jacobian(box, mode, *arguments)
        self.ran()
        self._uncertain = computed.uncertain
        parts = [computed.matrix] if computed.error is None else [computed.matrix, computed.error]
        return answer.assemble(call, result, layout, parts)

    def check(self, call: Call, captured: Any, given: Any, method: Method) -> CheckReport:
        """One product of the answer against a difference along a random direction, with other steps."""
        return check.report(call, given, self._value, self._uncertain, self.facts.coarse)

    def temporary_bytes(self, method: Method, call: Call, captured: Any) -> int | None:
        """The largest sum of what NumPy and f allocate during one run, less the answer."""
        runner = self.build(method)
        running = tracemalloc.is_tracing()
        if not running:
            tracemalloc.start()
        try:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            given = runner(call, captured)
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            if not running:
                tracemalloc.stop()
        arrays = [leaf for leaf in _trees.flatten(given)[0] if isinstance(leaf, np.ndarray)]
        return max(0, peak - sum(leaf.nbytes for leaf in arrays))


def _shape_of(call: Call, result: Result) -> tuple[Layout, Wanted]:
    """The shape of the answer, and the part of it that is wanted."""
    layout = answer.layout_of(call, result)
    m, n = total_size(layout.outer), total_size(layout.inner)
    return layout, Wanted(call.request.selection.resolve(m, n), m, n)


def _verify(call: Call, result: Result) -> None:
    """Complaints about what f returned that depend on what was asked for."""
    request, types = call.request, result.types
    called = f"{types_text(call.inputs, call.names)} -> {types_text(types)}"
    if request.kind in ("hessian", "gradient") and (len(types) != 1 or types[0].shape != ()):
        raise CrelleShapeError(
            describe(
                f"{call.text}: f must return a scalar, and returned {types_text(types)}",
                called=types_text(call.inputs, call.names),
                expected="one array of shape []",
                likely="a missing sum or mean, or an axis of length 1",
                try_="f(x).sum(), f(x)[0], or crelle.jacobian for a function with several outputs",
            )
        )
    complex_in = any(t.is_complex for t in call.inputs)
    complex_out = any(t.is_complex for t in types)
    if request.holomorphic and not all(t.is_complex for t in (*call.inputs, *types)):
        raise CrelleTypeError(
            describe(
                f"{call.text}: holomorphic=True is for complex inputs and complex outputs",
                called=called,
                try_="leave holomorphic= out, or make input and output complex",
            )
        )
    if complex_in and not request.holomorphic:
        raise CrelleTypeError(
            describe(
                f"{call.text}: a function of complex numbers has one derivative only if it is holomorphic",
                called=called,
                try_="holomorphic=True if it is; otherwise make real and imaginary part two real arguments",
            )
        )
    if complex_out and not complex_in and request.kind != "jacobian":
        raise CrelleTypeError(
            describe(
                f"{call.text}: f must return a real number, and returned {types_text(types)}",
                called=called,
                try_="its real part or its absolute value, or crelle.jacobian",
            )
        )
