"""Estimates of what an operator is like: each says how far off it may be, and how many products it took."""

from __future__ import annotations

from crelle.estimators._curvature import Curvature
from crelle.estimators._density import Curve, Outlier, SpectralDensity
from crelle.estimators._diagonal import VectorEstimate
from crelle.estimators._eigenpairs import Eigenpairs
from crelle.estimators._estimate import Estimate
from crelle.estimators._inertia import Inertia
from crelle.estimators._logdet import LogDeterminant
from crelle.estimators._singular import SingularTriplets

__all__ = [
    "Curvature",
    "Curve",
    "Eigenpairs",
    "Estimate",
    "Inertia",
    "LogDeterminant",
    "Outlier",
    "SingularTriplets",
    "SpectralDensity",
    "VectorEstimate",
]
