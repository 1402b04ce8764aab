"""``crelle demo``: a tour of planned, run, checked and timed problems, with a table, figures and files at the end."""

from __future__ import annotations

import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import crelle
from crelle._arrays import seconds_text
from crelle._errors import CrelleError, CrelleValueError, describe
from crelle._plan import Plan
from crelle.backends import get_backend
from crelle.cli import frameworks, problems, show
from crelle.cli.exits import Code
from crelle.cli.problems import PRINTED, Case, Problem
from crelle.cli.progress import waiting

#: Seconds that the timing of one problem may take, all contestants together.
TIMING = 0.4

_TRANSFORMS = {"jacobian": crelle.jacobian, "hessian": crelle.hessian}

LEGEND = (
    "A pass pushes one direction through the linearised function (JVP), pulls one back (VJP), or does both (HVP); for "
    "NumPy it is one evaluation of the function. The fewer and the cheaper, the better.",
    "error: largest difference from the framework's own dense result (for NumPy, from a formula), relative to the "
    "largest entry. Below it, that of the fastest native call; for NumPy that is SciPy's approx_fprime.",
    "time: of one call of the plan, and relative to the fastest native call, both compiled before; below 1× Crelle is "
    "faster.",
)


@dataclass(slots=True)
class Outcome:
    """What came of one problem. ``failure`` is empty, or says why there is no result."""

    problem: Problem
    plan: Plan | None = None
    matrix: np.ndarray[Any, Any] | None = None
    error: float = float("nan")
    seconds: float = float("nan")
    natives: dict[str, float] = field(default_factory=dict)
    native_errors: dict[str, float] = field(default_factory=dict)
    remark: str = ""
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is a result, and it is the right one."""
        return not self.failure and self.error <= self.problem.tolerance

    @property
    def native(self) -> tuple[str, float]:
        """The fastest native way, and its seconds."""
        return min(self.natives.items(), key=lambda item: item[1])

    @property
    def ratio(self) -> float:
        """Time relative to the fastest native way."""
        return self.seconds / self.native[1]

    @property
    def instead(self) -> tuple[str, str]:
        """Mode and work of the cheapest candidate of another mode; one that was not even priced is still counted."""
        if self.plan is None or self.matrix is None:
            return "", ""
        for c in self.plan.rejected:
            if c.mode != self.plan.mode and c.passes >= 0:
                return c.mode, c.work
        rows, cols = self.matrix.shape
        other = {"forward": ("reverse", f"{rows:,} VJPs"), "reverse": ("forward", f"{cols:,} JVPs")}
        return other.get(self.plan.mode, ("", ""))

    def data(self) -> dict[str, Any]:
        """For ``summary.json``."""
        problem, plan, instead = self.problem, self.plan, self.instead
        head = {
            "problem": problem.name,
            "framework": problem.framework,
            "question": problem.kind,
            "about": problem.about,
        }
        if plan is None:
            return {**head, "ok": False, "failure": self.failure}
        return {
            **head,
            "ok": self.ok,
            "method": plan.method,
            "passes": plan.candidates[0].work,
            "instead_of": " ".join(instead),
            "checked": plan.checked,
            "error": self.error,
            "tolerance": problem.tolerance,
            "seconds": self.seconds,
            "native_seconds": self.natives,
            "native_errors": self.native_errors,
            "ratio": self.ratio,
            "remark": self.remark,
        }


def run(folder: Path, only: list[str]) -> None:
    """Take the tour.

    Args:
        folder: where figures and results go; made if it is not there.
        only: texts, one of which must be in the name or the framework of a problem; empty for all.
    """
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    with waiting("importing the frameworks"), frameworks.precision(True):
        chosen, missing = problems.collect()
    chosen = [p for p in chosen if not only or any(t.lower() in f"{p.framework} {p.name}".lower() for t in only)]
    if not chosen:
        raise CrelleValueError(
            describe(f"no problem has {' or '.join(map(repr, only))} in its name", try_="crelle demo")
        )
    here = sorted({p.framework for p in chosen}, key=frameworks.FRAMEWORKS.index)
    names = ", ".join(f"{PRINTED[name]} {get_backend(name).version}" for name in here)
    show.text(f"crelle {crelle.__version__} takes {len(chosen)} problems: {names}", style="bold")
    for name in missing:
        show.text(f'{PRINTED[name]} is not installed, its problems are skipped: pip install "crelle[{name}]"')
    outcomes = []
    for number, problem in enumerate(chosen, 1):
        show.text("")
        show.text(f"{number}. {problem.name} ({problem.printed}): {problem.about}", style="bold cyan")
        with waiting(f"{number} of {len(chosen)}: {problem.name}"), frameworks.precision(True):
            outcome = solve(problem)
        _tell(outcome)
        outcomes.append(outcome)
    show.text("")
    show.console().print(table(outcomes))
    for line in LEGEND:
        show.text(line, style="dim")
    show.text("")
    drawn = write(folder, outcomes)
    seconds = time.perf_counter() - start
    failed = [outcome.problem.name for outcome in outcomes if not outcome.ok]
    verdict = f"{len(failed)} of them failed: {', '.join(failed)}" if failed else "all answers are right"
    show.text(f"{len(outcomes)} problems in {seconds:.0f} s; {verdict}.", style="bold red" if failed else "bold green")
    show.text(f"{drawn} Results and summary are in {folder}.")
    if failed:
        raise typer.Exit(Code.CHECK_FAILED)


def solve(problem: Problem) -> Outcome:
    """Plan, run, check and time one problem; whatever goes wrong is part of the outcome."""
    outcome = Outcome(problem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of frameworks; Crelle's own end up in the plan
            _solve(problem.build(), outcome)
    except CrelleError as error:
        outcome.failure = str(error)
    except Exception as error:
        outcome.failure = "".join(traceback.format_exception_only(error)).strip()
    return outcome


def _solve(case: Case, outcome: Outcome) -> None:
    problem = outcome.problem
    transform = _TRANSFORMS[problem.kind](case.f, **case.keywords)
    planned = transform.plan(*case.args)
    answer = planned(*case.args)
    exact = case.exact()
    outcome.error = _error(answer, exact)
    outcome.matrix = _matrix(answer, planned)
    outcome.remark = case.remark(outcome.matrix) if case.remark else ""
    outcome.native_errors = {name: _error(way(*case.args), exact) for name, way in case.natives.items()}
    wait = get_backend(problem.framework).block_until_ready
    ways = {"": planned, **case.natives}
    times = measure({name: lambda way=way: wait(way(*case.args)) for name, way in ways.items()}, TIMING)  # type: ignore[misc]
    outcome.seconds = times.pop("")
    outcome.natives = times
    outcome.plan = transform.plan(*case.args, analyze=case.analyze)


def _matrix(answer: Any, plan: Plan) -> np.ndarray[Any, Any]:
    """The answer as one flat matrix; blocks of a tree are put side by side and below each other."""
    leaves = [frameworks.to_numpy(leaf) for _, leaf in show.named_leaves(answer)]
    cols = [t.size for t in plan.inputs]
    rows = cols if plan.kind == "hessian" else [t.size for t in plan.outputs]
    blocks = [leaf.reshape(rows[k // len(cols)], cols[k % len(cols)]) for k, leaf in enumerate(leaves)]
    return np.block([blocks[k : k + len(cols)] for k in range(0, len(blocks), len(cols))])


def _error(answer: Any, exact: Any) -> float:
    """Largest difference over largest entry, over all arrays of two trees of the same form."""
    mine, right = dict(show.named_leaves(answer)), dict(show.named_leaves(exact))
    if mine.keys() != right.keys():
        raise CrelleValueError(describe("the result is not the tree that the framework returns"))
    pairs = [(frameworks.to_numpy(mine[key]), frameworks.to_numpy(right[key])) for key in right]
    if any(a.shape != b.shape for a, b in pairs):
        raise CrelleValueError(describe("the result does not have the shapes that the framework returns"))
    scale = max(float(np.abs(b).max()) for _, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs) / scale


def measure(ways: dict[str, Callable[[], Any]], budget: float) -> dict[str, float]:
    """Median seconds of each way. They take turns, so that what disturbs the machine disturbs all of them.

    Each runs once before its time counts, and at least three times after, whatever the budget.
    """
    for way in ways.values():
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    start = time.perf_counter()
    while len(next(iter(times.values()))) < 3 or time.perf_counter() - start < budget:
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def _tell(outcome: Outcome) -> None:
    if outcome.plan is None:
        show.text(f"failed: {outcome.failure}", style="red")
        return
    ways = sorted(outcome.natives.items(), key=lambda item: item[1])
    against = ", ".join(f"{name} {seconds_text(seconds)}{_worse(outcome, name)}" for name, seconds in ways)
    verdict = "ok" if outcome.ok else "WRONG"
    rows = [
        f"  result    error {_error_text(outcome.error)}, within {outcome.problem.tolerance:.0e}: {verdict}",
        f"  time      {seconds_text(outcome.seconds)} against {against}",
    ]
    show.lines([*str(outcome.plan).splitlines(), *rows, *([f"  note      {outcome.remark}"] if outcome.remark else [])])


def _worse(outcome: Outcome, name: str) -> str:
    """The error of a native way, where it is far from that of Crelle."""
    error = outcome.native_errors[name]
    return f" with error {error:.0e}" if error > 1e-12 and error > 10 * outcome.error else ""


def table(outcomes: list[Outcome]) -> Table:
    """The table at the end: two lines a problem, so that it fits 80 columns."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    headers = (
        "problem\nframework",
        "question\nshape",
        "method chosen\npasses",
        "instead of\npasses",
        "error\nof native",
        "time\nvs native",
    )
    for i, header in enumerate(headers):
        made.add_column(header, justify="right" if i > 3 else "left")
    for i, outcome in enumerate(outcomes):
        problem, plan = outcome.problem, outcome.plan
        if i and problem.framework != outcomes[i - 1].problem.framework:
            made.add_section()
        head = Text.assemble((problem.name, "bold"), f"\n{problem.printed}")
        if plan is None or outcome.matrix is None:
            made.add_row(head, problem.kind, Text("failed", style="red"))
            continue
        made.add_row(
            head,
            f"{problem.kind}\n{' × '.join(f'{n:,}' for n in outcome.matrix.shape)}",
            _method(plan.mode, plan.candidates[0].work),
            _method(*outcome.instead),
            Text.assemble(
                (_error_text(outcome.error), "green" if outcome.ok else "bold red"),
                f"\n{_error_text(outcome.native_errors[outcome.native[0]])}",
            ),
            f"{seconds_text(outcome.seconds)}\n{outcome.ratio:.2g}×",
        )
    return made


def _error_text(error: float) -> str:
    return f"{error:.0e}" if error else "0"


def _method(mode: str, work: str) -> str:
    """``forward`` over ``4 JVPs``; spaces let a long name wrap."""
    return f"{mode.replace('-', ' ')}\n{work}"


def write(folder: Path, outcomes: list[Outcome]) -> str:
    """Write plans, matrices, the summary and the figures; returns a sentence on the figures."""
    for outcome in outcomes:
        place = folder / outcome.problem.slug
        if outcome.plan is None or outcome.matrix is None:
            for name in ("plan.json", "plan.txt", "matrix.npy"):  # of an earlier tour that went better
                (place / name).unlink(missing_ok=True)
        else:
            place.mkdir(exist_ok=True)
            outcome.plan.save(place / "plan.json")
            (place / "plan.txt").write_text(f"{outcome.plan}\n")
            np.save(place / "matrix.npy", outcome.matrix)
    (folder / "summary.json").write_text(show.as_json([outcome.data() for outcome in outcomes]))
    with (folder / "summary.txt").open("w") as file:
        Console(file=file, width=120, markup=False, no_color=True).print(table(outcomes), *LEGEND, sep="\n")
    try:
        from crelle.cli import pictures

        drawn = pictures.draw_all(folder, outcomes)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return 'matplotlib is not installed, so there are no figures: pip install "crelle[plot]".'
    return f"{len(drawn)} figure{'s' * (len(drawn) != 1)}: {', '.join(path.name for path in drawn)}."
