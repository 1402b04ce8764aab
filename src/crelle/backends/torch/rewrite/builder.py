"""Building an aten graph with value numbering: every operation is made once, views are kept in one normal form.

The normal form is ``expand(permute(reshape(x)))``. ``view``, ``unsqueeze``, ``squeeze``, ``t`` and ``transpose`` do not
survive, so chains of them cancel by construction, and rules see through them. No rule for an operation lives here.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from crelle.backends.torch.rewrite.values import (
    Diagonal,
    Fill,
    Slabs,
    Spec,
    Unsupported,
    aten,
    call,
    freeze,
    graph_module,
    is_effect,
    is_random,
    map_nodes,
    packets,
    spec_of,
    tensors_in,
    without_ones,
    writes,
)

#: Constants larger than this are computed in every run: a plan that is kept should not hold an n × n identity.
FOLD_BYTES = 1 << 18

#: Prefix of the attributes that hold folded constants. They may be folded again; other attributes were captured by the
#: traced function, may change between runs, and are never folded.
FOLDED = "_folded"

#: Operations that take any strides. Other kernels may read raw memory and get contiguous arguments.
_ANY_STRIDES = packets(
    """
    reshape permute expand slice select diagonal detach alias view as_strided unfold view_as_real
    view_as_complex _conj _neg_view clone copy contiguous cat stack index index_select index_put index_add
    index_copy gather scatter scatter_add scatter_reduce select_scatter slice_scatter diagonal_scatter
    diag_embed tril triu flip roll repeat constant_pad_nd embedding mm mv dot vdot bmm addmm addmv baddbmm
    convolution convolution_backward _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data
    native_layer_norm cumsum sum mean amax amin prod var std var_mean argmax argmin max min any all sort topk
    trace linalg_vector_norm where masked_fill select_backward slice_backward new_empty empty_like
    linalg_cholesky_ex linalg_solve_triangular _linalg_solve_ex linalg_lu_factor_ex linalg_lu_solve
    linalg_inv_ex _linalg_eigh linalg_qr _linalg_svd _linalg_det
    """
)
#: Element-wise operations that oneDNN runs in float32, and that fail on broadcast arguments.
_DENSE_ONLY = frozenset((aten.gelu, aten.gelu_backward))
#: Operations whose results are contiguous, whatever they read.
_CONTIGUOUS = frozenset((aten.contiguous, aten.full, aten.mm, aten.mv, aten.bmm, aten.diag_embed, aten.cat, aten.stack))


class Builder:
    """A graph under construction. ``spec``, ``fill`` and ``diagonal`` hold what is known of its nodes."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.attributes: dict[str, Any] = {}
        self.spec: dict[fx.Node, Any] = {}
        self.fill: dict[fx.Node, Fill] = {}
        self.diagonal: dict[fx.Node, Diagonal] = {}
        self.slabs: dict[fx.Node, Slabs] = {}
        self.constant: set[fx.Node] = set()
        self.order: dict[fx.Node, int] = {}
        self._known: dict[fx.Node, Tensor] = {}
        self._table: dict[Hashable, fx.Node] = {}

    # Nodes

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's value."""
        return self.spec[node].shape  # type: ignore[no-any-return]

    def infer(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Spec of a result, from the operation's own shape function."""

        def stand_in(node: fx.Node) -> Tensor:
            spec = self.spec[node]
            return torch.empty(spec.shape, dtype=spec.dtype, device="meta")

        moved = {k: v for k, v in kwargs.items() if k != "device"}
        try:
            with _disable_current_modes(), torch.no_grad():
                out = spec_of(target(*map_nodes(args, stand_in), **map_nodes(moved, stand_in)))
        except Exception as error:
            raise Unsupported(f"the shape of {target} is not known: {error}") from error
        device = kwargs.get("device") or next((self.spec[n].device for n in tensors_in(args)), torch.device("cpu"))
        if out is None or isinstance(out, Spec):
            return out and out._replace(device=torch.device(device))
        return tuple(o if o is None else o._replace(device=torch.device(device)) for o in out)

    def emit(
        self,
        target: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        spec: Any = None,
        *,
        fresh: bool = False,
    ) -> fx.Node:
        """The node of an operation: an earlier one where it has the same arguments, unless it must be ``fresh``."""
        kwargs = kwargs or {}
        if getattr(target, "overloadpacket", None) in _DENSE_ONLY:
            args = tuple(
                map_nodes(a, lambda x: self.emit(aten.contiguous.default, (x,), spec=self.spec[x])) for a in args
            )
        elif self._reads_memory(target):
            args = tuple(map_nodes(a, self.contiguous) for a in args)
            kwargs = {k: map_nodes(v, self.contiguous) for k, v in kwargs.items()}
        fresh = fresh or is_random(target) or writes(target)
        key: Hashable = None
        if not fresh:
            key = (target, freeze(args), tuple(sorted((k, freeze(v)) for k, v in kwargs.items())))
            if key in self._table:
                return self._table[key]
        if spec is None:
            spec = self.infer(target, args, kwargs)
        node = call(self.graph, target, args, dict(kwargs))
        self.spec[node] = spec
        self.order[node] = len(self.order)
        if key is not None:
            self._table[key] = node
            small = isinstance(spec, Spec) and spec.nbytes <= FOLD_BYTES
            if small and all(n in self.constant for n in node.all_input_nodes):
                self.constant.add(node)
        return node

    @staticmethod
    def _reads_memory(target: Any) -> bool:
        """Whether a kernel may not look at strides."""
        packet = getattr(target, "overloadpacket", None)
        return packet is not None and packet not in _ANY_STRIDES and torch.Tag.pointwise not in target.tags

    def contiguous(self, x: fx.Node) -> fx.Node:
        """x in row-major memory."""
        inner = self.arguments(x)[0] if self.is_reshape(x) else x
        known = inner in self.constant or getattr(inner.target, "overloadpacket", None) in _CONTIGUOUS
        if known or not isinstance(self.spec[x], Spec):
            return x
        return self.emit(aten.contiguous.default, (x,), spec=self.spec[x])

    def item(self, node: fx.Node, index: int) -> fx.Node:
        """One result of an operation with several."""
        return self.emit(operator.getitem, (node, index), spec=self.spec[node][index])

    def attribute(self, name: str, value: Any) -> fx.Node:
        """A tensor that the graph holds. Equal to an earlier one only where the object is the same."""
        key = ("get_attr", id(value))
        if key not in self._table:
            node = self.graph.create_node("get_attr", name, name=name)
            self.attributes[name] = value
            self.spec[node] = spec_of(value)
            self.order[node] = len(self.order)
            self._table[key] = node
            if name.startswith(FOLDED):
                self.constant.add(node)
                self._known[node] = value
        return self._table[key]

    def value(self, node: fx.Node) -> Tensor:
        """Value of a constant node; never to be written to."""
        waiting = [node]
        while waiting:
            top = waiting[-1]
            missing = [n for n in top.all_input_nodes if n not in self._known] if top not in self._known else []
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if top not in self._known:
                with _disable_current_modes(), torch._C._DisableFuncTorch(), torch.no_grad():
                    args, kwargs = map_nodes(top.args, self._known.get), map_nodes(top.kwargs, self._known.get)
                    self._known[top] = top.target(*args, **kwargs)  # type: ignore[operator]
        return self._known[node]

    # Constants

    def full(self, spec: Spec, value: Any, structural: bool = False) -> fx.Node:
        """A tensor of one number."""
        if spec.dtype.is_floating_point or spec.dtype.is_complex:
            value = float(value) if not isinstance(value, complex) else value
        args, kwargs = (tuple(spec.shape), value), {"dtype": spec.dtype, "device": spec.device}
        key = ("structural", args[0], freeze(value), spec.dtype, spec.device)
        node = self._table.get(key) if structural else None
        if node is None:
            node = self.emit(aten.full.default, args, kwargs, spec, fresh=structural)
            self.fill[node] = Fill(value, structural)
            if structural:
                self._table[key] = node
                if spec.nbytes <= FOLD_BYTES:
                    self.constant.add(node)
        return node

    def scalar(self, like: Spec, value: Any) -> fx.Node:
        """A number as a 0-d tensor, which is cheaper to dispatch than a Python number (0.95 against 1.28 µs)."""
        return self.full(like._replace(shape=()), value)

    def diag(self, values: fx.Node, shape: tuple[int, ...]) -> fx.Node:
        """The matrix with ``values`` [n] on its diagonal, as [n, \\*shape]."""
        spec = self.spec[values]
        n = spec.shape[0]
        if n == 1:
            return self.reshape(values, (1, *shape))
        square = self.emit(aten.diag_embed.default, (values,), spec=spec._replace(shape=(n, n)))
        self.diagonal[square] = Diagonal(values)
        return self.reshape(square, (n, *shape))

    def slab(self, spec: Spec, slabs: Slabs) -> fx.Node:
        """The tensor that has these pieces: padded, concatenated or stacked."""
        axis, pieces = slabs
        length = spec.shape[axis]
        start, stop, first = pieces[0]
        if len(pieces) == 1:
            pad = (0, 0) * (len(spec.shape) - 1 - axis) + (start, length - stop)
            node = self.emit(aten.constant_pad_nd.default, (first, pad, 0.0), spec=spec) if any(pad) else first
        else:
            parts: list[fx.Node] = []
            end = 0
            for start, stop, value in (*pieces, (length, length, first)):
                thin = all(b - a == 1 for a, b, _ in pieces) and length <= 2 * len(pieces)
                gaps = [1] * (start - end) if thin else [start - end] * (start > end)
                for width in gaps:
                    shape = (*spec.shape[:axis], width, *spec.shape[axis + 1 :])
                    parts.append(self.full(spec._replace(shape=shape), 0.0, True))
                parts += [value] * (stop > start)
                end = stop
            if all(self.shape(p)[axis] == 1 for p in parts):
                flat = spec.shape[:axis] + spec.shape[axis + 1 :]
                parts = [self.reshape(p, flat) for p in parts]
                node = self.emit(aten.stack.default, (tuple(parts), axis), spec=spec)
            else:
                node = self.emit(aten.cat.default, (tuple(parts), axis), spec=spec)
        self.slabs[node] = slabs
        return node

    # Views

    def _is(self, node: fx.Node, target: Any) -> bool:
        return node.op == "call_function" and node.target is target

    def arguments(self, node: fx.Node) -> tuple[fx.Node, tuple[int, ...]]:
        """(input, shape or order) of a view in normal form."""
        return node.args[0], node.args[1]  # type: ignore[return-value]

    def is_reshape(self, node: fx.Node) -> bool:
        """Whether the node is a reshape."""
        return self._is(node, aten.reshape.default)

    def is_permute(self, node: fx.Node) -> bool:
        """Whether the node is a permutation of axes."""
        return self._is(node, aten.permute.default)

    def is_expand(self, node: fx.Node) -> bool:
        """Whether the node is an expansion."""
        return self._is(node, aten.expand.default)

    def reshape(self, x: fx.Node, shape: Sequence[int]) -> fx.Node:
        """Same elements in row-major order."""
        shape = tuple(shape)
        old = self.shape(x)
        if old == shape:
            return x
        if x in self.fill:
            return self.full(self.spec[x]._replace(shape=shape), *self.fill[x])
        if self.is_reshape(x):
            return self.reshape(self.arguments(x)[0], shape)
        if without_ones(old) == without_ones(shape):
            if self.is_expand(x):
                inner, _ = self.arguments(x)
                padded = (1,) * (len(old) - len(self.shape(inner))) + self.shape(inner)
                kept = iter([p for p, s in zip(padded, old, strict=True) if s != 1])
                return self.expand(self.reshape(inner, tuple(1 if s == 1 else next(kept) for s in shape)), shape)
            if self.is_permute(x):
                inner, order = self.arguments(x)
                source = self.shape(inner)
                kept_axes = [a for a in range(len(source)) if source[a] != 1]
                ones = len(shape) - len(kept_axes)
                core = self.reshape(inner, (*(source[a] for a in kept_axes), *((1,) * ones)))
                moved = iter([kept_axes.index(a) for a in order if source[a] != 1])
                last = iter(range(len(kept_axes), len(shape)))
                return self.permute(core, tuple(next(last) if s == 1 else next(moved) for s in shape))
        node = self.emit(aten.reshape.default, (x, shape), spec=self.spec[x]._replace(shape=shape))
        if x in self.diagonal and shape and shape[0] == old[0] and math.prod(shape[1:]) == shape[0]:
            self.diagonal[node] = self.diagonal[x]
        return node

    def permute(self, x: fx.Node, order: Sequence[int]) -> fx.Node:
        """Axes in another order."""
        old = self.shape(x)
        order = tuple(a % len(old) for a in order)
        if order == tuple(range(len(old))):
            return x
        shape = tuple(old[a] for a in order)
        if x in self.fill:
            return self.full(self.spec[x]._replace(shape=shape), *self.fill[x])
        moving = [a for a in order if old[a] != 1]
        if moving == sorted(moving):
            return self.reshape(x, shape)
        if self.is_permute(x):
            inner, first = self.arguments(x)
            return self.permute(inner, tuple(first[a] for a in order))
        if self.is_expand(x):
            inner, _ = self.arguments(x)
            padded = (1,) * (len(old) - len(self.shape(inner))) + self.shape(inner)
            return self.expand(self.permute(self.reshape(inner, padded), order), shape)
        if x in self.diagonal and len(old) == 2:
            return x
        if self._is(x, aten.mm.default):
            a, b = tensors_in(x.args)
            if self.is_permute(a) and self.is_permute(b):  # (AᵀBᵀ)ᵀ = BA
                spec = self.spec[x]._replace(shape=shape)
                return self.emit(aten.mm.default, (self.arguments(b)[0], self.arguments(a)[0]), spec=spec)
        if x.target is aten.mul.Tensor and x not in self.constant:
            factors = tensors_in(x.args)
            if any(self.is_permute(f) and self._undoes(order, f) for f in factors):
                turned = (self._permute_padded(f, order) for f in factors)
                return self.emit(aten.mul.Tensor, tuple(turned), spec=self.spec[x]._replace(shape=shape))
        return self.emit(aten.permute.default, (x, order), spec=self.spec[x]._replace(shape=shape))

    def _undoes(self, order: tuple[int, ...], x: fx.Node) -> bool:
        first = self.arguments(x)[1]
        return len(first) == len(order) and all(first[a] == i for i, a in enumerate(order))

    def _permute_padded(self, x: fx.Node, order: tuple[int, ...]) -> fx.Node:
        """A factor of a broadcast product with its axes in another order."""
        old = self.shape(x)
        return self.permute(self.reshape(x, (1,) * (len(order) - len(old)) + old), order) if old else x

    def transpose(self, x: fx.Node) -> fx.Node:
        """A matrix with its axes exchanged."""
        return self.permute(x, (1, 0))

    def expand(self, x: fx.Node, shape: Sequence[int]) -> fx.Node:
        """Repeated along axes of size 1 and along new leading axes."""
        shape = tuple(shape)
        old = self.shape(x)
        if old == shape:
            return x
        if x in self.fill:
            return self.full(self.spec[x]._replace(shape=shape), *self.fill[x])
        if self.is_expand(x):
            return self.expand(self.arguments(x)[0], shape)
        if math.prod(old) == math.prod(shape):
            return self.reshape(x, shape)
        return self.emit(aten.expand.default, (x, shape), spec=self.spec[x]._replace(shape=shape))

    def unexpanded(self, x: fx.Node) -> fx.Node:
        """What was expanded."""
        return self.arguments(x)[0] if self.is_expand(x) else x

    def slice(self, x: fx.Node, axis: int, start: int, stop: int, step: int = 1) -> fx.Node:
        """Elements start, start + step, ... before stop along an axis; bounds are in range."""
        old = self.shape(x)
        axis %= len(old)
        stop = max(start, stop)
        count = -(-(stop - start) // step)
        if start == 0 and step == 1 and stop == old[axis]:
            return x
        shape = (*old[:axis], count, *old[axis + 1 :])
        if x in self.fill:
            return self.full(self.spec[x]._replace(shape=shape), *self.fill[x])
        if self._is(x, aten.slice.Tensor) and step == 1:
            inner, other, first, _, stride = x.args
            if other == axis and stride == 1:
                return self.slice(inner, axis, first + start, first + stop)  # type: ignore[arg-type, operator]
        if self._is(x, aten.cat.default) and x.args[1] == axis and step == 1:
            offset = 0
            for part in tensors_in(x.args[0]):
                size = self.shape(part)[axis]
                if offset <= start and stop <= offset + size:
                    return self.slice(part, axis, start - offset, stop - offset)
                offset += size
        args = (x, axis, start, stop, step)
        return self.emit(aten.slice.Tensor, args, spec=self.spec[x]._replace(shape=shape))

    def select(self, x: fx.Node, axis: int, index: int) -> fx.Node:
        """One element along an axis, which is dropped."""
        old = self.shape(x)
        axis %= len(old)
        index %= old[axis]
        shape = old[:axis] + old[axis + 1 :]
        if self._is(x, aten.stack.default) and x.args[1] == axis:
            return tensors_in(x.args[0])[index]
        if self._is(x, aten.cat.default) and x.args[1] == axis:
            return self.reshape(self.slice(x, axis, index, index + 1), shape)
        if old[axis] == 1 or x in self.fill:
            return (
                self.reshape(x, shape)
                if old[axis] == 1
                else self.full(self.spec[x]._replace(shape=shape), *self.fill[x])
            )
        return self.emit(aten.select.int, (x, axis, index), spec=self.spec[x]._replace(shape=shape))

    # The end

    def finish(self, output: Any) -> fx.GraphModule:
        """The live part of the graph, with constants evaluated and pairs of operations fused."""
        self.graph.output(output)
        self._fold_live()
        for node in reversed(self.graph.nodes):
            if not node.users and node.op in ("call_function", "get_attr") and not is_effect(node.target):
                self.graph.erase_node(node)
        used = {str(n.target): self.attributes[str(n.target)] for n in self.graph.nodes if n.op == "get_attr"}
        for node in self.graph.nodes:
            if node in self.spec:
                node.meta["spec"] = self.spec[node]
        return graph_module(self.graph, used)

    def _fold_live(self) -> None:
        live: set[fx.Node] = set()
        for node in reversed(self.graph.nodes):
            if node in live or node.op in ("output", "placeholder") or is_effect(node.target):
                live.add(node)
                if node not in self.constant:
                    live.update(node.all_input_nodes)
        for node in list(self.graph.nodes):
            if node not in live or node not in self.constant or node.op == "get_attr":
                continue
            # a view of shared memory would pin all of it, and an expanded one is slower to read
            value = self.value(node).clone(memory_format=torch.contiguous_format)
            name = f"{FOLDED}{len(self.attributes)}"
            self.attributes[name] = value
            with self.graph.inserting_before(node):
                held = self.graph.create_node("get_attr", name, name=name)
            self.spec[held] = self.spec[node]
            self._known[held] = value
            self.constant.add(held)
            node.replace_all_uses_with(held)
