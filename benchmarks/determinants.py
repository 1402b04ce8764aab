"""Log-determinants of flows: right against their closed form, and at a cost that grows with d, not with its square.

``python -m benchmarks.determinants FRAMEWORK FLOW D WAY SECONDS`` measures one way in a process of its own and prints
JSON; WAY is ``crelle``, ``dense`` (the framework's own: forward mode, then LU) or ``closed form``, what someone who
knows would write.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.harness import TOLERANCE
from benchmarks.problem import OURS, Measurement
from benchmarks.sparse_probe import peak, sample

FLOWS = ("RealNVP", "MAF")
LAYERS, HIDDEN = 3, 24

Flow = Callable[[Any], tuple[Any, Any]]


def flow(name: str, d: int, xp: Any, array: Callable[[Any], Any]) -> Flow:
    """x ↦ (f(x), log|det|); ``xp`` has tanh, exp and concatenate."""
    rng = np.random.default_rng(d)
    half = d // 2
    layers: list[Any] = []
    for _ in range(LAYERS):
        order = rng.permutation(d)
        if name == "RealNVP":
            into = rng.standard_normal((HIDDEN, half)) / np.sqrt(d)
            out = rng.standard_normal((2 * (d - half), HIDDEN)) / np.sqrt(HIDDEN)
        else:
            degree = rng.integers(0, d - 1, HIDDEN)
            into = rng.standard_normal((HIDDEN, d)) * (degree[:, None] >= np.arange(d)) / np.sqrt(d)
            later = np.tile(np.arange(d)[:, None] > degree, (2, 1))
            out = rng.standard_normal((2 * d, HIDDEN)) * later / HIDDEN
        layers.append((array(into), array(out), array(order)))

    def couple(x: Any) -> tuple[Any, Any]:
        total: Any = 0.0
        for into, out, order in layers:
            a, b = x[:half], x[half:]
            both = out @ xp.tanh(into @ a)
            s, t = xp.tanh(both[: d - half]), both[d - half :]
            x = xp.concatenate([a, b * xp.exp(s) + t])[order]
            total = total + s.sum()
        return x, total

    def autoregress(x: Any) -> tuple[Any, Any]:
        total: Any = 0.0
        for into, out, order in layers:
            both = out @ xp.tanh(into @ x)
            s = xp.tanh(both[:d])
            x = (x * xp.exp(s) + both[d:])[order]
            total = total + s.sum()
        return x, total

    return couple if name == "RealNVP" else autoregress


def measure_here(framework: str, name: str, d: int, way: str, seconds: float) -> dict[str, Any]:
    """In this process; JAX jitted, PyTorch as it comes."""
    point = np.random.default_rng(1).standard_normal(d)
    if framework == "jax":
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        jax.devices()
        both, x = flow(name, d, jnp, jnp.asarray), jnp.asarray(point)
    else:
        import torch

        torch.set_num_threads(1)
        both, x = flow(name, d, torch, torch.from_numpy), torch.from_numpy(point)
    f = lambda z: both(z)[0]
    if way == OURS:
        import crelle

        transform: Callable[[Any], Any] = crelle.slogdet(f)
    elif way == "closed form":
        transform = lambda z: (1.0, both(z)[1])
    elif framework == "jax":
        transform = lambda z: jnp.linalg.slogdet(jax.jacfwd(f)(z))
    else:
        transform = lambda z: torch.linalg.slogdet(torch.func.jacfwd(f)(z))
    if framework == "jax":
        jitted = jax.jit(transform)
        run = lambda: jax.block_until_ready(jitted(x))
    else:
        run = lambda: transform(x)
    start = time.perf_counter()
    found = float(run()[1])
    first = time.perf_counter() - start
    most = peak()
    run()
    expected = float(both(x)[1])
    timed = min((sample(run, seconds) for _ in range(5)), key=lambda one: one["cpu_seconds"])
    return {
        "seconds": timed["cpu_seconds"], "first": first, "peak": most, "d": d,
        "error": abs(found - expected) / max(1.0, abs(expected)),
    }  # fmt: skip


def probe(framework: str, name: str, d: int, way: str, small: bool) -> dict[str, Any]:
    """A fresh process, with the allocator as users have it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-m", "benchmarks.determinants", framework, name, str(d), way, "0" if small else "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr.strip()[-600:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@functools.cache
def measured(framework: str, name: str, small: bool) -> dict[str, dict[str, Any]]:
    """By way and size."""
    sizes = (8, 32) if small else (64, 1024, 4096)
    ways = [(OURS, d) for d in sizes]
    ways += [] if small else [("closed form", sizes[-1]), ("dense", sizes[0])]
    return {f"{way}, d = {d:,}": probe(framework, name, d, way, small) for way, d in ways}


def record(parts: Mapping[str, dict[str, Any]], value: float, unit: str) -> dict[str, Any]:
    """A measurement is right if every determinant of ours is."""
    mine = [part["error"] for name, part in parts.items() if name.startswith(OURS)]
    return {
        "quantity": {"value": value, "unit": unit},
        "parts": dict(parts),
        "agree": max(mine) <= TOLERANCE,
    }


def right(framework: str, name: str, small: bool) -> dict[str, Any]:
    """The largest error of any size, relative to the closed form or to one."""
    parts = measured(framework, name, small)
    return record(parts, max(part["error"] for way, part in parts.items() if way.startswith(OURS)), "")


def growth(framework: str, name: str, small: bool) -> dict[str, Any]:
    """Seconds of one evaluation at the largest d, in units of those at the d before it, times the ratio of both."""
    parts = measured(framework, name, small)
    *_, less, more = (part for way, part in parts.items() if way.startswith(OURS))
    return record(parts, more["seconds"] / less["seconds"] / (more["d"] / less["d"]), "× linear")


def tasks(modes: bool = False) -> list[Measurement]:
    """Both flows in both frameworks."""
    made = []
    for framework in ("jax", "torch"):
        for name in FLOWS:
            text = f"{framework}: log-determinant of {name}"
            few = (framework, name) in (("jax", "RealNVP"), ("torch", "MAF"))
            made.append(Measurement("determinant", text, functools.partial(right, framework, name), few))
            made.append(
                Measurement("determinant-growth", f"{text}, growth", functools.partial(growth, framework, name), few)
            )
    return made


if __name__ == "__main__":
    _framework, _name, _d, _way, _seconds = sys.argv[1:]
    print(json.dumps(measure_here(_framework, _name, int(_d), _way, float(_seconds))))
