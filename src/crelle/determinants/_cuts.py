"""Places where a derivative passes through exactly n numbers: there it is a product of square matrices.

det(J_k … J_1) = Π det J_i, and the factors are sparse where the product is dense: the layers of a flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle.tangent.program import LinearMap, TangentProgram, live
from crelle.tangent.structure.triangular import topological_places

#: Programs with more maps than this are taken as one factor.
_MAX_MAPS = 20_000

Cut = Sequence[int | None]
Ints = np.ndarray[Any, Any]


def chain(program: TangentProgram) -> list[Cut] | None:
    """Cuts of n numbers from the inputs to the outputs, each beyond the one before; ``None`` if fewer than n pass.

    Minimum vertex cuts of the program's graph by a maximum flow (Ford and Fulkerson 1956). Sets that the residual graph
    does not leave are all the minimum cuts (Picard and Queyranne 1980); its strongly connected components, taken in
    topological order, give a longest chain of them.
    """
    n, maps = program.columns, live(program)
    ends: list[Cut] = [list(program.inputs), list(program.outputs)]
    if not n or len(maps) > _MAX_MAPS:
        return ends
    used = {*program.inputs, *(v for m in maps for v in (*m.operands, *m.results) if v is not None)}
    flow, first, last = _min_cuts(program, maps, used)
    if flow < n:
        return None
    # value v is in the cut of the set k if its entry is in the set and its exit is not: first[v] <= k < last[v]
    values = np.array(sorted(used))
    first, last = first[values], last[values]
    cuts: list[Cut] = [ends[0]]
    for k in np.unique(first[first < last]).tolist():
        cut: Cut = values[(first <= k) & (k < last)].tolist()
        if set(cut) != set(cuts[-1]):
            cuts.append(cut)
    if set(cuts[-1]) == set(program.outputs):
        cuts.pop()
    return [*cuts, ends[1]]


def _min_cuts(program: TangentProgram, maps: list[LinearMap], used: set[int]) -> tuple[int, Ints, Ints]:
    """(flow, from which set of the chain the entry of each value is in it, and from which its exit)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow

    # value v is an edge from node 2v to 2v + 1 with its size as capacity; maps join values without bound
    n, count = program.columns, len(program.types)
    source, sink, bound = 2 * count, 2 * count + 1, n + 1
    numbers = {program.types[i].is_complex for i in program.inputs}
    edges: dict[tuple[int, int], int] = {}
    for m in maps:
        for a in m.operands:
            for r in m.results:
                if a is not None and r is not None:
                    edges[2 * a + 1, 2 * r] = bound
    for v in used:
        edges[2 * v, 2 * v + 1] = bound if v in program.inside else _capacity(program.types[v], numbers, bound)
    for v in program.inputs:
        edges[source, 2 * v] = bound
    for o in program.outputs:
        if o is not None:
            edges[2 * o + 1, sink] = bound
    tails, heads = np.array(list(edges), np.int32).reshape(-1, 2).T
    capacity = np.array(list(edges.values()), np.int32)
    graph = csr_array((capacity, (tails, heads)), shape=(sink + 1, sink + 1))
    found = maximum_flow(graph, source, sink)
    rest = graph - found.flow  # the flow is antisymmetric, so that this has the edges back, too
    rest.eliminate_zeros()
    components, labels = connected_components(rest, directed=True, connection="strong")
    tails, heads = rest.tocoo().coords
    apart = labels[tails] != labels[heads]
    labels = topological_places(components, labels[heads[apart]], labels[tails[apart]])[labels]
    labels[breadth_first_order(rest, source, return_predecessors=False)] = -1
    labels[breadth_first_order(rest.T.tocsr(), sink, return_predecessors=False)] = components
    return int(found.flow_value), labels[0:source:2], labels[1 : source + 1 : 2]


def _capacity(type_: ArrayType, numbers: set[bool], bound: int) -> int:
    """Elements of a value; without bound where it holds numbers of another kind than the inputs."""
    return min(type_.size, bound) if {type_.is_complex} == numbers else bound


def between(program: TangentProgram, start: Cut, end: Cut) -> TangentProgram:
    """The maps from one cut to the next, as a program of its own that shares its values with the whole."""
    wanted = {v for v in end if v is not None}.difference(start)
    maps: list[LinearMap] = []
    for m in reversed(program.maps):
        if any(r in wanted for r in m.results):
            maps.append(m)
            wanted.update(v for v in m.operands if v is not None and v not in start)
    last = end == program.outputs
    return TangentProgram(
        types=program.types, inputs=[v for v in start if v is not None], outputs=list(end),
        output_types=program.output_types if last else [program.types[v] for v in end if v is not None],
        maps=maps[::-1], inside=program.inside, transposed=program.transposed,
    )  # fmt: skip
