"""What enters an operator, and what is said of vectors that do not fit."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

TREE = {"a": np.arange(3.0), "b": [np.ones((2, 2))]}
MAKE = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}


def like(make):
    return {"a": make(TREE["a"]), "b": [make(TREE["b"][0])]}


def total(p):
    """Weights times squares, and a product that couples the leaves: H is known."""
    return (p["a"] ** 2).sum() + p["a"][0] * p["b"][0].sum()


HESSIAN = np.zeros((7, 7))
HESSIAN[[0, 1, 2], [0, 1, 2]] = 2
HESSIAN[0, 3:] = HESSIAN[3:, 0] = 1


def values(tree):
    return np.concatenate([np.ravel(np.asarray(tree["a"])), np.ravel(np.asarray(tree["b"][0]))])


@pytest.fixture(params=["jax", "torch"])
def make(request):
    return MAKE[request.param]


@pytest.fixture
def H(make):
    return crelle.hessian(total).at(like(make))


def test_vectors_come_back_as_they_came(H, make, rng):
    v = rng.standard_normal(7)
    flat = H @ make(v)
    assert tuple(flat.shape) == (7,)
    np.testing.assert_allclose(np.asarray(flat), HESSIAN @ v, rtol=1e-13)
    several = H @ make(np.stack([v, 2 * v, -v], 1))
    assert tuple(several.shape) == (7, 3)
    np.testing.assert_allclose(np.asarray(several)[:, 2], -HESSIAN @ v, rtol=1e-13)
    tree = H @ {"a": make(v[:3]), "b": [make(v[3:].reshape(2, 2))]}
    assert set(tree) == {"a", "b"} and tuple(tree["b"][0].shape) == (2, 2)
    np.testing.assert_allclose(values(tree), HESSIAN @ v, rtol=1e-13)
    rows = make(np.stack([v, 2 * v])) @ H
    assert tuple(rows.shape) == (2, 7)
    np.testing.assert_allclose(np.asarray(rows)[1], 2 * HESSIAN @ v, rtol=1e-13)


def test_a_column_and_no_columns(H, make):
    assert tuple((H @ make(np.ones((7, 1)))).shape) == (7, 1)
    assert tuple((H @ make(np.ones((7, 0)))).shape) == (7, 0)


def test_wrong_length(make):
    A = crelle.jacobian(lambda x: x[:2] * x[2]).at(make(np.arange(3.0)))
    name = A.backend.name
    with pytest.raises(crelle.CrelleShapeError) as caught:
        A @ make(np.ones(4))
    assert str(caught.value) == (
        f"Jacobian of f(f64[2×3], {name}, cpu) @ v: no vector of this operator\n"
        "  called    f64[4]\n"
        "  expected  f64[3], or f64[3,k] for k of them\n"
        "  likely    4 elements in place of 3"
    )
    with pytest.raises(crelle.CrelleShapeError) as caught:
        make(np.ones((2, 3))) @ A
    assert str(caught.value) == (
        f"u @ Jacobian of f(f64[2×3], {name}, cpu): no vector of this operator\n"
        "  called    f64[2,3]\n"
        "  expected  f64[2], or f64[k,2] for k of them\n"
        "  likely    6 elements in place of 2"
    )


def test_wrong_tree(H, make):
    with pytest.raises(crelle.CrelleTypeError) as caught:
        H @ {"a": make(np.ones(3)), "c": make(np.ones(4))}
    assert str(caught.value) == (
        f"Hessian of total(f64[7×7], {H.backend.name}, cpu, symmetric) @ v: no vector of this operator\n"
        "  called    {'a': f64[3], 'c': f64[4]}\n"
        "  expected  f64[7], or f64[7,k] for k of them, or a tree like p['a']: f64[3], p['b'][0]: f64[2,2]\n"
        "  likely    the right number of elements in another shape or tree"
    )


def test_wrong_shape_of_a_leaf(H, make):
    with pytest.raises(crelle.CrelleShapeError, match="the right number of elements in another shape or tree"):
        H @ {"a": make(np.ones(3)), "b": [make(np.ones(4))]}


def test_another_framework(make):
    A = crelle.jacobian(lambda x: x * 2).at(make(np.ones(2)))
    foreign = torch.ones(2, dtype=torch.float64) if A.backend.name == "jax" else jnp.ones(2)
    with pytest.raises(crelle.CrelleTypeError, match=f"is no vector of {A.backend.name}"):
        A @ foreign


def test_numpy_vectors_for_torch():
    A = crelle.jacobian(lambda x: x * 2).at(torch.ones(2))
    with pytest.raises(crelle.CrelleTypeError) as caught:
        A @ np.ones(2)
    assert str(caught.value) == (
        "Jacobian of f(f32[2×2], torch, cpu) @ v: array([1., 1.]) of type ndarray is no vector of torch\n"
        "  expected  f32[2], or f32[2,k] for k of them\n"
        "  try       A.to_scipy() for NumPy arrays"
    )


def test_text_and_none():
    A = crelle.jacobian(lambda x: x * 2).at(jnp.ones(2))
    with pytest.raises(crelle.CrelleTypeError, match="'v' of type str is no vector of jax"):
        A @ "v"
    with pytest.raises(crelle.CrelleError):
        A @ None


def test_complex_vectors_of_a_real_matrix(make):
    A = crelle.jacobian(lambda x: x * 2).at(make(np.ones(2)))
    with pytest.raises(crelle.CrelleTypeError) as caught:
        A @ make(np.ones(2, complex))
    assert str(caught.value) == (
        f"Jacobian of f(f64[2×2], {A.backend.name}, cpu) @ v: a complex vector for a real matrix\n"
        "  called    c128[2]\n"
        "  expected  f64[2], or f64[2,k] for k of them\n"
        "  try       its real and imaginary parts, one after the other"
    )


def test_another_device():
    A = crelle.jacobian(lambda x: x * 2).at(torch.ones(2))
    with pytest.raises(crelle.CrelleValueError) as caught:
        A @ torch.ones(2, device="meta")
    assert str(caught.value) == (
        "Jacobian of f(f32[2×2], torch, cpu) @ v: a vector on meta for an operator on cpu\n"
        "  expected  one device\n"
        "  try       move it to cpu"
    )


def test_integer_and_narrow_vectors(make):
    A = crelle.jacobian(lambda x: x * 2).at(make(np.ones(2)))
    np.testing.assert_array_equal(np.asarray(A @ make(np.asarray([1, 2]))), [2.0, 4.0])
    found = A @ make(np.asarray([1, 2], np.float32))
    assert "float64" in str(found.dtype)


def test_scalars(make):
    A = crelle.jacobian(lambda x: x**2).at(make(np.asarray(3.0)))
    assert A.shape == (1, 1)
    assert float(A @ make(np.asarray(2.0))) == 12.0
    assert tuple((A @ make(np.asarray([2.0]))).shape) == (1,)


def test_common_dtype():
    A = crelle.jacobian(lambda p: p["x"].sum() * p["y"]).at(
        {"x": torch.ones(2, dtype=torch.float16), "y": torch.ones(3, dtype=torch.bfloat16)}
    )
    assert A.domain.dtype == "float32"
