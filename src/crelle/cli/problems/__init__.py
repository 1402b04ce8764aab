"""The problems of the tour, one file a framework, imported only where the framework is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crelle.cli.frameworks import FRAMEWORKS

PRINTED = {"jax": "JAX", "torch": "PyTorch", "numpy": "NumPy"}


@dataclass(frozen=True, slots=True)
class Case:
    """A problem, built: a function, a point, and what to compare with.

    Attributes:
        f: the function.
        args: its arguments; the first is differentiated.
        exact: the right answer, as a tree like the one that Crelle returns: the framework's own dense result, or, for
            NumPy, which has none, a formula.
        natives: the framework's own ways to the answer by name, each a function of ``args``, compiled where it can be.
        keywords: of the transform, beside its defaults.
        remark: of the flat matrix, one sentence with a number that the reader can judge.
        analyze: run the rejected candidates too, and show what they take.
    """

    f: Callable[..., Any]
    args: tuple[Any, ...]
    exact: Callable[[], Any]
    natives: Mapping[str, Callable[..., Any]]
    keywords: dict[str, Any] = field(default_factory=dict)
    remark: Callable[[Any], str] | None = None
    analyze: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem by name.

    Attributes:
        kind: ``jacobian`` or ``hessian``.
        about: what it is, in one line.
        tolerance: bound on the relative error, largest difference over largest entry.
        build: makes the case.
    """

    name: str
    framework: str
    kind: str
    about: str
    tolerance: float
    build: Callable[[], Case]

    @property
    def printed(self) -> str:
        """The framework as its authors write it."""
        return PRINTED[self.framework]

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return f"{self.framework}-{self.name.lower().replace(' ', '-')}"


def of_framework(name: str) -> list[Problem]:
    """The problems in a framework, which is imported."""
    problems: list[Problem] = importlib.import_module(f"crelle.cli.problems.{name}").PROBLEMS
    return problems


def collect() -> tuple[list[Problem], list[str]]:
    """All problems whose framework is installed, and the names of the frameworks that are not."""
    missing = [name for name in FRAMEWORKS if importlib.util.find_spec(name) is None]
    return [p for name in FRAMEWORKS if name not in missing for p in of_framework(name)], missing
