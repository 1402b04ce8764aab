"""Compiled loops and plain ones do the same, and small problems do not load the compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crelle import SparsityPattern
from crelle.colorings import _anneal, _recovery
from crelle.colorings._compiled import SMALL, is_plain
from crelle.colorings._conflicts import Conflicts
from crelle.colorings._orders import ORDERS, order_of
from crelle.colorings._symmetric import Graph
from tests.colorings.grids import CROSS, arrow, banded, brusselator, grid

SOURCE = Path(__file__).parents[2] / "src"


def patterns() -> dict[str, SparsityPattern]:
    rng = np.random.default_rng(0)
    return {
        "random": SparsityPattern.from_dense(rng.random((60, 80)) < 0.05),
        "denser": SparsityPattern.from_dense(rng.random((70, 50)) < 0.3),
        "many colours": SparsityPattern.from_dense(rng.random((150, 120)) < 0.7),
        "grid": grid((9, 9), CROSS),
        "arrow": arrow(90),
    }


@pytest.fixture(params=list(patterns()))
def pattern(request: Any) -> SparsityPattern:
    return patterns()[request.param]


def pairs(pattern: SparsityPattern, wanted: SparsityPattern | None) -> tuple[Conflicts, Conflicts]:
    """The same conflicts, for lists and for the compiler."""
    plain, fast = (Conflicts.of_columns(pattern, wanted) for _ in range(2))
    fast.__dict__["plain"] = False
    assert plain.plain and not fast.plain
    return plain, fast


@pytest.mark.parametrize("partial", [False, True])
def test_first_fit(pattern: SparsityPattern, partial: bool):
    keep = np.random.default_rng(1).random(pattern.nnz) < 0.5
    wanted = SparsityPattern.from_triplets(pattern.rows[keep], pattern.cols[keep], pattern.shape) if partial else None
    plain, fast = pairs(pattern, wanted)
    assert np.array_equal(plain.degrees, fast.degrees)
    for name in ORDERS:
        order = plain.order(name)
        assert sorted(order.tolist()) == list(range(plain.size))
        assert np.array_equal(order, fast.order(name))
        slow, count = plain.first_fit(order)
        quick, again = fast.first_fit(order)
        assert count == again and np.array_equal(slow, quick)
        assert plain.clashes(slow)[0] == fast.clashes(slow)[0] == 0
        wrong = slow // 2
        assert plain.clashes(wrong)[0] == fast.clashes(wrong)[0]
        assert np.array_equal(plain.clashes(wrong)[1], fast.clashes(wrong)[1])


def test_first_fit_with_tables_for_large_groups(monkeypatch: pytest.MonkeyPatch):
    """As for patterns with rows that are too long to be visited."""
    from crelle.colorings import _conflicts

    monkeypatch.setattr(_conflicts, "LARGE_GROUP", 10)
    monkeypatch.setattr(_conflicts, "WORD", 0)
    rng = np.random.default_rng(2)
    mask = rng.random((60, 70)) < np.linspace(0.02, 0.9, 60)[:, None]
    pattern = SparsityPattern.from_dense(mask)
    for wanted in (None, SparsityPattern.from_dense(mask & (rng.random(mask.shape) < 0.3))):
        plain, fast = pairs(pattern, wanted)
        for name in ("natural", "largest-first"):
            order = plain.order(name)
            assert np.array_equal(plain.first_fit(order)[0], fast.first_fit(order)[0])


def test_degrees_are_those_of_the_graph(pattern: SparsityPattern):
    conflicts = Conflicts.of_columns(pattern)
    dense = pattern.to_dense().astype(int)
    meet = (dense.T @ dense > 0)[np.ix_(conflicts.lines, conflicts.lines)]
    np.fill_diagonal(meet, False)
    assert np.array_equal(conflicts.degrees, meet.sum(axis=1))
    assert np.array_equal(conflicts.graph[1], np.nonzero(meet)[1])


def test_symmetric(pattern: SparsityPattern):
    square = SparsityPattern.from_dense(pattern.to_dense().T @ pattern.to_dense()) if pattern.nnz < 500 else arrow(40)
    plain, fast = Graph(square, square.shape[0]), Graph(square, square.shape[0])
    fast.__dict__["plain"] = False
    for name in ORDERS:
        order = order_of(name, plain.ptr, plain.adjacent, True)
        assert np.array_equal(order, order_of(name, plain.ptr, plain.adjacent, False))
        assert np.array_equal(plain.star(order)[0], fast.star(order)[0])
        assert np.array_equal(plain.acyclic(order)[0], fast.acyclic(order)[0])


def test_annealing():
    conflicts = Conflicts.of_columns(brusselator(9))
    ptr, adjacent = conflicts.graph
    start = conflicts.first_fit(np.arange(conflicts.size))[0]
    plain, fast = (_anneal.anneal(ptr, adjacent, start, 8, 20_000, 3, how) for how in (True, False))
    assert plain is not None and fast is not None
    assert np.array_equal(plain, fast)
    assert conflicts.clashes(plain)[0] == 0 and plain.max() < 8
    assert _anneal.anneal(ptr, adjacent, start, 5, 1000, 3, True) is None  # six entries a row


def test_elimination(monkeypatch: pytest.MonkeyPatch):
    pattern = banded(200, 1, 1)
    colors = (np.arange(200) % 2).astype(np.int32)
    gather, steps = _recovery.eliminate(pattern, colors)
    monkeypatch.setattr(_recovery, "is_plain", lambda *_: False)
    again, same = _recovery.eliminate(pattern, colors)
    assert np.array_equal(gather, again)
    assert all(np.array_equal(a, b) for a, b in zip(vars(steps).values(), vars(same).values(), strict=True))
    values = np.random.default_rng(0).integers(0, 1000, 400).astype(float)
    other, third = values.copy(), values.astype(object)
    steps.run(values)
    monkeypatch.setattr(_recovery, "FEW_STEPS", 0)
    steps.run(other)
    steps.run(third)
    assert np.array_equal(values, other) and np.array_equal(values, third.astype(float))


def test_what_is_small():
    assert is_plain(SMALL, SMALL, 1e12) and is_plain(10**9, 3, 10) and not is_plain(SMALL + 1, 3, 1e12)


def test_small_problems_do_not_load_the_compiler():
    program = (
        "import sys, numpy as np, crelle\n"
        "n = 1000\n"
        "J = np.zeros((n, n), bool)\n"
        "for d in (-30, -1, 0, 1, 30): J |= np.eye(n, k=d, dtype=bool)\n"
        "J[3] = J[:, 5] = True\n"
        "for kind in ('auto', 'columns', 'rows', 'both'): crelle.coloring(J, kind).verify()\n"
        "crelle.coloring(J | J.T, 'symmetric').verify()\n"
        "crelle.coloring(J | J.T, 'symmetric', substitution=True).verify()\n"
        "assert 'numba' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 0, done.stderr
