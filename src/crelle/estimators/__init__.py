"""Estimates of what an operator is like: each says how far off it may be, and how many products it took."""

from __future__ import annotations

from crelle.estimators._estimate import Estimate

__all__ = ["Estimate"]
