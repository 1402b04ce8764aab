"""Rules for matrix products, convolutions and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle.backends.jax.lower.walk import Arg, Lowering, aval_type, rule
from crelle.tangent.program import Contract, Dependence, Reduce
from crelle.tangent.shapes import axis_reads, csr, listed, product, transposed, window_reads

Array = np.ndarray[Any, Any]
Results = Sequence[int | None]
#: Entries of a convolution as a matrix up to which zeros of its kernel are followed channel by channel.
_EXACT_CONV = 4_000_000


@rule("dot_general")
def _dot_general(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    left, right = args
    if left.linear and right.linear:
        return low.opaque(eqn, args, "not linear in its operands")
    contract, batch = eqn.params["dimension_numbers"]
    mine, other = (left, right) if left.linear else (right, left)
    if right.linear:
        contract, batch = contract[::-1], batch[::-1]
    shape = tuple(eqn.outvars[0].aval.shape)
    p = product(mine.shape, other.shape, other.keep(), contract, batch, left.linear, shape)
    value = low.emit(
        Contract, [mine.source], aval_type(eqn.outvars[0]), into=p.into, out=p.out, pattern=p.pattern,
        dependence=other.kind, detail=p.detail,
    )  # fmt: skip
    return [value]


@rule("reduce_window_sum")
def _window_sum(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    return [_windows(low, eqn, args[0], Dependence.CONSTANT)]


@rule("select_and_gather_add")
def _window_select(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    tangent, operand = args
    return [_windows(low, eqn, tangent, operand.kind)]


def _window_patterns(eqn: Any, shape: Sequence[int]) -> list[tuple[Array, Array] | None]:
    p = eqn.params
    ones = (1,) * len(shape)
    found: list[tuple[Array, Array] | None] = []
    for size, window, stride, padding, base, dilation in zip(
        shape, p["window_dimensions"], p["window_strides"], p["padding"], p.get("base_dilation") or ones,
        p.get("window_dilation") or ones, strict=True,
    ):  # fmt: skip
        trivial = window == stride == base == 1 and tuple(padding) == (0, 0)
        found.append(None if trivial else listed(axis_reads(size, window, stride, tuple(padding), base, dilation)))
    return found


def _windows(low: Lowering, eqn: Any, a: Arg, kind: Dependence) -> int | None:
    """A box is a product of intervals: one axis after the other."""
    value = a.tangent
    if value is None:
        return None
    for axis, pattern in enumerate(_window_patterns(eqn, a.shape)):
        if pattern is not None:
            value = low.mixed(Reduce, value, axis, pattern, len(pattern[0]) - 1, kind)
    return value


@rule("select_and_scatter_add")
def _window_scatter(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    source, operand = args
    value = source.tangent
    if value is None:
        return [None]
    for axis, pattern in enumerate(_window_patterns(eqn, operand.shape)):
        if pattern is not None:
            back = transposed(pattern, operand.shape[axis])
            value = low.mixed(Reduce, value, axis, back, operand.shape[axis], operand.kind)
    return [value]


@rule("conv_general_dilated")
def _conv(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    left, right = args
    if left.linear and right.linear:
        return low.opaque(eqn, args, "not linear in its operands")
    return [_conv_of_image(low, eqn, left, right) if left.linear else _conv_of_kernel(low, eqn, left, right)]


class _Numbers:
    """The dimension numbers of a convolution: image [B', N, G, I, *P], kernel [O, I, *T], result [N, O, *S]."""

    def __init__(self, eqn: Any, image: Sequence[int], kernel: Sequence[int]) -> None:
        p = eqn.params
        numbers = p["dimension_numbers"]
        self.lhs, self.rhs, self.out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
        self.groups, self.batch_groups = p["feature_group_count"], p["batch_group_count"]
        self.batch = image[self.lhs[0]] // self.batch_groups
        self.inner = image[self.lhs[1]] // self.groups
        self.space = tuple(image[a] for a in self.lhs[2:])
        self.taps = tuple(kernel[a] for a in self.rhs[2:])
        self.outputs = kernel[self.rhs[0]]
        self.axes = [
            (size, window, stride, tuple(padding), base, dilation)
            for size, window, stride, padding, base, dilation in zip(
                self.space, self.taps, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"],
                strict=True,
            )
        ]  # fmt: skip
        self.result = tuple(eqn.outvars[0].aval.shape)
        self.results = tuple(self.result[a] for a in self.out[2:])

    def reads(self) -> Array:
        """For every result and tap the raveled place in space that is read, -1 outside: [S, T]."""
        return window_reads([(along[0], axis_reads(*along)) for along in self.axes])

    def arrange(self, a: Array) -> Array:
        """[N, O, *S] to the layout of the result."""
        return a.transpose([self.out.index(k) for k in range(len(self.out))])


def _conv_of_image(low: Lowering, eqn: Any, image: Arg, kernel: Arg) -> int:
    c = _Numbers(eqn, image.shape, kernel.shape)
    parts = c.groups * c.batch_groups
    keep = kernel.keep()
    used: Array = np.ones(c.taps, bool)
    if keep is not None:
        used = np.asarray(keep.transpose(c.rhs).any(axis=(0, 1)))
    box = used.all()
    dtype = str(image.dtype)
    size = int(np.prod(c.space, dtype=np.int64))
    if (
        keep is not None
        and not (keep.transpose(c.rhs) == used).all()
        and c.outputs * c.inner * size * used.size < 4_000_000
    ):
        return _conv_exact(low, eqn, image, kernel.kind, c, keep)
    # over the input channels of a group, then over space
    summed = low.emit(
        Reduce, [image.source], ArrayType(dtype, (c.batch_groups, c.batch, c.groups, *c.space)),
        into=lambda a: np.moveaxis(
            a.transpose(c.lhs).reshape(c.batch_groups, c.batch, c.groups, c.inner, *c.space), 3, 0
        ).reshape(c.inner, -1),
        out=lambda a: a.reshape(c.batch_groups, c.batch, c.groups, *c.space),
        dependence=kernel.kind,
    )  # fmt: skip
    value = summed
    if box:
        for axis, along in enumerate(c.axes):
            pattern = listed(axis_reads(*along))
            value = low.mixed(Contract, value, 3 + axis, pattern, len(pattern[0]) - 1, kernel.kind)
    else:
        pattern = listed(c.reads()[:, used.reshape(-1)])
        value = low.emit(
            Contract, [value], ArrayType(dtype, (c.batch_groups, c.batch, c.groups, *c.results)), pattern=pattern,
            into=lambda a: a.reshape(parts * c.batch, size).T,
            out=lambda a: a.T.reshape(c.batch_groups, c.batch, c.groups, *c.results), dependence=kernel.kind,
        )  # fmt: skip
    each = c.outputs // parts

    def spread(a: Any) -> Any:
        a = np.moveaxis(a, 0, 1).reshape(c.batch, parts, 1, *c.results)
        return c.arrange(np.broadcast_to(a, (c.batch, parts, each, *c.results)).reshape(c.batch, c.outputs, *c.results))

    return low.moved(value, spread, c.result)


def _conv_exact(low: Lowering, eqn: Any, image: Arg, kind: Dependence, c: _Numbers, keep: Array) -> int:
    """A small convolution whose kernel has zeros that differ between channels: the whole pattern."""
    parts = c.groups * c.batch_groups
    taps = keep.transpose(c.rhs).reshape(c.outputs, c.inner, -1)
    reads, size = c.reads(), int(np.prod(c.space, dtype=np.int64))
    group = np.arange(c.outputs) // (c.outputs // parts)
    o, i, t = np.nonzero(taps)
    where = reads[:, t]  # [S, nonzero taps]
    s = np.broadcast_to(np.arange(len(reads))[:, None], where.shape)
    ok = where >= 0
    rows = (o[None, :] * len(reads) + s)[ok]
    columns = ((group[o] * c.inner + i)[None, :] * size + where)[ok]
    order = np.lexsort((columns, rows))
    indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=c.outputs * len(reads))))

    def into(a: Any) -> Any:
        a = a.transpose(c.lhs).reshape(c.batch_groups, c.batch, c.groups * c.inner, *c.space)
        return np.moveaxis(a, 1, -1).reshape(parts * c.inner * size, c.batch)

    def out(a: Any) -> Any:
        return c.arrange(np.moveaxis(a.reshape(c.outputs, *c.results, c.batch), -1, 0))

    return low.emit(
        Contract, [image.source], aval_type(eqn.outvars[0]), into=into, out=out,
        pattern=(indptr, columns[order]), dependence=kind,
    )  # fmt: skip


def _conv_of_kernel(low: Lowering, eqn: Any, image: Arg, kernel: Arg) -> int:
    c = _Numbers(eqn, image.shape, kernel.shape)
    reads = c.reads()
    inside = reads >= 0
    pattern = csr(inside)
    taps = inside.shape[1]
    summed = low.emit(
        Reduce, [kernel.source], ArrayType(str(kernel.dtype), (c.outputs, taps)), dependence=image.kind,
        into=lambda a: a.transpose(c.rhs).reshape(c.outputs, c.inner, taps).transpose(1, 0, 2).reshape(c.inner, -1),
        out=lambda a: a.reshape(c.outputs, taps),
    )  # fmt: skip
    spread = (c.batch, c.outputs, *c.results)

    def out(a: Any) -> Any:
        return c.arrange(np.broadcast_to(a.T.reshape(1, c.outputs, *c.results), spread))

    return low.emit(
        Contract, [summed], aval_type(eqn.outvars[0]), into=lambda a: a.T, out=out, pattern=pattern,
        dependence=image.kind,
    )  # fmt: skip
