"""Random compositions of layers, in both frameworks and in batches, against dense Jacobians."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from tests.determinants.flows import Torch, dense, host

N = 6


def layers(rng):
    """Layers from 6 numbers to 6 numbers, as functions of (x, framework); all are invertible almost everywhere."""
    M = rng.standard_normal((N, N))
    half = rng.standard_normal((3, 3))
    order = rng.permutation(N)
    mask = (rng.random(N) < 0.5).astype(float)
    lower = np.tril(rng.standard_normal((N, N)), -1)
    return {
        "scaled": lambda x, xp: x * xp.asarray(M[0]),
        "cubed": lambda x, xp: x * x * x + x,
        "negated": lambda x, xp: -x,
        "mirrored": lambda x, xp: 1.5 - xp.flip(x, (0,)),
        "permuted": lambda x, xp: x[xp.asarray(order)],
        "mixed": lambda x, xp: xp.asarray(M) @ x,
        "mixed in part": lambda x, xp: xp.concatenate([xp.asarray(half) @ x[:3], x[3:] - xp.tanh(x[:3])], 0),
        "coupled": lambda x, xp: xp.concatenate([x[:2], xp.exp(xp.tanh(x[:2].sum() * x[2:])) - x[2:]], 0),
        "masked": lambda x, xp: xp.asarray(mask) * x + xp.asarray(1 - mask) * (
            x * xp.exp(xp.tanh(xp.asarray(M) @ (xp.asarray(mask) * x)))),
        "autoregressive": lambda x, xp: xp.tanh(xp.asarray(lower) @ x) - x * xp.exp(xp.tanh(xp.asarray(lower) @ x)),
        "residual": lambda x, xp: x + 0.3 * xp.tanh(xp.asarray(M) @ x),
        "stencil": lambda x, xp: 3 * x + xp.tanh(xp.roll(x, 1)) - 0.5 * xp.roll(x, -1) * x,
        "in pairs": lambda x, xp: (x.reshape(3, 2) @ xp.asarray(half[:2, :2]) + 0.1 * x.reshape(3, 2) ** 2).reshape(-1),
        "interleaved": lambda x, xp: xp.concatenate([x[::2] * x[1::2], x[1::2] - x[::2]], 0),
        "swapped": lambda x, xp: xp.concatenate([xp.tanh(x[3:]) - x[:3], 2 * x[3:]], 0),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_compositions(framework, seed):
    rng = np.random.default_rng(seed)
    names = rng.choice(list(layers(rng)), rng.integers(1, 6))
    chosen = [layers(rng)[name] for name in names]
    xp = jnp if framework == "jax" else Torch

    def f(x):
        for layer in chosen:
            x = layer(x, xp)
        return x

    x = xp.asarray(rng.uniform(-1, 1, N))
    S = crelle.slogdet(f, check=False)
    found, expected = host(S(x)), dense(f, x)
    assert found[0] == expected[0], names
    np.testing.assert_allclose(found[1], expected[1], atol=1e-9, rtol=1e-9, err_msg=str(names))
    assert S.plan(x).passes <= N * len(names)

    X = xp.asarray(rng.uniform(-1, 1, (3, N)))
    if framework == "torch":
        rows = crelle.slogdet(torch.vmap(f), batched=True)(X)
        for k in range(3):
            np.testing.assert_allclose([r[k] for r in host(rows)], dense(f, X[k]), atol=1e-9, rtol=1e-9)
