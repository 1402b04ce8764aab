"""Colour counts that others have published, and counts of stencils, on patterns that need no file.

Sources: Gebremedhin, Manne and Pothen, "What color is your Jacobian?", SIAM Review 47 (2005), and Gebremedhin,
Tarafdar, Pothen and Walther, "Efficient computation of sparse Hessians using coloring and automatic differentiation",
INFORMS Journal on Computing 21 (2009), as the tests of SparseMatrixColorings.jl (``test/small.jl``, ``theory.jl``,
``order.jl``, ``structured.jl``; MIT) pin them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import crelle
from crelle import SparsityPattern
from crelle.colorings import ORDERS, color_columns, color_rows, color_symmetric
from tests.colorings.grids import BOX, BOX3, CROSS, CROSS3, arrow, banded, brusselator, grid


def mask(text: str) -> np.ndarray:
    """Rows of zeros and ones, apart by blanks."""
    return np.array([[cell == "1" for cell in row] for row in text.split()])


#: Figure 4.1 of the first paper; figure 6.1 of it, which is also figures 1 and 4 of the second.
SIX = mask("110000 111011 011100 001101 010010 010101")
TEN = mask(
    "1100001000 1110100000 0111010000 0011000001 0100110100 0010110010 1000001100 0000101110 0000010111 0001000011"
)


@pytest.mark.parametrize(
    ("matrix", "substitution", "colors"),
    [
        pytest.param(SIX, False, [0, 1, 0, 2, 0, 0], id="star, six"),
        pytest.param(TEN, False, [0, 1, 0, 2, 0, 3, 2, 4, 0, 1], id="star, ten"),
        pytest.param(TEN, True, [0, 1, 0, 1, 0, 2, 1, 2, 1, 0], id="acyclic, ten"),
    ],
)
def test_the_figures_are_coloured_as_printed(matrix: np.ndarray, substitution: bool, colors: list[int]):
    printed = color_symmetric(matrix, orders="natural", substitution=substitution)
    assert printed.colors.tolist() == colors
    best = color_symmetric(matrix, substitution=substitution)
    assert best.verify() and best.passes <= max(colors) + 1


def test_column_and_row_examples():
    assert color_columns(mask("101 011 100"), orders="natural").colors.tolist() == [0, 0, 1]
    assert color_rows(mask("101 010 110"), orders="natural").colors.tolist() == [0, 0, 1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("matrix", "passes"),
    [
        pytest.param(np.eye(4, dtype=bool)[::-1], 1, id="antidiagonal"),
        pytest.param(mask("110 011 101"), 3, id="triangle"),
        pytest.param(arrow(10).to_dense(), 3, id="arrow"),
    ],
)
def test_examples_of_both_sides_with_clean_up(matrix: np.ndarray, passes: int, order: Any):
    coloring = crelle.coloring(matrix, "both", orders=order)
    assert coloring.verify() and coloring.passes == passes


@pytest.mark.parametrize("order", [*ORDERS, "random"])
def test_two_dense_rows_and_columns_take_four_passes(order: Any):
    """The rectangle: four is the least; without clean-up it is six."""
    matrix = np.zeros((10, 20), bool)
    matrix[:, [0, -1]] = matrix[[0, -1]] = True
    assert crelle.coloring(matrix, "both", orders=order).passes == 4


@pytest.mark.parametrize("order", ["natural", "largest-first", "smallest-last", "incidence-degree"])
@pytest.mark.parametrize("bands", [10, 20])
@pytest.mark.parametrize("n", [5000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_symmetric_bands_take_what_the_theory_says(n: int, bands: int, order: Any):
    """ρ bands beside the diagonal: 2⌊ρ/2⌋ + 1 colours for star, ⌊ρ/2⌋ + 1 for acyclic."""
    pattern = banded(n, bands // 2, bands // 2)
    assert color_symmetric(pattern, orders=order).passes == 2 * (bands // 2) + 1
    assert color_symmetric(pattern, orders=order, substitution=True).passes == bands // 2 + 1


@pytest.mark.parametrize(
    ("n", "half"), [(100, 10), (200, 20), pytest.param(400, 40, marks=pytest.mark.slow)], ids=lambda k: str(k)
)
def test_permuted_bands_are_coloured_as_by_perfect_elimination(n: int, half: int):
    """Band graphs are chordal: half + 1 colours suffice, and orders by degree find them."""
    new = np.random.default_rng(63).permutation(n)
    matrix = banded(n, half, half).to_dense()[np.ix_(new, new)]
    for order in ("smallest-last", "incidence-degree"):
        assert color_symmetric(matrix, orders=order, substitution=True).passes == half + 1  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["columns", "rows"])
@pytest.mark.parametrize("shape", [(10, 20), (20, 10)])
def test_rectangular_bands_take_as_many_passes_as_the_longest_line(shape: tuple[int, int], kind: Any):
    for lower in range(6):
        for upper in range(6):
            i, j = np.indices(shape)
            matrix = (i - j <= lower) & (j - i <= upper)
            counts = matrix.sum(1 if kind == "columns" else 0)
            assert crelle.coloring(matrix, kind).passes == counts.max()


BETTER = {
    "columns": ("0011 0101 0011 1100", lambda m, o: color_columns(m, orders=o), 3, 2),
    "rows": ("1000 0010 0111 1001", lambda m, o: color_rows(m, orders=o), 3, 2),
    "star": ("01011 11010 00101 11010 10100", lambda m, o: color_symmetric(m, orders=o), 4, 3),
    "both": ("01000 10100 01001 00000 00101", lambda m, o: crelle.coloring(m, "both", orders=o), 3, 2),
}


@pytest.mark.parametrize("kind", BETTER)
def test_largest_first_beats_natural_where_it_is_known_to_and_the_better_is_kept(kind: str):
    text, color, natural, largest = BETTER[kind]
    matrix = mask(text)
    assert color(matrix, "natural").passes == natural
    assert color(matrix, "largest-first").passes == largest
    assert color(matrix, ("natural", "largest-first")).passes == largest
    assert color(matrix, None).passes <= largest


# -- stencils


@pytest.mark.slow
@pytest.mark.parametrize("length", [*range(8, 41), 50, 71, 100, 127, 223])
def test_brusselators_of_every_length(length: int):
    coloring = color_columns(brusselator(length))
    assert coloring.verify()
    assert coloring.lower_bound == 6 and coloring.passes <= 8
    if length % 6 == 0:
        assert coloring.passes == 6
    elif length % 7 == 0:
        assert coloring.passes == 7


#: Name, offsets, what the lengths of a periodic grid have to divide by.
STENCILS = {"5 points": (CROSS, 5), "9 points": (BOX, 3), "7 points": (CROSS3, 7), "27 points": (BOX3, 3)}


@pytest.mark.parametrize("name", STENCILS)
def test_open_grids_of_every_length_take_the_size_of_the_stencil(name: str):
    offsets, _ = STENCILS[name]
    dimensions = len(offsets[0])
    for length in range(4, 13 if dimensions == 3 else 26):
        coloring = color_columns(grid((length,) * dimensions, offsets))
        assert coloring.passes == len(offsets) == coloring.lower_bound, length


@pytest.mark.parametrize("name", STENCILS)
def test_periodic_grids_whose_length_divides_take_the_size_of_the_stencil(name: str):
    offsets, period = STENCILS[name]
    dimensions = len(offsets[0])
    for length in range(period, 15 if dimensions == 3 else 31, period):
        if length >= 3 + (period == 3) * 3:
            assert color_columns(grid((length,) * dimensions, offsets, periodic=True)).passes == len(offsets), length


def packed(length: int, dimensions: int) -> int:
    """The most cells of a periodic grid that are three apart along some axis: layer by layer."""
    cells = 1
    for _ in range(dimensions):
        cells = length * cells // 3
    return cells


@pytest.mark.parametrize("length", range(5, 31))
def test_other_periodic_squares_take_three_more_at_most(length: int):
    """Unless counting excludes it: a colour of nine points has ``packed`` cells at most."""
    assert color_columns(grid((length, length), CROSS, periodic=True)).passes <= 8
    least = math.ceil(length**2 / packed(length, 2))
    passes = color_columns(grid((length, length), BOX, periodic=True)).passes
    assert least <= passes <= max(12, least)


@pytest.mark.slow
@pytest.mark.parametrize("name", STENCILS)
@pytest.mark.parametrize("periodic", [False, True])
def test_star_colourings_never_take_more_than_columns_on_stencils(name: str, periodic: bool):
    offsets, _ = STENCILS[name]
    dimensions = len(offsets[0])
    for length in range(3, 9 if dimensions == 3 else 21):
        pattern = grid((length,) * dimensions, offsets, periodic=periodic)
        assert color_symmetric(pattern).passes <= color_columns(pattern).passes, length


def test_star_colourings_never_take_more_than_columns_on_random_patterns():
    rng = np.random.default_rng(4)
    for n in (5, 12, 30, 70, 150):
        for density in (0.02, 0.05, 0.1, 0.3, 0.7):
            matrix = np.triu(rng.random((n, n)) < density)
            matrix |= matrix.T | np.eye(n, dtype=bool)
            pattern = SparsityPattern.from_dense(matrix)
            star, acyclic = color_symmetric(pattern), color_symmetric(pattern, substitution=True)
            assert acyclic.passes <= star.passes <= color_columns(pattern).passes, (n, density)
