"""Was Crelle's own choice right? What both frameworks' tasks share. Framework-free."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.problem import OURS, Problem

#: Columns j with the same j mod k can be added up, in the problems where one sees this by hand.
BY_HAND = {"burgers": 3, "rosenbrock": 3}

#: Problem, n, n of a smoke run: asked for as sparse.
SPARSE = (
    ("burgers", 10**4, 50),
    ("brusselator", 10**4, 50),
    ("rosenbrock", 10**4, 50),
    ("arrow", 2000, 50),
    ("full", 30, 20),
)


#: What a smoke run takes: the others' functions are those of other suites.
SMOKE = ("three to two", "burgers-1000", "rosenbrock-300", "burgers-10000", "arrow-2000")


def alternatives(made: Problem) -> Problem:
    """The modes that were asked for one by one count as peers."""
    made.contestants = [replace(one, name=one.name.replace(f"{OURS} ", "mode ")) for one in made.contestants]
    return made
