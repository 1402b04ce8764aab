"""Hessians that are none: the check that estimators make before they rely on symmetry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.operators._symmetry import verify_symmetry

X = np.asarray([0.3, -0.7, 1.1, 0.4])


@jax.custom_jvp
def square(x):
    return x**2


@square.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return square(x), 2 * x * jnp.roll(x, 1) * t


def wrong(x):
    return jnp.sum(square(x) * jnp.roll(x, 2))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, u):
        (x,) = ctx.saved_tensors
        return 2 * x * x.roll(1) * u


def test_the_error():
    H = crelle.hessian(wrong).at(jnp.asarray(X))
    with pytest.raises(crelle.CrelleCheckError) as caught:
        verify_symmetry(H, "eigsh")
    lines = str(caught.value).splitlines()
    assert lines[0] == "Hessian of wrong(f64[4×4], jax, cpu, symmetric).eigsh: the matrix is not symmetric"
    assert lines[1].startswith("  called    uᵀHv and vᵀHu differ by ")
    assert lines[2] == "  expected  at most 1e-06: what rounding explains"
    assert "custom_jvp, custom_vjp, autograd.Function" in lines[3]
    assert "crelle.operator(H, symmetric=True) to go on all the same" in lines[4]
    matrix = np.asarray(H.todense())
    stated = float(lines[1].split(" differ by ")[1].split(" of ")[0])
    true = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix)
    assert true / 30 < stated < 30 * true  # one sample of it


@pytest.mark.parametrize("build", [lambda H: H, lambda H: H + 2 * H, lambda H: H.shifted(1.0), lambda H: H.block(0)])
def test_operators_made_of_it(build):
    H = build(crelle.hessian(wrong).at(jnp.asarray(X)))
    with pytest.raises(crelle.CrelleCheckError, match="not symmetric"):
        verify_symmetry(H, "eigsh")


def test_in_torch():
    H = crelle.hessian(lambda x: (Square.apply(x) * x.roll(2)).sum()).at(torch.as_tensor(X))
    with pytest.raises(crelle.CrelleCheckError, match="not symmetric"):
        verify_symmetry(H, "eigsh")


GOOD = {
    "float64": lambda: crelle.hessian(lambda x: jnp.sum(jnp.sin(x) * jnp.cumsum(x) ** 2)).at(jnp.asarray(X)),
    "float32": lambda: crelle.hessian(lambda x: jnp.sum(jnp.sin(x) * x[::-1] ** 2)).at(jnp.asarray(X, jnp.float32)),
    "bfloat16": lambda: crelle.hessian(lambda x: jnp.sum(jnp.sin(x) * x[::-1] ** 2)).at(jnp.asarray(X, jnp.bfloat16)),
    "complex": lambda: crelle.hessian(lambda z: jnp.sum(z**3) * z[0], holomorphic=True).at(jnp.asarray(X + 1j)),
    "zero": lambda: crelle.hessian(lambda x: jnp.sum(x)).at(jnp.asarray(X)),
    "empty": lambda: crelle.hessian(lambda x: jnp.sum(x)).at(jnp.zeros(0)),
    "numpy": lambda: crelle.hessian(lambda x: np.sum(np.sin(x) * np.cumsum(x) ** 2)).at(X),
    "torch": lambda: crelle.hessian(lambda x: (x.sin() * x.cumsum(0) ** 2).sum()).at(torch.as_tensor(X)),
    "sum": lambda: GOOD["float64"]() + crelle.operator(jnp.eye(4), symmetric=True),
}


@pytest.mark.parametrize("case", GOOD)
def test_symmetric_ones_pass(case):
    verify_symmetry(GOOD[case](), "eigsh")


def test_it_costs_two_products_once(monkeypatch):
    H = GOOD["float64"]()
    counts = []
    products = H._products
    monkeypatch.setattr(H, "_products", lambda block: counts.append(len(block)) or products(block))
    verify_symmetry(H, "eigsh")
    verify_symmetry(H, "trace")
    assert counts == [2]


def test_what_is_symmetric_by_construction_or_by_word_costs_nothing(monkeypatch):
    H = crelle.hessian(wrong).at(jnp.asarray(X))
    for A in (H.gram(), crelle.operator(H, symmetric=True), crelle.operator(jnp.eye(3), symmetric=True)):
        monkeypatch.setattr(A, "_products", None)
        verify_symmetry(A, "eigsh")


def test_no_claim_no_check():
    with pytest.raises(crelle.CrelleTypeError, match="needs a symmetric matrix"):
        verify_symmetry(crelle.operator(np.eye(3)), "eigsh")
    with pytest.raises(crelle.CrelleShapeError, match="the matrix is 2 × 3"):
        verify_symmetry(crelle.operator(np.ones((2, 3))), "eigsh")


def test_while_jax_traces_nothing_is_looked_at():
    def product(x):
        H = crelle.hessian(wrong).at(x)
        verify_symmetry(H, "eigsh")
        return H @ x

    assert jax.jit(product)(jnp.asarray(X)).shape == (4,)


def test_nan_is_left_to_whoever_asks_for_products():
    H = crelle.hessian(lambda x: jnp.sum(jnp.log(x) * x)).at(jnp.asarray([-1.0, 0.0]))
    verify_symmetry(H, "eigsh")
