"""Colours and seconds of colourings: ``python -m benchmarks.coloring`` prints a table. Every colouring is verified."""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.problem import Measurement
from crelle import SparsityPattern, coloring

Make = Callable[[bool], SparsityPattern]
CROSS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def tridiagonal(small: bool) -> SparsityPattern:
    """Three diagonals, n = 10⁶."""
    n = 10**3 if small else 10**6
    i, d = np.meshgrid(np.arange(n), np.arange(-1, 2), indexing="ij")
    inside = (i + d >= 0) & (i + d < n)
    return SparsityPattern.from_triplets(i[inside], (i + d)[inside], (n, n))


def grid(length: int, periodic: bool, fields: int) -> SparsityPattern:
    """Five-point stencil on a square, and the other fields at the same point."""
    cells = np.arange(length**2).reshape(length, length)
    rows, cols = [], []
    for offset in CROSS:
        other = np.roll(cells, offset, (0, 1))
        inside = np.ones_like(cells, bool)
        if not periodic:
            for axis, step in enumerate(offset):
                edge = [slice(None)] * 2
                edge[axis] = slice(0, step) if step > 0 else slice(length + step, length)
                if step:
                    inside[tuple(edge)] = False
        for field in range(fields):
            rows.append(cells[inside] + field * cells.size)
            cols.append(other[inside] + field * cells.size)
    for a in range(fields):
        for b in range(fields):
            if a != b:
                rows.append(cells.ravel() + a * cells.size)
                cols.append(cells.ravel() + b * cells.size)
    size = cells.size * fields
    return SparsityPattern.from_triplets(np.concatenate(rows), np.concatenate(cols), (size, size))


def brusselator(length: int, small: bool) -> SparsityPattern:
    """Two fields on a periodic square: six entries a row."""
    return grid(min(length, 40 + length % 8) if small else length, True, 2)


def arrow(small: bool) -> SparsityPattern:
    """A dense row and a dense column."""
    k = np.arange(200 if small else 2000)
    entries = np.concatenate([k, k, 0 * k]), np.concatenate([k, 0 * k, k])
    return SparsityPattern.from_triplets(*entries, (k.size, k.size))


def scattered(small: bool) -> SparsityPattern:
    """Five entries a row at random places, and the diagonal; n = 10⁵."""
    n = 10**3 if small else 10**5
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.repeat(np.arange(n), 5), np.arange(n)])
    return SparsityPattern.from_triplets(rows, np.concatenate([rng.integers(0, n, 5 * n), np.arange(n)]), (n, n))


def mirrored(small: bool) -> SparsityPattern:
    """The same with its mirror image."""
    pattern = scattered(small)
    return pattern | pattern.T


#: Name, pattern, options; the bar is on those of 10⁶.
CASES: tuple[tuple[str, Make, dict[str, Any]], ...] = (
    ("tridiagonal, columns", tridiagonal, {"kind": "columns"}),
    ("tridiagonal, star", tridiagonal, {"kind": "symmetric"}),
    ("tridiagonal, acyclic", tridiagonal, {"kind": "symmetric", "substitution": True}),
    ("Brusselator 707², columns", functools.partial(brusselator, 707), {"kind": "columns"}),
    ("Brusselator 709², columns", functools.partial(brusselator, 709), {"kind": "columns"}),
    ("Brusselator 707², LF", functools.partial(brusselator, 707), {"kind": "columns", "orders": "largest-first"}),
    ("five points 1000², columns", lambda small: grid(30 if small else 1000, False, 1), {"kind": "columns"}),
    ("five points 1000², star", lambda small: grid(30 if small else 1000, False, 1), {"kind": "symmetric"}),
    ("random, columns", scattered, {"kind": "columns"}),
    ("random, star", mirrored, {"kind": "symmetric"}),
    ("random, acyclic", mirrored, {"kind": "symmetric", "substitution": True}),
    ("arrow, auto", arrow, {}),
)  # fmt: skip


def take(make: Make, options: Mapping[str, Any], small: bool) -> Mapping[str, Any]:
    """Seconds of the first colouring in this process, which loads compiled code, and the best of three later ones."""
    pattern = make(small)
    seconds = []
    for _ in range(2 if small else 4):
        start = time.perf_counter()
        made = coloring(pattern, **options)
        seconds.append(time.perf_counter() - start)
    return {
        "quantity": {"value": min(seconds[1:]), "unit": "s"},
        "parts": {"first": seconds[0], "later": seconds[1:]},
        "shape": "×".join(map(str, pattern.shape)),
        "plan": {"method": made.order, "passes": made.passes, "dense": made.dense_passes, "bound": made.lower_bound},
        "agree": made.verify(),
    }


COMPILE = """
import json, time, numpy, crelle, scipy.sparse, numba
from crelle.colorings import _compiled
numba.config.CACHE_DIR = ""
real, numba.njit = numba.njit, lambda function=None, **_: real(function)
from benchmarks.coloring import brusselator
start = time.perf_counter()
crelle.coloring(brusselator(41, False), "columns")
cold = time.perf_counter() - start
start = time.perf_counter()
crelle.coloring(brusselator(41, False), "columns")
print(json.dumps({"first": cold, "later": time.perf_counter() - start}))
"""


def compiling(small: bool) -> Mapping[str, Any]:
    """Seconds that compiling adds to the very first large colouring, in a fresh process that finds nothing on disk."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True)
    parts = json.loads(done.stdout)
    return {"quantity": {"value": parts["first"] - parts["later"], "unit": "s"}, "parts": parts, "agree": True}


def tasks(modes: bool = False) -> list[Measurement]:
    """One for each case, and the compiler."""
    cases = [Measurement("coloring", name, functools.partial(take, make, options)) for name, make, options in CASES]
    return [*cases, Measurement("compiling", "compiling the first colouring", compiling)]


def main() -> None:
    """A table of passes and seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coloring")
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    options = parser.parse_args()
    print(f"{'':<34}{'size':>19}{'passes':>8}{'bound':>7}{'dense':>10}{'first':>9}{'later':>9}  found by")
    for task in tasks():
        record = task.take(options.smoke)
        parts, plan = record["parts"], record.get("plan", {})
        counts = "".join(f"{plan.get(key, ''):>{width}}" for key, width in (("passes", 8), ("bound", 7), ("dense", 10)))
        times = f"{parts['first']:>7.3f} s{record['quantity']['value']:>7.3f} s"
        print(f"{task.name:<34}{record.get('shape', ''):>19}{counts}{times}  {plan.get('method', '')}", flush=True)


if __name__ == "__main__":
    main()
