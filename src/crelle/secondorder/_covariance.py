"""Uncertainty of outputs from uncertainty of parameters."""

from __future__ import annotations

from typing import Any

from crelle._arrays import ArrayType, bytes_text
from crelle._errors import CrelleMemoryError, CrelleShapeError, CrelleTypeError, describe
from crelle.operators._operator import Operator
from crelle.operators._vectors import vectors_of

#: Bytes of parameter-sized vectors that are in use at once.
_CHUNK = 2**26


def predictive_covariance(J: Operator, covariance: Any, *, diagonal: bool = False) -> Any:
    """C = J Σ Jᵀ: the covariance of f(θ), linearised, for θ with covariance Σ.

    These are the predictions of a Laplace approximation. For a network with the Gauss-Newton matrix G of the training
    loss and a prior of precision λ, Σ is ``G.shifted(λ).inverse()``, and J is the Jacobian of the outputs at test
    points with respect to the parameters.

    Args:
        J: an operator [m, n]: ``crelle.jacobian(lambda p: model(p, x_test)).at(params)``.
        covariance: Σ, a symmetric operator [n, n], or its diagonal: an array [n] or a tree like the parameters.
        diagonal: only the variances, the diagonal of C.

    Returns:
        C [m, m], symmetric; or the variances [m].

    Raises:
        CrelleTypeError: J is no operator.
        CrelleShapeError: Σ does not fit to J.
        CrelleMemoryError: C does not fit.
        CrelleSolveError: Σ is an inverse, and a solve failed.

    Cost:
        For each of the m outputs a product with Jᵀ, one with Σ, and, unless ``diagonal``, one with J.

    Source:
        MacKay, *Neural Computation* 4, 1992; Immer, Korzepa and Bauer, *AISTATS*, 2021 (the linearised network).

    >>> import numpy as np, crelle
    >>> J = crelle.operator(np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> predictive_covariance(J, np.array([1.0, 0.25]))
    array([[2.  , 0.5 , 1.5 ],
           [0.5 , 0.25, 0.25],
           [1.5 , 0.25, 1.25]])
    """
    if not isinstance(J, Operator):
        raise CrelleTypeError(
            describe(f"crelle.predictive_covariance({type(J).__name__}, ...)", expected="an operator",
                     try_="crelle.jacobian(f).at(params), or crelle.operator(matrix)")
        )  # fmt: skip
    (m, n), vectors = J.shape, vectors_of(J.backend)
    if isinstance(covariance, Operator):
        if covariance.shape != (n, n) or covariance.backend.name != J.backend.name:
            raise CrelleShapeError(
                describe(f"crelle.predictive_covariance({J!r}, {covariance!r})",
                         expected=f"a covariance [{n:,}, {n:,}] in {J.backend.name}")
            )  # fmt: skip
        spread = covariance._products
    else:
        given = J.domain.block(*J.domain.enter(covariance, lambda: f"crelle.predictive_covariance({J!r}, Σ)"))
        if len(given) != 1:
            raise CrelleShapeError(
                describe(f"crelle.predictive_covariance({J!r}, ...): Σ as an array {tuple(covariance.shape)}",
                         expected=f"its diagonal [{n:,}], or an operator",
                         try_="crelle.operator(matrix, psd=True)")
            )  # fmt: skip
        spread = lambda block: block * given
    if not diagonal:
        _verify_fits(J, ArrayType(J.dtype, (m, m)).nbytes)
    units = vectors.identity(J.codomain)
    chunk = max(1, _CHUNK // max(1, ArrayType(J.domain.dtype, (n,)).nbytes))
    rows = []
    for start in range(0, m, chunk):
        pulled = J._adjoint_products(units[start : start + chunk])
        spreaded = spread(pulled)
        rows.append((pulled * spreaded).sum(1)[:, None] if diagonal else J._products(spreaded))
    if not rows:
        return vectors.zeros(0, 0, units)[0:0, 0:0] if not diagonal else units.sum(1)
    found = vectors.concatenate(rows)
    return found[:, 0] if diagonal else (found + found.T) / 2


def _verify_fits(J: Operator, need: int) -> None:
    free = J.backend.available_memory(J.device)
    if free is not None and need > free // 2:
        raise CrelleMemoryError(
            describe(f"crelle.predictive_covariance({J!r}, ...): the covariance takes {bytes_text(need)}",
                     expected=f"at most half of what is free, {bytes_text(free)}",
                     try_="diagonal=True for the variances; fewer test points at once")
        )  # fmt: skip
