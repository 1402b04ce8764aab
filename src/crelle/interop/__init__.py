"""Crelle's derivatives as the callables that solvers take: NumPy and SciPy arrays in and out.

``import crelle.interop`` is a step of its own; it loads no solver and no framework.
"""

from __future__ import annotations

from crelle.interop._ipopt import ipopt_callbacks
from crelle.interop._lineax import lineax_solver
from crelle.interop._scipy import scipy_constraint, scipy_fun, scipy_grad, scipy_hess, scipy_jac

__all__ = ["ipopt_callbacks", "lineax_solver", "scipy_constraint", "scipy_fun", "scipy_grad", "scipy_hess", "scipy_jac"]
