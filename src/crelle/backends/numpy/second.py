"""Second derivatives of a scalar black box, entry by entry, each entry with its error.

Where f is analytic, the complex step gives ∂f/∂x_j to rounding, and its difference along e_i gives H[i, j] with the
accuracy of a first derivative (K.-L. Lai and J. L. Crassidis, *J. Comput. Appl. Math.* 219, 276-289, 2008). Elsewhere

    H[i, j] ≈ (f(x + a + b) + f(x − a − b) − f(x + a) − f(x − a) − f(x + b) − f(x − b) + 2 f(x)) / 2 h_i h_j

with a = h_i e_i and b = h_j e_j: two evaluations an entry, as the others are shared (M. Abramowitz and I. A. Stegun,
*Handbook of Mathematical Functions*, 25.3.27), at two step sizes, extrapolated. H is symmetric: one triangle is enough.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.backends.numpy import steps
from crelle.backends.numpy.function import BlackBox
from crelle.backends.numpy.layouts import WholeColumns

Array = np.ndarray[Any, np.dtype[Any]]

#: Evaluations for each entry of one triangle, where the first steps are good (the shared ones counted in).
EVALUATIONS = 4
#: Factors between the steps that are tried where the first are poor, and how many.
LADDER, ROUNDS = 16.0, 4


class Analytic:
    """Differences of complex steps, for analytic f."""

    def __init__(self, box: BlackBox) -> None:
        self.box = box
        self._scale = steps.exact_scales(box)
        self._tiny = self._scale * box.epsilon**2
        self.gradient: Array | None = None

    def entries(self, i: Array, j: Array) -> tuple[Array, Array]:
        """H[i, j] and its errors, [p]."""
        box, scale = self.box, self._scale
        if self.gradient is None:
            self.gradient = steps.complex_step(box, WholeColumns(box, np.arange(box.n)), error=False)[0][:, 0]

        def probe(lines: Array, t: Array) -> Array:
            count = len(t)
            a, b, t = np.tile(i[lines], count), np.tile(j[lines], count), t.reshape(-1)
            same = a == b
            first, second = box.x[a] + t + np.where(same, 1j * self._tiny[a], 0), box.x[b] + 1j * self._tiny[b]
            second = np.where(same, first, second)
            values = box.moved(np.stack([a, b], 1), np.stack([first, second], 1))
            with np.errstate(all="ignore"):
                return np.asarray(values.imag / self._tiny[b][:, None]).reshape(count, len(lines), 1)

        limit = np.maximum(scale, max(1.0, float(scale.max(initial=0.0))))
        lines = steps.Lines(
            probe, self.gradient[j][:, None], np.maximum(box.epsilon[i], box.epsilon[j]), box.epsilon_out, scale[i],
            limit[i], np.abs(box.x[i]), scale[i] * scale[j],
        )  # fmt: skip
        found, error = lines.central()
        return found[:, 0], error[:, 0]


class Real:
    """Second differences of values."""

    def __init__(self, box: BlackBox) -> None:
        self.box = box
        self._scale = steps.exact_scales(box)
        self._epsilon = float(max([*box.epsilon, *box.epsilon_out]))
        self._step = 2.0 ** np.round(np.log2(self._epsilon) / 5)
        self._singles: dict[float, tuple[Array, Array, Array]] = {}

    def entries(self, i: Array, j: Array) -> tuple[Array, Array]:
        """H[i, j] and its errors, [p]."""
        best, correction, noise = self._pair(i, j, 1.0)
        error = correction + noise
        size = self._scale[i] * self._scale[j]
        for grow in (False, True):
            open_ = np.arange(len(i))
            for power in range(1, ROUNDS + 1):
                magnitude = np.where(error < np.abs(best), np.abs(best), 0.0)
                with np.errstate(all="ignore"):
                    others = np.minimum(magnitude.max(initial=0.0), (magnitude * size).max(initial=0.0) / size)
                    poor = error[open_] > self._epsilon ** (1 / 3) * np.maximum(magnitude, others)[open_]
                poor &= (noise[open_] >= correction[open_]) == grow
                if grow:  # where all steps so far are long, there is nothing to be seen
                    longest = self._step * LADDER**power * np.minimum(self._scale[i], self._scale[j])[open_]
                    poor &= longest <= 0.125 * max(1.0, float(self._scale.max()))
                open_ = open_[poor]
                if not len(open_):
                    break
                found = self._pair(i[open_], j[open_], LADDER**power if grow else LADDER**-power)
                new_error = found[1] + found[2]
                with np.errstate(all="ignore"):
                    apart = np.abs(found[0] - best[open_]) > 3 * (error[open_] + new_error)
                # a longer step must not contradict a shorter one: it may have passed over all that f does
                better = (new_error < error[open_]) & ~(grow & apart)
                for old, fresh in zip((best, correction, noise, error), (*found, new_error), strict=True):
                    old[open_] = np.where(better, fresh, old[open_])
        return best, np.where(np.isfinite(best), error, np.inf)

    def _pair(self, i: Array, j: Array, factor: float) -> tuple[Array, Array, Array]:
        """(value, correction, noise) from steps of the size ``factor`` and half of it."""
        far, _ = self._level(i, j, factor)
        near, noise = self._level(i, j, factor / 2)
        with np.errstate(all="ignore"):
            best = near + (near - far) / 3
            finite = np.isfinite(best)
            return best, np.where(finite, np.abs(near - far), np.inf), np.where(finite, noise, np.inf)

    def _level(self, i: Array, j: Array, factor: float) -> tuple[Array, Array]:
        box, here = self.box, self.box.value[0]
        h = factor * self._step * self._scale
        plus, minus = self._shared(np.unique(np.concatenate([i, j])), factor, h)
        bend = plus + minus - 2 * here
        largest = np.maximum(np.maximum(np.abs(plus[i]), np.abs(plus[j])), np.abs(here))
        off = np.flatnonzero(i != j)
        a, b = i[off], j[off]
        index = np.stack([a, b], 1)
        both = [box.moved(index, box.x[index] + sign * h[index])[:, 0] for sign in (1.0, -1.0)]
        with np.errstate(all="ignore"):
            found = bend[i] / h[i] ** 2
            found[off] = (both[0] + both[1] - 2 * here - bend[a] - bend[b]) / (2 * h[a] * h[b])
            return found, 8 * np.maximum(box.epsilon_of(i), box.epsilon_of(j))[:, 0] * largest / (h[i] * h[j])

    def _shared(self, wanted: Array, factor: float, h: Array) -> tuple[Array, Array]:
        """f(x + h_j e_j) and f(x − h_j e_j): once for every step, for all entries of its row and column."""
        box = self.box
        if factor not in self._singles:
            kind = np.result_type(box.value.dtype, box.x.dtype)
            empty = np.full(box.n, np.nan, kind)
            self._singles[factor] = (np.zeros(box.n, bool), empty, empty.copy())
        done, plus, minus = self._singles[factor]
        new = wanted[~done[wanted]]
        for store, sign in ((plus, 1.0), (minus, -1.0)):
            store[new] = box.moved(new[:, None], (box.x[new] + sign * h[new])[:, None])[:, 0]
        done[new] = True
        return plus, minus


def along(box: BlackBox, w: Array, v: Array) -> tuple[Array, Array]:
    """wᵀ H v and its error, each [1]: f at x ± a ± b with a, b along w and v, at several pairs of steps."""
    epsilon = float(max([*box.epsilon, *box.epsilon_out]))
    first = 4 * 2.0 ** np.round(np.log2(epsilon) / 5)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    best, error, factor = np.zeros(1), np.full(1, np.inf), 1.0
    for _ in range(ROUNDS):
        t = factor * first * np.array([1.0, 0.5])
        points = box.x + (t[:, None, None] * (signs @ np.stack([w, v]))).reshape(8, -1)
        values = box.at(points, lambda i: "x moved along two random directions")[:, 0].reshape(2, 4)
        with np.errstate(all="ignore"):
            far, near = (values @ np.array([1.0, -1.0, -1.0, 1.0])) / (4 * t**2)
            correction, noise = np.abs(near - far), 8 * epsilon * np.abs(values).max() / t[1] ** 2
            new, off = near + (near - far) / 3, correction + noise
            agrees = factor < 1 or not np.abs(new - best[0]) > 3 * (off + error[0])
        if not np.isfinite(error[0]) or (off < error[0] and agrees):
            best, error = np.atleast_1d(new), np.atleast_1d(off)
        grow = noise >= correction
        if error[0] <= epsilon ** (1 / 3) * np.abs(best[0]) or (factor < 1 and grow) or (factor > 1 and not grow):
            break
        factor *= 4.0 if grow else 1 / LADDER
        if factor * first > 0.25:
            break
    return best, error


def evaluations(pairs: int, indices: int, diagonal: int, analytic: bool) -> int:
    """How many evaluations so many entries of one triangle take, of which some on the diagonal, with so many indices.

    >>> evaluations(pairs=6, indices=3, diagonal=3, analytic=False), evaluations(6, 3, 3, analytic=True)
    (24, 24)
    """
    if analytic:
        return steps.EVALUATIONS * pairs
    return 2 * (2 * indices + 2 * (pairs - diagonal))
