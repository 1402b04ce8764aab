"""Determinants of matrices of differences."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.backends._protocol import Call
from crelle.determinants._result import CannotFactor, SlogdetResult


def prepare(call: Call) -> Any:
    """A NumPy function is a black box."""
    raise CannotFactor("a NumPy function cannot be traced")


def of_matrices(matrices: Any) -> SlogdetResult:
    """Of a dense matrix, or of a stack of them."""
    return SlogdetResult(*np.linalg.slogdet(matrices))
