"""The tangent program of an aten graph of arrays and seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import fx

from crelle._arrays import ArrayType
from crelle.backends.torch.lowering.walk import Entry, Lowering, Primal, Tangent, type_of
from crelle.tangent.program import Dependence, TangentProgram


def lower(
    module: fx.GraphModule,
    known: Sequence[Any],
    kinds: Sequence[Dependence],
    outputs: Sequence[ArrayType],
    transposed: bool = False,
    loose: Collection[int] = (),
) -> Lowering:
    """Walk a graph whose inputs are arrays, and then seeds, and whose first results are products: ``.program`` is its
    tangent program.

    Args:
        known: for each array what it is, or ``None`` where it is not known.
        kinds: for each array what depends on it.
        outputs: the types of the products.
        transposed: seeds are cotangents of f's outputs.
        loose: ids of captured tensors whose values may change.
    """
    program = TangentProgram(transposed=transposed)
    entries: list[Entry] = []
    for value, kind in zip(known, kinds, strict=True):
        entries.append(Primal(kind, None if value is None else lambda v=value: v))  # type: ignore[misc]
    for node in list(module.graph.find_nodes(op="placeholder"))[len(entries) :]:
        program.inputs.append(program.value(type_of(node.meta["spec"])))
        entries.append(Tangent(program.inputs[-1]))
    lowering = Lowering(module, program, loose)
    results = lowering.run(entries)
    program.outputs = [e.value if isinstance(e, Tangent) else None for e in results[: len(outputs)]]
    program.output_types = list(outputs)
    return lowering
