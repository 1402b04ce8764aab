"""Norms and condition numbers: exact for small matrices, with a residual, an error or as a bound for large ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleValueError, describe
from crelle.estimators._bidiagonal import Bidiagonal
from crelle.estimators._eigenpairs import eigsh
from crelle.estimators._estimate import Estimate, source_for, verify_limits
from crelle.estimators._krylov import Floats
from crelle.estimators._pairs import is_small, verify_real
from crelle.estimators._search import BATCH, Indices, Search, rows_allowed
from crelle.estimators._singular import SingularTriplets, svds
from crelle.operators._vectors import Source

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

#: seed, key, generator.
Random = tuple[Any, Any, Any]

RTOL = 1e-3
#: Products of a condition number, where no budget is given.
COND_PRODUCTS = 400
#: Probes and steps of a nuclear norm; with ``rtol`` as many probes as that takes, at most the last number.
PROBES, STEPS, MOST_PROBES = 10, 40, 160


def norm(
    operator: Operator, ord: str | int, rtol: float | None, budget: int | None, seed: int | None, key: Any,
    generator: Any,
) -> Estimate:  # fmt: skip
    """See :meth:`crelle.operators.Operator.norm`."""
    verify_limits(operator, "norm", rtol, budget)
    if ord == "fro":
        found: Estimate = operator.frobenius_norm(rtol=rtol, budget=budget, seed=seed, key=key, generator=generator)
        return found
    if ord not in (2, "nuc"):
        raise CrelleValueError(
            describe(f"{operator!r}.norm({ord!r})", expected='"fro", 2 or "nuc"',
                     try_="A.todense() and the framework's norm for others")
        )  # fmt: skip
    if not min(operator.shape):
        return Estimate(0.0, 0.0, 0, "an empty matrix")
    if ord == 2:
        return _spectral(operator, rtol, budget, (seed, key, generator))
    return _nuclear(operator, rtol, budget, (seed, key, generator))


def _spectral(operator: Operator, rtol: float | None, budget: int | None, random: Random) -> Estimate:
    """|λ| or σ of the largest size, with the residual as error."""
    what = "norm(2)"
    found: Any
    if operator.is_symmetric:
        found = eigsh(operator, 1, "LM", rtol, budget, *random, False, what)
    else:
        found = svds(operator, 1, rtol, budget, *random, False, what)
    error = 0.0 if found.method == "dense" else float(found.residuals[0])
    notes = found.notes if found.converged[0] else (*found.notes, "not converged: a lower bound")
    if error:
        notes = ("the error is the residual: a bound, if nothing larger was missed", *notes)
    return Estimate(abs(float(found.values[0])), error, found.products, found.method, found.partial, notes)


def _nuclear(operator: Operator, rtol: float | None, budget: int | None, random: Random) -> Estimate:
    """Σ σ: of a dense matrix, or n times the mean square root over the eigenvalues of the smaller of AᵀA and AAᵀ."""
    verify_real(operator, 'norm("nuc")')
    m, n = operator.shape
    if is_small(operator, 1, budget):
        found = svds(operator, None, rtol, None, *random, False, 'norm("nuc")')
        return Estimate(float(found.values.sum()), 0.0, found.products, "dense")
    known, spent = _low_rank(operator if n <= m else operator.T, source_for(operator, 'norm("nuc")', *random), budget)
    if known is not None:
        return Estimate(known, 0.0, spent, "Golub-Kahan-Lanczos, all singular values that are not zero")
    from crelle.estimators._quadrature import Quadrature, quadrature

    gram = operator.gram() if n <= m else operator.T.gram()

    def estimate(so_far: Quadrature) -> tuple[float, float]:
        """The error is that of the probes and that of the steps: what half of them would change."""
        (value, error), (half, _) = so_far.mean(_root), so_far.mean(_root, STEPS // 2)
        return min(m, n) * value, min(m, n) * math.hypot(error, value - half)

    def done(so_far: Quadrature) -> bool:
        if rtol is None or len(so_far.rules) % PROBES:
            return False
        value, error = estimate(so_far)
        return error <= rtol * value

    left = None if budget is None else max((budget - spent) // 2, 1)
    run = quadrature(
        gram, 'norm("nuc")', source_for(gram, 'norm("nuc")', *random), probes=PROBES if rtol is None else MOST_PROBES,
        steps=STEPS, budget=left, done=done,
    )  # fmt: skip
    method = f"Lanczos quadrature, {len(run.rules)} × {run.steps}"
    return Estimate(*estimate(run), 2 * run.products + spent, method, run.partial, run.notes)


def _root(values: Floats) -> Floats:
    return np.sqrt(np.maximum(values, 0.0))


def _low_rank(tall: Operator, source: Source, budget: int | None) -> tuple[float | None, int]:
    """(Σ σ, products) where few steps find the whole range of A: A takes a new random vector into what is there."""
    space = Bidiagonal(tall, 'norm("nuc")')
    steps = STEPS if budget is None else min(STEPS, budget // 4)
    alive = False
    while space.size < steps:
        if not alive:
            rank = space.left.count
            space.seed(source.normal(1, tall.shape[1])[0])
            alive = space.extend(1)
            if space.left.count == rank:
                return float(space.ritz()[0].sum()), space.products
        else:
            alive = space.extend(min(BATCH, steps - space.size))
    return None, space.products


def cond(
    operator: Operator, rtol: float | None, budget: int | None, seed: int | None, key: Any, generator: Any
) -> Estimate:
    """See :meth:`crelle.operators.Operator.cond`."""
    verify_limits(operator, "cond", rtol, budget)
    verify_real(operator, "cond")
    m, n = operator.shape
    if not min(m, n):
        raise CrelleValueError(
            describe(f"{operator!r}.cond: the matrix is {m:,} × {n:,}", expected="at least one row and one column")
        )
    if is_small(operator, 1, budget):
        found = svds(operator, None, rtol, None, seed, key, generator, False, "cond")
        return Estimate(_ratio(found), 0.0, found.products, "dense")
    tall = operator if n <= m else operator.T
    space = Bidiagonal(tall, "cond")
    source, accuracy = source_for(tall, "cond", seed, key, generator), RTOL if rtol is None else rtol
    search = Search(space, source, min(m, n), _ends, 2, accuracy)
    ends = search.run("cond", rows_allowed(operator, "cond", 2, m + n), COND_PRODUCTS if budget is None else budget)
    largest, smallest = float(ends.values[0]), float(ends.values[-1])
    if smallest <= ends.residuals[-1]:
        value = math.inf if ends.converged[-1] else largest / max(smallest, 1e-300)
    else:
        value = largest / smallest
    method = "Golub-Kahan-Lanczos"
    if ends.complete or (ends.converged[-1] and value == math.inf):
        return Estimate(value, 0.0, space.products, method, ends.partial, ends.notes)
    bound = (
        f"a lower bound: the smallest singular value found is {smallest:.3g}, with residual {ends.residuals[-1]:.1g}"
    )
    return Estimate(value, math.nan, space.products, method, ends.partial, (bound, *ends.notes))


def _ends(values: Floats, k: int) -> Indices:
    """The largest, and the smallest; more from both ends for a restart."""
    order = np.argsort(-values, kind="stable")
    upper = -(-k // 2)
    return np.concatenate([order[:upper], order[max(len(order) - k // 2, upper) :]])


def _ratio(found: SingularTriplets) -> float:
    largest, smallest = float(found.values[0]), float(found.values[-1])
    rounding = np.finfo(float).eps * largest * len(found)
    return math.inf if smallest <= rounding else largest / smallest
