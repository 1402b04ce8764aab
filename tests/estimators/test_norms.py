"""Norms and condition numbers against NumPy's."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

FRAMEWORKS = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.tensor}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> Any:
    return FRAMEWORKS[request.param]


@pytest.mark.parametrize("ord", ["fro", 2, "nuc"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 1)])
def test_small_matrices_are_exact(framework: Any, ord: Any, shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    found = crelle.operator(framework(matrix)).norm(ord)
    assert found.exact
    assert float(found) == pytest.approx(np.linalg.norm(matrix, ord), rel=1e-12)


def test_spectral_norms_of_large_matrices(framework: Any) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((400, 300))
    found = crelle.operator(framework(matrix)).norm(2)
    truth = np.linalg.norm(matrix, 2)
    assert abs(float(found) - truth) <= found.stderr <= 1e-3 * truth
    assert found.notes[0] == "the error is the residual: a bound, if nothing larger was missed"
    negative = -(matrix.T @ matrix) + np.eye(300)
    found = crelle.operator(framework(negative), symmetric=True).norm(2, rtol=1e-8)
    assert float(found) == pytest.approx(np.linalg.norm(negative, 2), rel=1e-12)
    assert found.method == "Lanczos"


def test_nuclear_norms_of_low_rank_are_exact(framework: Any) -> None:
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((400, 5)) @ rng.standard_normal((5, 300))
    for given in (matrix, matrix.T):
        found = crelle.operator(framework(given)).norm("nuc")
        assert found.exact and found.products <= 40
        assert float(found) == pytest.approx(np.linalg.norm(matrix, "nuc"), rel=1e-12)
    identity = crelle.operator(framework(np.eye(300))).norm("nuc")
    assert float(identity) == pytest.approx(300, rel=1e-12)


def test_nuclear_norms_of_full_rank_have_an_error() -> None:
    matrix = np.random.default_rng(3).standard_normal((400, 250))
    truth = np.linalg.norm(matrix, "nuc")
    for seed in range(10, 14):  # not that of the matrix
        found = crelle.operator(matrix).norm("nuc", seed=seed)
        assert 0 < found.stderr < 0.02 * truth
        assert abs(float(found) - truth) < 3 * found.stderr


@pytest.mark.parametrize("ord", [2, "nuc"])
def test_empty_matrices(ord: Any) -> None:
    assert float(crelle.operator(np.zeros((0, 3))).norm(ord)) == 0.0


def test_other_norms_are_refused() -> None:
    with pytest.raises(crelle.CrelleValueError, match=r'norm\(1\)\n  expected  "fro", 2 or "nuc"'):
        crelle.operator(np.eye(2)).norm(1)


def test_condition_numbers_of_small_matrices(framework: Any) -> None:
    matrix = np.random.default_rng(4).standard_normal((6, 4))
    for given in (matrix, matrix.T.copy()):
        found = crelle.operator(framework(given)).cond()
        assert found.exact and float(found) == pytest.approx(np.linalg.cond(matrix), rel=1e-10)
    assert float(crelle.operator(framework(np.diag([1.0, 0.0]))).cond()) == np.inf
    assert float(crelle.operator(framework(np.zeros((2, 2)))).cond()) == np.inf


def test_condition_numbers_of_large_matrices_are_bounds() -> None:
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((600, 300))
    found, truth = crelle.operator(matrix).cond(), np.linalg.cond(matrix)
    assert np.isnan(found.stderr) and found.notes[0].startswith("a lower bound: the smallest singular value found is")
    assert 0.999 * truth < float(found) < truth * (1 + 1e-9)
    u, v = (np.linalg.qr(rng.standard_normal((300, 300)))[0] for _ in range(2))
    hard = (u * np.exp(-np.arange(300) / 20)) @ v.T
    found = crelle.operator(hard).cond(budget=100)
    assert 10 < float(found) < np.linalg.cond(hard) and np.isnan(found.stderr) and found.products <= 100


def test_singular_matrices_are_told() -> None:
    rng = np.random.default_rng(6)
    found = crelle.operator(rng.standard_normal((400, 5)) @ rng.standard_normal((5, 300))).cond()
    assert float(found) == np.inf and found.products < 60


def test_condition_numbers_of_nothing() -> None:
    with pytest.raises(crelle.CrelleValueError, match="at least one row and one column"):
        crelle.operator(np.zeros((0, 3))).cond()
