"""What rows=, cols= and entries= mean, and how many passes they need."""

from __future__ import annotations

import numpy as np
import pytest

import crelle
from crelle._select import Selection

MATRIX = np.arange(20.0).reshape(5, 4)

CASES = [
    ({}, MATRIX, 5, 4),
    ({"rows": 2}, MATRIX[2], 1, 4),
    ({"rows": np.int64(-1)}, MATRIX[-1], 1, 4),
    ({"rows": np.array(3)}, MATRIX[3], 1, 4),
    ({"rows": [3, 0, 3]}, MATRIX[[3, 0, 3]], 2, 4),
    ({"rows": (1, -2)}, MATRIX[[1, -2]], 2, 4),
    ({"rows": range(2)}, MATRIX[:2], 2, 4),
    ({"rows": slice(None, None, -1)}, MATRIX[::-1], 5, 4),
    ({"rows": slice(1, 100)}, MATRIX[1:], 4, 4),
    ({"rows": [True, False, False, False, True]}, MATRIX[[0, 4]], 2, 4),
    ({"rows": np.zeros(5, bool)}, MATRIX[:0], 0, 4),
    ({"rows": []}, MATRIX[:0], 0, 4),
    ({"cols": 1}, MATRIX[:, 1], 5, 1),
    ({"cols": [2, 0]}, MATRIX[:, [2, 0]], 5, 2),
    ({"rows": 3, "cols": 2}, MATRIX[3, 2], 1, 1),
    ({"rows": [4, 1], "cols": 2}, MATRIX[[4, 1], 2], 2, 1),
    ({"rows": 3, "cols": [2, 0]}, MATRIX[3, [2, 0]], 1, 2),
    ({"rows": [4, 1], "cols": [2, 0]}, MATRIX[np.ix_([4, 1], [2, 0])], 2, 2),
    ({"entries": (4, 2)}, MATRIX[4, 2], 1, 1),
    ({"entries": np.array([-1, -1])}, MATRIX[-1, -1], 1, 1),
    ({"entries": [(4, 2), (0, 1), (4, 2), (0, 2)]}, MATRIX[[4, 0, 4, 0], [2, 1, 2, 2]], 2, 2),
    ({"entries": [(i, i) for i in range(4)]}, np.diagonal(MATRIX), 4, 4),
    ({"entries": []}, MATRIX[:0, 0], 0, 0),
]


@pytest.mark.parametrize("side", ["rows", "cols"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_what_is_computed_and_what_is_cut_out(case, side):
    asked, expected, rows, cols = CASES[case]
    selection = Selection(**asked)
    assert selection.partial == bool(asked)
    selected = selection.resolve(5, 4)
    count = 5 if side == "rows" else 4
    assert selected.passes(side, count) == (rows if side == "rows" else cols)
    seeds = selected.seeds(side, count)
    assert seeds is None or (np.diff(seeds) > 0).all()
    computed = MATRIX if seeds is None else MATRIX[seeds] if side == "rows" else MATRIX[:, seeds]
    result = selected.apply(computed, side, count)
    assert np.shape(result) == np.shape(expected)
    np.testing.assert_array_equal(result, expected)


def test_keys_are_equal_for_equal_contents():
    key = lambda **asked: Selection(**asked).key
    assert key(rows=[1, 2]) == key(rows=np.array([1, 2])) == key(rows=(1, 2)) != key(rows=[2, 1])
    assert key(rows=slice(1, 2)) == key(rows=slice(1, 2)) != key(rows=slice(1, 3))
    assert key(rows=1) != key(cols=1)
    assert key(rows=1) != key(rows=[1])
    assert key(rows=[True, False]) != key(rows=[1, 0])
    assert key(rows=1) != key(rows=True)
    assert len({key(), key(rows=1), key(entries=(0, 1)), key(entries=[(0, 1)])}) == 4


def refusal(**asked):
    with pytest.raises(crelle.CrelleError) as caught:
        Selection(**asked).resolve(5, 4)
    return caught.value


def test_out_of_range():
    error = refusal(rows=[1, 5])
    assert isinstance(error, crelle.CrelleValueError)
    assert str(error) == (
        "rows= asks for row 5 of a matrix with 5 rows\n  expected  indices into the raveled tree, from -5 to 4"
    )
    assert str(refusal(cols=-5)).startswith("cols= asks for column -5 of a matrix with 4 columns")
    assert str(refusal(entries=(0, 4))).startswith("entries= asks for column 4 of a matrix with 4 columns")
    assert str(refusal(entries=[(5, 0)])).startswith("entries= asks for row 5 of a matrix with 5 rows")
    with pytest.raises(crelle.CrelleValueError, match="expected  nothing: it is empty"):
        Selection(rows=0).resolve(0, 4)


@pytest.mark.parametrize("wanted", [1.5, "all", [1.0, 2.0], [[1, 2]], [True, False], True, ...])
def test_what_does_not_select_rows(wanted):
    error = refusal(rows=wanted)
    assert isinstance(error, crelle.CrelleTypeError)
    assert str(error) == (
        f"rows={wanted!r} does not select rows\n"
        "  expected  an integer, a slice, a 1-D sequence of integers, or a mask of length 5"
    )


@pytest.mark.parametrize("wanted", [3, [(1, 2, 3)], [(1.0, 2.0)], "ab", [[(1, 2)]], [(True, False)]])
def test_what_is_no_list_of_entries(wanted):
    error = refusal(entries=wanted)
    assert isinstance(error, crelle.CrelleTypeError)
    assert str(error) == (
        f"entries={wanted!r} is not a list of (row, column) pairs\n"
        "  expected  one pair such as (3, 5), or a sequence of pairs of integers"
    )
