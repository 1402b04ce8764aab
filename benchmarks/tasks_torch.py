"""PyTorch, eager: Jacobians and Hessians of small and medium networks, and of the dense tasks that JAX gets."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import crelle
from benchmarks.harness import Contestant
from benchmarks.problem import OURS, Problem, Task, mode_of

Function = Callable[[Any], Any]
Maker = Callable[[torch.dtype, bool], tuple[Function, Tensor]]
DTYPES = (("f64", torch.float64), ("f32", torch.float32))


def _draw(seed: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """Random matrices whose products keep their scale."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype) / math.sqrt(shape[-1])


def _point(seed: int, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mlp(widths: tuple[int, ...], dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    """tanh between the layers, weights and biases captured."""
    draw = _draw(1, dtype)
    if small:
        widths = tuple(min(width, 16) for width in widths)
    layers = [(draw(b, a), draw(b)) for a, b in itertools.pairwise(widths)]

    def f(x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(layers):
            x = nnf.linear(x, weight, bias)
            if i < len(layers) - 1:
                x = torch.tanh(x)
        return x

    return f, _point(2, dtype, widths[0])


def module(widths: tuple[int, ...], dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    """The same network as a module with trainable parameters."""
    if small:
        widths = tuple(min(width, 16) for width in widths)
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, dtype=dtype), nn.Tanh()]
    return nn.Sequential(*layers[:-1]), _point(2, dtype, widths[0])


def scalar(make: Maker, dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    """The sum of the squares of another function, for Hessians."""
    f, x = make(dtype, small)
    return lambda z: f(z).square().sum(), x


def mlp_batch(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    batch = 4 if small else 32
    f, _ = mlp((32, 64, 64, 16), dtype, False)
    return f, _point(3, dtype, batch, 32)


def conv_net(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    side = 8 if small else 16
    draw = _draw(4, dtype)
    one, two, out = draw(8, 1, 3, 3), draw(16, 8, 3, 3) / 3, draw(10, 16 * (side // 4) ** 2)

    def f(x: Tensor) -> Tensor:
        y = nnf.max_pool2d(torch.relu(nnf.conv2d(x[None], one, padding=1)), 2)
        y = nnf.avg_pool2d(torch.tanh(nnf.conv2d(y, two, padding=1)), 2)
        return out @ y.reshape(-1)

    return f, _point(5, dtype, 1, side, side)


def layer_norm(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    length, d = (4, 8) if small else (16, 32)
    draw = _draw(6, dtype)
    scale, shift = draw(d), draw(d)
    return lambda x: nnf.layer_norm(x, (d,), scale, shift), _point(7, dtype, length, d)


def attention(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    """A transformer block: attention, then a two-layer network, each behind a normalisation."""
    length, d = (4, 8) if small else (16, 32)
    draw = _draw(8, dtype)
    query, key, value, out = (draw(d, d) for _ in range(4))
    up, down = draw(d, 4 * d), draw(4 * d, d)

    def f(x: Tensor) -> Tensor:
        y = nnf.layer_norm(x, (d,))
        scores = torch.softmax((y @ query) @ (y @ key).T / math.sqrt(d), -1)
        x = x + scores @ (y @ value) @ out
        return x + nnf.gelu(nnf.layer_norm(x, (d,)) @ up) @ down

    return f, _point(9, dtype, length, d)


def elementwise(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    f = lambda x: torch.sin(x) * torch.exp(-x * x) + x / (1 + x * x)
    return f, _point(10, dtype, 50 if small else 2000)


def softmax(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    return lambda x: torch.softmax(x, 0), _point(11, dtype, 50 if small else 1000)


def bottleneck(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    n, k = (40, 3) if small else (500, 10)
    draw = _draw(12, dtype)
    p, q, r, s = draw(n, n), draw(k, n), draw(n, k), draw(n, n)
    return lambda x: s @ torch.tanh(r @ (q @ torch.tanh(p @ x))), _point(13, dtype, n)


def thin(n: int, m: int, dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    if small:
        n, m = max(2, n // 20), max(2, m // 20)
    draw = _draw(14, dtype)
    a, b = draw(256, n), draw(m, 256)
    return lambda x: b @ torch.tanh(a @ x), _point(15, dtype, n)


def pair_energy(dtype: torch.dtype, small: bool) -> tuple[Function, Tensor]:
    atoms = 5 if small else 30

    def f(x: Tensor) -> Tensor:
        r = x.reshape(atoms, 3)
        gap = r[:, None] - r[None]
        return torch.exp(-(gap * gap).sum(-1)).sum()

    return f, _point(16, dtype, atoms * 3)


def _jacobian_peers(f: Function, x: Tensor) -> dict[str, Callable[[], Any]]:
    forward, reverse = torch.func.jacfwd(f), torch.func.jacrev(f)
    old = torch.autograd.functional.jacobian
    return {
        "func.jacrev": lambda: reverse(x),
        "func.jacfwd": lambda: forward(x),
        "functional.jacobian": lambda: old(f, x),
        "functional, vectorised": lambda: old(f, x, vectorize=True),
    }


def _hessian_peers(f: Function, x: Tensor) -> dict[str, Callable[[], Any]]:
    whole = torch.func.hessian(f)
    old = torch.autograd.functional.hessian
    return {
        "func.hessian": lambda: whole(x),
        "functional.hessian": lambda: old(f, x),
        "functional, vectorised": lambda: old(f, x, vectorize=True),
    }


def _works(transform: Function, x: Tensor) -> bool:
    """Whether a mode that was asked for gives a right answer: PyTorch has wrong rules, and the check then raises."""
    try:
        transform(x)
    except (crelle.CrelleError, RuntimeError):
        return False
    return True


def problem(
    f: Function, x: Tensor, *, hessian: bool = False, skip: tuple[str, ...] = (), modes: bool = False
) -> Problem:
    """Crelle against PyTorch; the transform is made once, as a user would who calls it often."""
    kind = crelle.hessian if hessian else crelle.jacobian
    transform = kind(f)
    peers = (_hessian_peers if hessian else _jacobian_peers)(f, x)
    contestants = [
        Contestant("f", lambda: f(x), compared=False),
        Contestant(OURS, lambda: transform(x)),
        *(Contestant(name, run) for name, run in peers.items() if name not in skip),
    ]
    plan = transform.plan(x)
    crelle.clear_caches()
    if modes:
        usable = sorted({mode_of(c.mode) for c in plan.candidates if c.passes >= 0})
        forced = {mode: kind(f, mode=mode) for mode in usable}
        contestants += [Contestant(f"{OURS} {mode}", lambda t=t: t(x)) for mode, t in forced.items() if _works(t, x)]
    chosen = {"mode": plan.mode, "chunk": plan.chunk, "method": plan.method}
    return Problem(contestants, " -> ".join(str(t) for t in (*plan.inputs, *plan.outputs)), chosen)


def tasks(modes: bool = False) -> list[Task]:
    """All tasks; ``modes`` adds Crelle's own modes one by one, to see whether the choice between them was right."""
    found: list[Task] = []

    def add(group: str, name: str, make: Maker, **options: Any) -> None:
        for short, dtype in DTYPES:

            def build(small: bool, dtype: torch.dtype = dtype) -> Problem:
                f, x = make(dtype, small)
                return problem(f, x, modes=modes, **options)

            found.append(Task(group, f"{name}/{short}", build))

    tiny, little = (2, 16, 16, 2), (64, 128, 128, 10)
    for widths in (tiny, little):
        text = "-".join(map(str, widths))
        make = functools.partial(mlp, widths)
        add("torch-small-jacobian", f"mlp-{text}", make)
        add("torch-small-hessian", f"mlp-{text}-hessian", functools.partial(scalar, make), hessian=True)
        add("torch", f"module-{text}", functools.partial(module, widths))
    add("torch", "mlp-100-256-256-100", functools.partial(mlp, (100, 256, 256, 100)))
    add("torch", "mlp-256-512-512-64", functools.partial(mlp, (256, 512, 512, 64)))
    add("torch", "mlp-batch", mlp_batch)
    add("torch", "conv-net", conv_net)
    add("torch", "layer-norm", layer_norm)
    add("torch", "attention-block", attention)
    add("torch", "elementwise", elementwise)
    add("torch", "softmax", softmax)
    add("torch", "bottleneck", bottleneck)
    for n, m in ((4, 1000), (1000, 4), (200, 200)):
        add("torch", f"thin-{n}-{m}", functools.partial(thin, n, m))
    add("torch", "pair-hessian", pair_energy, hessian=True)
    add("torch", "attention-hessian", functools.partial(scalar, lambda d, small: attention(d, True)), hessian=True)
    return found
