"""Central differences and complex steps: accuracy, and errors that are what they claim to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import crelle
from crelle._arrays import ArrayType
from crelle.backends.numpy import steps
from crelle.backends.numpy.function import BlackBox
from crelle.backends.numpy.layouts import WholeColumns


def box_of(f, x):
    x = np.asarray(x)
    kind = ArrayType(str(x.dtype), x.shape)
    box = BlackBox(f, (x,), {}, (0,), (kind,), ("x",), "crelle.jacobian(f)")
    box.evaluate_base()
    return box


def central(f, x):
    """(J, error), [m, n]."""
    box = box_of(f, x)
    found, error = steps.column_lines(box, WholeColumns(box, np.arange(box.n))).central()
    return found.T, error.T


def complex_step(f, x):
    box = box_of(f, x)
    found, error = steps.complex_step(box, WholeColumns(box, np.arange(box.n)), error=True)
    return found.T, error.T


# f, f', points; everything is also tried at each of the points in float32
SMOOTH = {
    "exp": (np.exp, math.exp, [0.0, 1e-8, 0.5, 1.7, -3.0]),
    "sin": (np.sin, math.cos, [0.0, 1e-8, 1.0, 30.0]),
    "cos": (np.cos, lambda x: -math.sin(x), [0.0, 1e-3, 0.5, 1.7]),
    "log": (np.log, lambda x: 1 / x, [1e-8, 1e-3, 1.0, 1e8]),
    "cube": (lambda x: x**3, lambda x: 3 * x**2, [1e-8, 0.3, 1e8]),
    "power": (lambda x: x**1.5, lambda x: 1.5 * math.sqrt(x), [1e-8, 0.3, 1e8]),
    "tanh": (np.tanh, lambda x: 1 - math.tanh(x) ** 2, [0.0, 0.5, -2.0]),
    "runge": (lambda x: 1 / (1 + 25 * x * x), lambda x: -50 * x / (1 + 25 * x * x) ** 2, [0.3, 1.0, 30.0]),
    "offset": (lambda x: 1e3 + x**2, lambda x: 2 * x, [0.5, 3.0]),
    "gauss": (lambda x: np.exp(-x * x), lambda x: -2 * x * math.exp(-x * x), [0.5, 1.7]),
    "steep": (lambda x: np.exp(-x * 1e8), lambda x: -1e8 * math.exp(-x * 1e8), [1e-8]),
    "wiggly": (lambda x: np.sin(1000 * x), lambda x: 1000 * math.cos(1000 * x), [0.5, 1.7, 30.0]),
}
CASES = [pytest.param(*rest[:2], x, id=f"{name}-{x:g}") for name, rest in SMOOTH.items() for x in rest[2]]
# a step that is relative to x finds little where f does not change within many x
HARD = {"exp-1e-08", "cos-0.001", "offset-0.5", "offset-3", "wiggly-0.5", "wiggly-1.7", "wiggly-30"}


@pytest.mark.parametrize(("f", "slope", "x"), CASES)
def test_central_differences_are_accurate_and_say_how_much(f, slope, x, request):
    (found,), (error,) = central(f, np.array([x]))
    true = slope(x)
    assert abs(found[0] - true) <= 10 * error[0] + 4e-16 * abs(true)
    hard = request.node.callspec.id in HARD
    assert abs(found[0] - true) <= (1e-7 if hard else 1e-9) * max(abs(true), 1e-12)


@pytest.mark.parametrize(("f", "slope", "x"), CASES)
def test_central_differences_in_float32(f, slope, x):
    x = np.array([x], np.float32)
    (found,), (error,) = central(f, x)
    true = slope(float(x[0]))
    assert abs(found[0] - true) <= 10 * error[0] + 1e-6 * abs(true)


@pytest.mark.parametrize(("f", "slope", "x"), CASES)
def test_complex_steps_are_exact_to_rounding(f, slope, x):
    (found,), (error,) = complex_step(f, np.array([x]))
    true = slope(x)
    # the reference has the rounding of its own argument
    condition = abs((slope(x * (1 + 1e-13)) - slope(x * (1 - 1e-13))) / 2e-13)
    rounding = 1e-14 if f is SMOOTH["power"][0] else 1e-15  # complex powers lose a digit
    assert abs(found[0] - true) <= rounding * (abs(true) + condition)
    assert abs(found[0] - true) <= 10 * error[0] + rounding * condition


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e5, 1e8])
def test_an_error_is_small_where_the_function_is_well_scaled(scale):
    (found,), (error,) = central(lambda x: np.sin(x / scale), np.array([0.8 * scale]))
    assert abs(found[0] * scale - math.cos(0.8)) <= 1e-10
    assert error[0] * scale <= 1e-9


def test_a_badly_scaled_vector():
    x = np.array([1e-8, 1e8, 0.0, 2.0])
    f = lambda x: np.array([x[0] * 1e8 + np.sin(x[1] * 1e-8), x[0] * x[1], np.cos(x[2]) * x[3], x[2] ** 2])
    true = np.array([[1e8, 1e-8 * math.cos(1.0), 0, 0], [1e8, 1e-8, 0, 0], [0, 0, 0, 1.0], [0, 0, 0, 0]])
    found, error = central(f, x)
    assert np.all(np.abs(found - true) <= 10 * error + 1e-15 * np.abs(true))
    size = np.array([1e-8, 1e8, 1.0, 2.0])
    np.testing.assert_allclose(found * size, true * size, rtol=1e-9, atol=1e-9)


def test_steps_are_taken_exactly():
    seen = []

    def f(x):
        seen.append(x.copy())
        return x**2

    x = np.array([0.1, 1 / 3, 5 / 7, 0.0])
    central(f, x)
    moved = np.array(seen[1:]) - x
    for row in moved:
        (j,) = np.flatnonzero(row)
        mantissa, _ = math.frexp(abs(row[j]))
        assert mantissa == 0.5, "a power of two: x + h and (x + h) - x are exact"


@pytest.mark.parametrize("n", [1, 3, 10])
def test_smooth_functions_take_four_evaluations_an_entry(n):
    count = 0

    def f(x):
        nonlocal count
        count += 1
        return np.tanh(x) * np.exp(-x)

    central(f, np.linspace(0.3, 1.2, n))
    assert count == 1 + 4 * n


def test_at_a_kink_the_error_covers_both_slopes():
    found, error = central(lambda x: np.abs(x) + 0.1 * x**2, np.array([0.0]))
    assert abs(found[0, 0]) + 1 <= 10 * error[0, 0] <= 100


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 3e-6, 1e-7, 1e-9])
def test_close_to_a_kink_its_own_side_is_found(distance):
    """The kink is at 1, and the first step is 1.5e-5 there."""
    found, error = central(lambda x: np.abs(x - 1) + 0.1 * x**2, np.array([1 + distance]))
    true = 1 + 0.2 * (1 + distance)
    assert abs(found[0, 0] - true) <= 10 * error[0, 0]
    assert error[0, 0] < 1e-4 / distance * 1e-9 + 1e-8


def test_away_from_a_kink_there_is_none():
    found, error = central(np.abs, np.array([1.0, -3.0]))
    assert np.allclose(found, np.diag([1.0, -1.0]), atol=1e-10)
    assert np.all(error < 1e-9)


def test_noise_that_the_dtype_does_not_show_is_found():
    """A function that computes in float32 inside: the error is a million times that of rounding in float64."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 2.0, 200)
    f = lambda x: np.sin(x.astype(np.float32)).astype(np.float64)
    found, error = crelle.jacobian(f, error=True)(x)
    off = np.abs(np.diag(found) - np.cos(x))
    assert np.mean(off <= 10 * np.diag(error)) >= 0.99
    assert np.median(off) < 1e-4 < 100 * np.median(np.diag(error)) < 1e-1


def test_random_noise_is_found():
    rng = np.random.default_rng(0)

    def f(x):
        return np.sin(x) + 1e-9 * rng.standard_normal(x.shape)

    x = rng.uniform(0.5, 2.0, 200)
    found, error = central(f, x)
    off = np.abs(np.diag(found) - np.cos(x))
    assert np.mean(off <= 10 * np.diag(error)) >= 0.97
    assert np.median(off) < 1e-3


def test_many_wiggles_within_the_first_step_are_resolved():
    found, error = central(lambda x: np.sin(1e8 * x), np.array([1.0]))
    true = 1e8 * math.cos(1e8)
    assert abs(found[0, 0] - true) <= 10 * error[0, 0]
    assert abs(found[0, 0] - true) <= 1e-3 * abs(true)


def test_a_value_that_is_not_finite_has_no_error_bar():
    with np.errstate(all="ignore"):
        found, error = central(np.sqrt, np.array([0.0, 4.0]))
    assert np.isnan(found[0, 0])
    assert error[0, 0] == np.inf
    assert abs(found[1, 1] - 0.25) <= 10 * error[1, 1] < 1e-8


def test_the_domain_may_end_near_x():
    """Relative steps stay on the right side of 0."""

    def f(x):
        if x[0] <= 0:
            raise ValueError("negative")
        return np.log(x)

    found, _ = central(f, np.array([1e-12]))
    assert found[0, 0] == pytest.approx(1e12, rel=1e-9)


POLYNOMIAL = st.lists(st.floats(-4, 4, allow_subnormal=False), min_size=2, max_size=6)


@settings(max_examples=200, deadline=None)
@given(POLYNOMIAL, st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-6))
def test_errors_cover_the_truth_for_polynomials(coefficients, x):
    poly = np.polynomial.Polynomial(coefficients)
    (found,), (error,) = central(lambda x: poly(x), np.array([x]))
    size = np.polynomial.Polynomial(np.abs(coefficients))(abs(x))  # what rounding in f is relative to
    length = abs(x) or 1.0
    assert abs(found[0] - poly.deriv()(x)) <= 10 * error[0] + 1e-10 * size / length + 1e-290


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([np.sin, np.exp, np.tanh, np.arctan, lambda x: 1 / (2 + np.sin(x)), lambda x: np.sqrt(1 + x * x)]),
    st.floats(-3, 3),
    st.floats(-2, 2),
    st.floats(0.1, 30),
)
def test_errors_cover_the_complex_step(f, x, shift, stretch):
    """The complex step is exact, so it can judge the difference."""
    g = lambda x: f(stretch * x + shift)
    x = np.array([x if abs(x) > 1e-6 else 0.0])
    exact, _ = complex_step(g, x)
    found, error = central(g, x)
    assert abs(found[0, 0] - exact[0, 0]) <= 10 * error[0, 0] + 1e-14 * abs(exact[0, 0])


def test_directional_derivatives_agree_with_the_matrix():
    rng = np.random.default_rng(3)
    a = rng.standard_normal((4, 5))
    x = rng.standard_normal(5)
    box = box_of(lambda x: np.tanh(a @ x), x)
    v = steps.random_direction(box, 1)
    slope, error = steps.along(box, v)
    true = (1 - np.tanh(a @ x) ** 2)[:, None] * a @ v
    assert np.all(np.abs(slope - true) <= 10 * error)
    assert np.all(error < 1e-8)


def test_random_directions_are_exact_to_add():
    x = np.array([0.1, 1e8 / 3, 1e-9, 0.0])
    box = box_of(lambda x: x, x)
    v = steps.random_direction(box, 1)
    assert np.array_equal((x + 2.0**-16 * v) - x, 2.0**-16 * v)
    assert not np.array_equal(v, steps.random_direction(box, 2))


def test_unit_differences_are_the_matrix():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3, 4))
    box = box_of(lambda x: a @ x, rng.standard_normal(4))
    found, error = steps.unit_differences(box, np.zeros(3), WholeColumns(box, np.arange(4)))
    assert np.array_equal(found.T, a)
    assert np.all(error < 1e-13)
