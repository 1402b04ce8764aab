"""Orthonormal vectors that stay on their device, and are added one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.operators._vectors import Vectors

#: Rows of a block: shapes do not change from step to step, so that one compilation serves all.
ROWS = 16


class Basis:
    """Rows [count, n], in blocks of ``ROWS``: it grows without being copied, and what is not used is zero.

    Attributes:
        count: number of vectors.
    """

    def __init__(self, vectors: Vectors, rows: int = ROWS) -> None:
        self._vectors, self._rows = vectors, rows
        self._blocks: list[Any] = []
        self.count = 0
        self._sweep = vectors.compiled(_sweep)

    def __len__(self) -> int:
        return self.count

    def append(self, vector: Any) -> None:
        """One more row; it is orthogonal to the others, and has norm 1."""
        block, row = divmod(self.count, self._rows)
        if block == len(self._blocks):
            self._blocks.append(self._vectors.zeros(self._rows, vector.shape[0], vector))
        self._blocks[block] = self._vectors.put(self._blocks[block], row, vector)
        self.count += 1

    def row(self, index: int) -> Any:
        """One of the vectors."""
        block, row = divmod(index, self._rows)
        return self._blocks[block][row]

    def truncate(self, count: int) -> None:
        """Forget all but the first vectors."""
        for index in range(count, self.count):
            block, row = divmod(index, self._rows)
            self._blocks[block] = self._vectors.put(self._blocks[block], row, 0 * self._blocks[block][row])
        self.count = min(count, self.count)
        del self._blocks[-(-self.count // self._rows) :]

    def project_out(self, vector: Any) -> Any:
        """w - QᵀQ w, the newest rows first: their share is the largest."""
        for block in reversed(self._blocks):
            vector = self._sweep(block, vector)
        return vector

    def combine(self, coefficients: Any) -> Any:
        """[r, count] -> [r, n]: r combinations of the vectors."""
        size = len(self._blocks) * self._rows
        padded = np.zeros((len(coefficients), size))
        padded[:, : self.count] = coefficients
        total = None
        for index, block in enumerate(self._blocks):
            part = padded[:, index * self._rows : (index + 1) * self._rows]
            made = self._vectors.from_host(part, block) @ block
            total = made if total is None else total + made
        return total

    def replace(self, coefficients: Any) -> None:
        """Put combinations of the vectors in their place."""
        made = self.combine(coefficients)
        self.truncate(0)
        for index in range(len(coefficients)):
            self.append(made[index])


def _sweep(block: Any, vector: Any) -> Any:
    return vector - (block @ vector) @ block
