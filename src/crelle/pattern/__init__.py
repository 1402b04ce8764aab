"""Sparsity patterns: where a matrix may be nonzero. No framework is imported here, SciPy when first used."""

from __future__ import annotations

from crelle.pattern._pattern import SparsityPattern

__all__ = ["SparsityPattern"]
