"""Formulas for stencils: found from the pattern alone, right on all of it, and not found where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crelle import SparsityPattern
from crelle.colorings import color_columns
from crelle.colorings._abelian import groups_of
from crelle.colorings._conflicts import Conflicts
from crelle.colorings._lattice import lattice
from tests.colorings.grids import BOX, CROSS, CROSS3, banded, brusselator, grid


def fields_last(pattern: SparsityPattern, fields: int) -> SparsityPattern:
    """The same grid with the fields of a point side by side."""
    place = np.arange(pattern.shape[0]).reshape(fields, -1).T.ravel()
    new = np.empty_like(place)
    new[place] = np.arange(place.size)
    return SparsityPattern.from_triplets(new[pattern.rows], new[pattern.cols], pattern.shape)


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [
        (grid((11, 17), CROSS), 5),
        (grid((15, 10), CROSS, periodic=True), 5),
        (grid((12, 9), BOX, periodic=True), 9),
        (grid((7, 8, 9), CROSS3), 7),
        (grid((7, 7, 14), CROSS3, periodic=True), 7),
        (brusselator(12), 6),
        (brusselator(14), 7),
        (brusselator(20), 8),
        (brusselator(32), 8),
        (fields_last(brusselator(14), 2), 7),
        (grid((12, 12), CROSS, periodic=True, fields=3), 9),
    ],
)
def test_formulas_are_found_and_right(pattern: SparsityPattern, passes: int):
    conflicts = Conflicts.of_columns(pattern)
    found = lattice(conflicts, passes + 1)
    assert found is not None
    colors, used, formula = found
    assert used <= passes and "mod" in formula
    assert set(colors.tolist()) == set(range(used))
    assert conflicts.clashes(colors)[0] == 0


def test_two_steps_close_where_one_does_not():
    found = lattice(Conflicts.of_columns(brusselator(22)), 9)
    assert found is not None and found[1] == 8 and "|" in found[2]


def test_tiles_fill_periods_that_no_formula_closes():
    conflicts = Conflicts.of_columns(brusselator(29))
    found = lattice(conflicts, 9)
    assert found is not None and found[1] == 8 and found[2].startswith("tiles")
    assert conflicts.clashes(found[0])[0] == 0


def test_rows_of_boundaries_that_differ_are_taken_in():
    """A stencil that reaches further at some rows inside, which the sample need not hold."""
    base = grid((60, 60), CROSS)
    extra = np.array([[1830, 1834], [1831, 1835]])
    pattern = base | SparsityPattern.from_triplets(extra[:, 0], extra[:, 1], base.shape)
    coloring = color_columns(pattern)
    assert coloring.verify() and coloring.passes <= 8


@pytest.mark.parametrize("best", [6, 3])
def test_nothing_is_found_below_the_bound(best: int):
    assert lattice(Conflicts.of_columns(brusselator(12)), best) is None


def test_random_patterns_have_no_formula():
    rng = np.random.default_rng(3)
    assert lattice(Conflicts.of_columns(SparsityPattern.from_dense(rng.random((90, 90)) < 0.05)), 50) is None


def test_rectangular_patterns_and_lines_without_entries():
    """Every second row of a band, and columns that are empty."""
    band = banded(80, 2, 2).to_dense()[::2]
    band[:, 40:44] = False
    coloring = color_columns(band)
    assert coloring.verify() and coloring.passes == 5
    assert (coloring.colors[40:44] == -1).all()


@pytest.mark.parametrize(("size", "kinds"), [(1, 1), (7, 1), (8, 3), (9, 2), (27, 3), (36, 4)])
def test_commutative_groups(size: int, kinds: int):
    groups = groups_of(size)
    assert len(groups) == kinds
    for group in groups:
        table: Any = group.add
        assert (table == table.T).all() and (table[0] == np.arange(size)).all()
        assert all(sorted(row) == list(range(size)) for row in table.tolist())
        assert (np.array([group.multiple(3, np.arange(size))]) == table[np.arange(size), table.diagonal()]).all()
