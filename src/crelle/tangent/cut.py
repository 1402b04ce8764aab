"""A bound on the rank: every derivative is a product of what comes before a cut of the program and what comes after."""

from __future__ import annotations

import numpy as np

from crelle._arrays import ArrayType
from crelle.tangent.program import TangentProgram, live

#: Programs with more maps than this are not searched.
_MAX_MAPS = 20_000


def rank_bound(program: TangentProgram) -> int:
    """The elements of the narrowest set of values that all paths from inputs to outputs pass.

    A minimum vertex cut of the program's graph, as a maximum flow (Ford & Fulkerson 1956). It does not go through
    values inside of operations, which are unions and do not say how many numbers pass.
    """
    widest = min(program.columns, program.rows)
    maps = live(program)
    if not widest or len(maps) > _MAX_MAPS:
        return widest
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    # value v is an edge from node 2v to 2v + 1 with its size as capacity; maps join values without bound
    count = len(program.types)
    source, sink, bound = 2 * count, 2 * count + 1, widest + 1
    edges: dict[tuple[int, int], int] = {}
    used = set(program.inputs)
    for m in maps:
        used.update(v for v in (*m.operands, *m.results) if v is not None)
        for a in m.operands:
            for r in m.results:
                if a is not None and r is not None:
                    edges[2 * a + 1, 2 * r] = bound
    for v in used:
        edges[2 * v, 2 * v + 1] = bound if v in program.inside else min(_numbers(program.types[v]), bound)
    for v in program.inputs:
        edges[source, 2 * v] = bound
    for o in program.outputs:
        if o is not None:
            edges[2 * o + 1, sink] = bound
    ends = np.array(list(edges), np.int32).reshape(-1, 2)
    capacity = np.array(list(edges.values()), np.int32)
    graph = csr_array((capacity, (ends[:, 0], ends[:, 1])), shape=(sink + 1, sink + 1))
    return min(widest, int(maximum_flow(graph, source, sink).flow_value))


def _numbers(type_: ArrayType) -> int:
    """Real numbers that pass through a value; a complex one holds two."""
    return type_.size * (2 if type_.is_complex else 1)
