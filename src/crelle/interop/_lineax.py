"""A linear solver for lineax; the solver itself is in the JAX backend, since it is made of arrays of JAX."""

from __future__ import annotations

import importlib
from typing import Any

from crelle._errors import CrelleImportError, describe


def lineax_solver() -> Any:
    """x = A⁻¹ b for sparse operators of lineax: ``linear_solver=`` in optimistix and in the root finders of diffrax.

    A ``lineax.AbstractLinearSolver`` that finds the pattern of A, gets its entries with one product for each colour,
    and factorises it by ``jax.experimental.sparse.linalg.spsolve``: SuperLU on a CPU. It works inside ``jit``, where
    derivatives are taken through the solution, and under ``vmap``, where the systems are solved one after the other.

    Raises:
        CrelleImportError: lineax is not installed.
        CrelleShapeError: when used, the operator is not square.

    Cost:
        At the start of each solve, products with A for each colour; on each right-hand side, one sparse factorisation.

    >>> import jax.numpy as jnp, lineax as lx
    >>> A = lx.JacobianLinearOperator(lambda x, args: x**3, jnp.array([1.0, 2.0]))
    >>> lx.linear_solve(A, jnp.array([3.0, 6.0]), lineax_solver()).value
    Array([1. , 0.5], dtype=float32)
    """
    try:
        module = importlib.import_module("crelle.backends.jax.lineax")
    except ModuleNotFoundError as error:
        if error.name not in ("lineax", "jax"):
            raise
        raise CrelleImportError(
            describe(f"crelle.interop.lineax_solver needs {error.name}, which is not installed",
                     try_="pip install lineax")
        ) from None  # fmt: skip
    return module.ColouredLU()
