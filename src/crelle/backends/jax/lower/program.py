"""The tangent program of a jaxpr of values and tangents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend import core as jex

from crelle.backends.jax.lower.control import constant
from crelle.backends.jax.lower.known import Known
from crelle.backends.jax.lower.walk import Entry, Lowering, Primal, Tangent, aval_type
from crelle.tangent.program import Dependence, TangentProgram


def lower(
    closed: jex.ClosedJaxpr,
    known: Sequence[Any],
    kinds: Sequence[Dependence],
    transposed: bool = False,
) -> TangentProgram:
    """The tangent program of a jaxpr whose inputs are values, and then tangents.

    Args:
        known: for each value what it is, or ``None`` where it is not known.
        kinds: for each value what depends on it.
        transposed: the tangents are cotangents of the outputs.

    Raises:
        NeedsReverse: it holds a function that can only be transposed.
    """
    program = TangentProgram(transposed=transposed)
    entries: list[Entry] = []
    for value, kind in zip(known, kinds, strict=True):
        entries.append(Primal(kind, None if value is None else Known.of(value)))
    for v in closed.jaxpr.invars[len(entries) :]:
        program.inputs.append(program.value(aval_type(v)))
        entries.append(Tangent(program.inputs[-1]))
    results = Lowering(program).run(closed.jaxpr, [constant(c) for c in closed.consts], entries)
    program.outputs = [e.value if isinstance(e, Tangent) else None for e in results]
    program.output_types = [aval_type(v) for v in closed.jaxpr.outvars]
    return program
