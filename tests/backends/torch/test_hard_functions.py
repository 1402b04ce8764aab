"""Functions whose derivatives torch.func gets wrong or refuses: Crelle's are right, and the plan says how."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import crelle
from tests.backends.torch.reference import assert_close, flat_hessian, flat_jacobian


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def norm_cases():
    yield "layer_norm", (3, 4), lambda x, w, b: F.layer_norm(x, (4,), w, b).pow(3).sum()
    yield "batch_norm", (3, 4), lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True).pow(3).sum()
    yield "instance_norm", (2, 4, 5), lambda x, w, b: F.instance_norm(x, None, None, w, b).pow(3).sum()


@pytest.mark.parametrize("name, shape, f", list(norm_cases()), ids=lambda c: c if isinstance(c, str) else "")
def test_joint_second_derivatives_of_normalisation_layers(name, shape, f):
    """Wrong in torch.func.hessian: pytorch/functorch#534."""
    x, w, b = torch.randn(shape), torch.randn(4), torch.randn(4)
    H = crelle.hessian(f, argnums=(0, 1, 2), flatten=True)
    assert_close(H(x, w, b), flat_hessian(f, x, w, b))
    assert "relative error" in H.plan(x, w, b).checked


def test_a_wrong_route_is_dropped_and_said():
    y = torch.randn(5, 4)
    J = crelle.jacobian(lambda x: torch.cdist(x, y, p=1.5), flatten=True)
    x = torch.randn(3, 4)
    assert_close(J(x), flat_jacobian(lambda x: torch.cdist(x, y, p=1.5), x))
    plan = J.plan(x)
    assert plan.method == "reverse, one at a time"
    assert any("dense reverse failed the check and was dropped" in note for note in plan.notes)
    assert "forward" in [c.mode for c in plan.candidates if c.passes < 0]


def forward_mode_is_wrong():
    index = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    yield lambda x: torch.zeros(2, 4).scatter_reduce(0, index, x, "prod", include_self=False), (3, 4)
    yield lambda x: torch.logcumsumexp(x, 1), (3, 4)
    yield lambda x: torch.linalg.solve_triangular(x.tril() + 4 * torch.eye(3), torch.ones(3, 2), upper=False), (3, 3)


@pytest.mark.parametrize("f, shape", list(forward_mode_is_wrong()))
def test_where_forward_mode_is_wrong(f, shape):
    x = torch.randn(shape)
    assert_close(crelle.jacobian(f, flatten=True)(x), flat_jacobian(f, x))


def test_a_mode_that_was_asked_for_and_is_wrong_raises():
    index = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    f = lambda x: torch.zeros(2, 4).scatter_reduce(0, index, x, "prod", include_self=False)
    with pytest.raises(crelle.CrelleCheckError) as caught:
        crelle.jacobian(f, mode="forward")(torch.randn(3, 4))
    text = str(caught.value)
    assert text.startswith("crelle.jacobian(f): the result of forward is wrong\n  called    x: f64[3,4]\n")
    assert "relative error" in text and "check=False" in text


def test_fused_attention_and_recurrent_layers():
    q = torch.randn(1, 2, 5, 4)
    attend = lambda q: F.scaled_dot_product_attention(q, q, q)
    by_hand = lambda q: torch.softmax(q @ q.mT / 2, -1) @ q
    assert_close(crelle.jacobian(attend, flatten=True)(q), flat_jacobian(by_hand, q))
    assert_close(crelle.jacobian(attend, flatten=True, mode="forward")(q), flat_jacobian(by_hand, q))
    H = crelle.hessian(lambda q: attend(q).pow(2).sum(), flatten=True)
    assert_close(H(q), flat_hessian(lambda q: by_hand(q).pow(2).sum(), q))
    assert any("plain kernels" in note for note in H.plan(q).notes)
    lstm = nn.LSTM(3, 4)
    x = torch.randn(5, 1, 3)
    assert_close(crelle.jacobian(lambda x: lstm(x)[0], flatten=True)(x), flat_jacobian(lambda x: lstm(x)[0], x))


def test_functions_that_read_values_are_run_anew():
    branch = lambda x: x.abs().sum() * x if x.sum() > 0 else x * 2
    for f in (branch, lambda x: x[x > 0] * 2, lambda x: x * float(x[0, 0].detach())):
        x = torch.randn(3, 4)
        J = crelle.jacobian(f, flatten=True)
        assert_close(J(x), flat_jacobian(f, x))
        assert_close(J(-x), flat_jacobian(f, -x))
        assert "f takes a value out of a tensor" in str(J.plan(x))


class Old(torch.autograd.Function):
    """A custom rule in the old style, which torch.func refuses; its derivative is deliberately twice the true one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, cotangent):
        return 2 * cotangent * ctx.saved_tensors[0].exp()


def test_custom_rules_are_followed():
    x = torch.randn(3)
    J = crelle.jacobian(Old.apply)
    for _ in range(2):
        assert_close(J(x), torch.diag(2 * x.exp()))
    assert any("setup_context" in note for note in J.plan(x).notes)


def test_in_place_work_on_intermediates():
    def f(x):
        y = x.clone()
        y[0] *= 2
        y.add_(1)
        return y.sin()

    x = torch.randn(3, 4)
    assert_close(crelle.jacobian(f, flatten=True)(x), flat_jacobian(f, x))


def test_a_vanishing_product_is_inconclusive_and_not_wrong():
    f = lambda x: torch.stack([(x[0] - x[0]) * 1.0 + (x[1] * 3.0 - x[1] - x[1] - x[1]) * 1e-17])
    J = crelle.jacobian(f)
    J(torch.randn(2))
    assert "inconclusive" in J.plan(torch.randn(2)).checked or "relative error" in J.plan(torch.randn(2)).checked


def test_gelu_in_float32_is_kept_in_the_graph():
    """oneDNN's kernel fails on broadcast arguments, which a batch of seeds has."""
    up, down = torch.randn(8, 16, dtype=torch.float32), torch.randn(16, 8, dtype=torch.float32)
    f = lambda x: F.gelu(x @ up) @ down
    x = torch.randn(4, 8, dtype=torch.float32)
    J = crelle.jacobian(f, flatten=True)
    assert float((J(x) - flat_jacobian(f, x)).abs().max()) < 1e-4
    assert J.plan(x).method == "dense reverse"
