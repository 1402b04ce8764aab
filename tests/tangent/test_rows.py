"""Index sets held as ids into tables: unions, moves, equal rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crelle.tangent import rows
from crelle.tangent.program import Dependence
from crelle.tangent.rows import EMPTY, FULL, Groups, Rows, Table, Term, Universe, equal_rows, mixed, moved, ragged

COLUMNS = 9


def sets_of(value: Rows) -> list[list[int]]:
    """For every element what it depends on."""
    found: list[set[int]] = [set() for _ in range(value.size)]
    for term in value.terms:
        for k, i in enumerate(np.asarray(term.ids).reshape(-1)):
            if i == FULL:
                found[k] |= set(range(value.universe.columns))
            else:
                found[k] |= set(term.table.rows(np.array([i]))[1].tolist())
    return [sorted(s) for s in found]


def csr_of(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.append(0, np.cumsum(matrix.sum(1))), np.nonzero(matrix)[1].astype(np.int32)


@st.composite
def values(draw) -> tuple[Universe, Rows, np.ndarray]:
    """Six elements with sets in several tables, and the same as a boolean matrix."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    universe, truth, terms = Universe(COLUMNS), np.zeros((6, COLUMNS), bool), []
    for _ in range(draw(st.integers(0, 4))):
        if rng.random() < 0.5:
            ids = rng.integers(0, COLUMNS + 1, 6).astype(np.int32)
            table, sets = universe.single, np.eye(COLUMNS, dtype=bool)
        else:
            sets = rng.random((4, COLUMNS)) < rng.choice([0.0, 0.3, 1.0])
            table, ids = Table(4, *csr_of(sets)), rng.integers(0, 5, 6).astype(np.int32)
        ids[rng.random(6) < 0.1] = FULL
        for k, i in enumerate(ids):
            truth[k] |= True if i == FULL else sets[i - 1] if i else False
        terms.append(Term(ids, table, Dependence(int(rng.integers(3)))))
    return universe, Rows(universe, (6,), terms), truth


def as_matrix(value: Rows) -> np.ndarray:
    found = np.zeros((value.size, value.universe.columns), bool)
    for k, s in enumerate(sets_of(value)):
        found[k, s] = True
    return found


@given(values())
@settings(deadline=None, max_examples=100)
def test_compact_keeps_the_sets(given):
    _, value, truth = given
    before = [t.ids.copy() for t in value.terms]
    small = value.compact()
    assert len(small.terms) == len({t.kind for t in value.terms})
    np.testing.assert_array_equal(as_matrix(small), truth)
    for t, ids in zip(value.terms, before, strict=True):
        np.testing.assert_array_equal(t.ids, ids)


@pytest.mark.parametrize("slots, few", [(12, 4), (0, 100), (0, 0), (1, 0)])
def test_mixed_by_slots_marks_and_products(slots, few):
    @given(values(), st.integers(0, 2**32 - 1))
    @settings(deadline=None, max_examples=60)
    def check(made, seed):
        _, value, truth = made
        matrix = np.random.default_rng(seed).random((5, 3)) < 0.6
        indptr, indices = csr_of(matrix)
        found = mixed(
            value, lambda a: a.reshape(3, 2), lambda a: a.reshape(5, 2), (indptr, indices), Dependence.CONSTANT
        )
        expect = np.zeros((5, 2, COLUMNS), bool)
        for r, k in zip(*np.nonzero(matrix), strict=True):
            expect[r] |= truth.reshape(3, 2, COLUMNS)[k]
        np.testing.assert_array_equal(as_matrix(found), expect.reshape(10, COLUMNS))
        np.testing.assert_array_equal(indptr, csr_of(matrix)[0])
        np.testing.assert_array_equal(indices, csr_of(matrix)[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "MAX_SLOTS", slots)
        patch.setattr(rows, "_FEW_GROUPS", few)
        check()


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 6))
@settings(deadline=None, max_examples=100)
def test_equal_rows_are_found_and_no_others(seed, count, distinct):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((distinct, 30)) < 0.5)[rng.integers(0, distinct, count)]
    indptr, indices = csr_of(matrix)
    first, which = equal_rows(indptr, indices)
    np.testing.assert_array_equal(matrix[first][which], matrix)
    assert len(first) == len(np.unique(matrix, axis=0))


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from([1, 3, 12]))
@settings(deadline=None, max_examples=100)
def test_groups_keep_each_row_once(seed, count, distinct):
    rng = np.random.default_rng(seed)
    sets = np.sort(np.argsort(rng.random((distinct, 30)), 1)[:, :9], 1)
    matrix = np.zeros((count, 30), bool)
    np.put_along_axis(matrix, sets[rng.integers(0, distinct, count)], True, 1)
    groups = Groups.of(*csr_of(matrix))
    kept = np.zeros((groups.count, 30), bool)
    kept[np.repeat(np.arange(groups.count), np.diff(groups.indptr)), groups.indices] = True
    np.testing.assert_array_equal(kept if groups.which is None else kept[groups.which], matrix)
    if distinct == 1 and count > 2:
        assert groups.count == 1


def test_equal_marks_are_verified(monkeypatch):
    """Where hashes of different rows agree, no rows are taken to be equal."""
    monkeypatch.setattr(np.random, "default_rng", lambda seed: _Ones())
    first, which = equal_rows(np.array([0, 2, 4, 6]), np.array([0, 1, 2, 3, 0, 1]))
    np.testing.assert_array_equal(first[which], [0, 1, 2])


class _Ones:
    def integers(self, low, high, size, dtype):
        return np.ones(size, dtype)


def test_moved_keeps_terms_of_different_tables_apart():
    universe = Universe(4)
    a = universe.inputs(0, (2,))
    table = Table(1, np.array([0, 2]), np.array([1, 3], np.int32))
    b = Rows(universe, (2,), [Term(np.array([1, 0], np.int32), table, Dependence.VARYING)])
    (joined,) = moved(universe, [a, b, (1,)], lambda *parts: np.concatenate(parts))
    assert sets_of(joined) == [[0], [1], [1, 3], [], []]
    first, second = moved(universe, [joined], lambda x: (x[:1], x[2:]))
    assert (sets_of(first), sets_of(second)) == ([[0]], [[1, 3], [], []])
    assert [len(first.terms), len(second.terms)] == [1, 1], "terms without elements are dropped"


def test_moved_without_terms_gives_shapes():
    universe = Universe(4)
    found = moved(universe, [universe.nothing((2, 3))], lambda x: (x.T, x[0]))
    assert [(r.shape, r.terms) for r in found] == [((3, 2), ()), ((3,), ())]


def test_a_stronger_kind_holds_a_weaker_one():
    universe = Universe(3)
    x = universe.inputs(0, (3,))
    both = rows.union(universe, [x, x.of_kind(Dependence.PASSIVE), x.of_kind(Dependence.VARYING), x])
    assert [t.kind for t in both.terms] == [Dependence.VARYING]


def test_of_kind_never_weakens():
    universe = Universe(3)
    x = universe.inputs(0, (3,)).of_kind(Dependence.VARYING)
    assert x.of_kind(Dependence.PASSIVE) is x and x.of_kind(Dependence.CONSTANT) is x


def test_kept():
    universe = Universe(3)
    assert sets_of(universe.inputs(0, (3,)).kept(np.array([True, False, True]))) == [[0], [], [2]]
    assert universe.inputs(0, (3,)).terms[0].ids.tolist() == [1, 2, 3]


def test_full_and_empty():
    universe = Universe(5)
    assert sets_of(universe.full((2,), Dependence.CONSTANT)) == [[0, 1, 2, 3, 4]] * 2
    ids, table = rows.as_table(
        universe, np.array([0, 5, 2]), np.array([0, 1, 2, 3, 4, 1, 3], np.int32), np.zeros(3, bool)
    )
    assert ids.tolist() == [EMPTY, FULL, 3]
    assert table.rows(np.array([3]))[1].tolist() == [1, 3]


def test_one_column_is_no_complete_row():
    """With one input the set of all inputs is the input itself: its table is kept."""
    ids, _ = rows.as_table(Universe(1), np.array([1, 0]), np.array([0], np.int32), np.zeros(2, bool))
    assert ids.tolist() == [1, EMPTY]


def test_unions_are_bounded():
    universe = Universe(50, limit=100)
    pattern = (np.array([0, 40, 80, 120]), np.concatenate([np.arange(k, k + 40) for k in (0, 5, 10)]))
    with pytest.raises(rows.TooMany, match="index sets of 240 entries"):
        mixed(universe.inputs(0, (50,)), lambda a: np.stack([a, a], 1), lambda a: a, pattern, Dependence.CONSTANT)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=6))
def test_ragged(parts):
    starts, lengths = (np.array([p[k] for p in parts], np.int64) for k in (0, 1))
    expect = [i for start, length in parts for i in range(start, start + length)]
    assert ragged(starts, lengths).tolist() == expect
