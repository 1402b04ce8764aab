"""Sparse derivatives of NumPy functions whose pattern is known: by differences, coloured, of the listed entries only.

Columns that share no row are moved in one evaluation, each with its own step (A. R. Curtis, M. J. D. Powell and J. K.
Reid, *IMA J. Appl. Math.* 13(1), 117-119, 1974). Second derivatives have no such groups, as f is one number: of a
Hessian each listed entry on or below the diagonal is computed alone. Steps and errors are those of dense results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from crelle import _check
from crelle._arrays import total_size, types_text
from crelle._compressed import Ways
from crelle._errors import CrelleCheckError, CrelleTypeError, CrelleValueError, describe
from crelle._formats import Format
from crelle._parts import wanted
from crelle._patterns import given_pattern
from crelle._plan import Candidate
from crelle.backends._protocol import Call, CheckReport, Method
from crelle.backends.numpy import answer, check, run, second
from crelle.backends.numpy.entries import ColumnEntries, Found, PairEntries
from crelle.backends.numpy.function import BlackBox, Result
from crelle.backends.numpy.missing import missing_column, missing_pair
from crelle.backends.numpy.survey import Facts
from crelle.backends.numpy.trace import COMPLEX, FLOPS_PER_SECOND, NumpyTrace
from crelle.colorings import color_columns
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import PassCost

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes of the numbers that are held for the entries of one block of colours, unless ``memory=`` asks for less.
BLOCK_BYTES = 2**28


class NumpyCompressed:
    """One function at one signature, with the pattern that the user gave."""

    def __init__(self, call: Call, given: SparsityPattern | None) -> None:
        if given is None:
            raise _no_pattern(call)
        trace = self.trace = NumpyTrace(call)
        self.f_outputs = trace.outputs
        self.hessian = call.request.kind == "hessian"
        self.outputs = call.inputs if self.hessian else self.f_outputs
        self.mode = _mode(call, trace)
        pattern = given_pattern(call, given, total_size(self.outputs))
        self._all = pattern = pattern | pattern.T if self.hessian else pattern
        target, whole = _target(call, pattern)
        coloring = None
        if target.nnz and not self.hessian:
            coloring = color_columns(pattern, wanted=None if whole else target)
        none = np.zeros(0, np.int32)
        self.ways = Ways(target, coloring, none, None, np.ones(target.nnz, bool), whole)
        self._work: ColumnEntries | PairEntries = (
            PairEntries(target) if self.hessian else ColumnEntries(target, coloring, whole)
        )
        self.price = PassCost(flops=trace.facts.seconds * FLOPS_PER_SECOND)
        self.notes = tuple(trace.notes)
        self.blame = "the pattern that was passed"
        self._format = Format(
            call.request.format, target, call.inputs, self.outputs, call.text, call.request.part, call.request.flat
        )
        self._found = Found(np.zeros(0), np.zeros(0), np.zeros(0))

    def match(self, call: Call) -> Any | None:
        """Nothing is captured: f is evaluated at each call. No match where a run found f to be changed."""
        return self.trace.match(call)

    def values(self, call: Call, captured: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The entries in CSR order, and what puts the matrix, and its errors, into the user's answer."""
        request, later = call.request, self.trace.guard

        def compute(box: BlackBox, result: Result, mode: str, facts: Facts) -> tuple[Result, Found]:
            if result.types != self.f_outputs:
                given_pattern(call, self._all, total_size(call.inputs if self.hessian else result.types))
            limit = self.trace.block_bytes if request.memory else BLOCK_BYTES
            most = max(1, int(limit // (8 * run.PER_ENTRY)))
            work = self._work
            if isinstance(work, PairEntries):
                return result, work.compute(box, facts, most, self.trace.guard)
            return result, work.compute(box, mode, facts, request.error, most, self.trace.guard)

        result, found = self.trace.attempt(call, self.mode, compute)
        self.trace.ran()
        self._found = found
        layout = answer.layout_of(call, result)
        dtype = layout.dtype
        with np.errstate(over="ignore"):  # the user's dtype may be narrower than what differences are made in
            entries, errors = found.entries.astype(dtype), found.errors.astype(np.zeros(0, dtype).real.dtype)

        if later and request.check and self.trace.match(call) is None:
            # f is not what it was: it may read what the pattern does not list, at this point
            self.check(call, captured, entries)

        def finish(matrix: Any) -> Any:
            shaped = [matrix, self._format(call.backend, errors)] if request.error else [matrix]
            if not request.flat:
                shaped = [layout.tree(blocks) for blocks in shaped]
            return answer.beside(request, result, shaped)

        return entries, finish

    # -- the check

    def check(self, call: Call, captured: Any, entries: Any) -> str:
        """Compare a product of the entries with differences along a random direction, with other steps.

        Returns:
            The outcome in words.

        Raises:
            CrelleCheckError: they differ: the pattern misses entries, or f is not what it seems.
        """
        box = BlackBox.of(call)
        box.coarse = self.trace.facts.coarse
        box.evaluate_base()
        pattern, found = self.ways.pattern, self._found
        nonfinite = _nonfinite(pattern, entries)
        row = -1
        if not np.array_equal(box.value, found.value, equal_nan=True):
            report = CheckReport(0.0, 0.0, "", nonfinite, deterministic=False)
        elif not pattern.nnz and (not self.ways.whole or not all(self._all.shape)):
            report = CheckReport(0.0, 0.0, "nothing: there are no entries", nonfinite)
        else:
            product, slope, allowed, blame = self._compared(call, box)
            report = check.worst(product, slope, allowed, nonfinite, blame)
            ratio = check.excess(product, slope, allowed)
            row = int(np.argmax(np.where(np.isfinite(ratio), ratio, -1.0)))
        method = Method(self.mode, "cols", None, call.request.selection.resolve(*self._all.shape))
        verdict, wrong = _check.judge(call, self.trace, method, report, "")
        if wrong:
            raise CrelleCheckError(self._mistake(call, box, row, report))
        return verdict

    def _compared(self, call: Call, box: BlackBox) -> tuple[Array, Array, Array, str]:
        """(product, what it should be, what it may be off, what is wrong with f)."""
        work, found = self._work, self._found
        if isinstance(work, PairEntries):
            pairs = work.directions(box, self._all)
            found_each = [(*work.product(found, w, v), *second.along(box, w, v)) for w, v in pairs]
            product, uncertain, slope, error = (np.concatenate(each) for each in zip(*found_each, strict=True))
            return product, slope, error + uncertain + work.noise(box, found), ""
        v, box.keep = work.direction(box)
        product, uncertain = work.product(found, v, box.keep)
        slope, error, blame = check.independent(box, v, call.request.holomorphic)
        return product, slope, error + uncertain, blame

    def _mistake(self, call: Call, box: BlackBox, row: int, report: CheckReport) -> str:
        """What is wrong, and which entry is missing if one can be found."""
        called = types_text(call.inputs, call.names)
        work = self._work
        if isinstance(work, PairEntries):
            missing = missing_pair(box, work, self._found, *work.directions(box, self._all)[row])
        else:
            row = row if box.keep is None else int(box.keep[row])
            missing = missing_column(box, row, self._all.row(row))
        without = f"crelle.{call.request.kind}(f)(x) without pattern="
        if missing is None:
            return describe(
                f"{call.text}: the sparse result is wrong",
                called=called,
                expected=f"a random product equal to an independent {report.reference}",
                found=f"they differ by {report.error:.3g}, and the larger is {report.scale:.3g}",
                likely=report.blame,
                try_=f"{without}, to compare",
            )
        i, j, size = missing
        what = f"∂f[{i}]/∂{box.entry_name(j)}"
        if self.hessian:
            what = f"∂²f/∂{box.entry_name(i)}∂{box.entry_name(j)}"
        return describe(
            f"{call.text}: the pattern that was passed misses entries",
            called=called,
            expected=f"zero at [{i}, {j}], which is not in the pattern",
            found=f"{what} = {size:.3g}",
            try_=f"a pattern with this entry, and others that may be missing; {without} shows all",
        )

    # -- the plan

    def candidates(self) -> tuple[Candidate, ...]:
        """What was chosen, and the others with their reasons; prices are measured evaluations."""
        trace, facts, (m, n) = self.trace, self.trace.facts, self._all.shape
        each = {mode: count for mode, (_, count) in trace.units.items()}
        options: dict[str, tuple[int, float, int]] = {}  # evaluations, price of each, entries
        if isinstance(self._work, PairEntries):
            price = COMPLEX if facts.analytic else 1.0
            first = "differences, listed entries"
            options[first] = self._work.evaluations(facts, n), price, self.ways.pattern.nnz
            options["central"] = each["central"] * n, price, m * n
        else:
            first = f"coloured columns, {self.mode}"
            for prefix, seeds, entries in (
                ("coloured columns, ", self.ways.passes, self.ways.pattern.nnz),
                ("", n, m * n),
            ):
                for mode, count in each.items():
                    options[prefix + mode] = count * seeds, COMPLEX if mode == "complex-step" else 1.0, entries
        base = options[first][0] * options[first][1]
        found = []
        for name, (count, price, entries) in options.items():
            reason = f"{count * price / base if base else 1.0:.3g}×"
            reason += "" if " " in name else f"; format={trace.request.format!r} was asked for"
            size, seconds = 8 * run.PER_ENTRY * entries, count * price * facts.seconds
            found.append(Candidate(name, "evaluation", count, None, seconds, size, "" if name == first else reason))
        found.sort(key=lambda c: c.mode != first)
        return *found, *(Candidate(mode, "", -1, None, np.inf, 0, why) for mode, why in trace.unavailable.items())


def _nonfinite(pattern: SparsityPattern, entries: Array) -> str:
    """Which entry is NaN or infinite; empty if none is."""
    bad = np.flatnonzero(~np.isfinite(entries))
    if not len(bad):
        return ""
    where = f"[{pattern.rows[bad[0]]}, {pattern.indices[bad[0]]}]"
    more = f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
    return f"derivative {where} is {entries[bad[0]]}{more}"


def _target(call: Call, pattern: SparsityPattern) -> tuple[SparsityPattern, bool]:
    """The entries that are wanted, and whether these are all."""
    if call.request.part is None:
        return pattern, True
    keep = wanted(call.request.part, pattern, call.text)
    if keep.all():
        return pattern, True
    return SparsityPattern.from_triplets(pattern.rows[keep], pattern.indices[keep], pattern.shape), False


def _mode(call: Call, trace: NumpyTrace) -> str:
    """``complex-step`` where it is exact, differences elsewhere, or what was asked for.

    Raises:
        CrelleValueError: it cannot be used here.
    """
    mode = call.request.mode
    if mode == "auto":
        return "complex-step" if trace.facts.analytic and call.request.kind != "hessian" else "central"
    if mode not in trace.units:
        raise CrelleValueError(
            describe(
                f"{call.text}: mode={mode!r} cannot be used here",
                called=types_text(call.inputs, call.names),
                likely=trace.unavailable[mode],
                try_=f"one of {', '.join(map(repr, trace.units))}, or leave mode= out",
            )
        )
    return mode


def _no_pattern(call: Call) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f"{call.text}: format={call.request.format!r} needs to know which entries may be nonzero, and a NumPy "
            "function does not show it",
            called=types_text(call.inputs, call.names),
            likely="f is a black box: it is evaluated, not traced, and entries that are zero at some points may be "
            "nonzero at others",
            try_="pattern= if you know them: a matrix with their places, or crelle.SparsityPattern; or write f in JAX "
            'or PyTorch, where they are found; or format="dense"',
        )
    )
