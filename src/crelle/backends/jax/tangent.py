"""The tangent program of a call: f linearised at types alone, or at values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleTypeError, describe
from crelle.backends._protocol import Call
from crelle.backends.jax import run
from crelle.backends.jax.flat import FlatFunction
from crelle.backends.jax.trace import traced, type_of
from crelle.tangent.program import Dependence, TangentProgram


@dataclass(frozen=True, slots=True)
class Parts:
    """A derivative as a jaxpr and as a program.

    Attributes:
        jaxpr: of the values of f (differentiated ones first), then tangents, or cotangents if it is transposed.
        kinds: what each value depends on.
        active: how many values are differentiated.
        loose: places, among what f captures, of the values that come last among those of the jaxpr.
        f_outputs: types of what f returns; ``outputs`` of what the rows of the matrix belong to.
    """

    jaxpr: jex.ClosedJaxpr
    kinds: list[Dependence]
    program: TangentProgram
    active: int
    loose: list[int]
    f_outputs: tuple[ArrayType, ...]
    outputs: tuple[ArrayType, ...]


def tangent_program(call: Call, known: bool = False) -> TangentProgram:
    """The derivative of f at the types of the call as linear maps; at its values if ``known``.

    Raises:
        CrelleTypeError: f cannot be traced, or has no derivative in either mode.
    """
    return parts_of(call, known).program


def parts_of(call: Call, known: bool = False, lifted: tuple[jex.Jaxpr, list[Any]] | None = None) -> Parts:
    """The derivative of f at the types of the call, traced and lowered.

    Args:
        lifted: f as a jaxpr and what it captures: numbers that are not integers are then arguments like others, so that
            what is found holds for any of them.
    """
    from crelle.backends.jax.lower import lower
    from crelle.backends.jax.lower.walk import NeedsReverse

    found = traced(call)
    if found.closed is None or found.layout.result is None:
        raise CrelleTypeError(
            describe(
                f"{call.text}: the pattern is read off the traced derivative, and f cannot be traced",
                called=types_text(call.inputs, call.names),
                likely=f"f needs values of its arguments in Python ({found.why})",
                try_="where, cond or while_loop of JAX in place of Python's if and while",
            )
        )
    if known and call.abstract:
        raise CrelleTypeError(
            describe(
                f"{call.text}: local=True reads the values of the arguments, and there are none",
                called=types_text(call.inputs, call.names),
                try_="pass arrays, outside of any transformation",
            )
        )
    dynamic = FlatFunction(call, found.layout).dynamic
    closed, active = found.closed, found.layout.active
    count, loose = len(dynamic), []
    if lifted is not None:
        closed = jex.ClosedJaxpr(*lifted)
        loose = [i for i, c in enumerate(closed.consts) if is_loose(c)]
        dynamic = [*dynamic, *(closed.consts[i] for i in loose)]
    outputs = tuple(type_of(v) for v in closed.out_avals[: found.layout.result.out_tree.num_leaves])

    def g(*leaves: Any) -> tuple[list[Any], list[Any]]:
        consts = list(closed.consts)
        for i, value in zip(loose, leaves[count:], strict=True):
            consts[i] = value
        evaluate = jex.jaxpr_as_fun(jex.ClosedJaxpr(closed.jaxpr, consts))
        results = [jax.numpy.asarray(r) for r in evaluate(*leaves[:count])]
        return results[: len(outputs)], results[len(outputs) :]

    hessian = call.request.kind == "hessian"
    values = [v if known else None for v in dynamic]
    kinds = [Dependence.VARYING] * active + [Dependence.PASSIVE] * (len(dynamic) - active)
    if known:
        kinds = [Dependence.CONSTANT] * len(dynamic)
    failure: Exception | None = None
    for mode in _modes(call, hessian):
        seeded = outputs if mode == "reverse" else call.inputs

        def derivative(arrays: Any, seeds: Any, mode: str = mode) -> Any:
            passive = arrays[active:]

            def of(*leaves: Any) -> tuple[list[Any], list[Any]]:
                return g(*leaves, *passive)

            if mode == "forward-over-forward":
                return jax.linearize(_columns(of), *arrays[:active])[1](*seeds)
            if hessian:
                return run.linearise_gradient(of, arrays[:active], mode, call.request.holomorphic, looped=True)[2](
                    *seeds
                )
            return run.linearise(of, arrays[:active], mode)[2](*seeds)

        seeds = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in seeded]
        shapes = [jax.ShapeDtypeStruct(jax.numpy.shape(v), jax.numpy.result_type(v)) for v in dynamic]
        try:
            jaxpr = jax.make_jaxpr(derivative)(shapes, seeds)
        except (TypeError, ValueError, NotImplementedError) as error:  # no rule in this mode
            failure = failure or error
            continue
        try:
            program = lower(jaxpr, values, kinds, transposed=mode in ("reverse", "reverse-over-reverse"))
        except NeedsReverse as error:
            failure = failure or error
            continue
        made = call.inputs if program.transposed or hessian else outputs
        program.output_types = [replace(t, dtype=o.dtype) for t, o in zip(program.output_types, made, strict=True)]
        return Parts(jaxpr, kinds, program, active, loose, outputs, call.inputs if hessian else outputs)
    raise CrelleTypeError(
        describe(
            f"{call.text}: f has no derivative that JAX can trace",
            called=types_text(call.inputs, call.names),
            likely=f"{type(failure).__name__}: {failure}".split("\n")[0],
        )
    ) from failure


def is_loose(constant: Any) -> bool:
    """Whether a captured value may change without f being another function: numbers may, indices and masks may not."""
    dtype = getattr(constant, "dtype", None) or jax.numpy.result_type(constant)
    return isinstance(constant, jax.core.Tracer) or jax.numpy.issubdtype(dtype, jax.numpy.inexact)


def _columns(of: Any) -> Any:
    """The gradient by forward mode, one unit tangent at a time side by side: for loops that have no reverse rule."""

    def gradient(*leaves: Any) -> list[Any]:
        sizes = [leaf.size for leaf in leaves]
        basis = jax.numpy.eye(sum(sizes), dtype=jax.numpy.result_type(*leaves))
        cuts = np.cumsum(sizes)[:-1]
        seeds = [
            part.reshape(-1, *leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(jax.numpy.split(basis, cuts, 1), leaves, strict=True)
        ]
        slopes = jax.vmap(lambda *v: jax.jvp(lambda *a: of(*a)[0][0], leaves, v)[1])(*seeds)
        return [s.reshape(leaf.shape) for s, leaf in zip(jax.numpy.split(slopes, cuts), leaves, strict=True)]

    return gradient


def _modes(call: Call, hessian: bool) -> list[str]:
    modes = (
        ["forward-over-reverse", "reverse-over-reverse", "forward-over-forward"] if hessian else ["forward", "reverse"]
    )
    return [m for m in modes if call.request.mode in ("auto", m)] or modes
