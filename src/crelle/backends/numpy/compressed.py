"""Sparse derivatives of NumPy functions whose pattern is known: by differences, coloured, of the listed entries only.

Columns that share no row are moved in one evaluation, each with its own step (A. R. Curtis, M. J. D. Powell and J. K.
Reid, *IMA J. Appl. Math.* 13(1), 117-119, 1974). Second derivatives have no such groups, as f is one number: of a
Hessian each listed entry on or below the diagonal is computed alone. Steps and errors are those of dense results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from crelle.backends.numpy import answer, check, run, second, steps
from crelle.backends.numpy.function import BlackBox, Result
from crelle.backends.numpy.layouts import ColoredColumns
from crelle.backends.numpy.survey import Facts
from crelle.backends.numpy.trace import COMPLEX, FLOPS_PER_SECOND, NumpyTrace
from crelle.colorings import Coloring, color_columns
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import PassCost

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes of the numbers that are held for the entries of one block of colours, unless ``memory=`` asks for less.
BLOCK_BYTES = 2**28
#: Seeds of the random directions of the check.
SEEDS = (21, 22)


@dataclass(slots=True)
class Found:
    """Entries in CSR order in the precision that they were computed in, with their errors, and f(x)."""

    entries: Array
    errors: Array
    value: Array


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
        self._work: _Columns | _Pairs = _Pairs(target) if self.hessian else _Columns(target, coloring, whole)
        self.price = PassCost(flops=trace.facts.seconds * FLOPS_PER_SECOND)
        self.notes = tuple(trace.notes)
        self.blame = "the pattern that was passed"
        self._format = Format(call.request.format, target, call.inputs, self.outputs, call.text, call.request.part)
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
            if isinstance(work, _Pairs):
                return result, work.compute(box, facts, most, self.trace.guard)
            return result, work.compute(box, mode, facts, request.error, most, self.trace.guard)

        result, found = self.trace.attempt(call, self.mode, compute)
        self.trace.ran()
        self._found = found
        dtype = answer.layout_of(call, result).dtype
        with np.errstate(over="ignore"):  # the user's dtype may be narrower than what differences are made in
            entries, errors = found.entries.astype(dtype), found.errors.astype(np.zeros(0, dtype).real.dtype)

        if later and request.check and self.trace.match(call) is None:
            # f is not what it was: it may read what the pattern does not list, at this point
            self.check(call, captured, entries)

        def finish(matrix: Any) -> Any:
            shaped = [matrix, self._format(call.backend, errors)] if request.error else [matrix]
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
        if isinstance(work, _Pairs):
            w, v = work.directions(box, self._all)
            product, uncertain = work.product(found, w, v)
            slope, error, blame = *second.along(box, w, v), ""
        else:
            v, box.keep = work.direction(box)
            product, uncertain = work.product(found, v, box.keep)
            slope, error, blame = check.independent(box, v, call.request.holomorphic)
        return product, slope, error + uncertain, blame

    def _mistake(self, call: Call, box: BlackBox, row: int, report: CheckReport) -> str:
        """What is wrong, as far as it can be found out: the missing entry of a Jacobian by bisection."""
        called = types_text(call.inputs, call.names)
        if not self.hessian:
            row = row if box.keep is None else int(box.keep[row])
            column = _column_that_is_read(box, row, self._all.row(row))
            if column is not None:
                j, size = column
                return describe(
                    f"{call.text}: the pattern that was passed misses entries",
                    called=called,
                    expected=f"zero at [{row}, {j}], which is not in the pattern",
                    found=f"{size:.3g}: output entry {row} changes with {box.entry_name(j)}",
                    try_=f"a pattern with this entry, and others that may be missing; crelle.{call.request.kind}(f)(x) "
                    "without pattern= shows all",
                )
        return describe(
            f"{call.text}: the sparse result is wrong",
            called=called,
            expected=f"a random product equal to an independent {report.reference}",
            found=f"they differ by {report.error:.3g}, and the larger is {report.scale:.3g}",
            likely="the pattern that was passed misses entries" if self.hessian else report.blame,
            try_=f"a larger pattern, or crelle.{call.request.kind}(f)(x) without pattern=, to compare",
        )

    # -- the plan

    def candidates(self) -> tuple[Candidate, ...]:
        """What was chosen, and the others with their reasons; prices are measured evaluations."""
        trace, facts, (m, n) = self.trace, self.trace.facts, self._all.shape
        each = {mode: count for mode, (_, count) in trace.units.items()}
        options: dict[str, tuple[int, float, int]] = {}  # evaluations, price of each, entries
        if isinstance(self._work, _Pairs):
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


class _Columns:
    """Entries of a Jacobian, by columns in the order of their colours.

    Attributes:
        index: the columns that have entries; ``colors`` theirs.
        start, rows: where the entries of each begin, and their rows.
        order: for each entry its place in CSR order.
        whole: whether all entries of the matrix are wanted.
    """

    def __init__(self, target: SparsityPattern, coloring: Coloring | None, whole: bool) -> None:
        self.target, self.whole = target, whole
        present = np.flatnonzero(target.col_counts)
        colors = np.zeros(0, int) if coloring is None else np.asarray(coloring.column_colors)[present]
        by_color = np.argsort(colors, kind="stable")
        self.index, self.colors = present[by_color], colors[by_color]
        rank = np.zeros(target.shape[1], int)
        rank[self.index] = np.arange(len(self.index))
        self.order = np.argsort(rank[target.indices], kind="stable")
        self.rows = target.rows[self.order]
        self.start = np.append(0, np.cumsum(target.col_counts[self.index]))

    def compute(self, box: BlackBox, mode: str, facts: Facts, error: bool, most: int, guard: bool) -> Found:
        """The entries.

        Args:
            most: entries in a block, if that is at least one colour.
            guard: test that f is still analytic, where that is used.

        Raises:
            ChangedError: f is not what ``facts`` say.
        """
        box.begin_run(facts.batched)
        value = box.value
        found = Found(np.zeros(self.target.nnz, np.result_type(value, box.x)), np.zeros(self.target.nnz), value)
        if not self.target.nnz:
            return found
        linear = facts.linear and mode == "central"
        origin = run.at_zero(box) if linear else None
        for first, last in self._blocks(most):
            low, high = self.start[[first, last]]
            some = ColoredColumns(
                box, self.index[first:last], self.colors[first:last], self.start[first : last + 1] - low,
                self.rows[low:high],
            )  # fmt: skip
            entries, off = run.slopes(box, mode, some, origin, error)
            place = self.order[low:high]
            found.entries[place], found.errors[place] = entries, off
        if linear or (mode == "complex-step" and guard):
            self._prove(box, linear, found)
        return found

    def _prove(self, box: BlackBox, linear: bool, found: Found) -> None:
        """A product with the entries must be what f says."""
        v, box.keep = self.direction(box)
        box.begin_run(False)
        product, uncertain = self.product(found, v, box.keep)
        if linear:
            run.prove_linear(box, v, product, uncertain)
        else:
            run.prove_analytic(box, v, product)
        box.keep = None

    def _blocks(self, most: int) -> Iterator[tuple[int, int]]:
        """(first column, last + 1) of as many colours as fit."""
        ends = np.flatnonzero(np.diff(self.colors, append=-1)) + 1
        first = 0
        while first < len(self.index):
            fitting = ends[(ends > first) & (self.start[ends] - self.start[first] <= most)]
            last = int(fitting[-1] if len(fitting) else ends[ends > first][0])
            yield first, last
            first = last

    def direction(self, box: BlackBox) -> tuple[Array, Array | None]:
        """A random direction, and the outputs whose slopes along it the entries give: all, or those of one colour."""
        v = _random(box, SEEDS[0])
        if self.whole:
            return v, None
        columns = self.index[self.colors == self.colors[0]]
        only = np.zeros_like(v)
        only[columns] = v[columns]
        return only, np.sort(self.rows[: self.start[len(columns)]])

    def product(self, found: Found, v: Array, keep: Array | None) -> tuple[Array, Array]:
        """J v, or some of it, and what the errors of the entries allow it to be off."""
        import scipy.sparse as sp

        indices, indptr = self.target.indices, self.target.indptr
        with np.errstate(all="ignore"):
            product, off = (
                sp.csr_array((data, indices, indptr), shape=self.target.shape) @ by
                for data, by in ((found.entries, v), (found.errors, np.abs(v)))
            )
        return (product, off) if keep is None else (product[keep], off[keep])


class _Pairs:
    """Entries of a Hessian: of two mirrored ones the one with the larger row.

    Attributes:
        i, j: their rows and columns.
        which: for each wanted entry, in CSR order, which of these it is; ``first``, one wanted entry for each of them.
    """

    def __init__(self, target: SparsityPattern) -> None:
        n = max(1, target.shape[1])
        rows, cols = target.rows.astype(np.int64), target.indices.astype(np.int64)
        keys = np.maximum(rows, cols) * n + np.minimum(rows, cols)
        keys, self.first, self.which = np.unique(keys, return_index=True, return_inverse=True)
        self.i, self.j = keys // n, keys % n

    def compute(self, box: BlackBox, facts: Facts, most: int, guard: bool) -> Found:
        """The entries.

        Raises:
            ChangedError: f is not what ``facts`` say.
        """
        box.begin_run(facts.batched)
        count, value = len(self.i), box.value
        entries, errors = np.zeros(count, np.result_type(value, box.x)), np.zeros(count)
        if count and facts.linear:
            run.prove_affine(box, run.direction(box, 0, np.arange(box.n)))
        elif count:
            method: second.Analytic | second.Real = second.Analytic(box) if facts.analytic else second.Real(box)
            for start in range(0, count, most):
                some = slice(start, start + most)
                entries[some], errors[some] = method.entries(self.i[some], self.j[some])
            if guard:
                run.prove_gradient(box, method)
        return Found(entries[self.which], errors[self.which], value)

    def directions(self, box: BlackBox, pattern: SparsityPattern) -> tuple[Array, Array]:
        """w, v with a wᵀHv that the entries give: random ones where all are known, unit vectors where some are."""
        w, v = _random(box, SEEDS[0]), _random(box, SEEDS[1])
        lower = int(np.count_nonzero(pattern.rows >= pattern.indices))
        if len(self.i) == lower:
            return w, v
        one = int(np.random.default_rng(SEEDS[0]).integers(len(self.i)))
        entry = np.arange(box.n)
        return np.where(entry == self.i[one], w, 0.0), np.where(entry == self.j[one], v, 0.0)

    def product(self, found: Found, w: Array, v: Array) -> tuple[Array, Array]:
        """wᵀHv, and what the errors of the entries allow it to be off; each [1]."""
        i, j = self.i, self.j
        weight = w[i] * v[j] + np.where(i == j, 0.0, w[j] * v[i])
        with np.errstate(all="ignore"):
            product, off = weight @ found.entries[self.first], np.abs(weight) @ found.errors[self.first]
        return np.atleast_1d(product), np.atleast_1d(off)

    def evaluations(self, facts: Facts, n: int) -> int:
        """How many the entries take."""
        if facts.linear or not len(self.i):
            return 0
        diagonal = int(np.count_nonzero(self.i == self.j))
        indices = len(np.union1d(self.i, self.j))
        total = second.evaluations(len(self.i), indices, diagonal, facts.analytic)
        return total + (n if facts.analytic else 0)  # the gradient, which analytic second derivatives start from


def _random(box: BlackBox, seed: int) -> Array:
    """Multiples of the scales of x, exact to add to x, that are not those of the steps.

    A difference that mixes two columns, because the pattern misses an entry, is right along directions that move both
    as the steps did.
    """
    rng = np.random.default_rng(seed)
    return np.asarray(steps.exact_scales(box) * rng.integers(32, 128, box.n) * rng.choice([-1, 1], box.n) / 128)


def _column_that_is_read(box: BlackBox, row: int, listed: Array) -> tuple[int, float] | None:
    """A column that is not listed, on which an output depends, with the slope; found by bisection."""
    box.keep = np.array([row])
    v = _random(box, SEEDS[1])
    columns = np.setdiff1d(np.arange(box.n), listed)

    def slope(some: Array) -> float:
        only = np.zeros_like(v)
        only[some] = v[some]
        found, error = steps.along(box, only)
        return float(np.abs(found[0])) if np.abs(found[0]) > check.SLACK * error[0] else 0.0

    if not len(columns) or not slope(columns):
        return None
    while len(columns) > 1:
        half = columns[: len(columns) // 2]
        columns = half if slope(half) else columns[len(columns) // 2 :]
    j = int(columns[0])
    size = slope(columns) / float(np.abs(v[j]))
    return (j, size) if size else None


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
