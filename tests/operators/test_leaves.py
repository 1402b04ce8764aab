"""Names of leaves: whole parts of paths, with the argument's name or without it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

PARAMS = {"layer1": {"w": jnp.ones((2, 2)), "b": jnp.ones(1)}, "layer10": {"w": jnp.ones(3)}, "scale": jnp.ones(())}
NAMES = ["layer1.b", "layer1.w", "layer10.w", "scale"]


@pytest.fixture(scope="module")
def H():
    def loss(params):
        parts = [jnp.sum(params["layer1"]["w"]), jnp.sum(params["layer1"]["b"]), jnp.sum(params["layer10"]["w"])]
        return parts[0] * parts[1] * parts[2] * params["scale"] + parts[0] ** 2

    return crelle.hessian(loss).at(PARAMS)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("layer1", [0, 1]),
        ("params['layer1']", [0, 1]),
        ("params", [0, 1, 2, 3]),
        ("['layer1']", [0, 1]),
        ("layer1.w", [1]),
        ("['layer1']['w']", [1]),
        ('["layer1"]["w"]', [1]),
        ("params.layer1.w", [1]),
        ("layer10", [2]),
        ("scale", [3]),
        (0, [0]),
        (-1, [3]),
        (["layer1.b", 3], [0, 3]),
        (("scale", "layer10"), [2, 3]),
    ],
)
def test_names(H, wanted, expected):
    assert H.block(wanted).rows == expected


@pytest.mark.parametrize("wanted", ["layer", "w", "ayer1", "layer1.w.x", "", 4, -5, 1.5, True, None])
def test_what_is_no_name(H, wanted):
    with pytest.raises(crelle.CrelleValueError, match="no leaf is named"):
        H.block(wanted)


def test_the_text(H):
    with pytest.raises(crelle.CrelleValueError) as caught:
        H.block("w")
    assert str(caught.value) == (
        "Hessian of loss(f64[9×9], jax, cpu, symmetric).block: no leaf is named 'w'\n"
        "  expected  params['layer1']['b']\n"
        "            params['layer1']['w']\n"
        "            params['layer10']['w']\n"
        "            params['scale']\n"
        "  likely    params['layer1']['w'] was meant"
    )
    with pytest.raises(crelle.CrelleValueError, match="no leaf was named"):
        H.block([])


def test_blocks_against_the_dense_matrix(H, rng):
    matrix = np.asarray(H.todense())
    B = H.block("layer1", ["layer10", "scale"])
    np.testing.assert_allclose(B.todense(), matrix[:5, 5:], rtol=1e-13)
    np.testing.assert_allclose(B.T.todense(), matrix[5:, :5], rtol=1e-13)
    D = H.block("layer1")
    np.testing.assert_allclose(D.todense(), matrix[:5, :5], rtol=1e-13)
    v = rng.standard_normal(5)
    found = D @ [jnp.asarray(v[:1]), jnp.asarray(v[1:].reshape(2, 2))]
    np.testing.assert_allclose(np.append(found[0], found[1]), matrix[:5, :5] @ v, rtol=1e-13)
    assert D.is_symmetric and not B.is_symmetric
    assert repr(D) == (
        "(Hessian of loss).block(params['layer1']['b'], params['layer1']['w'])(f64[5×5], jax, cpu, symmetric)"
    )
    one = H.block("layer1.w") @ jnp.ones((2, 2))
    np.testing.assert_allclose(one, np.full((2, 2), 8.0))


def test_names_of_a_module():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    J = crelle.jacobian(net, wrt="params").at(torch.ones(2, dtype=torch.float64))
    assert J.block(0, "0").cols == [0, 1]
    assert J.block(0, "2.weight").cols == [2]
    assert J.block(0, "params['0.bias']").cols == [1]
    np.testing.assert_allclose(J.block(0, "2").todense().detach(), J.todense().detach()[:, 9:], rtol=1e-13)


def test_names_of_outputs_and_tuples():
    f = lambda x, y: {"u": x * y.sum(), "v": [x[:1]]}
    J = crelle.jacobian(f, argnums=(0, 1)).at(jnp.ones(2), jnp.arange(3.0))
    B = J.block("u", "y")
    np.testing.assert_allclose(B.todense(), np.ones((2, 3)))
    np.testing.assert_allclose(J.block("v", "x").todense(), [[1.0, 0.0]])
