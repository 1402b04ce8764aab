"""Functions for callers that pass and expect NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp


def evaluated(f: Callable[..., Any]) -> Callable[..., Any]:
    """f of arrays, compiled once: what it captures stays as it is at the first call."""
    return jax.jit(f)


def placed(like: Any, values: Any) -> Any:
    """Values of NumPy with the dtype of a leaf. Asked for a dtype, ``jnp.asarray`` takes twice as long."""
    return jnp.asarray(values.astype(like.dtype, copy=False))


def without_record() -> AbstractContextManager[Any]:
    """JAX records where it is asked to, and nowhere else."""
    return nullcontext()
