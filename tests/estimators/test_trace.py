"""Traces against dense references: in numbers, in errors that cover, by structure, and where they cannot be had."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.estimators import _hutchinson, _sketches

METHODS = ("hutchinson", "hutch++", "xtrace", "xnystrace")
SIZE = 120


def spectrum(kind, size=SIZE):
    """Eigenvalues of a test matrix."""
    index = np.arange(size)
    return {"slow": (1.0 + index) ** -0.5, "fast": 0.85**index, "flat": 1 + 0.3 * np.cos(index)}[kind]


def matrix(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return (q * eigenvalues) @ q.T


def psd(kind="slow"):
    return crelle.operator(matrix(spectrum(kind)), psd=True), spectrum(kind).sum()


def test_exact_in_every_framework(rng):
    values = rng.normal(size=(7, 7))
    for array in (values, jnp.asarray(values), torch.as_tensor(values)):
        found = crelle.operator(array).trace()
        assert found.value == pytest.approx(np.trace(values), rel=1e-12)
        assert (found.stderr, found.products, found.exact) == (0.0, 7, True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("framework", ["numpy", "jax", "torch"])
def test_estimates_in_every_framework(method, framework):
    values = matrix(spectrum("slow"))
    array = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}[framework](values)
    found = crelle.operator(array, psd=True).trace(method, rtol=None, budget=60)
    assert abs(found.value - np.trace(values)) < 4 * found.stderr
    assert found.stderr < 0.2 * np.trace(values)
    assert found.products <= 60


def test_not_symmetric(rng):
    values = rng.normal(size=(SIZE, SIZE)) + np.diag(np.arange(SIZE))
    for method in ("hutchinson", "hutch++", "xtrace"):
        found = crelle.operator(values).trace(method, rtol=None, budget=90)
        assert abs(found.value - np.trace(values)) < 4 * found.stderr


def test_float32():
    operator = crelle.operator(matrix(spectrum("slow")).astype(np.float32), psd=True)
    for method in METHODS:
        found = operator.trace(method, rtol=None, budget=60)
        assert abs(found.value - spectrum("slow").sum()) < 4 * found.stderr + 1e-3


# -- errors that cover


def coverage(operator, truth, repetitions, **options):
    """Shares of runs that are within one and 1.96 standard errors."""
    found = [operator.trace(seed=seed, **options) for seed in range(repetitions)]
    z = np.array([abs(f.value - truth) / f.stderr for f in found])
    return (z < 1).mean(), (z < 1.96).mean()


def assert_nominal(shares, repetitions, above=1.0):
    """Within three binomial standard deviations below the nominal rate, and not far above."""
    for share, nominal in zip(shares, (0.683, 0.95), strict=True):
        slack = 3 * (nominal * (1 - nominal) / repetitions) ** 0.5
        assert nominal - slack <= share <= min(nominal + slack + above, 1.0)


@pytest.mark.parametrize("kind", ["slow", "fast", "flat"])
@pytest.mark.parametrize("method", METHODS)
def test_errors_cover(method, kind):
    operator, truth = psd(kind)
    assert_nominal(coverage(operator, truth, 60, method=method, rtol=None, budget=40), 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slow", "fast", "flat"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{"rtol": None, "budget": 60}, {"rtol": 0.02, "budget": 100}], ids=["all", "rtol"])
def test_errors_cover_in_200_repetitions(method, kind, options):
    operator, truth = psd(kind)
    shares = coverage(operator, truth, 200, method=method, **options)
    assert_nominal(shares, 200, above=0.15)


def test_stopping_when_exact_enough():
    operator, _ = psd("flat")
    found = operator.trace("hutchinson", rtol=0.05)
    assert found.products == _hutchinson.FIRST
    assert found.stderr <= 0.05 * found.value
    finer = operator.trace("hutchinson", rtol=0.002, budget=10_000)
    assert finer.stderr <= 0.002 * finer.value
    assert _hutchinson.FIRST < finer.products < 10_000
    assert operator.trace("hutchinson", rtol=None, budget=37).products == 37
    assert operator.trace("hutchinson", rtol=1e-9, budget=37).products == 37


def test_a_diagonal_matrix_is_exact_by_signs():
    operator = crelle.operator(np.diag(np.arange(200.0)))
    found = operator.trace("hutchinson")
    assert (found.value, found.stderr) == (19900.0, 0.0)


# -- leave-one-out formulas against their definition


def brute_xtrace(values, w, of, spheres):
    """Estimates of the test vectors ``of``, each from the products of the others."""
    n, found = len(values), []
    for i in of:
        others = [j for j in of if j != i]
        q = np.linalg.qr(values @ w[:, others])[0]
        rest = w[:, i] - q @ (q.T @ w[:, i])
        scale = (n - len(others)) / (rest @ rest) if spheres else 1.0
        found.append(np.trace(q.T @ values @ q) + scale * (rest @ values @ rest))
    return np.array(found)


@pytest.mark.parametrize("spheres", [True, False])
def test_xtrace_is_what_it_says(rng, spheres):
    values = rng.normal(size=(30, 30)) * 0.8 ** np.arange(30)
    probes = _hutchinson.Probes(crelle.operator(values), "trace", _Numbers(rng))
    sketch = _sketches.Sketch(probes)
    for count in (4, 3):  # it grows in two steps
        w = probes.sphere(count)
        sketch.grow(w, _sketches.products_of(probes, w))
    assert probes.count == 14
    small = _sketches.Small(
        s=sketch.left_out()[0], r=sketch.r, inside=sketch.q @ sketch.z.T, qw=sketch.q @ sketch.w.T,
        zw=sketch.z @ sketch.w.T, size=30 if spheres else None,
    )  # fmt: skip
    np.testing.assert_allclose(small.leave_one_out(), brute_xtrace(values, sketch.w.T, range(7), spheres), rtol=1e-9)
    two = small.leave_two_out()
    for j in range(7):
        rest = [i for i in range(7) if i != j]
        np.testing.assert_allclose(two[j, rest], brute_xtrace(values, sketch.w.T, rest, spheres), rtol=1e-9)


def brute_xnystrace(values, w, of):
    n, found = len(values), []
    for i in of:
        others = w[:, [j for j in of if j != i]]
        y = values @ others
        nystrom = y @ np.linalg.inv(others.T @ y) @ y.T
        q = np.linalg.qr(others)[0]
        rest = w[:, i] - q @ (q.T @ w[:, i])
        scale = (n - others.shape[1]) / (rest @ rest)
        found.append(np.trace(nystrom) + scale * (w[:, i] @ (values - nystrom) @ w[:, i]))
    return np.array(found)


def test_xnystrace_is_what_it_says(rng):
    values = matrix(spectrum("slow", 30))
    w = rng.normal(size=(30, 6))
    y = values @ w
    r = np.linalg.qr(y)[1]
    half = np.linalg.cholesky(np.linalg.inv(w.T @ y))
    small = _sketches.Nystrom(r, half, np.linalg.inv(w.T @ w), 30)
    np.testing.assert_allclose(small.leave_one_out(), brute_xnystrace(values, w, range(6)), rtol=1e-9)
    two = small.leave_two_out()
    for j in range(6):
        rest = [i for i in range(6) if i != j]
        np.testing.assert_allclose(two[j, rest], brute_xnystrace(values, w, rest), rtol=1e-9)


class _Numbers:
    """A source of random numbers from a generator of NumPy."""

    def __init__(self, rng):
        self._rng = rng

    def normal(self, count, size):
        return self._rng.normal(size=(count, size))


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_low_rank_is_found_exactly(method):
    operator = crelle.operator(matrix(np.where(np.arange(SIZE) < 5, 3.0, 0.0)), psd=True)
    found = operator.trace(method, budget=60)
    assert found.value == pytest.approx(15.0, rel=1e-10)
    assert found.stderr == 0.0
    assert found.products <= 30
    assert "span the range" in found.notes[0]


def test_xnystrace_of_low_rank():
    operator = crelle.operator(matrix(np.where(np.arange(SIZE) < 5, 3.0, 0.0)), psd=True)
    found = operator.trace("xnystrace", budget=60)
    assert found.value == pytest.approx(15.0, rel=1e-8)
    assert found.stderr < 1e-8


# -- the choice


def test_auto_goes_on_with_xtrace_where_few_directions_hold_the_matrix():
    operator = crelle.operator(matrix(spectrum("fast", 400)), symmetric=True)
    found = operator.trace(rtol=1e-3, budget=100)
    assert found.method == "XTrace"
    assert "began with Hutchinson" in found.notes[0]
    assert abs(found.value - spectrum("fast", 400).sum()) < 4 * found.stderr
    plain = operator.trace("hutchinson", rtol=None, budget=found.products)
    assert found.stderr < plain.stderr / 10


def test_auto_stays_with_hutchinson_elsewhere():
    operator = crelle.operator(matrix(spectrum("slow", 400)), symmetric=True)
    found = operator.trace(rtol=1e-3, budget=100)
    assert found.method == "Hutchinson"
    assert "too little" in found.notes[0]
    again = operator.trace("hutchinson", rtol=None, budget=100)
    assert found.value == pytest.approx(again.value, rel=1e-12)


def test_auto_leaves_a_diagonal_matrix_alone():
    values = np.diag(0.7 ** np.arange(300))
    found = crelle.operator(values).trace(rtol=None, budget=100)
    assert found.method == "Hutchinson"
    assert found.value == pytest.approx(np.trace(values), rel=1e-12)


def test_budget_none_is_n():
    assert psd()[0].trace(budget=None).products == SIZE


# -- by structure


def test_jacobian_by_structure_jax():
    def f(x):
        return jnp.sin(x) * jnp.roll(x, 1)

    x = jnp.linspace(0.1, 2.0, 500)
    found = crelle.jacobian(f).at(x).trace()
    assert found.method == "exact, by structure"
    assert found.products <= 3
    assert found.value == pytest.approx(float(jnp.trace(jax.jacfwd(f)(x))), rel=1e-12)
    assert (2 * crelle.jacobian(f).at(x)).trace().value == pytest.approx(2 * found.value, rel=1e-12)
    assert crelle.jacobian(f).at(x).T.trace().value == pytest.approx(found.value, rel=1e-12)
    assert crelle.jacobian(f).at(x).shifted(2.0).trace().value == pytest.approx(found.value + 1000, rel=1e-12)


def test_hessian_by_structure_torch():
    def f(x):
        return (x[1:] ** 2 * x[:-1]).sum() + (x**4).sum()

    x = torch.linspace(0.1, 2.0, 300, dtype=torch.float64)
    found = crelle.hessian(f).at(x).trace()
    assert found.method == "exact, by structure"
    assert found.products <= 3
    assert found.value == pytest.approx(float(torch.func.hessian(f)(x).trace()), rel=1e-12)


def test_no_derivative_at_all():
    found = crelle.jacobian(lambda x: jnp.round(x)).at(jnp.arange(200.0)).trace()
    assert (found.value, found.stderr, found.products) == (0.0, 0.0, 0)


# -- reproducible


@pytest.mark.parametrize(
    ("method", "framework"),
    [(m, "numpy") for m in ("auto", *METHODS)] + [(m, f) for m in ("hutchinson", "xtrace") for f in ("jax", "torch")],
)
def test_same_seed_same_value_whatever_the_chunks(method, framework, monkeypatch):
    values = matrix(spectrum("slow"))
    array = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}[framework](values)
    operator = crelle.operator(array, psd=True)
    first = operator.trace(method, rtol=None, budget=50, seed=3)
    assert operator.trace(method, rtol=None, budget=50, seed=3) == first
    monkeypatch.setattr(_hutchinson, "CHUNK_BYTES", 3 * 8 * SIZE)
    again = operator.trace(method, rtol=None, budget=50, seed=3)
    assert again.value == pytest.approx(first.value, rel=1e-9)
    assert again.stderr == pytest.approx(first.stderr, rel=1e-6)
    assert operator.trace(method, rtol=None, budget=50, seed=4).value != first.value


def test_key_and_generator():
    values = matrix(spectrum("slow"))
    options = {"method": "hutchinson", "rtol": None, "budget": 10}
    operator = crelle.operator(jnp.asarray(values))
    one, same, other = (operator.trace(key=jax.random.key(key), **options) for key in (5, 5, 6))
    assert one == same != other
    operator = crelle.operator(torch.as_tensor(values))
    seeds = (torch.Generator().manual_seed(seed) for seed in (5, 5, 6))
    one, same, other = (operator.trace(generator=generator, **options) for generator in seeds)
    assert one == same != other


# -- the ends, and what goes wrong


def test_sizes():
    empty = crelle.operator(np.zeros((0, 0))).trace()
    assert (empty.value, empty.stderr, empty.products) == (0.0, 0.0, 0)
    one = crelle.operator(np.array([[3.0]])).trace()
    assert (one.value, one.stderr, one.products) == (3.0, 0.0, 1)


def test_the_zero_matrix_does_not_loop():
    operator = crelle.operator(np.zeros((150, 150)), psd=True)
    for method in ("auto", *METHODS):
        found = operator.trace(method, budget=None if method != "auto" else 100)
        assert (found.value, found.stderr) == (0.0, 0.0)


def test_one_product_is_no_measure_of_the_error():
    found = psd()[0].trace("hutchinson", budget=1)
    assert found.products == 1
    assert np.isnan(found.stderr)
    assert "± ?" in str(found)
    assert np.isnan(psd()[0].trace("xnystrace", budget=1).stderr)
    assert np.isnan(psd()[0].trace("xtrace", budget=2).stderr)
    assert psd()[0].trace("auto", budget=1).products == 1


def test_too_small_a_budget():
    with pytest.raises(crelle.CrelleValueError, match="at least 2 products"):
        psd()[0].trace("xtrace", budget=1)
    with pytest.raises(crelle.CrelleValueError, match="at least 3 products"):
        psd()[0].trace("hutch++", budget=2)


def test_not_square():
    with pytest.raises(crelle.CrelleShapeError, match="3 × 2"):
        crelle.operator(np.ones((3, 2))).trace()


def test_unknown_method():
    with pytest.raises(crelle.CrelleValueError, match='"hutchinson"'):
        psd()[0].trace("monte-carlo")


def test_complex():
    with pytest.raises(crelle.CrelleTypeError, match="complex"):
        crelle.operator(np.ones((3, 3), complex)).trace()


def test_inside_jit():
    @jax.jit
    def f(x):
        return crelle.jacobian(jnp.sin).at(x).trace("hutchinson", budget=2).value

    with pytest.raises(crelle.CrelleTypeError, match="outside of them"):
        f(jnp.ones(3))


def test_xnystrace_needs_a_psd_matrix():
    with pytest.raises(crelle.CrelleTypeError, match="xtrace"):
        crelle.operator(matrix(spectrum("slow")), symmetric=True).trace("xnystrace")
    with pytest.raises(crelle.CrelleValueError, match="not positive semidefinite"):
        crelle.operator(matrix(np.linspace(-1, 1, SIZE)), psd=True).trace("xnystrace")


def function_operator(product):
    return crelle.operator(product, (SIZE, SIZE), like=np.zeros(1), symmetric=True)


@pytest.mark.parametrize("method", ["auto", "hutchinson", "hutch++", "xtrace"])
def test_nan_names_the_product(method):
    calls = []

    def product(v):
        calls.append(0)
        return v * (np.nan if len(calls) == 5 else 1.0)

    with pytest.raises(crelle.CrelleValueError, match="product 5 is NaN"):
        function_operator(product).trace(method)


@pytest.mark.parametrize("method", ["auto", "hutchinson", "hutch++", "xtrace"])
def test_interrupted_estimates_return_what_they_have(method, monkeypatch):
    values, calls = matrix(spectrum("slow")), []

    def product(v):
        calls.append(0)
        if len(calls) == 71:
            raise KeyboardInterrupt
        return values @ v

    monkeypatch.setattr(_hutchinson, "CHUNK_BYTES", 8 * SIZE)
    found = function_operator(product).trace(method, rtol=None, budget=90)
    assert found.partial
    assert "interrupted" in str(found)
    assert abs(found.value - np.trace(values)) < 4 * found.stderr


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_interrupted_before_anything_was_finished(method):
    def product(v):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        function_operator(product).trace(method)
