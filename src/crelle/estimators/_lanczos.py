"""The Lanczos process: a symmetric matrix made tridiagonal, from one vector. Eigenpairs and quadratures rest on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle.estimators._basis import Basis
from crelle.estimators._krylov import Floats, Krylov

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

#: Products between two looks at the numbers.
BATCH = 10


@dataclass(frozen=True, eq=False)
class Tridiagonal:
    """A Qᵀ = Qᵀ T + β_m r e_mᵀ: T tridiagonal with the diagonal α and β_1 ... β_{m-1} beside it.

    Attributes:
        alphas: α [m].
        betas: β [m]; the last one leads out of the space, and is 0 where the space is invariant.
        basis: Q, rows [m, n] on the device.
        steps: m, at most the number asked for, and products that it took.
        breakdown: whether the space is invariant, before all steps were done or after: eigenvalues of T are
            eigenvalues of A.
    """

    alphas: Floats
    betas: Floats
    basis: Basis
    steps: int
    breakdown: bool


def lanczos(
    operator: Operator,
    start: Any,
    steps: int,
    *,
    what: str = "lanczos",
    basis: Basis | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tridiagonal:
    """Run the Lanczos process with full reorthogonalisation (Lanczos 1950; Paige 1972; Parlett 1998, chapter 13).

    Vectors stay on the device; numbers are looked at after each ``BATCH`` of products.

    Args:
        operator: symmetric [n, n].
        start: [n], of any norm but 0.
        steps: largest m; an invariant subspace ends it earlier.
        what: the question, for messages.
        basis: of an earlier run, whose memory is used again; its vectors are lost.
        progress: called with the number of products so far.

    Raises:
        CrelleValueError: a product is NaN or infinite.
    """
    space = Krylov(operator, what, basis)
    alive = space.seed(start)
    while alive and space.size < steps:
        alive = space.extend(min(BATCH, steps - space.size))
        if progress is not None:
            progress(space.size)
    out = space.coupling[-1, -1:] if alive and space.size else np.zeros(min(space.size, 1))
    betas = np.concatenate([np.diagonal(space.projected, 1), out])
    return Tridiagonal(np.diagonal(space.projected).copy(), betas, space.basis, space.size, not alive)
