"""Blocks of vectors in PyTorch: see :class:`crelle.operators._vectors.Vectors`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crelle._arrays import ArrayType
from crelle._errors import CrelleTypeError, describe
from crelle.operators._spaces import Space
from crelle.operators._vectors import SALT


def join(leaves: Sequence[Tensor], dtype: str) -> Tensor:
    """Leaves with a leading axis, raveled side by side."""
    wanted = getattr(torch, dtype)
    parts = [leaf.reshape(len(leaf), math.prod(leaf.shape[1:])).to(wanted) for leaf in leaves]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def cut(block: Tensor, types: Sequence[ArrayType]) -> list[Tensor]:
    """The inverse of :func:`join`: views where dtypes agree."""
    parts = block.split_with_sizes([t.size for t in types], 1)
    return [
        part.reshape(len(block), *t.shape).to(getattr(torch, t.dtype)) for part, t in zip(parts, types, strict=True)
    ]


def stack(rows: Sequence[Tensor]) -> Tensor:
    """A block of vectors."""
    return torch.stack(tuple(rows))


def concatenate(blocks: Sequence[Tensor]) -> Tensor:
    """The rows of several blocks."""
    return torch.cat(tuple(blocks))


def zeros(count: int, size: int, like: Tensor) -> Tensor:
    """A block of zeros, where the tensor is."""
    return torch.zeros((count, size), dtype=like.dtype, device=like.device)


def put(block: Tensor, row: int, vector: Tensor) -> Tensor:
    """In place."""
    block[row] = vector
    return block


def project_out(basis: Tensor, count: int, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Gram-Schmidt, twice."""
    q = basis[:count]
    first = torch.mv(q.conj(), vector)
    vector = torch.addmv(vector, q.T, first, alpha=-1)
    second = torch.mv(q.conj(), vector)
    return torch.addmv(vector, q.T, second, alpha=-1), first + second


def orthonormal(block: Tensor) -> tuple[Tensor, Tensor]:
    """QR of the transpose."""
    q, r = torch.linalg.qr(block.T)
    return q.T, r


def empty(space: Space) -> Tensor:
    """A block without vectors."""
    return torch.zeros(0, space.size, dtype=getattr(torch, space.dtype), device=space.device or None)


def identity(space: Space, start: int = 0, stop: int | None = None) -> Tensor:
    """The unit vectors, or some of them."""
    stop = space.size if stop is None else stop
    rows = torch.zeros(stop - start, space.size, dtype=getattr(torch, space.dtype), device=space.device or None)
    rows[:, start:stop].fill_diagonal_(1)
    return rows


def from_host(values: Any, like: Tensor) -> Tensor:
    """As a tensor."""
    return torch.as_tensor(np.array(values), dtype=like.dtype, device=like.device)


def detached(block: Tensor) -> Tensor:
    """Without its graph."""
    return block.detach()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """As it is."""
    return function


def is_traced(like: Any) -> bool:
    """Never."""
    return False


def linear(apply: Callable[[Any], Any], transposed: Callable[[Any], Any], block: Any) -> Any:
    """With the adjoint as its reverse pass."""
    if not (block.requires_grad and torch.is_grad_enabled()):
        return apply(block)
    return _Linear.apply(block, apply, transposed)  # type: ignore[no-untyped-call]


class _Linear(torch.autograd.Function):
    """A linear map; its derivative is the adjoint, whose derivative is the map."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, apply: Any, transposed: Any) -> Any:
        ctx.maps = apply, transposed
        return apply(block)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        apply, transposed = ctx.maps
        return linear(transposed, apply, grads[0]), None, None


class TorchSource:
    """Random vectors by a ``torch.Generator`` on the device of the vectors."""

    def __init__(self, generator: torch.Generator, like: Tensor) -> None:
        self._generator, self._dtype, self._device = generator, like.dtype, like.device

    def normal(self, count: int, size: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(count, size, generator=self._generator, dtype=self._dtype, device=self._device)

    def rademacher(self, count: int, size: int) -> Tensor:
        """Signs."""
        signs = torch.randint(0, 2, (count, size), generator=self._generator, dtype=torch.int8, device=self._device)
        return signs.to(self._dtype).mul_(2).sub_(1)


def source(given: Any, like: Tensor) -> TorchSource:
    """From a seed or a ``torch.Generator``."""
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        given = torch.Generator(like.device).manual_seed(int(given) ^ SALT << 31)
    if not isinstance(given, torch.Generator):
        raise CrelleTypeError(
            describe(
                f"{given!r} is no source of random numbers for PyTorch tensors",
                expected="seed= an integer, or generator= a torch.Generator",
            )
        )
    return TorchSource(given, like)
