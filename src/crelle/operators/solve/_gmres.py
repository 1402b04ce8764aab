"""GMRES (Saad & Schultz 1986), restarted, with the preconditioner on the right; each row of a block on its own.

The basis stays on the device. Its small Hessenberg matrices go to the host every few steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.operators.solve._rounds import Round, Watch, finite
from crelle.operators.solve._system import System, norm, safe

#: Vectors of a basis that are kept before a restart.
RESTART = 50
#: The basis is used in steps of this many rows, so that shapes seldom change.
_ROWS = 10


class GeneralMinimalResiduals:
    """A x = b for a square A: one product a step, ``RESTART`` + 1 vectors kept for each row."""

    name = "gmres"

    def run(self, system: System, r: Any, goal: Any, rtol: float, watch: Watch) -> Round:
        """One cycle from x = 0."""
        vectors, (k, n) = system.vectors, r.shape
        size = min(RESTART, n)
        beta = norm(r)
        basis = vectors.zeros((size + 1) * k, n, r).reshape(size + 1, k, n)
        basis = vectors.put(basis, 0, r / safe(beta))
        fetched = np.asarray(watch.to_host(beta), float)[:, 0]
        hessenberg = np.zeros((k, size + 1, size))
        columns: list[Any] = []
        weights = np.zeros((k, 0))
        partial = False
        try:
            for j in range(size):
                used = min(_ROWS * (j // _ROWS + 1), size + 1)
                q = system.push(system.precondition(basis[j]))
                vector, after, column = vectors.compiled(_orthogonalised)(basis[:used], q, watch.epsilon)
                basis = vectors.put(basis, j + 1, vector)
                columns.append(vectors.join([after, column, vectors.zeros(k, size + 1 - used, r)], watch.dtype))
                last = j == size - 1 or system.products >= watch.budget
                if not last and len(columns) < watch.every:
                    continue
                found = np.asarray(watch.to_host(vectors.stack(columns)), float)
                finite(found, watch, system.products)
                for i, col in enumerate(found, j + 1 - len(columns)):
                    hessenberg[:, : i + 1, i] = col[:, 1 : i + 2]
                    hessenberg[:, i + 1, i] = col[:, 0]
                columns = []
                weights, left = _minimal(hessenberg[:, : j + 2, : j + 1], fetched)
                watch.show(left)
                if last or np.all(left <= goal):
                    break
        except KeyboardInterrupt:
            partial = True
        if weights.shape[1] == 0:
            return Round(r * 0, 0 * fetched, np.zeros(k, bool), partial)
        host = np.zeros((k, 1, size + 1))
        host[:, 0, : weights.shape[1]] = weights
        x = (vectors.from_host(host, r) @ basis.swapaxes(0, 1))[:, 0]
        return Round(system.precondition(x), 0 * fetched, np.zeros(k, bool), partial)


def _orthogonalised(basis: Any, q: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """q made orthogonal to the basis, twice, of norm 1 or, if nothing is left, 0; that norm, and products [k, rows]."""
    rows = basis.swapaxes(0, 1)
    before = norm(q)
    first = rows @ q[:, :, None]
    q = q - (first.swapaxes(1, 2) @ rows)[:, 0]
    second = rows @ q[:, :, None]
    q = q - (second.swapaxes(1, 2) @ rows)[:, 0]
    after = norm(q)
    after = after * (after > 10 * epsilon * before)
    column = (first + second)[:, :, 0]
    return q * (after > 0) / safe(after), after, column


def _minimal(hessenberg: Any, beta: Any) -> tuple[Any, Any]:
    """y that minimises ‖β e₁ - H y‖ for each row, and that minimum."""
    k, rows, cols = hessenberg.shape
    weights, left = np.zeros((k, cols)), np.zeros(k)
    for i in range(k):
        target = np.zeros(rows)
        target[0] = beta[i]
        weights[i] = np.linalg.lstsq(hessenberg[i], target, rcond=None)[0]
        left[i] = np.linalg.norm(target - hessenberg[i] @ weights[i])
    return weights, left
