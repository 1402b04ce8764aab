"""One way to a sparse derivative in a process: ``python -m benchmarks.sparse_probe FRAMEWORK PROBLEM N WAY``.

It imports what it needs, says ``{}``, and answers each line it reads by a line of JSON: ``first`` makes the transform
and calls it once, ``sample SECONDS`` evaluates for that long, ``check`` compares a product with the framework's own.
A driver can so time several processes in turns.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.patterns import HESSIANS, jax_problem, torch_problem

Function = Callable[[Any], Any]
#: Widths of the network whose batch has N samples.
LAYERS = (32, 64, 64, 16)


def weights() -> list[np.ndarray[Any, Any]]:
    """Of the network, [out, in]."""
    rng = np.random.default_rng(3)
    return [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in itertools.pairwise(LAYERS)]


def batch(n: int) -> np.ndarray[Any, Any]:
    """Samples of the network."""
    return np.random.default_rng(4).standard_normal((n, LAYERS[0]))


class InJax:
    """The ways to a derivative in JAX; everything is waited for."""

    def __init__(self, problem: str, n: int) -> None:
        allowed = os.sched_getaffinity(0)  # XLA sizes its pools by the cores that it may use when it starts
        os.sched_setaffinity(0, {min(allowed)})
        import jax

        jax.config.update("jax_enable_x64", True)
        jax.devices()
        os.sched_setaffinity(0, allowed)
        import jax.numpy as jnp

        self.jax, self.hessian = jax, problem in HESSIANS
        if problem == "network":
            layers = [jnp.asarray(w) for w in weights()]

            def network(x: Any) -> Any:
                for w in layers[:-1]:
                    x = jnp.tanh(x @ w.T)
                return x @ layers[-1].T

            self.f, x = network, batch(n)
        else:
            self.f, x, _ = jax_problem(problem, n)
        self.x = jnp.asarray(x)

    def way(self, name: str) -> Callable[[], Any]:
        """What makes the transform and gives a function that calls it."""
        jax, f, x = self.jax, self.f, self.x
        if name.startswith("crelle"):
            import crelle

            kind: Any = crelle.hessian if self.hessian else crelle.jacobian
        if name.startswith("asdex"):
            import asdex

            found: Any = asdex.hessian if self.hessian else asdex.jacobian
        ways: dict[str, Callable[[], Function]] = {
            "crelle": lambda: jax.jit(kind(f, format="sparse")),
            "crelle called": lambda: kind(f, format="sparse"),
            "crelle csr": lambda: kind(f, format="csr"),
            "crelle blocks": lambda: jax.jit(kind(f, format="blocks")),
            "crelle dense": lambda: jax.jit(kind(f)),
            "asdex": lambda: jax.jit(found(f, x)),
            "asdex csr": lambda: found(f, x, output_format="scipy_csr"),
            "jacfwd": lambda: jax.jit(jax.jacfwd(f)),
            "jacfwd called": lambda: jax.jacfwd(f),
            "jacrev": lambda: jax.jit(jax.jacrev(f)),
            "jax.hessian": lambda: jax.jit(jax.hessian(f)),
            "jax.hessian called": lambda: jax.hessian(f),
            "vmap(jacrev)": lambda: jax.jit(jax.vmap(jax.jacrev(f))),
        }
        make = ways[name]

        def first() -> Any:
            transform = make()
            self.run = lambda: jax.block_until_ready(transform(x))
            return self.run()

        return first

    def product(self, v: Any) -> Any:
        """The framework's own JVP."""
        g = self.jax.grad(self.f) if self.hessian else self.f
        return np.asarray(self.jax.jvp(g, (self.x,), (v.reshape(self.x.shape),))[1])

    def apply(self, answer: Any, v: Any) -> Any:
        """The product of a result with a vector."""
        if hasattr(answer, "todense"):  # BCOO or SciPy's
            return np.asarray(answer @ v)
        return dense_product(np.asarray(answer), v, self.x.shape)


class InTorch:
    """The ways to a derivative in PyTorch, as they come."""

    def __init__(self, problem: str, n: int) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.hessian = torch, problem in HESSIANS
        if problem == "network":
            layers = [torch.from_numpy(w) for w in weights()]

            def network(x: Any) -> Any:
                for w in layers[:-1]:
                    x = torch.tanh(x @ w.T)
                return x @ layers[-1].T

            self.f, x = network, batch(n)
        else:
            self.f, x, _ = torch_problem(problem, n)
        self.x = torch.from_numpy(x)

    def way(self, name: str) -> Callable[[], Any]:
        """What makes the transform and gives a function that calls it."""
        func, f, x = self.torch.func, self.f, self.x
        if name.startswith("crelle"):
            import crelle

            kind: Any = crelle.hessian if self.hessian else crelle.jacobian
        ways: dict[str, Callable[[], Function]] = {
            "crelle": lambda: kind(f, format="sparse"),
            "crelle csr": lambda: kind(f, format="csr"),
            "crelle blocks": lambda: kind(f, format="blocks"),
            "crelle dense": lambda: kind(f),
            "jacfwd": lambda: func.jacfwd(f),
            "jacrev": lambda: func.jacrev(f),
            "func.hessian": lambda: func.hessian(f),
            "vmap(jacrev)": lambda: func.vmap(func.jacrev(f)),
        }
        make = ways[name]

        def first() -> Any:
            transform = make()
            self.run = lambda: transform(x)
            return self.run()

        return first

    def product(self, v: Any) -> Any:
        """The framework's own JVP."""
        func = self.torch.func
        g = func.grad(self.f) if self.hessian else self.f
        return func.jvp(g, (self.x,), (self.torch.from_numpy(v).reshape(self.x.shape),))[1].numpy()

    def apply(self, answer: Any, v: Any) -> Any:
        """The product of a result with a vector."""
        if hasattr(answer, "layout") and answer.layout != self.torch.strided:
            return (answer @ self.torch.from_numpy(v)).numpy()
        if not isinstance(answer, self.torch.Tensor):
            return answer @ v
        return dense_product(answer.detach().numpy(), v, tuple(self.x.shape))


def dense_product(answer: Any, v: Any, inputs: tuple[int, ...]) -> Any:
    """Of [*outputs, *inputs], or of blocks [B, m, n], with the raveled ``v``."""
    if answer.shape[answer.ndim - len(inputs) :] == inputs:
        return np.tensordot(answer, v.reshape(inputs), len(inputs))
    return np.einsum("bij,bj->bi", answer, v.reshape(len(answer), -1))


def peak() -> int:
    """Largest resident set of this process so far, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sample(run: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Evaluate for about this long; seconds of one evaluation."""
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while True:
        run()
        count += 1
        passed = time.perf_counter() - wall
        if passed >= seconds:
            return {"seconds": passed / count, "cpu_seconds": (time.process_time() - cpu) / count, "repeats": count}


def main() -> None:
    """Answer line by line."""
    framework, problem, n, name = sys.argv[1:5]
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    library = (InJax if framework == "jax" else InTorch)(problem, int(n))
    make = library.way(name)

    def say(found: dict[str, Any]) -> None:
        lines.write(json.dumps(found) + "\n")
        lines.flush()

    say({})
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "first":
            wall, cpu = time.perf_counter(), time.process_time()
            make()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            say({"seconds": wall, "cpu_seconds": cpu, "peak": peak()})
        elif command == "sample":
            say(sample(library.run, float(arguments[0])))
        else:
            v = np.random.default_rng(5).standard_normal(library.x.shape).ravel()
            mine = library.apply(library.run(), v).ravel()
            theirs = library.product(v).ravel()
            say({"error": float(np.abs(mine - theirs).max() / np.abs(theirs).max())})


if __name__ == "__main__":
    main()
