"""A number with its error, and what an estimator is told: how exact, how dear, from which random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.operators._vectors import Source, vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator


@dataclass(frozen=True)
class Estimate:
    """A number, and how far off it may be.

    Attributes:
        value: the estimate.
        stderr: its standard error: the truth is within one of it in about 68 of 100 cases, within two in 95. Zero where
            the value is exact to rounding, NaN where one sample is no measure of the error.
        products: products with the operator that it took.
        method: how it was found: ``"Hutchinson"``, ``"exact, by structure"``.
        partial: it was interrupted, and is what was known by then.
        notes: what was assumed, tried, or fell back.
    """

    value: float
    stderr: float
    products: int
    method: str
    partial: bool = False
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether there is no sampling error."""
        return self.stderr == 0

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        stopped = ", interrupted" if self.partial else ""
        work = f"{self.products:,} product{'' if self.products == 1 else 's'}"
        return f"{number_text(self.value, self.stderr)}  ({self.method}, {work}{stopped})"


def number_text(value: float, stderr: float) -> str:
    """A number with the figures that its error leaves it.

    >>> number_text(34.6312, 0.48), number_text(2.0, 0.0)
    ('34.63 ± 0.48', '2')
    """
    if not math.isfinite(value) or stderr == 0:
        return f"{value:.8g}"
    if not math.isfinite(stderr):
        return f"{value:.4g} ± ?"
    figures = 1 - math.floor(math.log10(stderr))
    return f"{value:.{max(figures, 0)}f} ± {stderr:.2g}" if abs(figures) < 12 else f"{value:.6g} ± {stderr:.2g}"


def source_for(operator: Operator, what: str, seed: int | None, key: Any, generator: Any) -> Source:
    """Random numbers on the operator's device: from a seed (0 if nothing is given), a key, or a generator.

    Raises:
        CrelleTypeError: more than one of them, or not of the operator's framework.
    """
    given = [value for value in (seed, key, generator) if value is not None]
    if len(given) > 1:
        raise CrelleTypeError(
            describe(f"{operator!r}.{what}: several sources of random numbers",
                     expected="one of seed=, key=, generator=")
        )  # fmt: skip
    vectors = vectors_of(operator.backend)
    return vectors.source(given[0] if given else 0, vectors.empty(operator.domain))


def verify_limits(operator: Operator, what: str, rtol: float | None, budget: int | None) -> None:
    """Refuse accuracies and numbers of products that mean nothing.

    Raises:
        CrelleValueError: ``rtol`` is not positive, or ``budget`` is no positive integer.
    """
    if rtol is not None and not rtol > 0:
        raise CrelleValueError(
            describe(f"{operator!r}.{what}: rtol={rtol!r}", expected="a positive relative error, such as 0.01")
        )
    if budget is not None and budget < 1:
        raise CrelleValueError(
            describe(f"{operator!r}.{what}: budget={budget!r}", expected="a positive number of products")
        )
