"""What eigenpairs and singular triplets have in common: a table, warnings, residuals that rounding explains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleValueError, CrelleWarning, describe

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

#: Up to this many rows and columns a matrix is made dense, and its pairs are exact; and up to a multiple of k.
DENSE, DENSE_EACH, DENSE_MOST = 200, 3, 4_096
#: Lines of a table; the rest is counted.
_LINES = 20


def verify_count(operator: Operator, what: str, k: Any) -> None:
    """Refuse numbers of pairs that there are not.

    Raises:
        CrelleValueError: k is no integer between 0 and the smaller side of A.
    """
    most = min(operator.shape)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 0 <= k <= most:
        raise CrelleValueError(
            describe(f"{operator!r}.{what}: k={k!r}", expected=f"an integer from 0 to {most:,}, the number there is")
        )


def verify_real(operator: Operator, what: str) -> None:
    """Refuse complex matrices.

    Raises:
        CrelleValueError: A is complex.
    """
    if operator.domain.dtype.startswith("complex") or operator.dtype.startswith("complex"):
        raise CrelleValueError(
            describe(f"{operator!r}.{what}: the matrix is complex", expected="a real one",
                     try_="A.todense(), and the framework's own eigvals or svd")
        )  # fmt: skip


def is_small(operator: Operator, k: int, budget: int | None) -> bool:
    """Whether a dense matrix is the way: min(m, n) products, which the budget allows."""
    least = min(operator.shape)
    return least <= max(DENSE, min(DENSE_EACH * k, DENSE_MOST)) and (budget is None or budget >= least)


def dense_matrix(operator: Operator, what: str) -> np.ndarray[Any, Any]:
    """The matrix on the host, in double precision.

    Raises:
        CrelleValueError: it holds NaN or infinity.
    """
    matrix = np.asarray(operator.backend.to_host(operator.todense()), float)
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        m, n = operator.shape
        side, at = ("row", bad[0][0]) if m < n else ("column", bad[0][1])
        raise CrelleValueError(
            describe(
                f"{operator!r}.{what}: {side} {int(at):,} of the matrix holds NaN or infinity",
                likely="the function or its derivative overflows or is undefined at this point",
                try_="another point, or float64",
            )
        )
    return matrix


def warn_of_none(operator: Operator, what: str, products: int, rtol: float) -> None:
    """Say that nothing converged."""
    warnings.warn(
        CrelleWarning(
            describe(
                f"{operator!r}.{what}: no pair converged to rtol={rtol:g} in {products:,} products",
                try_="budget= more products, or a larger rtol=; the residuals say how far the values may be off",
            )
        ),
        stacklevel=5,
    )


def table(headline: str, name: str, pairs: Any, notes: Sequence[str]) -> str:
    """A headline, a numbered row for each pair with its residual, notes."""
    rows = [
        (str(rank), f"{value:.7g}", f"{residual:.1e}", "" if done else "not converged")
        for rank, (value, residual, done) in enumerate(
            zip(pairs.values[:_LINES], pairs.residuals, pairs.converged, strict=False), 1
        )
    ]
    lines = [headline]
    if rows:
        rows.insert(0, ("#", name, "residual", ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [
            "  " + "  ".join([*(c.rjust(w) for c, w in zip(row[:3], widths, strict=False)), row[3]]).rstrip()
            for row in rows
        ]
    if len(pairs) > _LINES:
        lines.append(f"  and {len(pairs) - _LINES:,} more")
    return "\n".join([*lines, *(f"  {note}" for note in notes)])
