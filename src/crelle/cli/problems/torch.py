"""Problems in PyTorch."""

# ruff: noqa: TID251  (these are functions as a user writes them)

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from crelle.cli.problems import Case, Problem


def _case(f: Callable[..., Any], x: Tensor, **more: Any) -> Case:
    forward, reverse = torch.func.jacfwd(f), torch.func.jacrev(f)
    natives = {"torch.func.jacrev": reverse, "torch.func.jacfwd": forward}
    return Case(f, (x,), lambda: reverse(x), natives, **more)


def _layers(*sizes: int) -> nn.Sequential:
    """Linear layers with tanh in between, in float64, the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        parts: list[nn.Module] = []
        for n, m in pairwise(sizes):
            parts += [nn.Linear(n, m, dtype=torch.float64), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def _normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def wide() -> Case:
    """A network from 1000 numbers to 4."""
    w1, w2 = _normal(64, 1000) / 32, _normal(4, 64, seed=2) / 8

    def encoder(x: Tensor) -> Tensor:
        return w2 @ torch.tanh(w1 @ x)

    return _case(encoder, _normal(1000, seed=3), analyze=True)


def small_network() -> Case:
    """An nn.Module, handed over as it is."""
    return _case(_layers(64, 128, 128, 10), _normal(64))


def softmax() -> Case:
    """Two hundred probabilities."""
    x = _normal(200)

    def probabilities(logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=0)

    def remark(matrix: Any) -> str:
        s = torch.softmax(x, 0).numpy()
        off = np.abs(matrix - (np.diag(s) - np.outer(s, s))).max()
        return f"diag(s) − s sᵀ, the formula of the textbooks, within {off:.0e}"

    return _case(probabilities, x, remark=remark)


class SpiralLoss(nn.Module):
    """The loss of a small classifier on two spirals."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _layers(2, 6, 4, 1)
        t = torch.linspace(0.5, 3.0, 40, dtype=torch.float64)
        arm = torch.stack([t * torch.cos(2 * t), t * torch.sin(2 * t)], 1)
        self.register_buffer("labels", torch.cat([torch.ones(40), torch.zeros(40)]).to(torch.float64))
        self.points = torch.cat([arm, -arm])

    def forward(self, points: Tensor) -> Tensor:
        """Mean logistic loss."""
        labels = self.get_buffer("labels")
        return nn.functional.binary_cross_entropy_with_logits(self.net(points)[:, 0], labels)


def parameters() -> Case:
    """How curved is the loss, in every direction of parameter space?"""
    loss = SpiralLoss()
    points = loss.points
    params = {name: p.detach() for name, p in loss.named_parameters()}

    def of_params(p: dict[str, Tensor]) -> Any:
        return functional_call(loss, p, (points,))

    native = torch.func.hessian(of_params)

    def remark(matrix: Any) -> str:
        values = np.linalg.eigvalsh(matrix)
        down = int((values < -1e-9 * values.max()).sum())
        return f"{len(values)} parameters; the loss curves downwards along {down} of the principal directions"

    natives = {
        "torch.func.hessian": lambda _: native(params),
        "jacrev(jacrev)": lambda _: torch.func.jacrev(torch.func.jacrev(of_params))(params),
    }
    return Case(loss, (points,), lambda: native(params), natives, {"wrt": "params"}, remark)


PROBLEMS = [
    Problem("wide network", "torch", "jacobian", "an encoder from 1000 numbers to 4: few rows", 1e-12, wide),
    Problem(
        "small network", "torch", "jacobian", "nn.Module 64→128→128→10, its logits by its input", 1e-12, small_network
    ),
    Problem("softmax", "torch", "jacobian", "200 probabilities by their logits", 1e-12, softmax),
    Problem(
        "loss of a module",
        "torch",
        "hessian",
        "a classifier's loss by all the parameters of an nn.Module",
        1e-12,
        parameters,
    ),
]
