"""What people solve with derivatives for: steps of optimisers, implicit functions, uncertainty. Thin, on operators."""

from __future__ import annotations

from crelle.secondorder._covariance import predictive_covariance
from crelle.secondorder._gauss_newton import GaussNewtonStep, gauss_newton_step
from crelle.secondorder._implicit import implicit

__all__ = ["GaussNewtonStep", "gauss_newton_step", "implicit", "predictive_covariance"]
