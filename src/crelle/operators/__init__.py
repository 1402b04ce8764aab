"""Derivatives as linear operators: linearised once, asked many things. ``crelle.jacobian(f).at(x)`` makes one."""

from __future__ import annotations

from crelle.operators._derivatives import HessianOperator, JacobianOperator
from crelle.operators._fisher import Fisher, fisher
from crelle.operators._ggn import GaussNewton, GaussNewtonOperator, ggn
from crelle.operators._matrix import operator
from crelle.operators._objective import objective
from crelle.operators._operator import Operator
from crelle.operators._samples import per_sample_gradient

__all__ = [
    "Fisher",
    "GaussNewton",
    "GaussNewtonOperator",
    "HessianOperator",
    "JacobianOperator",
    "Operator",
    "fisher",
    "ggn",
    "objective",
    "operator",
    "per_sample_gradient",
]
