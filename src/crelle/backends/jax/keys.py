"""A structural key of a jaxpr: equal keys compute the same function, so what was compiled for one serves the other.

Constants at the top level are not part of the key but their types are: they are passed as arguments.
"""

from __future__ import annotations

import types
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

#: Parameters that hold a derivative rule as a Python callable, by primitive.
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
#: Where the layers of a rule keep what is inside them.
_INSIDE = ("f", "f_transformed", "func", "fun", "jvp", "fwd", "bwd", "transforms", "args", "keywords", "__wrapped__")
#: Modules whose objects carry no code of the user's but in the places above.
_KNOWN = ("builtins", "jax.", "jaxlib.", "functools", "numpy", "types", "weakref", "collections")
_PLAIN = (
    str, bytes, int, float, complex, type(None), type, types.ModuleType, jax.Array, np.ndarray, np.generic, np.dtype,
)  # fmt: skip
#: Constants of inner jaxprs up to this many bytes are compared by content: library functions make them anew each time.
_SMALL_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a jaxpr.

    Attributes:
        structure: everything but the values of floating-point literals at the top level.
        literals: these values.
        opaque: the name of a derivative rule that is not JAX's own; such a rule is Python code whose meaning the key
            does not hold. Empty if there is none.
    """

    structure: Hashable
    literals: Hashable
    opaque: str = ""


class _Identity:
    """A key for an object without structure: equal only to itself, which it keeps alive."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def jaxpr_key(closed: jex.ClosedJaxpr, rules: bool = True) -> Key:
    """The key of a closed jaxpr; without its derivative rules if it is only run, and not differentiated."""
    walk = _Walk(rules)
    consts = tuple([_aval_key(v.aval) for v in closed.jaxpr.constvars])
    body = walk.body(closed.jaxpr, top=True)
    return Key((consts, body), tuple(walk.literals), min(walk.opaque, default=""))


def lift_literals(jaxpr: jex.Jaxpr) -> jex.Jaxpr:
    """The same jaxpr with its floating-point literals as further constants, in the order of :func:`literals`."""
    lifted: list[jex.Var] = []

    def atom(v: Any) -> Any:
        if not _is_number(v):
            return v
        lifted.append(jex.Var(v.aval))
        return lifted[-1]

    eqns = [eqn.replace(invars=[atom(v) for v in eqn.invars]) for eqn in jaxpr.eqns]
    outvars = [atom(v) for v in jaxpr.outvars]
    return jaxpr.replace(  # type: ignore[no-any-return]
        constvars=[*jaxpr.constvars, *lifted], eqns=eqns, outvars=outvars
    )


def literals(jaxpr: jex.Jaxpr) -> list[Any]:
    """The floating-point literals at the top level, in the order of their use; Python numbers where weakly typed."""
    atoms = [v for eqn in jaxpr.eqns for v in eqn.invars] + list(jaxpr.outvars)
    return [_number(v) for v in atoms if _is_number(v)]


def _is_number(v: Any) -> bool:
    return isinstance(v, jex.Literal) and jnp.issubdtype(getattr(v.aval, "dtype", bool), jnp.inexact)


def _number(v: Any) -> Any:
    value = np.asarray(v.val)
    weak_default = v.aval.weak_type and jnp.result_type(value.item()) == v.aval.dtype
    return value.item() if weak_default else value.astype(v.aval.dtype)


def _content(value: Any) -> Hashable:
    """A literal by content, so that -0.0, 0.0 and nan differ from each other and equal themselves."""
    if hasattr(value, "tobytes"):
        return type(value).__name__, value.tobytes()
    return type(value).__name__, float(value).hex() if isinstance(value, float) else value


def _aval_key(aval: Any) -> Hashable:
    return getattr(aval, "shape", None), getattr(aval, "dtype", aval), getattr(aval, "weak_type", False)


class _Walk:
    """One pass over a jaxpr and the jaxprs inside it."""

    def __init__(self, rules: bool) -> None:
        self.rules = rules
        self.literals: list[Hashable] = []
        self.opaque: set[str] = set()

    def body(self, jaxpr: jex.Jaxpr, top: bool = False) -> Hashable:
        number: dict[Any, int] = {}
        for var in (*jaxpr.constvars, *jaxpr.invars):
            number[var] = len(number)

        def atom(v: Any) -> Hashable:
            if not isinstance(v, jex.Literal):
                return number[v]
            if top and _is_number(v):
                self.literals.append(_content(v.val))
                return "number", _aval_key(v.aval)
            return "literal", _content(v.val), _aval_key(v.aval)

        keys: list[Hashable] = [tuple([_aval_key(v.aval) for v in jaxpr.invars])]
        for eqn in jaxpr.eqns:
            ins = tuple([atom(v) for v in eqn.invars])
            for var in eqn.outvars:
                number[var] = len(number)
            name = eqn.primitive.name
            rules = _RULES.get(name, ())
            params = [
                (k, self.rule(v) if k in rules else self.param(v))
                for k, v in (sorted(eqn.params.items()) if len(eqn.params) > 1 else eqn.params.items())
            ]
            keys.append((name, ins, tuple(params)))
        keys.append(tuple([atom(v) for v in jaxpr.outvars]))
        return tuple(keys)

    def param(self, value: Any) -> Hashable:
        if value is None or isinstance(value, (bool, int, str)):
            return type(value).__name__, value
        if isinstance(value, (tuple, list)):
            return type(value).__name__, tuple([self.param(v) for v in value])
        if isinstance(value, jex.ClosedJaxpr):
            return self.body(value.jaxpr), tuple([_constant(c) for c in value.consts])
        if isinstance(value, jex.Jaxpr):
            return self.body(value)
        if isinstance(value, dict):
            return "dict", tuple([(k, self.param(v)) for k, v in value.items()])
        if hasattr(value, "tobytes") and hasattr(value, "dtype") and not hasattr(value, "aval"):
            return str(value.dtype), value.shape, value.tobytes()
        if hasattr(value, "callback_func"):  # of pure_callback and its like: the function is made anew with each f
            return "callback", self.param(value.callback_func), value.in_tree
        if isinstance(value, types.FunctionType):
            return self.function(value)
        try:
            hash(value)
        except TypeError:
            return _Identity(value)
        return type(value).__name__, value

    def function(self, f: types.FunctionType) -> Hashable:
        """Functions made anew from the same code are the same if they hold the same."""
        cells = [cell.cell_contents if _filled(cell) else _EMPTY for cell in f.__closure__ or ()]
        held = tuple([_held(v) for v in (*cells, *(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values())])
        return "function", f.__code__, id(f.__globals__), held

    def rule(self, rule: Any) -> Hashable:
        """JAX's own rules by name; anybody else's makes the key opaque."""
        if not self.rules:
            return None
        names = {name for name in _names(rule) if not name.startswith(_PLUMBING)}
        self.opaque.update(name for name in names if not name.startswith("jax."))
        return "rule", tuple(sorted(names))


_EMPTY = object()


def _held(value: Any) -> Hashable:
    """What a function holds: numbers and texts by value, anything that may change by identity."""
    return (type(value), value) if isinstance(value, (str, bytes, bool, int)) else _Identity(value)


def _constant(value: Any) -> Hashable:
    """A constant of an inner jaxpr, which is compiled in: small ones by content, others by identity."""
    if isinstance(value, jax.core.Tracer) or getattr(value, "nbytes", _SMALL_BYTES + 1) > _SMALL_BYTES:
        return _Identity(value)
    if isinstance(value, jax.Array) and not (value.is_fully_addressable and jnp.issubdtype(value.dtype, jnp.number)):
        return _Identity(value)
    array = np.asarray(value)
    return "constant", array.dtype.str, array.shape, array.tobytes()


def _names(rule: Any) -> set[str]:
    """Every Python function and foreign object reachable from a rule through wrappers, closures and partials."""
    names: set[str] = set()
    seen: dict[int, Any] = {}
    stack = [rule]
    while stack:
        thing = stack.pop()
        if id(thing) in seen or isinstance(thing, _PLAIN):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, types.FunctionType):
            names.add(f"{thing.__module__}.{thing.__qualname__}")
            stack += [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        elif isinstance(thing, types.MethodType):
            stack += [thing.__func__, thing.__self__]
        elif isinstance(thing, (tuple, list)):
            stack += thing
        elif isinstance(thing, dict):
            stack += thing.values()
        else:
            kind = type(thing)
            if not kind.__module__.startswith(_KNOWN):
                names.add(f"{kind.__module__}.{kind.__qualname__}")
            stack += [getattr(thing, name, None) for name in _INSIDE]
    return names


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
