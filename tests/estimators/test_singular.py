"""Singular triplets against dense matrices."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.estimators import SingularTriplets

FRAMEWORKS = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.tensor}


def with_values(m: int, n: int, values: np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (m, n))
    return (u * values) @ v.T


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> Any:
    return FRAMEWORKS[request.param]


def check(found: SingularTriplets, matrix: np.ndarray, accuracy: float) -> None:
    left, right, k = np.asarray(found.left), np.asarray(found.right), len(found)
    expected = np.linalg.svd(matrix, compute_uv=False)
    scale = max(expected.max(initial=0.0), 1e-300)
    np.testing.assert_allclose(found.values, expected[:k], atol=accuracy * scale)
    for vectors in (left, right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-10)
    one = np.linalg.norm(matrix @ right - left * found.values, axis=0)
    other = np.linalg.norm(matrix.T @ left - right * found.values, axis=0)
    truth = np.hypot(one, other)
    assert (truth <= 1.01 * found.residuals + 1e-13 * scale).all()
    late = found.residuals > 1e-10 * scale
    np.testing.assert_allclose(truth[late], found.residuals[late], rtol=1e-2)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (1, 5), (5, 1), (1, 1), (30, 30)])
def test_small_matrices_are_exact(framework: Any, shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape)
    k = min(shape)
    found = crelle.operator(framework(matrix)).svds(k)
    check(found, matrix, 1e-14)
    assert (found.method, found.products) == ("dense", k)


@pytest.mark.parametrize("shape", [(400, 250), (250, 400), (300, 300)])
@pytest.mark.parametrize("rtol", [1e-3, 1e-10])
def test_large_matrices(framework: Any, shape: tuple[int, int], rtol: float) -> None:
    matrix = with_values(*shape, np.exp(-np.arange(min(shape)) / 8))
    found = crelle.operator(framework(matrix)).svds(6, rtol=rtol)
    check(found, matrix, max(rtol**2, 1e-14))
    assert found.method == "Golub-Kahan-Lanczos" and found.converged.all()
    assert (found.residuals <= rtol * found.values).all()
    assert found.products <= 100


def test_values_keep_the_precision_of_the_matrix() -> None:
    """A Gram matrix would lose values below 1e-8 of the largest."""
    values = np.r_[1.0, 1e-5, 1e-10, np.full(250, 1e-13)]
    matrix = with_values(300, 280, values)
    found = crelle.operator(matrix).svdvals(3)
    np.testing.assert_allclose(found.values, np.linalg.svd(matrix, compute_uv=False)[:3], rtol=1e-5)


@pytest.mark.parametrize("values", [np.r_[3.0, 3, 2, 1], np.zeros(1), np.ones(220)], ids=["rank 4", "zero", "ones"])
def test_null_vectors_and_multiple_values(framework: Any, values: np.ndarray) -> None:
    for shape in ((300, 220), (220, 300)):
        matrix = with_values(*shape, values)
        found = crelle.operator(framework(matrix)).svds(6, rtol=1e-8)
        check(found, matrix, 1e-13)
        assert found.converged.all()


def test_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crelle.estimators._search.ROWS", 40)
    monkeypatch.setattr("crelle.estimators._search.ROWS_EACH", 1)
    matrix = with_values(350, 300, np.linspace(0, 1, 300))
    found = crelle.operator(matrix).svds(5, rtol=1e-8)
    check(found, matrix, 1e-12)
    assert found.notes[0].startswith("restarted")


def test_trees_of_both_sides() -> None:
    def f(p: dict[str, Any]) -> tuple[Any, Any]:
        return jnp.tanh(p["a"]) @ p["b"], jnp.sum(p["a"] ** 2)

    p = {"a": jnp.arange(1.0, 7.0).reshape(2, 3) / 9, "b": jnp.array([0.5, -1.0, 2.0])}
    operator = crelle.jacobian(f).at(p)
    found = operator.svds(2)
    for value, u, v in zip(found.values, found.left_vectors, found.right_vectors, strict=True):
        for mine, product in zip(u, operator @ v, strict=True):
            np.testing.assert_allclose(product, value * mine, atol=1e-12)
        for key, product in (operator.T @ u).items():
            np.testing.assert_allclose(product, value * v[key], atol=1e-12)


def test_svdvals() -> None:
    matrix = np.random.default_rng(2).standard_normal((6, 9))
    found = crelle.operator(matrix).svdvals()
    np.testing.assert_allclose(found.values, np.linalg.svd(matrix, compute_uv=False))
    assert found.left is None and found.right is None
    with pytest.raises(crelle.CrelleValueError, match="the vectors were not kept"):
        _ = found.left_vectors
    with pytest.raises(crelle.CrelleValueError, match="svdvals: k=7"):
        crelle.operator(matrix).svdvals(7)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_empty_matrices(shape: tuple[int, int]) -> None:
    found = crelle.operator(np.zeros(shape)).svds(0)
    assert len(found) == 0 and found.left.shape == (shape[0], 0) and found.right.shape == (shape[1], 0)
    assert len(crelle.operator(np.zeros(shape)).svdvals()) == 0


def test_budget_interrupt_and_nan() -> None:
    matrix = with_values(350, 300, np.linspace(0, 1, 300))
    with pytest.warns(crelle.CrelleWarning, match="svds: no pair converged"):
        found = crelle.operator(matrix).svds(5, budget=21)
    assert found.products == 20
    check(found, matrix, 1.0)
    calls = []

    def product(v: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return matrix @ v

    operator = crelle.operator(product, (350, 300), adjoint=lambda u: matrix.T @ u, like=np.zeros(1))
    found = operator.svds(5)
    assert found.partial and found.products == 28
    check(found, matrix, 1.0)
    matrix[3, 3] = np.nan
    with pytest.raises(crelle.CrelleValueError, match="svds: product 1 with the matrix is NaN"):
        crelle.operator(matrix).svds(5)


def test_the_table_and_the_picture() -> None:
    found = crelle.operator(np.diag([1e-3, -2.0, 0.0])).svds(2)
    assert str(found).splitlines()[0] == "2 singular values  (dense, 3 products)"
    assert repr(found) == "SingularTriplets(2 largest, 2 converged, 3 products)"
    ax = found.plot()
    assert ax.get_yscale() == "log" and ax.get_ylabel() == "singular value σ"
