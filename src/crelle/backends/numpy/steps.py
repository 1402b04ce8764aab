"""Difference formulas for black boxes: central with extrapolation, complex step, exact for linear functions.

A *probe* is a function of a list of flat points (rows of a matrix) that returns the flat values, one row a point.

Sources: Richardson extrapolation and the choice of steps, Press et al., *Numerical Recipes*, 3rd ed., 5.7 (2007);
complex step, Squire & Trapp, *SIAM Review* 40(1), 110-112 (1998); second derivatives, Fornberg, *Math. Comp.* 51 (1988).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Probe = Callable[[Array], Array]
Report = Callable[[str], None]

#: Step of a complex step relative to the size of x: no subtraction, so as small as the numbers allow.
COMPLEX_STEP = {8: 1e-100, 4: 1e-20}
#: A column whose error exceeds this share of its largest entry is tried again with another step.
POOR = 1e-7


def scales(x: Array) -> Array:
    """A length for each entry of x: its magnitude, or that of its neighbours where it is zero, or 1."""
    size = np.abs(x).astype(float)
    positive = size[size > 0]
    typical = float(np.median(positive)) if positive.size else 1.0
    return np.where(size > 0, size, typical)


def taken(x: Array, j: Array, h: Array) -> Array:
    """The steps that floating-point addition really takes: (x + h) - x."""
    moved = (x[j] + h).astype(x.dtype)
    return (moved - x[j]).real.astype(float)


def shifted(x: Array, j: Array, h: Array) -> Array:
    """Rows x + h[k] e_{j[k]}."""
    points = np.repeat(x[None], len(j), 0)
    points[np.arange(len(j)), j] += h.astype(x.dtype)
    return points


def central(probe: Probe, x: Array, columns: Array, size: Array, shrink: float) -> tuple[Array, Array]:
    """Columns of the Jacobian by extrapolated central differences, and the error of each entry.

    ∂f/∂x_j ≈ (4 D(h) − D(2h)) / 3 with D(h) = (f(x + h e_j) − f(x − h e_j)) / 2h, and h = eps^(1/4) times the size of x_j:
    four evaluations a column, error O(h⁴). ``shrink`` is how much smaller than |R − D(h)| the error of R was found to be.
    """
    epsilon = np.finfo(x.dtype).eps
    h = taken(x, columns, epsilon**0.25 * size[columns])
    values = probe(np.concatenate([*(shifted(x, columns, s * h) for s in (1.0, -1.0, 2.0, -2.0)), x[None]]))
    k = len(columns)
    plus, minus, plus2, minus2 = (values[i * k : (i + 1) * k] for i in range(4))
    here = values[-1]
    steps = h[:, None]
    near, far = (plus - minus) / (2 * steps), (plus2 - minus2) / (4 * steps)
    best = (4 * near - far) / 3
    largest = np.maximum(np.abs(plus), np.abs(minus))
    error = shrink * np.abs(best - near) + 3 * epsilon * largest / steps + epsilon * np.abs(best)
    # f(x + h) + f(x - h) - 2 f(x) is of order h² where f is smooth and of order h at a kink, where differences mislead
    bend, bend2 = np.abs(plus + minus - 2 * here), np.abs(plus2 + minus2 - 2 * here)
    kink = (bend > 100 * epsilon * largest) & (bend2 < 3 * bend)
    return best.T, np.where(kink, np.maximum(error, bend / steps), error).T


def shrinkage(probe: Probe, x: Array, size: Array, direction: Array) -> float:
    """How much smaller the error after extrapolation is than the correction, from three steps in one direction."""
    epsilon = np.finfo(x.dtype).eps
    h = epsilon**0.25
    step = (h * size * direction).astype(x.dtype)
    values = probe(np.stack([x + s * step for s in (1, -1, 2, -2, 4, -4)]))
    d1, d2, d4 = ((values[2 * i] - values[2 * i + 1]) / (2 * h * 2**i) for i in range(3))
    r1, r2 = (4 * d1 - d2) / 3, (4 * d2 - d4) / 3
    noise = 10 * epsilon * (np.abs(values).max(initial=0.0)) / h
    correction = np.abs(r2 - d2)
    change = np.abs(r1 - r2)
    clear = correction > noise
    if not clear.any():
        return 1.0
    return float(min(1.0, 4 * np.max(change[clear] / correction[clear])))


def complex_step(probe: Probe, x: Array, columns: Array, size: Array) -> tuple[Array, Array]:
    """∂f/∂x_j = Im f(x + i h e_j) / h for real analytic f: one evaluation a column, error of the order of eps."""
    h = COMPLEX_STEP[x.dtype.itemsize] * size[columns]
    points = np.repeat(x.astype(np.result_type(x.dtype, np.complex64))[None], len(columns), 0)
    points[np.arange(len(columns)), columns] += 1j * h
    found = (probe(points).imag / h[:, None]).T
    epsilon = np.finfo(x.dtype).eps
    largest = np.abs(found).max(initial=0.0, axis=1, keepdims=True)
    return found, 8 * epsilon * np.maximum(np.abs(found), 0.01 * largest)


def linear(probe: Probe, x: Array, columns: Array, size: Array) -> tuple[Array, Array]:
    """Columns of an affine f: (f(x + s e_j) − f(x − s e_j)) / 2s with s a power of two of the size of x; exact to rounding."""
    epsilon = np.finfo(x.dtype).eps
    s = 2.0 ** np.ceil(np.log2(np.maximum(size[columns], np.median(size))))
    h = taken(x, columns, s)
    values = probe(np.concatenate([shifted(x, columns, h), shifted(x, columns, -h)]))
    plus, minus = values[: len(columns)], values[len(columns) :]
    found = (plus - minus) / (2 * h[:, None])
    error = epsilon * (np.abs(plus) + np.abs(minus)) / h[:, None] + epsilon * np.abs(found)
    return found.T, error.T


def is_linear(probe: Probe, x: Array, value: Array, size: Array, rng: np.random.Generator) -> bool:
    """Whether f(x + v) − f(x) is additive and homogeneous, at two sizes of v, to rounding."""
    epsilon = np.finfo(x.dtype).eps
    for factor in (1.0, 100.0):
        v, w = (factor * size * rng.standard_normal((2, len(x)))).astype(x.dtype)
        points = np.stack([x + v, x + w, x + v + w, x - v, x + 2 * v])
        try:
            values = probe(points)
        except Exception:  # a point outside of f's domain: then f is not linear
            return False
        if not np.all(np.isfinite(values)):
            return False
        fv, fw, fvw, back, twice = (row - value for row in values)
        rounding = 64 * epsilon * np.sqrt(len(x)) * max(float(np.abs(values).max(initial=0.0)), float(np.abs(value).max(initial=0.0)))
        largest = max(np.abs(fvw - fv - fw).max(initial=0), np.abs(fv + back).max(initial=0), np.abs(twice - 2 * fv).max(initial=0))
        if largest > rounding:
            return False
    return True


def second(probe: Probe, x: Array, rows: Array, columns: Array, size: Array, analytic: bool) -> tuple[Array, Array]:
    """Entries ∂²f/∂x_i∂x_j of a scalar f, and their errors; extrapolated once, like :func:`central`.

    Four-point formula with h = eps^(1/6) times the size of x, or, for analytic f, a central difference of complex steps
    (Lai & Crassidis, *J. Comput. Appl. Math.* 219, 276-289 (2008)), which loses fewer figures.
    """
    epsilon = float(np.finfo(x.dtype).eps)
    k = len(rows)

    def at(factor: float) -> tuple[Array, Array]:
        if analytic:
            h = taken(x, rows, factor * epsilon**0.25 * size[rows])
            tiny = COMPLEX_STEP[x.dtype.itemsize] * size[columns]
            points = []
            for sign in (1.0, -1.0):
                moved = shifted(x, rows, sign * h).astype(np.result_type(x.dtype, np.complex64))
                moved[np.arange(k), columns] += 1j * tiny
                points.append(moved)
            values = probe(np.concatenate(points))[:, 0].imag
            slopes = values / np.concatenate([tiny, tiny])
            return (slopes[:k] - slopes[k:]) / (2 * h), 2 * epsilon * np.abs(slopes[:k]) / h
        hi = taken(x, rows, factor * epsilon ** (1 / 6) * size[rows])
        hj = taken(x, columns, factor * epsilon ** (1 / 6) * size[columns])
        points = []
        for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            moved = shifted(x, rows, a * hi)
            moved[np.arange(k), columns] += (b * hj).astype(x.dtype)
            points.append(moved)
        values = probe(np.concatenate(points))[:, 0].reshape(4, k)
        found = (values[0] - values[1] - values[2] + values[3]) / (4 * hi * hj)
        return found, 4 * epsilon * np.abs(values).max(axis=0) / (4 * hi * np.abs(hj))

    near, rounding = at(1.0)
    far, _ = at(2.0)
    best = (4 * near - far) / 3
    error = np.abs(best - near) * (0.05 if analytic else 0.2) + 2 * rounding + epsilon * np.abs(best)
    return best, error
