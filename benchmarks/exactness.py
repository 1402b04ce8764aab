"""Largest relative deviation of sparse results from the dense derivative: every format, both frameworks.

``python -m benchmarks.exactness FRAMEWORK SIZE`` prints deviations by problem and format as JSON.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.harness import TOLERANCE
from benchmarks.patterns import HESSIANS
from benchmarks.problem import Measurement
from benchmarks.sparse_probe import InJax, InTorch

Array = np.ndarray[Any, Any]

#: Problem, n (n samples of the network), formats that it has.
WHOLE = ("sparse", "csr", "csc", "coo", "triplets", "banded", "diagonal")
CASES: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("brusselator", 1000, WHOLE),
    ("burgers", 1000, WHOLE),
    ("rosenbrock", 1000, WHOLE),
    ("graph", 500, tuple(name for name in WHOLE if name != "banded")),
    ("network", 32, (*(name for name in WHOLE if name != "banded"), "blocks")),
)
ARROW = 1000


def arrow(xp: Any) -> Callable[[Any], Any]:
    """A dense row and a dense column: run from both sides."""
    return lambda x: xp.sin(x) * x[0] + (xp.arange(len(x)) == 0) * (x * x).sum()


def dense_of(answer: Any, name: str, expected: Array) -> tuple[Array, Array]:
    """(answer, what it should be) as dense arrays."""
    if name == "triplets":
        rows, cols, values = (np.asarray(part) for part in answer)
        found = np.zeros_like(expected)
        np.add.at(found, (rows, cols), values)
        return found, expected
    if name == "diagonal":
        return np.asarray(answer), np.diagonal(expected)
    if name == "banded":
        found = np.asarray(answer)
        upper = int(np.max(np.subtract(*np.nonzero(expected)[::-1])))
        shown = np.zeros_like(found)
        i, j = np.nonzero(expected)
        shown[upper + i - j, j] = expected[i, j]
        return found, shown
    if name == "blocks":
        found = np.asarray(answer)
        count, m, n = found.shape
        blocks = expected.reshape(count, m, count, n)
        return found, blocks[np.arange(count), :, np.arange(count), :]
    for method in ("todense", "to_dense", "toarray"):
        if hasattr(answer, method):
            return np.asarray(getattr(answer, method)()), expected
    raise TypeError(f"a result of type {type(answer).__name__}")


def deviation(found: Array, expected: Array) -> float:
    """max |a - b| / max |b|; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def measure_here(framework: str, small: bool) -> dict[str, dict[str, float]]:
    """In this process."""
    import crelle

    found: dict[str, dict[str, float]] = {}
    for problem, n, formats in (*CASES, ("arrow", ARROW, tuple(name for name in WHOLE if name != "banded"))):
        if (problem == "graph" and framework == "torch") or (small and problem in ("brusselator", "burgers", "graph")):
            continue
        n = max(4, n // 20) if small else n
        library: Any = (InJax if framework == "jax" else InTorch)("burgers" if problem == "arrow" else problem, n)
        f, x, hessian = library.f, library.x, problem in HESSIANS
        if framework == "jax":
            f = arrow(library.jax.numpy) if problem == "arrow" else f
            dense = (library.jax.hessian if hessian else library.jax.jacrev)(f)(x)
        else:
            f = arrow(library.torch) if problem == "arrow" else f
            dense = (library.torch.func.hessian if hessian else library.torch.func.jacrev)(f)(x).detach()
        expected = np.asarray(dense).reshape(-1, int(np.prod(x.shape)))
        kind = crelle.hessian if hessian else crelle.jacobian
        found[problem] = {
            name: deviation(*dense_of(kind(f, format=name)(x), name, expected)) for name in formats
        }  # fmt: skip
    return found


def take(framework: str, small: bool) -> Mapping[str, Any]:
    """Over all problems and formats, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.exactness", framework, "small" if small else "full"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr.strip()[-600:]}")
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    worst = max(error for errors in found.values() for error in errors.values())
    shown = lambda errors: ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    return {
        "quantity": {"value": worst, "unit": ""},
        "parts": {problem: {"text": shown(errors)} for problem, errors in found.items()},
        "errors": found,
        "agree": worst <= TOLERANCE,
    }


def tasks(modes: bool = False) -> list[Measurement]:
    """Both frameworks."""
    return [
        Measurement("sparse-exact", f"{framework}: every format", functools.partial(take, framework))
        for framework in ("jax", "torch")
    ]


if __name__ == "__main__":
    print(json.dumps(measure_here(sys.argv[1], sys.argv[2] == "small")))
