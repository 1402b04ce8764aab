"""Running a method: rounds from the residual as it is, until it is small, stagnates, or the budget is used up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from crelle.operators.solve._system import System, norm

#: Steps without progress after which a round ends, unless there are more unknowns.
_PATIENCE = 100
_PATIENCE_MOST = 1000
#: Rows that leave together where each number of rows is compiled.
_SELDOM = 8


@dataclass
class Watch:
    """What ends a round, and what a round tells.

    Attributes:
        to_host: brings a small array to the host.
        every: steps between tests.
        budget: products.
        epsilon, dtype: of the arithmetic.
        show: called with the norms of residuals.
    """

    to_host: Callable[[Any], Any]
    every: int
    budget: int
    epsilon: float
    dtype: str
    show: Callable[[Any], None]


@dataclass
class Round:
    """What a round found: the correction x, about ‖A‖ or 0, rows that went wrong, and whether it was interrupted."""

    x: Any
    scale: Any
    bad: Any
    partial: bool


class Recurrence(Protocol):
    """A method with a short recurrence: states are named tuples of arrays with a row for each system."""

    name: str

    def start(self, system: System, r: Any) -> Any: ...

    def step(self, system: System, s: Any) -> Any: ...

    @staticmethod
    def report(s: Any) -> Any: ...


class Method(Protocol):
    """A method that runs rounds."""

    name: str

    def run(self, system: System, r: Any, goal: Any, rtol: float, watch: Watch) -> Round: ...


class NonFinite(Exception):
    """A product was NaN or infinite; ``products`` were made by then."""

    def __init__(self, products: int) -> None:
        self.products = products


def finite(values: Any, watch: Watch, products: int) -> None:
    """Raise :class:`NonFinite` unless all are finite."""
    if not np.isfinite(values).all():
        raise NonFinite(products)


class Stepped:
    """Rounds of a short recurrence; rows that are done leave the block."""

    def __init__(self, recurrence: Recurrence) -> None:
        self.recurrence, self.name = recurrence, recurrence.name

    def run(self, system: System, r: Any, goal: Any, rtol: float, watch: Watch) -> Round:
        """From x = 0 until ‖r‖ ≤ goal or the measure of optimality ≤ rtol, row by row."""
        method, k = self.recurrence, len(r)
        rows, scale, bad, done = np.arange(k), np.zeros(k), np.zeros(k, bool), np.zeros(k, bool)
        left: list[tuple[Any, Any]] = []
        state, reported = method.start(system, r), system.vectors.compiled(type(method).report)
        best, since, patience = (
            np.full(k, np.inf),
            np.zeros(k, int),
            min(max(_PATIENCE, 2 * r.shape[1]), _PATIENCE_MOST),
        )
        steps, partial = 0, False
        # where functions are compiled, each number of rows is compiled anew
        least = _SELDOM if system.vectors.compiled(assembled) is not assembled else 1
        try:
            while not done.all():
                for _ in range(watch.every):
                    state = method.step(system, state)
                steps += watch.every
                report = np.asarray(watch.to_host(system.vectors.stack(reported(state))), float)
                active = ~done[rows]
                size, optimality, found, wrong = report
                finite(report[:, active], watch, system.products)
                scale[rows[active]], bad[rows[active]] = found[active], wrong[active] > 0
                better = size < 0.9 * best[rows]
                best[rows[better]], since[rows[better]] = size[better], steps
                watch.show(size)
                if system.products >= watch.budget:
                    break
                over = (size <= goal[rows]) | (optimality <= rtol) | (wrong > 0) | (steps - since[rows] > patience)
                done[rows[over]] = True
                over = done[rows]
                if not over.all() and over.sum() >= (least if least == 1 else max(least, len(rows) // 2)):
                    left.append((rows[over], state.x[np.flatnonzero(over)]))
                    rows, state = rows[~over], type(state)(*(part[np.flatnonzero(~over)] for part in state))
        except KeyboardInterrupt:
            partial = True
        left.append((rows, state.x))
        return Round(assembled(system, left), scale, bad, partial)


def assembled(system: System, parts: list[tuple[Any, Any]]) -> Any:
    """One block of the rows of several, in the order of their numbers."""
    parts = [part for part in parts if len(part[0])]
    if len(parts) == 1:
        return parts[0][1][np.argsort(parts[0][0])] if len(parts[0][0]) > 1 else parts[0][1]
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return system.vectors.concatenate([block for _, block in parts])[order]


@dataclass
class Outcome:
    """Where the rounds ended.

    Attributes:
        x: the solutions, row by row.
        residual, optimality: ‖r‖ / ‖b‖, and ‖Aᵀr‖ / (‖A‖ ‖r‖) for least squares, row by row.
        converged: row by row.
        bad: rows for which the matrix, or the preconditioner, is not what the method needs.
        stagnated: rows on which a round changed little.
        partial: it was interrupted.
        nonfinite: products that were made when NaN or infinity was found, or 0.
    """

    x: Any
    residual: Any
    optimality: Any
    converged: Any
    bad: Any
    stagnated: Any
    partial: bool = False
    nonfinite: int = 0
    notes: list[str] = field(default_factory=list)


def solved(method: Method, system: System, b: Any, x: Any, started: bool, rtol: float, watch: Watch) -> Outcome:
    """Rounds of a method until ‖b - A x‖ ≤ rtol ‖b‖, or, for least squares, Aᵀr is as small.

    Args:
        b, x: the right-hand sides and where to start; ``started``: x is not zero.
    """
    k = len(b)
    least = method.name == "lsmr"
    size_b = _norms(system, b, watch)
    result = Outcome(x, np.zeros(k), np.full(k, np.nan), size_b == 0, np.zeros(k, bool), np.zeros(k, bool))
    if (size_b == 0).any() and started:
        keep = np.flatnonzero(size_b > 0)
        result.x = x = assembled(system, [(keep, x[keep]), (np.flatnonzero(size_b == 0), (x * 0)[size_b == 0])])
    scale_b, start = np.where(size_b == 0, 1, size_b), x
    goal = rtol * size_b
    try:
        r = b - system.push(x) if started else b
        size = _norms(system, r, watch)
        finite(size, watch, system.products)
        result.residual = _norms(system, system.undamped(r), watch) / scale_b
        result.converged = result.converged | (size <= goal)
        while True:
            rows = np.flatnonzero(~(result.converged | result.bad | result.stagnated))
            if not len(rows) or system.products >= watch.budget:
                break
            part = r if len(rows) == k else r[rows]
            found = method.run(system, part, 0.9 * goal[rows], rtol, watch)
            new_x = (x if len(rows) == k else x[rows]) + found.x
            new_r = (b if len(rows) == k else b[rows]) - system.push(new_x)
            new = _norms(system, new_r, watch)
            finite(new, watch, system.products)
            if least:
                gradient = _norms(system, system.pull(new_r), watch)
                below = np.where((found.scale * new) == 0, 1, found.scale * new)
                result.optimality[rows] = gradient / below
                # the residual itself may be all rounding: its gradient is, too
                result.converged[rows] |= result.optimality[rows] <= rtol
            if found.partial and result.x is start and not (new < size[rows]).any():
                raise KeyboardInterrupt
            worse = new > size[rows]
            if method.name != "lsmr" and worse.any():  # rounding has taken over: keep what was better
                keep = np.flatnonzero(worse)
                new_x, new_r = _kept(system, worse, new_x, x[rows]), _kept(system, worse, new_r, r[rows])
                new[keep] = size[rows][keep]
            result.stagnated[rows] = new > 0.5 * size[rows]
            result.bad[rows] = found.bad
            x, r = _replaced(system, x, rows, new_x), _replaced(system, r, rows, new_r)
            size[rows] = new
            result.residual[rows] = _norms(system, system.undamped(new_r), watch) / scale_b[rows]
            result.converged[rows] |= new <= goal[rows]
            result.optimality[rows[new <= goal[rows]]] = np.nan
            result.x, result.partial = x, found.partial
            if found.partial:
                break
    except NonFinite as error:
        result.nonfinite = error.products
    except KeyboardInterrupt:
        if result.x is start and not started:
            raise
        result.partial = True
    return result


def _kept(system: System, worse: Any, new: Any, old: Any) -> Any:
    keep, change = np.flatnonzero(worse), np.flatnonzero(~worse)
    return assembled(system, [(keep, old[keep]), (change, new[change])])


def _replaced(system: System, block: Any, rows: Any, new: Any) -> Any:
    if len(rows) == len(block):
        return new
    others = np.setdiff1d(np.arange(len(block)), rows)
    return assembled(system, [(others, block[others]), (rows, new)])


def _norms(system: System, block: Any, watch: Watch) -> Any:
    return np.array(watch.to_host(system.vectors.compiled(norm)(block)), float)[:, 0]
