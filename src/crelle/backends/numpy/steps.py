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
from crelle.backends.numpy.layouts import Columns, Every, Layout

Array = np.ndarray[Any, np.dtype[Any]]

Probe = Callable[[Array, Array], Array]
"""(lines [k], t [s, k]) ↦ values [s, k, m], or [s, entries] in another layout; t is exactly the step."""

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
        layout: which entries there are, and how arrays of them are laid out: [lines, m] unless said otherwise.
    """

    def __init__(
        self, probe: Probe, here: Array, epsilon: Array, epsilon_out: Array, scale: Array, limit: Array, size: Array,
        weight: Array, layout: Layout | None = None,
    ) -> None:  # fmt: skip
        self.probe, self._epsilon, self._epsilon_out, self._here = probe, epsilon, epsilon_out, here
        self.scale, self.limit, self.size, self.weight = scale, limit, size, weight
        self.layout: Layout = Every() if layout is None else layout
        self.every = np.arange(len(scale))
        self.step = first_step(np.maximum(epsilon, epsilon_out.max(initial=0.0)))

    def epsilon(self, lines: Array) -> Array:
        """Relative rounding error of the values on some lines, [k, m]."""
        layout = self.layout
        return np.maximum(layout.of_lines(lines, self._epsilon[lines]), layout.of_outputs(self._epsilon_out, lines))

    def here(self, lines: Array) -> Array:
        """The values at t = 0 beside those on some lines, [k, m] or [m]."""
        return self._here[lines] if self._here.ndim == 2 else self.layout.of_outputs(self._here, lines)

    def pair(self, lines: Array, t: Array) -> tuple[Array, Array, Array]:
        """(value, correction, noise), each [k, m], from differences with the steps t and t/2.

        D(t) = (f(x + t d) − f(x − t d)) / 2t = f′ + t² f‴/6 + ..., so (4 D(t/2) − D(t)) / 3 is right to t⁴. Its error
        is below |D(t/2) − D(t)| and what noise can do: rounding, or more if the fourth difference of the five
        equidistant values shows more (J. J. Moré and S. M. Wild, *SIAM J. Sci. Comput.* 33(3), 1292-1314, 2011).
        """
        layout, here = self.layout, self.here(lines)
        plus, minus, plus2, minus2 = self.probe(lines, np.stack([t, -t, t / 2, -t / 2]))
        t, lost = layout.of_lines(lines, t), layout.of_lines(lines, self.size[lines])
        with np.errstate(all="ignore"):
            far, near = (plus - minus) / (2 * t), (plus2 - minus2) / t
            correction = np.abs(near - far)
            best = near + (near - far) / 3
            largest = np.maximum(np.maximum(np.abs(plus), np.abs(minus)), np.abs(here))
            rounding = 2 * self.epsilon(lines) * (largest + np.abs(best) * lost)
            # f(x + t) + f(x - t) - 2 f(x) shrinks with t² where f is smooth, with t at a kink: there every slope
            # between the two one-sided ones is as good
            bend, bend2 = plus + minus - 2 * here, plus2 + minus2 - 2 * here
            kink = (np.abs(bend2) > 0.375 * np.abs(bend)) & (np.abs(bend2) > 8 * rounding)
            correction = np.where(kink, np.maximum(correction, np.abs(bend2) / t), correction)
            fourth = np.abs(bend - 4 * bend2) / np.sqrt(70)
            noise = np.maximum(rounding, np.where(kink, 0, 2 * fourth)) / t
        finite = np.isfinite(best)
        return best, np.where(finite, correction, np.inf), np.where(finite, noise, np.inf)

    def central(self) -> tuple[Array, Array]:
        """(derivative, error), each [k, m]: four evaluations a line, and four more for each further step that is tried.

        Steps become smaller where the correction is larger than the noise, and larger where noise is all there is. Each
        entry keeps the value of the step that it had the least error with.
        """
        layout, open_ = self.layout, self.every
        t = self.step * self.scale
        best, correction, noise = self.pair(open_, t)
        error = correction + noise
        smallest, largest = t.copy(), t.copy()
        known = np.broadcast_to(np.isfinite(self.here(open_)), best.shape)
        short = self.scale * 64 < self.limit
        before, rough = np.full(len(t), np.inf), np.zeros(len(t), bool)
        for _ in range(ROUNDS):
            if not best.size:
                break
            some = layout.some(open_)
            ratio = self._ratios(best, error)[some]
            # what cannot be told from 0 with a step of the size of x is not worth longer ones
            lost = (error >= np.abs(best))[some] & (noise >= correction)[some]
            lost &= ~layout.of_lines(open_, short[open_])
            which, worst = layout.worst(open_, np.where(lost | ~known[some], 0.0, ratio))
            entry = layout.entry(open_, which)
            doubted = error[entry] > DOUBT * np.abs(best[entry])
            poor = (worst > 1) & ((worst < 0.5 * before[open_]) | doubted | rough[open_])
            before[open_] = worst
            open_, which = open_[poor], which[poor]
            entry = layout.entry(open_, which)
            c, r = correction[entry], noise[entry]
            grow = r >= c
            with np.errstate(all="ignore"):
                optimum = np.nan_to_num(np.cbrt(r / (2 * c)), nan=SHRINK, posinf=GROW)
            factor = np.where(grow, np.clip(optimum, 4, GROW), np.clip(optimum, SHRINK, 0.25))
            step = np.where(grow, largest[open_], smallest[open_]) * np.exp2(np.round(np.log2(factor)))
            # next to a tiny x nothing was seen: 1 may be the length that matters
            leap = grow & short[open_] & (error[entry] >= np.abs(best[entry]))
            step = np.where(leap, np.maximum(step, self.step[open_] * power_of_two(self.limit[open_])), step)
            allowed = ~grow | (step <= 0.125 * self.limit[open_])
            open_, step, grow, which = open_[allowed], step[allowed], grow[allowed], which[allowed]
            if not len(open_):
                break
            smallest[open_], largest[open_] = np.minimum(smallest[open_], step), np.maximum(largest[open_], step)
            found, some = self.pair(open_, step), layout.some(open_)
            new, new_error = found[0], found[1] + found[2]
            # the correction falls with t² once f is resolved; it rises where there are wiggles within a step
            rough[open_] = ~grow & (found[1] > correction[some])[layout.entry_among(open_, which)]
            take = self._better(best[some], error[some], new, new_error, layout.of_lines(open_, grow))
            for old, fresh in zip((best, correction, noise, error), (*found, new_error), strict=True):
                old[some] = np.where(take, fresh, old[some])
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

    def _ratios(self, best: Array, error: Array) -> Array:
        """Error of each entry over what is good: relative to itself, or to the largest trusted slope of its output."""
        layout, size = self.layout, np.abs(best)
        weight = layout.of_lines(self.every, self.weight)
        with np.errstate(all="ignore"):
            trusted = np.where(error < size, size, 0.0)
            weighed = layout.largest(trusted * weight) / weight
            reference = np.maximum(trusted, np.minimum(layout.largest(trusted), weighed))
            good = GOOD * np.sqrt(self.epsilon(self.every)) * reference
            return np.where(error == 0, 0.0, np.where(good > 0, error / good, np.inf))


def column_lines(box: BlackBox, columns: Columns) -> Lines:
    """The lines along entries of x: their derivatives are columns of the Jacobian."""
    index, every = columns.index, exact_scales(box)
    x, scale = box.x[index], every[index]

    def probe(lines: Array, t: Array) -> Array:
        return columns.moved(lines, x[lines] + t)

    limit = np.maximum(scale, max(1.0, float(every.max(initial=0.0))))
    return Lines(probe, box.value, box.epsilon[index], box.epsilon_out, scale, limit, np.abs(x), scale, columns)


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
        values = box.at(box.x + t * direction, lambda i: f"x + {t[i, 0]:.3g} v for a random direction v")
        return values[:, None]

    size = np.max(np.abs(box.x[direction != 0]) / np.abs(direction[direction != 0]), initial=0.0)
    lines = Lines(probe, box.value, epsilon, box.epsilon_out, one, np.ones(1), size * np.ones(1), np.ones(1))
    slope, error = lines.central()
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


def complex_step(box: BlackBox, columns: Columns, error: bool) -> tuple[Array, Array]:
    """∂f/∂x_j = Im f(x + i h e_j) / h, with no subtraction and so the error of f itself; (columns, errors), [k, m].

    With ``error`` f is evaluated twice: again at x moved by one rounding error, with another h. The difference is what
    rounding does to this derivative: of its operations, and of x.
    """
    index, every = columns.index, np.arange(len(columns.index))
    tiny = (exact_scales(box) * box.epsilon**2)[index]

    def slopes(origin: Array | None, h: Array) -> Array:
        rows = (box.x if origin is None else origin)[index] + 1j * h
        values = columns.moved(every, rows[None], origin)[0]
        with np.errstate(all="ignore"):
            return np.asarray(values.imag / columns.of_lines(every, h))

    found = slopes(None, tiny)
    if not error:
        return found, np.zeros(found.shape)
    rng = np.random.default_rng(0)
    nearby = box.x * (1 + box.epsilon * rng.choice([-1.0, 1.0], box.n))
    again = slopes(nearby, 0.75 * tiny)
    with np.errstate(all="ignore"):
        # where large slopes cancel within f, what is left has their rounding
        scale = columns.of_lines(every, exact_scales(box)[index])
        magnitude = np.abs(found)
        row = np.minimum(columns.largest(magnitude), columns.largest(magnitude * scale) / scale)
        size = np.where((found == 0) & (again == 0), 0.0, 4 * magnitude + row)
        epsilon = np.maximum(columns.of_lines(every, box.epsilon[index]), columns.of_outputs(box.epsilon_out, every))
        return found, 2 * np.abs(again - found) + epsilon * size


def unit_differences(box: BlackBox, origin: Array, columns: Columns) -> tuple[Array, Array]:
    """Columns of an affine f: (f(s e_j) − f(0)) / s, s a power of two of the size of x_j; exact to rounding, [k, m]."""
    every = np.arange(len(columns.index))
    unit = exact_scales(box)[columns.index]
    values = columns.moved(every, unit[None], np.zeros_like(box.x))[0]
    scale = columns.of_lines(every, unit)
    start, here, rounding = (columns.of_outputs(a, every) for a in (origin, box.value, linear_rounding(box)))
    with np.errstate(all="ignore"):
        found = (values - start) / scale
        return found, rounding * (np.abs(start) + np.abs(here) + np.abs(values)) / scale


def linear_rounding(box: BlackBox) -> Array:
    """What rounding does to sums of n terms, relative to the values; what is linear is so to this."""
    return 2 * (1 + math.sqrt(box.n)) * box.epsilon_out
