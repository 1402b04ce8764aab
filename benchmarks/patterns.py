"""Seconds and bytes that the pattern of a derivative takes, every one in a process of its own.

``python -m benchmarks.patterns FRAMEWORK PROBLEM N WHAT`` measures one and prints one JSON object; WHAT is ``crelle``,
``asdex`` (where it is installed, the peer) or ``tracing``: what the framework itself needs to trace the derivative.
Nothing is cached. Counts of entries are compared with those found by reasoning.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.memory_probe import high_water, reset, resident
from benchmarks.problem import OURS, Measurement

Built = tuple[Callable[[Any], Any], np.ndarray, int]
"""f, the point and the number of entries."""

HESSIANS = ("rosenbrock",)
BATCH, WIDTH, TOKENS = 16, 16, 8
_normal = lambda *shape: np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(shape[-1])


def side(n: int) -> int:
    """Of the square grid of the Brusselator, which has two fields."""
    return round((n / 2) ** 0.5)


def edges(n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Three times as many as nodes: from, to, and how many entries they give."""
    ends = np.random.default_rng(0).integers(0, n, (2, 3 * n))
    start, stop = ends
    return start, stop, len(np.unique(np.concatenate([stop * n + start, stop * n + stop])))


def image_entries(length: int) -> int:
    """Two 3 × 3 convolutions of a square image, padded: pairs at most two rows and two columns apart."""
    return sum(min(i + 2, length - 1) - max(i - 2, 0) + 1 for i in range(length)) ** 2


def jax_problem(name: str, n: int) -> Built:
    """One of the problems in JAX."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    x = np.linspace(0.1, 0.9, n)
    if name == "burgers":

        def burgers(u: Any) -> Any:
            w = jnp.pad(u, 1)
            left, here, right = w[:-2], w[1:-1], w[2:]
            return here * (right - left) * (0.5 * n) - 1e-2 * (left - 2.0 * here + right) * n**2

        return burgers, x, 3 * n - 2
    if name == "brusselator":
        length = side(n)
        around = lambda w: sum(jnp.roll(w, s, axis) for s in (1, -1) for axis in (0, 1)) - 4.0 * w

        def brusselator(z: Any) -> Any:
            u, v = z.reshape(2, length, length)
            reaction = u * u * v
            return jnp.stack(
                [1.0 + reaction - 4.4 * u + 10.0 * around(u), 3.4 * u - reaction + 10.0 * around(v)]
            ).ravel()

        return brusselator, np.linspace(0.1, 0.9, 2 * length**2), 12 * length**2
    if name == "rosenbrock":
        return lambda y: jnp.sum(100.0 * (y[1:] - y[:-1] ** 2) ** 2 + (1.0 - y[:-1]) ** 2), x, 3 * n - 2
    if name == "cumsum":
        return jnp.cumsum, x, n * (n + 1) // 2
    if name == "normalised":
        return lambda y: y - jax.nn.logsumexp(y), x, n * n
    if name == "tridiagonal":
        matrix = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
        return lambda y: matrix @ y**2, x, 3 * n - 2
    if name == "dense":
        matrix = _normal(n, n)
        return lambda y: matrix @ jnp.sin(y), x, n * n
    if name == "graph":
        start, stop, entries = edges(n)
        return lambda y: jax.ops.segment_sum(jnp.sin(y[start] - y[stop]), stop, n), x, entries
    if name == "heat":
        step = lambda _, u: u.at[1:-1].add(0.1 * (u[2:] - 2.0 * u[1:-1] + u[:-2]))
        steps = 1000 if n == 200 else n
        return lambda y: lax.fori_loop(0, steps, step, y), x, (n - 2) * n + 2
    if name == "scan":
        chain = lambda c, a: (jnp.tanh(a), c * a)
        return lambda y: lax.scan(chain, jnp.ones(10), y.reshape(-1, 10))[1].ravel(), x, 2 * n - 10
    if name == "cnn":
        length = round(n**0.5)
        filters = [jnp.asarray(_normal(8, k, 3, 3)) for k in (1, 8)]

        def cnn(y: Any) -> Any:
            h = y.reshape(1, 1, length, length)
            for w in filters:
                h = jax.nn.relu(lax.conv(h, w, (1, 1), "SAME"))
            return h.ravel()

        return cnn, x, 8 * image_entries(length)
    if name == "mlp":
        one, two = (jnp.asarray(_normal(*s)) for s in ((WIDTH, 32), (32, WIDTH)))
        return lambda y: (jnp.tanh(y.reshape(-1, WIDTH) @ one) @ two).ravel(), x, n * WIDTH
    if name == "lstm":
        a, b = jnp.asarray(_normal(WIDTH, 4 * WIDTH)), jnp.asarray(_normal(WIDTH, 4 * WIDTH + 1)[:, :-1])

        def cell(carry: Any, y: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(y @ a + h @ b, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((BATCH, WIDTH))
        return (
            lambda y: lax.scan(cell, (start, start), y.reshape(-1, BATCH, WIDTH))[1].ravel(),
            x,
            lstm_entries(n),
        )
    if name == "transformer":
        qkv, widen, narrow = (jnp.asarray(_normal(*s)) for s in ((WIDTH, 3 * WIDTH), (WIDTH, 32), (32, WIDTH)))

        def norm(h: Any) -> Any:
            return (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 1e-5)

        def block(y: Any) -> Any:
            h = y.reshape(-1, TOKENS, WIDTH)
            q, k, v = jnp.split(norm(h) @ qkv, 3, axis=-1)
            h = h + jax.nn.softmax(q @ k.swapaxes(1, 2) / 4.0, axis=-1) @ v
            return (h + jax.nn.gelu(norm(h) @ widen) @ narrow).ravel()

        return block, x, n * TOKENS * WIDTH
    raise ValueError(f"no problem {name!r}")


def torch_problem(name: str, n: int) -> Built:
    """One of the problems in PyTorch."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    x = np.linspace(0.1, 0.9, n)
    if name == "burgers":

        def burgers(u: Any) -> Any:
            w = F.pad(u, (1, 1))
            left, here, right = w[:-2], w[1:-1], w[2:]
            return here * (right - left) * (0.5 * n) - 1e-2 * (left - 2.0 * here + right) * n**2

        return burgers, x, 3 * n - 2
    if name == "brusselator":
        length = side(n)
        around = lambda w: sum(torch.roll(w, s, axis) for s in (1, -1) for axis in (0, 1)) - 4.0 * w

        def brusselator(z: Any) -> Any:
            u, v = z.reshape(2, length, length)
            reaction = u * u * v
            return torch.stack(
                [1.0 + reaction - 4.4 * u + 10.0 * around(u), 3.4 * u - reaction + 10.0 * around(v)]
            ).reshape(-1)

        return brusselator, np.linspace(0.1, 0.9, 2 * length**2), 12 * length**2
    if name == "rosenbrock":
        return lambda y: (100.0 * (y[1:] - y[:-1] ** 2) ** 2 + (1.0 - y[:-1]) ** 2).sum(), x, 3 * n - 2
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    if name == "cnn":
        length = round(n**0.5)
        layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        return lambda y: layers(y.reshape(1, 1, length, length)).reshape(-1), x, 8 * image_entries(length)
    if name == "mlp":
        mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.Tanh(), nn.Linear(32, WIDTH))
        return lambda y: mlp(y.reshape(-1, WIDTH)).reshape(-1), x, n * WIDTH
    if name == "lstm":
        lstm = nn.LSTM(WIDTH, WIDTH)
        return lambda y: lstm(y.reshape(-1, BATCH, WIDTH))[0].reshape(-1), x, lstm_entries(n)
    if name == "transformer":
        first, second, qkv = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        feed = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

        def block(y: Any) -> Any:
            h = y.reshape(-1, TOKENS, WIDTH)
            q, k, v = qkv(first(h)).chunk(3, dim=-1)
            h = h + torch.softmax(q @ k.mT / 4.0, dim=-1) @ v
            return (h + feed(second(h))).reshape(-1)

        return block, x, n * TOKENS * WIDTH
    raise ValueError(f"no problem {name!r}")


def lstm_entries(n: int) -> int:
    """Every sample by itself, every step reads those before it."""
    steps = n // (BATCH * WIDTH)
    return BATCH * WIDTH * WIDTH * steps * (steps + 1) // 2


def ours(f: Callable[[Any], Any], x: Any, hessian: bool) -> int:
    """Number of entries of the pattern that Crelle finds."""
    import crelle

    return int((crelle.hessian if hessian else crelle.jacobian)(f).pattern(x).nnz)


def peer(f: Callable[[Any], Any], x: Any, hessian: bool) -> int:
    """The same by asdex."""
    import asdex

    return int((asdex.hessian_sparsity if hessian else asdex.jacobian_sparsity)(f, x).nnz)


def traced(framework: str, f: Callable[[Any], Any], x: Any, hessian: bool) -> int:
    """Only trace the derivative along one direction, as the framework does for anybody."""
    if framework == "jax":
        import jax

        g = jax.grad(f) if hessian else f
        jax.make_jaxpr(lambda y, t: jax.jvp(g, (y,), (t,)))(x, x)
    else:
        import torch
        from torch.fx.experimental.proxy_tensor import make_fx

        g = torch.func.grad(f) if hessian else f
        make_fx(lambda y, t: torch.func.jvp(g, (y,), (t,)))(x, x)
    return 0


def measure_here(framework: str, name: str, n: int, what: str, warm: bool) -> dict[str, Any]:
    """In this process. ``warm``: the modules that a first pattern loads are loaded, by another function."""
    if framework == "jax":
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        array: Callable[[Any], Any] = jnp.asarray
        build = jax_problem
    else:
        import torch

        torch.set_num_threads(1)
        array, build = torch.from_numpy, torch_problem
    runs: dict[str, Callable[..., int]] = {
        OURS: ours, "asdex": peer, "tracing": functools.partial(traced, framework),
    }  # fmt: skip
    if what == "asdex":
        import asdex  # noqa: F401
    elif what == OURS:
        import crelle  # noqa: F401
    run, hessian = runs[what], name in HESSIANS
    f, x, entries = build(name, n)
    point = array(x)
    if warm:
        matrix = array(np.ones((2, 3)))
        run(lambda y: y[1:] * y[:-1] + matrix @ y, array(np.ones(3)), False)
    reset()
    before = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small pattern may be said to be dense
        found = run(f, point, hessian)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = max(0, high_water() - before)
    return {"seconds": wall, "cpu_seconds": cpu, "peak": peak, "entries": found, "expected": entries, "n": len(x)}


def probe(framework: str, name: str, n: int, what: str, *, warm: bool = False, times: int = 1) -> dict[str, Any]:
    """The quickest of some fresh processes, with the allocator as users have it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-m", "benchmarks.patterns", framework, name, str(n), what]
    found = []
    for _ in range(times):
        done = subprocess.run(command + ["warm"] * warm, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr.strip()[-600:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(found, key=lambda one: one["seconds"])


def with_asdex() -> bool:
    """Whether the peer is there."""
    return importlib.util.find_spec("asdex") is not None


def record(value: float, unit: str, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A measurement is right if Crelle found as many entries as there are."""
    mine = parts[OURS]
    return {
        "quantity": {"value": value, "unit": unit},
        "parts": dict(parts),
        "shape": f"{mine['n']:,} inputs, {mine['entries']:,} entries",
        "peer": "asdex" if "asdex" in parts else "none",
        "agree": all(part["entries"] == part["expected"] for name, part in parts.items() if name.startswith(OURS)),
    }


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        small: n of a smoke run.
    """

    problem: str
    n: int
    small: int


LARGE = (Row("burgers", 10**6, 200), Row("brusselator", 999_698, 200), Row("rosenbrock", 10**6, 200))
HARD = (
    Row("cumsum", 3000, 30),
    Row("normalised", 1000, 30),
    Row("tridiagonal", 3000, 30),
    Row("dense", 500, 30),
    Row("graph", 10**5, 100),
    Row("heat", 200, 10),
    Row("scan", 10**5, 100),
    Row("cnn", 32 * 32, 64),
)
SMALL = (Row("burgers", 1000, 50), Row("brusselator", 968, 50), Row("rosenbrock", 1000, 50), Row("mlp", 960, 64))
TORCH = (
    *LARGE,
    Row("cnn", 32 * 32, 64),
    Row("lstm", 4 * BATCH * WIDTH, 2 * BATCH * WIDTH),
    Row("transformer", 8 * TOKENS * WIDTH, 2 * TOKENS * WIDTH),
    Row("mlp", 128 * WIDTH, 4 * WIDTH),
)


def large(row: Row, kind: str, small: bool) -> dict[str, Any]:
    """Seconds, or gigabytes, at a million; seconds at a hundred thousand with the ratio to asdex, where that is."""
    n = row.small if small else 10**5 if kind == "peer" else row.n
    parts = {OURS: probe("jax", row.problem, n, OURS, times=1 if small else 3)}
    if kind == "memory":
        return record(parts[OURS]["peak"] / 1e9, "GB", parts)
    if with_asdex():
        parts["asdex"] = probe("jax", row.problem, n, "asdex", times=3 if kind == "peer" and not small else 1)
    found = record(parts[OURS]["seconds"], "s", parts)
    if "asdex" in parts:
        found["ratio"] = parts[OURS]["seconds"] / parts["asdex"]["seconds"]
    return found


def hard(row: Row, small: bool) -> dict[str, Any]:
    """Seconds, once the modules are loaded."""
    n = row.small if small else row.n
    mine = probe("jax", row.problem, n, OURS, warm=True, times=1 if small else 3)
    return record(mine["seconds"], "s", {OURS: mine})


def beyond(framework: str, row: Row, small: bool) -> dict[str, Any]:
    """Seconds beyond the framework's own tracing, both from nothing."""
    n, times = (row.small, 1) if small else (row.n, 5)
    parts = {what: probe(framework, row.problem, n, what, times=times) for what in (OURS, "tracing")}
    return record(max(0.0, parts[OURS]["seconds"] - parts["tracing"]["seconds"]), "s", parts)


def torch_against_jax(row: Row, small: bool) -> dict[str, Any]:
    """Seconds beyond PyTorch's own tracing, in units of all that it takes in JAX."""
    n, times = (row.small, 1) if small else (row.n, 3)
    parts = {
        OURS: probe("torch", row.problem, n, OURS, warm=True, times=times),
        f"{OURS} (jax)": probe("jax", row.problem, n, OURS, warm=True, times=times),
        "tracing": probe("torch", row.problem, n, "tracing", warm=True, times=times),
    }
    extra = max(0.0, parts[OURS]["seconds"] - parts["tracing"]["seconds"])
    return record(extra / parts[f"{OURS} (jax)"]["seconds"], "× jax", parts)


def tasks(modes: bool = False) -> list[Measurement]:
    """Every row of the table."""
    made = []
    for kind in ("seconds", "memory", "peer"):
        made += [
            Measurement(f"pattern-{kind}", f"{row.problem}, {kind}", functools.partial(large, row, kind))
            for row in LARGE
        ]
    made += [Measurement(f"pattern-{row.problem}", row.problem, functools.partial(hard, row)) for row in HARD]
    for framework, rows in (("jax", SMALL), ("torch", SMALL)):
        made += [
            Measurement(
                f"pattern-small-{framework}",
                f"{framework}: {row.problem}, n = {row.n}",
                functools.partial(beyond, framework, row),
            )
            for row in rows
        ]
    for row in TORCH:
        made.append(Measurement("pattern-torch", f"torch: {row.problem}", functools.partial(torch_against_jax, row)))
    return made


if __name__ == "__main__":
    _framework, _problem, _n, _what, *_warm = sys.argv[1:]
    print(json.dumps(measure_here(_framework, _problem, int(_n), _what, bool(_warm))))
