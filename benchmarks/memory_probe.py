"""One measurement of memory, in a process of its own: ``python -m benchmarks.memory_probe FRAMEWORK CASE CONTESTANT``.

The peak is the kernel's high-water mark of the resident set, reset just before the run; what was resident before
(weights, inputs, libraries, compiled code) and the result are subtracted. Prints one JSON object.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import crelle

#: n, hidden width, m (0: a scalar, for a Hessian) and the budget of each case.
CASES = {"hessian": (4096, 512, 0, "32MB"), "jacobian": (2000, 1000, 10_000, "64MB")}
SMALL = {"hessian": (256, 32, 0, "400kB"), "jacobian": (100, 50, 500, "400kB")}


def resident() -> int:
    """Bytes of the resident set now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def high_water() -> int:
    """Largest resident set since the last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset() -> None:
    """Give freed memory back to the system, then forget the high-water mark."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak(run: Callable[[], Any], size: Callable[[Any], int]) -> tuple[int, Any]:
    """(bytes beyond what was there and the result, the result)."""
    reset()
    before = resident()
    answer = run()
    return max(0, high_water() - before - size(answer)), answer


def weights(n: int, hidden: int, m: int) -> tuple[Any, Any, Any]:
    """Point and matrices, as NumPy arrays."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((hidden, n)) / np.sqrt(n)
    return rng.standard_normal(n), first, rng.standard_normal((m, hidden)) / np.sqrt(hidden)


def jax_case(case: str, contestant: str, sizes: tuple[int, int, int, str]) -> dict[str, Any]:
    """Under ``jit``: compiled first, since the memory of the compiler is not what is asked for."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    n, hidden, m, budget = sizes
    x, u, v = map(jnp.asarray, weights(n, hidden, m))

    def f(z: Any) -> Any:
        h = jnp.tanh(u @ z)
        return jnp.tanh(v @ h) if m else jnp.sum(h * h) + jnp.sum(z**4) / 12

    transforms: dict[str, Callable[[], Any]] = {
        "crelle": lambda: (crelle.jacobian if m else crelle.hessian)(f, memory=budget),
        "jacfwd": lambda: jax.jacfwd(f),
        "jacrev": lambda: jax.jacrev(f),
        "jax.hessian": lambda: jax.hessian(f),
    }
    transform = transforms[contestant]()
    report: dict[str, Any] = {}
    if contestant == "crelle":
        plan = transform.plan(x)
        report |= {"method": plan.method, "estimate": plan.bytes, "budget": plan.memory}
    compiled = jax.jit(transform).lower(x).compile()
    report["xla_temporary"] = int(compiled.memory_analysis().temp_size_in_bytes)
    report["peak"], answer = peak(lambda: jax.block_until_ready(compiled(x)), lambda a: a.nbytes)
    start = time.perf_counter()
    jax.block_until_ready(compiled(x))
    report["seconds"] = time.perf_counter() - start
    direction = jnp.asarray(np.random.default_rng(1).standard_normal(n))
    target = f if m else jax.grad(f)
    expected = jax.jvp(target, (x,), (direction,))[1]
    report["error"] = float(jnp.max(jnp.abs(answer @ direction - expected)) / jnp.max(jnp.abs(expected)))
    return report


def torch_case(case: str, contestant: str, sizes: tuple[int, int, int, str]) -> dict[str, Any]:
    """Eager: the first call, which traces and checks, and a later one."""
    import torch

    torch.set_num_threads(1)
    n, hidden, m, budget = sizes
    x, u, v = (torch.from_numpy(a) for a in weights(n, hidden, m))

    def make(first: Any, second: Any) -> Callable[[Any], Any]:
        def f(z: Any) -> Any:
            h = torch.tanh(first @ z)
            return torch.tanh(second @ h) if m else (h * h).sum() + (z**4).sum() / 12

        return f

    transforms: dict[str, Callable[[Any, str], Any]] = {
        "crelle": lambda g, memory: (crelle.jacobian if m else crelle.hessian)(g, memory=memory),
        "func.jacfwd": lambda g, _: torch.func.jacfwd(g),
        "func.jacrev": lambda g, _: torch.func.jacrev(g),
        "func.hessian": lambda g, _: torch.func.hessian(g),
    }
    f = make(u, v)
    point, *matrices = (torch.from_numpy(a) for a in weights(3, 4, 5))
    tiny = make(*matrices)
    # what is loaded or set aside once in a process, by whoever needs it first: modules, the buffers of the BLAS
    u @ u.T
    transforms[contestant](tiny, "1MB")(point)
    if contestant == "crelle":
        (crelle.jacobian if m else crelle.hessian)(tiny, chunk=2)(point)
    transform = transforms[contestant](f, budget)
    report: dict[str, Any] = {}
    size = lambda a: a.numel() * a.element_size()
    report["first_peak"], answer = peak(lambda: transform(x), size)
    del answer
    report["peak"], answer = peak(lambda: transform(x), size)
    if contestant == "crelle":
        plan = transform.plan(x)
        report |= {"method": plan.method, "estimate": plan.bytes, "budget": plan.memory}
    start = time.perf_counter()
    transform(x)
    report["seconds"] = time.perf_counter() - start
    direction = torch.from_numpy(np.random.default_rng(1).standard_normal(n))
    target = f if m else torch.func.grad(f)
    expected = torch.func.jvp(target, (x,), (direction,))[1]
    report["error"] = float((answer @ direction - expected).abs().max() / expected.abs().max())
    return report


def main() -> None:
    """Measure and print."""
    framework, case, contestant, size = sys.argv[1:5]
    sizes = (SMALL if size == "small" else CASES)[case]
    report = (jax_case if framework == "jax" else torch_case)(case, contestant, sizes)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
