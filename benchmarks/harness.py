"""How contestants are timed and compared: interleaved, garbage collector off, ratios per round. Framework-free.

Machines drift (clocks, neighbours, caches), so times of two contestants taken one after the other say little. Here each
round times every contestant once, in an order drawn anew, and a ratio is formed inside a round, where the drift is
common to both. What is reported is the median of these ratios.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Relative error that two results in float64 may have; other precisions are allowed the same number of units.
TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to compute the answer.

    Attributes:
        name: as printed.
        run: computes the answer once and returns it when it is there (asynchronous work is waited for).
        before: runs ahead of every sample, off the clock.
        compared: whether the answer must equal the reference's; the plain function is timed but answers something else.
    """

    name: str
    run: Callable[[], Any]
    before: Callable[[], None] | None = None
    compared: bool = True


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: least number of rounds; ``most`` the largest.
        seconds: no further round is begun after this time, once ``rounds`` are done.
        sample: one sample repeats a contestant until it takes about this long, so that the clock's grain is no matter.
    """

    rounds: int = 11
    most: int = 201
    seconds: float = 3.0
    sample: float = 1e-3


SMOKE = Effort(rounds=2, most=2, seconds=0.0, sample=0.0)


@dataclass(slots=True)
class Timing:
    """The samples of one contestant: seconds of one evaluation, one entry per round."""

    first: float
    repeats: int
    seconds: list[float] = field(default_factory=list)


def measure(
    contestants: Sequence[Contestant],
    effort: Effort,
    *,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """Time all contestants, interleaved.

    Args:
        seed: of the order of the contestants within the rounds.

    Returns:
        The samples by name, and the answer each gave in its first call.
    """
    timings: dict[str, Timing] = {}
    answers: dict[str, Any] = {}
    for one in contestants:
        if one.before is not None:
            one.before()
        start = clock()
        answers[one.name] = one.run()
        first = clock() - start
        once = min(_sample(one, 1, clock) for _ in range(2))
        repeats = 1 if one.before is not None else max(1, min(1000, math.ceil(effort.sample / max(once, 1e-7))))
        timings[one.name] = Timing(first, repeats)
    order = list(contestants)
    shuffle = random.Random(seed).shuffle
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        for done in range(effort.most):
            if done >= effort.rounds and clock() - start > effort.seconds:
                break
            shuffle(order)
            for one in order:
                timing = timings[one.name]
                timing.seconds.append(_sample(one, timing.repeats, clock))
    finally:
        if collecting:
            gc.enable()
    return timings, answers


def _sample(one: Contestant, repeats: int, clock: Callable[[], float]) -> float:
    if one.before is not None:
        one.before()
    run = one.run
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and quartiles of some samples, and an interval that holds the true median in 19 of 20 runs."""

    median: float
    q1: float
    q3: float
    low: float
    high: float


def summarise(samples: Sequence[float]) -> Summary:
    """Quartiles, and the distribution-free interval for the median from the order statistics."""
    ordered = np.sort(np.asarray(samples, dtype=float))
    count = len(ordered)
    if not count:
        raise ValueError("no samples")
    reach = 0.98 * math.sqrt(count)  # 1.96 standard deviations of a binomial with p = 1/2
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach) - 1)
    q1, median, q3 = np.percentile(ordered, [25, 50, 75])
    return Summary(float(median), float(q1), float(q3), float(ordered[low]), float(ordered[high]))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """ours / theirs, round by round: below 1, ours is faster."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def best_of(names: Sequence[str], timings: Mapping[str, Timing]) -> str:
    """The contestant with the least median; one for all rounds: the least of each round would favour noise."""
    return min(names, key=lambda name: summarise(timings[name].seconds).median)


def leaves(answer: Any) -> list[np.ndarray[Any, Any]]:
    """The arrays of a tree of any framework, as NumPy arrays, dictionaries by sorted keys."""
    if isinstance(answer, Mapping):
        return [leaf for key in sorted(answer) for leaf in leaves(answer[key])]
    if isinstance(answer, (list, tuple)):
        return [leaf for item in answer for leaf in leaves(item)]
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    return [np.asarray(answer)]


def tolerance(reference: Any) -> float:
    """``TOLERANCE`` in float64; as many units in the last place in the least precise dtype of the reference."""
    kinds = [leaf.dtype for leaf in leaves(reference) if leaf.dtype.kind in "fc"]
    coarse = max((float(np.finfo(kind).eps) for kind in kinds), default=2.0**-52)
    return TOLERANCE * coarse / 2.0**-52


def difference(answer: Any, reference: Any) -> float:
    """Largest relative difference of two trees: per leaf max |a - b| / max |b|; infinite if the shapes differ."""
    mine, theirs = leaves(answer), leaves(reference)
    if [leaf.shape for leaf in mine] != [leaf.shape for leaf in theirs]:
        return math.inf
    worst = 0.0
    for a, b in zip(mine, theirs, strict=True):
        if not b.size:
            continue
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return math.inf
        finite = np.isfinite(b)
        gap = float(np.max(np.abs(a - b), where=finite, initial=0.0))
        scale = float(np.max(np.abs(b), where=finite, initial=0.0))
        worst = max(worst, gap / scale if scale else gap)
    return worst


def compare(answers: Mapping[str, Any], contestants: Sequence[Contestant], reference: str) -> dict[str, float]:
    """Relative difference of every answer from the reference's, where it is to be compared."""
    return {
        one.name: difference(answers[one.name], answers[reference])
        for one in contestants
        if one.compared and one.name != reference
    }
