"""Any sequence of changes: the kept graph gives what the function gives now, or is given up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.backends.torch.guards.kept import (
    Config,
    Kept,
    X,
    kept_and_fresh,
    vector,
)


@dataclasses.dataclass
class World:
    """Many things that one function reads, each of which can be changed."""

    weight: Tensor
    scale: float
    power: int
    layers: list[Tensor]
    table: dict[str, Any]
    model: nn.Sequential
    offset: np.ndarray[Any, Any]
    activation: Callable[[Tensor], Tensor]
    config: Config

    def __call__(self, x: Tensor) -> Tensor:
        y = self.activation(x * self.weight) ** self.power * self.scale
        for layer in self.layers:
            y = y + layer * x
        if self.table["flag"]:
            y = y * self.table["gain"]
        y = self.model(y) + torch.from_numpy(self.offset)
        return y * self.config.scale if self.config.power > 2 else y


def world() -> World:
    torch.manual_seed(1)
    return World(
        vector(), 2.0, 2, [vector(), vector(0.0, 1.0, 0.0)], {"flag": True, "gain": vector(2.0, 2.0, 1.0)},
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double(), np.array([1.0, 2.0, 3.0]),
        torch.sin, Config(3, 1.5),
    )  # fmt: skip


def _values(k: int) -> Tensor:
    return vector(k + 0.5, -k, 1.0 / (k + 1))


CHANGES: list[Callable[[World, int], Any]] = [
    lambda w, k: setattr(w, "weight", _values(k)),
    lambda w, k: w.weight.mul_(k + 0.5),
    lambda w, k: setattr(w, "scale", float(k)),
    lambda w, k: setattr(w, "scale", k),
    lambda w, k: setattr(w, "power", 1 + k % 3),
    lambda w, k: w.layers.append(_values(k)),
    lambda w, k: w.layers.pop() if len(w.layers) > 1 else None,
    lambda w, k: w.layers.__setitem__(0, _values(k)),
    lambda w, k: w.layers.reverse(),
    lambda w, k: w.layers.__setitem__(0, w.weight),
    lambda w, k: w.table.update(flag=bool(k % 2)),
    lambda w, k: w.table.update(gain=_values(k)),
    lambda w, k: w.table.update(gain=float(k)),
    lambda w, k: setattr(w.model[0], "weight", nn.Parameter(torch.full((4, 3), 0.1 * k, dtype=torch.float64))),
    lambda w, k: w.model[2].bias.data.fill_(float(k)),
    lambda w, k: w.model.__setitem__(1, nn.Sigmoid() if k % 2 else nn.Tanh()),
    lambda w, k: w.model.train(bool(k % 2)),
    lambda w, k: w.model[0].requires_grad_(bool(k % 2)),
    lambda w, k: w.offset.__setitem__(0, float(k)),
    lambda w, k: setattr(w, "offset", w.offset + k),
    lambda w, k: setattr(w, "activation", torch.cos if k % 2 else torch.sin),
    lambda w, k: setattr(w, "activation", (lambda p: lambda x: x**p)(1 + k % 3)),
    lambda w, k: setattr(w.config, "scale", 0.5 * k),
    lambda w, k: setattr(w.config, "power", k),
    lambda w, k: setattr(w, "config", Config(k, 2.5)),
    lambda w, k: None,
]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CHANGES) - 1), st.integers(0, 4)), min_size=1, max_size=5))
def test_replay_or_trace_again_is_always_right(steps: list[tuple[int, int]]) -> None:
    f = world()
    kept = kept_and_fresh(f)
    for index, k in steps:
        CHANGES[index](f, k)
        answer = kept.replay()
        if answer is None:
            kept = Kept(f)
            answer = kept.replay()
            assert answer is not None, kept.guards.unguardable
        torch.testing.assert_close(answer, torch.func.jacrev(f)(X), rtol=1e-12, atol=1e-12)
