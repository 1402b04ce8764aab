"""How long ``import crelle`` takes, in fresh processes, alternating with ``import numpy``, which it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.harness import summarise
from benchmarks.problem import Measurement

PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds_of(package: str) -> float:
    """Seconds of the import statement in a process of its own, start of the interpreter not included."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(package)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def take(small: bool) -> Mapping[str, Any]:
    """Medians of ten processes each; the first pair, which may read from the disk, is left out."""
    samples: dict[str, list[float]] = {"crelle": [], "numpy": []}
    for turn in range(2 if small else 11):
        for name, found in samples.items():
            seconds = seconds_of(name)
            if turn:
                found.append(seconds)
    return {
        "quantity": {"value": summarise(samples["crelle"]).median, "unit": "s"},
        "parts": {name: {**asdict(summarise(found)), "seconds": found} for name, found in samples.items()},
    }


def tasks(modes: bool = False) -> list[Measurement]:
    """The one measurement."""
    return [Measurement("import", "import crelle", take)]
