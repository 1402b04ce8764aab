"""Blocks of vectors in NumPy: see :class:`crelle.operators._vectors.Vectors`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle._errors import CrelleTypeError, describe
from crelle.operators._spaces import Space
from crelle.operators._vectors import SALT


def join(leaves: Sequence[Any], dtype: str) -> Any:
    """Leaves with a leading axis, raveled side by side."""
    parts = [np.reshape(leaf, (len(leaf), math.prod(leaf.shape[1:]))).astype(dtype, copy=False) for leaf in leaves]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)


def cut(block: Any, types: Sequence[ArrayType]) -> list[Any]:
    """The inverse of :func:`join`."""
    ends = np.cumsum([t.size for t in types]).tolist()
    return [
        block[:, end - t.size : end].reshape(len(block), *t.shape).astype(t.dtype, copy=False)
        for t, end in zip(types, ends, strict=True)
    ]


def stack(rows: Sequence[Any]) -> Any:
    """A block of vectors."""
    return np.stack(rows)


def concatenate(blocks: Sequence[Any]) -> Any:
    """The rows of several blocks."""
    return np.concatenate(blocks)


def zeros(count: int, size: int, like: Any) -> Any:
    """A block of zeros."""
    return np.zeros((count, size), like.dtype)


def put(block: Any, row: int, vector: Any) -> Any:
    """In place."""
    block[row] = vector
    return block


def project_out(basis: Any, count: int, vector: Any) -> tuple[Any, Any]:
    """Gram-Schmidt, twice."""
    q = basis[:count]
    first = q.conj() @ vector
    vector = vector - first @ q
    second = q.conj() @ vector
    return vector - second @ q, first + second


def orthonormal(block: Any) -> tuple[Any, Any]:
    """QR of the transpose."""
    q, r = np.linalg.qr(block.T)
    return q.T, r


def empty(space: Space) -> Any:
    """A block without vectors."""
    return np.zeros((0, space.size), space.dtype)


def identity(space: Space, start: int = 0, stop: int | None = None) -> Any:
    """The unit vectors, or some of them."""
    return np.eye((space.size if stop is None else stop) - start, space.size, start, space.dtype)


def from_host(values: Any, like: Any) -> Any:
    """As an array."""
    return np.asarray(values, like.dtype)


def detached(block: Any) -> Any:
    """As it is."""
    return block


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """As it is."""
    return function


def is_traced(like: Any) -> bool:
    """Never."""
    return False


def linear(apply: Callable[[Any], Any], transposed: Callable[[Any], Any], block: Any) -> Any:
    """There are no derivatives."""
    return apply(block)


class NumpySource:
    """Random vectors by ``numpy.random.Generator``."""

    def __init__(self, generator: np.random.Generator, dtype: Any) -> None:
        self._generator, self._dtype = generator, dtype

    def normal(self, count: int, size: int) -> Any:
        """Standard normal numbers."""
        return self._generator.standard_normal((count, size)).astype(self._dtype, copy=False)

    def rademacher(self, count: int, size: int) -> Any:
        """Signs."""
        return (2 * self._generator.integers(0, 2, (count, size)) - 1).astype(self._dtype)


def source(given: Any, like: Any) -> NumpySource:
    """From a seed or a ``numpy.random.Generator``."""
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        given = np.random.default_rng([int(given), SALT])
    if not isinstance(given, np.random.Generator):
        raise CrelleTypeError(
            describe(
                f"{given!r} is no source of random numbers for NumPy arrays",
                expected="seed= an integer, or generator= a numpy.random.Generator",
            )
        )
    return NumpySource(given, like.dtype)
