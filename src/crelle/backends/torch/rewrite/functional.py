"""Taking mutation out of an aten graph: which values share memory, and what a write does to the others.

Each tensor of the old graph is a :class:`Ref`: a path of views from the base that owns the memory. A write gives the
base a new value; a view that is read afterwards is made again from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from crelle.backends.torch.rewrite.builder import FOLD_BYTES, FOLDED, Builder
from crelle.backends.torch.rewrite.values import Spec, Unsupported, aten

Forward = Callable[[fx.Node], fx.Node]
Inverse = Callable[[fx.Node, fx.Node], fx.Node]
"""(parent's value, new value of the view) -> new value of the parent."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One step from a tensor to a view of it."""

    forward: Forward
    inverse: Inverse | None


@dataclass(slots=True, eq=False)
class Base:
    """Memory: its value now, and how often it was written."""

    value: fx.Node
    source: fx.Node | None = None
    version: int = 0


@dataclass(slots=True, eq=False)
class Ref:
    """A tensor object of the old graph."""

    base: Base
    path: tuple[View, ...] = ()
    value: fx.Node | None = field(default=None)
    version: int = 0

    def read(self) -> fx.Node:
        """Value as of now."""
        if self.value is None or self.version != self.base.version:
            value = self.base.value
            for view in self.path:
                value = view.forward(value)
            self.value, self.version = value, self.base.version
        return self.value

    def write(self, new: fx.Node) -> None:
        """Give the tensor, and so all that shares its memory, a new value."""
        parents = [self.base.value]
        for view in self.path[:-1]:
            parents.append(view.forward(parents[-1]))
        value = new
        for view, parent in zip(reversed(self.path), reversed(parents), strict=False):
            if view.inverse is None:
                raise Unsupported("a write through a view that has no inverse")
            value = view.inverse(parent, value)
        self.base.value = value
        self.base.version += 1
        self.value, self.version = (new if self.path else value), self.base.version

    def view(self, step: View) -> Ref:
        """A view of this tensor."""
        return Ref(self.base, (*self.path, step))

    def become(self, other: Ref) -> None:
        """In-place change of the view itself, as by ``squeeze_``."""
        self.path, self.value, self.version = other.path, other.value, other.version


def view_step(
    b: Builder, target: Any, shape: tuple[int, ...], args: tuple[Any, ...], out: tuple[int, ...]
) -> View | None:
    """The step of a view operation on a tensor of ``shape``; ``args`` come after it. ``None``: not a known view."""
    name = None if target is aten.view.dtype else target.overloadpacket
    rank = len(shape)
    if name in _SAME:
        return View(lambda x: x, lambda _, new: new)
    if name is aten.detach:
        return View(lambda x: b.emit(aten.detach.default, (x,), spec=b.spec[x]), lambda _, new: new)
    if name in _RESHAPES:
        return View(lambda x: b.reshape(x, out), lambda _, new: b.reshape(new, shape))
    if name in _PERMUTES:
        order = _order(name, rank, args)
        back = tuple(sorted(range(rank), key=order.__getitem__))
        return View(lambda x: b.permute(x, order), lambda _, new: b.permute(new, back))
    if name is aten.expand:
        return View(lambda x: _expand(b, x, out), None)
    if name is aten.select:
        axis, index = args
        put = aten.select_scatter.default
        return View(
            lambda x: b.select(x, axis, index),
            lambda parent, new: b.emit(put, (parent, new, axis, index), spec=b.spec[parent]),
        )
    if name is aten.slice:
        axis, start, stop, step = slice_bounds(shape, args)
        return slice_step(b, axis, start, stop, step)
    if name is aten.diagonal:
        if rank == 2 and shape[0] == shape[1] and args in ((), (0,), (0, 0, 1)):
            return _main_diagonal(b, shape, out)
        put = aten.diagonal_scatter.default
        return View(
            lambda x: b.emit(target, (x, *args)),
            lambda parent, new: b.emit(put, (parent, new, *args), spec=b.spec[parent]),
        )
    if target in _PAIRS:
        inverse = _PAIRS[target]
        return View(lambda x: b.emit(target, (x, *args)), lambda _, new: b.emit(inverse, (new,)))
    schema = target._schema
    if schema.arguments and schema.arguments[0].alias_info is not None and len(schema.returns) == 1:
        return View(lambda x: b.emit(target, (x, *args)), None)
    return None


def _expand(b: Builder, x: fx.Node, out: tuple[int, ...]) -> fx.Node:
    if x in b.fill and b.fill[x].value == 0 and b.shape(x) == ():
        # derivative rules expand a 0-d zero for a tangent that is not there; functions have no reason to
        return b.full(b.spec[x]._replace(shape=out), b.fill[x].value, True)
    return b.expand(x, out)


def _main_diagonal(b: Builder, shape: tuple[int, ...], out: tuple[int, ...]) -> View:
    def put(parent: fx.Node, new: fx.Node) -> fx.Node:
        if parent in b.fill and b.fill[parent].value == 0:
            return b.diag(new, shape[1:])
        return b.emit(aten.diagonal_scatter.default, (parent, new), spec=b.spec[parent])

    def get(x: fx.Node) -> fx.Node:
        if x in b.diagonal:
            return b.diagonal[x].values
        return b.emit(aten.diagonal.default, (x,), spec=b.spec[x]._replace(shape=out))

    return View(get, put)


def strided_step(
    b: Builder,
    layout: tuple[tuple[int, ...], int],
    spec: Spec,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int | None = None,
) -> View:
    """``as_strided`` as a gather: strides of the traced run mean nothing in the rewritten graph."""
    if spec.nbytes > FOLD_BYTES:
        raise Unsupported("as_strided of a large tensor")
    places = _places(spec.shape, *layout)
    wanted = _places(tuple(size), tuple(strides), layout[1] if offset is None else offset)
    index_of = {int(p): i for i, p in enumerate(places)}
    if not all(int(w) in index_of for w in wanted):
        raise Unsupported("as_strided beyond the tensor that it is given")
    ids = torch.tensor([index_of[int(w)] for w in wanted], dtype=torch.int64, device=spec.device)
    index = b.attribute(f"{FOLDED}_strided{len(b.attributes)}", ids)
    flat = (spec.size,)

    def forward(x: fx.Node) -> fx.Node:
        picked = b.emit(
            aten.index_select.default, (b.reshape(x, flat), 0, index), spec=spec._replace(shape=tuple(ids.shape))
        )
        return b.reshape(picked, size)

    def inverse(parent: fx.Node, new: fx.Node) -> fx.Node:
        if len(set(ids.tolist())) != len(ids):
            raise Unsupported("a write through a view that overlaps itself")
        args = (b.reshape(parent, flat), 0, index, b.reshape(new, tuple(ids.shape)))
        return b.reshape(b.emit(aten.index_copy.default, args, spec=spec._replace(shape=flat)), spec.shape)

    return View(forward, inverse)


def _places(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> list[int]:
    """Where the elements lie in memory, in row-major order."""
    places = [offset]
    for size, stride in zip(shape, strides, strict=True):
        places = [p + i * stride for p in places for i in range(size)]
    return places


def slice_step(b: Builder, axis: int, start: int, stop: int, step: int) -> View:
    """``x[..., start:stop:step, ...]`` as a view."""

    def inverse(parent: fx.Node, new: fx.Node) -> fx.Node:
        shape, spec = b.shape(parent), b.spec[parent]
        if shape == b.shape(new):
            return new
        if step != 1:
            return b.emit(aten.slice_scatter.default, (parent, new, axis, start, stop, step), spec=spec)
        # slice_scatter has no derivative for complex tensors; a sum of padded parts is what most traces build
        if parent in b.fill:
            pad = (0, 0) * (len(shape) - 1 - axis) + (start, shape[axis] - stop)
            return b.emit(aten.constant_pad_nd.default, (new, pad, b.fill[parent].value), spec=spec)
        ends = (b.slice(parent, axis, 0, start), new, b.slice(parent, axis, stop, shape[axis]))
        return b.emit(aten.cat.default, (tuple(e for e in ends if b.shape(e)[axis]), axis), spec=spec)

    return View(lambda x: b.slice(x, axis, start, stop, step), inverse)


def slice_bounds(shape: tuple[int, ...], args: tuple[Any, ...]) -> tuple[int, int, int, int]:
    """(axis, start, stop, step) of ``aten.slice``, in range."""
    given: list[Any] = [*args, *[0, None, None, 1][len(args) :]]
    axis, start, stop, step = given
    axis %= len(shape)
    start, stop, step = slice(start, stop, step).indices(shape[axis])
    return axis, start, max(start, stop), step


def parts_of(b: Builder, target: Any, shape: tuple[int, ...], args: tuple[Any, ...]) -> list[View] | None:
    """The views that ``split``, ``unbind`` and the like return; ``None`` for another operation."""
    name = target.overloadpacket
    if name is aten.unbind:
        axis = (args[0] if args else 0) % len(shape)
        steps = [view_step(b, aten.select.int, shape, (axis, i), ()) for i in range(shape[axis])]
        return [s for s in steps if s is not None]
    if name not in (aten.split, aten.split_with_sizes, aten.chunk):
        return None
    axis = (args[1] if len(args) > 1 else 0) % len(shape)
    length = shape[axis]
    if isinstance(args[0], (tuple, list)):
        sizes = list(args[0])
    else:
        size = -(-length // args[0]) if name is aten.chunk else args[0]
        count = max(1, -(-length // size)) if size else 1
        sizes = [min(size, length - i * size) for i in range(count)]
    views, start = [], 0
    for size in sizes:
        views.append(slice_step(b, axis, start, start + size, 1))
        start += size
    return views


def _order(name: Any, rank: int, args: tuple[Any, ...]) -> tuple[int, ...]:
    order = list(range(rank))
    if name is aten.permute:
        return tuple(a % rank for a in args[0])
    if rank >= 2:
        i, j = (0, 1) if name is aten.t else (args[0] % rank, args[1] % rank)
        order[i], order[j] = order[j], order[i]
    return tuple(order)


_SAME = frozenset((aten.alias, aten.lift_fresh, aten.contiguous))
_RESHAPES = frozenset(
    (aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.unsqueeze, aten.squeeze, aten.flatten)
)
_PERMUTES = frozenset((aten.t, aten.transpose, aten.permute, aten.swapaxes, aten.swapdims))
_PAIRS = {
    aten.view_as_real.default: aten.view_as_complex.default,
    aten.view_as_complex.default: aten.view_as_real.default,
    aten._conj.default: aten._conj.default,
}
#: In-place changes of the view, and the view operation that each amounts to.
INPLACE_VIEWS = {
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.t_.default: aten.t.default,
    aten.transpose_.default: aten.transpose.int,
    aten.swapaxes_.default: aten.swapaxes.default,
    aten.swapdims_.default: aten.swapdims.default,
    aten.detach_.default: aten.detach.default,
}
