"""tr H by way of a matrix G whose trace is known: exactly where H - G has no trace, as a control variate elsewhere.

For the loss of a model, H - G with the generalised Gauss-Newton matrix G is the curvature of the model: Σ_c (∂L/∂z_c)
∇²z_c. A model that is affine in each of its parameters for itself (ReLU networks, linear and convolutional layers, each
used once) has second derivatives ∂²z_c/∂θ_i² = 0, and then tr H = tr G.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._call import bind
from crelle._errors import CrelleError, CrelleShapeError, CrelleTypeError, describe
from crelle._request import make_request
from crelle.estimators._coloured import MOST_FLOPS, flops_of
from crelle.estimators._estimate import Estimate
from crelle.estimators._hutchinson import Floats, Mean, Probes, quadratic_forms, sample, to_host
from crelle.operators._vectors import vectors_of
from crelle.tangent.program import Scale, TangentProgram
from crelle.tangent.sparsity import detect

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

#: Probes on which a control variate is tried.
TRIAL = 4
#: The exact trace of a Gauss-Newton matrix is paid for unasked if it takes at most this share of the budget.
SHARE = 0.25
#: Up to this many parameters the diagonal of second derivatives is looked at entry by entry.
_FEW = 2_000


@dataclass(frozen=True)
class Control:
    """A matrix G with a known trace; ``passes`` is what it took to find the trace, in products."""

    operator: Operator
    trace: float
    passes: int


@dataclass(frozen=True)
class GaussNewton:
    """The Gauss-Newton matrix that belongs to the Hessian of an objective, and its passes for an exact trace."""

    matrix: Any
    passes: int

    def control(self) -> Control | None:
        """With its trace; ``None`` where that is no sum over samples."""
        found = self.matrix.exact_trace()
        return None if found is None else Control(self.matrix, float(found), self.passes)


def gauss_newton(operator: Operator) -> GaussNewton | None:
    """Of the Hessian of a ``crelle.objective``; ``None`` for another operator, or if its arguments have changed."""
    from crelle.operators._derivatives import HessianOperator
    from crelle.operators._objective import gauss_newton_of

    if not isinstance(operator, HessianOperator) or operator._call.abstract or not operator.shape[0]:
        return None
    try:
        matrix: Any = gauss_newton_of(operator._call)
        passes = 0 if matrix is None else matrix.outputs_per_sample
    except CrelleError:  # outputs that are no array of samples: products with H are what there is
        return None
    if matrix is None:
        return None
    ours, theirs = (float(to_host(operator, value)) for value in (operator.value, matrix.value))
    if not math.isclose(ours, theirs, rel_tol=1e-5):
        return None  # parameters or data were changed in place since H was made
    return GaussNewton(matrix, passes)


def proved_equal(found: GaussNewton, limit: int) -> Estimate | None:
    """tr H = tr G where the linearised model proves it, and the trace of G is within the limit."""
    if found.passes > limit or not is_affine_in_each(found.matrix):
        return None
    control = found.control()
    if control is None:
        return None
    note = "the outputs are affine in each parameter by itself: tr H is the trace of the Gauss-Newton matrix"
    return Estimate(control.trace, 0.0, control.passes, "exact, Gauss-Newton", notes=(note,))


def is_affine_in_each(matrix: Any) -> bool:
    """Whether ∂²z_c/∂θ_i² = 0 for all outputs c and parameters i: proved for all values, or False.

    The Hessian of u·z(θ) is read as a linear program. Where no array of parameters comes back to its own gradient, the
    blocks on the diagonal are zero; few parameters are looked at entry by entry.
    """
    call = matrix._bound.call
    backend, argument = call.backend, call.args[0]

    def weighted(params: Any, *rest: Any) -> Any:
        leaves = backend.flatten(call.f(params, *rest[:-1]))[0]
        return sum((leaf * u).sum() for leaf, u in zip(leaves, backend.flatten(rest[-1])[0], strict=True))

    request = make_request("hessian", weighted, argnums=0, memory=None, mode="auto", chunk=None, wrt="inputs")
    try:
        second = bind(weighted, (argument, *call.args[1:], matrix.outputs), {}, request)
        program = backend.tangent_program(second)
    except CrelleError:  # it cannot be traced
        return False
    if not any(own & reached for own, reached in _arrays_reached(program)):
        return True
    if program.columns > _FEW or flops_of(program) > MOST_FLOPS:
        return False
    found = detect(program)
    rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
    return not bool((rows == found.indices).any())


def _arrays_reached(program: TangentProgram) -> list[tuple[int, int]]:
    """For each array of parameters: its own bit, and the bits of all arrays that its gradient depends on."""
    bits = {value: 1 << i for i, value in enumerate(program.inputs)}
    for m in program.maps:
        together = 0
        for operand in m.operands:
            together |= 0 if operand is None else bits.get(operand, 0)
        if isinstance(m, Scale) and m.keep is not None and not m.keep.any():
            together = 0
        bits.update((r, together) for r in m.results if r is not None)
    return [(1 << i, 0 if v is None else bits.get(v, 0)) for i, v in enumerate(program.outputs)]


def control_of(operator: Operator, given: Any) -> Control:
    """What the user passed as a control variate.

    Raises:
        CrelleTypeError: it has no known trace.
        CrelleShapeError: it has another shape than the operator.
    """
    from crelle.operators._operator import Operator

    matrix, trace = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(matrix, Operator) or (trace is None and not hasattr(matrix, "exact_trace")):
        raise CrelleTypeError(
            describe(f"{operator!r}.trace(control={given!r})",
                     expected="crelle.ggn(model, loss).at(...), or (operator, its trace)")
        )  # fmt: skip
    if matrix.shape != operator.shape or matrix.backend.name != operator.backend.name:
        raise CrelleShapeError(
            describe(f"{operator!r}.trace(control={matrix!r})", expected="the same shape and framework")
        )
    if trace is not None:
        return Control(matrix, float(trace), 0)
    found: Any = matrix
    value = found.exact_trace()
    if value is None:
        raise CrelleTypeError(
            describe(f"{operator!r}.trace(control={matrix!r}): its exact trace is not known",
                     likely="the outputs of a sample depend on other samples, or the loss is no sum over samples",
                     try_="control=(G, trace), if you know it")
        )  # fmt: skip
    return Control(matrix, float(value), found.outputs_per_sample)


def hutchinson(probes: Probes, control: Control, rtol: float | None, limit: int) -> Estimate:
    """tr G + E zᵀ(H - G)z, if that varies less for its price than zᵀHz does: four probes say whether it is trusted."""
    plain, rest = Mean(), Mean(control.trace)
    vectors = vectors_of(probes.operator.backend)
    factor = 2  # products for a probe: one with H, one with G

    def differences(count: int) -> Iterator[Floats]:
        for block, found in probes.chunks(count):
            ours = probes.numbers((block * found).sum(1))
            known = vectors.detached(control.operator._products(block))
            theirs = probes.numbers((block * known).sum(1))
            probes.count += len(block)
            if len(plain.samples) < TRIAL:
                plain.samples.extend(ours.tolist())
            yield ours - theirs

    probes.count += control.passes
    tried = min(TRIAL, (limit - probes.count) // factor)
    if tried >= 2:
        sample(rest, differences, None, tried, "trace, with a control variate")
    before, after = (float(np.std(m.samples, ddof=1)) if len(m.samples) > 1 else math.inf for m in (plain, rest))
    spread = f"standard deviation of a probe {before:.3g} -> {after:.3g}"
    if rest.partial or factor * after**2 < before**2 < math.inf:
        if not rest.partial:
            most = len(rest.samples) + max(limit - probes.count, 0) // factor
            sample(rest, differences, rtol, most, "trace, with a control variate")
        note = f"control variate {control.operator!r}: {spread}"
        return Estimate(rest.value, rest.stderr, probes.count, "Hutchinson, control variate", rest.partial, (note,))
    most = len(plain.samples) + max(limit - probes.count, 0)
    sample(plain, lambda count: quadratic_forms(probes, count), rtol, max(most, 1), "trace, Hutchinson")
    note = f"control variate dropped: {spread}, at twice the price"
    return Estimate(plain.value, plain.stderr, probes.count, "Hutchinson", plain.partial, (note,))
