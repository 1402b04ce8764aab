"""Operators for lineax."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crelle._errors import CrelleImportError, CrelleTypeError, describe

if TYPE_CHECKING:
    from crelle.operators._operator import Operator


def to_lineax(operator: Operator) -> Any:
    """A ``FunctionLinearOperator`` with tags."""
    if operator.backend.name != "jax":
        raise CrelleTypeError(
            describe(f"{operator!r}.to_lineax(): lineax is for JAX", try_="A.to_scipy(), or A itself: A(v) is A @ v")
        )
    try:
        module = importlib.import_module("crelle.backends.jax.lineax_operator")
    except ImportError:
        raise CrelleImportError(
            describe("A.to_lineax() needs lineax, which is not installed", try_="pip install lineax")
        ) from None
    return module.lineax_operator(operator)
