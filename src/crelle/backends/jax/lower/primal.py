"""Values that do not depend on the tangents: what they depend on, what they are, and bounds of indices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex

from crelle.backends.jax.lower import known
from crelle.backends.jax.lower.walk import Arg, Bounds, Entry, Primal
from crelle.tangent.program import Dependence


def results(eqn: Any, args: Sequence[Arg]) -> list[Entry]:
    """The results of an equation without tangents."""
    entries = [a.entry for a in args if isinstance(a.entry, Primal)]
    kind = max((e.kind for e in entries), default=Dependence.CONSTANT)
    inputs = tuple(e.known for e in entries if e.known is not None)
    if eqn.effects:
        return [Primal(Dependence.VARYING) for _ in eqn.outvars]
    if len(inputs) == len(args):
        return [Primal(kind, k) for k in known.results(eqn, inputs)]
    return [Primal(kind, None, _bounds(eqn, args, v)) for v in eqn.outvars]


def _bounds(eqn: Any, args: Sequence[Arg], v: Any) -> Callable[[], Bounds | None] | None:
    dtype = getattr(v.aval, "dtype", None)
    if dtype is None or not isinstance(dtype, np.dtype) or np.dtype(dtype).kind not in "biu":
        return None
    rule = _RULES.get(eqn.primitive.name)
    if rule is None:
        return None
    mine = [args[eqn.outvars.index(v)]] if eqn.primitive.name == "sort" else list(args)
    return functools.cache(lambda: _checked(rule(eqn, mine), v))


def _checked(found: Bounds | None, v: Any) -> Bounds | None:
    if found is None:
        return None
    low, high = (np.broadcast_to(np.asarray(b, np.int64), v.aval.shape) for b in found)
    info = np.iinfo(v.aval.dtype) if v.aval.dtype != bool else np.iinfo(np.int8)
    if low.size and (low.min() < info.min or high.max() > min(info.max, np.iinfo(np.int64).max)):
        return None  # it may wrap around
    return low, high


def _both(eqn: Any, args: list[Arg], most: int = 2**62) -> list[Bounds] | None:
    """Bounds of all operands, if none is so large that sums of two of them wrap around."""
    found = []
    for a in args:
        b = a.bounds()
        if b is None or b[0].dtype.kind not in "biu":
            return None
        if b[0].size and not -most <= int(b[0].min()) <= int(b[1].max()) <= most:
            return None
        found.append((b[0].astype(np.int64), b[1].astype(np.int64)))
    return found


def _monotone(eqn: Any, args: list[Arg]) -> Bounds | None:
    """Operations that move elements, or grow with each of their operands."""
    found = _both(eqn, args)
    if found is None:
        return None
    apply = known.EXACT[eqn.primitive.name]
    return apply(eqn, *[low for low, _ in found]), apply(eqn, *[high for _, high in found])


def _add(eqn: Any, args: list[Arg]) -> Bounds | None:
    found = _both(eqn, args)
    return None if found is None else (found[0][0] + found[1][0], found[0][1] + found[1][1])


def _sub(eqn: Any, args: list[Arg]) -> Bounds | None:
    found = _both(eqn, args)
    return None if found is None else (found[0][0] - found[1][1], found[0][1] - found[1][0])


def _mul(eqn: Any, args: list[Arg]) -> Bounds | None:
    found = _both(eqn, args, 2**31)
    if found is None:
        return None
    products = [a * b for a in found[0] for b in found[1]]
    return functools.reduce(np.minimum, products), functools.reduce(np.maximum, products)


def _rem(eqn: Any, args: list[Arg]) -> Bounds | None:
    divisor = args[1].value()
    if divisor is None or not (divisor > 0).all():
        return None
    most = divisor.astype(np.int64) - 1
    found = args[0].bounds()
    low: Any = -most
    if found is not None and (found[0] >= 0).all():
        low, most = np.zeros_like(most), np.minimum(most, found[1].astype(np.int64))
    return np.broadcast_to(low, np.shape(most)), most


def _arg(eqn: Any, args: list[Arg]) -> Bounds:
    size = int(np.prod([args[0].shape[a] for a in eqn.params["axes"]]))
    return np.asarray(0), np.asarray(max(size - 1, 0))


def _clamp(eqn: Any, args: list[Arg]) -> Bounds | None:
    low, high = args[0].bounds(), args[2].bounds()
    if low is None or high is None:
        return None
    inner = args[1].bounds()
    if inner is None:
        return np.minimum(low[0], high[0]), high[1]
    return np.minimum(np.maximum(inner[0], low[0]), high[0]), np.minimum(np.maximum(inner[1], low[1]), high[1])


def _least(eqn: Any, args: list[Arg]) -> Bounds | None:
    """min: an upper bound of one operand is one of the result."""
    return _one_sided(args, np.minimum, 1)


def _most(eqn: Any, args: list[Arg]) -> Bounds | None:
    return _one_sided(args, np.maximum, 0)


def _one_sided(args: list[Arg], function: Any, side: int) -> Bounds | None:
    found = [a.bounds() for a in args]
    some = [b for b in found if b is not None]
    if not some:
        return None
    if len(some) == 2:
        return function(some[0][0], some[1][0]), function(some[0][1], some[1][1])
    dtype = args[0].dtype
    info = np.iinfo(dtype) if np.dtype(dtype) != bool else np.iinfo(np.int8)
    open_end = np.asarray(info.min if side == 1 else min(info.max, np.iinfo(np.int64).max), np.int64)
    return (open_end, some[0][1]) if side == 1 else (some[0][0], open_end)


def _select(eqn: Any, args: list[Arg]) -> Bounds | None:
    which = args[0].bounds()
    cases = _both(eqn, args[1:])
    if cases is None:
        return None
    low, high = (np.zeros((), int), np.asarray(len(cases) - 1)) if which is None else which
    lows = [np.where((k >= low) & (k <= high), c[0], np.iinfo(np.int64).max) for k, c in enumerate(cases)]
    highs = [np.where((k >= low) & (k <= high), c[1], np.iinfo(np.int64).min) for k, c in enumerate(cases)]
    return functools.reduce(np.minimum, lows), functools.reduce(np.maximum, highs)


def _compare(sure: Callable[[Bounds, Bounds], tuple[Any, Any]]) -> Callable[[Any, list[Arg]], Bounds | None]:
    """(surely true, surely false) from the bounds of both sides."""

    def rule(eqn: Any, args: list[Arg]) -> Bounds:
        found = _both(eqn, args)
        if found is None:
            return np.asarray(0), np.asarray(1)
        true, false = sure(*found)
        return np.where(true, 1, 0), np.where(false, 0, 1)

    return rule


def _convert(eqn: Any, args: list[Arg]) -> Bounds | None:
    if args[0].dtype == bool:
        return args[0].bounds() or (np.asarray(0), np.asarray(1))
    found = _both(eqn, args)
    if found is None or eqn.outvars[0].aval.dtype == bool:
        return None
    return found[0]


def _picked(eqn: Any, args: list[Arg]) -> Bounds | None:
    """Elements of something: no smaller than its least."""
    found = args[0].bounds()
    if found is None or not found[0].size or "fill" in str(eqn.params.get("mode", "")).lower():
        return None
    return found[0].min(), found[1].max()


_RULES: dict[str, Callable[[Any, list[Arg]], Bounds | None]] = {
    "add": _add, "sub": _sub, "mul": _mul, "rem": _rem, "argmax": _arg, "argmin": _arg, "clamp": _clamp,
    "min": _least, "max": _most, "select_n": _select, "gather": _picked,
    "dynamic_slice": _picked, "sort": _picked, "convert_element_type": _convert,
    "lt": _compare(lambda a, b: (a[1] < b[0], a[0] >= b[1])), "le": _compare(lambda a, b: (a[1] <= b[0], a[0] > b[1])),
    "gt": _compare(lambda a, b: (a[0] > b[1], a[1] <= b[0])), "ge": _compare(lambda a, b: (a[0] >= b[1], a[1] < b[0])),
}  # fmt: skip
_MOVING = (
    "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "rev", "slice", "concatenate", "copy",
    "stop_gradient", "reduce_max", "reduce_min",
)  # fmt: skip
_RULES.update(dict.fromkeys(_MOVING, _monotone))


class Cut:
    """The part of a jaxpr that some of its outputs need."""

    def __init__(self, jaxpr: jex.Jaxpr, wanted: Sequence[bool]) -> None:
        self.jaxpr = jaxpr
        self.outvars = [v for v, w in zip(jaxpr.outvars, wanted, strict=True) if w]
        live = {v for v in self.outvars if not isinstance(v, jex.Literal)}
        self.eqns: list[Any] = []
        for eqn in reversed(jaxpr.eqns):
            if eqn.effects or any(v in live for v in eqn.outvars):
                self.eqns.insert(0, eqn)
                live.update(v for v in eqn.invars if not isinstance(v, jex.Literal))
        self.read = [v in live for v in jaxpr.invars]

    def __call__(self, given: Mapping[int, Any]) -> list[Any]:
        """The outputs from the inputs that are read, by position."""
        env = {v: given[k] for k, v in enumerate(self.jaxpr.invars) if self.read[k]}

        def value(v: Any) -> Any:
            return v.val if isinstance(v, jex.Literal) else env[v]

        for eqn in self.eqns:
            env.update(zip(eqn.outvars, known.bind(eqn, [value(v) for v in eqn.invars]), strict=True))
        return [value(v) for v in self.outvars]
