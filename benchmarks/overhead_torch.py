"""What a call costs beyond the arithmetic, in PyTorch: a tiny function, and training with a Jacobian in the loss."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import crelle
from benchmarks.harness import Contestant
from benchmarks.problem import OURS, Problem, Task

Transform = Callable[[Callable[..., Any]], Callable[..., Any]]
STEPS = 100


def tiny(x: Tensor) -> Tensor:
    """Three numbers to two."""
    return torch.stack([x[0] * x[1], torch.sin(x[2]) * x[0]])


def call(small: bool) -> Problem:
    """One call on a 3 → 2 function, guards included."""
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    ours, theirs = crelle.jacobian(tiny), torch.func.jacrev(tiny)
    return Problem(
        [Contestant(OURS, lambda: ours(x)), Contestant("func.jacrev", lambda: theirs(x))], "f64[3] -> f64[2]"
    )


class Training:
    """A network of two inputs and outputs, trained on a loss that holds the squared norm of its Jacobian."""

    def __init__(self, transform: Transform, anew: bool, cold: bool, steps: int) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)).double()
        self.transform, self.anew, self.cold, self.steps = transform, anew, cold, steps
        self.net = net
        self.start = copy.deepcopy(net.state_dict())
        self.x, self.y = torch.randn(2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
        self.kept = transform(net)

    def before(self) -> None:
        """Back to the first weights; a cold run also forgets every trace."""
        self.net.load_state_dict(self.start)
        if self.cold:
            crelle.clear_caches()
            self.kept = self.transform(self.net)

    def run(self) -> list[Tensor]:
        """The steps; returns the weights that were reached."""
        net, x, y = self.net, self.x, self.y
        optimiser = torch.optim.SGD(net.parameters(), lr=1e-2)
        for _ in range(self.steps):
            jacobian = self.transform(lambda z: net(z)) if self.anew else self.kept
            loss = (net(x) - y).square().sum() + 0.1 * jacobian(x).square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return [p.detach().clone() for p in net.parameters()]


def training(anew: bool, cold: bool, small: bool) -> Problem:
    """Crelle and ``torch.func`` in the same loop.

    Args:
        anew: a lambda and its transform are made in each step, instead of one transform before the loop.
        cold: with the first call, which traces; else with traces kept from an earlier loop.
    """
    runs = {
        OURS: Training(crelle.jacobian, anew, cold, 3 if small else STEPS),
        "func.jacrev": Training(torch.func.jacrev, anew, cold, 3 if small else STEPS),
    }
    return Problem(
        [Contestant(name, one.run, before=one.before) for name, one in runs.items()],
        f"{STEPS} steps, 2-16-16-2 network, transform made {'in each step' if anew else 'once'}",
    )


def tasks(modes: bool = False) -> list[Task]:
    """All of them."""
    found = [Task("overhead-torch-call", "call", call)]
    for cold in (True, False):
        for anew in (False, True):
            name = f"training, {'cold' if cold else 'warm'}{', lambda' if anew else ''}"
            found.append(Task("overhead-torch-train", name, functools.partial(training, anew, cold)))
    return found
