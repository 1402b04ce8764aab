"""Peak memory with ``memory=`` set, against the frameworks' unbounded functions, each in a process of its own."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import TOLERANCE
from benchmarks.problem import OURS, Measurement

PEERS = {
    ("jax", "hessian"): ("jax.hessian",),
    ("jax", "jacobian"): ("jacfwd", "jacrev"),
    ("torch", "hessian"): ("func.hessian",),
    ("torch", "jacobian"): ("func.jacfwd", "func.jacrev"),
}


def probe(framework: str, case: str, contestant: str, small: bool) -> dict[str, Any]:
    """Run ``memory_probe`` in a fresh process, whose allocator gives every large block back at once.

    By default glibc keeps blocks of up to 32 MB, and what it keeps would be counted as used.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory_probe",
        framework,
        case,
        contestant,
        "small" if small else "full",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 18)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr.strip()[-600:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def take(framework: str, case: str, small: bool) -> Mapping[str, Any]:
    """The bounded run and its peers; the quantity is the peak in units of the budget."""
    contestants = (OURS,) if small else (OURS, *PEERS[framework, case])
    parts = {name: probe(framework, case, name, small) for name in contestants}
    ours = parts[OURS]
    errors = {name: part["error"] for name, part in parts.items()}
    return {
        "quantity": {"value": max(ours["peak"], ours.get("first_peak", 0)) / ours["budget"], "unit": "× budget"},
        "parts": parts,
        "plan": {"method": ours["method"]},
        "reference": "a random product",
        "errors": errors,
        "tolerance": TOLERANCE,
        "agree": all(error <= TOLERANCE for error in errors.values()),
    }


def tasks(modes: bool = False) -> list[Measurement]:
    """Both frameworks, both cases."""
    names = {"hessian": "Hessian, n=4096", "jacobian": "Jacobian, 10,000 × 2,000"}
    return [
        Measurement("memory", f"{framework}: {names[case]}", functools.partial(take, framework, case))
        for framework, case in PEERS
    ]
