"""Entries of a pattern and of whole columns: the same numbers in two layouts."""

from __future__ import annotations

import numpy as np
import pytest

from crelle._arrays import ArrayType
from crelle.backends.numpy.function import BlackBox
from crelle.backends.numpy.layouts import ColoredColumns, WholeColumns


def box_of(f, x):
    box = BlackBox(f, (x,), {}, (0,), (ArrayType(str(x.dtype), x.shape),), ("x",), "crelle.jacobian(f)")
    box.evaluate_base()
    return box


@pytest.fixture
def layouts():
    """Columns 1, 3, 0 of a 4 × 4 matrix whose column 2 has no entries; 1 and 3 share a colour."""
    box = box_of(lambda x: np.array([x[1], x[0] + x[3], x[0] * x[3], x[1] ** 2 + x[0]]), np.array([1.0, 2.0, 3.0, 4.0]))
    index = np.array([1, 3, 0])
    colors, start = np.array([0, 0, 1]), np.array([0, 2, 4, 7])
    rows = np.array([0, 3, 1, 2, 1, 2, 3])
    return WholeColumns(box, index), ColoredColumns(box, index, colors, start, rows)


LINES = [np.array([0, 1, 2]), np.array([1]), np.array([0, 2]), np.zeros(0, int)]


@pytest.mark.parametrize("lines", LINES, ids=str)
def test_moved_entries_are_those_of_columns_moved_alone(layouts, lines):
    whole, colored = layouts
    new = np.array([[1.5, 2.5, 0.25], [-1.0, 3.0, 2.0]])[:, lines]
    for origin in (None, np.zeros(4)):
        if origin is not None and len(lines) < 3:
            continue
        expected, found = whole.moved(lines, new, origin), colored.moved(lines, new, origin)
        line = colored.of_lines(lines, np.arange(len(lines)))
        assert found.shape == (2, len(line))
        np.testing.assert_array_equal(found, expected[:, line, colored.rows[colored.some(lines)]])


def test_one_evaluation_for_each_colour_that_is_moved(layouts):
    _, colored = layouts
    count = 0
    f = colored.box.f

    def counted(x):
        nonlocal count
        count += 1
        return f(x)

    colored.box.f = counted
    for lines, expected in zip(LINES, (2, 1, 2, 0), strict=True):
        count = 0
        colored.moved(lines, np.ones((3, len(lines))))
        assert count == 3 * expected


def test_a_bound_on_the_batch_does_not_change_the_values(layouts):
    _, colored = layouts
    lines, new = LINES[0], np.arange(12.0).reshape(4, 3)
    expected = colored.moved(lines, new)
    colored.box.batch_bytes = 8
    np.testing.assert_array_equal(colored.moved(lines, new), expected)


@pytest.mark.parametrize("lines", LINES[:3], ids=str)
def test_numbers_of_lines_and_outputs_beside_entries(layouts, lines):
    _, colored = layouts
    some = colored.some(lines)
    line = np.array([0, 0, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(some, np.flatnonzero(np.isin(line, lines)))
    np.testing.assert_array_equal(colored.of_lines(lines, 10 * lines), 10 * line[some])
    np.testing.assert_array_equal(colored.of_outputs(np.arange(4) + 5, lines), colored.rows[some] + 5)


@pytest.mark.parametrize("lines", LINES[:3], ids=str)
def test_the_worst_entry_of_each_line(layouts, lines):
    _, colored = layouts
    size = np.array([1.0, 5.0, 7.0, 7.0, np.nan, 2.0, np.inf])
    which, worst = colored.worst(lines, size[colored.some(lines)])
    np.testing.assert_array_equal(which, np.array([1, 0, 0])[lines])  # the first of equals, NaN before all
    np.testing.assert_array_equal(worst, np.array([5.0, 7.0, np.nan])[lines])
    np.testing.assert_array_equal(size[colored.entry(lines, which)], worst)
    np.testing.assert_array_equal(size[colored.some(lines)][colored.entry_among(lines, which)], worst)


def test_the_largest_of_each_output(layouts):
    whole, colored = layouts
    size = np.array([1.0, 5.0, 7.0, 4.0, 3.0, 6.0, 2.0])
    np.testing.assert_array_equal(colored.largest(size), [1.0, 5.0, 7.0, 6.0, 7.0, 6.0, 5.0])
    assert whole.largest(np.zeros((0, 4))).tolist() == [0.0] * 4
