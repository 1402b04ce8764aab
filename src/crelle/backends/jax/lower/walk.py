"""Walking a jaxpr that holds values and tangents: what is known, what varies, and what is linear in the tangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core as jex

from crelle._arrays import ArrayType
from crelle.backends.jax.cost import equation_cost
from crelle.backends.jax.lower.known import Known
from crelle.tangent.build import Builder
from crelle.tangent.program import Dependence, Gather, Move

Bounds = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class NeedsReverse(Exception):
    """The program holds a function that can only be transposed (``custom_vjp``)."""


@dataclass(frozen=True, slots=True)
class Primal:
    """A value that does not depend on the tangents.

    Attributes:
        kind: what it depends on.
        known: how to compute it at planning time, ``None`` if that is impossible.
        bounds: how to find a lower and an upper bound of each element, for integers.
    """

    kind: Dependence
    known: Known | None = None
    bounds: Callable[[], Bounds | None] | None = None


@dataclass(frozen=True, slots=True)
class Tangent:
    """A value that is linear in the tangents; ``value=None`` is zero."""

    value: int | None


Entry = Primal | Tangent


@dataclass(frozen=True, slots=True)
class Arg:
    """An operand of an equation."""

    shape: tuple[int, ...]
    dtype: Any
    entry: Entry

    @property
    def linear(self) -> bool:
        """Whether it depends on the tangents, and is not zero."""
        return isinstance(self.entry, Tangent) and self.entry.value is not None

    @property
    def tangent(self) -> int | None:
        """The id of the value, ``None`` for a coefficient or a zero."""
        return self.entry.value if isinstance(self.entry, Tangent) else None

    @property
    def source(self) -> int:
        """The id of the value of an operand that is linear."""
        assert self.tangent is not None
        return self.tangent

    @property
    def kind(self) -> Dependence:
        """What it depends on as a coefficient."""
        return self.entry.kind if isinstance(self.entry, Primal) else Dependence.CONSTANT

    def value(self) -> np.ndarray[Any, Any] | None:
        """The value as far as it can be known before f is run."""
        if isinstance(self.entry, Primal) and self.entry.known is not None and isinstance(self.dtype, np.dtype):
            return np.asarray(self.entry.known.get())
        return None  # also of random keys, which are no numbers

    def bounds(self) -> Bounds | None:
        """Lower and upper bound of each element."""
        value = self.value()
        if value is not None:
            return value, value
        if isinstance(self.entry, Primal) and self.entry.bounds is not None:
            return self.entry.bounds()
        return None

    def keep(self) -> np.ndarray[Any, Any] | None:
        """False where it is known to be zero; ``None`` where that is nowhere known."""
        value = self.value()
        if value is None or value.dtype.kind not in "biufcV":
            return None
        keep = value != 0
        return None if keep.all() else keep


Rule = Callable[["Lowering", Any, list[Arg]], "Sequence[int | None]"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Declare how equations of these primitives become linear maps."""

    def declare(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return declare


def aval_type(v: Any) -> ArrayType:
    """The type of a variable."""
    return ArrayType(str(v.aval.dtype), tuple(v.aval.shape))


def dtype_of(v: Any) -> Any:
    """The dtype of a variable or literal."""
    return v.aval.dtype


class Lowering(Builder):
    """Turns the part of a jaxpr that depends on tangents into a :class:`TangentProgram`."""

    def run(self, jaxpr: jex.Jaxpr, consts: Sequence[Entry], given: Sequence[Entry]) -> list[Entry]:
        """Walk the equations; returns what the outputs are."""
        env: dict[Any, Entry] = {}
        env.update(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, given, strict=True))

        def read(v: Any) -> Arg:
            if isinstance(v, jex.Literal):
                return Arg(np.shape(v.val), dtype_of(v), Primal(Dependence.CONSTANT, Known.of(v.val)))
            entry = env[v]
            if 0 in v.aval.shape and isinstance(entry, Tangent):
                entry = Tangent(None)  # nothing reads of nothing, so that rules need not think of it
            return Arg(tuple(v.aval.shape), v.aval.dtype, entry)

        for eqn in jaxpr.eqns:
            args = [read(v) for v in eqn.invars]
            env.update(zip(eqn.outvars, self.equation(eqn, args), strict=True))
        return [read(v).entry for v in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
        """What the results of one equation are."""
        from crelle.backends.jax.lower import control, primal

        name = eqn.primitive.name
        if name in control.CONTROL:
            return control.CONTROL[name](self, eqn, args)
        if not any(isinstance(a.entry, Tangent) for a in args):
            return primal.results(eqn, args)
        if not any(a.linear for a in args) or all(0 in v.aval.shape for v in eqn.outvars):
            return [Tangent(None) for _ in eqn.outvars]
        before, first = self.operation, len(self.program.types)
        self.operation = (name, *equation_cost(eqn))
        try:
            found = find_rule(eqn)(self, eqn, args)
        finally:
            self.operation = before
        self.program.close(first, zip(found, map(aval_type, eqn.outvars), strict=True))
        return [Tangent(v) for v in found]

    # -- what rules use

    def joined(self, args: Sequence[Arg], move: Move, shape: Sequence[int]) -> int:
        """Several values moved into one; those that are no tangents are zeros."""
        dtype = next(a.dtype for a in args if a.linear)
        return self.emit(
            Gather, [a.tangent for a in args], ArrayType(str(dtype), tuple(shape)), move=move,
            shapes=tuple(a.shape for a in args),
        )  # fmt: skip

    def opaque(self, eqn: Any, args: Sequence[Arg], why: str) -> list[int | None]:
        """Every element on every element, and a note that says so."""
        return self.unread([a.tangent for a in args], [aval_type(v) for v in eqn.outvars], why)


def find_rule(eqn: Any) -> Rule:
    """The rule of an equation's primitive: the user's, ours, or what is done about an unknown one."""
    from crelle.backends.jax.lower import unknown

    name = eqn.primitive.name
    return unknown.users(name) or RULES.get(name) or unknown.expand_or_probe
