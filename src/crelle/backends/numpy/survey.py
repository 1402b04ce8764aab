"""What a black box can do, found out by trying: batches of points, complex numbers; is it linear?

Every finding is used only where it was seen to hold, and ``trace`` sees again at each run: f may have changed, and what
holds at one point need not hold at another.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crelle.backends.numpy import steps
from crelle.backends.numpy.function import BlackBox, ChangedError, complex_of, same_values

Array = np.ndarray[Any, np.dtype[Any]]

#: A complex step must agree with differences to this share of the slope, however uncertain these are.
AGREEMENT = 1e-2
#: A linear function must change by this share of its value, so that rounding hides no curvature that matters.
VISIBLE = 2.0**-6
#: Points of the batch that is timed.
MANY = 16


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found.

    Attributes:
        batched: f(stack of points) is the stack of f(point).
        linear: f is affine, at several points of the size of x and beyond.
        not_analytic: why the complex step cannot be used; empty if it can.
        coarse: relative precision of each output entry, where one has less than its dtype; otherwise None.
        seconds: one evaluation of f took so long; one point of a batch where f takes batches.
    """

    batched: bool = False
    linear: bool = False
    not_analytic: str = "not tried"
    coarse: Array | None = field(default=None, compare=False)
    seconds: float = 0.0

    @property
    def analytic(self) -> bool:
        """Whether the complex step can be used."""
        return not self.not_analytic


def survey(box: BlackBox, linear: bool, analytic: bool) -> Facts:
    """Evaluate f about ten times, and see.

    Args:
        box: with f(x) evaluated.
        linear, analytic: whether to look for these.
    """
    nearby, seconds = _nearby(box)
    box.coarse = None if nearby is None else _coarse(box, nearby[1])
    batched = nearby is not None and _takes_batches(box, *nearby)
    if batched:
        seconds = _seconds_of_batch(box)
    is_linear = linear and nearby is not None and _is_linear(box, *nearby)
    reason = "not tried"
    if analytic:
        size = np.max(np.abs(nearby[1]), axis=0) if nearby is not None else np.zeros(box.m)
        reason = "f is linear: unit differences are exact" if is_linear else _not_analytic(box, size)
    return Facts(batched, is_linear, reason, box.coarse, seconds)


def _seconds_of_batch(box: BlackBox) -> float:
    """Of one point."""
    rows = np.repeat(box.x[None], MANY, 0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        box.batch(rows)
        return (time.perf_counter() - start) / MANY


def _nearby(box: BlackBox) -> tuple[tuple[Array, Array] | None, float]:
    """Two points on both sides of x with their values [2, m], or None where f is not defined there; seconds for one."""
    # no round numbers, so that results are round only where f rounds them
    direction = steps.random_direction(box, 3) * np.random.default_rng(3).uniform(0.7, 1.0, box.n)
    for size in (0.25, 2.0**-10):
        points = np.stack([box.x + size * direction, box.x - size * direction])
        start = time.perf_counter()
        try:
            values = _quietly(box, points)
        except Exception:  # outside of the domain of f; nothing is claimed there
            continue
        return (points, values), (time.perf_counter() - start) / 2
    return None, 0.0


def _coarse(box: BlackBox, values: Array) -> Array | None:
    """Precisions, where values of float64 have no more figures than float32 or float16: f computes in these."""
    found = np.zeros(box.m)
    moves = np.any(values != box.value, axis=0) & np.all(np.isfinite(values), axis=0)
    for narrow in (np.float32, np.float16):
        with np.errstate(over="ignore"):
            same = [part.astype(narrow) == part for part in (values.real, values.imag)]
        found = np.where(moves & np.all(same, axis=(0, 1)), float(np.finfo(narrow).eps), found)
    return found if found.any() else None


def _quietly(box: BlackBox, points: Array) -> Array:
    """f at points that the user did not ask for: without the warnings that they cause."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return box.at(points, lambda i: "a point near x")


def _takes_batches(box: BlackBox, points: Array, values: Array) -> bool:
    """Compare one call on a stack of three distinct points with three calls.

    The length of the stack differs from all lengths in f's input and output, so that no axis can pass for another.
    """
    assert box.base is not None
    lengths = {d for t in (*box.inputs, *box.base.types) for d in t.shape}
    count = next(k for k in range(3, 4 + len(lengths)) if k not in lengths)
    order = np.arange(count) % 3
    stack = np.concatenate([box.x[None], points])[order]
    expected = np.concatenate([box.value[None], values])[order]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = box.batch(stack)
    except ChangedError:
        return False
    return same_values(found, expected, box.epsilon_out, box.n)


def _is_linear(box: BlackBox, points: Array, values: Array) -> bool:
    """Whether f is affine: the middle of two points, −3 x, 0, a point far away, and a sum; each to rounding."""
    x, here = box.x, box.value

    def vanishes(size: Array, *terms: Array) -> bool:
        with np.errstate(all="ignore"):
            rest = np.abs(sum(terms[1:], terms[0]))
        return bool(np.all(rest <= 4 * steps.linear_rounding(box) * size))

    size = np.abs([*values, here]).max(axis=0)
    if not vanishes(64 * size, values[0], values[1], -2 * here):  # what else it may be is tested below
        return False
    far = 4 * steps.random_direction(box, 4)
    try:
        origin, back, away, both = _quietly(box, np.stack([0 * x, -3 * x, x + far, points[0] + far]))
    except Exception:  # not defined everywhere, so not linear
        return False
    size = np.abs([*values, here, origin, back, away, both]).max(axis=0)
    if not (vanishes(size, back, 3 * here, -4 * origin) and vanishes(size, both, here, -values[0], -away)):
        return False
    # what changes by less than rounding hides is not seen to be linear; a constant only counts at lengths that matter
    change = np.maximum(np.abs(back - here), np.abs(away - here))
    visible = (change >= VISIBLE * np.abs(here)) | ((change == 0) & bool(np.all(steps.scales(x) >= VISIBLE)))
    return bool(np.all(visible))


def _not_analytic(box: BlackBox, nearby: Array) -> str:
    """Why the complex step does not work, or nothing: it is compared with a difference in one direction.

    Args:
        nearby: size of the values around x, [m]: slopes are judged by it where they vanish.
    """
    if box.x.dtype.kind == "c":
        return "the input is complex"
    if box.out_dtype.kind == "c":
        return "f returns complex numbers"
    if any(complex_of(d).itemsize != 2 * d.itemsize for d in box.dtypes):
        return "there are no complex numbers of this precision"
    direction = steps.random_direction(box, 5)
    tiny = float(np.max(box.epsilon)) ** 2
    try:
        value, is_real = box.imaginary(box.x + 1j * tiny * direction)
    except np.exceptions.ComplexWarning:
        return "f discards imaginary parts, by a cast to float"
    except Exception as error:  # whatever f does with numbers that it was not written for
        text = str(error).strip().splitlines()
        return f"f does not take complex numbers: {type(error).__name__}{f': {text[0][:60]}' if text else ''}"
    if is_real:
        return "f returns real numbers for complex ones: abs, real, or a cast on the way"
    with np.errstate(all="ignore"):
        same = np.abs(value.real - box.value) <= np.sqrt(box.epsilon_out) * np.maximum(np.abs(box.value), nearby)
    if not np.all(same | ~np.isfinite(box.value)) or np.any(np.isfinite(value) & ~np.isfinite(box.value)):
        return "f takes another branch for complex numbers"
    product = value.imag / tiny
    slope, uncertain = steps.along(box, direction)
    wrong = disagreement(box, product, slope, uncertain)
    if wrong:
        return wrong
    with np.errstate(all="ignore"):
        if np.any(uncertain > AGREEMENT * np.maximum(np.maximum(np.abs(slope), np.abs(box.value)), nearby)):
            return "differences are too uncertain to confirm complex steps: a kink at x, or noise in f"
    return ""


def disagreement(box: BlackBox, product: Array, slope: Array, error: Array) -> str:
    """Why ``product``, J v by complex steps, is not the ``slope`` by differences, within its error; empty if it is."""
    with np.errstate(all="ignore"):
        wrong = ~(np.abs(product - slope) <= 10 * error + 1e-12 * np.abs(slope)) & np.isfinite(box.value)
    if not np.any(wrong):
        return ""
    return (
        f"complex steps disagree with differences in output entry {int(np.argmax(wrong))}: "
        "abs, conj, real, a comparison or a cast on the way"
    )
