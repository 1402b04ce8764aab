"""What every operator offers: dense matrices, products from the left, SciPy's operators."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch

import crelle
from crelle.operators import _operator

MAKE = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}
MATRIX = np.random.default_rng(3).standard_normal((4, 6))


@pytest.fixture(params=list(MAKE))
def make(request):
    return MAKE[request.param]


@pytest.mark.parametrize("matrix", [MATRIX, MATRIX.T, MATRIX[:0], MATRIX[:, :0]])
@pytest.mark.parametrize("batch", [1 << 26, 200])
def test_todense(make, matrix, batch, monkeypatch):
    monkeypatch.setattr(_operator, "_BATCH", batch)
    asked = []
    A = crelle.operator(make(matrix))
    for name in ("_products", "_adjoint_products"):
        method = getattr(A, name)
        monkeypatch.setattr(A, name, lambda block, method=method: asked.append(len(block)) or method(block))
    found = A.todense()
    assert tuple(found.shape) == matrix.shape
    np.testing.assert_allclose(found, matrix, rtol=1e-15)
    assert sum(asked) == min(matrix.shape)
    assert max(asked) <= max(1, batch // (8 * sum(matrix.shape)))


def test_todense_refuses_what_does_not_fit(monkeypatch):
    A = crelle.jacobian(lambda x: 2 * x).at(np.ones(300))
    with pytest.raises(crelle.CrelleMemoryError) as caught:
        A.todense(memory="500kB")
    assert str(caught.value) == (
        "Jacobian of f(f64[300×300], numpy, cpu).todense(): the matrix takes 720 kB, of 500 kB\n"
        "  try  products alone (A @ v), A.diagonal(), or memory= if there is more"
    )
    monkeypatch.setattr(type(A.backend), "available_memory", lambda self, device: 1_000_000)
    with pytest.raises(crelle.CrelleMemoryError, match="takes 720 kB, of 500 kB"):
        A.todense()
    assert A.todense(memory="1MB").shape == (300, 300)


def test_called(make):
    A = crelle.operator(make(MATRIX))
    np.testing.assert_allclose(A(make(np.ones(6))), MATRIX.sum(1))


def test_what_it_says_of_itself(make):
    A = crelle.operator(make(MATRIX))
    assert A.shape == (4, 6) and A.dtype == "float64" and A.device == "cpu"
    assert A.backend.name in MAKE and not A.is_symmetric and A.notes == ()
    J = crelle.jacobian(lambda x: x[:2] ** 2).at(make(np.ones(3)))
    assert repr(J) == f"Jacobian of f(f64[2×3], {J.backend.name}, cpu)"
    np.testing.assert_allclose(np.asarray(J.value), [1.0, 1.0])


def test_large_numbers_are_grouped():
    J = crelle.jacobian(lambda x: x.sum()).at(jnp.ones(12_345))
    assert repr(J) == "Jacobian of f(f64[1×12,345], jax, cpu)"


def test_gradients_through_products_of_torch():
    A = crelle.operator(torch.as_tensor(MATRIX))
    v = torch.ones(6, dtype=torch.float64, requires_grad=True)
    (A @ v).sum().backward()
    np.testing.assert_allclose(v.grad, MATRIX.sum(0))


# -- SciPy


def test_to_scipy(make, rng):
    S = crelle.operator(make(MATRIX)).to_scipy()
    assert S.shape == (4, 6) and S.dtype == np.float64
    v, V, u, U = (rng.standard_normal(shape) for shape in (6, (6, 3), 4, (4, 2)))
    np.testing.assert_allclose(S @ v, MATRIX @ v, rtol=1e-13)
    np.testing.assert_allclose(S @ v[:, None], MATRIX @ v[:, None], rtol=1e-13)
    np.testing.assert_allclose(S.matmat(V), MATRIX @ V, rtol=1e-13)
    np.testing.assert_allclose(S.rmatvec(u), MATRIX.T @ u, rtol=1e-13)
    np.testing.assert_allclose(S.rmatmat(U), MATRIX.T @ U, rtol=1e-13)
    np.testing.assert_allclose((S.T @ u), MATRIX.T @ u, rtol=1e-13)
    np.testing.assert_allclose((2 * S.H @ S) @ v, 2 * MATRIX.T @ MATRIX @ v, rtol=1e-13)
    assert isinstance(S @ v, np.ndarray)


def test_scipy_finds_singular_values_and_eigenvalues():
    x = jnp.linspace(0.1, 1, 30)
    H = crelle.hessian(lambda x: jnp.sum(jnp.sin(x) * jnp.cumsum(x) ** 2)).at(x)
    matrix = np.asarray(jax.hessian(lambda x: jnp.sum(jnp.sin(x) * jnp.cumsum(x) ** 2))(x))
    found = sla.eigsh(H.to_scipy(), k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix)[-3:], rtol=1e-10)
    J = crelle.operator(jnp.asarray(MATRIX))
    np.testing.assert_allclose(
        np.sort(sla.svds(J.to_scipy(), k=2, return_singular_vectors=False)),
        np.sort(np.linalg.svd(MATRIX, compute_uv=False)[:2]),
        rtol=1e-10,
    )


def test_complex_adjoints_of_scipy_are_conjugated():
    matrix = MATRIX + 1j * MATRIX[::-1]
    for make in (np.asarray, jnp.asarray, torch.as_tensor):
        S = crelle.operator(make(matrix)).to_scipy()
        u = np.arange(4) + 1j
        np.testing.assert_allclose(S.rmatvec(u), matrix.conj().T @ u, rtol=1e-13)
        np.testing.assert_allclose(S.T @ u, matrix.T @ u, rtol=1e-13)
        np.testing.assert_allclose(S @ np.ones(6), matrix.sum(1), rtol=1e-13)


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_half_precision_becomes_float32_on_the_host(framework):
    small = np.asarray([[1.0, 2.0], [3.0, 4.0]])
    matrix = jnp.asarray(small, jnp.bfloat16) if framework == "jax" else torch.as_tensor(small, dtype=torch.bfloat16)
    S = crelle.operator(matrix).to_scipy()
    found = S @ np.asarray([1.0, 1.0])
    assert S.dtype == found.dtype == np.float32
    np.testing.assert_array_equal(found, [3.0, 7.0])
