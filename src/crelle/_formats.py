"""What a sparse result is handed over as: a sparse array of the framework or of SciPy, triplets, blocks, bands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from crelle._arrays import ArrayType, bytes_text
from crelle._errors import CrelleMemoryError, CrelleValueError, describe
from crelle.backends._protocol import Backend
from crelle.pattern import SparsityPattern
from crelle.tangent.structure import Structure, find_structure

#: Formats that keep zeros around entries are refused where they are this many times larger than the entries.
_WASTE = 64
_SMALL = 1 << 20


class Format:
    """How the entries of one pattern, in CSR order, become the result. Index arrays are made once."""

    def __init__(
        self, name: str, pattern: SparsityPattern, inputs: tuple[ArrayType, ...], outputs: tuple[ArrayType, ...],
        text: str, part: Any = None, flat: bool = True,
    ) -> None:  # fmt: skip
        self.name, self.pattern, self.inputs, self.outputs, self.text = name, pattern, inputs, outputs, text
        self.part = part
        self.flat = flat
        self._make: Callable[[Any], Any] | None = None
        self._blocks_of_tree: list[list[Callable[[Any], Any]]] | None = None

    def __call__(self, backend: Backend, data: Any) -> Any:
        """The result; differentiable, and inside of transformations, where it stays in the framework.

        One matrix, or the blocks [output][input] of a tree.
        """
        if self.flat:
            return self._one(backend, data)
        if len(self.inputs) == len(self.outputs) == 1:
            return [[self._one(backend, data)]]
        if self._blocks_of_tree is None:
            self._blocks_of_tree = self._grid(backend)
        return [[make(data) for make in row] for row in self._blocks_of_tree]

    def _grid(self, backend: Backend) -> list[list[Callable[[Any], Any]]]:
        """For every block of a tree what makes it of the entries of all."""
        row_ends, col_ends = (np.cumsum([t.size for t in types]) for types in (self.outputs, self.inputs))
        rows, cols = self.pattern.rows, self.pattern.indices
        at_row, at_col = (np.searchsorted(ends, at, "right") for ends, at in ((row_ends, rows), (col_ends, cols)))

        def maker(i: int, j: int) -> Callable[[Any], Any]:
            at = np.flatnonzero((at_row == i) & (at_col == j))
            out, in_ = self.outputs[i], self.inputs[j]
            where = (rows[at] - (row_ends[i] - out.size), cols[at] - (col_ends[j] - in_.size))
            pattern = SparsityPattern.from_triplets(*where, (out.size, in_.size))
            block, take = Format(self.name, pattern, (in_,), (out,), self.text), backend.placer(at)
            return lambda data: block(backend, take(data))

        return [[maker(i, j) for j in range(len(self.inputs))] for i in range(len(self.outputs))]

    def _one(self, backend: Backend, data: Any) -> Any:
        if self.name == "triplets":
            return self.pattern.rows, self.pattern.indices, data
        if self.name in ("csr", "csc", "coo"):
            return self._on_host(backend.to_host(data))
        if self._make is None:
            self._make = backend.sparse(self.pattern) if self.name == "sparse" else backend.placer(self.place)
        return self._make(data)

    def _on_host(self, data: Any) -> Any:
        import scipy.sparse as sp

        pattern = self.pattern
        if self.name == "coo":
            return sp.coo_array((data, (pattern.rows, pattern.indices)), shape=pattern.shape)
        empty, order = self._template
        kind: Any = type(empty)
        made = kind(empty)  # shares the indices, which are not looked at again
        made.data = data if order is None else data[order]
        made.has_canonical_format = made.has_sorted_indices = True
        return made

    @cached_property
    def _template(self) -> tuple[Any, Any]:
        """A SciPy array with these indices, and the order of its entries."""
        import scipy.sparse as sp

        pattern = self.pattern
        nothing = np.zeros(pattern.nnz)
        if self.name == "csr":
            return sp.csr_array((nothing, pattern.indices, pattern.indptr), shape=pattern.shape), None
        order = np.argsort(pattern.indices, kind="stable")
        counts = np.bincount(pattern.indices, minlength=pattern.shape[1])
        indptr = np.append(0, np.cumsum(counts)).astype(pattern.indptr.dtype)
        return sp.csc_array((nothing, pattern.rows[order], indptr), shape=pattern.shape), order

    @cached_property
    def place(self) -> Any:
        """For each element of the result which entry it is; -1 for zero."""
        makers = {"blocks": self._blocks, "banded": self._banded, "diagonal": self._diagonal}
        return makers[self.name]()

    def _diagonal(self) -> Any:
        rows = self.pattern.rows
        at = np.flatnonzero(rows == self.pattern.indices)
        place = np.full(min(self.pattern.shape), -1)
        place[rows[at]] = at
        return place

    def _banded(self) -> Any:
        """LAPACK's storage: row u + i - j of column j holds entry (i, j)."""
        if isinstance(self.part, tuple) and self.part[0] == "band":
            lower, upper = self.part[1:]
        else:
            lower, upper = (max(width, 0) for width in self.pattern.bandwidth)
        self._refuse_waste((lower + upper + 1) * self.pattern.shape[1], f"{lower + 1 + upper:,} diagonals")
        place = np.full((lower + upper + 1, self.pattern.shape[1]), -1)
        rows, cols = self.pattern.rows, self.pattern.indices
        place[upper + rows - cols, cols] = np.arange(self.pattern.nnz)
        return place

    def _blocks(self) -> Any:
        """[B, m, n]; the batch axes come first if there are several."""
        if isinstance(self.part, tuple) and self.part[0] == "blocks":
            _, m, n = self.part
            i, j = self.pattern.rows, self.pattern.indices
            place = np.full((self.pattern.shape[0] // m, m, n), -1)
            place[i // m, i % m, j % n] = np.arange(self.pattern.nnz)
            return place
        structure = find_structure(self.pattern, self.inputs, self.outputs)
        blocks = structure.blocks
        shapes = set(zip(blocks.heights.tolist(), blocks.widths.tolist(), strict=True))
        coupling = self._coupling()
        if len(shapes) != 1 or (len(blocks) == 1 and coupling):
            raise CrelleValueError(
                describe(
                    f"{self.text}: format='blocks' needs independent blocks of one shape",
                    called=structure.sentence,
                    likely=coupling or None,
                    try_='format="sparse", or part=("blocks", rows, columns) for blocks along the diagonal',
                )
            )
        ((m, n),) = shapes
        count = len(blocks)
        self._refuse_waste(count * m * n, f"{count:,} blocks of {m:,}×{n:,}")
        block_of = np.full(self.pattern.shape[0], -1)
        place_row, place_col = np.zeros(self.pattern.shape[0], int), np.zeros(self.pattern.shape[1], int)
        rows, cols = blocks.row_order.reshape(count, m), blocks.col_order.reshape(count, n)
        block_of[rows] = np.arange(count)[:, None]
        place_row[rows], place_col[cols] = np.arange(m), np.arange(n)
        place = np.full((count, m, n), -1)
        i, j = self.pattern.rows, self.pattern.indices
        place[block_of[i], place_row[i], place_col[j]] = np.arange(self.pattern.nnz)
        return place.reshape((*_batch(structure, count), m, n))

    def _coupling(self) -> str:
        """An entry that couples two samples of a batch, if there is a batch and such an entry."""
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            return ""
        (input_,), (output,) = self.inputs, self.outputs
        if not (input_.shape and output.shape and input_.shape[0] == output.shape[0] > 1 and self.pattern.nnz):
            return ""
        rows, cols, count = self.pattern.rows, self.pattern.indices, input_.shape[0]
        apart = np.flatnonzero(rows // (output.size // count) != cols // (input_.size // count))
        if not len(apart):
            return ""
        i, j = ([int(k) for k in np.unravel_index(at[apart[0]], t.shape)] for at, t in ((rows, output), (cols, input_)))
        return f"entry {i} of the output depends on entry {j} of the input, which belongs to another sample"

    def _refuse_waste(self, size: int, what: str) -> None:
        if size > _SMALL and size > _WASTE * max(self.pattern.nnz, 1):
            raise CrelleMemoryError(
                describe(
                    f"{self.text}: format={self.name!r} would hold {what} for {self.pattern.nnz:,} entries",
                    called=f"{size:,} numbers, {bytes_text(8 * size)}",
                    try_='format="sparse"',
                )
            )


def _batch(structure: Structure, count: int) -> tuple[int, ...]:
    sizes = tuple(b.size for b in structure.batch_axes if b.complete)
    return sizes if int(np.prod(sizes, dtype=np.int64)) == count else (count,)
