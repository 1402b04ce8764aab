"""Patterns and kinds of random programs against dense propagation, whichever way sets are united."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from crelle._arrays import ArrayType
from crelle.tangent import rows, sparsity
from crelle.tangent.program import Add, Dependence, Gather, Lanes, Opaque, Reduce, Scale, TangentProgram
from crelle.tangent.sparsity import Detected, detect
from tests.tangent.reference import dense, programs

CHECKS = settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
#: MAX_TERMS, MAX_SLOTS, _FEW_GROUPS: as they are; products; marking; no terms at all.
LIMITS = {"usual": (12, 12, 4), "multiply": (3, 0, 0), "mark": (1, 0, 1000), "unite": (1, 3, 0)}


def classes(found: Detected) -> np.ndarray:
    """[rows, columns] of 0 or 1 + kind, and that the CSR form is what it says."""
    m, n = found.shape
    assert found.indptr.shape == (m + 1,) and found.indptr[0] == 0 and found.indptr[-1] == len(found.indices)
    assert len(found.kinds) == len(found.indices)
    whole = np.zeros((m, n), np.int8)
    for r in range(m):
        mine = found.indices[found.indptr[r] : found.indptr[r + 1]]
        assert (np.diff(mine) > 0).all(), "indices are sorted and occur once"
        whole[r, mine] = found.kinds[found.indptr[r] : found.indptr[r + 1]] + 1
    return whole


@pytest.mark.parametrize("limits", LIMITS)
def test_against_dense_propagation(limits):
    @given(programs())
    @CHECKS
    def check(program):
        truth = dense(program)
        found = detect(program)
        np.testing.assert_array_equal(classes(found), truth)
        assert found.notes == ()
        # nothing that belongs to the program was changed
        np.testing.assert_array_equal(classes(detect(program)), truth)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("MAX_TERMS", "MAX_SLOTS", "_FEW_GROUPS"), LIMITS[limits], strict=True):
            patch.setattr(rows, name, value)
        check()


def one(shape, *maps) -> TangentProgram:
    """A chain of maps (type, shape of the result, fields) from one input."""
    program = TangentProgram()
    value = program.value(ArrayType("float64", shape))
    program.inputs = [value]
    for make, out, fields in maps:
        new = program.value(ArrayType("float64", out))
        program.maps.append(make(name=make.__name__.lower(), operands=(value,), results=(new,), **fields))
        value = new
    program.outputs, program.output_types = [value], [program.types[value]]
    return program


def rows_of(indptr, indices) -> dict:
    return {
        "into": lambda a: a.reshape(-1, 1), "out": lambda a: a.reshape(-1), "pattern": (indptr, indices),
    }  # fmt: skip


def test_rows_that_are_complete_have_an_id_of_their_own():
    n = 40
    everything = (np.array([0, n, 2 * n]), np.tile(np.arange(n), 2))
    program = one(
        (n,), (Reduce, (2,), rows_of(*everything)), (Gather, (2, 3), {"move": lambda a: np.stack([a] * 3, 1)})
    )
    universe = rows.Universe(n)
    (found,) = sparsity.propagate(program, sparsity.inputs(universe, program), [])
    assert all((t.ids == rows.FULL).all() for t in found.terms)
    assert all(not len(t.table.indices) for t in found.terms), "complete rows are not held one by one"
    np.testing.assert_array_equal(classes(detect(program)), np.ones((6, n)))


def test_a_complete_row_of_a_weaker_kind_under_a_sparse_one_of_a_stronger():
    program = one((20,), (Lanes, (20,), {"into": lambda a: a.reshape(-1, 1), "out": lambda a: np.repeat(a[:, 0], 20)}))
    x, whole = program.inputs[0], program.outputs[0]
    scaled, total = (program.value(program.types[x]) for _ in range(2))
    program.maps.append(Scale(name="scale", operands=(x,), results=(scaled,), dependence=Dependence.VARYING))
    program.maps.append(Add(name="add", operands=(whole, scaled), results=(total,)))
    program.outputs = [total]
    np.testing.assert_array_equal(classes(detect(program)), np.ones((20, 20)) + 2 * np.eye(20))


@pytest.mark.parametrize("columns", [0, 1])
def test_no_input_or_one(columns):
    program = one((columns,), (Reduce, (), {"into": lambda a: a.reshape(columns, 1), "out": lambda a: a.reshape(())}))
    assert detect(program).shape == (1, columns)
    np.testing.assert_array_equal(classes(detect(program)), np.ones((1, columns)))


def test_no_output():
    program = one((3,))
    program.outputs, program.output_types = [], []
    assert detect(program).shape == (0, 3)


def test_maps_that_nothing_reads_are_not_run():
    def fails(a):
        raise AssertionError

    program = one((3,), (Gather, (3,), {"move": fails}))
    program.outputs = [program.inputs[0]]
    np.testing.assert_array_equal(classes(detect(program)), np.eye(3))


def test_too_many_entries_are_taken_to_be_all_and_said():
    n = 60
    band = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) < 20
    pattern = (np.append(0, np.cumsum(band.sum(1))), np.nonzero(band)[1])
    program = one((n,), (Reduce, (n,), rows_of(*pattern)), (Reduce, (n,), rows_of(*pattern)))
    assert classes(detect(program)).sum() < n * n
    found = detect(program, limit=500)
    np.testing.assert_array_equal(classes(found), 1 + np.full((n, n), Dependence.VARYING))
    assert found.notes == (f"reduce: index sets of {band.sum():,} entries; every entry is taken to be nonzero",)


def test_opaque_reads_all_of_all_operands():
    program = TangentProgram()
    a, b, unused = (program.value(ArrayType("float64", (2,))) for _ in range(3))
    program.inputs = [a, b, unused]
    out = program.value(ArrayType("float64", (3,)))
    program.maps = [Opaque(name="?", operands=(a, None, b), results=(out,), dependence=Dependence.PASSIVE)]
    program.outputs, program.output_types = [out], [program.types[out]]
    np.testing.assert_array_equal(classes(detect(program)), np.tile([2, 2, 2, 2, 0, 0], (3, 1)))


def test_transposed():
    program = one((2,), (Gather, (3,), {"move": lambda a: a[[1, 0, 1]]}))
    straight = classes(detect(program))
    program.transposed = True
    np.testing.assert_array_equal(classes(detect(program)), straight.T)
