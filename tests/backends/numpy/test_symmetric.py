"""Every wanted entry of a symmetric matrix is known, and no pair is computed twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from crelle._select import Selection
from crelle.backends.numpy.answer import Wanted
from crelle.backends.numpy.symmetric import Triangle

SYMMETRIC = np.add.outer(10.0 ** np.arange(5), 10.0 ** np.arange(5))


def known(wanted, rows):
    """The wanted part, computed by blocks, and the pairs that were computed."""
    triangle = Triangle(wanted)
    store = np.full_like(wanted.empty(np.dtype(float)), np.nan)
    pairs = []
    for r, c in triangle.blocks(rows):
        i, j = wanted.rows[r], wanted.cols[c]
        pairs += [tuple(sorted(pair)) for pair in zip(i.tolist(), j.tolist(), strict=True)]
        triangle.write(store, r, c, SYMMETRIC[i, j])
    assert len(pairs) == len(set(pairs)) == triangle.pairs
    assert sum(i == j for i, j in pairs) == triangle.diagonal
    if pairs:
        assert len(set(sum(pairs, ()))) == triangle.indices
    return store


def indices():
    return st.none() | st.lists(st.integers(0, 4), max_size=6)


@given(indices(), indices(), st.integers(1, 6))
def test_rows_and_columns(rows, cols, block):
    wanted = Wanted(Selection(rows, cols).resolve(5, 5), 5, 5)
    np.testing.assert_array_equal(known(wanted, block), SYMMETRIC[np.ix_(wanted.rows, wanted.cols)])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=10), st.integers(1, 3))
def test_entries(pairs, block):
    wanted = Wanted(Selection(entries=pairs).resolve(5, 5), 5, 5)
    np.testing.assert_array_equal(known(wanted, block), [SYMMETRIC[i, j] for i, j in pairs])


def test_the_whole_matrix_takes_a_triangle():
    triangle = Triangle(Wanted(Selection().resolve(100, 100), 100, 100))
    assert (triangle.pairs, triangle.diagonal, triangle.indices) == (5050, 100, 100)
    assert max(len(r) for r, _ in triangle.blocks(3)) <= 300
