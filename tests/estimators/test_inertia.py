"""Counts of eigenvalues against all eigenvalues, dense and sparse."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.estimators import _inertia


def test_dense_counts(rng):
    q = np.linalg.qr(rng.standard_normal((9, 9)))[0]
    values = np.array([-3.0, -1e-3, 0.0, 0.0, 1e-12, 1.0, 2.0, 3.0, 4.0])
    A = crelle.operator(q * values @ q.T, symmetric=True)
    counts = A.inertia(1e-9)
    assert (counts.negative, counts.zero, counts.positive, counts.size, counts.products) == (2, 3, 4, 9, 9)
    assert str(counts) == "2 negative, 3 near zero (|λ| ≤ 1e-09), 4 positive  (dense eigenvalues)"
    assert A.inertia(0.1).negative == 1
    assert 0 < A.inertia().tolerance < 1e-12


@pytest.mark.parametrize("n", [0, 1])
def test_the_smallest(n):
    counts = crelle.operator(-np.eye(n), symmetric=True).inertia()
    assert (counts.negative, counts.zero, counts.positive) == (n, 0, 0)


def chain(x):
    """A tridiagonal Hessian of both signs."""
    return ((x[1:] - x[:-1]) ** 2).sum() + jnp.cos(3 * x).sum()


@pytest.fixture
def sparse(monkeypatch):
    """Take everything as too large to be dense."""
    monkeypatch.setattr(_inertia, "DENSE", 0)


def test_sparse_counts(sparse):
    H = crelle.hessian(chain).at(jnp.linspace(-1, 2, 150))
    values = np.linalg.eigvalsh(np.asarray(H.todense()))
    for operator, all_ in ((H, values), (-2.0 * H, -2 * values), (H.shifted(1.5), values + 1.5)):
        counts = operator.inertia()
        assert counts.method == "sparse block LDLᵀ at two shifts"
        assert (counts.negative, counts.zero) == ((all_ < 0).sum(), 0)
        assert counts.size == 150


def test_sparse_counts_on_a_grid_with_a_null_vector(sparse):
    """The five-point stencil: its eigenvalues are known, one of them is 0."""

    def energy(u):
        u = u.reshape(12, 15)
        return 0.5 * ((u[1:] - u[:-1]) ** 2).sum() + 0.5 * ((u[:, 1:] - u[:, :-1]) ** 2).sum()

    counts = crelle.hessian(energy).at(jnp.zeros(180)).inertia()
    assert (counts.negative, counts.zero, counts.positive) == (0, 1, 179)
    counts = crelle.hessian(energy).at(jnp.zeros(180)).inertia(0.5)
    known = np.add.outer(2 - 2 * np.cos(np.pi * np.arange(12) / 12), 2 - 2 * np.cos(np.pi * np.arange(15) / 15))
    assert counts.zero == (known <= 0.5).sum()


def test_a_tolerance_below_rounding_is_raised_and_said(sparse):
    H = crelle.hessian(chain).at(jnp.linspace(-1, 2, 150))
    counts = H.inertia(1e-300)
    assert counts.tolerance > 1e-15
    assert "less cannot be told from rounding" in counts.notes[0]


@pytest.mark.slow
def test_large_counts_without_patches():
    n = 5000
    x = jnp.linspace(-1, 2, n)
    counts = crelle.hessian(chain).at(x).inertia()
    from scipy.linalg import eigvals_banded

    matrix = crelle.hessian(chain, format="csc")(x)
    values = eigvals_banded(np.array([matrix.diagonal(), np.append(matrix.diagonal(-1), 0)]), lower=True)
    assert counts.negative == (values < 0).sum()
    assert counts.positive == (values > 0).sum()


def test_a_large_dense_matrix_is_refused_with_a_way_out(sparse):
    A = crelle.operator(np.eye(4), symmetric=True)
    with pytest.raises(crelle.CrelleValueError, match=r"(?s)inertia: 4 eigenvalues are too many.*spectral_density"):
        A.inertia()


def test_bad_input():
    with pytest.raises(crelle.CrelleTypeError, match="symmetric"):
        crelle.operator(np.eye(3)).inertia()
    with pytest.raises(crelle.CrelleValueError, match="tolerance=-1"):
        crelle.operator(np.eye(3), symmetric=True).inertia(-1)
    with pytest.raises(crelle.CrelleValueError, match="inertia: column 0 of the matrix holds NaN"):
        crelle.operator(np.array([[1.0, 0.0], [0.0, np.nan]]), symmetric=True).inertia()
