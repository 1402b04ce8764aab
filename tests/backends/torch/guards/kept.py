"""A traced function with its guards, and the things that tests let functions read."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from crelle.backends.torch.guards import Guards, record

X = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values or (1.0, 2.0, 3.0), dtype=torch.float64)


class Kept:
    """A traced ``jacrev(f)`` with its constants lifted to inputs, and the guards on it."""

    def __init__(self, f: Callable[..., Any], x: Tensor = X, **kwargs: Any) -> None:
        detached = x.detach()
        # partials, so that the signature of f is no concern
        transform = make_fx(functools.partial(torch.func.jacrev(functools.partial(f, **kwargs))))
        with record(f, (x,), kwargs) as recording:
            traced = transform(detached)
        self.graph, self.constants = lift(traced)
        self.guards: Guards = recording.guards(self.constants)
        self.f, self.x, self.kwargs = f, x, kwargs

    def tensors(self, f: Callable[..., Any] | None = None) -> list[Tensor] | None:
        return self.guards.match(f or self.f, (self.x,), self.kwargs)

    def replay(self, f: Callable[..., Any] | None = None) -> Tensor | None:
        """The derivative by the kept graph, None where the guards say that it does not describe f."""
        tensors = self.tensors(f)
        return None if tensors is None else self.graph(self.x.detach(), *tensors)

    def assert_fresh(self, f: Callable[..., Any] | None = None) -> None:
        """The guards hold, and the kept graph gives what PyTorch gives for f as it is now."""
        assert not self.guards.unguardable, self.guards.unguardable
        answer = self.replay(f)
        assert answer is not None, self.guards.changed(f or self.f, (self.x,), self.kwargs)
        expected = torch.func.jacrev(functools.partial(f or self.f, **self.kwargs))(self.x)
        torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)

    def assert_stale(self, what: str = "", f: Callable[..., Any] | None = None) -> None:
        """The guards fail, and say over what."""
        assert not self.guards.unguardable, self.guards.unguardable
        assert self.tensors(f) is None
        assert what in self.guards.changed(f or self.f, (self.x,), self.kwargs)


def lift(traced: fx.GraphModule) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph with its constants as further inputs, and the constants."""
    graph, env, targets = fx.Graph(), {}, []
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            env[node] = graph.node_copy(node)
    for node in traced.graph.nodes:
        if node.op == "get_attr" and node.target not in targets:
            targets.append(node.target)
    inputs = {target: graph.placeholder(f"lifted_{i}") for i, target in enumerate(targets)}
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            env[node] = inputs[node.target]
        elif node.op != "placeholder":
            env[node] = graph.node_copy(node, env.__getitem__)
    return fx.GraphModule(traced, graph), [getattr(traced, target) for target in targets]


def kept_and_fresh(f: Callable[..., Any], **kwargs: Any) -> Kept:
    kept = Kept(f, X, **kwargs)
    kept.assert_fresh()
    return kept


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()


class Scale:
    offset = 1.0

    def __init__(self, scale: float, weight: Tensor) -> None:
        self.scale = scale
        self.weight = weight
        self.unrelated = object()

    def __call__(self, x: Tensor) -> Tensor:
        return self.scaled(x) + self.offset

    def scaled(self, x: Tensor) -> Tensor:
        return x**2 * self.scale * self.weight


@dataclasses.dataclass
class Config:
    power: int
    scale: float = 1.0
    nested: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    power: int
    weight: Any


def make_module(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(source, module.__dict__)
    sys.modules[name] = module
    return module


class Net(nn.Module):
    """Parameters, a buffer, a flag, a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.register_buffer("shift", torch.ones(3))
        self.gain = 2.0
        self.act = torch.tanh
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.inner(x)) * self.gain
        for layer in self.layers:
            x = torch.sin(layer(x))
        return x + x**2 * self.shift


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()
