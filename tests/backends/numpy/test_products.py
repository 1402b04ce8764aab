"""jvp, vjp and hvp of black boxes against formulas; tolerances are those that differences can keep."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import crelle


def close(got, expected, rtol=1e-10):
    """Equal shapes, and values to a share of the largest entry."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * max(float(np.abs(expected).max(initial=0.0)), 1e-12))


class Counted:
    """A function that counts its calls."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, *args):
        self.calls += 1
        return self.f(*args)


POINTWISE = {
    "linear": (lambda x: 3 * x + 1, lambda x: np.full_like(x, 3.0), 1e-13),
    "sin": (np.sin, np.cos, 1e-12),
    "exp": (np.exp, np.exp, 1e-12),
    "cube": (lambda x: x**3, lambda x: 3 * x**2, 1e-12),
    "logarithm": (lambda x: np.log(np.abs(x)), lambda x: 1 / x, 1e-12),
    "fast oscillation": (lambda x: np.sin(1e4 * x), lambda x: 1e4 * np.cos(1e4 * x), 1e-9),
    "large and flat": (lambda x: 1e6 + x**2, lambda x: 2 * x, 1e-8),
    "constant": (lambda x: np.ones_like(x), lambda x: np.zeros_like(x), 1e-13),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_jvp_of_functions_with_known_slopes(name, rng):
    f, slope, rtol = POINTWISE[name]
    x, v = rng.standard_normal((2, 6))
    counted = Counted(f)
    value, product = crelle.jvp(counted, (x,), (v,))
    np.testing.assert_array_equal(value, f(x))
    close(product, slope(x) * v, rtol)
    assert counted.calls <= 30


def test_jvp_of_a_smooth_function_takes_about_a_dozen_evaluations(rng):
    counted = Counted(np.sin)
    crelle.jvp(counted, (rng.standard_normal(50),), (rng.standard_normal(50),))
    assert counted.calls <= 13


def test_steps_that_would_miss_what_is_close_by():
    """A bump narrower than the first steps: differences across it agree on a slope of zero, and are not believed."""
    x = np.array([1.0, 2.0])
    f = lambda z: np.exp(-(((z - x) / 1e-3 - 0.5) ** 2))
    _, product = crelle.jvp(f, (x,), (np.ones(2),))
    close(product, np.full(2, np.exp(-0.25) / 1e-3), 1e-9)


def test_points_close_to_the_edge_of_a_domain():
    """Long steps leave the domain: NaN from NumPy, an exception from pure Python; short ones do not."""
    x, v = np.array([1e-3, 5.0]), np.array([1.0, 1.0])
    close(crelle.jvp(np.sqrt, (x,), (v,))[1], 0.5 / np.sqrt(x), 1e-10)
    f = lambda x: math.sqrt(x[0] - 1) + x[1]
    _, product = crelle.jvp(f, (np.array([1.001, 0.0]),), (v,))
    assert product == pytest.approx(0.5 / math.sqrt(0.001) + 1, rel=1e-8)


def test_very_small_and_very_large_numbers():
    for scale in (1e-30, 1e30):
        x = np.array([1.0, 2.0]) * scale
        close(crelle.jvp(np.square, (x,), (x,))[1], 2 * x**2, 1e-12)
        close(crelle.jvp(np.square, (x,), (np.array([1.0, 0.0]),))[1], [2 * x[0], 0], 1e-12)


def test_a_zero_direction_needs_no_evaluation(rng):
    counted = Counted(np.sin)
    _, product = crelle.jvp(counted, (rng.standard_normal(3),), (np.zeros(3),))
    np.testing.assert_array_equal(product, np.zeros(3))
    assert counted.calls == 1


def test_float32(rng):
    x, v = rng.standard_normal((2, 5)).astype(np.float32)
    value, product = crelle.jvp(np.sin, (x,), (v,))
    assert product.dtype == value.dtype == np.float32
    close(product, np.cos(x) * v, 1e-4)
    product = crelle.hvp(lambda x: np.sum(x**3), (x,), (v,))
    assert product.dtype == np.float32
    close(product, 6 * x * v, 1e-3)


def test_complex(rng):
    z, w = rng.standard_normal((2, 3)) + 1j * rng.standard_normal((2, 3))
    close(crelle.jvp(lambda z: z**2, (z,), (w,))[1], 2 * z * w, 1e-12)
    close(crelle.vjp(lambda z: z**2, z)[1](w)[0], 2 * z * w, 1e-8)
    x = rng.standard_normal(3)
    close(crelle.jvp(lambda x: x * (1 + 2j), (x,), (x,))[1], x * (1 + 2j), 1e-12)


def wide(x):
    return np.array([np.sin(x[0]) * x[1], x[1] * x[2] ** 2])


def wide_jacobian(x):
    return np.array([[np.cos(x[0]) * x[1], np.sin(x[0]), 0], [0, x[2] ** 2, 2 * x[1] * x[2]]])


def test_vjp(rng):
    x, u = rng.standard_normal(3), rng.standard_normal(2)
    counted = Counted(wide)
    value, pull = crelle.vjp(counted, x)
    assert counted.calls == 1
    np.testing.assert_array_equal(value, wide(x))
    (product,) = pull(u)
    close(product, u @ wide_jacobian(x))
    calls = counted.calls
    close(pull(2 * u)[0], 2 * u @ wide_jacobian(x))
    assert counted.calls == calls


def test_vjp_answers_for_the_point_that_it_was_given(rng):
    x, u = rng.standard_normal(3), rng.standard_normal(2)
    expected = u @ wide_jacobian(x)
    _, pull = crelle.vjp(wide, x)
    x[:] = 0
    close(pull(u)[0], expected)


def test_functions_of_the_same_code_are_told_apart(rng):
    """What was found out about one closure must not be believed of the next."""
    x, v = rng.standard_normal((2, 3))
    power = lambda p: lambda x: x**p
    for p in (1, 3, 2):
        close(crelle.vjp(power(p), x)[1](v)[0], p * x ** (p - 1) * v, 1e-8)
        total = lambda p: lambda x: np.sum(x**p)
        np.testing.assert_allclose(crelle.hvp(total(p), (x,), (v,)), p * (p - 1) * x ** max(p - 2, 0) * v, atol=1e-8)


def loss(x):
    return np.sum(np.sin(x) * np.roll(x, 1) ** 2)


def loss_hessian(x):
    n = len(x)
    H = np.diag(-np.sin(x) * np.roll(x, 1) ** 2 + 2 * np.sin(np.roll(x, -1)))
    for i in range(n):
        H[i, i - 1] += 2 * np.cos(x[i]) * x[i - 1]
        H[i - 1, i] += 2 * np.cos(x[i]) * x[i - 1]
    return H


def test_hvp(rng):
    x, v = rng.standard_normal((2, 5))
    value, product = crelle.hvp(loss, (x,), (v,), value=True)
    assert value == pytest.approx(loss(x), rel=1e-14)
    close(product, loss_hessian(x) @ v)
    close(crelle.hvp(loss, (x,), (v,)), product, 0)


def test_hvp_of_a_function_that_takes_no_complex_numbers(rng):
    x, v = rng.standard_normal((2, 5))
    f = lambda x: float(loss(np.asarray(x, dtype=float)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)  # f's own, where it is tried with complex numbers
        close(crelle.hvp(f, (x,), (v,)), loss_hessian(x) @ v, 1e-7)


def test_trees_scalars_and_empty_arrays(rng):
    x = rng.standard_normal(3)
    f = lambda p, s: {"y": p["a"] * s, "z": (p["b"][0].sum(), 3.0)}
    primals = {"a": x, "b": [np.ones((2, 2))]}, np.float64(2.0)
    tangents = {"a": 2 * x, "b": [np.ones((2, 2))]}, np.float64(1.0)
    _, product = crelle.jvp(f, primals, tangents)
    close(product["y"], 2 * x * 2 + x)
    assert product["z"] == (pytest.approx(4.0), 0.0)
    _, pull = crelle.vjp(f, *primals)
    by_p, by_s = pull({"y": x, "z": (1.0, 1.0)})
    close(by_p["a"], 2 * x)
    close(by_p["b"][0], np.ones((2, 2)))
    assert by_s == pytest.approx(x @ x)
    empty = np.zeros((0, 2))
    _, product = crelle.jvp(lambda x: np.ones(2) + x.sum(), (empty,), (empty,))
    np.testing.assert_array_equal(product, np.zeros(2))
    assert crelle.vjp(lambda x: np.ones(2) + x.sum(), empty)[1](np.ones(2))[0].shape == (0, 2)
    np.testing.assert_array_equal(crelle.vjp(lambda x: x[:0], x)[1](np.zeros(0))[0], np.zeros(3))
    products = crelle.hvp(
        lambda p, s: np.sum(p["a"] ** 2 * s), ({"a": x}, np.float64(2.0)), ({"a": x}, np.float64(1.0))
    )
    close(products[0]["a"], 4 * x + 2 * x, 1e-8)
    assert products[1] == pytest.approx(2 * x @ x, rel=1e-8)


def test_integers_in_the_result_have_no_slope():
    x = np.array([1.0, 2.0])
    value, product = crelle.jvp(lambda x: [x * 2, np.arange(2)], (x,), (x,))
    np.testing.assert_array_equal(value[1], [0, 1])
    np.testing.assert_array_equal(product[1], [0.0, 0.0])


def test_aux(rng):
    x, v = rng.standard_normal((2, 3))
    f = lambda x: (wide(x), "aux")
    value, product, aux = crelle.jvp(f, (x,), (v,), has_aux=True)
    close(product, wide_jacobian(x) @ v)
    assert aux == "aux"
    value, pull, aux = crelle.vjp(f, x, has_aux=True)
    close(pull(value)[0], value @ wide_jacobian(x))
    assert aux == "aux"


def test_a_function_that_changes_its_argument(rng):
    x, v = rng.standard_normal((2, 3))
    before = x.copy()

    def f(x):
        x *= 2
        return np.sum(x**2)

    close(crelle.jvp(f, (x,), (v,))[1], 8 * before @ v)
    for call in (lambda: crelle.vjp(f, x)[1](1.0), lambda: crelle.hvp(f, (x,), (v,))):
        with pytest.raises(crelle.CrelleValueError, match=r"f changes its .* in place"):
            call()
    np.testing.assert_array_equal(x, before)


def test_differences_that_do_not_settle_are_reported(rng):
    noise = np.random.default_rng(0)
    f = lambda x: x + 1e-3 * noise.standard_normal(3)
    x = rng.standard_normal(3)
    with pytest.warns(crelle.CrelleWarning, match="the differences have not settled: estimated error") as caught:
        crelle.jvp(f, (x,), (np.ones(3),))
    assert caught[0].filename == __file__
    assert "f has a kink or a jump close by, or is noisy" in str(caught[0].message)


def test_integers_are_refused():
    with pytest.raises(crelle.CrelleTypeError, match=r"tangent for primal i64\[3\], which is not floating point"):
        crelle.jvp(lambda x: x * 2, (np.arange(3),), (np.arange(3),))
    with pytest.raises(crelle.CrelleTypeError, match=r"crelle.vjp\(f\): x is i64\[3\], and only floating-point"):
        crelle.vjp(lambda x: x * 2, np.arange(3))
    with pytest.raises(crelle.CrelleShapeError, match=r"tangent i64\[3\] for primal f64\[3\]"):
        crelle.jvp(lambda x: x * 2, (np.ones(3),), (np.arange(3),))
