"""Rules for operations that move, add and scale elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle.backends.jax.lower import known
from crelle.backends.jax.lower.walk import Arg, Lowering, rule
from crelle.tangent.program import Dependence, Reduce
from crelle.tangent.shapes import triangle

Results = Sequence[int | None]


@rule(
    "copy", "copy_p", "convert_element_type", "reduce_precision", "device_put", "sharding_constraint", "pvary",
    "optimization_barrier", "stop_gradient", "mesh_cast", "reshard", "layout_constraint",
)  # fmt: skip
def _same(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    return [a.tangent if np.dtype(_dtype(v)).kind in "fcV" else None for a, v in zip(args, eqn.outvars, strict=True)]


def _dtype(v: Any) -> Any:
    dtype = v.aval.dtype
    return dtype if isinstance(dtype, np.dtype) else np.float32


@rule("neg", "real", "imag", "conj")
def _negate(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    (a,) = args
    return [low.scaled(a.source, Dependence.CONSTANT)]


@rule("add", "add_any", "sub", "complex")
def _add(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    shape = eqn.outvars[0].aval.shape
    return [low.added([low.spread(a.source, shape) if a.linear else None for a in args])]


@rule("mul", "div")
def _multiply(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    a, b = args
    if a.linear == b.linear or (eqn.primitive.name == "div" and b.linear):
        return low.opaque(eqn, args, "not linear in its operands")
    tangent, other = (a, b) if a.linear else (b, a)
    keep = other.keep() if eqn.primitive.name == "mul" else None
    return [low.scaled(tangent.source, other.kind, keep, eqn.outvars[0].aval.shape)]


@rule("select_n")
def _select(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    which, *cases = args
    mask, bounds = which.value(), which.bounds()
    parts: list[int | None] = []
    for k, case in enumerate(cases):
        if case.tangent is None:
            continue
        possible = None if bounds is None else (bounds[0] <= k) & (bounds[1] >= k)
        if mask is not None:
            possible = mask == k
        keep = None if possible is None or possible.all() else possible
        parts.append(low.scaled(case.tangent, which.kind, keep, eqn.outvars[0].aval.shape))
    return [low.added(parts)]


def _moving(eqn: Any) -> Any:
    """The NumPy form of an operation that moves elements."""
    apply = known.EXACT[eqn.primitive.name]
    return lambda *arrays: apply(eqn, *arrays)


@rule("reshape", "squeeze", "expand_dims", "transpose", "rev", "slice", "broadcast_in_dim")
def _move(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    return [low.moved(args[0].source, _moving(eqn), eqn.outvars[0].aval.shape)]


@rule("concatenate")
def _concatenate(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    return [low.joined(args, _moving(eqn), eqn.outvars[0].aval.shape)]


@rule("stack")
def _stack(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    shape = tuple(eqn.outvars[0].aval.shape)
    axis = eqn.params.get("axis", 0)
    return [low.joined(args, lambda *parts: np.stack(parts, axis), shape)]


@rule("split", "unstack")
def _split(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    (a,) = args
    axis = eqn.params.get("axis", 0)
    sizes = eqn.params.get("sizes", (1,) * len(eqn.outvars))
    ends = np.cumsum(sizes)
    results: list[int | None] = []
    for v, end, size in zip(eqn.outvars, ends, sizes, strict=True):
        place = (slice(None),) * axis + (slice(int(end - size), int(end)),)
        shape = tuple(v.aval.shape)
        results.append(low.moved(a.source, lambda ids, p=place, s=shape: ids[p].reshape(s), shape))
    return results


@rule("pad")
def _pad(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    a, fill = args
    config, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    parts: list[int | None] = []
    if a.linear:
        parts.append(low.moved(a.source, lambda ids: known.pad(config, ids), shape))
    if fill.linear:
        inside = known.pad(config, np.ones(a.shape, bool), False)
        spread = low.spread(fill.source, shape)
        parts.append(low.scaled(spread, Dependence.CONSTANT, ~inside))
    return [low.added(parts)]


@rule("reduce_sum")
def _sum(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    (a,) = args
    axes = tuple(eqn.params["axes"])
    if not axes:
        return [a.source]
    shape = [1 if k in axes else s for k, s in enumerate(a.shape)]
    summed = low.lanes(Reduce, a.source, axes, shape, Dependence.CONSTANT)
    out = tuple(eqn.outvars[0].aval.shape)
    return [low.moved(summed, lambda ids: ids.reshape(out), out)]


@rule("cumsum")
def _cumsum(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    (a,) = args
    axis, size = eqn.params["axis"], a.shape[eqn.params["axis"]]
    return [low.mixed(Reduce, a.source, axis, triangle(size, eqn.params["reverse"]), size, Dependence.CONSTANT)]


@rule("cumlogsumexp", "cumprod", "cummax", "cummin")
def _cumulative(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    (a,) = args
    axis, size = eqn.params["axis"], a.shape[eqn.params["axis"]]
    return [low.mixed(Reduce, a.source, axis, triangle(size, eqn.params["reverse"]), size, Dependence.VARYING)]


@rule("psum", "psum2", "psum_invariant")
def _across(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    return low.opaque(eqn, args, "sums over devices")
