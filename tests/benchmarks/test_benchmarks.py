"""The harness of the benchmarks: order, ratios, comparison of results, bars. No times are asserted."""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks import bars, harness, plot, problem, report, worker
from benchmarks.harness import Contestant, Effort, Timing

ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that the contestants move by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def contestant(self, name, seconds, log=None, **more):
        def run():
            self.now += seconds() if callable(seconds) else seconds
            if log is not None:
                log.append(name)
            return name

        return Contestant(name, run, **more)


EFFORT = Effort(rounds=6, most=6, seconds=0.0, sample=0.0)


def test_every_round_holds_each_contestant_once_in_an_order_drawn_anew():
    clock, log = Clock(), []
    timings, answers = harness.measure([clock.contestant(n, 1.0, log) for n in "abcd"], EFFORT, clock=clock)
    assert answers == {n: n for n in "abcd"}
    warm = 4 * 3  # a first call and two more to find the number of repeats
    rounds = [log[i : i + 4] for i in range(warm, len(log), 4)]
    assert [sorted(r) for r in rounds] == [list("abcd")] * 6
    assert any(a != b for a, b in pairwise(rounds))
    assert all(len(timings[n].seconds) == 6 for n in "abcd")


def test_the_order_is_that_of_the_seed():
    def order(seed):
        clock, log = Clock(), []
        harness.measure([clock.contestant(n, 1.0, log) for n in "abcd"], EFFORT, seed=seed, clock=clock)
        return log

    assert order(3) == order(3)
    assert order(3) != order(4)


def test_first_call_is_kept_apart_and_warm_up_left_out():
    clock = Clock()
    costs = iter([100.0, 50.0, 50.0])
    timings, _ = harness.measure([clock.contestant("a", lambda: next(costs, 2.0))], EFFORT, clock=clock)
    assert timings["a"].first == 100.0
    assert timings["a"].seconds == [2.0] * 6


def test_short_contestants_are_repeated_within_a_sample():
    clock = Clock()
    effort = Effort(rounds=3, most=3, seconds=0.0, sample=1.0)
    timings, _ = harness.measure([clock.contestant("a", 0.25), clock.contestant("b", 5.0)], effort, clock=clock)
    assert (timings["a"].repeats, timings["b"].repeats) == (4, 1)
    assert timings["a"].seconds == [0.25] * 3


def test_preparation_is_off_the_clock_and_before_every_sample():
    clock, prepared = Clock(), []

    def before():
        clock.now += 1000.0
        prepared.append(1)

    one = clock.contestant("a", 1.0, before=before)
    timings, _ = harness.measure([one], EFFORT, clock=clock)
    assert timings["a"].seconds == [1.0] * 6
    assert len(prepared) == 6 + 3


def test_rounds_end_with_the_time_but_not_before_the_least_number():
    clock = Clock()
    timings, _ = harness.measure([clock.contestant("a", 10.0)], Effort(4, 100, 55.0, 0.0), clock=clock)
    assert len(timings["a"].seconds) == 6
    timings, _ = harness.measure([clock.contestant("a", 10.0)], Effort(4, 100, 0.0, 0.0), clock=clock)
    assert len(timings["a"].seconds) == 4


def test_the_collector_rests_during_the_rounds_and_is_as_before_afterwards():
    clock, states = Clock(), []

    def run():
        states.append(gc.isenabled())
        clock.now += 1.0

    assert gc.isenabled()
    harness.measure([Contestant("a", run)], EFFORT, clock=clock)
    assert states == [True] * 3 + [False] * 6
    assert gc.isenabled()


def test_the_collector_comes_back_after_a_failure():
    clock = Clock()
    costs = iter([1.0] * 5)
    with pytest.raises(StopIteration):
        harness.measure([clock.contestant("a", lambda: next(costs))], EFFORT, clock=clock)
    assert gc.isenabled()


def test_summary_of_known_samples():
    s = harness.summarise(range(1, 102))
    assert (s.median, s.q1, s.q3) == (51.0, 26.0, 76.0)
    assert s.low <= 41 and s.high >= 61
    one = harness.summarise([3.0])
    assert (one.median, one.low, one.high) == (3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="no samples"):
        harness.summarise([])


def test_interval_holds_the_true_median_in_nineteen_of_twenty_runs():
    rng = np.random.default_rng(0)
    for count in (11, 40, 201):
        runs = [harness.summarise(rng.exponential(size=count)) for _ in range(600)]
        held = np.mean([s.low <= math.log(2) <= s.high for s in runs])
        assert held >= 0.93, count


def test_ratios_are_formed_within_rounds():
    """A machine that slows down tenfold on the way leaves the ratio alone; the ratio of medians would not."""
    drift = [1.0] * 6 + [10.0] * 5
    ours, theirs = [1.1 * d for d in drift], [1.0 * d for d in drift]
    ours[5] = 50.0  # one disturbed sample
    assert harness.summarise(harness.ratios(ours, theirs)).median == pytest.approx(1.1)
    with pytest.raises(ValueError):
        harness.ratios([1.0], [1.0, 2.0])


def test_the_best_peer_is_the_best_by_its_median():
    timings = {"a": Timing(0.0, 1, [1.0, 5.0, 5.0]), "b": Timing(0.0, 1, [4.0, 4.0, 4.0])}
    assert harness.best_of(["a", "b"], timings) == "b"


TREE = {"b": [np.ones((2, 3)), np.zeros(2)], "a": (np.arange(3.0),)}


def test_equal_results_of_any_framework_do_not_differ():
    assert harness.difference(TREE, TREE) == 0.0
    ones = np.ones((2, 3))
    assert harness.difference(jnp.ones((2, 3)), ones) == 0.0
    assert harness.difference(torch.ones(2, 3, requires_grad=True), ones) == 0.0
    assert harness.difference(np.zeros((0, 4)), np.zeros((0, 4))) == 0.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (np.array([1.0, 2.0 + 4e-12]), 2e-12),
        (np.array([1.0 + 1e-3, 2.0]), 5e-4),
        (np.array([[1.0, 2.0]]), math.inf),
        (np.array([1.0, np.nan]), math.inf),
        (np.array([1.0, np.inf]), math.inf),
        ([np.array([1.0, 2.0]), np.array(0.0)], math.inf),
    ],
    ids=["rounding", "wrong", "shape", "nan", "inf", "tree"],
)
def test_differences_are_found(answer, expected):
    assert harness.difference(answer, np.array([1.0, 2.0])) == pytest.approx(expected, rel=1e-3)


def test_a_wrong_entry_in_a_small_leaf_is_not_hidden_by_a_large_one():
    large, small = np.full(4, 1e9), np.array([1e-3])
    assert harness.difference([large, small * 1.1], [large, small]) == pytest.approx(0.1)


def test_tolerance_follows_the_precision():
    assert harness.tolerance(np.ones(2)) == harness.TOLERANCE == 1e-12
    single = harness.tolerance([np.ones(2), np.ones(2, np.float32)])
    assert single == pytest.approx(1e-12 * 2**29)


def test_contestants_that_answer_something_else_are_not_compared():
    contestants = [Contestant("f", int, compared=False), Contestant("crelle", int), Contestant("peer", int)]
    answers = {"f": np.zeros(7), "crelle": np.ones(2), "peer": np.ones(2)}
    assert harness.compare(answers, contestants, "peer") == {"crelle": 0.0}


def task(ours, peer=1.0):
    """A task whose contestants return numbers."""

    def build(small):
        contestants = [
            Contestant("f", lambda: 0, compared=False),
            Contestant("crelle", lambda: np.array([ours])),
            Contestant("crelle forward", lambda: np.array([1.0])),
            Contestant("peer", lambda: np.array([peer])),
        ]
        return problem.Problem(contestants, "f64[1] -> f64[1]", {"method": "dense forward"})

    return problem.Task("group", "task/f64", build)


def record_of(ours):
    found = worker.run_task(task(ours), EFFORT, smoke=True, fresh=None)
    return {"suite": "jax", "group": "group", "name": "task/f64", **found}


def test_a_run_says_whether_the_results_agree():
    good, bad = record_of(1.0), record_of(1.0 + 1e-9)
    assert good["agree"] and not bad["agree"]
    assert bad["errors"]["crelle"] == pytest.approx(1e-9, rel=1e-3)
    assert list(good["ratios"]) == ["peer"] and good["best_peer"] == "peer"
    assert good["result_bytes"] == 8
    json.dumps([good, bad])


def test_results_that_cannot_be_compared_are_written_down():
    found = worker.run_task(task(float("nan")), EFFORT, smoke=True, fresh=None)
    assert not found["agree"] and found["errors"]["crelle"] == "different shape or NaN"
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, True),
        ("mlp", True),
        ("jax-dense", True),
        ("jax-*/mlp*", True),
        ("mlp-*/f64", True),
        ("softmax", False),
        ("mlp-?/f64", False),
    ],
)
def test_only(pattern, expected):
    assert worker.wanted("mlp-input/f64", "jax-dense", pattern) is expected


def fake(group, ratio, name="task", **more):
    summary = {"median": ratio, "q1": ratio, "q3": ratio * 1.1, "low": ratio, "high": ratio}
    timing = {"median": 1e-3, "first": 1.0}
    return {
        "suite": "jax", "group": group, "name": name, "best_peer": "peer", "ratios": {"peer": summary},
        "extra_seconds": {"median": 1e-5}, "contestants": {"crelle": timing, "peer": timing}, "first_ratio": 1.0,
        "plan": {}, "agree": True, **more,
    }  # fmt: skip


def test_a_bar_is_judged_by_its_worst_task():
    bar = bars.Bar("dense", ("jax-*",), 1.05, "×", bars.best_ratio)
    records = [fake("jax-dense", 0.9, "a"), fake("jax-thin", 1.2, "b"), fake("torch", 9.0, "c")]
    (verdict,) = bars.judge(records, [bar])
    assert (verdict.worst, verdict.where, verdict.met, verdict.count, verdict.text) == (1.2, "b", 1, 2, "missed")
    (verdict,) = bars.judge(records[:1], [bar])
    assert verdict.text == "met"
    (verdict,) = bars.judge(records[2:], [bar])
    assert (verdict.worst, verdict.text) == (None, "not measured")


def test_failed_tasks_meet_no_bar_and_do_not_stop_the_report():
    failed = {"suite": "jax", "group": "jax-dense", "name": "task", "failed": "ValueError: no"}
    assert all(verdict.count == 0 for verdict in bars.judge([failed]))


def test_bars_against_named_peers_take_the_better_of_them():
    record = fake("torch-small-jacobian", 0.4)
    record["ratios"]["func.jacrev"] = {"median": 0.3}
    record["ratios"]["func.jacfwd"] = {"median": 0.2}
    assert bars.against(*bars.TORCH_FUNC)(record) == 0.3
    assert bars.best_ratio(record) == 0.4
    assert bars.extra_microseconds(record) == pytest.approx(10.0)
    assert bars.quantity({"quantity": {"value": 0.1, "unit": "s"}}) == 0.1


def test_every_bar_has_tasks_and_every_task_a_bar():
    """Names of groups are written in two places: here they meet."""
    tasks = [t for name in worker.SUITES.values() for t in importlib.import_module(name).tasks()]
    for one in tasks:
        assert any(bar.covers({"group": one.group}) for bar in bars.BARS), one.group
    for bar in bars.BARS:
        assert any(bar.covers({"group": one.group}) for one in tasks), bar.what
    names = [(one.group.split("-")[0], one.name) for one in tasks]
    assert len(set(names)) == len(names)


def test_report_and_picture_of_a_run(tmp_path):
    records = [
        fake("jax-dense", 0.9, "a/f64"),
        fake("jax-dense", 1.1, "a/f32"),
        fake("jax-dense", 1.0, "b/f64", agree=False),
        {"suite": "import", "group": "import", "name": "import crelle", "quantity": {"value": 0.1, "unit": "s"},
         "parts": {"crelle": {"median": 0.1}}},
        {"suite": "torch", "group": "torch", "name": "c/f64", "failed": "ValueError: no"},
    ]  # fmt: skip
    run = {
        "date": "today", "machine": {"processor": "p", "cores": 2, "load_before": "0", "load_after": "0"},
        "versions": {"crelle": "0", "python": "3", "numpy": "2"}, "clock": "wall", "smoke": False, "records": records,
    }  # fmt: skip
    text = report.text(run, bars.judge(records))
    lines = text.splitlines()
    assert any(line.startswith("b/f64") and line.endswith("WRONG RESULT") for line in lines)
    assert "c/f64: FAILED: ValueError: no" in lines
    dense = next(line for line in lines if line.startswith("JAX, jitted, dense"))
    assert "1.1 ×" in dense and "2/3" in dense and "missed" in dense and dense.endswith("a/f32")
    assert any(line.startswith("import crelle") and "met" in line for line in lines)
    assert "== bars" not in report.text({**run, "smoke": True}, [])
    assert plot.draw(records, "jax", tmp_path / "jax.png")
    assert (tmp_path / "jax.png").read_bytes().startswith(b"\x89PNG")
    assert not plot.draw(records, "torch", tmp_path / "torch.png")


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [False, True])
def test_the_command_compares_and_fails_on_a_wrong_result(tmp_path, wrong):
    """From the command line, one task; the second time the framework's function is made wrong."""
    program = "import sys\nfrom benchmarks.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('CRELLE_TEST_WRONG'):\n"
        "    import sys\n"
        "    if 'benchmarks.worker' in ' '.join(sys.orig_argv):\n"
        "        import jax\n"
        "        right = jax.jacrev\n"
        "        jax.jacrev = lambda f: (lambda x: right(f)(x) * (1 + 1e-9))\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}", "CRELLE_TEST_WRONG": "1" if wrong else ""}
    done = subprocess.run(
        [sys.executable, "-c", program, "--smoke", "--only", "softmax/f64", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == (1 if wrong else 0), done.stderr
    run = json.loads((tmp_path / "out" / "results.json").read_text())
    by_suite = {record["suite"]: record for record in run["records"]}
    assert by_suite["jax"]["agree"] is not wrong
    assert by_suite["torch"]["agree"]
    assert ("WRONG RESULT" in done.stdout) is wrong
    assert (tmp_path / "out" / "jax.png").exists()
