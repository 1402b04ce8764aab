"""From a tangent program to what the user is shown of its structure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from crelle._arrays import ArrayType
from crelle._errors import CrelleError
from crelle.backends._protocol import Call
from crelle.pattern import SparsityPattern
from crelle.tangent.cut import rank_bound
from crelle.tangent.program import Dependence, TangentProgram
from crelle.tangent.sparsity import Detected, detect
from crelle.tangent.structure import Structure, find_structure

#: A plan that is printed says something about structure if the matrix has at most this many rows and columns together.
PRINTED = 200_000


def pattern_of(found: Detected) -> SparsityPattern:
    """The pattern alone."""
    return SparsityPattern._trusted(found.shape, found.indptr, found.indices)


def outputs_of(program: TangentProgram) -> tuple[ArrayType, ...]:
    """The types whose raveled elements are the rows of the matrix."""
    return tuple(program.types[i] for i in program.inputs) if program.transposed else tuple(program.output_types)


def structure_of(program: TangentProgram, call: Call) -> Structure:
    """All that the program tells of its matrix."""
    return _structure(program, detect(program), call.inputs, call.names, call.request.kind)


def _structure(
    program: TangentProgram, found: Detected, inputs: tuple[ArrayType, ...], names: tuple[str, ...], kind: str
) -> Structure:
    structure = find_structure(
        pattern_of(found), inputs, outputs_of(program), input_names=names, entry_class=found.kinds,
        output_names=names if kind == "hessian" else (),
        rank_bound=rank_bound(program), symmetric=kind == "hessian",
        linear=not (found.kinds == Dependence.VARYING).any(),
    )  # fmt: skip
    return replace(structure, notes=found.notes)


def lines(call: Call) -> Callable[[], tuple[str, ...]] | None:
    """What the printed plan says of structure, found when it is first printed; ``None`` where it is not to be had."""
    if call.abstract or sum(t.size for t in call.inputs) > PRINTED:
        return None
    try:
        program = call.backend.tangent_program(call)
    except CrelleError:  # f is run anew each time: the notes say why
        return None
    except Exception as error:  # a plan is no worse for that
        why = f"not found: {type(error).__name__}"
        return lambda: (why,)
    if program.rows + program.columns > PRINTED or not (program.rows and program.columns):
        return None

    inputs, names, kind = call.inputs, call.names, call.request.kind  # not the call, which holds arrays

    @functools.cache
    def found() -> tuple[str, ...]:
        detected = detect(program)
        return _structure(program, detected, inputs, names, kind).sentence, *detected.notes

    return found
