"""Rules for gathers, scatters and dynamic slices, with indices that are known, bounded, or not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle.backends.jax.lower.walk import Arg, Lowering, rule
from crelle.tangent.program import Dependence, Lanes, Scale
from crelle.tangent.shapes import band, band_columns, picking

Array = np.ndarray[Any, Any]
Results = Sequence[int | None]


class Places:
    """Where windows of an operand start: shared by gather and scatter.

    Attributes:
        shape: of the operand.
        window: size of a window along each axis of the operand.
        axes: the axes that indices move along (``start_index_map``).
        batch_axes: pairs (axis of the operand, axis of the indices) that go together.
        batch: shape of the indices without their last axis.
    """

    def __init__(
        self, shape: Sequence[int], window: Sequence[int], axes: Sequence[int],
        batch_axes: Sequence[tuple[int, int]], batch: Sequence[int], clip: bool,
    ) -> None:  # fmt: skip
        self.shape, self.window, self.axes = tuple(shape), tuple(window), tuple(axes)
        self.batch_axes, self.batch, self.clip = tuple(batch_axes), tuple(batch), clip

    def flat(self, indices: Array) -> Array:
        """The raveled place of every element of every window, [*batch, *window]; -1 where a window does not fit."""
        strides = np.append(np.cumprod(self.shape[:0:-1])[::-1], 1).astype(np.int64) if self.shape else np.ones(0, int)
        base = np.zeros(self.batch, np.int64)
        inside = np.ones(self.batch, bool)
        for k, axis in enumerate(self.axes):
            start = indices[..., k].astype(np.int64)
            most = self.shape[axis] - self.window[axis]
            if self.clip:
                start = np.clip(start, 0, most)
            else:
                inside &= (start >= 0) & (start <= most)
            base += start * strides[axis]
        for axis, other in self.batch_axes:
            along = np.arange(self.batch[other]).reshape([-1 if d == other else 1 for d in range(len(self.batch))])
            base = base + along * strides[axis]
        places = base.reshape((*self.batch, *[1] * len(self.window)))
        for axis, size in enumerate(self.window):
            along = np.arange(size) * strides[axis]
            places = places + along.reshape([-1 if d == axis else 1 for d in range(len(self.window))])
        mask = inside.reshape((*self.batch, *[1] * len(self.window)))
        return np.where(mask, places, -1)


def split_known(arg: Arg, places: Places) -> tuple[Array, dict[int, tuple[int, int]]]:
    """(indices with the components that are not known set to 0, bounds of the starts along their axes)."""
    indices = np.zeros((*places.batch, len(places.axes)), np.int64)
    bounds, loose = arg.bounds(), {}
    if arg.dtype == bool:
        bounds = None
    for k, axis in enumerate(places.axes):
        most = places.shape[axis] - places.window[axis]
        if bounds is not None and np.array_equal(bounds[0][..., k], bounds[1][..., k]):
            indices[..., k] = bounds[0][..., k]
            continue
        low, high = 0, most
        if bounds is not None and bounds[0].size:
            low = min(max(int(bounds[0][..., k].min()), 0), most)
            high = max(min(int(bounds[1][..., k].max()), most), 0)
        loose[axis] = (low, high)
    return indices, loose


class GatherPlan:
    """The dimension numbers of a gather, worked out."""

    def __init__(self, eqn: Any, shape: Sequence[int], index_shape: Sequence[int]) -> None:
        numbers, window = eqn.params["dimension_numbers"], tuple(eqn.params["slice_sizes"])
        batch = tuple(index_shape[:-1])
        clip = "fill_or_drop" not in str(eqn.params["mode"]).lower()
        pairs = tuple(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
        self.spots = Places(shape, window, numbers.start_index_map, pairs, batch, clip)
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        self.kept = [s for a, s in enumerate(window) if a not in gone]
        self.offset_dims = tuple(numbers.offset_dims)

    def places(self, indices: Array) -> Array:
        """The raveled place of every element of the result."""
        return self.arranged(self.spots.flat(indices))

    def arranged(self, places: Array) -> Array:
        """[*batch, *window] to the shape of the result."""
        batch = self.spots.batch
        places = places.reshape((*batch, *self.kept))
        return np.moveaxis(places, range(len(batch), places.ndim), self.offset_dims)


@rule("gather")
def _gather(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    operand, index = args[:2]
    plan = GatherPlan(eqn, operand.shape, index.shape)
    spots, shape = plan.spots, tuple(eqn.outvars[0].aval.shape)
    indices, loose = split_known(index, spots)
    value = operand.tangent
    if value is None:
        return [None]
    for axis, (a, b) in loose.items():
        pattern = band(spots.window[axis], spots.shape[axis], a, b)
        value = low.mixed(Lanes, value, axis, pattern, spots.window[axis], index.kind, detail="index not known")
    inner = low.type_of(value).shape
    reached = Places(inner, spots.window, spots.axes, spots.batch_axes, spots.batch, spots.clip)
    places = plan.arranged(reached.flat(indices))

    kind = Dependence.CONSTANT if loose else index.kind
    return [low.moved(value, picking(places.reshape(shape)), shape, kind)]


class ScatterPlan:
    """The dimension numbers of a scatter, worked out."""

    def __init__(self, eqn: Any, shape: Sequence[int], index_shape: Sequence[int], updates: Sequence[int]) -> None:
        numbers = eqn.params["dimension_numbers"]
        gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        sizes = iter([updates[a] for a in numbers.update_window_dims])
        window = tuple(1 if a in gone else next(sizes) for a in range(len(shape)))
        batch = tuple(index_shape[:-1])
        clip = "clip" in str(eqn.params["mode"]).lower()
        pairs = tuple(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
        self.spots = Places(shape, window, numbers.scatter_dims_to_operand_dims, pairs, batch, clip)
        self.window_dims = tuple(numbers.update_window_dims)
        self.updates = tuple(updates)

    def arranged(self, a: Array) -> Array:
        """Updates as [*batch, *window]."""
        batch = len(self.spots.batch)
        moved = np.moveaxis(a, self.window_dims, range(batch, batch + len(self.window_dims)))
        return moved.reshape((*self.spots.batch, *self.spots.window))


@rule("scatter", "scatter-add", "scatter_add", "scatter_sub", "scatter-sub", "scatter-mul", "scatter_mul")
def _scatter(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    operand, index, updates = args
    name = eqn.primitive.name.replace("-", "_")
    plan = ScatterPlan(eqn, operand.shape, index.shape, updates.shape)
    indices, loose = split_known(index, plan.spots)
    places = plan.spots.flat(indices)
    parts: list[int | None] = []
    if operand.tangent is not None:
        value = operand.tangent
        if name == "scatter":  # what is overwritten no longer counts
            if loose:
                value = low.scaled(value, index.kind)
            else:
                keep = np.ones(int(np.prod(operand.shape, dtype=np.int64)), bool)
                keep[places[places >= 0]] = False
                value = low.scaled(value, index.kind, keep.reshape(operand.shape))
        elif name == "scatter_mul":
            value = low.scaled(value, max(updates.kind, index.kind))
        parts.append(value)
    if updates.tangent is not None:
        kind = max(index.kind, operand.kind if name == "scatter_mul" else Dependence.CONSTANT)
        parts.append(_placed(low, updates, plan, indices, loose, kind))
    return [low.added(parts)]


def _placed(
    low: Lowering, updates: Arg, plan: ScatterPlan, indices: Array, loose: dict[int, tuple[int, int]], kind: Dependence
) -> int:
    """Updates at their places in an array of zeros."""
    spots = plan.spots
    # along axes with indices that are not known, windows are first laid at 0, and then anywhere they may be
    inner = tuple(spots.window[a] if a in loose else s for a, s in enumerate(spots.shape))
    places = (
        Places(inner, spots.window, spots.axes, spots.batch_axes, spots.batch, spots.clip).flat(indices).reshape(-1)
    )
    value = low.placed(updates.source, places, inner, kind, plan.arranged)
    for axis, (a, b) in loose.items():
        pattern_axis = band_columns(spots.shape[axis], spots.window[axis], a, b)
        value = low.mixed(Lanes, value, axis, pattern_axis, spots.shape[axis], kind, detail="index not known")
    return value


def _starts(starts: Sequence[Arg], shape: Sequence[int], window: Sequence[int]) -> list[tuple[int, int]]:
    """Bounds of clamped starts along each axis."""
    found = []
    for start, n, w in zip(starts, shape, window, strict=True):
        bounds = start.bounds()
        low, high = (0, n - w) if bounds is None else (int(bounds[0]), int(bounds[1]))
        found.append((min(max(low, 0), n - w), min(max(high, 0), n - w)))
    return found


@rule("dynamic_slice")
def _dynamic_slice(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    operand, *starts = args
    window = tuple(eqn.params["slice_sizes"])
    value = operand.tangent
    assert value is not None
    places = []
    for axis, (start, (a, b)) in enumerate(zip(starts, _starts(starts, operand.shape, window), strict=True)):
        if a == b:
            places.append(slice(a, a + window[axis]))
            continue
        pattern = band(window[axis], operand.shape[axis], a, b)
        value = low.mixed(Lanes, value, axis, pattern, window[axis], start.kind, detail="start not known")
        places.append(slice(None))
    return [low.moved(value, lambda ids: ids[tuple(places)], window)]


@rule("dynamic_update_slice")
def _dynamic_update_slice(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    operand, update, *starts = args
    shape, window = operand.shape, update.shape
    bounds = _starts(starts, shape, window)
    kind = max((s.kind for s in starts), default=Dependence.CONSTANT)
    exact = all(a == b for a, b in bounds)
    parts: list[int | None] = []
    if operand.tangent is not None:
        keep = None
        if exact:
            keep = np.ones(shape, bool)
            keep[tuple(slice(a, a + w) for (a, _), w in zip(bounds, window, strict=True))] = False
        loose = kind if not exact else Dependence.CONSTANT
        parts.append(low.emit(Scale, [operand.tangent], low.type_of(operand.tangent), keep=keep, dependence=loose))
    if update.tangent is not None:
        value = update.tangent
        for axis, (a, b) in enumerate(bounds):
            if a != b:
                pattern = band_columns(shape[axis], window[axis], a, b)
                value = low.mixed(Lanes, value, axis, pattern, shape[axis], kind, detail="start not known")
        put = tuple(slice(a, a + w) if a == b else slice(None) for (a, b), w in zip(bounds, window, strict=True))

        def move(ids: Any) -> Any:
            new = np.zeros(shape, ids.dtype)
            new[put] = ids
            return new

        parts.append(low.moved(value, move, shape))
    return [low.added(parts)]
