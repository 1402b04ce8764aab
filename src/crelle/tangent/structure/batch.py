"""Batch axes: axes of inputs and outputs along which a function treats every index alone, found from the pattern.

The matrix of such a function is block-diagonal up to the order of rows and columns. Each axis, and each way to read an
axis as several (a flattened output), gives every row or column a coordinate; an axis of an input and one of an output
belong together if the two coordinates agree at every entry. Pairs are weeded out on a sample of the entries; those
that are left are compared at all entries, and an entry that disagrees joins the sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from crelle.tangent.structure.blocks import Blocks
from crelle.tangent.structure.pattern import Entries, Ints

#: Entries of a pair of arrays that candidates are weeded out on.
SAMPLE = 256
#: Rounds of comparison with all entries; each that finds a disagreement removes at least one candidate.
ROUNDS = 100

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class AxisPart:
    """An axis of one array, or one factor of an axis that is read as several: ``coordinate // inner % size``.

    Attributes:
        leaf: which array, counted among the inputs or the outputs.
        axis, length: which of its axes, and how long it is.
        size, inner: length of the factor, and of what is inside it; ``size == length`` for the axis as it is.
        stride: distance of neighbours along it in the raveled array.
    """

    leaf: int
    axis: int
    length: int
    size: int
    inner: int
    stride: int

    @property
    def whole(self) -> bool:
        """Whether it is the axis itself."""
        return self.size == self.length

    def coordinate(self, places: Ints) -> Ints:
        """The coordinate of raveled places of the array."""
        return places // self.stride % self.size

    def describe(self, name: str) -> str:
        """``axis 0 of x``; ``axis 0 of x, read as 128×16, part 0`` for a factor.

        >>> AxisPart(0, 1, 2048, 128, 16, 16).describe("y")
        'axis 1 of y (read as 128×16, part 0)'
        """
        text = f"axis {self.axis} of {name}" if name else f"axis {self.axis}"
        if self.whole:
            return text
        factors = [f for f in (self.length // self.size // self.inner, self.size, self.inner) if f > 1]
        part = 1 if self.length > self.size * self.inner else 0
        return f"{text} (read as {'×'.join(map(str, factors))}, part {part})"


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """One batch: ``size`` independent copies, and where its index runs in each array.

    Attributes:
        size: number of copies.
        inputs, outputs: the axis in each input and output; ``None`` for arrays that have no entry, or that all copies
            share.
        complete: no array is shared: the whole matrix is block-diagonal, not only the columns and rows of the arrays
            that have the axis.
    """

    size: int
    inputs: tuple[AxisPart | None, ...]
    outputs: tuple[AxisPart | None, ...]
    complete: bool

    @property
    def splits(self) -> int:
        """How many of its axes are factors of an axis."""
        return sum(part is not None and not part.whole for part in (*self.inputs, *self.outputs))

    @property
    def plain(self) -> bool:
        """Whether it is an axis of an input or output as it is, not only factors of axes."""
        return any(part is not None and part.whole for part in (*self.inputs, *self.outputs))

    def where(self, input_names: Sequence[str], output_names: Sequence[str]) -> str:
        """``axis 0 of x → axis 0 of the output``."""
        sides = (self._side(self.inputs, input_names), self._side(self.outputs, output_names))
        return " → ".join(sides)

    @staticmethod
    def _side(parts: tuple[AxisPart | None, ...], names: Sequence[str]) -> str:
        present = [part for part in parts if part is not None]
        texts = [part.describe(names[part.leaf]) for part in present[:3]]
        return ", ".join(texts) + (f" and of {len(present) - 3} more" if len(present) > 3 else "")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


class _Pair(NamedTuple):
    """Entries of one output's rows and one input's columns: how many, and raveled places of a sample."""

    entries: int
    rows: Ints
    cols: Ints


_Choice = tuple[AxisPart, AxisPart]


class _Search:
    """The state of one search: samples of the pairs of arrays, and what agrees on them."""

    def __init__(self, pattern: Entries, inputs: Shapes, outputs: Shapes) -> None:
        self.pattern, self.inputs, self.outputs = pattern, inputs, outputs
        self.in_bounds = _bounds(inputs)
        self.out_bounds = _bounds(outputs)
        self.pairs: dict[tuple[int, int], _Pair] = {}
        self.agreeing: dict[tuple[int, int, int], list[_Choice]] = {}
        rng = np.random.default_rng(0)
        leaf_of_col = np.repeat(np.arange(len(inputs), dtype=np.min_scalar_type(len(inputs))), np.diff(self.in_bounds))
        for o, (first, last) in enumerate(zip(self.out_bounds[:-1], self.out_bounds[1:], strict=True)):
            start, stop = int(pattern.indptr[first]), int(pattern.indptr[last])
            if start == stop:
                continue
            if len(inputs) == 1:
                self._add(o, 0, stop - start, start + _sample(rng, stop - start))
                continue
            leaves = leaf_of_col[pattern.indices[start:stop]]
            counts = np.bincount(leaves, minlength=len(inputs))
            order = np.argsort(leaves, kind="stable")
            begin = np.cumsum(counts) - counts
            for i in np.flatnonzero(counts).tolist():
                chosen = order[begin[i] + _sample(rng, int(counts[i]))]
                self._add(o, i, int(counts[i]), start + chosen)

    def _add(self, o: int, i: int, count: int, entries: Ints) -> None:
        rows = np.searchsorted(self.pattern.indptr, entries, side="right") - 1 - self.out_bounds[o]
        cols = self.pattern.indices[entries].astype(np.int64) - self.in_bounds[i]
        self.pairs[o, i] = _Pair(count, rows, cols)

    def learn(self, entries: Ints) -> None:
        """Add entries to the samples, and forget what was concluded without them."""
        rows = np.searchsorted(self.pattern.indptr, entries, side="right") - 1
        cols = self.pattern.indices[entries].astype(np.int64)
        o = np.searchsorted(self.out_bounds, rows, side="right") - 1
        i = np.searchsorted(self.in_bounds, cols, side="right") - 1
        for key in set(zip(o.tolist(), i.tolist(), strict=True)):
            mine = (o == key[0]) & (i == key[1])
            old = self.pairs[key]
            self.pairs[key] = _Pair(
                old.entries,
                np.concatenate([old.rows, rows[mine] - self.out_bounds[key[0]]]),
                np.concatenate([old.cols, cols[mine] - self.in_bounds[key[1]]]),
            )
            for known in [k for k in self.agreeing if k[:2] == key]:
                del self.agreeing[known]

    def choices(self, o: int, i: int, size: int) -> list[_Choice]:
        """Pairs of axes of length ``size`` that agree on the sample of output o and input i, plainest first."""
        key = (o, i, size)
        if key not in self.agreeing:
            self.agreeing[key] = self._compare(o, i, size)
        return self.agreeing[key]

    def _compare(self, o: int, i: int, size: int) -> list[_Choice]:
        pair = self.pairs[o, i]
        if pair.entries == math.prod(self.outputs[o]) * math.prod(self.inputs[i]):
            return []  # every row holds every column
        outs, ins = _parts(o, self.outputs[o], size), _parts(i, self.inputs[i], size)
        if not outs or not ins:
            return []
        left = np.stack([part.coordinate(pair.rows) for part in outs])
        right = np.stack([part.coordinate(pair.cols) for part in ins])
        agree = (left[:, None, :] == right[None, :, :]).all(axis=2)
        found = [(outs[a], ins[b]) for a, b in np.argwhere(agree).tolist()]
        return sorted(found, key=lambda c: ((not c[0].whole) + (not c[1].whole), c[1].axis, c[0].axis))

    def extend(self, size: int, o: int, i: int, choice: _Choice) -> BatchAxis:
        """The batch that a pair of axes begins: every other array joins with an axis that agrees, or is shared."""
        outs: dict[int, AxisPart] = {o: choice[0]}
        ins: dict[int, AxisPart] = {i: choice[1]}
        while True:
            before = len(outs) + len(ins)
            for a, b in self.pairs:
                if a in outs and b not in ins:
                    options = [c[1] for c in self.choices(a, b, size) if c[0] == outs[a]]
                    others = [k for k in outs if (k, b) in self.pairs]
                    fit = (p for p in options if all((outs[k], p) in self.choices(k, b, size) for k in others))
                    if (part := next(fit, None)) is not None:
                        ins[b] = part
                elif b in ins and a not in outs:
                    options = [c[0] for c in self.choices(a, b, size) if c[1] == ins[b]]
                    others = [k for k in ins if (a, k) in self.pairs]
                    fit = (p for p in options if all((p, ins[k]) in self.choices(a, k, size) for k in others))
                    if (part := next(fit, None)) is not None:
                        outs[a] = part
            if len(outs) + len(ins) == before:  # what has nothing to do with these arrays begins anew
                apart = ((a, b) for a, b in self.pairs if a not in outs and b not in ins)
                beginning = next(((a, b, c[0]) for a, b in apart if (c := self._alone(a, b, size, outs, ins))), None)
                if beginning is None:
                    break
                a, b, (outs[a], ins[b]) = beginning
        complete = all(a in outs and b in ins for a, b in self.pairs)
        return BatchAxis(
            size,
            tuple(ins.get(k) for k in range(len(self.inputs))),
            tuple(outs.get(k) for k in range(len(self.outputs))),
            complete,
        )

    def _alone(self, o: int, i: int, size: int, outs: dict[int, AxisPart], ins: dict[int, AxisPart]) -> list[_Choice]:
        """Choices for two arrays that no array of the batch shares an entry with."""
        if any((a, i) in self.pairs for a in outs) or any((o, b) in self.pairs for b in ins):
            return []
        return self.choices(o, i, size)

    def proposals(self, sizes: Sequence[int]) -> list[BatchAxis]:
        """Every batch that agrees on the samples: those of all arrays first, then the larger, plainer and longer."""
        found: dict[BatchAxis, None] = {}
        for size in sizes:
            begun: set[tuple[int, AxisPart]] = set()
            for o, i in self.pairs:
                for choice in self.choices(o, i, size):
                    if (i, choice[1]) not in begun:
                        batch = self.extend(size, o, i, choice)
                        begun |= {(k, part) for k, part in enumerate(batch.inputs) if part is not None}
                        found.setdefault(batch)
        return sorted(found, key=lambda b: (not b.complete, -self._covered(b), b.splits, -b.size))

    def _covered(self, batch: BatchAxis) -> int:
        ins = sum(math.prod(self.inputs[k]) for k, part in enumerate(batch.inputs) if part)
        return ins + sum(math.prod(self.outputs[k]) for k, part in enumerate(batch.outputs) if part)

    def disagreeing(self, batch: BatchAxis) -> Ints:
        """Entries, some of them, whose row and column lie in different copies."""
        rows = copy_of(batch.size, batch.outputs, self.outputs)
        cols = copy_of(batch.size, batch.inputs, self.inputs)
        ours = cols[self.pattern.indices]
        theirs = np.repeat(rows, self.pattern.row_counts)
        wrong = ours != theirs
        if (rows < 0).any() or (cols < 0).any():
            wrong &= (ours >= 0) & (theirs >= 0)
        if not wrong.any():
            return np.zeros(0, np.int64)
        bad = np.flatnonzero(wrong)
        return bad[:: max(1, len(bad) // SAMPLE)]


def find_batch_axes(
    pattern: Entries, inputs: Shapes, outputs: Shapes, extra: Sequence[int] = ()
) -> tuple[BatchAxis, ...]:
    """All batch axes of a pattern whose columns and rows are the raveled arrays of these shapes.

    Lengths that are tried: those of all axes, what an axis of an input and one of an output have in common, divisors of
    what is left of an axis of which a factor was found, and ``extra``. Batches that hold for all arrays come first.
    Cost: one pass over the entries for each batch found, and a sample of the entries for each that is not.
    """
    if not pattern.nnz or pattern.full:
        return ()
    search = _Search(pattern, inputs, outputs)
    ins, outs = ({s for shape in side for s in shape} for side in (inputs, outputs))
    lengths = ins | outs | {math.gcd(a, b) for a in ins for b in outs} | set(extra)
    while True:
        found = _accepted(search, sorted(lengths - {0, 1}, reverse=True))
        parts = [part for b in found if b.complete for part in (*b.inputs, *b.outputs) if part is not None]
        rests = {rest for part in parts for rest in (part.inner, part.length // part.size // part.inner)}
        left = {divisor for rest in rests for divisor in _divisors(rest)}
        if left <= lengths | {1}:
            return found
        lengths |= left


def _accepted(search: _Search, sizes: Sequence[int]) -> tuple[BatchAxis, ...]:
    """Batches of these sizes that hold at every entry and can all be had at once, best first."""
    confirmed: set[BatchAxis] = set()
    accepted: list[BatchAxis] = []
    for _ in range(ROUNDS):
        accepted = []
        for batch in search.proposals(sizes):
            if not all(_apart(batch, other) for other in accepted):
                continue
            if batch not in confirmed:
                wrong = search.disagreeing(batch)
                if len(wrong):
                    search.learn(wrong)
                    break
                confirmed.add(batch)
            accepted.append(batch)
        else:
            break
    return tuple(sorted(accepted, key=lambda b: (not b.complete, *_position(b))))


def _position(batch: BatchAxis) -> tuple[int, ...]:
    first = next(part for part in batch.inputs if part is not None)
    return (first.leaf, first.axis, -first.stride)


def _apart(one: BatchAxis, other: BatchAxis) -> bool:
    """Whether two batches use different parts of every array, so that both can be had at once."""
    sides = (*zip(one.inputs, other.inputs, strict=True), *zip(one.outputs, other.outputs, strict=True))
    for a, b in sides:
        if a is None or b is None or a.axis != b.axis:
            continue
        low, high = (a, b) if a.inner < b.inner else (b, a)
        if high.inner % (low.inner * low.size):
            return False
    return True


def copy_of(size: int, side: Sequence[AxisPart | None], shapes: Shapes) -> Ints:
    """The copy that each place along one side of the matrix belongs to, −1 in arrays without the axis."""
    bounds = _bounds(shapes)
    found: Ints = np.full(int(bounds[-1]), -1, np.int32 if size < 2**31 else np.int64)
    for k, part in enumerate(side):
        if part is not None:
            view = found[bounds[k] : bounds[k + 1]].reshape(-1, part.size, part.stride)
            view[:] = np.arange(size)[None, :, None]
    return found


def batch_blocks(batches: Sequence[BatchAxis], inputs: Shapes, outputs: Shapes) -> Blocks:
    """The blocks of batches that hold for all arrays, all of one shape, the last batch running fastest."""
    row_order, height = _gathered([b.outputs for b in batches], outputs, math.prod(b.size for b in batches))
    col_order, width = _gathered([b.inputs for b in batches], inputs, math.prod(b.size for b in batches))
    count = math.prod(b.size for b in batches)
    return Blocks(row_order, np.arange(count + 1) * height, col_order, np.arange(count + 1) * width)


def _gathered(sides: Sequence[Sequence[AxisPart | None]], shapes: Shapes, count: int) -> tuple[Ints, int]:
    """Places of one side, block after block, and how many each block has."""
    bounds = _bounds(shapes)
    columns = []
    for k in range(len(shapes)):
        parts = [side[k] for side in sides]
        present = [part for part in parts if part is not None]
        if not present or len(present) < len(parts):
            continue
        # Cut the array into a grid with one axis for each part and for what lies between, then bring the parts forward.
        size = int(bounds[k + 1] - bounds[k])
        grid: list[int] = []
        axis_of: dict[int, int] = {}
        left = size
        for part in sorted(present, key=lambda p: -p.stride):
            grid += [left // (part.stride * part.size), part.size]
            axis_of[part.stride] = len(grid) - 1
            left = part.stride
        grid.append(left)
        ahead = [axis_of[part.stride] for part in present]
        places = np.arange(bounds[k], bounds[k + 1]).reshape(grid)
        rest = [axis for axis in range(len(grid)) if axis not in ahead]
        columns.append(places.transpose(ahead + rest).reshape(count, -1))
    joined = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
    return joined.reshape(-1), joined.shape[1]


def _bounds(shapes: Shapes) -> Ints:
    ends = np.cumsum([math.prod(shape) for shape in shapes], dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), ends])


def _sample(rng: np.random.Generator, count: int) -> Ints:
    if count <= SAMPLE:
        return np.arange(count)
    chosen: Ints = rng.integers(0, count, SAMPLE)
    chosen[:2] = 0, count - 1
    return chosen


def _parts(leaf: int, shape: tuple[int, ...], size: int) -> list[AxisPart]:
    """All axes of one length, and all factors of axes of that length."""
    found = []
    stride = math.prod(shape)
    if not stride:
        return []
    for axis, length in enumerate(shape):
        stride //= length
        if length % size == 0:
            found += [AxisPart(leaf, axis, length, size, inner, stride * inner) for inner in _divisors(length // size)]
    return found


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
