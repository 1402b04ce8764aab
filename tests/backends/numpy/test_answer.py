"""The wanted part of a matrix, and the matrix as trees of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crelle import _trees
from crelle._arrays import ArrayType
from crelle._select import Selection
from crelle.backends.numpy import answer
from crelle.backends.numpy.answer import Layout, Wanted

M, N = 5, 4
MATRIX = np.arange(20.0).reshape(M, N)


def index(size):
    one = st.integers(-size, size - 1)
    return (
        st.none()
        | one
        | st.lists(one, max_size=6)
        | st.slices(size)
        | st.lists(st.booleans(), min_size=size, max_size=size)
    )


def picked(matrix, rows, cols):
    """What NumPy gives, one axis after the other."""
    for axis, wanted in ((0, rows), (1, cols)):
        if wanted is None:
            continue
        if isinstance(wanted, list):
            wanted = np.array(wanted, bool if wanted and isinstance(wanted[0], bool) else int)
        picks = np.arange(matrix.shape[axis])[wanted]
        matrix = np.take(matrix, picks, axis)
        if np.ndim(picks) == 0:
            matrix = np.expand_dims(matrix, axis)
    squeeze = tuple(axis for axis, wanted in ((0, rows), (1, cols)) if isinstance(wanted, int))
    return np.squeeze(matrix, squeeze)


def filled(wanted, chunk):
    store = wanted.empty(np.dtype(float))
    for start in range(0, len(wanted.cols), chunk):
        columns = wanted.cols[start : start + chunk]
        wanted.put_columns(store, start, MATRIX[np.ix_(wanted.rows, columns)].T)
    return wanted.finish(store)


@given(index(M), index(N), st.integers(1, 5))
def test_selections_are_what_numpy_gives(rows, cols, chunk):
    wanted = Wanted(Selection(rows, cols).resolve(M, N), M, N)
    np.testing.assert_array_equal(filled(wanted, chunk), picked(MATRIX, rows, cols))


@given(st.lists(st.tuples(st.integers(-M, M - 1), st.integers(-N, N - 1)), max_size=8), st.integers(1, 5))
def test_entries(pairs, chunk):
    wanted = Wanted(Selection(entries=pairs).resolve(M, N), M, N)
    np.testing.assert_array_equal(filled(wanted, chunk), [MATRIX[i, j] for i, j in pairs])


def test_blocks_and_products_agree():
    outer = (ArrayType("float64", (2,)), ArrayType("float32", ()), ArrayType("float64", (0, 3)))
    inner = (ArrayType("float32", (2, 1)), ArrayType("float64", (2,)))
    trees = [_trees.flatten({"u": 0, "v": [1, 2]})[1], _trees.flatten((0, 1))[1]]
    layout = Layout(outer, inner, *trees)
    assert layout.dtype == np.float64
    matrix = np.arange(12.0).reshape(3, 4)
    blocks = layout.blocks(matrix, real=False)
    assert blocks["u"][0].shape == (2, 2, 1)
    assert blocks["v"][0][0].dtype == np.float32
    assert blocks["v"][1][1].shape == (0, 3, 2)
    v = np.array([1.0, -2.0, 3.0, 0.5])
    np.testing.assert_array_equal(layout.product(blocks, v), matrix @ v)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (np.ones(3), ""),
        (np.array(np.nan), "value is nan"),
        (np.array([[1, 2], [np.inf, np.nan]]), "value [1, 0] is inf, and 1 more"),
        ({"a": np.ones(2), "b": [np.array([-np.inf])]}, "value['b'][0] [0] is -inf"),
    ],
)
def test_what_is_not_finite_is_named(tree, text):
    assert answer.nonfinite_text("value", tree) == text
