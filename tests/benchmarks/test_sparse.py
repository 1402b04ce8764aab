"""The benchmarks of sparse results: what is held against which bar; wrong results are seen. No times are asserted."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crelle
from benchmarks import bars, choices, coloring, exactness, problem, report, sparse
from benchmarks.harness import SMOKE, Contestant
from benchmarks.problem import OURS, Problem
from tests.colorings import grids

ROOT = Path(__file__).parents[2]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are started find the packages of this checkout."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))


def timed(*seconds: float, error: float = 1e-16, first: float = 1.0) -> dict[str, Any]:
    return {"first": first, "seconds": list(seconds), "repeats": 1, "median": sorted(seconds)[len(seconds) // 2],
            "error": error}  # fmt: skip


def test_ratios_are_those_of_rounds():
    found = {"mine": timed(1.0, 2.0, 40.0), "a": timed(2.0, 4.0, 80.0, first=4.0), "b": timed(9.0, 9.0, 9.0)}
    record = sparse.compared(found, "mine", ["a", "b", "absent"], "n = 3")
    assert record["best_peer"] == "a" and record["agree"]
    assert record["ratios"]["a"]["median"] == 0.5 and set(record["ratios"]) == {"a", "b"}
    assert record["first_ratio"] == 1.0
    assert record["contestants"][OURS] is found["mine"]
    assert bars.best_ratio(record) == 0.5 and bars.against("b")(record) == pytest.approx(2 / 9)


@pytest.mark.parametrize("wrong", ["mine", "a"])
def test_a_product_that_is_off_is_a_wrong_result(wrong: str):
    found = {name: timed(1.0, error=1e-9 if name == wrong else 1e-16) for name in ("mine", "a")}
    assert not sparse.compared(found, "mine", ["a"], "")["agree"]


def test_peers_that_are_not_installed_are_said_to_be_absent():
    record = sparse.compared({"mine": timed(0.5)}, "mine", ["asdex"], "")
    assert record["quantity"] == {"value": 0.5, "unit": "s"}
    assert bars.against("asdex")(record) is None
    lines = report.quantity_rows([{"name": "task", **record}])
    assert any("asdex: not installed" in line for line in lines)


def test_csr_is_held_against_the_bcoo_of_the_same_round(monkeypatch: pytest.MonkeyPatch):
    found = {"crelle": timed(1.0, 10.0), "crelle csr": timed(1.5, 15.0), "asdex": timed(1.0, 1.0)}
    monkeypatch.setattr(sparse, "evaluation", lambda problem, n, small: found)
    record = sparse.to_csr("burgers", 10, False)
    assert record["quantity"] == {"value": 1.5, "unit": "× BCOO"}
    assert list(record["parts"]) == [OURS]


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_ways_take_turns_and_their_results_are_checked():
    found = sparse.take_turns("jax", "rosenbrock", 40, ["crelle", "crelle csr", "jax.hessian"], SMOKE)
    assert list(found) == ["crelle", "crelle csr", "jax.hessian"]
    for timing in found.values():
        assert len(timing["seconds"]) == 2 and timing["error"] < 1e-12 and timing["first"] > 0
    blocks = sparse.take_turns("torch", "network", 3, ["crelle blocks", "jacrev"], SMOKE)
    assert all(timing["error"] < 1e-12 for timing in blocks.values())


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_a_way_that_fails_says_which_and_why():
    with pytest.raises(RuntimeError, match=r"(?s)torch burgers 40 nonsense.*KeyError"):
        sparse.take_turns("torch", "burgers", 40, ["nonsense"], SMOKE)


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_a_first_result_comes_with_its_peak():
    (call,) = sparse.from_nothing("torch", "burgers", 40, ["crelle"], 1)["crelle"]
    assert call["peak"] > 10**7 and call["error"] < 1e-12


# -- exactness


def banded() -> np.ndarray:
    i, j = np.indices((6, 6))
    return np.where(abs(i - j) <= 1, 1.0 + i + 2 * j, 0.0)


def stored(name: str, dense: np.ndarray) -> Any:
    i, j = np.nonzero(dense)
    if name == "triplets":
        return i, j, dense[i, j]
    if name == "diagonal":
        return dense.diagonal().copy()
    if name == "banded":
        found = np.zeros((3, 6))
        found[1 + i - j, j] = dense[i, j]
        return found
    if name == "blocks":
        return np.stack([dense[k : k + 2, k : k + 2] for k in (0, 2, 4)])
    import scipy.sparse as sp

    return sp.csr_array(dense)


@pytest.mark.parametrize("name", ["csr", "triplets", "diagonal", "banded", "blocks"])
def test_a_wrong_entry_shows_in_every_format(name: str):
    expected = banded()
    if name == "blocks":
        expected = np.kron(np.eye(3), np.array([[1.0, 2.0], [3.0, 4.0]]))
    right = exactness.deviation(*exactness.dense_of(stored(name, expected), name, expected))
    assert right == 0.0
    wrong = expected.copy()
    wrong[0, 0] *= 1 + 1e-6
    off = exactness.deviation(*exactness.dense_of(stored(name, wrong), name, expected))
    assert off == pytest.approx(1e-6 * expected[0, 0] / abs(expected).max(), rel=1e-3)


def test_other_shapes_are_infinitely_off_and_other_types_refused():
    assert exactness.deviation(np.ones(3), np.ones(4)) == math.inf
    with pytest.raises(TypeError, match="list"):
        exactness.dense_of([1.0], "csr", np.eye(1))


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_every_format_is_looked_at(framework: str):
    record = exactness.take(framework, True)
    formats = {name for errors in record["errors"].values() for name in errors}
    assert formats == {"sparse", "csr", "csc", "coo", "triplets", "banded", "diagonal", "blocks"}
    assert record["agree"] and record["quantity"]["value"] <= 1e-12


# -- passes


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("name", coloring.STENCILS)
def test_grids_are_those_of_the_tests_of_colourings(name: str, periodic: bool):
    offsets, _ = coloring.STENCILS[name]
    lengths = (5, 4) if len(offsets[0]) == 2 else (4, 3, 5)
    assert coloring.grid(lengths, offsets, periodic) == grids.grid(lengths, offsets, periodic=periodic)
    assert coloring.brusselator(9, False) == grids.brusselator(9)


def test_counting_bounds():
    """On a 7 × 7 torus four cells are three apart: thirteen colours are needed, and they are found."""
    nine = grids.grid((7, 7), grids.BOX, periodic=True)
    assert coloring.least_on_torus(nine) == 13 == crelle.coloring(nine, "columns").passes
    assert coloring.least_on_torus(grids.grid((4, 4, 4), grids.BOX3, periodic=True)) == 64
    assert coloring.least_on_torus(grids.grid((6, 6, 6), grids.BOX3, periodic=True)) == 27
    assert coloring.least_on_torus(grids.grid((7, 7), grids.CROSS, periodic=True)) == 5


def test_the_worst_pattern_is_held_against_the_bar():
    patterns = {"three": lambda: grids.banded(9, 1, 1), "five": lambda: grids.banded(9, 2, 2)}
    record = coloring.count(coloring.Count(lambda small: patterns, coloring.all_passes), True)
    assert record["quantity"] == {"value": 5, "unit": "passes"} and record["agree"]
    assert record["parts"]["three"]["text"].startswith("3 passes")
    assert coloring.excess(grids.banded(9, 2, 2), crelle.coloring(grids.banded(9, 2, 2))) == 0


# -- choices and means


def test_modes_that_were_asked_for_are_peers():
    made = choices.alternatives(Problem([Contestant(name, int) for name in (OURS, "crelle forward", "jacrev")], ""))
    assert made.peers == ["mode forward", "jacrev"]


def test_a_bar_on_the_mean_takes_the_geometric_one():
    def record(ratio: float) -> dict[str, Any]:
        return {"group": "choice-x", "name": f"{ratio}", "best_peer": "p", "ratios": {"p": {"median": ratio}}}

    records = [record(0.5), record(2.0), record(8.0)]
    mean = bars.Bar("mean", ("choice-*",), 2.0, "×", bars.best_ratio, mean=True)
    worst = bars.Bar("worst", ("choice-*",), 2.0, "×", bars.best_ratio)
    of_mean, of_worst = bars.judge(records, [mean, worst])
    assert of_mean.worst == pytest.approx(2.0) and (of_mean.count, of_mean.where) == (1, "mean of 3 tasks")
    assert (of_worst.worst, of_worst.text) == (8.0, "missed")
    (nothing,) = bars.judge([], [mean])
    assert nothing.text == "not measured"


def test_a_win_does_not_pay_for_a_loss():
    def regret(ratio: float) -> float | None:
        return bars.regret({"best_peer": "p", "ratios": {"p": {"median": ratio}}})

    assert (regret(0.1), regret(1.3), bars.regret({"quantity": {}})) == (1.0, 1.3, None)


def test_candidates_of_plans_are_asked_for_by_their_mode():
    assert [problem.mode_of(name) for name in ("forward", "coloured columns")] == ["forward", "coloured"]
