"""Cost of a jaxpr: flops, bytes and live memory, by primitive. An estimate to rank ways, not a profiler."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from jax.extend import core as jex

from crelle.tangent.cost import PassCost

#: Operations that only relabel data: XLA fuses them into their consumer.
_FREE = frozenset(
    ("reshape", "squeeze", "broadcast_in_dim", "transpose", "convert_element_type", "copy", "stop_gradient", "slice",
     "rev", "expand_dims", "copy_p", "split", "unstack", "optimization_barrier", "iota", "pvary")
)  # fmt: skip
_TRANSCENDENTAL = frozenset(
    ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "exp", "exp2", "expm1", "log",
     "log1p", "log2", "logistic", "pow", "erf", "erfc", "erf_inv", "lgamma", "digamma", "igamma", "igammac", "sqrt",
     "rsqrt", "cbrt")
)  # fmt: skip
_TRANSCENDENTAL_FLOPS = 10
_MATMUL = frozenset(("dot_general", "conv_general_dilated"))
#: Lane-wise dense factorisations and solves: flops per lane of length k are about k^3 / 3, or k^2 per right-hand side.
_CUBIC = frozenset(("cholesky", "lu", "qr", "geqrf", "householder_product", "eigh", "eig", "svd", "schur"))


def _nbytes(v: Any) -> int:
    aval = v.aval
    shape = getattr(aval, "shape", ())
    return math.prod(shape) * getattr(getattr(aval, "dtype", None), "itemsize", 1)


def _shape(v: Any) -> tuple[int, ...]:
    return getattr(v.aval, "shape", ())


def _size(v: Any) -> int:
    return math.prod(_shape(v))


def sub_jaxprs(eqn: Any) -> list[tuple[jex.Jaxpr, float]]:
    """The jaxprs that an equation runs, each with how often: scans by length, loops of unknown length once."""
    found: list[tuple[jex.Jaxpr, float]] = []
    times = float(eqn.params.get("length", 1)) if eqn.primitive.name == "scan" else 1.0
    for key, value in eqn.params.items():
        if key == "jvp_jaxpr_fun":
            continue
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, jex.ClosedJaxpr):
                found.append((item.jaxpr, times))
            elif isinstance(item, jex.Jaxpr):
                found.append((item, times))
    if eqn.primitive.name == "cond":  # one branch runs: the dearest is assumed
        found = sorted(found, key=lambda pair: -sum(_work(pair[0])))[:1]
    return found


def _work(jaxpr: jex.Jaxpr) -> tuple[float, float, float]:
    """(matmul flops, other flops, bytes) of one run."""
    matmul = flops = moved = 0.0
    for eqn in jaxpr.eqns:
        a, b, c = _equation_work(eqn)
        matmul, flops, moved = matmul + a, flops + b, moved + c
    return matmul, flops, moved


def equation_cost(eqn: Any) -> tuple[float, float]:
    """(flops, bytes) of one equation."""
    matmul, flops, moved = _equation_work(eqn)
    return matmul + flops, moved


def _equation_work(eqn: Any) -> tuple[float, float, float]:
    """(matmul flops, other flops, bytes) of one equation."""
    name = eqn.primitive.name
    matmul = flops = moved = 0.0
    inner = sub_jaxprs(eqn)
    if inner:
        for sub, times in inner:
            a, b, c = _work(sub)
            matmul, flops, moved = matmul + times * a, flops + times * b, moved + times * c
        return matmul, flops, moved
    if name in _FREE:
        return 0.0, 0.0, 0.0
    out = sum(_size(v) for v in eqn.outvars)
    moved = float(sum(_nbytes(v) for v in eqn.outvars) + sum(_nbytes(v) for v in eqn.invars))
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        matmul = 2.0 * out * math.prod(_shape(eqn.invars[0])[i] for i in contract)
    elif name == "conv_general_dilated":
        kernel = _shape(eqn.invars[1])
        features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        matmul = 2.0 * out * math.prod(kernel) / max(features, 1)
    elif name in _CUBIC or name == "triangular_solve":
        lane = _shape(eqn.invars[0])[-1] if _shape(eqn.invars[0]) else 1
        matmul = float(out) * lane
    else:
        flops = float(out * (_TRANSCENDENTAL_FLOPS if name in _TRANSCENDENTAL else 1))
    return matmul, flops, moved


def _operations(jaxpr: jex.Jaxpr) -> int:
    count = 0
    for eqn in jaxpr.eqns:
        inner = sub_jaxprs(eqn)
        if inner:
            count += sum(_operations(sub) * int(times) for sub, times in inner)
        else:
            count += eqn.primitive.name not in _FREE
    return count


def _peak(jaxpr: jex.Jaxpr, skip: Iterable[Any] = ()) -> int:
    """Largest sum of live values that the equations make, without the ``skip`` variables."""
    last: dict[Any, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        for v in eqn.invars:
            if not isinstance(v, jex.Literal):
                last[v] = i
    for v in jaxpr.outvars:
        if not isinstance(v, jex.Literal):
            last[v] = len(jaxpr.eqns)
    held = {v: _nbytes(v) for v in jaxpr.invars if v in last and v not in set(skip)}
    live = peak = sum(held.values())
    for i, eqn in enumerate(jaxpr.eqns):
        inside = max((_peak(sub) for sub, _ in sub_jaxprs(eqn)), default=0)
        for v in eqn.outvars:
            if v in last:
                held[v] = 0 if eqn.primitive.name in _FREE else _nbytes(v)
                live += held[v]
        peak = max(peak, live + inside)
        for v in {v for v in eqn.invars if not isinstance(v, jex.Literal)}:
            if last.get(v) == i:
                live -= held.pop(v, 0)
    return peak


def pass_cost(linear: jex.ClosedJaxpr, primal: jex.Jaxpr | None, given: Iterable[Any] = ()) -> PassCost:
    """Cost of one pass of ``linear`` (its constants are the coefficients), and of the ``primal`` that computes them.

    Args:
        given: inputs and captured values: coefficients that are there anyway, and take no further memory.
    """
    matmul, flops, moved = _work(linear.jaxpr)
    coefficients = float(sum(_nbytes(v) for v in linear.jaxpr.constvars))
    there = {id(value) for value in given}
    kept = sum(_nbytes(v) for v, c in zip(linear.jaxpr.constvars, linear.consts, strict=True) if id(c) not in there)
    primal_matmul, primal_flops, primal_moved = _work(primal) if primal is not None else (0.0, 0.0, 0.0)
    return PassCost(
        flops=flops,
        matmul_flops=matmul,
        bytes=max(0.0, moved - coefficients),
        coefficient_bytes=coefficients,
        ops=_operations(linear.jaxpr),
        peak_bytes=_peak(linear.jaxpr, linear.jaxpr.constvars),
        residual_bytes=float(kept),
        primal_flops=primal_flops + primal_matmul / 4,
        primal_bytes=primal_moved,
        primal_ops=_operations(primal) if primal is not None else 0,
    )
