"""What is done about a primitive without a rule: the user's rule, its own definition, a probe, or everything."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from crelle.backends.jax.lower.known import in_jax
from crelle.backends.jax.lower.walk import Arg, Lowering, Rule, Tangent, aval_type
from crelle.tangent.rules import LinearOperand, find, patterns
from crelle.tangent.shapes import csr

#: Elements of the operand and the result up to which a linear map is run on every basis vector.
_PROBE = 1 << 12


def users(name: str) -> Rule | None:
    """The rule that a user registered for a primitive."""
    declared = find(name)
    if declared is None:
        return None

    def rule(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[int | None]:
        operands = [LinearOperand(a.shape, str(a.dtype), a.linear, None if a.linear else a.value()) for a in args]
        shapes = [tuple(v.aval.shape) for v in eqn.outvars]
        found = patterns(name, declared, operands, shapes, dict(eqn.params))
        low.program.trusted.append(name)
        kind = max(a.kind for a in args)
        results: list[int | None] = []
        for v, per_operand in zip(eqn.outvars, found, strict=True):
            parts = [
                low.by_matrix(a.source, aval_type(v), pattern, kind)
                for a, pattern in zip(args, per_operand, strict=True)
                if a.linear
            ]
            results.append(low.added(parts))
        return results

    return rule


def expand_or_probe(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[int | None]:
    """A primitive that we have no rule for."""
    expanded = _definition(eqn)
    if expanded is not None:
        found = low.run(expanded.jaxpr, [], [a.entry for a in args]) if not expanded.consts else None
        if found is not None and all(isinstance(e, Tangent) for e in found):
            return [e.value for e in found if isinstance(e, Tangent)]
    linear = [k for k, a in enumerate(args) if a.linear]
    sizes = [int(np.prod(a.shape, dtype=np.int64)) for a in args]
    known = all(a.linear or a.value() is not None for a in args)
    if known and len(linear) == 1 and sizes[linear[0]] <= 256 and sum(sizes) <= _PROBE and not eqn.effects:
        try:
            return _probe(low, eqn, args, linear[0])
        except Exception as error:  # any primitive, any failure: it stays unknown
            return low.opaque(
                eqn, args, f"no rule for this primitive, and it cannot be probed ({type(error).__name__})"
            )
    return low.opaque(eqn, args, "no rule")


def _definition(eqn: Any) -> jex.ClosedJaxpr | None:
    """The primitive in terms of others, if its implementation is written in JAX."""
    implementation = getattr(eqn.primitive, "impl", None)
    if implementation is None or isinstance(implementation, functools.partial) or eqn.primitive.multiple_results:
        return None
    if getattr(implementation, "__name__", "") in ("apply_primitive", "impl"):
        return None
    try:
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
        found = jax.make_jaxpr(functools.partial(implementation, **eqn.params))(*shapes)
    except Exception:  # it was not written to be traced
        return None
    return None if any(e.primitive is eqn.primitive for e in found.jaxpr.eqns) else found


def _probe(low: Lowering, eqn: Any, args: list[Arg], place: int) -> Sequence[int | None]:
    """Run a small linear map with known coefficients on basis vectors and read its matrix."""
    a = args[place]
    size = int(np.prod(a.shape, dtype=np.int64))
    values = [None if b.linear else b.value() for b in args]
    columns: list[list[Any]] = []
    for j in range(size):
        basis = np.zeros(size, a.dtype)
        basis[j] = 1
        given = [basis.reshape(a.shape) if k == place else v for k, v in enumerate(values)]
        columns.append([np.asarray(r).reshape(-1) != 0 for r in in_jax(eqn, tuple(given))])
    results: list[int | None] = []
    for k, v in enumerate(eqn.outvars):
        matrix = np.stack([c[k] for c in columns], 1) if columns else np.zeros((aval_type(v).size, 0), bool)
        results.append(low.by_matrix(a.source, aval_type(v), csr(matrix), a.kind))
    return results
