"""Computing the wanted part of a Jacobian or Hessian, a block of columns at a time, with its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.backends.numpy import second, steps, survey
from crelle.backends.numpy.answer import Wanted
from crelle.backends.numpy.function import BlackBox, ChangedError
from crelle.backends.numpy.layouts import Columns, WholeColumns
from crelle.backends.numpy.survey import Facts
from crelle.backends.numpy.symmetric import Triangle

Array = np.ndarray[Any, np.dtype[Any]]

#: Seeds of the directions of the checks. Different from those of the survey, whose findings they put to the test.
SEEDS = (11, 12)
#: Bytes of the values and temporaries of one block of columns.
BLOCK_BYTES = 32 * 2**20
#: Numbers that are held for each entry of a block: values at four points, two slopes, errors, and what numpy adds.
PER_ENTRY = 12


@dataclass(slots=True)
class Computed:
    """The wanted part of the flat matrix, its errors, and what the check needs.

    Attributes:
        uncertain: what the errors allow the product with the direction of :func:`direction` to be off, [rows]; one
            number for the bilinear form of a Hessian.
    """

    matrix: Array
    error: Array | None
    uncertain: Array


def direction(box: BlackBox, which: int, indices: Array) -> Array:
    """A random direction that moves only some entries of x."""
    full = steps.random_direction(box, SEEDS[which])
    out = np.zeros_like(full)
    out[indices] = full[indices]
    return out


def jacobian(
    box: BlackBox, mode: str, facts: Facts, wanted: Wanted, dtype: np.dtype[Any], error: bool, chunk: int, guard: bool
) -> Computed:
    """The wanted part of the Jacobian.

    Args:
        chunk: columns in a block.
        guard: test that f is still analytic, where that is used.

    Raises:
        ChangedError: f is not what ``facts`` say.
    """
    box.keep = None if len(wanted.rows) == box.base_size else wanted.rows
    box.begin_run(facts.batched)
    store, errors = wanted.empty(dtype), wanted.empty(np.zeros(0, dtype).real.dtype) if error else None
    v = direction(box, 0, wanted.cols)
    product, uncertain = np.zeros(box.m, np.result_type(box.out_dtype, box.x.dtype)), np.zeros(box.m)
    linear = facts.linear and mode == "central"
    origin = at_zero(box) if linear and len(wanted.cols) else None
    for start in range(0, len(wanted.cols), chunk):
        columns = wanted.cols[start : start + chunk]
        found, off = slopes(box, mode, WholeColumns(box, columns), origin, error)
        with np.errstate(all="ignore"):
            product += v[columns] @ found
            uncertain += np.abs(v[columns]) @ off
        wanted.put_columns(store, start, found)
        if errors is not None:
            wanted.put_columns(errors, start, off)
    if len(wanted.cols):
        box.begin_run(False)
        if linear:
            prove_linear(box, v, product, uncertain)
        elif mode == "complex-step" and guard:
            prove_analytic(box, v, product)
    finish = wanted.finish
    return Computed(finish(store), None if errors is None else finish(errors), uncertain)


def at_zero(box: BlackBox) -> Array:
    """f(0), which the columns of a linear f are measured from."""
    return np.asarray(box.at(np.zeros((1, box.n), box.x.dtype), lambda i: "zeros")[0])


def slopes(box: BlackBox, mode: str, columns: Columns, origin: Array | None, error: bool) -> tuple[Array, Array]:
    """Entries of columns and their errors, in the layout of the columns.

    Args:
        origin: f(0) if f is linear.
        error: whether errors are wanted where they take evaluations of their own.
    """
    if mode == "complex-step":
        return steps.complex_step(box, columns, error)
    if origin is not None:
        return steps.unit_differences(box, origin, columns)
    return steps.column_lines(box, columns).central()


def prove_analytic(box: BlackBox, v: Array, product: Array) -> None:
    """J v by complex steps must be what differences say: quick ones, and careful ones where these raise a doubt."""
    slope, allowed = steps.quick(box, v)
    with np.errstate(all="ignore"):
        if np.all(np.abs(slope - product) <= allowed):
            return
    wrong = survey.disagreement(box, product, *steps.along(box, v))
    if wrong:
        raise ChangedError(wrong)


def prove_linear(box: BlackBox, v: Array, product: Array, uncertain: Array) -> None:
    """f(x + v) − f(x) must be J v to rounding, and so must the slope at x."""
    far = box.at((box.x + v)[None], lambda i: "x + v for a random direction v")[0]
    slope, error = steps.along(box, v)
    with np.errstate(all="ignore"):
        allowed = 4 * uncertain + 4 * steps.linear_rounding(box) * (np.abs(far) + np.abs(box.value))
        good = (np.abs(far - box.value - product) <= allowed) & (np.abs(slope - product) <= allowed + 10 * error)
    if not np.all(good):
        raise ChangedError("f is not linear here")


def hessian(
    box: BlackBox, facts: Facts, wanted: Wanted, dtype: np.dtype[Any], error: bool, chunk: int, guard: bool
) -> Computed:
    """The wanted part of the Hessian: every entry of one triangle at most once.

    Raises:
        ChangedError: f is not what ``facts`` say.
    """
    box.begin_run(facts.batched)
    real = np.zeros(0, dtype).real.dtype
    store, errors = wanted.empty(dtype), wanted.empty(real) if error else None
    rows, cols = wanted.rows, wanted.cols
    w, v = direction(box, 1, rows), direction(box, 0, cols)
    uncertain = np.zeros(1)
    if facts.linear:
        if len(cols):
            prove_affine(box, v)
        return Computed(wanted.finish(store), None if errors is None else wanted.finish(errors), uncertain)
    method: second.Analytic | second.Real = second.Analytic(box) if facts.analytic else second.Real(box)
    triangle = Triangle(wanted)
    for r, c in triangle.blocks(chunk):
        found, off = method.entries(rows[r], cols[c])
        triangle.write(store, r, c, found)
        if errors is not None:
            triangle.write(errors, r, c, off)
        a, b, which = triangle.mirror(r, c)
        with np.errstate(all="ignore"):
            uncertain += np.abs(w[rows[r]] * v[cols[c]]) @ off + np.abs(w[rows[a]] * v[cols[b]]) @ off[which]
    if guard:
        prove_gradient(box, method)
    return Computed(wanted.finish(store), None if errors is None else wanted.finish(errors), uncertain)


def prove_affine(box: BlackBox, v: Array) -> None:
    """f(x + v) + f(x − v) must be 2 f(x) to rounding."""
    middle = box.at(np.stack([box.x + v, box.x - v]), lambda i: "x + v for a random direction v").sum(0)
    size = steps.linear_rounding(box) * (np.abs(middle) + np.abs(box.value))
    if not np.all(np.abs(middle - 2 * box.value) <= 4 * size):
        raise ChangedError("f is not linear here")


def prove_gradient(box: BlackBox, method: second.Analytic | second.Real) -> None:
    """The gradient that second derivatives were made from must be what differences say."""
    if isinstance(method, second.Analytic) and method.gradient is not None:
        box.begin_run(False)
        every = direction(box, 0, np.arange(box.n))
        prove_analytic(box, every, np.atleast_1d(method.gradient @ every))
