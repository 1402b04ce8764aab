"""Colours and seconds of colourings: ``python -m benchmarks.coloring`` prints a table. Every colouring is verified."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.problem import Measurement
from crelle import Coloring, SparsityPattern, coloring

Make = Callable[[bool], SparsityPattern]
Offsets = Sequence[tuple[int, ...]]

BOX = tuple(itertools.product((0, 1, -1), repeat=2))
CROSS = tuple(o for o in BOX if 0 in o)
BOX3 = tuple(itertools.product((0, 1, -1), repeat=3))
CROSS3 = tuple(o for o in BOX3 if o.count(0) >= 2)


def tridiagonal(small: bool) -> SparsityPattern:
    """Three diagonals, n = 10⁶."""
    n = 10**3 if small else 10**6
    i, d = np.meshgrid(np.arange(n), np.arange(-1, 2), indexing="ij")
    inside = (i + d >= 0) & (i + d < n)
    return SparsityPattern.from_triplets(i[inside], (i + d)[inside], (n, n))


def grid(lengths: tuple[int, ...], offsets: Offsets, periodic: bool, fields: int = 1) -> SparsityPattern:
    """A stencil at every point of a box, and the other fields at the same point."""
    cells = np.arange(np.prod(lengths)).reshape(lengths)
    rows, cols = [], []
    for offset in offsets:
        here, there = cells, np.roll(cells, [-step for step in offset], range(cells.ndim))
        if not periodic:
            inside = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(offset, lengths, strict=True))
            here, there = here[inside], there[inside]
        for one in range(fields):
            rows.append(here.ravel() + one * cells.size)
            cols.append(there.ravel() + one * cells.size)
    for a, b in itertools.permutations(range(fields), 2):
        rows.append(cells.ravel() + a * cells.size)
        cols.append(cells.ravel() + b * cells.size)
    size = cells.size * fields
    return SparsityPattern.from_triplets(np.concatenate(rows), np.concatenate(cols), (size, size))


def brusselator(length: int, small: bool) -> SparsityPattern:
    """Two fields on a periodic square: six entries a row."""
    side = min(length, 40 + length % 8) if small else length
    return grid((side, side), CROSS, True, 2)


def five_points(small: bool) -> SparsityPattern:
    """The five-point stencil on an open square, n = 10⁶."""
    side = 30 if small else 1000
    return grid((side, side), CROSS, False)


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
    ("five points 1000², columns", five_points, {"kind": "columns"}),
    ("five points 1000², star", five_points, {"kind": "symmetric"}),
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


@dataclass(frozen=True, slots=True)
class Count:
    """A bar on numbers of passes: the worst of some patterns.

    Attributes:
        patterns: by name; the argument says whether there are to be few.
        over: from the pattern and its coloring to what is held against the bar.
    """

    patterns: Callable[[bool], Mapping[str, Callable[[], SparsityPattern]]]
    over: Callable[[SparsityPattern, Coloring], int]
    options: Mapping[str, Any] = field(default_factory=dict)


def count(one: Count, small: bool) -> Mapping[str, Any]:
    """The largest value, and passes by pattern."""
    worst, parts, right = -sys.maxsize, {}, True
    for name, make in one.patterns(small).items():
        pattern = make()
        made = coloring(pattern, **one.options)
        value = one.over(pattern, made)
        worst, right = max(worst, value), right and made.verify()
        parts[name] = {"text": f"{made.passes} passes, {value} held against the bar; {made.order}"}
    return {"quantity": {"value": worst, "unit": "passes"}, "parts": parts, "agree": right}


STENCILS = {"5 points": (CROSS, 5), "9 points": (BOX, 3), "7 points": (CROSS3, 7), "27 points": (BOX3, 3)}
"""Offsets, and the number by which the lengths of a periodic grid that is as good as an open one can be divided."""


def brusselators(divisor: int, small: bool) -> dict[str, Callable[[], SparsityPattern]]:
    """Of lengths from 8 to 40 and a few larger ones."""
    lengths = (8, 11, 12) if small else (*range(8, 41), 50, 64, 71, 96, 127, 223)
    return {f"{n}²": functools.partial(brusselator, n, False) for n in lengths if n % divisor == 0}


def stencils(periodic: bool, divides: bool, small: bool) -> dict[str, Callable[[], SparsityPattern]]:
    """Grids whose lengths divide, or do not, of each stencil."""
    made: dict[str, Callable[[], SparsityPattern]] = {}
    for name, (offsets, divisor) in STENCILS.items():
        plane = len(offsets[0]) == 2
        lengths = (
            (7, 10, 13, 15, 20, 21, 22, 35, 50, 51, 64, 99, 100)
            if plane
            else (7, 8, 10, 11, 12, 13, 14, 16, 17, 20, 21)
        )
        for n in lengths[:4] if small else lengths:
            if not periodic or (n % divisor == 0) is divides:
                shape = (n,) * len(offsets[0])
                what = f"{name}, {'periodic ' if periodic else ''}{'×'.join(map(str, shape))}"
                made[what] = functools.partial(grid, shape, offsets, periodic)
    return made


def symmetric(small: bool) -> dict[str, Callable[[], SparsityPattern]]:
    """Everything above that is symmetric, and random patterns."""
    made = {**stencils(False, True, True), **stencils(True, True, small), **stencils(True, False, True)}
    return {**made, "random": lambda: mirrored(True), "tridiagonal": lambda: tridiagonal(small)}


def least_on_torus(pattern: SparsityPattern) -> int:
    """Passes that counting shows to be needed by all neighbours within a box, on a periodic grid.

    A colour holds at most ⌊L/3⌊L/3 ...⌋⌋ cells: layer by layer, three layers have at most what one of them may have.
    """
    points = int(pattern.row_counts[0])
    for offsets in (BOX, BOX3):
        if points == len(offsets):
            cells, length = 1, round(pattern.shape[0] ** (1 / len(offsets[0])))
            for _ in offsets[0]:
                cells = length * cells // 3
            return -(-pattern.shape[0] // cells)
    return points


def excess(pattern: SparsityPattern, made: Coloring) -> int:
    """Passes beyond the size of the stencil."""
    return made.passes - int(pattern.row_counts.max())


def beyond_counting(pattern: SparsityPattern, made: Coloring) -> int:
    """Passes beyond the size of the stencil plus three, or beyond what counting excludes if that is more."""
    return made.passes - max(int(pattern.row_counts.max()) + 3, least_on_torus(pattern))


def beyond_columns(pattern: SparsityPattern, made: Coloring) -> int:
    """Passes of a star colouring beyond those of columns."""
    return made.passes - coloring(pattern, "columns").passes


def all_passes(pattern: SparsityPattern, made: Coloring) -> int:
    """The number itself."""
    return made.passes


COLUMNS = {"kind": "columns"}
COUNTS = {
    "brusselator": ("Brusselators", Count(functools.partial(brusselators, 1), all_passes, COLUMNS)),
    "brusselator-6": ("Brusselators, divisible", Count(functools.partial(brusselators, 6), all_passes, COLUMNS)),
    "arrow": ("arrow of 2000", Count(lambda small: {"arrow": lambda: arrow(small)}, all_passes)),
    "stencil-open": ("open grids", Count(functools.partial(stencils, False, True), excess, COLUMNS)),
    "stencil-divides": ("periodic, divisible", Count(functools.partial(stencils, True, True), excess, COLUMNS)),
    "stencil-other": ("periodic, others", Count(functools.partial(stencils, True, False), beyond_counting, COLUMNS)),
    "star": ("star against columns", Count(symmetric, beyond_columns, {"kind": "symmetric"})),
}


def tasks(modes: bool = False) -> list[Measurement]:
    """One for each case, the compiler, and numbers of passes."""
    cases = [Measurement("coloring", name, functools.partial(take, make, options)) for name, make, options in CASES]
    counts = [
        Measurement(f"colors-{group}", name, functools.partial(count, one)) for group, (name, one) in COUNTS.items()
    ]
    return [*cases, Measurement("compiling", "compiling the first colouring", compiling), *counts]


def main() -> None:
    """A table of passes and seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coloring")
    parser.add_argument("--smoke", action="store_true", help="small sizes")
    options = parser.parse_args()
    print(f"{'':<34}{'size':>19}{'passes':>8}{'bound':>7}{'dense':>10}{'first':>9}{'later':>9}  found by")
    for task in tasks():
        record = task.take(options.smoke)
        if task.group.startswith("colors"):
            print(f"{task.name}: {record['quantity']['value']}")
            continue
        parts, plan = record["parts"], record.get("plan", {})
        counts = "".join(f"{plan.get(key, ''):>{width}}" for key, width in (("passes", 8), ("bound", 7), ("dense", 10)))
        times = f"{parts['first']:>7.3f} s{record['quantity']['value']:>7.3f} s"
        print(f"{task.name:<34}{record.get('shape', ''):>19}{counts}{times}  {plan.get('method', '')}", flush=True)


if __name__ == "__main__":
    main()
