"""A tangent in two parts: what went only through constant coefficients, and the rest.

J v = C v + V(x) v, where C is the same for every x. V alone is run without C v ever being subtracted from J v, which
would lose digits where C is large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax.extend import core as jex

from crelle.backends.jax.lower.known import bind
from crelle.tangent.program import Dependence

#: Equations that are walked as if they stood in their place.
_INLINED = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call")


#: Linear in each operand, not in both: a tangent in both means that values were taken for tangents.
_BILINEAR = ("mul", "div", "dot_general", "conv_general_dilated", "triangular_solve")


class CannotSplit(Exception):
    """Values and tangents cannot be told apart in an equation."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A tangent: its constant part and the rest; ``None`` is zero."""

    constant: Any
    varying: Any

    def whole(self) -> Any:
        """The tangent itself."""
        if self.constant is None:
            return self.varying
        return self.constant if self.varying is None else self.constant + self.varying


@dataclass(frozen=True, slots=True)
class _Value:
    """A coefficient, and whether it is the same for every x."""

    value: Any
    constant: bool


def split(closed: jex.ClosedJaxpr, kinds: Sequence[Dependence]) -> Callable[[Sequence[Any], Sequence[Any]], Any]:
    """(values, tangents) -> (constant parts, varying parts) of the tangents that a jaxpr returns.

    Args:
        closed: a jaxpr of values, then tangents, that is linear in the tangents.
        kinds: what each value depends on; the part that does not vary with anything but constants is split off.
    """

    def parts(values: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        given: list[Any] = [_Value(v, kind == Dependence.CONSTANT) for v, kind in zip(values, kinds, strict=True)]
        given += [_Pair(t, None) for t in tangents]
        results = _walk(closed.jaxpr, [_Value(c, True) for c in closed.consts], given)
        pairs = [r if isinstance(r, _Pair) else _Pair(None, None) for r in results]
        shapes = [v.aval for v in closed.jaxpr.outvars]
        constant = [_filled(p.constant, s) for p, s in zip(pairs, shapes, strict=True)]
        return constant, [_filled(p.varying, s) for p, s in zip(pairs, shapes, strict=True)]

    return parts


def _filled(value: Any, aval: Any) -> Any:
    return jnp.zeros(aval.shape, aval.dtype) if value is None else value


def _walk(jaxpr: jex.Jaxpr, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    env: dict[Any, Any] = {}
    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, given, strict=True))

    def read(v: Any) -> Any:
        return _Value(v.val, True) if isinstance(v, jex.Literal) else env[v]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _equation(eqn, [read(v) for v in eqn.invars]), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: Any, args: list[Any]) -> Sequence[Any]:
    if eqn.primitive.name in _INLINED:
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if isinstance(inner, jex.ClosedJaxpr):
            return _walk(inner.jaxpr, [_Value(c, True) for c in inner.consts], args)
        if inner is not None and not inner.constvars:
            return _walk(inner, [], args)
    pairs = sum(isinstance(a, _Pair) for a in args)
    if pairs and (eqn.primitive.name == "while" or (pairs > 1 and eqn.primitive.name in _BILINEAR)):
        raise CannotSplit(f"values and tangents go through {eqn.primitive.name} together")
    if eqn.primitive.name == "optimization_barrier":  # values beside tangents, all as they are
        return args
    constant = all(a.constant for a in args if isinstance(a, _Value)) and not eqn.effects
    if not pairs:
        found = bind(eqn, [a.value for a in args])
        return [_Value(v, constant) for v in found]
    if not constant:
        whole = [a.whole() if isinstance(a, _Pair) else a.value for a in args]
        results = _applied(eqn, args, whole)
        # loops carry counters beside tangents
        inexact = [jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars]
        return [_Pair(None, r) if float_ else _Value(r, False) for r, float_ in zip(results, inexact, strict=True)]
    parts = []
    for side in ("constant", "varying"):
        some = [getattr(a, side) if isinstance(a, _Pair) else a.value for a in args]
        alive = any(isinstance(a, _Pair) and s is not None for a, s in zip(args, some, strict=True))
        parts.append(_applied(eqn, args, some) if alive else [None] * len(eqn.outvars))
    return [_Pair(c, v) for c, v in zip(*parts, strict=True)]


def _applied(eqn: Any, args: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """The equation at some values; a part that is zero comes as zeros."""
    filled = [
        _filled(value, v.aval) if isinstance(a, _Pair) else value
        for a, value, v in zip(args, values, eqn.invars, strict=True)
    ]
    return bind(eqn, filled)
