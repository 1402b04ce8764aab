"""What a benchmark is: a task that can be built small or full, and the problem it builds. Framework-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import Contestant

#: The contestant that the bars are about.
OURS = "crelle"


def mode_of(candidate: str) -> str:
    """The ``mode=`` that gives a candidate of a plan, which may also say what is coloured."""
    return "coloured" if candidate.startswith("coloured") else candidate


@dataclass(slots=True)
class Problem:
    """A task that was built: its contestants, and what its report says besides times.

    Attributes:
        contestants: ``OURS`` is one of them; those that are ``compared`` and not ours are the peers.
        shape: the question in words, ``f64[100] -> f64[100]``.
        plan: what Crelle chose, for the report: ``mode``, ``chunk``, ``method``.
        reference: whose answer is taken as right; the first peer if left out.
    """

    contestants: list[Contestant]
    shape: str
    plan: dict[str, Any] = field(default_factory=dict)
    reference: str = ""

    @property
    def peers(self) -> list[str]:
        """Names of the contestants that ours is measured against."""
        return [one.name for one in self.contestants if one.compared and not one.name.startswith(OURS)]


@dataclass(frozen=True, slots=True)
class Task:
    """A timed comparison.

    Attributes:
        group: the bar that it belongs to (``bars.py``).
        name: unique within a suite.
        build: makes the problem; its argument says whether the sizes are to be small.
        smoke: whether a smoke run takes it, too.
    """

    group: str
    name: str
    build: Callable[[bool], Problem]
    smoke: bool = True


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something other than a ratio of times: a quantity with its unit, and the numbers that it was made from."""

    group: str
    name: str
    take: Callable[[bool], Mapping[str, Any]]
    smoke: bool = True
