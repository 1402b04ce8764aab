"""Operators for lineax."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crelle._errors import CrelleTypeError, describe, missing_extra

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
        raise missing_extra("lineax", "test", "to_lineax()") from None
    return module.lineax_operator(operator)
