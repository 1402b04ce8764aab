"""Derivatives as linear operators: linearised once, asked many things. ``crelle.jacobian(f).at(x)`` makes one."""

from __future__ import annotations

from crelle.operators._derivatives import HessianOperator, JacobianOperator
from crelle.operators._matrix import operator
from crelle.operators._operator import Operator

__all__ = ["HessianOperator", "JacobianOperator", "Operator", "operator"]
