"""Log-determinants against LU of the dense matrix: exact, estimated, and refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.estimators import LogDeterminant


def rotated(values, rng):
    q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    matrix = q * values @ q.T
    return (matrix + matrix.T) / 2


def agrees(found: LogDeterminant, matrix, errors=3.5) -> bool:
    sign, log = np.linalg.slogdet(np.asarray(matrix))
    assert found.sign in (None, sign)
    return abs(found.logabsdet - log) <= errors * found.stderr + 1e-9 * max(abs(log), 1)


# -- exact


@pytest.mark.parametrize("method", ["auto", "exact", "lu"])
def test_small_matrices_are_exact(method, rng):
    matrix = rng.standard_normal((7, 7))
    found = crelle.operator(matrix).slogdet(method)
    assert agrees(found, matrix)
    assert (found.sign, found.stderr, found.products) == (np.linalg.slogdet(matrix)[0], 0, 7)
    sign, log = found
    assert (sign, log) == (found.sign, found.logabsdet)


def test_cholesky_where_it_is_known_to_work(rng):
    matrix = rotated(np.arange(1.0, 9.0), rng)
    found = crelle.operator(matrix, psd=True).slogdet()
    assert agrees(found, matrix)
    assert str(found) == f"log|det| {np.log(np.arange(1, 9)).sum():.8g}, sign +1  (Cholesky, dense, 8 products)"
    with pytest.raises(crelle.CrelleValueError, match=r"(?s)not positive definite.*method='lu'"):
        crelle.operator(-matrix, symmetric=True).slogdet("cholesky")


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
def test_singular_matrices(values):
    found = crelle.operator(np.diag(values), psd=True).slogdet()
    assert (found.sign, found.logabsdet) == (0, -np.inf)
    assert "singular" in str(found)


def test_the_empty_matrix_has_determinant_one():
    assert tuple(crelle.operator(np.zeros((0, 0))).slogdet()) == (1, 0)


def flow(x):
    return jnp.sinh(x) + 0.5 * jnp.concatenate([jnp.zeros(1), jnp.tanh(x[:-1])])


def test_jacobians_are_taken_by_their_structure():
    x = jnp.linspace(-1, 1, 40)
    J = crelle.jacobian(flow).at(x)
    log = float(jnp.log(jnp.cosh(x)).sum())
    found = J.slogdet()
    assert (found.method, found.products, found.sign) == ("exact, by structure", 1, 1)
    assert found.logabsdet == pytest.approx(log, rel=1e-12)
    assert J.T.slogdet().logabsdet == pytest.approx(log)
    assert J.gram().slogdet().logabsdet == pytest.approx(2 * log)
    assert (J @ J).slogdet("structure").logabsdet == pytest.approx(2 * log)
    assert (-3.0 * J).slogdet().logabsdet == pytest.approx(log + 40 * np.log(3))
    first = crelle.jacobian(flow).at(jnp.linspace(-1, 1, 41))
    assert (-1.0 * first).slogdet().sign == -1


def test_a_function_that_has_changed_since_is_not_asked():
    scale = np.array([2.0])
    import torch

    x = torch.ones(3, dtype=torch.float64)
    J = crelle.jacobian(lambda v: torch.sinh(v) * float(scale[0])).at(x)
    scale[0] = 5.0
    found = J.slogdet()
    assert found.method == "LU, dense"
    assert found.logabsdet == pytest.approx(3 * np.log(2 * np.cosh(1)))


def test_large_sparse_hessians_by_sparse_lu():
    n = 3000
    x = jnp.linspace(-1, 1, n)
    H = crelle.hessian(lambda u: ((u[1:] - u[:-1]) ** 2).sum() + jnp.cos(3 * u).sum()).at(x)
    found = H.slogdet()
    from scipy.linalg import eigvals_banded

    diagonal = 4 - 2 * ((np.arange(n) == 0) | (np.arange(n) == n - 1)) - 9 * np.cos(3 * np.asarray(x))
    values = eigvals_banded(np.array([diagonal, np.full(n, -2.0)]), lower=True)
    assert found.method == "sparse LU"
    assert found.logabsdet == pytest.approx(np.log(np.abs(values)).sum(), rel=1e-8)
    assert found.sign == (-1) ** (values < 0).sum()


# -- estimated


def test_quadrature_of_positive_matrices(rng):
    matrix = rotated(np.exp(rng.standard_normal(150)), rng)
    found = crelle.operator(matrix, psd=True).slogdet("lanczos")
    assert agrees(found, matrix)
    assert found.sign == 1
    assert 0 < found.stderr < 30


def test_quadrature_errors_cover_the_truth(rng):
    matrix = rotated(np.exp(1.5 * rng.standard_normal(100)), rng)
    A, truth = crelle.operator(matrix, psd=True), np.linalg.slogdet(matrix)[1]
    found = [A.slogdet("lanczos", seed=seed, steps=30) for seed in range(60)]
    errors = np.abs([(f.logabsdet - truth) / f.stderr for f in found])
    assert 0.50 < (errors < 1).mean() < 0.88
    assert (errors < 1.96).mean() > 0.86


def test_too_few_steps_are_in_the_error_and_in_the_notes(rng):
    matrix = rotated(np.geomspace(1e-4, 1, 120), rng)
    A = crelle.operator(matrix, psd=True)
    few, more = A.slogdet("lanczos", steps=6, probes=40), A.slogdet("lanczos", probes=40)
    assert agrees(few, matrix)
    assert "of the error is from 6 Lanczos steps" in few.notes[-1]
    assert agrees(more, matrix)
    assert more.stderr < few.stderr


def test_errors_hold_what_too_few_steps_do_to_a_spectrum_that_reaches_zero(rng):
    """Square Gram matrices: their smallest eigenvalues are out of reach, and only more steps help."""
    matrix = rng.standard_normal((120, 120)) / 11
    A, truth = crelle.operator(matrix.T @ matrix, psd=True), 2 * np.linalg.slogdet(matrix)[1]
    errors = [abs(f.logabsdet - truth) / f.stderr for f in (A.slogdet("lanczos", seed=s) for s in range(20))]
    assert np.median(errors) < 1.5 and max(errors) < 5


def test_unsymmetric_matrices_lose_their_sign(rng):
    matrix = 2 * np.eye(90) + rng.standard_normal((90, 90)) / np.sqrt(90)
    found = crelle.operator(matrix).slogdet("lanczos", seed=1)
    assert found.sign is None
    assert agrees(found, matrix)
    assert "sign is unknown" in found.notes[0]
    assert "sign unknown" in str(found)


def test_indefinite_matrices_say_so_and_count_their_sign(rng):
    values = np.concatenate([[-1.0], rng.uniform(1, 3, 60), -rng.uniform(1, 3, 40)])
    matrix = rotated(values, rng)
    found = crelle.operator(matrix, symmetric=True).slogdet("lanczos")
    assert found.sign == -1
    assert agrees(found, matrix)
    assert any("negative eigenvalues" in note for note in found.notes)


def test_what_every_probe_finds_is_exact(rng):
    matrix = rotated(np.concatenate([[7.0, 3.0], np.ones(60)]), rng)
    found = crelle.operator(matrix, psd=True).slogdet("lanczos")
    assert (found.stderr, found.sign) == (0, 1)
    assert found.logabsdet == pytest.approx(np.log(21))


def test_a_null_space_is_found(rng):
    found = crelle.operator(rotated(np.concatenate([np.linspace(1, 2, 60), [0.0]]), rng), psd=True).slogdet("lanczos")
    assert (found.sign, found.logabsdet) == (0, -np.inf)


def test_it_stops_at_the_accuracy_or_the_budget(rng):
    matrix = rotated(np.exp(2 + rng.standard_normal(90)), rng)
    A = crelle.operator(matrix, psd=True)
    found = A.slogdet("lanczos", rtol=0.02)
    assert found.stderr <= 0.02 * abs(found.logabsdet) and not found.notes
    poor = A.slogdet("lanczos", rtol=1e-6, budget=120)
    assert poor.products <= 120
    assert "rtol=1e-06 was not reached" in poor.notes
    assert A.slogdet("lanczos", budget=5).products <= 5


def test_the_series_is_unbiased(rng):
    g = rng.standard_normal((40, 40))
    g *= 0.8 / np.linalg.norm(g, 2)
    g += 0.1 * np.eye(40)
    matrix = np.eye(40) + g
    truth = np.linalg.slogdet(matrix)[1]
    found = crelle.operator(matrix).slogdet("series", probes=2000)
    assert agrees(found, matrix)
    assert found.stderr < 0.05 * abs(truth)
    assert found.sign == 1
    errors = [crelle.operator(matrix).slogdet("series", seed=s) for s in range(100)]
    assert 0.52 < np.mean([abs(e.logabsdet - truth) < e.stderr for e in errors]) < 0.82


def test_the_series_needs_a_contraction(rng):
    with pytest.raises(crelle.CrelleValueError, match=r"(?s)‖A - I‖ is at least 2.*below 1.*lanczos"):
        crelle.operator(3.0 * np.eye(4)).slogdet("series")


class Interrupted:
    def __init__(self, matrix, at):
        self.matrix, self.at, self.done = matrix, at, 0

    def __call__(self, v):
        self.done += 1
        if self.done == self.at:
            raise KeyboardInterrupt
        return self.matrix @ v


@pytest.mark.parametrize(("method", "at"), [("lanczos", 95), ("series", 200)])
def test_interrupted_it_returns_what_it_has(method, at, rng):
    matrix = rotated(rng.uniform(0.6, 1.4, 60), rng)
    A = crelle.operator(Interrupted(matrix, at), (60, 60), like=matrix, psd=True)
    found = A.slogdet(method, steps=20)
    assert found.partial and agrees(found, matrix, 5)
    assert "interrupted" in str(found)
    with pytest.raises(KeyboardInterrupt):
        crelle.operator(Interrupted(matrix, 3), (60, 60), like=matrix, psd=True).slogdet(method, steps=20)


# -- refused


def test_bad_input():
    with pytest.raises(crelle.CrelleShapeError, match="2 × 3"):
        crelle.operator(np.ones((2, 3))).slogdet()
    with pytest.raises(crelle.CrelleValueError, match=r"(?s)method='magic'.*'lanczos' \| 'series'"):
        crelle.operator(np.eye(2)).slogdet("magic")
    with pytest.raises(crelle.CrelleTypeError, match="nothing is known of how the matrix is made up"):
        crelle.operator(np.eye(2)).slogdet("structure")
    with pytest.raises(crelle.CrelleValueError, match="probes=0"):
        crelle.operator(np.eye(2)).slogdet(probes=0)
    nan = crelle.operator(np.array([[1.0, 0.0], [0.0, np.nan]]), psd=True)
    with pytest.raises(crelle.CrelleValueError, match="slogdet: column 0 of the matrix holds NaN"):
        nan.slogdet()
    with pytest.raises(crelle.CrelleValueError, match="slogdet: product 1 with the matrix is NaN"):
        nan.slogdet("lanczos")
    with pytest.raises(crelle.CrelleValueError, match="the matrix holds NaN"):
        crelle.hessian(lambda x: jnp.sqrt(x).sum()).at(jnp.zeros(3000)).slogdet()
