"""Rank bounds: never below the rank of random matrices on the program, narrow where the program is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crelle._arrays import ArrayType
from crelle.tangent import cut
from crelle.tangent.cut import rank_bound
from crelle.tangent.program import Add, Gather, Mix, Opaque, Scale, TangentProgram
from tests.tangent.reference import each_column, programs


def network(sizes: dict[str, int], maps: list[tuple[str, str]], inputs: str, outputs: str) -> TangentProgram:
    """Values named by letters, and maps between them that may do anything."""
    program = TangentProgram()
    ids = {name: program.value(ArrayType("float64", (size,))) for name, size in sizes.items()}
    program.inputs = [ids[i] for i in inputs]
    program.outputs = [ids[o] for o in outputs]
    program.output_types = [program.types[i] for i in program.outputs]
    for operands, results in maps:
        program.maps.append(
            Opaque(
                name="any", operands=tuple(ids[o] for o in operands), results=tuple(ids[r] for r in results)
            )
        )  # fmt: skip
    return program


CASES = {
    "a neck": ({"x": 9, "h": 2, "y": 7}, [("x", "h"), ("h", "y")], "x", "y", 2),
    "two necks": ({"x": 9, "a": 2, "b": 3, "y": 8}, [("x", "a"), ("x", "b"), ("ab", "y")], "x", "y", 5),
    "past the neck": ({"x": 9, "h": 2, "y": 7}, [("x", "h"), ("hx", "y")], "x", "y", 7),
    "a narrow input": ({"x": 1, "z": 9, "y": 8}, [("xz", "y")], "xz", "y", 8),
    "narrow inputs": ({"x": 1, "z": 2, "y": 8}, [("xz", "y")], "xz", "y", 3),
    "one value to two outputs": ({"x": 9, "h": 3, "y": 7, "z": 7}, [("x", "h"), ("h", "yz")], "x", "yz", 3),
    "an input as an output": ({"x": 4}, [], "x", "x", 4),
    "the same output twice": ({"x": 4}, [], "x", "xx", 4),
    "no path": ({"x": 4, "y": 3}, [], "x", "y", 0),
    "a narrow place in the middle of a net": (
        {"x": 9, "a": 4, "b": 4, "c": 1, "d": 6, "y": 9}, [("x", "ab"), ("ab", "c"), ("c", "d"), ("d", "y")],
        "x", "y", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_narrowest_cut(name):
    sizes, maps, inputs, outputs, bound = CASES[name]
    assert rank_bound(network(sizes, maps, inputs, outputs)) == bound


def test_nothing_to_cut():
    assert rank_bound(TangentProgram()) == 0
    assert rank_bound(network({"x": 0, "y": 3}, [("x", "y")], "x", "y")) == 0


def test_long_programs_are_not_searched(monkeypatch):
    sizes, maps, inputs, outputs, _ = CASES["a neck"]
    monkeypatch.setattr(cut, "_MAX_MAPS", 1)
    assert rank_bound(network(sizes, maps, inputs, outputs)) == 7


def numbers(program: TangentProgram, rng: np.random.Generator) -> np.ndarray:
    """The matrix of a program without loops and branches, with random coefficients."""
    columns, values, start = program.columns, {}, 0
    for i in program.inputs:
        size = program.types[i].size
        own = np.eye(columns)[start : start + size]
        values[i] = own.reshape(*program.types[i].shape, columns)
        start += size
    for m in program.maps:
        given = [None if v is None else values[v] for v in m.operands]
        if isinstance(m, Gather):
            zeros = [np.zeros((*s, columns)) for s in m.shapes]
            found = each_column(
                m.move, [z if o is None else o for o, z in zip(given, zeros or given, strict=True)], columns
            )
        elif isinstance(m, Scale):
            keep = np.ones(()) if m.keep is None else m.keep
            found = [given[0] * (keep * rng.normal(size=given[0].shape[:-1]))[..., None]]
        elif isinstance(m, Add):
            found = [sum(given)]
        elif isinstance(m, Mix):
            length = each_column(m.into, given, columns)[0].shape[0]
            if m.pattern is None:  # the same row for all
                matrix = rng.normal(size=(1, length))
            else:
                indptr, indices = m.pattern
                matrix = np.zeros((len(indptr) - 1, length))
                matrix[np.repeat(np.arange(len(matrix)), np.diff(indptr)), indices] = rng.normal(size=len(indices))
            found = each_column(lambda a, m=m, c=matrix: m.out(c @ m.into(a)), given, columns)
        else:
            some = [o.reshape(-1, columns) for o in given if o is not None and o.size]
            read = np.concatenate([np.zeros((0, columns)), *some])
            shapes = [program.types[r].shape for r in m.results]
            found = [np.einsum("...k,kc->...c", rng.normal(size=(*s, len(read))), read) for s in shapes]
        values.update((r, f) for r, f in zip(m.results, found, strict=True) if r is not None)
    outs = [
        np.zeros((t.size, columns)) if v is None else values[v].reshape(t.size, columns)
        for v, t in zip(program.outputs, program.output_types, strict=True)
    ]
    return np.concatenate([np.zeros((0, columns)), *outs])


@given(programs(depth=0), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_never_below_the_rank(program, seed):
    matrix = numbers(program, np.random.default_rng(seed))
    rank = np.linalg.matrix_rank(matrix) if matrix.size else 0
    assert rank <= rank_bound(program) <= min(matrix.shape)
