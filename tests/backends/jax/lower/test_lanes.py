"""Transforms, solves, sorts, cumulative operations."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.backends.jax.lower.dense import check

RNG = np.random.default_rng(5)
SYSTEM = RNG.normal(size=(5, 5)) + 6 * np.eye(5)
SPARSE = np.where(np.abs(np.subtract.outer(np.arange(5), np.arange(5))) % 3 == 0, SYSTEM, 0.0)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "left, lower, transpose, unit", list(itertools.product([True, False], [True, False], [True, False], [True, False]))
)
def test_triangular_solve(left, lower, transpose, unit, sparse):
    a = SPARSE if sparse else SYSTEM
    check(
        lambda b: lax.linalg.triangular_solve(
            a, b, left_side=left, lower=lower, transpose_a=transpose, unit_diagonal=unit
        ),
        (5, 2) if left else (2, 5),
    )


def test_triangular_solves_side_by_side():
    a = np.stack([SPARSE, SYSTEM])
    check(lambda b: lax.linalg.triangular_solve(a, b, left_side=True, lower=True), (2, 5, 1), exact=False)
    check(lambda b: lax.linalg.triangular_solve(np.stack([SPARSE] * 2), b, left_side=True, lower=True), (2, 5, 1))


def test_triangular_solve_with_a_matrix_that_varies():
    check(lambda b: lax.linalg.triangular_solve(SYSTEM * jnp.sum(b**2), b, left_side=True, lower=True), (5, 1))


def test_other_solves():
    check(lambda b: jnp.linalg.solve(SYSTEM, b), (5,))
    inverse, back = (lambda _, v: jnp.linalg.solve(SPARSE, v)), (lambda _, v: jnp.linalg.solve(SPARSE.T, v))
    check(lambda b: lax.custom_linear_solve(lambda v: SPARSE @ v, b, inverse, back), (5,))
    low, high = jnp.array([0.0, 1, 1, 1]), jnp.array([1.0, 1, 1, 0])
    check(lambda b: lax.linalg.tridiagonal_solve(low, jnp.full(4, 4.0), high, b), (4, 2))
    check(lambda b: lax.linalg.tridiagonal_solve(low, 4 + b[:, 0] ** 2, high, b), (4, 2), exact=False)
    check(lambda b: jax.vmap(lambda v: jnp.linalg.solve(SYSTEM[:2, :2], v))(b), (3, 2))


@pytest.mark.parametrize("function", [jnp.fft.fft, jnp.fft.ifft, jnp.fft.rfft, jnp.fft.hfft], ids=lambda f: f.__name__)
@pytest.mark.parametrize("axis", [0, 1])
def test_transforms(function, axis):
    check(lambda x: jnp.abs(function(x + 0.3, axis=axis)), (3, 5), exact=False)
    parts = check(lambda x: jnp.real(function(x, axis=axis)), (3, 5), exact=False)
    lanes = parts.shape[0] * (3, 5)[axis]
    assert len(parts.indices) == lanes, "dense along the axis, and nothing across"


def test_transforms_over_several_axes():
    check(lambda x: jnp.real(jnp.fft.fft2(x)), (2, 2, 3), exact=False)
    check(lambda x: jnp.fft.irfftn(x + 0j, axes=(0, 1)), (2, 3), exact=False)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("function", [lax.cumsum, lax.cumprod, lax.cumlogsumexp])
def test_cumulative(function, axis, reverse):
    check(lambda x: function(x, axis, reverse), (3, 4))


@pytest.mark.parametrize("function", [lax.cummax, lax.cummin])
def test_cumulative_extremes(function):
    assert len(check(lambda x: function(x, 0), (4, 2), exact=False).indices) == 2 * 10


@pytest.mark.parametrize("axis", [0, 1])
def test_sorts(axis):
    for f in (
        lambda x: jnp.sort(x, axis),
        lambda x: lax.sort((x, x * 2), dimension=axis)[1],
        lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis), axis),
    ):
        assert len(check(f, (3, 4), exact=False).indices) == 12 * (3, 4)[axis]


def test_top_k():
    assert len(check(lambda x: lax.top_k(x, 2)[0], (3, 4), exact=False).indices) == 6 * 4


COMPLEX = {
    "real to complex to real": lambda x: jnp.real(jnp.exp(1j * x) * x[::-1]),
    "parts": lambda x: jnp.imag(lax.complex(x[:2], x[2:]) ** 2),
    "absolute": lambda x: jnp.abs(lax.complex(x[:2], x[2:])),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex(name):
    check(COMPLEX[name], (4,))


@pytest.mark.parametrize("name", ["cholesky", "eigh", "svd", "qr", "inv", "det"])
def test_factorisations_of_a_batch_are_blocks(name):
    def f(x):
        m = x @ jnp.swapaxes(x, -1, -2) + jnp.diag(jnp.array([1.0, 2.0]))
        return getattr(jnp.linalg, name)(m)

    parts = check(f, (3, 2, 2), exact=False)
    rows = np.repeat(np.arange(parts.shape[0]), np.diff(parts.indptr))
    leaves = jax.tree.leaves(jax.eval_shape(f, jnp.zeros((3, 2, 2))))
    sample = np.concatenate([np.repeat(np.arange(3), leaf.size // 3) for leaf in leaves])
    assert (sample[rows] == parts.indices // 4).all()
