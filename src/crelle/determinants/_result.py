"""What a determinant is handed over as, and why one may have no factors."""

from __future__ import annotations

from typing import Any, NamedTuple


class SlogdetResult(NamedTuple):
    """det J = sign · exp(logabsdet), as ``numpy.linalg.slogdet`` has it.

    Attributes:
        sign: -1, 0 or 1; of a complex matrix a number of modulus 1, or 0.
        logabsdet: the logarithm of the absolute value; -inf if the determinant is 0.
    """

    sign: Any
    logabsdet: Any


class CannotFactor(Exception):
    """The linearisation of a function cannot be cut into pieces that run apart; the text says why."""
