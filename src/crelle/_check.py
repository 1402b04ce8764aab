"""Judging the first-run check: is one random product of the answer what it should be?"""

from __future__ import annotations

import math
import sys
import warnings

from crelle._arrays import types_text
from crelle._errors import CrelleCheckError, CrelleNonFiniteWarning, describe
from crelle.backends._protocol import Call, CheckReport, Method, Trace

#: Tolerance of the check in units of sqrt(eps): wide enough for sums in float32, far below a wrong derivative.
TOLERANCE = 10.0
#: The widest tolerance, for 16-bit numbers: a derivative that is wrong by a factor is off by more.
COARSEST = 0.3
#: Differences below this many eps are rounding whatever the scale: the terms of a vanishing product may be of order 1.
ROUNDING = 16.0


def judge(call: Call, trace: Trace, method: Method, report: CheckReport, first_error: str) -> tuple[str, str]:
    """The verdict in words ("" if the product is wrong) and the text of the first error.

    Raises:
        CrelleCheckError: f gave two different values at the same point.
    """
    if not report.deterministic:
        raise CrelleCheckError(
            describe(
                f"{call.text}: f is not deterministic: two evaluations at the same point differ",
                called=types_text(call.inputs, call.names),
                likely="random numbers drawn inside f, dropout, or state that f changes",
                try_="pass the random key or generator in, use model.eval(), or check=False if this is meant",
            )
        )
    if report.nonfinite:
        warnings.warn(
            describe(
                f"{call.text}: {report.nonfinite}",
                likely="a norm or sqrt at 0, log(0), a division by 0, or a branch of where that is not taken "
                "but still differentiated",
                try_="make the argument safe before the operation: where(ok, x, 1.0) inside as well as outside",
            ),
            CrelleNonFiniteWarning,
            stacklevel=_callers_level(),
        )
    kinds = [t for t in (*call.inputs, *trace.outputs) if t.is_float or t.is_complex]
    epsilon = max((t.epsilon for t in kinds), default=2.0**-52)
    tolerance = max(min(TOLERANCE * math.sqrt(epsilon), COARSEST), report.tolerance)
    if report.reference.startswith("nothing"):
        return f"no: {report.reference.removeprefix('nothing: ')}", first_error
    relative = report.error / report.scale if report.scale > 0 else report.error
    if not math.isfinite(relative):
        return f"1 random product, finite entries only compared with {report.reference}", first_error
    if relative <= tolerance:
        return f"1 random product against an independent {report.reference}, relative error {relative:.0e}", first_error
    if report.error <= ROUNDING * epsilon:  # what is left of a derivative that cancels, as at a minimum
        return f"1 random product, inconclusive: it is at the level of rounding ({report.scale:.0e})", first_error
    return "", first_error or describe(
        f"{call.text}: the result of {method.mode} is wrong",
        called=types_text(call.inputs, call.names),
        expected=f"a random product equal to that of an independent {report.reference} to {tolerance:.0e}",
        found=f"relative error {relative:.1e} (largest difference {report.error:.3g}, "
        f"largest entry {report.scale:.3g})",
        likely=report.blame
        or "an operation with a wrong derivative rule, or a wrong rule for batches, in the framework",
        try_="another mode=, or check=False if the derivative rule is meant to differ (it is not checked then)",
    )


def _callers_level() -> int:
    """The ``stacklevel`` of the first frame outside of this package, as seen from :func:`judge`."""
    frame, level = sys._getframe(1).f_back, 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "crelle":
        frame, level = frame.f_back, level + 1
    return level
