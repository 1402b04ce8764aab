"""log det(I + G) without bias, for ‖G‖ < 1: the power series of a residual flow, ended at random."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleValueError, describe
from crelle.estimators._lanczos import lanczos
from crelle.estimators._logdet import LogDeterminant
from crelle.estimators._progress import Progress

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

_PROBES, _MOST_PROBES = 20, 10_000
#: Terms that every sample has; those beyond are dropped at random, and weighted.
_TERMS = 8
_NORM_STEPS = 12


def log_series(
    operator: Operator, probes: int | None, rtol: float | None, budget: int | None, source: Any
) -> LogDeterminant:
    """tr log(I + G) = Σ_k (-1)^(k+1) tr(G^k) / k by Hutchinson's probes and Russian roulette (Chen et al. 2019).

    Raises:
        CrelleValueError: ‖A - I‖ is not below 1: the series does not converge.
    """
    norm, spent = _norm(operator, source)
    if norm >= 1:
        raise CrelleValueError(
            describe(
                f"{operator!r}.slogdet(method='series'): ‖A - I‖ is at least {norm:.4g}, and has to be below 1",
                expected="A = I + G with a contractive G, as in a residual flow x + g(x)",
                try_="method='lanczos', or a smaller Lipschitz constant of g",
            )
        )
    survive = min(max(norm, 0.5), 0.98)
    samples: list[float] = []
    partial = False
    wanted = probes or (_PROBES if rtol is None else _MOST_PROBES)
    with Progress("slogdet", wanted) as progress:
        while len(samples) < wanted:
            length = _TERMS + _further(source, survive)
            if samples and budget is not None and spent + length > budget:
                break
            try:
                samples.append(_sample(operator, source.rademacher(1, operator.shape[1]), length, survive))
            except KeyboardInterrupt:
                if not samples:
                    raise
                partial = True
                break
            spent += length
            progress.to(len(samples))
            if rtol is not None and len(samples) >= 5 and _error(samples) <= rtol * abs(np.mean(samples)):
                break
    return LogDeterminant(
        1.0, float(np.mean(samples)), _error(samples), spent, f"power series, {len(samples)} probes, unbiased", partial,
        (f"‖A - I‖ ≥ {norm:.3g}, by {_NORM_STEPS} Lanczos steps; det A > 0 where it is below 1",),
    )  # fmt: skip


def _norm(operator: Operator, source: Any) -> tuple[float, int]:
    """(‖A - I‖₂ from below, products)."""
    gram = operator.shifted(-1.0).gram()
    run = lanczos(gram, source.normal(1, operator.shape[1])[0], _NORM_STEPS, what="slogdet")
    from scipy.linalg import eigh_tridiagonal

    values = eigh_tridiagonal(run.alphas, run.betas[:-1], eigvals_only=True)
    return math.sqrt(max(float(values[-1]), 0.0)), 2 * run.steps


def _further(source: Any, survive: float) -> int:
    """N - 1 terms more, N geometric: each is followed by another with this probability."""
    number = float(source.normal(1, 1)[0, 0])
    uniform = min(max(0.5 * math.erfc(number / math.sqrt(2)), 1e-12), 1 - 1e-12)
    return int(math.log(uniform) / math.log(survive))


def _sample(operator: Operator, probe: Any, length: int, survive: float) -> float:
    power, total = probe, 0.0
    for k in range(1, length + 1):
        power = operator._products(power) - power
        reached = survive ** max(k - _TERMS, 0)
        term = float((probe * power).sum())
        if not math.isfinite(term):
            raise CrelleValueError(
                describe(f"{operator!r}.slogdet: product {k} of a probe is not finite",
                         likely="NaN or inf in the derivative at this point")
            )  # fmt: skip
        total += (-1) ** (k + 1) * term / (k * reached)
    return total


def _error(samples: list[float]) -> float:
    return float(np.std(samples, ddof=1) / math.sqrt(len(samples))) if len(samples) > 1 else math.nan
