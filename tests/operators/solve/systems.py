"""Matrices and frameworks that the tests of solvers share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

MAKE = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}
FRAMEWORKS = list(MAKE)


def host(array: Any) -> Any:
    """As a NumPy array."""
    return array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def rotated(rng: np.random.Generator, eigenvalues: Any) -> Any:
    """A symmetric matrix with these eigenvalues."""
    q = np.linalg.qr(rng.standard_normal((len(eigenvalues),) * 2))[0]
    return (q * eigenvalues) @ q.T


def positive(rng: np.random.Generator, n: int = 150) -> Any:
    """Positive definite."""
    return rotated(rng, np.linspace(1, 50, n))


def indefinite(rng: np.random.Generator, n: int = 150) -> Any:
    """Symmetric, with eigenvalues of both signs."""
    return rotated(rng, np.concatenate([-np.linspace(1, 5, n // 3), np.linspace(1, 20, n - n // 3)]))


def unsymmetric(rng: np.random.Generator, n: int = 150) -> Any:
    """Square, with eigenvalues around 2."""
    return 2 * np.eye(n) + rng.standard_normal((n, n)) / np.sqrt(n)
