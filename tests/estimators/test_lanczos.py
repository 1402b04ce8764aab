"""The Lanczos process against its defining equation, in every framework; breakdown, chains and restarts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.estimators._basis import ROWS
from crelle.estimators._bidiagonal import Bidiagonal
from crelle.estimators._krylov import Krylov
from crelle.estimators._lanczos import lanczos
from crelle.estimators._search import Search

FRAMEWORKS = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.tensor}


def symmetric(n: int, seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).standard_normal((n, n))
    return matrix + matrix.T


def rows(operator: Any, basis: Any) -> np.ndarray:
    return np.asarray(operator.backend.to_host(basis.combine(np.eye(basis.count))))


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> Any:
    return FRAMEWORKS[request.param]


@pytest.mark.parametrize("steps", [1, ROWS, ROWS + 1, 25, 41])
def test_the_defining_equation(framework: Any, steps: int) -> None:
    matrix, n = symmetric(60), 60
    operator = crelle.operator(framework(matrix), symmetric=True)
    run = lanczos(operator, framework(np.random.default_rng(1).standard_normal(n)), steps)
    q = rows(operator, run.basis)
    t = np.diag(run.alphas) + np.diag(run.betas[:-1], 1) + np.diag(run.betas[:-1], -1)
    left = matrix @ q.T - q.T @ t
    assert (run.steps, len(run.alphas), len(run.betas), run.breakdown) == (steps, steps, steps, False)
    np.testing.assert_allclose(q @ q.T, np.eye(steps), atol=1e-14)
    np.testing.assert_allclose(left[:, :-1], 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(left[:, -1]), run.betas[-1], rtol=1e-12)


def test_all_steps_give_all_eigenvalues(framework: Any) -> None:
    matrix = symmetric(30)
    operator = crelle.operator(framework(matrix), symmetric=True)
    run = lanczos(operator, framework(np.ones(30)), 99)
    t = np.diag(run.alphas) + np.diag(run.betas[:-1], 1) + np.diag(run.betas[:-1], -1)
    assert (run.steps, run.breakdown, run.betas[-1]) == (30, True, 0.0)
    np.testing.assert_allclose(np.linalg.eigvalsh(t), np.linalg.eigvalsh(matrix), atol=1e-12)


@pytest.mark.parametrize("dimension", [1, 3])
def test_an_invariant_subspace_ends_it_exactly(framework: Any, dimension: int) -> None:
    values = np.arange(1.0, 41.0)
    start = np.zeros(40)
    start[5 : 5 + dimension] = 1.0
    run = lanczos(crelle.operator(framework(np.diag(values)), symmetric=True), framework(start), 20)
    t = np.diag(run.alphas) + np.diag(run.betas[:-1], 1) + np.diag(run.betas[:-1], -1)
    assert (run.steps, run.breakdown, run.betas[-1]) == (dimension, True, 0.0)
    np.testing.assert_allclose(np.linalg.eigvalsh(t), values[5 : 5 + dimension], rtol=1e-14)


def test_memory_is_used_again_without_a_trace() -> None:
    operator = crelle.operator(symmetric(50), symmetric=True)
    start = np.random.default_rng(2).standard_normal(50)
    alone = lanczos(operator, start, 9)
    again = lanczos(operator, start, 9, basis=lanczos(operator, np.ones(50), 20).basis)
    np.testing.assert_array_equal(alone.alphas, again.alphas)
    assert again.basis.count == 9


def test_progress_counts_products() -> None:
    seen: list[int] = []
    lanczos(crelle.operator(symmetric(50), symmetric=True), np.ones(50), 25, progress=seen.append)
    assert seen == [10, 20, 25]


def check_krylov(space: Krylov, matrix: np.ndarray) -> None:
    q = rows(space._operator, space.basis)
    p = np.array([np.asarray(space._operator.backend.to_host(d)) for d in space._directions]).reshape(-1, len(matrix))
    both = np.concatenate([q, p])
    np.testing.assert_allclose(both @ both.T, np.eye(len(both)), atol=1e-13)
    np.testing.assert_allclose(matrix @ q.T, q.T @ space.projected + p.T @ space.coupling, atol=1e-11)
    values, residuals, coefficients = space.ritz()
    ritz = q.T @ coefficients
    np.testing.assert_allclose(np.linalg.norm(matrix @ ritz - ritz * values, axis=0), residuals, atol=1e-11)


def test_chains_and_restarts_keep_the_equation(framework: Any) -> None:
    matrix = symmetric(50)
    space = Krylov(crelle.operator(framework(matrix), symmetric=True), "test")
    rng = np.random.default_rng(3)
    assert space.seed(framework(rng.standard_normal(50)))
    assert space.extend(12)
    check_krylov(space, matrix)
    assert space.seed(framework(rng.standard_normal(50)))
    assert space.extend(5) and space.extend(3, 0)
    check_krylov(space, matrix)
    space.restart(np.array([0, 3, 17, 19]))
    check_krylov(space, matrix)
    assert space.extend(7, 1) and space.extend(6, 0)
    check_krylov(space, matrix)
    while space.open:
        space.extend(9)
    assert space.size == 50 and not space.seed(framework(rng.standard_normal(50)))
    np.testing.assert_allclose(space.ritz()[0], np.linalg.eigvalsh(matrix), atol=1e-11)


def check_bidiagonal(space: Bidiagonal, matrix: np.ndarray) -> None:
    v, u = rows(space._operator, space.basis), rows(space._operator, space.left)
    p = np.array([np.asarray(space._operator.backend.to_host(d)) for d in space._directions])
    p = p.reshape(-1, matrix.shape[1])
    both = np.concatenate([v, p])
    np.testing.assert_allclose(both @ both.T, np.eye(len(both)), atol=1e-13)
    np.testing.assert_allclose(u @ u.T, np.eye(len(u)), atol=1e-13)
    np.testing.assert_allclose(matrix @ v.T, u.T @ space.projected, atol=1e-12)
    np.testing.assert_allclose(matrix.T @ u.T, v.T @ space.projected.T + p.T @ space.coupling, atol=1e-12)


def test_bidiagonalisation_keeps_its_equations(framework: Any) -> None:
    rng = np.random.default_rng(4)
    matrix = rng.standard_normal((60, 40))
    space = Bidiagonal(crelle.operator(framework(matrix)), "test")
    assert space.seed(framework(rng.standard_normal(40)))
    assert space.extend(9)
    check_bidiagonal(space, matrix)
    assert space.seed(framework(rng.standard_normal(40)))
    assert space.extend(4) and space.extend(3, 0)
    check_bidiagonal(space, matrix)
    space.restart(np.array([2, 0, 5]))
    check_bidiagonal(space, matrix)
    assert space.extend(6, 0) and space.extend(4, 1)
    check_bidiagonal(space, matrix)
    while space.open:
        space.extend(9)
    np.testing.assert_allclose(space.ritz()[0], np.linalg.svd(matrix, compute_uv=False), atol=1e-11)


def test_null_vectors_end_chains_of_a_bidiagonalisation(framework: Any) -> None:
    rng = np.random.default_rng(5)
    u, v = (np.linalg.qr(rng.standard_normal((size, 3)))[0] for size in (60, 40))
    matrix = (u * np.array([3.0, 2.0, 1.0])) @ v.T
    space = Bidiagonal(crelle.operator(framework(matrix)), "test")
    assert space.seed(framework(rng.standard_normal(40)))
    assert not space.extend(20)
    assert (space.left.count, space.open) == (3, 0)
    for _ in range(2):
        assert space.seed(framework(rng.standard_normal(40))) and not space.extend(5)
        check_bidiagonal(space, matrix)
    assert space.left.count == 3
    space.restart(np.arange(4))
    check_bidiagonal(space, matrix)
    np.testing.assert_allclose(space.ritz()[0][:3], np.linalg.svd(matrix, compute_uv=False)[:3], rtol=1e-12)


def test_an_interrupt_keeps_the_steps_that_were_done() -> None:
    matrix, calls = symmetric(40), []

    def product(v: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return matrix @ v

    operator = crelle.operator(product, (40, 40), like=np.zeros(1), symmetric=True)
    space = Krylov(operator, "test")
    space.seed(np.ones(40))
    with pytest.raises(KeyboardInterrupt):
        space.extend(20)
    assert space.size == 7
    check_krylov(space, matrix)


def test_a_product_that_is_not_finite_is_named(framework: Any) -> None:
    matrix = symmetric(30)
    calls = []

    def product(v: Any) -> Any:
        calls.append(1)
        return v * float("nan") if len(calls) == 6 else v * framework(np.diagonal(matrix).copy())

    operator = crelle.operator(product, (30, 30), like=framework(np.zeros(1)), symmetric=True)
    with pytest.raises(crelle.CrelleValueError) as caught:
        lanczos(operator, framework(np.ones(30)), 20, what="spectral_density")
    assert "spectral_density: product 6 with the matrix is NaN or infinite" in str(caught.value)


@pytest.mark.parametrize("missing", [0, 2])
def test_the_guard_finds_what_the_first_vector_does_not_see(missing: int) -> None:
    values = np.concatenate([[9.0, 8.0, 7.0], np.linspace(-1, 1, 297)])
    operator = crelle.operator(np.diag(values), symmetric=True)

    class Blind:
        """The first vector has nothing of one eigenvector."""

        def __init__(self) -> None:
            self.rng, self.drawn = np.random.default_rng(0), 0

        def normal(self, count: int, size: int) -> np.ndarray:
            found = self.rng.standard_normal((count, size))
            if not self.drawn:
                found[:, missing] = 0
            self.drawn += 1
            return found

        rademacher = normal

    space = Krylov(operator, "eigsh")
    largest = lambda values, k: np.argsort(-values, kind="stable")[:k]
    found = Search(space, Blind(), 300, largest, 3, 1e-6).run("eigsh", 120, None)
    np.testing.assert_allclose(found.values, [9.0, 8.0, 7.0], rtol=1e-10)
    assert found.notes[0] == "missed at first, found by a new random vector: once"
