"""The first-run check: one product of the answer against a difference along a random direction, with other steps.

What they may differ by comes from the estimated errors of both, so a function that is noisy is not called wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle._arrays import total_size
from crelle.backends._protocol import Call, CheckReport
from crelle.backends.numpy import answer, run, second, steps
from crelle.backends.numpy.answer import Layout, Wanted
from crelle.backends.numpy.function import BlackBox

Array = np.ndarray[Any, np.dtype[Any]]

#: The first steps of the check are longer than those that made the answer by this factor.
OTHER_STEPS = 4.0
#: Differences of this many estimated errors are no mistake.
SLACK = 10.0


def report(call: Call, given: Any, value: Array, uncertain: Array, coarse: Array | None) -> CheckReport:
    """The report on an answer.

    Args:
        value: f(x), flat, from the run that made the answer.
        uncertain: what the estimated errors of the answer allow its product to be off.
        coarse: precision of the outputs, where it is less than that of their dtypes.
    """
    request = call.request
    box = BlackBox.of(call)
    box.coarse = coarse
    result = box.evaluate_base()
    layout = answer.layout_of(call, result)
    m = total_size(layout.outer)
    wanted = Wanted(request.selection.resolve(m, box.n), m, box.n)
    hessian = request.kind == "hessian"
    deterministic = np.array_equal(box.value, value, equal_nan=True)
    if not hessian and len(wanted.rows) != m:
        box.keep = wanted.rows
    derivative, _ = answer.derivative_of(call, given)
    nonfinite = "; ".join(
        filter(None, (answer.nonfinite_text("value", result.output), answer.nonfinite_text("derivative", derivative)))
    )
    if not deterministic:
        return CheckReport(0.0, 0.0, "", nonfinite, deterministic=False)
    if not len(wanted.rows) or not len(wanted.cols):
        return CheckReport(0.0, 0.0, "nothing: nothing was asked for", nonfinite)
    if wanted.pairs is not None:
        wanted, derivative, uncertain = _one_entry(wanted, derivative)
        box.keep = None if hessian else wanted.rows
    v = run.direction(box, 0, wanted.cols)
    found = _product(layout, wanted, derivative, v, request.flat)
    if hessian:
        w = run.direction(box, 1, wanted.rows)
        found = np.atleast_1d(w[wanted.rows] @ found if request.flat else w @ found)
        slope, error, blame = *second.along(box, w, v), ""
    else:
        slope, error, blame = independent(box, v, request.holomorphic)
    return worst(found, slope, error + uncertain, nonfinite, blame)


def independent(box: BlackBox, v: Array, holomorphic: bool) -> tuple[Array, Array, str]:
    """J v by other steps, its errors, and what is wrong with f: whether a slope along i v contradicts it."""
    slope, error = steps.along(box, v, OTHER_STEPS)
    if holomorphic:
        other, other_error = steps.along(box, 1j * v, OTHER_STEPS)
        with np.errstate(all="ignore"):
            apart = np.abs(other - 1j * slope)
        if np.any(apart > SLACK * (error + other_error) + 1e-6 * np.abs(slope)):
            return other / 1j, error, "f is not holomorphic: ∂f/∂y is not i ∂f/∂x"
    return slope, error, ""


def _one_entry(wanted: Wanted, derivative: Any) -> tuple[Wanted, Array, Array]:
    """Of single entries the first is checked, as a matrix with one row and one column."""
    assert wanted.pairs is not None
    row, col = (index[0] for index in wanted.pairs)
    one = wanted.only(int(wanted.rows[row]), int(wanted.cols[col]))
    return one, np.reshape(np.atleast_1d(derivative)[0], (1, 1)), np.zeros(1)


def _product(layout: Layout, wanted: Wanted, derivative: Any, v: Array, flat: bool) -> Array:
    if not flat:
        return layout.product(derivative, v)
    matrix = wanted.matrix(np.asarray(derivative))
    with np.errstate(all="ignore"):
        return matrix @ v[wanted.cols]


def excess(found: Array, slope: Array, allowed: Array) -> Array:
    """What each output is off, in units of what it may be off."""
    with np.errstate(all="ignore"):
        return np.asarray(np.abs(found - slope) / (SLACK * allowed + 1e-9 * np.abs(slope) + 1e-300))


def worst(found: Array, slope: Array, allowed: Array, nonfinite: str, blame: str) -> CheckReport:
    """The output that is off most, in units of what it may be off."""
    ratio = excess(found, slope, allowed)
    known = np.isfinite(ratio)
    if not known.any():
        return CheckReport(0.0, 0.0, "difference: none of them is finite", nonfinite, blame=blame)
    i = int(np.argmax(np.where(known, ratio, -1.0)))
    apart, scale = float(np.abs(found[i] - slope[i])), float(np.abs(slope[i]))
    tolerance = SLACK * float(np.broadcast_to(allowed, ratio.shape)[i])
    return CheckReport(
        apart, scale, "difference", nonfinite, blame=blame or "f is not smooth here, or noisy",
        tolerance=tolerance / scale if scale > 0 else tolerance,
    )  # fmt: skip
