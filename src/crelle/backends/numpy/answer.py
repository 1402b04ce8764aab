"""The shape of the answer: which entries are wanted, and the flat matrix as the user's trees of arrays, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle import _trees
from crelle._arrays import ArrayType
from crelle._request import Request
from crelle._select import Selected
from crelle.backends._protocol import Call
from crelle.backends.numpy.function import Result

Array = np.ndarray[Any, np.dtype[Any]]


class Wanted:
    """The rows and columns that must be computed for a selection, and where their entries go.

    Attributes:
        rows, cols: sorted and unique; of the flat m × n matrix.
    """

    def __init__(self, selected: Selected, m: int, n: int) -> None:
        self._selected = selected
        pairs = selected.entries
        wanted_rows = pairs[0] if pairs else np.arange(m) if selected.rows is None else selected.rows
        wanted_cols = pairs[1] if pairs else np.arange(n) if selected.cols is None else selected.cols
        self.rows, self._row_of = np.unique(wanted_rows, return_inverse=True)
        self.cols, self._col_of = np.unique(wanted_cols, return_inverse=True)
        self.pairs = (self._row_of, self._col_of) if pairs else None

    def empty(self, dtype: np.dtype[Any]) -> Array:
        """What is filled: a matrix of the wanted rows and columns, or a vector of the wanted entries."""
        shape = (len(self.rows), len(self.cols)) if self.pairs is None else (len(self.pairs[0]),)
        return np.zeros(shape, dtype)

    def put_columns(self, store: Array, start: int, columns: Array) -> None:
        """Write columns [k, rows], the first of which is ``cols[start]``."""
        stop = start + len(columns)
        with np.errstate(over="ignore"):  # the user's dtype may be narrower than what differences are made in
            if self.pairs is None:
                store[:, start:stop] = columns.T
                return
            row, col = self.pairs
            mine = (col >= start) & (col < stop)
            store[mine] = columns[col[mine] - start, row[mine]]

    def only(self, row: int, col: int) -> Wanted:
        """A single entry, as a matrix with one row and one column."""
        one = np.asarray([row], np.intp), np.asarray([col], np.intp)
        return Wanted(Selected(*one, None, False, False), 0, 0)

    def matrix(self, given: Array) -> Array:
        """A flat answer as a matrix of the wanted rows and columns, each once."""
        s = self._selected
        if s.drop_row:
            given = given[None]
        if s.drop_col:
            given = given[:, None]
        if given.ndim == 1:  # a gradient
            given = given[None]
        for axis, index in enumerate((self._row_of, self._col_of)):
            if len(index):
                given = given.take(np.unique(index, return_index=True)[1], axis)
        return given

    def finish(self, store: Array) -> Array:
        """The selection: rows and columns as often and in the order as asked for; single ones without their axis."""
        s = self._selected
        if self.pairs is not None:
            return store[0] if s.drop_row else store
        if s.rows is not None and (len(self._row_of) != len(self.rows) or np.any(np.diff(self._row_of) < 0)):
            store = store[self._row_of]
        if s.cols is not None and (len(self._col_of) != len(self.cols) or np.any(np.diff(self._col_of) < 0)):
            store = store[:, self._col_of]
        if s.drop_col:
            store = store[:, 0]
        return store[0] if s.drop_row else store


@dataclass(frozen=True, slots=True)
class Layout:
    """Types of the rows (outputs, or inputs for a Hessian) and the columns, and their trees."""

    outer: tuple[ArrayType, ...]
    inner: tuple[ArrayType, ...]
    outer_tree: _trees.TreeDef | None
    inner_tree: _trees.TreeDef

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the flat matrix."""
        return np.result_type(*(np.dtype(t.dtype) for t in (*self.outer, *self.inner)))

    def blocks(self, matrix: Array, real: bool) -> Any:
        """The matrix as a tree of outputs, each of which is a tree of inputs."""
        rows: list[list[Any]] = []
        start = 0
        for o in self.outer:
            row: list[Any] = []
            left = 0
            for i in self.inner:
                part = matrix[start : start + o.size, left : left + i.size].reshape(o.shape + i.shape)
                kind = np.dtype(i.dtype) if self.outer_tree is None else np.result_type(o.dtype, i.dtype)
                kind = np.zeros(0, kind).real.dtype if real else kind
                with np.errstate(over="ignore"):
                    row.append(np.ascontiguousarray(part.astype(kind, copy=False)).reshape(part.shape))
                left += i.size
            start += o.size
            rows.append(row)
        return self.tree(rows)

    def tree(self, rows: list[list[Any]]) -> Any:
        """Blocks as a tree of outputs, each of which is a tree of inputs."""
        inner = [_trees.unflatten(self.inner_tree, row) for row in rows]
        return inner[0] if self.outer_tree is None else _trees.unflatten(self.outer_tree, inner)

    def product(self, derivative: Any, v: Array) -> Array:
        """J v from the blocks, without putting the matrix together."""
        leaves = iter(_trees.flatten(derivative)[0])
        parts = []
        for o in self.outer:
            total: Any = 0.0
            left = 0
            for i in self.inner:
                total = total + next(leaves).reshape(o.size, i.size) @ v[left : left + i.size]
                left += i.size
            parts.append(np.broadcast_to(total, (o.size,)))
        return np.concatenate(parts)


def layout_of(call: Call, result: Result) -> Layout:
    """How the answer to a call is laid out. A gradient has no outer tree: it is shaped like the input."""
    kind = call.request.kind
    if kind == "hessian":
        return Layout(call.inputs, call.inputs, call.in_tree, call.in_tree)
    return Layout(result.types, call.inputs, None if kind == "gradient" else result.tree, call.in_tree)


def assemble(call: Call, result: Result, layout: Layout, parts: Sequence[Array]) -> Any:
    """The user's answer. ``parts`` are the flat derivative and, if asked for, its errors."""
    request = call.request
    shaped = []
    for index, part in enumerate(parts):
        if request.flat:
            shaped.append(part[0] if request.kind == "gradient" else part)
        else:
            shaped.append(layout.blocks(part, real=index > 0))
    return beside(request, result, shaped)


def beside(request: Request, result: Result, shaped: list[Any]) -> Any:
    """A derivative, and its errors if there are any, with value and aux.

    ``value`` stands before the derivative, its error after it, ``aux`` with the value or at the end:
    ``((value, aux), J, error)``, ``(J, error, aux)``.
    """
    if request.value:
        shaped.insert(0, (result.output, result.aux) if request.has_aux else result.output)
    elif request.has_aux:
        shaped.append(result.aux)
    return tuple(shaped) if len(shaped) > 1 else shaped[0]


def derivative_of(call: Call, answer: Any) -> tuple[Any, Any | None]:
    """The derivative in an answer, and its errors if it has them."""
    request = call.request
    items = answer if request.value or request.error or request.has_aux else (answer,)
    first = 1 if request.value else 0
    return items[first], items[first + 1] if request.error else None


def nonfinite_text(name: str, tree: Any) -> str:
    """Where a tree first holds NaN or inf: ``derivative [2, 0] is nan, and 3 more``; empty if nowhere."""
    for path, leaf in zip(_trees.paths(tree), _trees.flatten(tree)[0], strict=True):
        text = _nonfinite(name + path, np.asarray(leaf))
        if text:
            return text
    return ""


def _nonfinite(name: str, array: Array) -> str:
    bad = ~np.isfinite(array)
    if not bad.any():
        return ""
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    more = int(bad.sum()) - 1
    where = f" [{', '.join(map(str, index))}]" if array.shape else ""
    return f"{name}{where} is {array[index]}" + (f", and {more:,} more" if more else "")
