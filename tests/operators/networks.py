"""Small networks in both frameworks with dense references; shared by tests of matrices of a model and a loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

SAMPLES, INPUTS, OUTPUTS = 6, 3, 4


def data(seed=0):
    """(inputs, class indices, probabilities, numbers in [0, 1], real numbers) as NumPy arrays."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SAMPLES, INPUTS))
    probabilities = rng.random((SAMPLES, OUTPUTS))
    return {
        "x": x,
        "classes": rng.integers(0, OUTPUTS, SAMPLES),
        "probabilities": probabilities / probabilities.sum(1, keepdims=True),
        "shares": rng.random((SAMPLES, OUTPUTS)),
        "reals": rng.normal(size=(SAMPLES, OUTPUTS)),
    }


class Torch:
    """A module."""

    name = "torch"

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, OUTPUTS)).double()
        self.params = {key: p.detach() for key, p in self.model.named_parameters()}

    def array(self, values):
        return torch.as_tensor(values)

    def function(self, params, x):
        return functional_call(self.model, params, (x,))

    def at(self, asked, x, y):
        """``asked`` is what ggn or fisher return for the module."""
        return asked.at(self.array(x), self.array(y))

    def jacobian(self, x):
        """[m, n]."""
        blocks = torch.func.jacrev(self.function)(self.params, self.array(x))
        pairs = zip(blocks.values(), self.params.values(), strict=True)
        return np.concatenate([b.reshape(-1, p.numel()) for b, p in pairs], 1)

    def losses(self, name, reduction="mean"):
        options = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss, "bce": F.binary_cross_entropy_with_logits}
        return lambda z, y: options[name](z, y, reduction=reduction)

    def loss_hessian(self, loss, x, y):
        """[m, m]."""
        z = self.function(self.params, self.array(x))
        return torch.func.hessian(loss)(z, self.array(y)).reshape(z.numel(), z.numel()).numpy()

    def quartic(self, z, y):
        return ((z - y) ** 4).mean()

    def gradients(self, loss, x, y):
        """[B, n]: of each sample's loss, in a loop."""
        x, y, rows = self.array(x), self.array(y), []
        for n in range(len(x)):
            alone = lambda p, n=n: loss(self.function(p, x[n : n + 1]), y[n : n + 1])
            found = torch.func.grad(alone)(self.params)
            rows.append(np.concatenate([g.reshape(-1) for g in found.values()]))
        return np.stack(rows)


class Jax:
    """A function of a dict of parameters."""

    name = "jax"

    def __init__(self):
        rng = np.random.default_rng(1)
        shapes = {"a": (INPUTS, 5), "b": (5,), "c": (5, OUTPUTS)}
        self.params = {key: jnp.array(rng.normal(size=shape)) for key, shape in shapes.items()}

    @staticmethod
    def model(params, x):
        return jnp.tanh(x @ params["a"] + params["b"]) @ params["c"]

    def array(self, values):
        return jnp.asarray(values)

    def at(self, asked, x, y):
        return asked.at(self.params, self.array(x), self.array(y))

    def jacobian(self, x):
        blocks = jax.jacrev(self.model)(self.params, self.array(x))
        pairs = zip(blocks.values(), self.params.values(), strict=True)
        return np.concatenate([np.asarray(b).reshape(-1, p.size) for b, p in pairs], 1)

    def losses(self, name, reduction="mean"):
        def terms(z, y):
            if name == "mse":
                return (z - y) ** 2
            if name == "bce":
                return -y * jax.nn.log_sigmoid(z) - (1 - y) * jax.nn.log_sigmoid(-z)
            hot = y if y.shape == z.shape else jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype)
            return -(hot * jax.nn.log_softmax(z)).sum(-1)

        return lambda z, y: getattr(jnp, reduction)(terms(z, y))

    def loss_hessian(self, loss, x, y):
        z = self.model(self.params, self.array(x))
        return np.asarray(jax.hessian(loss)(z, self.array(y))).reshape(z.size, z.size)

    def quartic(self, z, y):
        return ((z - y) ** 4).mean()

    def gradients(self, loss, x, y):
        x, y, rows = self.array(x), self.array(y), []
        for n in range(len(x)):
            found = jax.grad(lambda p, n=n: loss(self.model(p, x[n : n + 1]), y[n : n + 1]))(self.params)
            rows.append(np.concatenate([np.ravel(g) for g in jax.tree.leaves(found)]))
        return np.stack(rows)


FRAMEWORKS = (Torch, Jax)
