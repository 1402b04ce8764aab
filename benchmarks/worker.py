"""One suite in a process of its own: ``python -m benchmarks.worker SUITE``. Prints a line of JSON for each task.

The process holds one framework, on one thread. XLA sizes its pools by the cores that it may use when it starts, so it
starts on one core; afterwards the scheduler may move the process.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.harness import (
    SMOKE,
    Contestant,
    Effort,
    Timing,
    best_of,
    compare,
    leaves,
    measure,
    ratios,
    summarise,
    tolerance,
)
from benchmarks.problem import OURS, Measurement, Task

SUITES = {
    "jax": "benchmarks.tasks_jax",
    "jax-overhead": "benchmarks.overhead_jax",
    "torch": "benchmarks.tasks_torch",
    "torch-overhead": "benchmarks.overhead_torch",
    "memory": "benchmarks.memory",
    "import": "benchmarks.importing",
    "coloring": "benchmarks.coloring",
    "patterns": "benchmarks.patterns",
    "sparse": "benchmarks.sparse",
    "exactness": "benchmarks.exactness",
    "determinants": "benchmarks.determinants",
    "jax-choices": "benchmarks.choices_jax",
    "torch-choices": "benchmarks.choices_torch",
    "jax-operators": "benchmarks.operators_jax",
    "torch-operators": "benchmarks.operators_torch",
    "torch-spectra": "benchmarks.spectra_torch",
}


def settle(suite: str) -> Any:
    """Fix the threads, import the framework; returns the function that forgets what it compiled, if there is one."""
    if suite.startswith("jax"):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        import jax

        jax.config.update("jax_enable_x64", True)
        jax.devices()
        os.sched_setaffinity(0, allowed)
        return jax.clear_caches
    if suite.startswith("torch"):
        import torch

        torch.set_num_threads(1)
        torch.set_num_interop_threads(1)
    return None


def run_task(
    task: Task, effort: Effort, smoke: bool, fresh: Any, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Build, measure, compare."""
    if fresh is not None:  # what an earlier task compiled is neither an advantage nor a burden
        fresh()
    problem = task.build(smoke)
    wall, cpu = time.perf_counter(), time.process_time()
    timings, answers = measure(problem.contestants, effort, clock=clock)
    busy = (time.process_time() - cpu) / max(time.perf_counter() - wall, 1e-9)
    reference = problem.reference or problem.peers[0]
    allowed = tolerance(answers[reference])
    errors = compare(answers, problem.contestants, reference)
    best = best_of(problem.peers, timings)
    ours = timings[OURS].seconds
    return {
        "shape": problem.shape,
        "plan": problem.plan,
        "result_bytes": sum(leaf.nbytes for leaf in leaves(answers[reference])),
        "contestants": {one.name: _timing(one, timings[one.name]) for one in problem.contestants},
        "best_peer": best,
        "ratios": {name: asdict(summarise(ratios(ours, timings[name].seconds))) for name in problem.peers},
        "extra_seconds": asdict(summarise([a - b for a, b in zip(ours, timings[best].seconds, strict=True)])),
        "first_ratio": timings[OURS].first / min(timings[name].first for name in problem.peers),
        "reference": reference,
        "errors": {name: error if math.isfinite(error) else "different shape or NaN" for name, error in errors.items()},
        "tolerance": allowed,
        "agree": all(error <= allowed for error in errors.values()),
        "cpu_per_wall": round(busy, 3),
    }


def _timing(one: Contestant, timing: Timing) -> dict[str, Any]:
    return {
        "first": timing.first,
        "repeats": timing.repeats,
        "compared": one.compared,
        **asdict(summarise(timing.seconds)),
        "seconds": timing.seconds,
    }


def wanted(name: str, group: str, pattern: str | None) -> bool:
    """Whether ``--only``, a shell pattern, matches a part of the task's ``group/name``."""
    return pattern is None or fnmatch.fnmatch(f"{group}/{name}", f"*{pattern}*")


def main() -> None:
    """Run the tasks of one suite; what they print goes to stderr, what they found to stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--only")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--modes", action="store_true")
    parser.add_argument("--seconds", type=float, default=Effort().seconds)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(record: Mapping[str, Any]) -> None:
        lines.write(json.dumps(record) + "\n")
        lines.flush()

    fresh = settle(options.suite)
    module = importlib.import_module(SUITES[options.suite])
    effort = SMOKE if options.smoke else Effort(seconds=options.seconds)
    for task in module.tasks(options.modes):
        if not wanted(task.name, task.group, options.only):
            continue
        if options.smoke and (not task.smoke or task.name.endswith("/f32")):
            continue
        record: dict[str, Any] = {"suite": options.suite, "group": task.group, "name": task.name}
        try:
            if isinstance(task, Measurement):
                record |= task.take(options.smoke)
            else:
                record |= run_task(task, effort, options.smoke, fresh, clock)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            record["failed"] = f"{type(error).__name__}: {error}"
        say(record)


if __name__ == "__main__":
    main()
