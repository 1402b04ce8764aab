"""Rules for convolutions, pools and resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from crelle._arrays import ArrayType
from crelle.backends.torch.lowering.reduce import low_specs
from crelle.backends.torch.lowering.walk import Lowering, args_of, rule, type_of
from crelle.backends.torch.rewrite.values import map_nodes
from crelle.tangent.program import Contract, Dependence, Lanes, Reduce
from crelle.tangent.shapes import axis_reads, csr, listed, transposed, window_reads

Array = np.ndarray[Any, Any]
Csr = tuple[Array, Array]
#: Elements of one image up to which a linear operation is probed with every unit image.
_PROBE = 1 << 12


def _each(value: Any, rank: int) -> list[int]:
    listed = [int(v) for v in value] if isinstance(value, (tuple, list)) else [int(value)]
    return listed * rank if len(listed) == 1 else listed


class _Conv:
    """The numbers of a convolution: image [N, C, *P], weight [O, C / groups, *T] ([C, O / groups, *T] transposed)."""

    def __init__(self, image: Sequence[int], weight: Sequence[int], result: Sequence[int], args: Sequence[Any]) -> None:
        stride, padding, dilation, flipped, _, groups = args
        rank = len(image) - 2
        self.flipped, self.groups = bool(flipped), int(groups)
        self.batch, self.channels, self.space = image[0], image[1], tuple(image[2:])
        self.outputs, self.results, self.taps = result[1], tuple(result[2:]), tuple(weight[2:])
        self.stride, self.padding, self.dilation = (_each(v, rank) for v in (stride, padding, dilation))

    def _along(self, k: int) -> Array:
        """What the smaller side reads of the other along one axis of space."""
        big, small = (self.results, self.space) if self.flipped else (self.space, self.results)
        pad = (self.padding[k], self.padding[k])
        return axis_reads(big[k], self.taps[k], self.stride[k], pad, 1, self.dilation[k], small[k])

    def axis(self, k: int) -> Csr:
        """What results read of the image along one axis of space."""
        pattern = listed(self._along(k))  # of a transposed convolution: what the image reads of the results
        return transposed(pattern, self.results[k]) if self.flipped else pattern

    def reads(self) -> Array:
        """For every place of the smaller side and every tap the place of the other side; -1 outside."""
        big = self.results if self.flipped else self.space
        return window_reads([(size, self._along(k)) for k, size in enumerate(big)])

    def used(self, used: Array) -> Csr:
        """What results read of the image where only some taps count."""
        pattern = listed(self.reads()[:, used.reshape(-1)])
        return transposed(pattern, int(np.prod(self.results))) if self.flipped else pattern


def _through_image(
    low: Lowering, value: int, c: _Conv, channels: tuple[int, int], axes: Sequence[Csr], whole: Csr | None,
    kind: Dependence,
) -> int:  # fmt: skip
    """Over the channels of a group, then over space, then to all channels of the group: [N, C, *P] to [N, O, *S]."""
    dtype, before, after = low.program.types[value].dtype, *channels
    space = low.program.types[value].shape[2:]
    grouped = (c.batch, c.groups, before // c.groups, *space)
    kept = low.emit(
        Reduce, [value], ArrayType(dtype, (c.batch, c.groups, *space)), dependence=kind,
        into=lambda a: np.moveaxis(a.reshape(grouped), 2, 0).reshape(before // c.groups, -1),
        out=lambda a: a.reshape((c.batch, c.groups, *space)),
    )  # fmt: skip
    if whole is None:
        for k, pattern in enumerate(axes):
            kept = low.mixed(Contract, kept, 2 + k, pattern, len(pattern[0]) - 1, kind)
        results = low.program.types[kept].shape[2:]
    else:
        results = tuple(len(p[0]) - 1 for p in axes)
        lead = (c.batch, c.groups)
        size = int(np.prod(space, dtype=np.int64))
        kept = low.emit(
            Contract, [kept], ArrayType(dtype, (*lead, *results)), pattern=whole, dependence=kind,
            into=lambda a: a.reshape(-1, size).T, out=lambda a: a.T.reshape((*lead, *results)),
        )  # fmt: skip
    each = after // c.groups
    shape = (c.batch, after, *results)

    def spread(a: Any) -> Any:
        wide = np.broadcast_to(a[:, :, None], (c.batch, c.groups, each, *results))
        return wide.reshape(shape)

    return low.moved(kept, spread, shape)


def _used(low: Lowering, weight: Any, c: _Conv) -> Array | None:
    keep = low.keep(weight)
    if keep is None:
        return None
    used = np.asarray(keep.any(axis=(0, 1)))
    return None if used.all() else used


@rule("convolution", "_convolution", "mkldnn_convolution")
def _convolution(low: Lowering, node: fx.Node) -> Any:
    image, weight, bias = args_of(node)[:3]
    if len(args_of(node)) < 9:
        return low.opaque(node, "no rule")
    shape = low.spec(node).shape
    c = _Conv(low.shape(image), low.shape(weight), shape, args_of(node)[3:9])
    if low.tangent(image) is not None and low.tangent(weight) is not None:
        return low.opaque(node, "not linear in its operands")
    parts: list[int | None] = []
    value, of_weight, of_bias = low.tangent(image), low.tangent(weight), low.tangent(bias)
    if value is not None:
        used = _used(low, weight, c)
        axes = [c.axis(k) for k in range(len(c.space))]
        whole = None if used is None else c.used(used)
        parts.append(_through_image(low, value, c, (c.channels, c.outputs), axes, whole, low.kind(weight)))
    if of_weight is not None:
        parts.append(_through_weight(low, of_weight, c, shape, low.kind(image)))
    if of_bias is not None:
        lead = (1, c.outputs, *[1] * len(c.space))
        parts.append(low.moved(of_bias, lambda a: np.broadcast_to(a.reshape(lead), shape), shape))
    return low.added(parts)


def _through_weight(low: Lowering, value: int, c: _Conv, shape: tuple[int, ...], kind: Dependence) -> int:
    """Each result reads the taps of its channel that lie inside of the image."""
    dtype = low.program.types[value].dtype
    if c.flipped or c.groups > 1:  # every tap of the group
        taps = low.lanes(Lanes, value, range(len(c.taps) + 2), (1,) * (len(c.taps) + 2), kind)
        return low.moved(taps, lambda a: np.broadcast_to(a, shape), shape)
    count = int(np.prod(c.taps, dtype=np.int64))
    inner = c.channels // c.groups
    summed = low.emit(
        Reduce, [value], ArrayType(dtype, (c.outputs, count)), dependence=kind,
        into=lambda a: np.moveaxis(a.reshape(c.outputs, inner, count), 1, 0).reshape(inner, -1),
        out=lambda a: a.reshape(c.outputs, count),
    )  # fmt: skip
    return low.emit(
        Contract, [summed], ArrayType(dtype, shape), dependence=kind, pattern=csr(c.reads() >= 0), into=lambda a: a.T,
        out=lambda a: np.broadcast_to(a.T.reshape((1, c.outputs, *c.results)), shape),
    )  # fmt: skip


@rule("convolution_backward")
def _convolution_backward(low: Lowering, node: fx.Node) -> Any:
    gradient, image, weight, _, *numbers, mask = args_of(node)
    specs = low_specs(node)
    c = _Conv(low.shape(image), low.shape(weight), low.shape(gradient), numbers)
    g, x, w = low.tangent(gradient), low.tangent(image), low.tangent(weight)
    results: list[int | None] = [None, None, None]
    wanted: Any = mask
    if wanted[0]:
        if g is not None and w is not None:
            return low.opaque(node, "not linear in its operands")
        parts: list[int | None] = []
        if g is not None:
            axes = [transposed(c.axis(k), c.space[k]) for k in range(len(c.space))]
            used = _used(low, weight, c)
            whole = None if used is None else transposed(c.used(used), int(np.prod(c.space)))
            parts.append(_through_image(low, g, c, (c.outputs, c.channels), axes, whole, low.kind(weight)))
        if w is not None:  # the gradient times other weights
            every = low.lanes(Lanes, w, range(len(c.taps) + 2), (1,) * (len(c.taps) + 2), low.kind(gradient))
            parts.append(low.moved(every, lambda a: np.broadcast_to(a, specs[0].shape), specs[0].shape))
        results[0] = low.added(parts)
    if wanted[1]:
        if g is not None and x is not None:
            return low.opaque(node, "not linear in its operands")
        parts = []
        for value, other, mine in ((g, image, 0), (x, gradient, 1)):
            if value is not None:
                parts.append(_to_weight(low, value, c, specs[1].shape, mine == 0, low.kind(other)))
        results[1] = low.added(parts)
    if wanted[2] and g is not None:
        shape = low.program.types[g].shape
        axes_ = [a for a in range(len(shape)) if a != 1]
        summed = low.lanes(Reduce, g, axes_, tuple(s if a == 1 else 1 for a, s in enumerate(shape)), low.kind())
        results[2] = low.moved(summed, lambda a: a.reshape(-1), (shape[1],))
    return results


def _to_weight(low: Lowering, value: int, c: _Conv, shape: tuple[int, ...], gradient: bool, kind: Dependence) -> int:
    """Sums over samples and space into weights: of the output's channel, or of the input's."""
    own = low.program.types[value].shape
    axes = [a for a in range(len(own)) if a != 1]
    summed = low.lanes(Reduce, value, axes, tuple(s if a == 1 else 1 for a, s in enumerate(own)), kind)
    axis = 0 if gradient != c.flipped else 1
    if c.groups > 1 and axis == 1:
        every = low.lanes(Lanes, summed, [1], (1,) * len(own), kind)
        return low.moved(every, lambda a: np.broadcast_to(a, shape), shape)
    lead = tuple(-1 if a == axis else 1 for a in range(len(shape)))
    return low.moved(summed, lambda a: np.broadcast_to(a.reshape(lead), shape), shape)


# -- pools


def pool_pattern(low: Lowering, node: fx.Node, results: int, size: int) -> Csr | None:
    """CSR of [results, size]: the windows of a maximum pool, both sides flattened."""
    args = [*args_of(node), *[None] * 6]
    shape, out = low.shape(args[0]), low.spec(node, 0).shape
    window = _each(args[1], 2)
    stride = _each(args[2], 2) if args[2] else window
    padding, dilation = _each(args[3] or 0, 2), _each(args[4] or 1, 2)
    reads = window_reads(
        [
            (size, axis_reads(size, window[k], stride[k], (padding[k], padding[k]), 1, dilation[k], out[-2 + k]))
            for k, size in enumerate(shape[-2:])
        ]
    )
    return None if reads.shape[0] != results or shape[-1] * shape[-2] != size else listed(reads)


@rule("max_pool2d_with_indices_backward")
def _max_pool_backward(low: Lowering, node: fx.Node) -> Any:
    gradient, image = args_of(node)[:2]
    value = low.tangent(gradient)
    if value is None:
        return low.opaque(node, "not linear in its operands")
    args = [*args_of(node)[2:], *[None] * 6]
    shape, out = low.shape(image), low.shape(gradient)
    window = _each(args[0], 2)
    stride = _each(args[1], 2) if args[1] else window
    padding, dilation = _each(args[2] or 0, 2), _each(args[3] or 1, 2)
    kind = max(low.kind(*args_of(node)[1:]), Dependence.CONSTANT)
    for k in (-2, -1):
        pattern = listed(axis_reads(shape[k], window[k], stride[k], (padding[k],) * 2, 1, dilation[k], out[k]))
        value = low.mixed(Reduce, value, k, transposed(pattern, shape[k]), shape[k], kind)
    return value


def image_rank(node: fx.Node) -> int | None:
    """How many last axes an operation works on, image by image; ``None`` if it is not such an operation."""
    name = str(node.target).split(".")[1] if "." in str(node.target) else ""
    if name.startswith(("avg_pool", "_adaptive_avg_pool", "adaptive_avg_pool", "upsample_", "_upsample_")):
        for rank in (1, 2, 3):
            if f"{rank}d" in name or (rank == 1 and "linear1d" in name):
                return rank
    return None


def by_image(low: Lowering, node: fx.Node, rank: int) -> Any:
    """An operation that is linear in images and does the same to each: one image of every unit is run through it."""
    source: Any = next(n for n in node.all_input_nodes if low.tangent(n) is not None)
    value, shape, out = low.tangent(source), low.shape(source), low.spec(node).shape
    assert value is not None
    size = int(np.prod(shape[-rank:], dtype=np.int64))
    if size > _PROBE:
        return _dense_images(low, value, rank, out)
    basis = torch.eye(size, dtype=torch.float64).reshape((size, 1, *shape[-rank:]))

    def given(n: fx.Node) -> Any:
        if n is source:
            return basis
        spec = low.spec(n)
        return torch.zeros((size, 1, *spec.shape[-rank:]), dtype=torch.float64)

    args = map_nodes(node.args, given)
    # sizes of the whole input, which backward operations are told, are those of one image here
    args = tuple(
        (size, 1, *a[-rank:])
        if isinstance(a, tuple) and len(a) == rank + 2 and all(isinstance(v, int) for v in a)
        else a
        for a in args
    )
    target: Any = node.target
    with torch.no_grad():
        found = target(*args, **map_nodes(node.kwargs, given))
    pattern = csr(found.reshape(size, -1).ne(0).numpy().T)
    lead = shape[:-rank]
    return low.emit(
        Contract, [value], type_of(low.spec(node)), pattern=pattern, dependence=Dependence.CONSTANT,
        into=lambda a: a.reshape(-1, size).T, out=lambda a: a.T.reshape((*lead, *out[-rank:])),
    )  # fmt: skip


def _dense_images(low: Lowering, value: int, rank: int, out: tuple[int, ...]) -> int:
    """Every element of an image on all of it."""
    shape = low.program.types[value].shape
    axes = range(len(shape) - rank, len(shape))
    lane = low.lanes(Lanes, value, axes, (*shape[:-rank], *[1] * rank), Dependence.CONSTANT)
    return low.spread(lane, out)
