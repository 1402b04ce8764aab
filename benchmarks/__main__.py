"""Run the benchmarks: ``python -m benchmarks``. Exit code 1 if a result is wrong or a task failed; never for a time."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bars import best_ratio, judge
from benchmarks.harness import Effort
from benchmarks.plot import PICTURES, draw
from benchmarks.report import text
from benchmarks.worker import SUITES

FORMAT = 1  # version of the JSON file

#: One thread wherever a library asks the environment. The allocator keeps what was freed: otherwise the time of a large
#: result is that of the kernel clearing pages, several times that of computing it, and hides what is compared.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def run_suite(suite: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The records of one suite as they come, from a worker process; its noise goes to stderr only if it fails."""
    command = [sys.executable, "-m", "benchmarks.worker", suite, "--seconds", str(options.seconds)]
    command += ["--only", options.only] if options.only else []
    command += [f"--{flag.replace('_', '-')}" for flag in ("smoke", "modes", "cpu_time") if getattr(options, flag)]
    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **ENVIRONMENT, "BENCHMARKS_CPU_TIME": "1" * options.cpu_time},
    )  # fmt: skip
    assert worker.stdout is not None and worker.stderr is not None
    with ThreadPoolExecutor(1) as reader:
        noise = reader.submit(worker.stderr.read)  # read alongside, or a full pipe would stop the worker
        for line in worker.stdout:
            yield json.loads(line)
        if worker.wait():
            tail = noise.result().strip()[-2000:]
            print(tail, file=sys.stderr)
            yield {
                "suite": suite, "group": suite, "name": suite,
                "failed": f"the worker ended with code {worker.returncode}: {tail.splitlines()[-1] if tail else ''}",
            }  # fmt: skip


def versions() -> dict[str, str]:
    """Of everything that is compared."""
    found = {"python": platform.python_version()}
    for name in ("crelle", "numpy", "jax", "jaxlib", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    if found["crelle"] == "not installed":  # run from a checkout
        import crelle

        found["crelle"] = crelle.__version__
    return found


def processor() -> str:
    """What the machine calls its processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def load() -> str:
    """One-minute load average."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def announce(record: Mapping[str, Any]) -> None:
    """One line of progress."""
    if "failed" in record:
        result = f"FAILED {record['failed'].splitlines()[0][:100]}"
    elif "quantity" in record:
        result = f"{record['quantity']['value']:.3g} {record['quantity']['unit']}"
    else:
        result = f"{best_ratio(record):.3f} × {record['best_peer']}"
    wrong = "" if record.get("agree", True) else "  WRONG RESULT"
    print(f"{record['suite']:<15}{record['name']:<42}{result}{wrong}", file=sys.stderr, flush=True)


def collect(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every suite, one after the other; a smoke run, whose times mean nothing, takes two at a time."""

    def one(suite: str) -> list[dict[str, Any]]:
        records = []
        for record in run_suite(suite, options):
            announce(record)
            records.append(record)
        return records

    with ThreadPoolExecutor(2 if options.smoke else 1) as pool:
        return [record for records in pool.map(one, SUITES) for record in records]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="small sizes, two rounds: do all tasks run, and agree?")
    parser.add_argument("--only", metavar="PATTERN", help="tasks whose group/name has a part that this matches")
    parser.add_argument("--out", type=Path, help="folder for results (default: benchmarks/results/DATE)")
    parser.add_argument(
        "--seconds", type=float, default=Effort().seconds, help="per task, once it has its least rounds"
    )
    parser.add_argument("--modes", action="store_true", help="also time each of Crelle's modes: was the choice right?")
    parser.add_argument("--cpu-time", action="store_true", help="measure processor time: for a machine that is busy")
    options = parser.parse_args(arguments)
    now = datetime.now(UTC)
    before, start = load(), time.perf_counter()
    records = collect(options)
    run = {
        "format": FORMAT,
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
            "load_before": before, "load_after": load(),
        },
        "versions": versions(),
        "environment": ENVIRONMENT,
        "clock": "processor" if options.cpu_time else "wall",
        "smoke": options.smoke,
        "only": options.only,
        "seconds": round(time.perf_counter() - start, 1),
        "records": records,
    }  # fmt: skip
    verdicts = judge(records)
    run["bars"] = [
        {"what": v.bar.what, "limit": v.bar.limit, "unit": v.bar.unit, "worst": v.worst, "where": v.where,
         "met": v.met, "tasks": v.count, "verdict": v.text}
        for v in verdicts
    ]  # fmt: skip
    folder = options.out or Path(__file__).parent / "results" / now.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    report = text(run, verdicts)
    (folder / "results.json").write_text(json.dumps(run) + "\n")
    (folder / "results.txt").write_text(report)
    pictures = [f"{name}.png" for name in PICTURES if draw(records, name, folder / f"{name}.png")]
    print(report)
    print(f"written to {folder}: results.json, results.txt{''.join(', ' + p for p in pictures)}")
    bad = [record["name"] for record in records if "failed" in record or not record.get("agree", True)]
    if not records:
        print(f"no task matches {options.only!r}", file=sys.stderr)
        return 1
    if bad:
        print(f"failed or wrong: {', '.join(bad)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
