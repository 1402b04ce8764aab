"""Second derivatives by differences: accuracy, errors, and how many evaluations they take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crelle._arrays import ArrayType
from crelle.backends.numpy import second, steps
from crelle.backends.numpy.function import BlackBox


def box_of(f, x):
    x = np.asarray(x)
    kind = ArrayType(str(x.dtype), x.shape)
    box = BlackBox(f, (x,), {}, (0,), (kind,), ("x",), "crelle.hessian(f)")
    box.evaluate_base()
    return box


def whole(method):
    """(H, error) from the lower triangle."""
    n = method.box.n
    i, j = np.tril_indices(n)
    found, error = method.entries(i, j)
    h, e = np.zeros((n, n), found.dtype), np.zeros((n, n))
    h[i, j] = h[j, i] = found
    e[i, j] = e[j, i] = error
    return h, e


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def rosenbrock_hessian(x):
    n = len(x)
    h = np.zeros((n, n))
    for i in range(n - 1):
        h[i, i] += 1200 * x[i] ** 2 - 400 * x[i + 1] + 2
        h[i + 1, i + 1] += 200
        h[i, i + 1] = h[i + 1, i] = -400 * x[i]
    return h


def logsumexp(x):
    return np.log(np.exp(x).sum())


def logsumexp_hessian(x):
    s = np.exp(x) / np.exp(x).sum()
    return np.diag(s) - np.outer(s, s)


def quartic(x):
    return (x**4).sum() + x[0] * x[1] * x[2]


def quartic_hessian(x):
    h = np.diag(12 * x**2)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (0, 2, 1)):
        h[i, j] = h[j, i] = x[k]
    return h


FUNCTIONS = [
    pytest.param(rosenbrock, rosenbrock_hessian, id="rosenbrock"),
    pytest.param(logsumexp, logsumexp_hessian, id="logsumexp"),
    pytest.param(quartic, quartic_hessian, id="quartic"),
]
METHODS = [pytest.param(second.Real, 1e-7, id="real"), pytest.param(second.Analytic, 1e-9, id="analytic")]


@pytest.mark.parametrize(("f", "true"), FUNCTIONS)
@pytest.mark.parametrize(("method", "accuracy"), METHODS)
def test_well_scaled(f, true, method, accuracy):
    for seed in range(5):
        x = np.random.default_rng(seed).uniform(0.3, 2.0, 4)
        found, error = whole(method(box_of(f, x)))
        assert np.all(np.abs(found - true(x)) <= 10 * error)
        assert np.abs(found - true(x)).max() <= accuracy * np.abs(true(x)).max() * (10 if f is logsumexp else 1)
        assert error.max() <= 300 * accuracy * np.abs(true(x)).max()


@pytest.mark.parametrize(("f", "true"), FUNCTIONS)
@pytest.mark.parametrize(("method", "accuracy"), METHODS)
@pytest.mark.parametrize(
    ("stretch", "dtype"),
    [([1e-4, 1e2, 1.0, 1e-2], np.float64), ([1.0, 1.0, 1.0, 1.0], np.float32)],
    ids=["scales", "f32"],
)
def test_errors_cover_the_truth_elsewhere(f, true, method, accuracy, stretch, dtype):
    x = (np.array([0.7, -1.3, 0.4, 1.9]) * stretch).astype(dtype)
    if f is logsumexp:
        x[1] = 3.0
    found, error = whole(method(box_of(f, x)))
    off = np.abs(found - true(x.astype(float)))
    assert np.all(off <= 10 * error + 1e-6 * (dtype == np.float32) * np.abs(true(x.astype(float))).max())


@pytest.mark.parametrize(("method", "accuracy"), METHODS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_number_of_evaluations(method, accuracy, n):
    count = 0

    def f(x):
        nonlocal count
        count += 1
        return (np.sin(x) + x).prod()

    x = np.linspace(0.5, 1.5, n)
    box = box_of(f, x)
    count = 0
    whole(method(box))
    pairs = n * (n + 1) // 2
    analytic = method is second.Analytic
    expected = second.evaluations(pairs, n, n, analytic)
    assert expected == 4 * pairs
    assert count == expected + (n if analytic else 0), "the gradient comes first where f is analytic"


def test_a_minimum_has_a_hessian():
    found, error = whole(second.Real(box_of(lambda x: (x**2).sum(), np.zeros(3))))
    assert np.all(np.abs(found - 2 * np.eye(3)) <= 10 * error + 1e-9)


def test_complex_holomorphic():
    z = np.array([0.3 + 0.4j, 1.0 - 0.2j])
    found, error = whole(second.Real(box_of(lambda z: z[0] ** 3 * z[1] + np.exp(z[1]), z)))
    true = np.array([[6 * z[0] * z[1], 3 * z[0] ** 2], [3 * z[0] ** 2, np.exp(z[1])]])
    assert np.all(np.abs(found - true) <= 10 * error)
    assert np.allclose(found, true, rtol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_errors_cover_the_truth_for_cubics(c, x):
    x = np.array([0.0 if abs(v) < 1e-6 else v for v in x])
    f = lambda x: (
        c[0] * x[0] ** 3 + c[1] * x[0] * x[1] * x[2] + c[2] * x[1] ** 2 * x[2] + c[3] * x[2] ** 3 + c[4] * x[1] + c[5]
    )
    true = np.array(
        [
            [6 * c[0] * x[0], c[1] * x[2], c[1] * x[1]],
            [c[1] * x[2], 2 * c[2] * x[2], c[1] * x[0] + 2 * c[2] * x[1]],
            [c[1] * x[1], c[1] * x[0] + 2 * c[2] * x[1], 6 * c[3] * x[2]],
        ]
    )
    for method in (second.Real, second.Analytic):
        found, error = whole(method(box_of(f, x)))
        assert np.all(np.abs(found - true) <= 10 * error + 1e-13)


def test_a_bilinear_form_along_two_directions():
    x = np.array([0.7, -1.3, 0.4, 1.9])
    box = box_of(rosenbrock, x)
    w, v = steps.random_direction(box, 1), steps.random_direction(box, 2)
    found, error = second.along(box, w, v)
    true = w @ rosenbrock_hessian(x) @ v
    assert abs(found[0] - true) <= 10 * error[0]
    assert found[0] == pytest.approx(true, rel=1e-5)


def test_a_bilinear_form_of_a_function_that_saturates():
    """Long steps see nothing there, and must not be believed."""
    x = np.array([0.5, -0.8], np.float32)
    box = box_of(lambda x: np.tanh(3 * x).sum() ** 2, x)
    w, v = steps.random_direction(box, 1), steps.random_direction(box, 2)
    found, error = second.along(box, w, v)
    t, d = np.tanh(3.0 * x.astype(float)), 3 / np.cosh(3.0 * x.astype(float)) ** 2
    true = w @ (2 * np.outer(d, d) + np.diag(2 * t.sum() * -6 * t * d)) @ v
    assert abs(found[0] - true) <= 10 * error[0]
