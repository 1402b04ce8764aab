"""What a model loses on a batch, as something to differentiate."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import crelle
from crelle.operators._objective import gauss_newton_of
from tests.operators.networks import FRAMEWORKS, data
from tests.operators.test_ggn import assert_same, host, says


@pytest.fixture(params=FRAMEWORKS, ids=lambda f: f.name)
def network(request):
    return request.param()


def point(network):
    return () if network.name == "torch" else (network.params,)


@pytest.mark.parametrize(("name", "target"), [("cross_entropy", "classes"), ("mse", "reals"), ("bce", "shares")])
def test_its_value(network, name, target):
    values = data()
    x, y = network.array(values["x"]), network.array(values[target])
    function = network.function if network.name == "torch" else network.model
    for reduction in ("mean", "sum"):
        loss = network.losses(name, reduction)
        ours = float(host(crelle.objective(network.model, name, reduction=reduction)(*point(network), x, y)))
        theirs = float(host(crelle.objective(network.model, loss)(*point(network), x, y)))
        expected = float(loss(function(network.params, x), y))
        assert ours == pytest.approx(expected, rel=1e-14)
        assert theirs == pytest.approx(expected, rel=1e-14)


def test_the_hessian_of_a_module_has_the_names_of_its_parameters():
    network, values = FRAMEWORKS[0](), data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    H = crelle.hessian(crelle.objective(network.model, F.cross_entropy), wrt="params").at(x, y)
    assert list(H @ network.params) == list(network.params)
    loss = lambda p: F.cross_entropy(network.function(p, x), y)
    blocks = torch.func.hessian(loss)(network.params)
    expected = np.block(
        [[host(b).reshape(network.params[i].numel(), -1) for b in row.values()] for i, row in blocks.items()]
    )
    assert_same(H.todense(), expected)


def test_the_hessian_of_a_function():
    network, values = FRAMEWORKS[1](), data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    L = crelle.objective(network.model, "cross_entropy")
    expected = crelle.hessian(lambda p: network.losses("cross_entropy")(network.model(p, x), y), flatten=True)
    assert_same(crelle.hessian(L).at(network.params, x, y).todense(), host(expected(network.params)))


def test_a_module_is_a_module():
    model = nn.Linear(3, 2).double()
    L = crelle.objective(model, "mse")
    x, y = torch.ones(5, 3).double(), torch.zeros(5, 2).double()
    L(x, y).backward()
    assert model.weight.grad is not None
    assert not L.eval().training
    assert not model.training
    assert (L.model, L.loss) == (model, "mse")


def test_several_inputs():
    model = lambda p, a, b: p * a * b
    a, b, y = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]), jnp.zeros(2)
    assert float(crelle.objective(model, "mse")(2.0, a, b, y)) == (36 + 256) / 2


def test_numpy_models_with_a_loss_of_their_own():
    L = crelle.objective(lambda p, x: x @ p, lambda z, y: ((z - y) ** 2).sum())
    assert L(np.ones(2), np.ones((3, 2)), np.zeros(3)) == 12.0


def test_the_gauss_newton_matrix_that_goes_with_a_hessian(network):
    values = data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    L = crelle.objective(network.model, "cross_entropy", reduction="sum")
    transform = crelle.hessian(L, wrt="params" if network.name == "torch" else "inputs")
    G = gauss_newton_of(transform._bind((*point(network), x, y), {}))
    expected = network.at(crelle.ggn(network.model, "cross_entropy", reduction="sum"), x, y)
    assert_same(G.todense(), host(expected.todense()))
    assert G.exact_trace() == pytest.approx(expected.exact_trace(), rel=1e-12)


def test_no_gauss_newton_matrix_of_other_functions():
    f = lambda p: (p**2).sum()
    assert gauss_newton_of(crelle.hessian(f)._bind((jnp.ones(3),), {})) is None
    L = crelle.objective(lambda p, x: p * x, "mse")
    arrays = (jnp.ones(3),) * 3
    assert gauss_newton_of(crelle.hessian(L, argnums=1)._bind(arrays, {})) is None


def test_too_few_arguments():
    says(
        "crelle.objective(f, mse): too few arguments\n"
        "  called    f64[3], f64[3]\n"
        "  expected  (params, x, y): the target comes last",
        lambda: crelle.objective(lambda p, x: p * x, "mse")(jnp.ones(3), jnp.ones(3)),
    )
