"""A structural key of a jaxpr: equal keys compute the same function, so what was compiled for one serves the other.

Constants at the top level are not part of the key but their types are: they are passed as arguments.
"""

from __future__ import annotations

import types
from collections.abc import Hashable
from typing import Any

from jax.extend import core as jex

#: Parameters that hold a derivative rule as a Python callable, by primitive. A rule matters when the jaxpr is differentiated.
_RULES = {
    "custom_jvp_call": ("jvp_jaxpr_fun",),
    "custom_vjp_call": ("fwd_jaxpr_thunk", "bwd", "out_trees"),
    "custom_vjp_call_jaxpr": ("fwd_jaxpr_thunk", "bwd", "out_trees"),
}
#: JAX's own plumbing around a rule: a function from here says nothing about who wrote the rule.
_PLUMBING = (
    "jax._src.interpreters.",
    "jax._src.linear_util",
    "jax._src.custom_derivatives",
    "jax._src.api_util",
    "jax._src.tree_util",
    "jax._src.core",
    "jax._src.util",
)


class UnkeyableError(Exception):
    """The jaxpr holds a derivative rule that is not JAX's own, so equality cannot be decided from its structure."""


class _Identity:
    """A key for an object without structure: equal only to itself, which it keeps alive."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def jaxpr_key(closed: jex.ClosedJaxpr) -> Hashable:
    """The key of a closed jaxpr. Raises :class:`UnkeyableError` where a user's derivative rule is inside."""
    consts = tuple(_aval_key(v.aval) for v in closed.jaxpr.constvars)
    return consts, _body_key(closed.jaxpr)


def _aval_key(aval: Any) -> Hashable:
    return getattr(aval, "shape", None), str(getattr(aval, "dtype", aval)), getattr(aval, "weak_type", False)


def _body_key(jaxpr: jex.Jaxpr) -> Hashable:
    number: dict[Any, int] = {}
    for var in (*jaxpr.constvars, *jaxpr.invars):
        number[var] = len(number)

    def atom(v: Any) -> Hashable:
        if isinstance(v, jex.Literal):
            value = v.val
            if hasattr(value, "tobytes"):  # arrays and NumPy scalars: by content, so that -0.0, 0.0 and nan differ
                value = (type(value).__name__, value.tobytes())
            elif isinstance(value, float):
                value = value.hex()
            return "literal", type(v.val).__name__, value, _aval_key(v.aval)
        return number[v]

    keys: list[Hashable] = [tuple(_aval_key(v.aval) for v in jaxpr.invars)]
    for eqn in jaxpr.eqns:
        ins = tuple([atom(v) for v in eqn.invars])
        for var in eqn.outvars:
            number[var] = len(number)
        rules = _RULES.get(eqn.primitive.name, ())
        params = tuple(
            [(k, _rule_key(v) if k in rules else _param_key(v)) for k, v in sorted(eqn.params.items())]
            if eqn.params
            else ()
        )
        keys.append((eqn.primitive.name, ins, params))
    keys.append(tuple([atom(v) for v in jaxpr.outvars]))
    return tuple(keys)


def _param_key(value: Any) -> Hashable:
    if isinstance(value, jex.ClosedJaxpr):
        return _body_key(value.jaxpr), tuple(_Identity(c) for c in value.consts)
    if isinstance(value, jex.Jaxpr):
        return _body_key(value)
    if isinstance(value, (tuple, list)):
        return type(value).__name__, tuple([_param_key(v) for v in value])
    if isinstance(value, dict):
        return "dict", tuple((k, _param_key(v)) for k, v in value.items())
    if value is None or isinstance(value, (bool, int, str)):
        return type(value).__name__, value
    if hasattr(value, "tobytes") and hasattr(value, "dtype") and not hasattr(value, "aval"):
        return str(value.dtype), value.shape, value.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Identity(value)
    return type(value).__name__, value


def _rule_key(rule: Any) -> Hashable:
    owners = {f"{f.__module__}.{f.__qualname__}" for f in _functions(rule, depth=6)}
    owners = {name for name in owners if not name.startswith(_PLUMBING)}
    if any(not name.startswith("jax.") for name in owners):
        raise UnkeyableError(min(name for name in owners if not name.startswith("jax.")))
    return "rule", tuple(sorted(owners))


def _functions(thing: Any, depth: int) -> list[types.FunctionType]:
    """Every Python function reachable from a rule through wrappers, closures and partials."""
    if depth < 0:
        return []
    found: list[types.FunctionType] = []
    below: list[Any] = []
    if isinstance(thing, types.FunctionType):
        found.append(thing)
        for cell in thing.__closure__ or ():
            try:
                below.append(cell.cell_contents)
            except ValueError:  # an empty cell
                continue
    elif isinstance(thing, types.MethodType):
        below += [thing.__func__, thing.__self__]
    elif isinstance(thing, (tuple, list)):
        below += thing
    elif not isinstance(thing, (str, bytes, int, float, type(None), type)):
        below += [getattr(thing, name, None) for name in ("f", "f_transformed", "func", "fun", "jvp", "fwd", "bwd", "transforms", "args")]
    for item in below:
        found += _functions(item, depth - 1)
    return found
