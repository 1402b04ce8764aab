"""Crelle: Jacobians and Hessians of functions written in JAX, PyTorch or NumPy: planned, explained, checked."""

from __future__ import annotations

from crelle._divergence import divergence
from crelle._errors import (
    CrelleCheckError,
    CrelleError,
    CrelleImportError,
    CrelleMemoryError,
    CrelleNonFiniteWarning,
    CrelleShapeError,
    CrelleSolveError,
    CrelleTypeError,
    CrelleValueError,
    CrelleWarning,
)
from crelle._laplacian import laplacian
from crelle._plan import Candidate, Plan
from crelle._prepare import clear_caches
from crelle._products import hvp, jvp, vjp
from crelle._transforms import Transform, gradient, hessian, jacobian
from crelle._verify import CheckResult, check
from crelle._version import __version__
from crelle.colorings import Coloring, coloring
from crelle.determinants import Slogdet, SlogdetResult, slogdet
from crelle.estimators import (
    Eigenpairs,
    Estimate,
    Inertia,
    LogDeterminant,
    SingularTriplets,
    SpectralDensity,
    VectorEstimate,
)
from crelle.operators import (
    Fisher,
    GaussNewton,
    GaussNewtonOperator,
    HessianOperator,
    JacobianOperator,
    Operator,
    fisher,
    ggn,
    objective,
    operator,
    per_sample_gradient,
)
from crelle.operators.solve import InverseOperator, Solution
from crelle.pattern import SparsityPattern
from crelle.secondorder import GaussNewtonStep, gauss_newton_step, implicit, predictive_covariance
from crelle.tangent.rules import register_linear_rule

__all__ = [
    "Candidate",
    "CheckResult",
    "Coloring",
    "CrelleCheckError",
    "CrelleError",
    "CrelleImportError",
    "CrelleMemoryError",
    "CrelleNonFiniteWarning",
    "CrelleShapeError",
    "CrelleSolveError",
    "CrelleTypeError",
    "CrelleValueError",
    "CrelleWarning",
    "Eigenpairs",
    "Estimate",
    "Fisher",
    "GaussNewton",
    "GaussNewtonOperator",
    "GaussNewtonStep",
    "HessianOperator",
    "Inertia",
    "InverseOperator",
    "JacobianOperator",
    "LogDeterminant",
    "Operator",
    "Plan",
    "SingularTriplets",
    "Slogdet",
    "SlogdetResult",
    "Solution",
    "SparsityPattern",
    "SpectralDensity",
    "Transform",
    "VectorEstimate",
    "__version__",
    "check",
    "clear_caches",
    "coloring",
    "divergence",
    "fisher",
    "gauss_newton_step",
    "ggn",
    "gradient",
    "hessian",
    "hvp",
    "implicit",
    "jacobian",
    "jvp",
    "laplacian",
    "objective",
    "operator",
    "per_sample_gradient",
    "predictive_covariance",
    "register_linear_rule",
    "slogdet",
    "vjp",
]
