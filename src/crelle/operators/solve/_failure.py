"""What is said when a solve fails: what happened, the likely causes, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crelle._errors import describe
from crelle.operators.solve._rounds import Outcome

if TYPE_CHECKING:
    from crelle.operators.solve._solve import Solver

_NAMES = {
    "cg": "conjugate gradients",
    "minres": "MINRES",
    "gmres": "GMRES",
    "lsmr": "LSMR",
    "dense": "the factorisation",
}


def failure(solver: Solver, result: Outcome, products: int) -> str:
    """The text of a :class:`crelle.CrelleSolveError`."""
    name, what = _NAMES[solver.method], solver.what
    if result.nonfinite:
        return describe(
            f"{what}: a product is NaN or infinite, among the first {result.nonfinite:,}",
            likely="the derivative overflows or is not defined at this point",
            try_="look at A @ v for a v of ones, and at the value of f there",
        )
    if result.bad.any() and solver.method == "cg":
        return describe(
            f"{what}: pᵀA p ≤ 0 for a direction p{_columns(result.bad)}, so A is not positive definite",
            expected="a positive definite matrix, for conjugate gradients",
            likely="(a) the Hessian at a point that is no minimum\n(b) a singular matrix, and b not in its range\n"
            "(c) a preconditioner that is not positive definite",
            try_="method='minres', which takes any symmetric A; A.shifted(c) with c above the most negative eigenvalue",
        )
    if result.bad.any():
        return describe(
            f"{what}: rᵀM r < 0 for a residual r{_columns(result.bad)}: the preconditioner M is not positive definite",
            expected="a positive definite preconditioner, for MINRES",
            try_="preconditioner='jacobi', which takes absolute values; or method='gmres', which takes any M",
        )
    failed = ~result.converged
    left = f"relative residual {np.max(result.residual[failed]):.1e}{_columns(failed)}"
    if solver.method == "dense":
        if (result.residual[failed] >= 1).all():
            return describe(
                f"{what}: A is singular to rounding, and cannot be factorised",
                likely="some directions do not change the output: more parameters than data, or a symmetry of f",
                try_="method='lsmr' for the solution with the smallest norm; A.shifted(c) with a small c",
            )
        return describe(
            f"{what}: {left} with {name}",
            expected=f"rtol={solver.rtol:.0e}",
            likely="A is close to singular, and rounding decides",
            try_=f"A.shifted(c), or double precision{_above(result)}",
        )
    if result.stagnated[failed].any() and products < solver.budget(len(failed)):
        likely = "(a) A is singular, and b not in its range\n(b) A is ill-conditioned: rounding stops the progress"
        likely += "\n(c) products are not exact to rtol: differences, or low precision"
        if solver.method == "gmres":
            likely += "\n(d) restarts: the method forgets what it learnt"
        other = "method='lsmr' for the least-squares solution; " if solver.method != "lsmr" else ""
        return describe(
            f"{what}: {name} came to a {left} after {_count(products)}, and no further",
            expected=f"rtol={solver.rtol:.0e}",
            likely=likely,
            try_=f"{other}A.shifted(c); a preconditioner{_above(result)}",
        )
    return describe(
        f"{what}: {name} came to a {left} after {_count(products)}: the budget",
        expected=f"rtol={solver.rtol:.0e}",
        likely="(a) A is ill-conditioned\n(b) the budget is small for this matrix",
        try_="a preconditioner; a larger budget= or rtol=; x0=; throw=False to get what was found",
    )


def _count(products: int) -> str:
    return f"{products:,} product{'' if products == 1 else 's'}"


def _above(result: Outcome) -> str:
    """An accuracy that was reached, if it is worth having."""
    worst = float(np.max(result.residual))
    return f"; rtol={10 ** np.ceil(np.log10(worst)):.0e}" if 0 < worst < 1e-2 else ""


def _columns(failed: object) -> str:
    """`` (columns 0, 3)`` where there are several systems."""
    rows = np.flatnonzero(np.asarray(failed))
    if np.asarray(failed).size < 2:
        return ""
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f" (column{'s' if len(rows) > 1 else ''} {shown})"
