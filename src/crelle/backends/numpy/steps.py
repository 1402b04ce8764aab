"""Derivatives along lines, for black boxes: central differences with an error for each entry, and complex steps.

A *line* k is a path t ↦ x + t d_k through the point; a *probe* evaluates f at given t on given lines. Columns of a
Jacobian are lines along unit vectors, a directional derivative is one along a vector, and so is the slope of a
complex-step gradient: all are differentiated by :meth:`Lines.central`.

Steps are powers of two, so that x + h and x − h are exact and the step taken is the step meant.

Sources: step sizes and extrapolation, L. F. Richardson, *Phil. Trans. R. Soc. A* 210, 307-357 (1911), and W. H. Press
et al., *Numerical Recipes*, 3rd ed., section 5.7 (2007); complex step, W. Squire and G. Trapp, *SIAM Review* 40(1),
110-112 (1998); rounding errors, N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed. (2002).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from crelle.backends.numpy.function import BlackBox

Array = np.ndarray[Any, np.dtype[Any]]

Probe = Callable[[Array, Array], Array]
"""(lines [k], t [k]) ↦ values [k, m]; t is exactly the step."""

#: Evaluations that a central difference takes for each line, where its first steps are good.
EVALUATIONS = 4
#: At most so many further pairs of steps are tried where the first are poor.
ROUNDS = 8
#: A step is changed by at most these factors at a time: noise that is overlooked by a leap shows on the way.
SHRINK, GROW = 2.0**-5, 2.0**6
#: An entry whose error exceeds this share of it is in doubt; one below a third of that is clear.
DOUBT = 0.3
#: A quick difference is taken for right to this share.
QUICK = 1e-4
#: Random directions of up to so many entries are kept.
KEPT = 4096
#: An entry is good if its error is below this times sqrt(eps), relative to itself or to the largest of its row.
GOOD = 1.0


def scales(x: Array) -> Array:
    """A length for each entry of x: its size; where it is zero, that of the others, but at most 1.

    >>> scales(np.array([0.0, 3.0, -1e-8]))
    array([1.e+00, 3.e+00, 1.e-08])
    """
    size = np.abs(x).astype(float)
    usable = np.isfinite(size) & (size > 0)
    if usable.all():
        return size
    typical = min(1.0, float(np.median(size[usable]))) if usable.any() else 1.0
    return np.where(usable, size, typical)


def exact_scales(box: BlackBox) -> Array:
    """:func:`scales` as powers of two, with steps that do not underflow; reckoned once for a box."""
    if box.scale is None:
        least = np.repeat([_least(d) for d in box.dtypes], np.diff(box.cuts))
        box.scale = power_of_two(np.maximum(scales(box.x), least if box.n else 1.0))
    return box.scale


@functools.cache
def _least(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).tiny / np.finfo(dtype).eps)


def power_of_two(size: Array) -> Array:
    """The powers of two at or below.

    >>> power_of_two(np.array([1.0, 3.0, 0.1]))
    array([1.    , 2.    , 0.0625])
    """
    return np.exp2(np.floor(np.log2(size)))


def first_step(epsilon: Array) -> Array:
    """(16 eps)^(1/3), relative to the scale: where the error that is estimated is least; 2⁻¹⁶ in float64.

    >>> float(first_step(np.array(2.0**-52)) * 2**16)
    1.0
    """
    return np.asarray(2.0 ** np.round(np.log2(16 * epsilon) / 3))


class Lines:
    """Central differences of the same function along several lines.

    Args:
        probe: evaluates f on the lines.
        here: the values at t = 0, [m], or [lines, m] where they differ.
        epsilon: relative rounding error of f where it is computed from the entries that a line moves, [lines].
        epsilon_out: the same of the outputs, [m]; the larger one counts.
        scale: the unit of t on each line, [lines].
        limit: how far t may grow, [lines].
        size: how much of t is lost when it is added to x, in units of eps, [lines].
        weight: what makes the derivatives of different lines comparable, [lines].
    """

    def __init__(
        self, probe: Probe, here: Array, epsilon: Array, epsilon_out: Array, scale: Array, limit: Array, size: Array,
        weight: Array,
    ) -> None:  # fmt: skip
        self.probe, self._epsilon, self._epsilon_out = probe, epsilon, epsilon_out
        self._here = here if here.ndim == 2 else np.broadcast_to(here, (len(scale), len(here)))
        self.scale, self.limit, self.size, self.weight = scale, limit, size, weight
        self.step = first_step(np.maximum(epsilon, epsilon_out.max(initial=0.0)))

    def epsilon(self, lines: Array) -> Array:
        """Relative rounding error of the values on some lines, [k, m]."""
        return np.maximum(self._epsilon[lines][:, None], self._epsilon_out)

    def pair(self, lines: Array, t: Array) -> tuple[Array, Array, Array]:
        """(value, correction, noise), each [k, m], from differences with the steps t and t/2.

        D(t) = (f(x + t d) − f(x − t d)) / 2t = f′ + t² f‴/6 + ..., so (4 D(t/2) − D(t)) / 3 is right to t⁴. Its error
        is below |D(t/2) − D(t)| and what noise can do: rounding, or more if the fourth difference of the five
        equidistant values shows more (J. J. Moré and S. M. Wild, *SIAM J. Sci. Comput.* 33(3), 1292-1314, 2011).
        """
        k, here = len(lines), self._here[lines]
        values = self.probe(np.tile(lines, 4), np.concatenate([t, -t, t / 2, -t / 2]))
        plus, minus, plus2, minus2 = (values[i * k : (i + 1) * k] for i in range(4))
        with np.errstate(all="ignore"):
            far, near = (plus - minus) / (2 * t)[:, None], (plus2 - minus2) / t[:, None]
            correction = np.abs(near - far)
            best = near + (near - far) / 3
            largest = np.maximum(np.maximum(np.abs(plus), np.abs(minus)), np.abs(here))
            rounding = 2 * self.epsilon(lines) * (largest + np.abs(best) * self.size[lines, None])
            # f(x + t) + f(x - t) - 2 f(x) shrinks with t² where f is smooth, with t at a kink: there every slope
            # between the two one-sided ones is as good
            bend, bend2 = plus + minus - 2 * here, plus2 + minus2 - 2 * here
            kink = (np.abs(bend2) > 0.375 * np.abs(bend)) & (np.abs(bend2) > 8 * rounding)
            correction = np.where(kink, np.maximum(correction, np.abs(bend2) / t[:, None]), correction)
            fourth = np.abs(bend - 4 * bend2) / np.sqrt(70)
            noise = np.maximum(rounding, np.where(kink, 0, 2 * fourth)) / t[:, None]
        finite = np.isfinite(best)
        return best, np.where(finite, correction, np.inf), np.where(finite, noise, np.inf)

    def central(self, lines: Array) -> tuple[Array, Array]:
        """(derivative, error), each [k, m]: four evaluations a line, and four more for each further step that is tried.

        Steps become smaller where the correction is larger than the noise, and larger where noise is all there is. Each
        entry keeps the value of the step that it had the least error with.
        """
        t = self.step[lines] * self.scale[lines]
        best, correction, noise = self.pair(lines, t)
        error = correction + noise
        smallest, largest = t.copy(), t.copy()
        known = np.isfinite(self._here[lines])
        limit = self.limit[lines]
        short = (self.scale[lines] * 64 < limit)[:, None]
        before, rough = np.full(len(lines), np.inf), np.zeros(len(lines), bool)
        open_ = np.arange(len(lines))
        for _ in range(ROUNDS):
            ratio = self._ratios(lines, best, error)[open_]
            # what cannot be told from 0 with a step of the size of x is not worth longer ones
            lost = (error >= np.abs(best))[open_] & (noise >= correction)[open_] & ~short[open_]
            ratio = np.where(lost | ~known[open_], 0.0, ratio)
            if not ratio.size:
                break
            which, worst = ratio.argmax(axis=1), ratio.max(axis=1)
            doubted = (error > DOUBT * np.abs(best))[open_, which]
            poor = (worst > 1) & ((worst < 0.5 * before[open_]) | doubted | rough[open_])
            before[open_] = worst
            open_, which = open_[poor], which[poor]
            c, r = correction[open_, which], noise[open_, which]
            grow = r >= c
            with np.errstate(all="ignore"):
                optimum = np.nan_to_num(np.cbrt(r / (2 * c)), nan=SHRINK, posinf=GROW)
            factor = np.where(grow, np.clip(optimum, 4, GROW), np.clip(optimum, SHRINK, 0.25))
            step = np.where(grow, largest[open_], smallest[open_]) * np.exp2(np.round(np.log2(factor)))
            # next to a tiny x nothing was seen: 1 may be the length that matters
            leap = grow & short[open_, 0] & (error[open_, which] >= np.abs(best[open_, which]))
            step = np.where(leap, np.maximum(step, self.step[lines[open_]] * power_of_two(limit[open_])), step)
            allowed = ~grow | (step <= 0.125 * limit[open_])
            open_, step, grow, which = open_[allowed], step[allowed], grow[allowed], which[allowed]
            if not len(open_):
                break
            smallest[open_], largest[open_] = np.minimum(smallest[open_], step), np.maximum(largest[open_], step)
            found = self.pair(lines[open_], step)
            new, new_error = found[0], found[1] + found[2]
            # the correction falls with t² once f is resolved; it rises where there are wiggles within a step
            rough[open_] = ~grow & (found[1] > correction[open_])[np.arange(len(open_)), which]
            take = self._better(best[open_], error[open_], new, new_error, grow[:, None])
            for old, fresh in zip((best, correction, noise, error), (*found, new_error), strict=True):
                old[open_] = np.where(take, fresh, old[open_])
        return best, np.where(np.isfinite(best), error, np.inf)

    def _better(self, best: Array, error: Array, new: Array, new_error: Array, grow: Array) -> Array:
        """Whether a value from another step replaces the best one so far.

        The lesser error wins if the two values agree. Where they contradict each other, a long step may have passed
        over many wiggles (small slope, small error), so a shorter one wins if it is clear; but no slope at all, where a
        longer step saw one, is what the stairs of a rounded f look like from close by.
        """
        with np.errstate(all="ignore"):
            apart = np.abs(new - best) > 3 * (error + new_error)
            doubt, new_doubt = error / np.abs(best), new_error / np.abs(new)
            clearer = (new_doubt < DOUBT / 3) & (apart | (doubt > DOUBT))
            stairs = ~grow & (new == 0) & (best != 0)
            lesser = (new_error < error) & ~apart & ~stairs
            return np.asarray(lesser | (~grow & clearer) | ~np.isfinite(best))

    def _ratios(self, lines: Array, best: Array, error: Array) -> Array:
        """Error of each entry over what is good: relative to itself, or to the largest trusted slope of its output."""
        size, weight = np.abs(best), self.weight[lines, None]
        with np.errstate(all="ignore"):
            trusted = np.where(error < size, size, 0.0)
            weighed = (trusted * weight).max(axis=0, initial=0.0) / weight
            reference = np.maximum(trusted, np.minimum(trusted.max(axis=0, initial=0.0), weighed))
            good = GOOD * np.sqrt(self.epsilon(lines)) * reference
            return np.where(error == 0, 0.0, np.where(good > 0, error / good, np.inf))


def column_lines(box: BlackBox) -> Lines:
    """The lines along the entries of x: their derivatives are the columns of the Jacobian."""
    scale = exact_scales(box)

    def probe(lines: Array, t: Array) -> Array:
        return box.moved(lines[:, None], (box.x[lines] + t)[:, None])

    limit = np.maximum(scale, max(1.0, float(scale.max(initial=0.0))))
    return Lines(probe, box.value, box.epsilon, box.epsilon_out, scale, limit, np.abs(box.x), scale)


def along(box: BlackBox, direction: Array, shift: float = 1.0) -> tuple[Array, Array]:
    """The derivative of f along one direction and its error, each [m].

    Args:
        direction: exact with x, as :func:`random_direction` is.
        shift: a power of two by which the first step differs from that of the columns, for an independent answer.
    """
    epsilon = np.full(1, np.max(box.epsilon, initial=2.0**-52, where=direction != 0))
    # the unit of t is another, so that the steps are
    one = np.full(1, shift)

    def probe(lines: Array, t: Array) -> Array:
        return box.at(box.x + t[:, None] * direction, lambda i: f"x + {t[i]:.3g} v for a random direction v")

    size = np.max(np.abs(box.x[direction != 0]) / np.abs(direction[direction != 0]), initial=0.0)
    lines = Lines(probe, box.value, epsilon, box.epsilon_out, one, np.ones(1), size * np.ones(1), np.ones(1))
    slope, error = lines.central(np.zeros(1, np.intp))
    return slope[0], error[0]


def quick(box: BlackBox, direction: Array) -> tuple[Array, Array]:
    """The derivative along one direction from two evaluations, and what it should be right to, each [m].

    The error is guessed from the size of the values: enough to wave through what is right, and to suspect the rest.
    """
    epsilon = float(max(np.max(box.epsilon, initial=2.0**-52), np.max(box.epsilon_out, initial=0.0)))
    t = float(first_step(np.asarray(epsilon)))
    plus, minus = box.at(
        box.x + np.array([[t], [-t]]) * direction, lambda i: f"x {'+-'[i]} {t:.3g} v for a random direction v"
    )
    with np.errstate(all="ignore"):
        slope = (plus - minus) / (2 * t)
        return slope, np.asarray(QUICK * (np.abs(slope) + math.sqrt(epsilon) * (np.abs(plus) + np.abs(minus))))


def random_direction(box: BlackBox, seed: int) -> Array:
    """Entries ± a power of two times their scale: random, and exact to add to x."""
    powers = _random_powers if box.n <= KEPT else _random_powers.__wrapped__
    return np.asarray(exact_scales(box) * powers(box.n, seed))


@functools.lru_cache(maxsize=32)
def _random_powers(n: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    powers: Array = rng.choice([-1.0, 1.0], n) * rng.choice([1.0, 0.5, 0.25], n)
    powers.flags.writeable = False
    return powers


def complex_step(box: BlackBox, columns: Array, error: bool) -> tuple[Array, Array]:
    """∂f/∂x_j = Im f(x + i h e_j) / h, with no subtraction and so the error of f itself; (columns, errors), [k, m].

    With ``error`` f is evaluated twice: again at x moved by one rounding error, with another h. The difference is what
    rounding does to this derivative: of its operations, and of x.
    """
    tiny = exact_scales(box) * box.epsilon**2

    def slopes(origin: Array | None, h: Array) -> Array:
        rows = (box.x if origin is None else origin)[columns] + 1j * h
        values = box.moved(columns[:, None], rows[:, None], origin)
        with np.errstate(all="ignore"):
            return values.imag / h[:, None]

    found = slopes(None, tiny[columns])
    if not error:
        return found, np.zeros(found.shape)
    rng = np.random.default_rng(0)
    nearby = box.x * (1 + box.epsilon * rng.choice([-1.0, 1.0], box.n))
    again = slopes(nearby, 0.75 * tiny[columns])
    with np.errstate(all="ignore"):
        # where large slopes cancel within f, what is left has their rounding
        scale = exact_scales(box)[columns, None]
        magnitude = np.abs(found)
        row = np.minimum(magnitude.max(axis=0, initial=0.0), (magnitude * scale).max(axis=0, initial=0.0) / scale)
        size = np.where((found == 0) & (again == 0), 0.0, 4 * magnitude + row)
        return found, 2 * np.abs(again - found) + box.epsilon_of(columns) * size


def unit_differences(box: BlackBox, origin: Array, columns: Array) -> tuple[Array, Array]:
    """Columns of an affine f: (f(s e_j) − f(0)) / s, s a power of two of the size of x_j; exact to rounding, [k, m]."""
    scale = exact_scales(box)[columns]
    values = box.moved(columns[:, None], scale[:, None], np.zeros_like(box.x))
    with np.errstate(all="ignore"):
        found = (values - origin) / scale[:, None]
        size = np.abs(origin) + np.abs(box.value) + np.abs(values)
        return found, linear_rounding(box) * size / scale[:, None]


def linear_rounding(box: BlackBox) -> Array:
    """What rounding does to sums of n terms, relative to the values; what is linear is so to this."""
    return 2 * (1 + math.sqrt(box.n)) * box.epsilon_out
