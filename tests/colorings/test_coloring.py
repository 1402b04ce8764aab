"""Colourings recover every entry: against the definition, against random values, and for the counts that are known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import crelle
from crelle import Coloring, SparsityPattern
from crelle.colorings import ORDERS, color_both, color_columns, color_rows, color_symmetric
from tests.colorings.grids import BOX, BOX3, CROSS, CROSS3, arrow, banded, brusselator, grid

Mask = np.ndarray[Any, np.dtype[np.bool_]]
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9))
squares = st.integers(0, 9).flatmap(lambda n: hnp.arrays(np.bool_, (n, n)))


def values_of(mask: Mask, seed: int = 0) -> np.ndarray[Any, Any]:
    """Whole numbers, so that sums are exact, none of them zero."""
    rng = np.random.default_rng(seed)
    return np.where(mask, rng.integers(1, 1 << 20, mask.shape), 0).astype(float)


def recovered(coloring: Coloring, J: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """From products with the seeds."""
    seeds = coloring.seeds()
    if coloring.kind == "both":
        return coloring.recover(J @ seeds[0], seeds[1] @ J)
    return coloring.recover(seeds @ J if coloring.kind == "rows" else J @ seeds)


def columns_are_told_apart(mask: Mask, wanted: Mask, colors: np.ndarray[Any, Any]) -> bool:
    """The definition: a wanted entry's column has a colour that no other column with an entry in its row has."""
    return all(
        colors[j] >= 0 and not any(mask[i, k] and colors[k] == colors[j] for k in range(mask.shape[1]) if k != j)
        for i, j in zip(*np.nonzero(wanted), strict=True)
    )


def both_tell_apart(mask: Mask, wanted: Mask, columns: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> bool:
    return all(
        columns_are_told_apart(mask, single, columns) or columns_are_told_apart(mask.T, single.T, rows)
        for single in singles(wanted)
    )


def singles(wanted: Mask) -> list[Mask]:
    """A mask for each entry."""
    found = []
    for i, j in zip(*np.nonzero(wanted), strict=True):
        single = np.zeros_like(wanted)
        single[i, j] = True
        found.append(single)
    return found


@given(masks, st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_columns_rows_and_both_meet_the_definition_and_recover_exactly(mask: Mask, seed: int):
    pattern, J = SparsityPattern.from_dense(mask), values_of(mask)
    wanted = mask & (np.random.default_rng(seed).random(mask.shape) < 0.5)
    for wish, target in ((None, mask), (SparsityPattern.from_dense(wanted), wanted)):
        columns = color_columns(pattern, wanted=wish)
        rows = color_rows(pattern, wanted=wish)
        both = color_both(pattern, wanted=wish)
        auto = crelle.coloring(pattern, wanted=wish)
        assert columns_are_told_apart(mask, target, columns.colors)
        assert columns_are_told_apart(mask.T, target.T, rows.colors)
        assert both_tell_apart(mask, target, *both.colors)
        assert auto.passes <= min(columns.passes, rows.passes)
        assert both.passes <= min(columns.passes, rows.passes)
        for coloring in (columns, rows, both, auto):
            assert coloring.verify()
            assert coloring.lower_bound <= coloring.passes <= coloring.dense_passes
            entries = coloring.entries
            assert np.array_equal(recovered(coloring, J), J[entries.rows, entries.cols])


@given(squares, st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_symmetric_colourings_recover_from_either_side_of_the_diagonal(mask: Mask, seed: int):
    mask = mask | mask.T
    pattern, H = SparsityPattern.from_dense(mask), values_of(mask)
    H = np.triu(H) + np.triu(H, 1).T
    wanted = mask & (np.random.default_rng(seed).random(mask.shape) < 0.4)
    for wish, target in ((None, mask), (SparsityPattern.from_dense(wanted), wanted)):
        star = color_symmetric(pattern, wanted=wish)
        acyclic = color_symmetric(pattern, substitution=True, wanted=wish)
        for single in singles(target):
            assert columns_are_told_apart(mask, single, star.colors) or columns_are_told_apart(
                mask, single.T, star.colors
            )
        assert star.passes <= color_columns(pattern, wanted=wish).passes
        for coloring in (star, acyclic):
            assert coloring.verify()
            assert coloring.lower_bound <= coloring.passes
            # Sums of at most 81 whole numbers below 2²⁰ are exact.
            assert np.array_equal(recovered(coloring, H), H[coloring.entries.rows, coloring.entries.cols])


def bicoloured(mask: Mask, colors: np.ndarray[Any, Any], length: int) -> bool:
    """Whether some path of so many vertices (a closed one, if that is 0) has two colours; by search."""
    n = mask.shape[0]
    edges = [(i, j) for i, j in itertools.permutations(range(n), 2) if mask[i, j]]
    if any(colors[i] == colors[j] for i, j in edges):
        return True
    if length:
        paths = [[i, j] for i, j in edges]
        for _ in range(length - 2):
            paths = [[*p, j] for p in paths for i, j in edges if i == p[-1] and j not in p]
        return any(len({int(colors[v]) for v in p}) == 2 for p in paths)
    for a, b in itertools.combinations(range(int(colors.max(initial=-1)) + 1), 2):
        kept = [v for v in range(n) if colors[v] in (a, b)]
        inside = sum(bool(mask[i, j]) for i, j in itertools.combinations(kept, 2))
        reached, parts = set(), 0
        for v in kept:
            parts += v not in reached
            queue = [v]
            while queue:
                w = queue.pop()
                if w not in reached:
                    reached.add(w)
                    queue += [u for u in kept if mask[w, u] and u != w]
        if inside > len(kept) - parts:
            return True
    return False


@given(squares, st.sampled_from(ORDERS))
@settings(max_examples=60, deadline=None)
def test_with_a_full_diagonal_the_colourings_are_star_and_acyclic(mask: Mask, order: Any):
    mask = mask | mask.T | np.eye(mask.shape[0], dtype=bool)
    pattern = SparsityPattern.from_dense(mask)
    assert not bicoloured(mask, color_symmetric(pattern, orders=order).colors, 4)
    assert not bicoloured(mask, color_symmetric(pattern, substitution=True, orders=order).colors, 0)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (4, 5), (1, 1)])
def test_without_entries_there_are_no_passes(shape: tuple[int, int]):
    pattern = SparsityPattern.from_triplets([], [], shape)
    kinds = ["auto", "columns", "rows", "both"] + ["symmetric"] * (shape[0] == shape[1])
    for kind in kinds:
        coloring = crelle.coloring(pattern, kind)
        assert coloring.passes == coloring.lower_bound == 0
        assert coloring.verify()
        assert recovered(coloring, np.zeros(shape)).shape == (0,)
        assert "0 passes" in repr(coloring) and str(coloring)


@pytest.mark.parametrize("n", [1, 5])
def test_diagonal_and_dense(n: int):
    eye, full = np.eye(n), np.ones((n, n))
    for kind in ("auto", "columns", "rows", "both", "symmetric"):
        assert crelle.coloring(eye, kind).passes == 1
        assert crelle.coloring(full, kind).passes == n


def test_columns_and_rows_without_entries_stay_out():
    mask = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    pattern = SparsityPattern.from_dense(mask)
    assert color_columns(pattern).colors.tolist() == [0, -1, 1]
    assert color_rows(pattern).colors.tolist() == [0, -1, 1]


@pytest.mark.parametrize("n", [10, 2000])
def test_arrows_take_three_passes(n: int):
    pattern = arrow(n)
    coloring = crelle.coloring(pattern)
    assert (coloring.kind, coloring.passes, coloring.dense_passes) == ("both", 3, n)
    assert coloring.verify()
    assert color_columns(pattern).passes == color_columns(pattern).lower_bound == n
    assert color_symmetric(pattern).passes == 2


def test_a_few_dense_rows_and_columns_cost_one_pass_each():
    dense = banded(300, 1, 1).to_dense()
    dense[[7, 100], :] = dense[:, [50, 200, 299]] = True
    coloring = crelle.coloring(dense)
    assert coloring.kind == "both" and coloring.verify()
    assert coloring.passes <= 2 + 3 + 3
    J = values_of(dense)
    assert np.array_equal(recovered(coloring, J), J[dense])


@pytest.mark.parametrize(("lower", "upper"), [(1, 1), (0, 3), (4, 2)])
def test_bands_take_as_many_passes_as_they_are_wide(lower: int, upper: int):
    pattern = banded(60, lower, upper)
    for kind in ("auto", "columns", "rows"):
        assert crelle.coloring(pattern, kind).passes == lower + upper + 1


@pytest.mark.parametrize(
    ("offsets", "lengths", "passes"),
    [(CROSS, (13, 17), 5), (BOX, (10, 14), 9), (CROSS3, (8, 9, 11), 7), (BOX3, (6, 7, 8), 27)],
)
def test_open_grids_take_as_many_passes_as_the_stencil_has_points(offsets: Any, lengths: Any, passes: int):
    assert color_columns(grid(lengths, offsets)).passes == passes


@pytest.mark.parametrize(
    ("offsets", "lengths", "passes"),
    [(CROSS, (10, 15), 5), (BOX, (9, 6), 9), (CROSS3, (7, 14, 7), 7), (BOX3, (6, 6, 9), 27)],
)
def test_periodic_grids_do_so_where_the_lengths_suit(offsets: Any, lengths: Any, passes: int):
    assert color_columns(grid(lengths, offsets, periodic=True)).passes == passes


def test_symmetric_stencils():
    five, nine = grid((12, 12), CROSS), grid((12, 12), BOX)
    assert color_symmetric(five).passes <= 5
    assert color_symmetric(five, substitution=True).passes <= 4
    assert color_symmetric(nine).passes <= 9
    tridiagonal = banded(50, 1, 1)
    assert color_symmetric(tridiagonal).passes == 3
    assert color_symmetric(tridiagonal, substitution=True).passes == 2


def test_without_a_diagonal_vertices_that_nothing_is_read_from_are_neutral():
    """A star: its centre gives everything."""
    mask = arrow(9).to_dense() & ~np.eye(9, dtype=bool)
    coloring = color_symmetric(mask)
    assert coloring.colors.tolist() == [0] + [-1] * 8
    assert color_symmetric(mask, substitution=True).passes == 1


@pytest.mark.parametrize("periodic_length", [8, 9, 11, 13, 16, 17, 22, 25])
def test_brusselators_take_eight_passes_at_most(periodic_length: int):
    coloring = color_columns(brusselator(periodic_length))
    assert coloring.verify()
    assert coloring.lower_bound == 6 and coloring.passes <= 8


@pytest.mark.parametrize("periodic_length", [12, 18, 24])
def test_brusselators_reach_the_bound_where_the_length_divides(periodic_length: int):
    assert color_columns(brusselator(periodic_length)).passes == 6


@pytest.mark.parametrize("periodic_length", [12, 20, 25])
def test_the_entries_that_vary_need_two_passes(periodic_length: int):
    """Only the reaction's entries, with the others in the way or without them."""
    pattern = brusselator(periodic_length)
    n = pattern.shape[0] // 2
    cells = np.arange(n)
    varying = SparsityPattern.from_triplets(
        np.concatenate([cells, cells, cells + n, cells + n]),
        np.concatenate([cells, cells + n, cells, cells + n]),
        pattern.shape,
    )
    assert color_columns(varying).passes == 2
    partial = color_columns(pattern, wanted=varying)
    assert partial.verify() and partial.lower_bound <= partial.passes <= 8


def test_wanted_takes_fewer_passes_than_everything():
    """The diagonal of a five-point stencil: neighbours must differ, and nothing more."""
    pattern = grid((10, 10), CROSS)
    diagonal = SparsityPattern.from_dense(np.eye(100))
    coloring = color_columns(pattern, wanted=diagonal)
    assert coloring.passes == 2
    J = values_of(pattern.to_dense())
    assert np.array_equal(recovered(coloring, J), np.diag(J))


@pytest.mark.parametrize("order", [*ORDERS, "random"])
def test_every_order_gives_a_valid_colouring(order: Any):
    rng = np.random.default_rng(5)
    mask = rng.random((70, 60)) < 0.06
    J = values_of(mask)
    for kind in ("columns", "rows", "both"):
        coloring = crelle.coloring(mask, kind, orders=order)
        assert np.array_equal(recovered(coloring, J), J[mask])
    assert color_columns(mask, orders=order).order == order


def test_the_best_order_is_kept():
    rng = np.random.default_rng(6)
    mask = rng.random((200, 150)) < 0.02
    each = [color_columns(mask, orders=order).passes for order in ORDERS]
    assert color_columns(mask, orders=ORDERS).passes == min(each)
    assert color_columns(mask).passes <= min(each)


def test_more_time_never_makes_it_worse_and_stops_at_the_bound():
    rng = np.random.default_rng(7)
    mask = rng.random((120, 120)) < 0.04
    quick, longer = color_columns(mask), color_columns(mask, seconds=0.2)
    assert longer.verify() and longer.passes <= quick.passes
    mask |= mask.T
    assert color_symmetric(mask, seconds=0.1).passes <= color_symmetric(mask).passes
    assert color_columns(banded(500, 1, 1), seconds=1e9).passes == 3  # or this would never end


def test_the_same_pattern_gives_the_same_colouring():
    rng = np.random.default_rng(8)
    mask = rng.random((90, 90)) < 0.05
    for kind in ("auto", "both"):
        assert crelle.coloring(mask, kind) == crelle.coloring(mask, kind)
    assert crelle.coloring(mask | mask.T, "symmetric") == crelle.coloring(mask | mask.T, "symmetric")


def test_long_chains_are_substituted():
    n = 400
    pattern = banded(n, 1, 1)
    H = values_of(pattern.to_dense())
    H = np.triu(H) + np.triu(H, 1).T
    coloring = color_symmetric(pattern, substitution=True)
    assert coloring.elimination is not None and coloring.elimination.levels.size > 100
    assert np.array_equal(recovered(coloring, H), H[pattern.rows, pattern.cols])
    exact = coloring.recover((H @ coloring.seeds()).astype(object))
    assert np.array_equal(exact.astype(float), H[pattern.rows, pattern.cols])


def test_places_say_where_an_entry_is_read():
    mask = arrow(6).to_dense()
    J = values_of(mask)
    coloring = crelle.coloring(mask)
    S, R = coloring.seeds()
    products = (J @ S, R @ J)
    read = [
        products[side][position, color] if side == 0 else products[side][color, position]
        for side, color, position in zip(*coloring.places(), strict=True)
    ]
    assert np.array_equal(read, J[mask])


class TestErrors:
    def test_symmetric_needs_a_square_pattern(self):
        with pytest.raises(crelle.CrelleShapeError) as caught:
            color_symmetric(np.ones((2, 3)))
        assert str(caught.value) == (
            "a symmetric colouring needs a square pattern, and this is 2 × 3\n"
            "  called  color_symmetric(SparsityPattern(2 × 3, 6 nonzeros, 100 %, bandwidth 1+2))\n"
            '  try     kind="auto", or the pattern of the Hessian and not of the Jacobian'
        )

    def test_symmetric_names_an_entry_without_its_mirror_image(self):
        with pytest.raises(crelle.CrelleValueError) as caught:
            crelle.coloring(np.tril(np.ones((3, 3))), "symmetric")
        assert str(caught.value) == (
            "a symmetric colouring needs a symmetric pattern: (1, 0) is in it, (0, 1) is not\n"
            "  called  color_symmetric(SparsityPattern(3 × 3, 6 nonzeros, 67 %, bandwidth 2+0))\n"
            "  likely  this is one triangle of a Hessian, or the pattern of a Jacobian\n"
            '  try     pattern | pattern.T if it is a triangle, kind="auto" if it is a Jacobian'
        )

    def test_wanted_must_be_within_the_pattern(self):
        with pytest.raises(crelle.CrelleValueError, match=r"wanted has entry \(0, 1\), which is not in the pattern"):
            crelle.coloring(np.eye(2), wanted=np.ones((2, 2)))
        with pytest.raises(crelle.CrelleShapeError, match="another shape"):
            crelle.coloring(np.eye(2), wanted=np.eye(3))

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"kind": "diagonals"}, "there is no kind 'diagonals'"),
            ({"orders": "fastest"}, "there is no order 'fastest'"),
            ({"orders": ()}, "there is no order ''"),
            ({"seconds": -1}, "seconds=-1"),
            ({"substitution": True}, 'substitution=True with kind="auto"'),
        ],
    )
    def test_options(self, options: Any, text: str):
        with pytest.raises(crelle.CrelleValueError, match=text):
            crelle.coloring(np.eye(2), **options)

    def test_no_matrix(self):
        with pytest.raises(crelle.CrelleTypeError):
            crelle.coloring("x")
