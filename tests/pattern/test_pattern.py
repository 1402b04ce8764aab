"""Patterns against dense truth values: what they hold, answer, compare and combine; and what they refuse."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crelle import CrelleMemoryError, CrelleShapeError, CrelleTypeError, CrelleValueError, SparsityPattern

dense = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12))


@st.composite
def pairs(draw):
    """Two matrices of one shape."""
    shape = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    return draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))


def valid(pattern):
    """The same pattern through the constructor that checks, so that nothing is only trusted."""
    again = SparsityPattern(pattern.shape, pattern.indptr, pattern.indices)
    assert again == pattern and hash(again) == hash(pattern)
    assert pattern.indptr.dtype == pattern.indices.dtype == np.int32
    assert not pattern.indptr.flags.writeable and not pattern.indices.flags.writeable
    return pattern


@given(dense)
def test_there_and_back(a):
    p = valid(SparsityPattern.from_dense(a))
    assert p.shape == a.shape
    np.testing.assert_array_equal(p.to_dense(), a)
    np.testing.assert_array_equal(p.to_scipy().toarray(), a)
    assert valid(SparsityPattern.from_(p.to_scipy())) == p
    assert SparsityPattern.from_(p) is p


@given(dense)
def test_what_it_holds(a):
    p = SparsityPattern.from_dense(a)
    rows, cols = np.nonzero(a)
    assert p.nnz == a.sum()
    assert p.density == (a.mean() if a.size else 0.0)
    assert p.bandwidth == (max(0, (rows - cols).max(initial=0)), max(0, (cols - rows).max(initial=0)))
    np.testing.assert_array_equal(p.rows, rows)
    np.testing.assert_array_equal(p.cols, cols)
    np.testing.assert_array_equal(p.row_counts, a.sum(1))
    np.testing.assert_array_equal(p.col_counts, a.sum(0))
    for i in range(a.shape[0]):
        np.testing.assert_array_equal(p.row(i), np.flatnonzero(a[i]))
    for i in range(-1, a.shape[0] + 1):
        for j in range(-1, a.shape[1] + 1):
            inside = 0 <= i < a.shape[0] and 0 <= j < a.shape[1]
            assert ((i, j) in p) == (inside and bool(a[i, j]))


@given(dense)
def test_transpose(a):
    p = SparsityPattern.from_dense(a)
    assert valid(p.T) == SparsityPattern.from_dense(a.T)
    assert p == p.T.T
    assert p.T.bandwidth == p.bandwidth[::-1]


@given(pairs())
def test_union_intersection_and_order(pair):
    a, b = pair
    p, q = map(SparsityPattern.from_dense, pair)
    assert valid(p | q) == SparsityPattern.from_dense(a | b)
    assert valid(p & q) == SparsityPattern.from_dense(a & b)
    assert (p == q) == bool((a == b).all())
    assert (p != q) == bool((a != b).any())
    assert p.contains(q) == (q <= p) == (p >= q) == bool((a | ~b).all())
    assert p | p is p and p & p is p and p.contains(p)
    assert (p | q).contains(p) and p.contains(p & q)


@given(dense, st.data())
def test_triplets_in_any_order_and_repeated(a, data):
    rows, cols = np.nonzero(a)
    some = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5)) if len(rows) else [], int)
    order = np.array(data.draw(st.permutations([*range(len(rows)), *some])), int)
    p = SparsityPattern.from_triplets(rows[order], cols[order], a.shape)
    assert valid(p) == SparsityPattern.from_dense(a)


@given(
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.lists(st.integers(-1, 6), max_size=6),
    st.lists(st.integers(-1, 5), max_size=6),
)
@settings(max_examples=400)
def test_the_constructor_takes_csr_and_nothing_else(shape, indptr, indices):
    m, n = shape
    rows = [indices[a:b] for a, b in itertools.pairwise(indptr)]
    right = (
        len(indptr) == m + 1
        and indptr[0] == 0
        and indptr[-1] == len(indices)
        and sorted(indptr) == indptr
        and all(0 <= j < n for j in indices)
        and all(sorted(set(row)) == row for row in rows)
    )
    if right:
        p = SparsityPattern(shape, indptr, indices)
        assert [list(p.row(i)) for i in range(m)] == rows
    else:
        with pytest.raises(CrelleValueError):
            SparsityPattern(shape, indptr, indices)


def test_it_does_not_change():
    indptr, indices = np.array([0, 1, 2]), np.array([0, 1], np.int32)
    p = SparsityPattern((2, 2), indptr, indices)
    indices[0], indptr[1] = 1, 2
    assert p.indices.tolist() == [0, 1] and p.indptr.tolist() == [0, 1, 2]
    for name in ("shape", "nnz", "indptr", "indices"):
        with pytest.raises(AttributeError):
            setattr(p, name, 0)
    with pytest.raises(AttributeError):
        p.colour = "blue"
    with pytest.raises(ValueError, match="read-only"):
        p.indices[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        p.row(0)[0] = 1


def test_to_scipy_has_arrays_of_its_own():
    p = SparsityPattern.from_dense([[0, 1], [1, 0]])
    m = p.to_scipy()
    m.indices[:], m.data[:] = 0, False
    assert p.indices.tolist() == [1, 0] and p.to_scipy().toarray().tolist() == [[False, True], [True, False]]


def test_trusted_arrays_stay_writeable_for_their_owner():
    indptr, indices = np.array([0, 1], np.int32), np.array([0], np.int32)
    p = SparsityPattern._trusted((1, 1), indptr, indices)
    assert indices.flags.writeable and not p.indices.flags.writeable
    assert np.shares_memory(p.indices, indices)


def test_as_a_key_copied_and_pickled():
    p = SparsityPattern.from_dense([[0, 1], [1, 0]])
    assert {p: "found"}[SparsityPattern.from_triplets([1, 0], [0, 1], (2, 2))] == "found"
    for q in (copy.copy(p), copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert valid(q) == p
    assert p != SparsityPattern.from_dense([[0, 1, 0], [1, 0, 0]])
    assert p != "pattern" and p != p.to_dense().tolist()


def test_wide_indices_where_the_shape_needs_them():
    p = SparsityPattern.from_triplets([0, 1], [2**40, 5], (2, 2**40 + 1))
    assert p.indptr.dtype == p.indices.dtype == np.int64
    assert (0, 2**40) in p and p.bandwidth == (0, 2**40)
    q = SparsityPattern(p.shape, p.indptr.astype(np.int32), p.indices)
    assert p == q and hash(p) == hash(q)
    assert (p | q) == (p & q) == p
    assert p.density == 2 / (2 * (2**40 + 1))
    assert str(p).count("\n") == 1
    narrow = SparsityPattern((1, 2**31 - 1), np.array([0, 1]), np.array([7]))
    assert narrow.indices.dtype == np.int32
    assert SparsityPattern((1, 2**31), [0, 1], [7]).indices.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_integers_of_any_width(dtype):
    p = SparsityPattern((2, 3), np.array([0, 2, 3], dtype), np.array([0, 2, 1], dtype))
    assert p == SparsityPattern.from_dense([[1, 0, 1], [0, 1, 0]])
    assert SparsityPattern.from_triplets(np.array([0, 0, 1], dtype), np.array([2, 0, 1], dtype), (2, 3)) == p


CALLED = "  called    SparsityPattern((2, 3), indptr[3], indices[3])\n"
SORTS = "use SparsityPattern.from_triplets(rows, cols, shape), which sorts and drops duplicates"


@pytest.mark.parametrize(
    ("indptr", "indices", "kind", "text"),
    [
        (
            [0, 2, 3],
            [2, 0, 1],
            CrelleValueError,
            f"row 0 holds column 0 after column 2\n{CALLED}"
            f"  expected  columns that rise within each row\n  try       {SORTS}",
        ),
        (
            [0, 1, 3],
            [2, 1, 1],
            CrelleValueError,
            f"row 1 holds column 1 twice\n{CALLED}  expected  columns that rise within each row\n  try       {SORTS}",
        ),
        (
            [0, 1, 3],
            [2, 0, 3],
            CrelleValueError,
            f"row 1 holds column 3\n{CALLED}  expected  columns from 0 to 2",
        ),
        (
            [0, 1, 3],
            [3, 1, 2],
            CrelleValueError,
            f"row 0 holds column 3\n{CALLED}  expected  columns from 0 to 2\n"
            "  try       subtract 1 if the indices count from 1",
        ),
        (
            [0, 0, 3],
            [-1, 1, 2],
            CrelleValueError,
            f"row 1 holds column -1\n{CALLED}  expected  columns from 0 to 2",
        ),
        (
            [0, 4, 3],
            [0, 1, 2],
            CrelleValueError,
            f"indptr falls from 4 to 3 at row 1\n{CALLED}"
            "  expected  offsets that never fall: row i is indices[indptr[i]:indptr[i + 1]]\n"
            f"  try       if these are row numbers and not offsets, {SORTS}",
        ),
        (
            [1, 2, 3],
            [0, 1, 2],
            CrelleValueError,
            f"indptr begins with 1\n{CALLED}  expected  0, where row 0 begins in indices",
        ),
        (
            [0, 1, 2],
            [0, 1, 2],
            CrelleShapeError,
            f"indptr ends with 2, and indices has 3 entries\n{CALLED}  expected  the same number in both",
        ),
        (
            [0, 1, 2, 3],
            [0, 1, 2],
            CrelleShapeError,
            f"indptr has 4 entries\n{CALLED.replace('[3], i', '[4], i')}  expected  3: one more than there are rows\n"
            "  try       transpose the shape, or pass the arrays of a CSR matrix (.tocsr()), not of a CSC matrix",
        ),
    ],
)
def test_arrays_that_are_not_csr(indptr, indices, kind, text):
    with pytest.raises(CrelleValueError) as caught:
        SparsityPattern((2, 3), indptr, indices)
    assert type(caught.value) is kind
    assert str(caught.value) == text


def test_rows_in_place_of_offsets():
    with pytest.raises(CrelleShapeError, match=r"pass rows instead of offsets to SparsityPattern\.from_triplets"):
        SparsityPattern((9, 9), [0, 1, 1, 5], [0, 1, 2, 5])


def test_the_row_named_is_the_one_behind_empty_rows():
    """Rows without entries share an offset with the next one, which owns the entry."""
    with pytest.raises(CrelleValueError, match="row 3 holds column 9"):
        SparsityPattern((5, 4), [0, 1, 1, 1, 2, 2], [0, 9])
    with pytest.raises(CrelleValueError, match="row 3 holds column 1 twice"):
        SparsityPattern((5, 4), [0, 1, 1, 1, 3, 3], [1, 1, 1])
    assert SparsityPattern((5, 4), [0, 0, 1, 1, 3, 3], [2, 1, 3]).nnz == 3


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4), 5, (2.0, 3), None, "23"])
def test_shapes_that_are_none(shape):
    with pytest.raises(
        CrelleShapeError, match=r"is not the shape of a matrix\n  expected  \(rows, columns\), two integers"
    ):
        SparsityPattern(shape, [0], [])


def test_negative_shapes():
    with pytest.raises(CrelleShapeError, match=r"shape=\(-1, 3\) is negative"):
        SparsityPattern.from_triplets([], [], (-1, 3))


def test_arrays_of_the_wrong_kind():
    with pytest.raises(CrelleTypeError, match=r"indices holds float64\n  expected  integers\n"):
        SparsityPattern((1, 2), [0, 1], [1.0])
    with pytest.raises(CrelleTypeError, match="indptr holds bool"):
        SparsityPattern((1, 2), [False, True], [1])
    with pytest.raises(CrelleShapeError, match=r"indices has shape \(1, 2\)\n  expected  a vector"):
        SparsityPattern((1, 2), [0, 2], [[0, 1]])
    assert SparsityPattern((1, 2), [0, 0], []).nnz == 0


def test_triplets_outside_the_matrix():
    with pytest.raises(CrelleValueError) as caught:
        SparsityPattern.from_triplets([0, 4], [1, 2], (3, 3))
    assert str(caught.value) == (
        "entry 1 is in row 4, column 2\n"
        "  called    SparsityPattern.from_triplets(rows[2], cols[2], (3, 3))\n"
        "  expected  rows from 0 to 2"
    )
    with pytest.raises(CrelleValueError, match=r"columns from 0 to 2\n  try       subtract 1"):
        SparsityPattern.from_triplets([0, 1, 2], [1, 2, 3], (3, 3))
    with pytest.raises(CrelleValueError, match="no entries: there are no columns"):
        SparsityPattern.from_triplets([0], [0], (3, 0))
    with pytest.raises(CrelleShapeError, match=r"rows and cols differ in length\n  called .*rows\[1\], cols\[2\]"):
        SparsityPattern.from_triplets([0], [0, 1], (3, 3))


def test_rows_that_do_not_exist():
    p = SparsityPattern.from_dense([[0, 1], [1, 0]])
    for i in (-1, 2):
        with pytest.raises(CrelleValueError, match=rf"there is no row {i}\n  called .*\n  expected  0 to 1"):
            p.row(i)
    with pytest.raises(CrelleTypeError, match="0.5 is not the number of a row"):
        p.row(0.5)


@pytest.mark.parametrize("entry", [3, (1,), [0, 1], "ab", (0, 1, 2)])
def test_what_cannot_be_an_entry(entry):
    with pytest.raises(CrelleTypeError, match=r"is not an entry\n  expected  \(i, j\) in pattern"):
        entry in SparsityPattern.from_dense([[0, 1]])  # noqa: B015


def test_combining_what_does_not_fit():
    p = SparsityPattern.from_dense([[0, 1, 0], [1, 0, 0]])
    text = (
        "{} needs patterns of one shape\n"
        "  called    SparsityPattern(2 × 3, 2 nonzeros, 33 %, bandwidth 1+1)\n"
        "            SparsityPattern(3 × 2, 2 nonzeros, 33 %, bandwidth 1+1)\n"
        "  expected  the same rows and columns in both\n"
        "  try       transpose one of them with .T"
    )
    for name, combine in (
        ("|", lambda: p | p.T),
        ("&", lambda: p & p.T),
        ("contains", lambda: p.contains(p.T)),
        ("contains", lambda: p >= p.T),
    ):
        with pytest.raises(CrelleShapeError) as caught:
            combine()
        assert str(caught.value) == text.format(name)
    with pytest.raises(
        CrelleTypeError, match=r"contains needs two patterns and got ndarray\n.*\n.*SparsityPattern\.from_"
    ):
        p.contains(p.to_dense())
    for other in (p.to_dense(), p.to_scipy(), 1):
        for combine in (lambda o: p | o, lambda o: o | p, lambda o: p & o, lambda o: p <= o):
            with pytest.raises(TypeError):
                combine(other)


def test_dense_only_where_it_fits():
    p = SparsityPattern.from_triplets([0], [1], (10**6, 10**6))
    with pytest.raises(CrelleMemoryError) as caught:
        p.to_dense()
    assert str(caught.value) == (
        "the dense matrix would take 1 TB, and memory='1GB'\n"
        "  called  SparsityPattern(1,000,000 × 1,000,000, 1 nonzero, 1.0e-10 %, bandwidth 0+1)\n"
        '  try     keep it sparse, with to_scipy(), or allow it: to_dense(memory="1.01 TB")'
    )
    q = SparsityPattern.from_triplets([0], [1], (30, 40))
    with pytest.raises(CrelleMemoryError):
        q.to_dense(memory=1199)
    assert q.to_dense(memory="1.2 kB").sum() == 1
