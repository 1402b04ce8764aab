"""Problems in NumPy, where there is no derivative to compare with: each brings its own by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import approx_fprime

from crelle.cli.problems import Case, Problem

Array = np.ndarray[Any, Any]


def _case(f: Callable[[Array], Array], x: Array, exact: Array, **more: Any) -> Case:
    return Case(f, (x,), lambda: exact, {"scipy approx_fprime": lambda point: approx_fprime(point, f)}, **more)


def square_map() -> Case:
    """z ↦ z² in the plane."""

    def squared(p: Array) -> Array:
        x, y = p
        return np.array([x**2 - y**2, 2 * x * y])

    def remark(matrix: Any) -> str:
        return f"determinant {np.linalg.det(matrix):.6f} = 4 |z|²: areas grow by that much, angles stay"

    return _case(squared, np.array([1.5, 0.5]), np.array([[3.0, -1.0], [1.0, 3.0]]), remark=remark)


def fit() -> Case:
    """Residuals of a damped oscillation."""
    t = np.linspace(0.0, 4.0, 60)
    data = 2.0 * np.exp(-0.5 * t) * np.cos(3.0 * t + 0.3) + 0.05 * np.random.default_rng(4).standard_normal(60)
    p = np.array([1.8, 0.4, 3.1, 0.2])

    def residual(q: Array) -> Array:
        a, decay, w, phase = q
        return np.asarray(a * np.exp(-decay * t) * np.cos(w * t + phase) - data)

    e, angle = np.exp(-p[1] * t), p[2] * t + p[3]
    columns = [
        e * np.cos(angle),
        -t * p[0] * e * np.cos(angle),
        -t * p[0] * e * np.sin(angle),
        -p[0] * e * np.sin(angle),
    ]

    def remark(matrix: Any) -> str:
        return (
            f"condition number {np.linalg.cond(matrix):.1f}: how much noise in the data is amplified in the parameters"
        )

    return _case(residual, p, np.stack(columns, 1), remark=remark)


def running_mean() -> Case:
    """A linear map, though nobody says so."""
    kernel = np.ones(5) / 5
    exact = np.stack([np.convolve(row, kernel, mode="valid") for row in np.eye(80)], 1)

    def smoothed(x: Array) -> Array:
        return np.asarray(np.convolve(x, kernel, mode="valid"))

    return _case(smoothed, np.sin(np.linspace(0, 6, 80)), exact)


def rosenbrock() -> Case:
    """The banana valley, in ten dimensions."""
    x = np.linspace(0.5, 1.4, 10)

    def valley(y: Array) -> Any:
        return np.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)

    diagonal = np.zeros(10)
    diagonal[:-1] += 1200 * x[:-1] ** 2 - 400 * x[1:] + 2
    diagonal[1:] += 200
    exact = np.diag(diagonal) + np.diag(-400 * x[:-1], 1) + np.diag(-400 * x[:-1], -1)

    def slope(y: Array) -> Array:
        return np.asarray(approx_fprime(y, valley, 1e-5))

    def remark(matrix: Any) -> str:
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        return f"curvatures from {values[0]:.1f} to {values[-1]:,.0f}: that is why descent zigzags here"

    natives = {"approx_fprime twice": lambda point: approx_fprime(point, slope, 1e-5)}
    return Case(valley, (x,), lambda: exact, natives, remark=remark)


PROBLEMS = [
    Problem("square map", "numpy", "jacobian", "(x, y) ↦ (x² − y², 2xy) at (1.5, 0.5)", 1e-8, square_map),
    Problem("curve fit", "numpy", "jacobian", "60 residuals of a damped oscillation by its 4 parameters", 1e-8, fit),
    Problem(
        "running mean", "numpy", "jacobian", "a filter on 80 numbers, which happens to be linear", 1e-8, running_mean
    ),
    Problem(
        "Rosenbrock", "numpy", "hessian", "the banana valley in ten dimensions, from values alone", 1e-5, rosenbrock
    ),
]
