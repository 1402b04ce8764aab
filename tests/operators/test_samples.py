"""Gradients of each sample's loss equal those of a loop over the samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import crelle
from tests.operators.networks import FRAMEWORKS, SAMPLES, data
from tests.operators.test_ggn import assert_same, host, says


@pytest.fixture(params=FRAMEWORKS, ids=lambda f: f.name)
def network(request):
    return request.param()


def gradients(network, loss, x, y, **keywords):
    point = () if network.name == "torch" else (network.params,)
    found = crelle.per_sample_gradient(network.model, loss, **keywords)(*point, network.array(x), network.array(y))
    for key, leaf in found.items():
        assert leaf.shape == (SAMPLES, *network.params[key].shape)
    return np.concatenate([host(leaf).reshape(SAMPLES, -1) for leaf in found.values()], 1)


@pytest.mark.parametrize(("name", "target"), [("cross_entropy", "classes"), ("mse", "reals"), ("bce", "shares")])
def test_losses_by_name(network, name, target):
    values = data()
    x, y = values["x"], values[target]
    for reduction in ("mean", "sum"):
        expected = network.gradients(network.losses(name, reduction), x, y)
        assert_same(gradients(network, name, x, y, reduction=reduction), expected, 1e-13)


def test_any_loss(network):
    values = data()
    x, y = values["x"], values["reals"]
    assert_same(gradients(network, network.quartic, x, y), network.gradients(network.quartic, x, y), 1e-13)


def test_their_mean_is_the_gradient_of_a_mean():
    network, values = FRAMEWORKS[0](), data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    F.cross_entropy(network.model(x), y).backward()
    whole = torch.cat([p.grad.reshape(-1) for p in network.model.parameters()])
    assert_same(gradients(network, F.cross_entropy, values["x"], values["classes"]).mean(0), host(whole))


def test_under_jit():
    network, values = FRAMEWORKS[1](), data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    found = jax.jit(crelle.per_sample_gradient(network.model, "cross_entropy"))(network.params, x, y)
    expected = network.gradients(network.losses("cross_entropy"), values["x"], values["classes"])
    assert_same(np.concatenate([host(leaf).reshape(SAMPLES, -1) for leaf in found.values()], 1), expected, 1e-13)


def test_only_parameters_that_require_a_gradient():
    model = nn.Linear(3, 2).double()
    model.bias.requires_grad_(False)
    found = crelle.per_sample_gradient(model, "mse")(torch.ones(5, 3).double(), torch.ones(5, 2).double())
    assert list(found) == ["weight"]
    assert not found["weight"].requires_grad


def test_no_samples():
    found = crelle.per_sample_gradient(lambda p, x: x @ p, "mse")(jnp.ones(3), jnp.ones((0, 3)), jnp.ones(0))
    assert found.shape == (0, 3)


def test_axes_that_differ():
    error = says(
        "crelle.per_sample_gradient(f, mse): samples lie along the first axis, and the arrays have different ones\n"
        "  called    f64[5,3], f64[4]\n"
        "  expected  inputs and target with the same first axis\n"
        "  try       close over what all samples share",
        lambda: crelle.per_sample_gradient(lambda p, x: x @ p, "mse")(jnp.ones(3), jnp.ones((5, 3)), jnp.ones(4)),
    )
    assert isinstance(error, crelle.CrelleShapeError)


def test_its_name():
    gradients = crelle.per_sample_gradient(nn.Linear(3, 2), "mse")
    assert gradients.__name__ == "per_sample_gradient(Linear)"
    assert "(x, y)" in gradients.__doc__
