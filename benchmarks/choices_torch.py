"""PyTorch: Crelle's own choice against all that it could have chosen, the framework's functions, and by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

import crelle
from benchmarks import tasks_torch
from benchmarks.choices import BY_HAND, SMOKE, SPARSE, alternatives
from benchmarks.harness import Contestant
from benchmarks.patterns import HESSIANS, torch_problem
from benchmarks.problem import OURS, Problem, Task

Function = Callable[[Any], Any]
Maker = Callable[[bool], tuple[Function, Any]]


def dense(make: Maker, hessian: bool, small: bool) -> Problem:
    """A dense result: every mode, the framework's functions, and the sparse result made dense."""
    f, x = make(small)
    made = alternatives(tasks_torch.problem(f, x, hessian=hessian, modes=True))
    kind = crelle.hessian if hessian else crelle.jacobian
    sparse, shape = kind(f, format="sparse"), kind(f)(x).shape
    made.contestants.append(Contestant("sparse, made dense", lambda: sparse(x).to_dense().reshape(shape)))
    return made


def sparse(name: str, n: int, tiny: int, small: bool) -> Problem:
    """A sparse result, its entries by rows: dense and gathered, or by hand with the colours j mod k."""
    f, x = structured(name, tiny if small else n)
    hessian = name in HESSIANS
    transform = (crelle.hessian if hessian else crelle.jacobian)(f, format="sparse")
    pattern = transform.pattern(x)
    rows, cols = (torch.from_numpy(side.astype("int64")) for side in (pattern.rows, pattern.cols))
    func = torch.func
    gradient = func.grad(f) if hessian else f
    ways: dict[str, Callable[[], Any]] = {OURS: lambda: transform(x).values()}
    if x.numel() <= 2000:
        forward, reverse = func.jacfwd(gradient), func.jacrev(gradient)
        ways |= {
            "jacfwd, gathered": lambda: forward(x)[rows, cols],
            "jacrev, gathered": lambda: reverse(x)[rows, cols],
        }

    def colored(colors: Any, passes: int, at: Any, of: Any) -> Callable[[], Any]:
        seeds = (colors == torch.arange(passes)[:, None]).to(x.dtype)
        return lambda: func.vmap(lambda s: func.jvp(gradient, (x,), (s,))[1])(seeds)[colors[at], of]

    if name in BY_HAND:
        k = BY_HAND[name]
        ways["seeds by hand"] = colored(torch.arange(x.numel()) % k, k, cols, rows)
    if not hessian and (coloring := crelle.coloring(pattern, "columns")).passes <= 64:
        colors = torch.from_numpy(coloring.colors.astype("int64"))
        ways["columns colours"] = colored(colors, coloring.passes, cols, rows)
    plan = transform.plan(x)
    contestants = [Contestant(way, run) for way, run in ways.items()]
    return Problem(
        contestants, f"n = {x.numel():,}, {pattern.nnz:,} entries", {"mode": plan.mode, "method": plan.method}
    )


def structured(name: str, n: int) -> tuple[Function, Any]:
    """One of the problems of the patterns, or one of those below."""
    if name == "arrow":  # a dense row and a dense column
        first = torch.arange(n) == 0
        zero = torch.zeros((), dtype=torch.float64)
        return lambda x: torch.sin(x) * x[0] + torch.where(first, (x * x).sum(), zero), _line(n)
    if name == "full":  # nothing is zero
        matrix = tasks_torch._draw(6, torch.float64)(n, n)
        return lambda x: torch.tanh(matrix @ x), _line(n)
    f, x, _ = torch_problem(name, n)
    return f, torch.from_numpy(x)


def _line(n: int) -> Any:
    return torch.linspace(0.1, 0.9, n, dtype=torch.float64)


def tiny(small: bool) -> tuple[Function, Any]:
    """Three numbers to two."""
    point = torch.tensor([0.3, 0.5, 0.7], dtype=torch.float64)
    return lambda x: torch.stack([x[0] * torch.sin(x[1]), x[1] * x[2]]), point


def tasks(modes: bool = False) -> list[Task]:
    """Dense results first."""
    double = torch.float64
    makers: dict[str, Maker] = {
        "three to two": tiny,
        "mlp-64-128-128-10": functools.partial(tasks_torch.mlp, (64, 128, 128, 10), double),
        "mlp-batch": functools.partial(tasks_torch.mlp_batch, double),
        "elementwise": functools.partial(tasks_torch.elementwise, double),
        "bottleneck": functools.partial(tasks_torch.bottleneck, double),
        "attention": functools.partial(tasks_torch.attention, double),
        "thin-4-1000": functools.partial(tasks_torch.thin, 4, 1000, double),
        "thin-1000-4": functools.partial(tasks_torch.thin, 1000, 4, double),
        "burgers-1000": lambda small: structured("burgers", 50 if small else 1000),
        "arrow-500": lambda small: structured("arrow", 20 if small else 500),
    }
    hessians: dict[str, Maker] = {
        "pair-hessian": functools.partial(tasks_torch.pair_energy, double),
        "rosenbrock-300": lambda small: structured("rosenbrock", 20 if small else 300),
    }
    every = [(name, functools.partial(dense, make, False)) for name, make in makers.items()]
    every += [(name, functools.partial(dense, make, True)) for name, make in hessians.items()]
    made = [Task("choice-torch", f"torch: {name}, dense", build, name in SMOKE) for name, build in every]
    for name, n, few in SPARSE:
        build = functools.partial(sparse, name, n, few)
        made.append(Task("choice-torch", f"torch: {name}-{n}, sparse", build, f"{name}-{n}" in SMOKE))
    return made
