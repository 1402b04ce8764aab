"""Sparse derivatives: evaluation, from nothing to the first result, batches, exactness. Peers where they are installed.

Every way to the result is a process of its own (``sparse_probe``), which stays alive: the rounds go from one to the
other, in an order drawn anew. Peaks are those of processes that did nothing but the first call, with the allocator as
users have it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from benchmarks.harness import SMOKE, TOLERANCE, Effort, summarise
from benchmarks.problem import OURS, Measurement

EFFORT = Effort(rounds=11, most=41, seconds=6.0, sample=0.05)
#: Which of the two clocks of the processes counts; ``--cpu-time`` chooses the processor's.
CLOCK = "cpu_seconds" if os.environ.get("BENCHMARKS_CPU_TIME") else "seconds"
ASDEX = importlib.util.find_spec("asdex") is not None


class Way:
    """One way to the result, in a process of its own that answers line by line."""

    def __init__(self, framework: str, problem: str, n: int, name: str, *, calm: bool) -> None:
        self.name = name
        environment = dict(os.environ)
        if not calm:
            environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
        self.command = [sys.executable, "-m", "benchmarks.sparse_probe", framework, problem, str(n), name]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip

    def ready(self) -> None:
        """Wait until it has imported what it needs."""
        self._read()

    def ask(self, command: str) -> dict[str, Any]:
        """What it answers to one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.process.stderr.read().strip()[-600:]
            raise RuntimeError(f"{' '.join(self.command[3:])}: {said}")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Way:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def take_turns(framework: str, problem: str, n: int, names: Sequence[str], effort: Effort) -> dict[str, dict[str, Any]]:
    """By name: first call, samples of rounds in which each way took one, error of a random product."""
    with ExitStack() as stack:
        ways = [stack.enter_context(Way(framework, problem, n, name, calm=True)) for name in names]
        found: dict[str, dict[str, Any]] = {}
        for way in ways:
            way.ready()
        for way in ways:
            first = way.ask("first")
            for _ in range(2):  # some compile once more at the second call
                way.ask("sample 0")
            found[way.name] = {"first": first[CLOCK], "seconds": [], "repeats": 0}
        order, shuffle, start = list(ways), random.Random(0).shuffle, time.perf_counter()
        for done in range(effort.most):
            if done >= effort.rounds and time.perf_counter() - start > effort.seconds:
                break
            shuffle(order)
            for way in order:
                sample = way.ask(f"sample {effort.sample}")
                found[way.name]["seconds"].append(sample[CLOCK])
                found[way.name]["repeats"] = sample["repeats"]
        for way in ways:
            found[way.name] |= {"error": way.ask("check")["error"], **asdict(summarise(found[way.name]["seconds"]))}
    return found


def from_nothing(
    framework: str, problem: str, n: int, names: Sequence[str], times: int
) -> dict[str, list[dict[str, Any]]]:
    """By name: the first calls of so many fresh processes, in turns; of asdex, which takes a minute, once."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(times):
        for name in names if not turn else [name for name in names if name != "asdex"]:
            with Way(framework, problem, n, name, calm=False) as way:
                way.ready()
                found[name].append(way.ask("first") | way.ask("check"))
    return found


# -- evaluation


@functools.cache
def evaluation(problem: str, n: int, small: bool) -> dict[str, dict[str, Any]]:
    """All ways in JAX to one of the large matrices."""
    names = ["crelle", "crelle called", "crelle csr"]
    if ASDEX:
        names += ["asdex", "asdex csr"] if n <= 10**5 else ["asdex"]
    return take_turns("jax", problem, n, names, SMOKE if small else EFFORT)


def compared(found: Mapping[str, dict[str, Any]], ours: str, peers: Sequence[str], shape: str) -> dict[str, Any]:
    """A record like those of the timed tasks, or seconds alone without peers."""
    timings = {OURS: found[ours], **{name: found[name] for name in peers if name in found}}
    errors = {name: timing["error"] for name, timing in timings.items()}
    common = {
        "shape": shape, "contestants": timings, "errors": errors, "tolerance": TOLERANCE,
        "agree": all(error <= TOLERANCE for error in errors.values()),
    }  # fmt: skip
    present = [name for name in timings if name != OURS]
    if not present:
        value = {"value": timings[OURS]["median"], "unit": "s"}
        return {"quantity": value, "parts": {"peer": {"text": f"{', '.join(peers)}: not installed"}}, **common}
    mine, best = timings[OURS]["seconds"], min(present, key=lambda name: timings[name]["median"])
    ratios = {
        name: asdict(summarise([a / b for a, b in zip(mine, timings[name]["seconds"], strict=True)]))
        for name in present
    }
    extra = [a - b for a, b in zip(mine, timings[best]["seconds"], strict=True)]
    return {
        **common, "plan": {}, "best_peer": best, "ratios": ratios, "extra_seconds": asdict(summarise(extra)),
        "first_ratio": timings[OURS]["first"] / min(timings[name]["first"] for name in present),
    }  # fmt: skip


def evaluate(problem: str, n: int, ours: str, small: bool) -> dict[str, Any]:
    """BCOO from a jitted function, or from the transform as it is called, against jitted asdex."""
    n = 200 if small else n
    return compared(evaluation(problem, n, small), ours, ["asdex"], f"n = {n:,}")


def milliseconds(problem: str, n: int, ours: str, small: bool) -> dict[str, Any]:
    """The same without the peer."""
    n = 200 if small else n
    found = evaluation(problem, n, small)
    parts = {name: {"median": timing["median"]} for name, timing in found.items()}
    agree = found[ours]["error"] <= TOLERANCE
    return {"quantity": {"value": found[ours]["median"] * 1e3, "unit": "ms"}, "parts": parts, "agree": agree}


def to_csr(problem: str, n: int, small: bool) -> dict[str, Any]:
    """A SciPy matrix on the host in units of the jitted BCOO."""
    n = 200 if small else n
    found = evaluation(problem, n, small)
    pairs = {OURS: ("crelle csr", OURS), "asdex": ("asdex csr", "asdex")}
    parts = {
        name: statistics.median(
            a / b for a, b in zip(found[csr]["seconds"], found[bcoo]["seconds"], strict=True)
        )
        for name, (csr, bcoo) in pairs.items()
        if csr in found
    }  # fmt: skip
    return {
        "quantity": {"value": parts[OURS], "unit": "× BCOO"},
        "parts": {name: {"text": f"{value:.3g} × its own BCOO"} for name, value in parts.items()},
        "agree": found["crelle csr"]["error"] <= TOLERANCE,
    }


# -- from nothing


@dataclass(frozen=True, slots=True)
class Start:
    """A first result: of a large problem alone and beside asdex, or of a small one beside the framework's own."""

    framework: str
    problem: str
    n: int
    ours: str
    peers: tuple[str, ...] = ()


def start(one: Start, small: bool) -> dict[str, Any]:
    """Seconds of the first call, everything but the imports included, and the peak of the process."""
    large = one.n > 10**4
    n = 200 if small else one.n
    peers = tuple(name for name in one.peers if name != "asdex" or (ASDEX and not small))
    found = from_nothing(one.framework, one.problem, n, (one.ours, *peers), 1 if small else 3 if large else 5)
    parts = {
        name: {"seconds": statistics.median(call[CLOCK] for call in calls), "peak": max(c["peak"] for c in calls)}
        for name, calls in found.items()
    }
    seconds = parts[one.ours]["seconds"]
    agree = all(call["error"] <= TOLERANCE for calls in found.values() for call in calls)
    record: dict[str, Any] = {"parts": parts, "shape": f"n = {n:,}", "agree": agree}
    ratio = {"ratio": seconds / min(parts[name]["seconds"] for name in peers)} if peers else {}
    if large:
        return record | {"quantity": {"value": seconds, "unit": "s"}} | ratio
    return record | {"quantity": {"value": ratio["ratio"], "unit": "× dense"}}


# -- batches


def batched(framework: str, ours: str, peers: Sequence[str], small: bool) -> dict[str, Any]:
    """The network's Jacobian for 128 samples: as blocks, or all of it."""
    n = 8 if small else 128
    found = take_turns(framework, "network", n, [ours, *peers], SMOKE if small else EFFORT)
    return compared(found, ours, peers, f"B = {n}")


LARGE = ("brusselator", "burgers", "rosenbrock")


def tasks(modes: bool = False) -> list[Measurement]:
    """Every row of the table."""
    made: list[Measurement] = []

    def add(group: str, name: str, take: Any, *arguments: Any, smoke: bool = True) -> None:
        made.append(Measurement(f"sparse-{group}", name, functools.partial(take, *arguments), smoke))

    for n, short in ((10**5, "10⁵"), (10**6, "10⁶")):
        for problem in LARGE:
            group = {"brusselator": f"brusselator-{n}"}.get(problem, f"tridiagonal-{n}")
            for ours, how in (("crelle", "jitted"), ("crelle called", "called")):
                name = f"{problem}, n = {short}, {how}"
                few = problem == "rosenbrock"  # a smoke run shares one evaluation
                add(f"{group}-{how}", name, evaluate, problem, n, ours, smoke=few)
                if problem == "brusselator" and n == 10**6:
                    add(f"milliseconds-{how}", f"{name}, ms", milliseconds, problem, n, ours, smoke=False)
            add("csr", f"{problem}, n = {short}, CSR", to_csr, problem, n, smoke=few)
    for problem in LARGE:
        one = Start("jax", problem, 10**6, "crelle called", ("asdex",))
        add("first", f"{problem}, n = 10⁶, first result", start, one, smoke=problem == "brusselator")
    for problem in LARGE:
        jax, torch = ("jax.hessian", "func.hessian") if problem == "rosenbrock" else ("jacfwd", "jacfwd")
        for framework, how, ours, peer in (
            ("jax", "called", "crelle called", f"{jax} called"),
            ("jax", "jitted", "crelle", jax),
            ("torch", "called", "crelle", torch),
        ):
            name = f"{framework}: {problem}, n = 1000, first result, {how}"
            few = problem == "rosenbrock" and framework == "torch"
            add(f"first-small-{how}", name, start, Start(framework, problem, 1000, ours, (peer,)), smoke=few)
    for framework in ("jax", "torch"):
        add(
            "blocks",
            f"{framework}: network, blocks",
            batched,
            framework,
            "crelle blocks",
            ("vmap(jacrev)",),
            smoke=framework == "jax",
        )
        add(
            "batch-dense",
            f"{framework}: network, dense",
            batched,
            framework,
            "crelle dense",
            ("jacrev",),
            smoke=framework == "torch",
        )
    return made
