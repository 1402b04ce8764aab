"""Solving with operators: dense when small, Krylov methods otherwise; inverses and preconditioners."""

from __future__ import annotations

from crelle.operators.solve._inverse import InverseOperator
from crelle.operators.solve._solution import Solution
from crelle.operators.solve._solve import solve

__all__ = ["InverseOperator", "Solution", "solve"]
