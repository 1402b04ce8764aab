"""A NumPy function at one point: products by differences along a direction, and by the whole Jacobian in reverse."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from crelle import _trees
from crelle._prepare import Space as Kept
from crelle.backends._protocol import Call
from crelle.backends.numpy import BACKEND, products
from crelle.backends.numpy.vectors import cut, join
from crelle.operators._spaces import common_dtype


class NumpyLinearised:
    """See :class:`crelle.operators._linearised.Linearised`."""

    notes: tuple[str, ...] = ("derivatives of NumPy functions are differences: an estimate, not exact to rounding",)

    def __init__(self, call: Call) -> None:
        self._hessian, self.inputs, self._tree = call.request.kind == "hessian", call.inputs, call.in_tree
        self._point = _trees.unflatten(call.in_tree, [np.array(leaf) for leaf in call.active])
        positions, args, kwargs = call.request.argnums_tuple, call.args, call.kwargs
        several = isinstance(call.request.argnums, tuple)

        def f(point: Any) -> Any:
            given = list(args)
            for i, value in zip(positions, point if several else (point,), strict=True):
                given[i] = value
            found = call.f(*given, **kwargs)
            return found[0] if call.request.has_aux else found

        self._f = f
        self.value = f(self._point)
        leaves, tree = _trees.flatten(self.value)
        self.outputs = call.inputs if self._hessian else tuple(BACKEND.array_type(leaf) for leaf in leaves)
        self.out_tree = call.in_tree if self._hessian else tree

    @property
    def kept_bytes(self) -> int:
        """The point."""
        return sum(t.nbytes for t in self.inputs)

    def push(self, block: Any) -> Any:
        """v ↦ J v, row by row."""
        rows = []
        for i in range(len(block)):
            v = _trees.unflatten(self._tree, [leaf[0] for leaf in cut(block[i : i + 1], self.inputs)])
            if self._hessian:
                rows.append(self._row(products.hvp(self._f, (self._point,), (v,))[1][0]))
            else:
                rows.append(self._row(products.jvp(self._f, (self._point,), (v,), False)[1]))
        return self._block(rows, self.outputs)

    def pull(self, block: Any) -> Any:
        """u ↦ Jᵀ u, row by row."""
        if self._hessian:
            return self.push(block)
        rows = []
        for i in range(len(block)):
            u = _trees.unflatten(self.out_tree, [leaf[0] for leaf in cut(block[i : i + 1], self.outputs)])
            rows.append(self._row(self._pull(u)[0]))
        return self._block(rows, self.inputs)

    @functools.cached_property
    def _pull(self) -> Any:
        return products.vjp(self._f, (self._point,), False)[1]

    def _row(self, tree: Any) -> Any:
        leaves = [np.asarray(leaf)[None] for leaf in _trees.flatten(tree)[0]]
        return join(leaves, common_dtype(tuple(BACKEND.array_type(leaf) for leaf in leaves)))

    def _block(self, rows: list[Any], types: Any) -> Any:
        return np.concatenate(rows) if rows else np.zeros((0, sum(t.size for t in types)), common_dtype(types))


def linearised(call: Call, kept: Kept) -> NumpyLinearised:
    """f at the point of the call."""
    return NumpyLinearised(call)
