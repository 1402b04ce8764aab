"""What jvp, vjp and hvp say to arguments that do not fit; their values are tested per backend."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

ARANGE = {
    "jax": lambda n: jnp.arange(float(n)),
    "torch": lambda n: torch.arange(n, dtype=torch.float64),
    "numpy": lambda n: np.arange(float(n)),
}


@pytest.fixture(params=ARANGE)
def arange(request):
    return ARANGE[request.param]


def square(x):
    return x**2


def says(text, call):
    with pytest.raises(crelle.CrelleError) as caught:
        call()
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize("name", ["jvp", "hvp"])
def test_a_tangent_of_another_shape(arange, name):
    x = arange(3)
    error = says(
        f"crelle.{name}(square): tangent f64[2] for primal f64[3]\n  expected  a tangent f64[3]",
        lambda: getattr(crelle, name)(square, (x,), (x[:2],)),
    )
    assert isinstance(error, crelle.CrelleShapeError)


def test_a_tangent_that_only_needs_reshaping(arange):
    x = arange(6)
    says(
        "crelle.jvp(square): tangent f64[6] for primal f64[2,3]\n"
        "  expected  a tangent f64[2,3]\n"
        "  try       reshape the tangent to [2, 3]",
        lambda: crelle.jvp(square, (x.reshape(2, 3),), (x,)),
    )


def test_a_cotangent_of_another_shape(arange):
    x = arange(3)
    _, pull = crelle.vjp(square, x)
    says("crelle.vjp(square): cotangent f64[2] for output f64[3]\n  expected  a cotangent f64[3]", lambda: pull(x[:2]))


def test_trees_that_differ(arange):
    x = arange(3)
    error = says(
        "crelle.jvp(f): the tangents have another tree than the primals\n"
        "  called    tangents: {'a': f64[3], 'c': f64[3]}\n"
        "  expected  p['a']: f64[3], p['b']: f64[3]\n"
        "  likely    an item is missing, or a list where a tuple is meant; None does not stand for zeros",
        lambda: crelle.jvp(lambda p: p["a"] * p["b"], ({"a": x, "b": x},), ({"a": x, "c": x},)),
    )
    assert isinstance(error, crelle.CrelleTypeError)


def test_a_leaf_of_a_tree_is_named(arange):
    x = arange(3)
    f = lambda p, y: p["a"][0] * y
    says(
        "crelle.hvp(f): tangent f64[2] for primal f64[3] (p['a'][0])\n  expected  a tangent f64[3]",
        lambda: crelle.hvp(f, ({"a": [x]}, x), ({"a": [x[:2]]}, x)),
    )
    _, pull = crelle.vjp(lambda x: {"y": x, "z": x}, x)
    says(
        "crelle.vjp(f): cotangent f64[2] for output f64[3] (['z'])\n  expected  a cotangent f64[3]",
        lambda: pull({"y": x, "z": x[:2]}),
    )


def test_cotangents_of_another_tree(arange):
    x = arange(3)
    _, pull = crelle.vjp(lambda x: (x, x[0]), x)
    says(
        "crelle.vjp(f): the cotangents have another tree than the outputs\n"
        "  called    cotangents: f64[3]\n"
        "  expected  [0]: f64[3], [1]: f64[]\n"
        "  likely    an item is missing, or a list where a tuple is meant; None does not stand for zeros",
        lambda: pull(x),
    )


def test_fewer_tangents_than_primals(arange):
    x = arange(3)
    says(
        "crelle.jvp(f): 2 primals and 1 tangents\n"
        "  called    primals:  f64[3], f64[3]\n"
        "            tangents: f64[3]\n"
        "  expected  one tangent for each primal; zeros for an argument that stays",
        lambda: crelle.jvp(lambda x, y: x * y, (x, x), (x,)),
    )


def test_primals_that_are_no_tuple(arange):
    x = arange(3)
    says(
        "crelle.hvp(square): primals is f64[3], not a tuple\n"
        "  expected  a tuple with one item for each argument of f\n"
        "  try       crelle.hvp(f, (x,), (v,))",
        lambda: crelle.hvp(square, x, x),
    )
    says(
        "crelle.jvp(square): tangents is f64[3], not a tuple\n"
        "  expected  a tuple with one item for each argument of f\n"
        "  try       crelle.jvp(f, (x,), (v,))",
        lambda: crelle.jvp(square, (x,), x),
    )


def test_a_tangent_that_is_no_array(arange):
    x = arange(3)
    says(
        "crelle.jvp(square): tangent 'x' of type str for primal f64[3]\n  expected  an array f64[3]",
        lambda: crelle.jvp(square, (x,), ("x",)),
    )


def test_not_a_function(arange):
    x = arange(3)
    kind = type(x).__name__
    for name, call in {
        "jvp": lambda: crelle.jvp(x, (x,), (x,)),
        "vjp": lambda: crelle.vjp(x, x),
        "hvp": lambda: crelle.hvp(x, (x,), (x,)),
    }.items():
        says(
            f"crelle.{name}(f, ...): f is not a function but of type {kind}\n"
            "  expected  a function of arrays, or an nn.Module\n"
            "  try       pass the function itself, f, not its result f(x)",
            call,
        )


def test_hvp_of_a_vector(arange):
    x = arange(3)
    error = says(
        "crelle.hvp(square): f must return a real scalar, and returned f64[3]\n"
        "  called    f64[3]\n"
        "  expected  one floating-point array of shape []\n"
        "  likely    a missing sum or mean, or an axis of length 1\n"
        "  try       f(x).sum(), f(x)[0], or crelle.jvp for a function with several outputs",
        lambda: crelle.hvp(square, (x,), (x,)),
    )
    assert isinstance(error, crelle.CrelleShapeError)


def test_hvp_of_complex_numbers(arange):
    z = arange(3) * 1j
    says(
        "crelle.hvp(f): z is c128[3], and a function of complex numbers has no one Hessian\n"
        "  called  c128[3]\n"
        "  try     use real and imaginary parts; for holomorphic f, crelle.hessian(f, holomorphic=True)",
        lambda: crelle.hvp(lambda z: abs(z[0]) ** 2, (z,), (z,)),
    )


def test_nothing_returned(arange):
    x = arange(3)
    for call in (
        lambda: crelle.jvp(lambda x: None, (x,), (x,)),
        lambda: crelle.jvp(lambda x: (), (x,), (x,)),
    ):
        says(
            "crelle.jvp(f): f returned nothing\n"
            "  called    f64[3]\n"
            "  expected  an array, or a tree of arrays\n"
            "  likely    a missing return statement",
            call,
        )


def test_aux_that_is_missing(arange):
    x = arange(3)
    with pytest.raises(crelle.CrelleTypeError, match=r"and f returned \w+, not \(output, aux\)\n  called  f64\[3\]"):
        crelle.jvp(square, (x,), (x,), has_aux=True)


def test_no_array():
    with pytest.raises(crelle.CrelleTypeError, match=r"crelle.jvp\(square\): no argument is an array\n  called    2.0"):
        crelle.jvp(square, (2.0,), (1.0,))
    with pytest.raises(crelle.CrelleTypeError, match=r"crelle.vjp\(square\): no argument is an array"):
        crelle.vjp(square)


def test_mixed_frameworks():
    x, y = jnp.arange(3.0), torch.arange(3.0)
    with pytest.raises(crelle.CrelleTypeError, match=r"crelle.vjp\(f\): the arguments mix JAX and PyTorch arrays"):
        crelle.vjp(lambda x, y: x, x, y)
