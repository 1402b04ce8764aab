"""Quadratures against eigenvalues: what is exact, what is sampled, and how far off that is."""

from __future__ import annotations

import numpy as np
import pytest

import crelle
from crelle.estimators._estimate import source_for
from crelle.estimators._quadrature import Quadrature, Rule, quadrature


def rotated(values, rng):
    """A symmetric matrix with these eigenvalues."""
    q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    matrix = q * values @ q.T
    return (matrix + matrix.T) / 2


def of(matrix, seed=0, probes=10, steps=30, budget=None, done=None) -> Quadrature:
    A = crelle.operator(matrix, symmetric=True)
    source = source_for(A, "test", seed, None, None)
    return quadrature(A, "test", source, probes=probes, steps=steps, budget=budget, done=done)


def test_a_rule_integrates_polynomials_exactly(rng):
    alphas, betas = rng.standard_normal(5), np.abs(rng.standard_normal(5))
    tridiagonal = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
    rule = Rule.of(alphas, betas, 0.0)
    for power in range(10):
        wanted = np.linalg.matrix_power(tridiagonal, power)[0, 0]
        assert np.sum(rule.weights * rule.nodes**power) == pytest.approx(wanted, rel=1e-10, abs=1e-12)
    assert np.allclose(rule.shorter(3).nodes, np.linalg.eigvalsh(tridiagonal[:3, :3]))


@pytest.mark.parametrize(
    "values",
    [[3.0], [0.0] * 7, [2.0] * 20, [5.0, 4.0, -3.0] + [0.0] * 60, list(range(1, 9)), [7.0] + [1.0] * 40],
    ids=["1 × 1", "zero", "multiple of I", "low rank", "small", "one apart"],
)
def test_what_every_probe_finds_is_exact(values, rng):
    found = of(rotated(np.array(values, float), rng))
    assert found.exact
    for power in (1, 2, 5):
        value, stderr = found.mean(lambda t, k=power: t**k)
        assert stderr == 0
        assert value == pytest.approx(np.mean(np.array(values) ** power), rel=1e-9, abs=1e-12)


def test_an_eigenvalue_that_is_multiple_is_not_counted_once(rng):
    values = np.array([5.0, 5.0, 9.0] + [0.0] * 40)
    found = of(rotated(values, rng))
    assert not found.exact
    assert found.simple == pytest.approx([9.0])
    value, stderr = found.mean(lambda t: t)
    assert abs(value - values.mean()) < 4 * stderr


def test_rotations_do_not_matter_but_seeds_do(rng):
    matrix = rotated(rng.standard_normal(80), rng)
    same, again, other = of(matrix, 3), of(matrix, 3), of(matrix, 4)
    assert same.mean(np.cos) == again.mean(np.cos)
    assert same.mean(np.cos) != other.mean(np.cos)


def coverage(matrix, probes, repetitions):
    """The shares of standardised errors within 1 and 1.96, for four moments and a logarithm."""
    values = np.linalg.eigvalsh(matrix)
    functions = [lambda t: t, lambda t: t**2, lambda t: t**3, lambda t: t**4, lambda t: np.log1p(np.abs(t))]
    errors = np.zeros((repetitions, len(functions)))
    for seed in range(repetitions):
        found = of(matrix, seed, probes)
        for i, f in enumerate(functions):
            value, stderr = found.mean(f)
            errors[seed, i] = (value - f(values).mean()) / stderr
    return (np.abs(errors) < 1).mean(), (np.abs(errors) < 1.96).mean()


# three standard deviations of a share of 60 repetitions; squares of few normal numbers are skew
@pytest.mark.parametrize(("probes", "least"), [(1, 0.78), (10, 0.86)])
def test_standard_errors_cover_the_truth(probes, least, rng):
    bulk = np.concatenate([[9.0, 5.0, 5.0], 0.3 * rng.standard_normal(150)])
    one, two = coverage(rotated(bulk, rng), probes, 60)
    assert 0.50 < one < 0.86
    assert two > least


@pytest.mark.slow
@pytest.mark.parametrize("probes", [2, 10])
def test_standard_errors_cover_the_truth_at_their_rate(probes, rng):
    bulk = np.concatenate([[9.0, 5.0, 4.0, 3.0], rng.exponential(size=200) - 0.3])
    one, two = coverage(rotated(bulk, rng), probes, 200)
    assert 0.58 < one < 0.78
    assert two > 0.90


def test_the_budget_leaves_whole_probes_or_a_short_one(rng):
    matrix = rotated(rng.standard_normal(90), rng)
    assert (len(of(matrix, budget=75).rules), of(matrix, budget=75).products) == (2, 60)
    short = of(matrix, budget=12)
    assert (len(short.rules), short.products, short.steps) == (1, 12, 12)
    assert short.notes == ("12 steps in place of 30: the budget allows no more",)
    assert short.mean(lambda t: t)[1] > 0


def test_it_ends_when_there_is_enough(rng):
    seen = []

    def done(found):
        seen.append(len(found.rules))
        return len(found.rules) >= 4

    assert len(of(rotated(rng.standard_normal(90), rng), probes=50, done=done).rules) == seen[-1] < 8


class Interrupted:
    """Products with a matrix, of which one raises."""

    def __init__(self, matrix, at):
        self.matrix, self.at, self.done = matrix, at, 0

    def __call__(self, v):
        self.done += 1
        if self.done == self.at:
            raise KeyboardInterrupt
        return self.matrix @ v


def test_interrupted_it_returns_the_finished_probes(rng):
    matrix = rotated(rng.standard_normal(50), rng)

    def run(at):
        A = crelle.operator(Interrupted(matrix, at), (50, 50), like=matrix, symmetric=True)
        return quadrature(A, "test", source_for(A, "test", 0, None, None), probes=5, steps=10, budget=None)

    found = run(27)
    assert (found.partial, len(found.rules)) == (True, 2)
    complete = of(matrix, probes=2, steps=10)
    assert found.mean(np.cos) == complete.mean(np.cos)
    with pytest.raises(KeyboardInterrupt):
        run(4)


def test_the_frameworks_agree(rng):
    """Each with its own random numbers, on a matrix where these do not matter."""
    import jax.numpy as jnp
    import torch

    matrix = rotated(np.array([5.0, 4.0, -3.0] + [0.0] * 60), rng)
    for given in (matrix, jnp.asarray(matrix), torch.as_tensor(matrix)):
        value, stderr = of(given).mean(lambda t: t**3)
        assert (value, stderr) == (pytest.approx(np.trace(matrix @ matrix @ matrix) / 63), 0)


def test_single_precision_finds_the_same(rng):
    import torch

    values = np.array([5.0, 4.0, -3.0, *0.01 * rng.standard_normal(100)])
    found = of(torch.as_tensor(rotated(values, rng), dtype=torch.float32))
    assert np.allclose(np.sort(found.simple)[[0, -2, -1]], [-3, 4, 5], atol=1e-4)
    value, stderr = found.mean(lambda t: t**2)
    assert abs(value - np.mean(values**2)) < 4 * stderr + 1e-5
