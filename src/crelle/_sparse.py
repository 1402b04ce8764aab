"""Sparse results: prepared once for a function at a signature, checked on the first run, reused while f is the same."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crelle import _check
from crelle._arrays import total_size, types_text
from crelle._compressed import Ways
from crelle._errors import CrelleCheckError, CrelleTypeError, describe
from crelle._formats import Format
from crelle._patterns import product_of
from crelle._plan import Candidate, Plan
from crelle._prepare import Space, mismatch, seconds_of
from crelle.backends._protocol import Call, Compressed
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import pass_seconds
from crelle.tangent.structure import find_structure
from crelle.tangent.structure.result import percent


@runtime_checkable
class Estimated(Protocol):
    """A :class:`Compressed` whose entries are estimates: it knows their errors, and what it costs to evaluate f."""

    def check(self, call: Call, captured: Any, entries: Any) -> str:
        """Compare the entries with an independent product. The outcome in words; CrelleCheckError if they are wrong."""
        ...

    def candidates(self) -> tuple[Candidate, ...]:
        """What is run, and what was rejected, with prices."""
        ...


#: Time that measuring a plan may take.
ANALYZE_SECONDS = 2.0


class Sparse:
    """One function at one signature: what computes its entries, and what they are handed over as."""

    def __init__(self, call: Call, given: SparsityPattern | None) -> None:
        self.compressed: Compressed = call.backend.compressed(call, given)
        ways, outputs = self.compressed.ways, self.compressed.outputs
        request = call.request
        self.format = Format(request.format, ways.pattern, call.inputs, outputs, call.text, request.part, request.flat)
        self.untried, self.checked = True, ""

    def answer(self, call: Call, captured: Any) -> Any:
        """The result in the format that was asked for."""
        data, finish = self.entries(call, captured)
        return finish(self.format(call.backend, data))

    def entries(self, call: Call, captured: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The entries of ``compressed.ways.pattern`` in CSR order, and what puts an answer made of them beside value
        and aux; on the first run with values also the check.
        """
        data, finish = self.compressed.values(call, captured)
        if self.untried and not call.abstract:
            if call.request.check:
                if isinstance(self.compressed, Estimated):
                    self.checked = self.compressed.check(call, captured, data)
                else:
                    self._check(call, data)
            self.untried = False
        return data, finish

    def _check(self, call: Call, data: Any) -> None:
        """Compare a product of the result with an independent one.

        Raises:
            CrelleCheckError: they differ.
        """
        values = np.asarray(call.backend.to_host(data))
        found = self._product(call, values)
        if found is None:
            self.checked = "no: neither a JVP nor a VJP could be run"
            return
        mine, theirs, what, reference = found
        scale = float(np.abs(theirs).max(initial=0.0))
        error = float(np.abs(mine - theirs).max(initial=0.0))
        kinds = [t for t in (*call.inputs, *self.compressed.outputs) if t.is_float or t.is_complex]
        epsilon = max((t.epsilon for t in kinds), default=2.0**-52)
        tolerance = min(_check.TOLERANCE * epsilon**0.5, _check.COARSEST)
        relative = error / scale if scale else error
        if np.isfinite(relative) and relative > tolerance and error > _check.ROUNDING * epsilon:
            raise CrelleCheckError(
                describe(
                    f"{call.text}: the sparse result is wrong",
                    called=types_text(call.inputs, call.names),
                    expected=f"{what} within {tolerance:.0e} of an independent {reference}; "
                    f"it is off by {relative:.0e}",
                    likely=self.compressed.blame or "an operation whose derivative is not linear, or not what it says",
                    try_='format="dense", or pattern= if the pattern is what is wrong',
                )
            )
        self.checked = f"1 {what.removeprefix('a ')} against an independent {reference}, relative error {relative:.0e}"

    def _product(self, call: Call, values: Any) -> tuple[Any, Any, str, str] | None:
        """(ours, theirs, what of, how theirs was found): a random product, or a row or column where only a part of the
        matrix is computed.
        """
        ways, rng = self.compressed.ways, np.random.default_rng(0)
        pattern = ways.pattern
        matrix = pattern._as_scipy().astype(values.dtype)
        matrix.data = values
        for reverse in (True, False) if not ways.whole else (False, True):
            size = total_size(self.compressed.outputs if reverse else call.inputs)
            vector, at = rng.standard_normal(size), None
            if not ways.whole:  # what is not computed takes part in a product, except in one of a unit vector
                lines = np.flatnonzero(pattern.row_counts if reverse else pattern.col_counts)
                if not len(lines):
                    return np.zeros(0), np.zeros(0), "a part without entries", "look at it"
                at = int(rng.choice(lines))
                vector = (np.arange(size) == at).astype(float)
            try:
                theirs = product_of(call, vector, reverse, self.compressed.outputs)
            except Exception:  # no rule in this direction
                continue
            reference = "HVP" if call.request.kind == "hessian" else "VJP" if reverse else "JVP"
            if at is None:
                return (vector @ matrix if reverse else matrix @ vector), theirs, "a random product", reference
            line = matrix[[at]] if reverse else matrix[:, [at]].T
            line = line.tocoo()
            return line.data, theirs[line.coords[1]], f"a {'row' if reverse else 'column'}", reference
        return None

    def _candidates(self, call: Call) -> tuple[Candidate, ...]:
        """The coloured products, and the dense modes."""
        compressed, ways = self.compressed, self.compressed.ways
        if isinstance(compressed, Estimated):
            return compressed.candidates()
        rates, price = call.backend.rates(call.inputs[0].device if call.inputs else ""), compressed.price
        n, m = total_size(call.inputs), total_size(compressed.outputs)
        hessian = call.request.kind == "hessian"
        size = max(t.itemsize for t in compressed.outputs) if compressed.outputs else 8

        def candidate(mode: str, unit: str, passes: int, reason: str = "") -> Candidate:
            seconds = pass_seconds(price, rates, passes, 1)
            other = n if unit == "VJP" else m
            return Candidate(mode, unit, passes, None, seconds, int(passes * (price.peak_bytes + other * size)), reason)

        chosen = candidate(_name(ways, hessian), "HVP" if hessian else _unit(ways), ways.passes)
        dense = [("forward-over-reverse", "HVP", n)] if hessian else [("forward", "JVP", n), ("reverse", "VJP", m)]
        others = []
        for mode, each, passes in dense:
            more = candidate(mode, each, passes)
            ratio = more.seconds / chosen.seconds if chosen.seconds else 1.0
            others.append(replace(more, reason=f"{ratio:.3g}×; format={call.request.format!r} was asked for"))
        return chosen, *others

    def frozen(self, call: Call, captured: Any, rebind: Callable[..., Call], analyze: bool) -> Plan:
        """The plan made callable: the same products and captured values, whatever f does later."""
        plan, signature = self.plan(call), call.signature
        if analyze:
            answer = lambda: call.backend.block_until_ready(self.entries(call, captured)[0])
            chosen, *others = plan.candidates
            measured = replace(chosen, measured=seconds_of(answer, ANALYZE_SECONDS))
            plan = replace(plan, candidates=(measured, *others), checked=self.checked)
        planned = replace(
            call, args=(), kwargs={}, active=[], leaves=[], memo=None
        )  # a plan keeps no array of its call

        def run(*args: Any, **kwargs: Any) -> Any:
            now = rebind(args, kwargs)
            if now.signature != signature:
                raise mismatch(planned, now)
            return self.answer(now, captured)

        return replace(plan, _run=run)

    def plan(self, call: Call) -> Plan:
        """What will be run, against the dense modes."""
        compressed, ways = self.compressed, self.compressed.ways
        device = call.inputs[0].device if call.inputs else ""
        hessian = call.request.kind == "hessian"
        chosen, *others = self._candidates(call)
        notes = [*ways.notes, *compressed.notes]
        if ways.constant is not None:
            share = 1 - ways.varies.mean()
            same = f"{percent(share)} of the entries are" if share else "a part of the entries' values is"
            notes.append(
                f"{same} the same for every input: computed once, with {ways.constant.passes} "
                f"product{'s' if ways.constant.passes > 1 else ''}"
            )
        inputs, names = call.inputs, call.names  # not the call, which holds arrays

        @functools.cache
        def structure() -> tuple[str, ...]:
            if not ways.whole:
                return ()
            return (
                find_structure(ways.pattern, inputs, compressed.outputs, input_names=names, symmetric=hessian).sentence,
            )

        return Plan(
            kind=call.request.kind, function=call.name, inputs=call.inputs, outputs=compressed.f_outputs,
            input_names=call.names, backend=call.backend.name, version=call.backend.version, device=device,
            mode=chosen.mode, unit=chosen.unit, passes=chosen.passes, chunk=None, seconds=chosen.seconds,
            bytes=chosen.bytes, memory=None, candidates=(chosen, *others),
            result=f"{call.request.format}, {ways.pattern!r}",
            notes=tuple(notes), checked=self.checked, _structure=structure,
        )  # fmt: skip


def _unit(ways: Ways) -> str:
    if ways.coloring is None or ways.coloring.kind == "columns":
        return "JVP"
    return "VJP" if ways.coloring.kind == "rows" else "product"


def _name(ways: Ways, hessian: bool) -> str:
    if ways.coloring is None:
        return "constant: nothing is run"
    names = {"columns": "coloured columns", "rows": "coloured rows", "both": "coloured columns and rows"}
    return "coloured symmetric" if hessian else names[ways.coloring.kind]


def sparse_for(call: Call, space: Space, given: SparsityPattern | None) -> tuple[Sparse, Any]:
    """What is prepared for f as it is now, and the values that f captures now."""
    key: Hashable = ("sparse", given, call.request.format, call.request.part, call.signature)
    kept: list[Any] = space.at(key)
    for sparse in kept:
        captured = sparse.compressed.match(call)
        if captured is not None:
            return sparse, captured
    sparse = Sparse(call, given)
    captured = sparse.compressed.match(call)
    if captured is None:
        raise CrelleTypeError(
            describe(
                f"{call.text}: f changes while it is looked at, so that its pattern cannot be relied on",
                called=types_text(call.inputs, call.names),
                try_='format="dense"',
            )
        )
    if not call.abstract:
        kept.insert(0, sparse)
        del kept[4:]
    return sparse, captured
