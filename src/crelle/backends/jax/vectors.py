"""Blocks of vectors in JAX: see :class:`crelle.operators._vectors.Vectors`. Shapes do not change from step to step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crelle._arrays import ArrayType
from crelle._errors import CrelleTypeError, describe
from crelle.operators._spaces import Space
from crelle.operators._vectors import SALT


def join(leaves: Sequence[Any], dtype: str) -> Any:
    """Leaves with a leading axis, raveled side by side."""
    parts = [jnp.reshape(leaf, (len(leaf), math.prod(leaf.shape[1:]))).astype(dtype) for leaf in leaves]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)


def cut(block: Any, types: Sequence[ArrayType]) -> list[Any]:
    """The inverse of :func:`join`."""
    ends = np.cumsum([t.size for t in types]).tolist()
    return [
        block[:, end - t.size : end].reshape(len(block), *t.shape).astype(t.dtype)
        for t, end in zip(types, ends, strict=True)
    ]


def stack(rows: Sequence[Any]) -> Any:
    """A block of vectors."""
    return jnp.stack(rows)


def concatenate(blocks: Sequence[Any]) -> Any:
    """The rows of several blocks."""
    return jnp.concatenate(blocks)


def zeros(count: int, size: int, like: Any) -> Any:
    """A block of zeros, where the array is."""
    return jnp.zeros((count, size), like.dtype, device=next(iter(like.devices())) if _is_single(like) else None)


@functools.partial(jax.jit, donate_argnums=0)
def put(block: Any, row: int, vector: Any) -> Any:
    """In the memory of the old block."""
    return block.at[row].set(vector)


@jax.jit
def project_out(basis: Any, count: int, vector: Any) -> tuple[Any, Any]:
    """Gram-Schmidt, twice; rows from ``count`` on are masked, so that one compilation serves all steps."""
    used = jnp.arange(len(basis)) < count
    first = jnp.where(used, basis.conj() @ vector, 0)
    vector = vector - first @ basis
    second = jnp.where(used, basis.conj() @ vector, 0)
    return vector - second @ basis, first + second


@jax.jit
def orthonormal(block: Any) -> tuple[Any, Any]:
    """QR of the transpose."""
    q, r = jnp.linalg.qr(block.T)
    return q.T, r


def empty(space: Space) -> Any:
    """A block without vectors."""
    return jnp.zeros((0, space.size), space.dtype)


def identity(space: Space, start: int = 0, stop: int | None = None) -> Any:
    """The unit vectors, or some of them; one compilation wherever they begin."""
    return _units(start, (space.size if stop is None else stop) - start, space.size, space.dtype)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _units(start: Any, count: int, size: int, dtype: str) -> Any:
    return (start + jnp.arange(count)[:, None] == jnp.arange(size)).astype(dtype)


def from_host(values: Any, like: Any) -> Any:
    """As an array."""
    return jnp.asarray(values, like.dtype)


def detached(block: Any) -> Any:
    """As it is."""
    return block


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """By ``jax.jit``, once."""
    return jax.jit(function)


def is_traced(like: Any) -> bool:
    """Inside ``jit``, ``grad``, ``vmap``."""
    return isinstance(like, jax.core.Tracer)


def linear(apply: Callable[[Any], Any], transposed: Callable[[Any], Any], block: Any) -> Any:
    """Outside of transformations, nothing is differentiated."""
    return apply(block)


class JaxSource:
    """Random vectors by ``jax.random``: the i-th draw is made of the key folded with i."""

    def __init__(self, key: Any, dtype: Any) -> None:
        self._key, self._dtype, self._drawn = key, dtype, 0

    def _next(self) -> Any:
        self._drawn += 1
        return jax.random.fold_in(self._key, self._drawn)

    def normal(self, count: int, size: int) -> Any:
        """Standard normal numbers."""
        return jax.random.normal(self._next(), (count, size), self._dtype)

    def rademacher(self, count: int, size: int) -> Any:
        """Signs."""
        return jax.random.rademacher(self._next(), (count, size), self._dtype)


def source(given: Any, like: Any) -> JaxSource:
    """From a seed or a key of ``jax.random``."""
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        return JaxSource(jax.random.fold_in(jax.random.key(int(given)), SALT), like.dtype)
    if isinstance(given, jax.Array) and (
        jnp.issubdtype(given.dtype, jax.dtypes.prng_key) or (given.dtype == jnp.uint32 and given.shape[-1:] == (2,))
    ):
        return JaxSource(given, like.dtype)
    raise CrelleTypeError(
        describe(
            f"{given!r} is no source of random numbers for JAX arrays",
            expected="seed= an integer, or key= a key made by jax.random.key",
        )
    )


def _is_single(like: Any) -> bool:
    return not isinstance(like, jax.core.Tracer) and len(like.devices()) == 1
