"""The tangent program of an aten graph of values and tangents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from crelle.backends.torch import cost
from crelle.backends.torch.lower import contract, movement, pointwise, reduce
from crelle.backends.torch.lower.known import Known
from crelle.backends.torch.lower.op import Entry, Primal, Tangent, type_of
from crelle.backends.torch.lower.walk import Lowering
from crelle.tangent.program import Dependence, TangentProgram

#: Their import registers the rules.
RULE_MODULES = (pointwise, movement, reduce, contract)


def lower(
    module: fx.GraphModule, known: Sequence[Any], kinds: Sequence[Dependence], transposed: bool = False
) -> TangentProgram:
    """The tangent program of a graph whose inputs are values, and then tangents; its results are tangents.

    Args:
        known: for each value what it is, or ``None`` where it is not known.
        kinds: for each value what depends on it.
        transposed: the tangents are cotangents of the outputs.
    """
    program = TangentProgram(transposed=transposed)
    entries: list[Entry] = [
        Primal(kind, None if value is None else Known.of(value)) for value, kind in zip(known, kinds, strict=True)
    ]
    for node in list(module.graph.find_nodes(op="placeholder"))[len(entries) :]:
        program.inputs.append(program.value(type_of(cost.spec_of_node(node))))
        entries.append(Tangent(program.inputs[-1]))
    results = Lowering(program).run(module, entries)
    program.outputs = [e.value if isinstance(e, Tangent) else None for e in results]
    made: Any = module.graph.output_node().args[0]
    program.output_types = [type_of(cost.spec_of_node(n)) for n in made]
    return program
