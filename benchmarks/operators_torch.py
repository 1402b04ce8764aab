"""Operators in PyTorch: Hessian-vector products in gradients and against peers, blocks, and 32 probes of a trace.

Networks of 270,000, 106,000 and 200,000 parameters, cross-entropy, f32; the operators are made beforehand, as users do
who ask for many products. Peers where they are installed: curvlinops, hessian-eigenthings. Time and memory of the
probes are those of processes that did nothing else (``operators_torch_probe``).
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.func import functional_call

import crelle
from benchmarks.harness import Contestant
from benchmarks.problem import OURS, Measurement, Problem, Task

CURVLINOPS = importlib.util.find_spec("curvlinops") is not None
EIGENTHINGS = importlib.util.find_spec("hessian_eigenthings") is not None

PROBES = 32


class Attention(nn.Module):
    """Of four heads, written out: a fused kernel has no second derivative."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        q, k, v = self.qkv(x).reshape(count, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // 4) ** 0.5, -1)
        return self.out((weights @ v).transpose(1, 2).reshape(count, length, width))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """One block, and a class for each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        x = x + self.layers(self.second(x))
        return self.head(x).flatten(0, 1)  # type: ignore[no-any-return]


class Network:
    """A model, its loss as a function of the parameters, and its data."""

    def __init__(self, name: str, small: bool) -> None:
        torch.manual_seed(0)
        if name == "mlp":
            count, width = (16, 16) if small else (512, 256)
            layers = [nn.Linear(784, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)]
            self.model: nn.Module = nn.Sequential(*layers)
            self.x = torch.randn(count, 784)
        elif name == "cnn":
            self.model = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
            )  # fmt: skip
            self.x = torch.randn(2 if small else 128, 1, 28, 28)
        else:
            width = 16 if small else 128
            self.model, self.x = Transformer(width), torch.randn(2 if small else 32, 32, width)
        self.y = torch.randint(10, (len(self.model(self.x)),))
        self.parameters = {key: p.detach().clone() for key, p in self.model.named_parameters()}

    def loss(self, parameters: dict[str, Tensor]) -> Tensor:
        """Cross-entropy."""
        return nnf.cross_entropy(functional_call(self.model, parameters, (self.x,)), self.y)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters.values())

    def hessian(self) -> Any:
        """Ours."""
        return crelle.hessian(self.loss).at(self.parameters)

    def curvlinops(self) -> Any:
        """Its Hessian of the same loss."""
        from curvlinops import HessianLinearOperator

        options: dict[str, Any] = {"check_deterministic": False}
        if len(self.y) != len(self.x):
            options |= {"num_data": len(self.y), "batch_size_fn": lambda x: len(self.y)}
        return HessianLinearOperator(
            self.model, nn.CrossEntropyLoss(), list(self.model.parameters()), [(self.x, self.y)], **options
        )

    def eigenthings(self) -> Any:
        """The Hessian of hessian-eigenthings."""
        from hessian_eigenthings import HessianOperator, supervised_loss

        return HessianOperator(self.model, [(self.x, self.y)], supervised_loss(nnf.cross_entropy))


def _direction(network: Network) -> tuple[Tensor, dict[str, Tensor]]:
    v = torch.randn(network.size, generator=torch.Generator().manual_seed(1))
    parts = v.split([p.numel() for p in network.parameters.values()])
    return v, {key: part.reshape(p.shape) for (key, p), part in zip(network.parameters.items(), parts, strict=True)}


def _flat(tree: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in tree.values()])


def products(name: str, small: bool) -> Problem:
    """H v from kept operators; a gradient, for scale."""
    network = Network(name, small)
    v, tree = _direction(network)
    h = network.hessian()
    while (
        not small and not h._kept._replays[False].settled
    ):  # many products are asked for: how they are made is settled
        h @ v
    leaves = {key: p.clone().requires_grad_() for key, p in network.parameters.items()}
    gradient = torch.func.grad(network.loss)
    contestants = [
        Contestant("gradient", lambda: torch.autograd.grad(network.loss(leaves), leaves.values()), compared=False),
        Contestant("func.jvp(grad)", lambda: _flat(torch.func.jvp(gradient, (network.parameters,), (tree,))[1])),
        Contestant(OURS, lambda: h @ v),
    ]
    if CURVLINOPS:
        theirs = network.curvlinops()
        # timed only, where a layer normalises: in 3.0.1 its products are 0.4 % off there, by finite differences
        contestants.append(Contestant("curvlinops", lambda: theirs @ v, compared=name != "transformer"))
    if EIGENTHINGS:
        other = network.eigenthings()
        contestants.append(Contestant("hessian-eigenthings", lambda: other.matvec(v)))
    settled = h._kept._replays[False]
    method = "program" if settled.program is not None else "graph"
    return Problem(contestants, f"{network.size:,} parameters, {len(network.x)} samples", {"method": method})


def blocks(name: str, count: int, small: bool) -> Problem:
    """H V from a kept operator, against both of the ways that it chooses from."""
    network = Network(name, small)
    h = network.hessian()
    block = torch.randn(network.size, 16 if small else count, generator=torch.Generator().manual_seed(1))
    h @ block
    kept = h._kept
    sizes = [p.numel() for p in network.parameters.values()]

    def graph(rows: Tensor, batched: bool) -> Tensor:
        seeds = [
            part.reshape(*rows.shape[: int(batched)], *p.shape)
            for part, p in zip(rows.split(sizes, -1), network.parameters.values(), strict=True)
        ]
        found = torch.autograd.grad(kept._pulled, kept._active, seeds, retain_graph=True, is_grads_batched=batched)
        return torch.cat([leaf.reshape(*rows.shape[: int(batched)], -1) for leaf in found], -1)

    rows = block.T.contiguous()
    contestants = [
        Contestant("loop over the graph", lambda: torch.stack([graph(row, False) for row in rows], 1)),
        Contestant("vmap over the graph", lambda: graph(rows, True).T),
        Contestant(OURS, lambda: h @ block),
    ]
    return Problem(contestants, f"{network.size:,} × {block.shape[1]}", {"chunk": kept._blocks[False].chunk})


def tiny_jacobian(small: bool) -> Problem:
    """J V of a network where calls cost more than arithmetic."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8)).requires_grad_(False)
    x = torch.randn(16)
    a = crelle.jacobian(net).at(x)
    block = torch.randn(16, 256)
    a @ block
    contestants = [
        Contestant("loop of func.jvp", lambda: torch.stack([torch.func.jvp(net, (x,), (v,))[1] for v in block.T], 1)),
        Contestant(
            "vmap of func.jvp", lambda: torch.func.vmap(lambda v: torch.func.jvp(net, (x,), (v,))[1], 1, 1)(block)
        ),
        Contestant(OURS, lambda: a @ block),
    ]
    return Problem(contestants, "f32[16] -> f32[8], 256 vectors", {"chunk": a._kept._blocks[False].chunk})


def probe(way: str, size: str) -> dict[str, Any]:
    """32 probes of the trace in a process of its own; where memory is asked for, its allocator keeps no large block."""
    command = [sys.executable, "-m", "benchmarks.operators_torch_probe", way, size]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    if size == "peak":
        environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 18)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr.strip()[-600:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@functools.cache
def probes(size: str) -> dict[str, dict[str, Any]]:
    """By way, what its processes reported: the fastest of three, in turns, where time is asked for."""
    ways = (OURS, *(("curvlinops",) if CURVLINOPS else ()))
    turns = [{way: probe(way, size) for way in ways} for _ in range(3 if size == "seconds" else 1)]
    return {way: min((turn[way] for turn in turns), key=lambda report: report["seconds"]) for way in ways}


def compared(what: str, unit: str, small: bool) -> Mapping[str, Any]:
    """Ours over that of curvlinops; ours alone, with its unit, where that is not installed."""
    parts = probes("small" if small else what)
    ours = parts[OURS]
    # the products are compared with those of plain autograd; the estimates, with other probes, within their errors
    errors = {OURS: ours["error"]}
    common: dict[str, Any] = {
        "shape": f"H V for {PROBES} probes, and vᵀHv", "parts": parts, "errors": errors, "tolerance": 1e-3,
        "agree": ours["error"] <= 1e-3,
    }  # fmt: skip
    if "curvlinops" not in parts:
        return {"quantity": {"value": ours[what], "unit": unit}, **common}
    gap = abs(ours["trace"] - parts["curvlinops"]["trace"]) / ours["stderr"]
    ratio = ours[what] / max(parts["curvlinops"][what], 1e-9)
    errors["curvlinops, standard errors apart"] = gap
    return {"quantity": {"value": ratio, "unit": "× curvlinops"}, "ratio": ratio, **common,
            "agree": ours["error"] <= 1e-3 and gap < 6}  # fmt: skip


def tasks(modes: bool = False) -> list[Task | Measurement]:
    """Products, blocks, probes."""
    made: list[Task | Measurement] = []
    for name, title in (("mlp", "MLP"), ("cnn", "CNN"), ("transformer", "transformer block")):
        group = "operators-torch-product" + "-transformer" * (name == "transformer")
        made.append(Task(group, f"torch: H v, {title}", functools.partial(products, name)))
    for name, title, count in (("mlp", "MLP", 16), ("cnn", "CNN", 16)):
        build: Callable[[bool], Problem] = functools.partial(blocks, name, count)
        made.append(Task("operators-torch-block", f"torch: H V, {title}, {count} vectors", build))
    made.append(Task("operators-torch-block", "torch: J V, 16-32-8, 256 vectors", tiny_jacobian))
    for what, unit, title in (("seconds", "s", "time"), ("peak", "bytes", "memory")):
        take = functools.partial(compared, what, unit)
        made.append(Measurement(f"operators-torch-probes-{title}", f"torch: {PROBES} probes, CNN, {title}", take))
    return made
