"""``crelle.check``: right derivatives pass, wrong ones are found, and what the mistake looks like is said."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crelle


@pytest.fixture(autouse=True)
def fresh():
    crelle.clear_caches()


def plane(x):
    return np.array([x[0] ** 2 - x[1] ** 2, 2 * x[0] * x[1]])


def by_hand(x):
    return np.array([[2 * x[0], -2 * x[1]], [2 * x[1], 2 * x[0]]])


A = np.random.default_rng(0).standard_normal((3, 4))
POINT = np.array([0.3, -0.5, 0.7, 1.1])


def layer(x):
    return np.tanh(A @ x)


def layer_jacobian(x):
    return (1 - np.tanh(A @ x) ** 2)[:, None] * A


def cubic(x):
    return (x**3).sum() + x[0] * x[1] * x[2]


def cubic_gradient(x):
    return 3 * x**2 + np.array([x[1] * x[2], x[0] * x[2], x[0] * x[1], 0.0])


def cubic_hessian(x):
    h = np.diag(6 * x)
    for i, j, k in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        h[i, j] = h[j, i] = x[k]
    return h


# -- right ones


def test_a_right_jacobian():
    result = crelle.check(plane, by_hand, np.array([1.5, 0.5]))
    assert result
    assert result.ok is True
    assert result.wrong == 0
    assert result.entries == 4
    assert result.max_abs < 1e-12
    assert result.likely == ()
    assert str(result).splitlines()[0] == "by_hand is the jacobian of plane: all 4 entries agree"
    assert repr(result) == "<CheckResult: by_hand as jacobian of plane, right>"


def torch_cubic(x):
    return (x**3).sum() + x[0] * x[1] * x[2]


def jax_cubic(x):
    return (x**3).sum() + x[0] * x[1] * x[2]


FRAMEWORKS = {
    "numpy": (cubic, lambda values: np.array(values), np),
    "jax": (jax_cubic, jnp.asarray, jnp),
    "torch": (torch_cubic, lambda values: torch.tensor(values, dtype=torch.float64), torch),
}


def gradient_of(x, xp):
    mixed = [x[1] * x[2], x[0] * x[2], x[0] * x[1], 0 * x[0]]
    return 3 * x**2 + xp.stack(mixed)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_kind_in_every_framework(framework):
    f, array, xp = FRAMEWORKS[framework]
    x = array(POINT.tolist())
    hessian = lambda x: array(cubic_hessian(np.asarray(x)).tolist())
    assert crelle.check(f, lambda x: gradient_of(x, xp), x, kind="gradient")
    assert crelle.check(f, lambda x: gradient_of(x, xp), x, kind="jacobian")
    assert crelle.check(f, hessian, x, kind="hessian")
    assert crelle.check(f, lambda x, u: u * gradient_of(x, xp), x, kind="vjp")
    assert crelle.check(f, lambda x, u: (u * gradient_of(x, xp)).sum(), x, kind="jvp")
    assert crelle.check(f, lambda x, u: hessian(x) @ u, x, kind="hvp")
    wrong = crelle.check(f, lambda x: 2 * gradient_of(x, xp), x, kind="gradient")
    assert not wrong
    assert wrong.likely == ("a factor: yours is 2 × the reference",)
    assert not crelle.check(f, lambda x, u: -u * gradient_of(x, xp), x, kind="vjp")
    assert not crelle.check(f, lambda x, u: hessian(x) @ u + 1, x, kind="hvp")
    assert framework in wrong.reference


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_products_with_several_arguments(framework):
    _, array, xp = FRAMEWORKS[framework]
    f = lambda a, n, b: xp.sin(a) * b**n
    a, b = array([0.3, 0.5]), array([1.5, 2.0])
    slopes = lambda a, n, b: (xp.cos(a) * b**n, n * xp.sin(a) * b ** (n - 1))

    def pull(a, n, b, u):
        return tuple(u * s for s in slopes(a, n, b))

    def push(a, n, b, v):
        return sum(s * t for s, t in zip(slopes(a, n, b), v, strict=True))

    assert crelle.check(f, pull, a, 2, b, kind="vjp", argnums=(0, 2))
    assert crelle.check(f, push, a, 2, b, kind="jvp", argnums=(0, 2))
    assert crelle.check(f, lambda a, n, b, u: pull(a, n, b, u)[1], a, 2, b, kind="vjp", argnums=2)
    assert not crelle.check(f, lambda a, n, b, u: pull(a, n, b, u)[0], a, 2, b, kind="vjp", argnums=2)


def test_a_vector_may_be_given():
    seen = []

    def pull(x, u):
        seen.append(u)
        return u @ layer_jacobian(x)

    u = np.array([1.0, 0.0, 0.0])
    assert crelle.check(layer, pull, POINT, kind="vjp", u=u)
    assert seen[0] is u
    with pytest.raises(crelle.CrelleShapeError, match="u has 4 entries, and the vjp takes 3"):
        crelle.check(layer, pull, POINT, kind="vjp", u=np.ones(4))


def test_trees_and_keywords():
    f = lambda p, *, power: {"y": p["w"] @ p["b"] ** power}
    p = {"w": np.arange(6.0).reshape(2, 3), "b": np.array([1.0, 2.0, 3.0])}

    def right(p, *, power):
        db = p["w"] * power * p["b"] ** (power - 1)
        return {"y": {"w": np.einsum("ij,k->ijk", np.eye(2), p["b"] ** power), "b": db}}

    def wrong(p, *, power):
        found = right(p, power=power)
        found["y"]["w"][1, 0, 2] = 7.0
        return found

    assert crelle.check(f, right, p, power=2)
    result = crelle.check(f, wrong, p, power=2)
    assert result.worst[0].where == "['y']['w'][1, 0, 2]"
    assert result.likely == ("['y']['w']: only entry [1, 0, 2] is wrong",)


def test_nested_lists_are_an_array():
    assert crelle.check(plane, lambda x: [[2 * x[0], -2 * x[1]], [2 * x[1], 2 * x[0]]], np.array([1.5, 0.5]))
    f = lambda x: jnp.array([x[0] * x[1], x[0]])
    assert crelle.check(f, lambda x: [[x[1], x[0]], [1.0, 0.0]], jnp.array([1.5, 0.5]))


def test_a_product_may_come_in_a_tuple():
    assert crelle.check(layer, lambda x, u: (u @ layer_jacobian(x),), POINT, kind="vjp")


def test_complex_numbers():
    f = lambda z: z**2 * z[0]
    z = np.array([1.0 + 2j, 0.5 - 1j])
    u = np.array([1.0 - 1j, 2j])
    jac = np.diag(2 * z * z[0]) + np.outer(z**2, [1, 0])
    assert crelle.check(f, lambda z, u: jac @ u, z, kind="jvp", u=u)
    assert crelle.check(f, lambda z, u: u @ jac, z, kind="vjp", u=u)
    result = crelle.check(f, lambda z, u: np.conj(u @ jac), z, kind="vjp", u=u)
    assert result.likely == ("yours is conjugated",)


def test_torch_arrays_that_require_grad_and_float32():
    x = torch.tensor([0.3, 0.5], requires_grad=True)
    assert crelle.check(torch.sin, lambda x: torch.diag(torch.cos(x)), x)
    assert not crelle.check(torch.sin, lambda x: torch.diag(torch.cos(x)) + 1e-2, x)
    x = jnp.array([0.3, 0.5], jnp.float32)
    result = crelle.check(jnp.sin, lambda x: jnp.diag(jnp.cos(x)), x)
    assert result
    assert result.rtol == pytest.approx(2.0**-11.5)


def test_empty_and_scalar():
    assert crelle.check(lambda x: x**2, lambda x: np.zeros((0, 0)), np.zeros(0))
    result = crelle.check(lambda x: x**3, lambda x: 3 * x**2, np.float64(2.0), kind="gradient")
    assert result
    assert "its entry agrees" in str(result)
    result = crelle.check(lambda x: x**3, lambda x: x**2, np.float64(2.0), kind="gradient")
    assert result.worst[0].where == "value"
    assert result.likely == ("a factor: yours is 1/3 × the reference",)


# -- tolerances


def test_tolerance_of_a_numpy_reference_is_its_error():
    f = lambda x: np.abs(x) ** 3  # no complex step: differences
    result = crelle.check(f, lambda x: np.diag(3 * x * np.abs(x)), POINT)
    assert result
    assert 0 < result.max_abs < 1e-9
    assert not crelle.check(f, lambda x: np.diag(3 * x * np.abs(x)) * (1 + 1e-6), POINT)


def test_a_kink_is_no_mistake_and_is_noted():
    relu = lambda x: np.maximum(x, 0) + 0 * np.abs(x)
    for slope in (0.0, 0.5, 1.0):
        result = crelle.check(relu, lambda x, slope=slope: np.diag([slope, 1.0]), np.array([0.0, 1.0]))
        assert result
        assert "f has a kink here, or is noisy" in result.notes[0]
    assert not crelle.check(relu, lambda x: np.diag([0.0, 0.5]), np.array([0.0, 1.0]))


def test_tolerances_can_be_given():
    slightly = lambda x: by_hand(x) * (1 + 1e-4)
    x = np.array([1.5, 0.5])
    assert not crelle.check(plane, slightly, x)
    assert crelle.check(plane, slightly, x, rtol=1e-3)
    assert crelle.check(plane, slightly, x, rtol=0.0, atol=1e-3)
    assert not crelle.check(plane, slightly, x, rtol=0.0, atol=1e-6)
    result = crelle.check(plane, slightly, x, rtol=1e-3, atol=0.5)
    assert (result.rtol, result.atol) == (1e-3, 0.5)


def test_nan_is_wrong_where_the_reference_is_finite():
    def nan(x):
        out = by_hand(x)
        out[0, 1] = np.nan
        return out

    result = crelle.check(plane, nan, np.array([1.5, 0.5]))
    assert result.wrong == 1
    assert result.max_abs == np.inf
    assert result.worst[0].where == "[0, 1]"
    assert result.likely == ("yours is not finite where the reference is: a division by 0, or an overflow",)


def test_a_reference_that_is_not_finite_is_noted():
    f = lambda x: np.sqrt(x) + 0 * np.abs(x)
    with pytest.warns(crelle.CrelleNonFiniteWarning):
        result = crelle.check(f, lambda x: np.diag([0.0, 0.25]), np.array([0.0, 4.0]))
    assert not result
    assert "the reference is not finite everywhere" in result.notes[-1]


# -- wrong ones


def changed(change):
    return lambda x: change(layer_jacobian(x))


def with_part(part, factor):
    def change(j):
        j[part] = j[part] * factor
        return j

    return change


MISTAKES = {
    "sign": (lambda j: -j, "the sign"),
    "half": (lambda j: j / 2, "a factor: yours is 1/2 × the reference"),
    "mean": (lambda j: j / 3, "a factor: yours is 1/3 × the reference"),
    "factor": (lambda j: j * np.pi, "a factor: yours is 3.142 × the reference"),
    "nothing": (lambda j: j * 0, "yours is 0 everywhere"),
    "missing row": (with_part(np.s_[1], 0), "0 in row 1: missing"),
    "missing column": (with_part(np.s_[:, 2], 0), "0 in column 2: missing"),
    "sign of a row": (with_part(np.s_[2], -1), "the sign of row 2"),
    "sign of two columns": (with_part(np.s_[:, [0, 3]], -1), "the sign of columns 0, 3"),
    "factor of a column": (with_part(np.s_[:, 1], 3), "a factor: yours is 3 × the reference in column 1"),
    "sign of an entry": (with_part(np.s_[1, 2], -1), "the sign of entry [1, 2]"),
    "factor of an entry": (with_part(np.s_[1, 2], 2), "a factor: yours is 2 × the reference in entry [1, 2]"),
    "an entry": (with_part(np.s_[1, 2], 1.0371), "only entry [1, 2] is wrong"),
    "swapped rows": (lambda j: j[[0, 2, 1]], "rows 1 and 2 are swapped"),
    "swapped columns": (lambda j: j[:, [0, 3, 2, 1]], "columns 1 and 3 are swapped"),
    "rows in another order": (lambda j: j[[1, 2, 0]], "the rows are in another order"),
    "a row": (lambda j: j + np.outer([0, 1, 0], [0.1, 0.3, -0.2, 0.7]), "only row 1 is wrong"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_a_mistake_looks_like(name):
    change, expected = MISTAKES[name]
    result = crelle.check(layer, changed(change), POINT)
    assert not result
    assert result.likely == (expected,)
    assert expected in str(result)


def test_a_transpose():
    f = lambda x: np.tanh(A[:, :3] @ x)
    right = lambda x: (1 - np.tanh(A[:, :3] @ x) ** 2)[:, None] * A[:, :3]
    result = crelle.check(f, lambda x: right(x).T, POINT[:3])
    assert result.likely == ("yours is transposed",)
    result = crelle.check(f, lambda x: right(x) + np.eye(3), POINT[:3])
    assert result.likely == ("a multiple of the identity: yours is the reference + 1 × I",)


def test_axes_in_another_order():
    f = lambda x: x * x.sum(1, keepdims=True) ** 2
    x = np.random.default_rng(0).standard_normal((2, 2))
    right = crelle.jacobian(f)(x)
    result = crelle.check(f, lambda x: right.transpose(2, 3, 0, 1), x)
    assert result.likely == ("the axes are in another order: the input's before the output's",)


HESSIANS = {
    "lower only": (np.tril, "the upper triangle is missing: a Hessian is symmetric"),
    "upper only": (np.triu, "the lower triangle is missing: a Hessian is symmetric"),
    "diagonal": (lambda h: np.diag(np.diag(h)), "yours is diagonal: the mixed derivatives are missing"),
    "half the diagonal": (
        lambda h: h - np.diag(np.diag(h)) / 2,
        "a factor: yours is 1/2 × the reference in the diagonal",
    ),
    "twice the rest": (
        lambda h: 2 * h - np.diag(np.diag(h)),
        "a factor: yours is 2 × the reference in the mixed derivatives",
    ),
    "not symmetric": (
        lambda h: h + np.outer([1, 0, 0, 0], [0, 0.3, 0.7, 0.1]),
        "yours is not symmetric, as a Hessian is",
    ),
}


@pytest.mark.parametrize("name", HESSIANS)
def test_what_a_mistake_in_a_hessian_looks_like(name):
    change, expected = HESSIANS[name]
    result = crelle.check(cubic, lambda x: change(cubic_hessian(x)), POINT, kind="hessian")
    assert result.likely == (expected,)


def test_the_same_mistake_everywhere_is_said_once():
    f = lambda p: {"a": np.sin(p["x"]), "b": p["x"] ** 2}
    right = lambda p: {"a": {"x": np.diag(np.cos(p["x"]))}, "b": {"x": np.diag(2 * p["x"])}}
    result = crelle.check(f, lambda p: {k: {"x": -v["x"]} for k, v in right(p).items()}, {"x": POINT})
    assert result.likely == ("everywhere the sign",)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2), st.integers(0, 3), st.floats(1e-6, 1e3), st.booleans())
def test_any_wrong_entry_is_found_and_is_the_worst(i, j, size, negative):
    def slip(x):
        out = layer_jacobian(x)
        out[i, j] += -size if negative else size
        return out

    result = crelle.check(layer, slip, POINT)
    assert result.wrong == 1
    (worst,) = result.worst
    assert worst.where == f"[{i}, {j}]"
    assert result.max_abs == pytest.approx(size, rel=1e-6)
    assert worst.yours - worst.reference == pytest.approx(-size if negative else size, rel=1e-6)


def test_the_worst_come_first_and_are_counted():
    noise = 10.0 ** np.arange(-4, 8).reshape(3, 4)
    noise[0, 0] = 0
    result = crelle.check(layer, changed(lambda j: j * (1 + noise)), POINT, worst=3)
    assert result.wrong == 11
    assert [w.where for w in result.worst] == ["[2, 3]", "[2, 2]", "[2, 1]"]
    assert 0.99 < result.max_rel < 1


def test_the_report():
    result = crelle.check(layer, changed(with_part(np.s_[1], 0)), POINT, worst=2)
    lines = str(result).splitlines()
    assert lines[0] == "the derivative is not the jacobian of layer: 4 of 12 entries wrong"
    assert lines[1] == "  largest   difference 0.192, relative 1"
    assert lines[2] == "  reference crelle.jacobian, dense complex-step, numpy"
    assert lines[3] == "  likely    0 in row 1: missing"
    assert lines[5].split() == ["entry", "yours", "reference", "difference", "error", "of", "reference"]
    assert len(lines) == 8
    assert repr(result) == "<CheckResult: the derivative as jacobian of layer, wrong in 4 of 12 entries>"
    page = result._repr_html_()
    assert page.count("<tr>") == 3
    assert "0 in row 1: missing" in page


def test_exact_references_have_no_error_column():
    result = crelle.check(jnp.sin, lambda x: -jnp.diag(jnp.cos(x)), jnp.ones(2))
    assert str(result).splitlines()[5].split() == ["entry", "yours", "reference", "difference"]
    assert "crelle.jacobian" in result.reference
    assert result.reference.endswith("jax")


# -- bad input


def message(error, *args, **kwargs):
    with pytest.raises(error) as caught:
        crelle.check(*args, **kwargs)
    return str(caught.value)


SHAPES = [
    ((4, 3), "yours f64[4,3], expected f64[3,4]: transposed?"),
    ((3, 4, 1), "yours f64[3,4,1], expected f64[3,4]: an axis of length 1 too many or too few?"),
    ((12,), "yours f64[12], expected f64[3,4]: reshape(3, 4)?"),
    ((2, 4), "yours f64[2,4], expected f64[3,4]: 1 row missing?"),
    ((3, 6), "yours f64[3,6], expected f64[3,4]: 2 columns too many?"),
    ((5, 7), "yours f64[5,7], expected f64[3,4]"),
]


@pytest.mark.parametrize(("shape", "expected"), SHAPES)
def test_shapes(shape, expected):
    text = message(crelle.CrelleShapeError, layer, lambda x: np.zeros(shape), POINT)
    assert text == (
        f"crelle.check(layer, f): {expected}\n  expected  the shape of the output, followed by the shape of the input"
    )


def test_shapes_in_torch():
    x = torch.ones(3, dtype=torch.float32)
    f = lambda x: x[:2] ** 2
    text = message(crelle.CrelleShapeError, f, lambda x: torch.zeros(3, 2), x)
    assert "yours f32[3,2], expected f32[2,3]: transposed?" in text


def test_other_trees():
    f = lambda p: p["x"] ** 2
    text = message(crelle.CrelleTypeError, f, lambda p: {"y": np.eye(2)}, {"x": np.ones(2)})
    assert "the derivative returned another tree than the reference" in text
    assert "yours:     {'y': f64[2,2]}" in text
    assert "reference: {'x': f64[2,2]}" in text


def test_nothing_returned():
    text = message(crelle.CrelleTypeError, layer, lambda x: None, POINT)
    assert "another tree than the reference" in text or "a missing return statement" in text


def test_text_returned():
    text = message(crelle.CrelleTypeError, layer, lambda x: "text", POINT)
    assert text == "crelle.check(layer, f): the derivative returned 'text' of type str\n  expected  f64[3,4]"


def test_an_array_in_the_place_of_the_derivative():
    text = message(crelle.CrelleTypeError, layer, layer_jacobian(POINT), POINT)
    assert text == (
        "crelle.check(f, derivative, x): derivative is not a function but of type ndarray\n"
        "  expected  the function, and the function that computes its derivative, and then the arguments\n"
        "  likely    an array in the place of the derivative\n"
        "  try       crelle.check(f, my_jacobian, x)"
    )


def test_unknown_keyword_values():
    text = message(crelle.CrelleValueError, layer, layer_jacobian, POINT, kind="jac")
    assert text == (
        "crelle.check(layer, layer_jacobian): kind='jac' is not known\n"
        "  expected  'jacobian' | 'gradient' | 'hessian' | 'vjp' | 'jvp' | 'hvp'"
    )
    message(crelle.CrelleValueError, layer, layer_jacobian, POINT, worst=0)
    message(crelle.CrelleValueError, layer, layer_jacobian, POINT, rtol=-1.0)
    message(crelle.CrelleValueError, layer, layer_jacobian, POINT, atol=float("nan"))


def test_a_function_that_is_not_scalar():
    message(crelle.CrelleShapeError, layer, layer_jacobian, POINT, kind="gradient")


def test_jax_pytrees():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Params:
        x: jax.Array
        k: jax.Array

    p = Params(jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))
    f = lambda p: p.x * p.k
    assert crelle.check(f, lambda p: Params(jnp.diag(p.k), jnp.diag(p.x)), p)
    result = crelle.check(f, lambda p: Params(jnp.diag(p.k), -jnp.diag(p.x)), p)
    assert result.likely == (".k: the sign",)
