"""Products of functions that ``torch.func`` refuses."""

import numpy as np
import pytest
import torch

import crelle


class Cube(torch.autograd.Function):
    """The old style, without setup_context."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


X = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
U = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def test_vjp_of_trees_and_aux():
    def f(p, s):
        return {"a": Cube.apply(p["x"]) * s, "b": p["x"].sum()}, "aux"

    value, pull, aux = crelle.vjp(f, {"x": X}, torch.tensor(2.0, dtype=torch.float64), has_aux=True)
    grads = pull({"a": U, "b": torch.tensor(1.0, dtype=torch.float64)})
    assert aux == "aux"
    assert not value["a"].requires_grad
    np.testing.assert_allclose(grads[0]["x"], 6 * X**2 * U + 1, rtol=1e-14)
    np.testing.assert_allclose(grads[1], (X**3 * U).sum(), rtol=1e-14)
    np.testing.assert_allclose(pull({"a": U, "b": U.sum()})[0]["x"], 6 * X**2 * U + U.sum(), rtol=1e-14)


def test_jvp():
    def f(x, s):
        return [Cube.apply(x) * s, x.sum()], "aux"

    two, one = torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    value, pushed, aux = crelle.jvp(f, (X, two), (U, one), has_aux=True)
    assert aux == "aux"
    np.testing.assert_allclose(value[0], 2 * X**3, rtol=1e-14)
    np.testing.assert_allclose(pushed[0], 6 * X**2 * U + X**3, rtol=1e-14)
    np.testing.assert_allclose(pushed[1], U.sum(), rtol=1e-14)


@pytest.fixture(scope="module")
def turn():
    """An operation with a reverse rule only, of which forward mode says that its derivative is zero."""

    @torch.library.custom_op("crelle_tests::turn", mutates_args=())
    def turn(x: torch.Tensor) -> torch.Tensor:
        return x.flip(0).clone()

    turn.register_fake(torch.empty_like)
    turn.register_autograd(lambda ctx, g: turn(g))
    return turn


def test_zeros_of_operations_without_a_forward_rule_are_not_believed(turn):
    assert not torch.func.jvp(turn, (X,), (U,))[1].any()  # what torch says
    np.testing.assert_allclose(crelle.jvp(lambda x: turn(x) * 2, (X,), (U,))[1], 2 * U.flip(0))
    np.testing.assert_allclose(crelle.vjp(turn, X)[1](U)[0], U.flip(0))
    np.testing.assert_allclose(crelle.hvp(lambda x: (turn(x) ** 3).sum(), (X,), (U,)), 6 * X * U)


def test_hvp():
    value, product = crelle.hvp(lambda x: Cube.apply(x).sum(), (X,), (U,), value=True)
    np.testing.assert_allclose(value, (X**3).sum(), rtol=1e-14)
    np.testing.assert_allclose(product, 6 * X * U, rtol=1e-14)
    np.testing.assert_allclose(crelle.hvp(lambda x: Cube.apply(x[:1]).sum() * 0 + x.sum(), (X,), (U,)), 0 * X)


def test_products_are_differentiated_again_where_that_is_asked_for():
    x = X.clone().requires_grad_()
    _, pull = crelle.vjp(Cube.apply, x)
    (grad,) = torch.autograd.grad(pull(U)[0].sum(), x)
    np.testing.assert_allclose(grad, 6 * X * U, rtol=1e-14)
    assert not crelle.vjp(Cube.apply, X)[1](U)[0].requires_grad


def test_constants_and_other_errors():
    _, pull = crelle.vjp(lambda x: Cube.apply(x.detach()), X)
    assert not pull(U)[0].any()
    with pytest.raises(RuntimeError, match="mine"):
        crelle.vjp(lambda x: (_ for _ in ()).throw(RuntimeError("mine")), X)
