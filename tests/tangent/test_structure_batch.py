"""Batch axes found from patterns, compared with the pattern's own definition, position by position."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crelle._arrays import ArrayType
from crelle.tangent.structure import Blocks, Structure, find_structure


def pattern_of(dense: np.ndarray[Any, Any]) -> SimpleNamespace:
    """The arrays of a pattern, as little as the analyses may rely on."""
    rows, cols = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=dense.shape[0]))])
    return SimpleNamespace(shape=dense.shape, indptr=indptr.astype(np.int32), indices=cols.astype(np.int32))


def structure(dense: np.ndarray[Any, Any], inputs: Any, outputs: Any, **kwargs: Any) -> Structure:
    types = [[ArrayType("float64", shape) for shape in side] for side in (inputs, outputs)]
    names = {"input_names": ["x", "w", "v"][: len(inputs)], "output_names": ["y", "z"][: len(outputs)]}
    return find_structure(pattern_of(dense), *types, **{**names, **kwargs})


def along(shape: tuple[int, ...], axis: int) -> np.ndarray[Any, Any]:
    """The coordinate along an axis of every entry of a raveled array."""
    return np.indices(shape)[axis].reshape(-1)


def partition(blocks: Blocks) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    return {(tuple(sorted(rows.tolist())), tuple(sorted(cols.tolist()))) for rows, cols in blocks}


def expected(row_label: np.ndarray[Any, Any], col_label: np.ndarray[Any, Any]) -> set[Any]:
    return {
        (tuple(np.flatnonzero(row_label == b).tolist()), tuple(np.flatnonzero(col_label == b).tolist()))
        for b in np.unique(row_label)
    }


def test_batched_mlp():
    s = structure(np.kron(np.eye(6), np.ones((2, 3))), [(6, 3)], [(6, 2)])
    assert s.kind == "block-diagonal"
    (batch,) = s.batch_axes
    assert (batch.size, batch.complete) == (6, True)
    assert (batch.inputs[0].axis, batch.outputs[0].axis) == (0, 0)
    assert s.blocks_of().shape == (2, 3)
    np.testing.assert_array_equal(s.blocks_of().rows, np.arange(12).reshape(6, 2))
    np.testing.assert_array_equal(s.blocks_of().cols, np.arange(18).reshape(6, 3))
    assert s.sentence == "block-diagonal: 6 blocks of 2×3 over axis 0 of x"


@pytest.mark.parametrize("shape, axis", [((5, 2), 0), ((2, 5), 1), ((2, 5, 3), 1)])
def test_time_batch_feature(shape: tuple[int, ...], axis: int):
    """[T, B, d] with the batch in the middle, outputs with it anywhere."""
    dense = along(shape, axis)[:, None] == along((4, 5, 3), 1)[None]
    s = structure(dense, [(4, 5, 3)], [shape])
    (batch,) = s.batch_axes
    assert (batch.size, batch.inputs[0].axis, batch.outputs[0].axis) == (5, 1, axis)
    assert f"axis 1 of x → axis {axis} of y" in str(s)
    assert partition(s.blocks_of()) == expected(along(shape, axis), along((4, 5, 3), 1))


def test_equal_lengths_do_not_confuse():
    shape = (4, 4, 4)
    dense = along(shape, 2)[:, None] == along(shape, 0)[None]
    (batch,) = structure(dense, [shape], [shape]).batch_axes
    assert (batch.inputs[0].axis, batch.outputs[0].axis) == (0, 2)


def test_several_batch_axes_at_once():
    """Attention without mixing of samples or heads: [B, H, T, d] -> [H, B, T, e]."""
    ins, outs = (3, 2, 4, 2), (2, 3, 4)
    dense = (along(outs, 1)[:, None] == along(ins, 0)[None]) & (along(outs, 0)[:, None] == along(ins, 1)[None])
    s = structure(dense, [ins], [outs])
    assert [b.size for b in s.batch_axes] == [3, 2]
    assert [(b.inputs[0].axis, b.outputs[0].axis) for b in s.batch_axes] == [(0, 1), (1, 0)]
    assert s.blocks_of().shape == (4, 8)
    assert "6 blocks of 4×8 over axes 0 and 1 of x" in s.sentence
    # Blocks come in the order of the axes, the last fastest: block b * 2 + h.
    rows, cols = s.blocks_of()[1 * 2 + 1]
    assert set(along(outs, 1)[rows]) == set(along(ins, 0)[cols]) == {1}
    assert set(along(outs, 0)[rows]) == set(along(ins, 1)[cols]) == {1}


@pytest.mark.parametrize("inner_first", [True, False])
def test_flattened_output(inner_first: bool):
    """Y raveled to B k or k B entries: a factor of the output's only axis."""
    place = np.arange(5 * 3)
    label = place % 5 if inner_first else place // 3
    s = structure(label[:, None] == along((5, 2), 0)[None], [(5, 2)], [(15,)])
    (batch,) = s.batch_axes
    part = batch.outputs[0]
    assert (part.whole, part.size, part.inner) == (False, 5, 1 if inner_first else 3)
    assert s.sentence.startswith("block-diagonal: 5 blocks of 3×2 over axis 0 of x")
    assert ("read as 3×5, part 1" if inner_first else "read as 5×3, part 0") in str(s)


def test_merged_on_both_sides():
    """[B H, d] -> [B, H k]: both axes are found, one as the outer and one as the inner factor."""
    ins, outs = (6, 2), (3, 4)
    b, h = along(ins, 0) // 2, along(ins, 0) % 2
    dense = (along(outs, 0)[:, None] == b[None]) & (along(outs, 1)[:, None] // 2 == h[None])
    s = structure(dense, [ins], [outs])
    assert s.blocks_of().shape == (2, 2)
    assert sorted(b.size for b in s.batch_axes) == [2, 3]
    assert all(b.complete for b in s.batch_axes)


def test_batch_that_is_no_axis_anywhere():
    """A state raveled by its user: the number of blocks comes from connected components, the axis from there."""
    s = structure(np.kron(np.eye(4), np.ones((3, 3))), [(12,)], [(12,)])
    (batch,) = s.batch_axes
    assert (batch.size, batch.inputs[0].inner, batch.outputs[0].inner) == (4, 3, 3)
    assert "4 blocks of 3×3 over part of axis 0 of x" in s.sentence


def test_a_band_stays_a_band_though_its_even_and_odd_rows_are_apart():
    """Not an axis of anything: the batch is in the table, the band in the name."""
    s = structure(np.eye(50) + np.eye(50, k=2) + np.eye(50, k=-2), [(50,)], [(50,)])
    assert s.sentence.startswith("banded: 2 below and 2 above the diagonal")
    assert "2: axis 0 of x (read as 25×2, part 1) → axis 0 of y (read as 25×2, part 1)" in str(s)


def test_permuted_blocks_have_no_axis(rng: np.random.Generator):
    rows, cols = rng.permutation(15), rng.permutation(20)
    dense = np.kron(np.eye(5), np.ones((3, 4)))[rows][:, cols]
    s = structure(dense, [(20,)], [(15,)])
    assert (s.kind, s.batch_axes) == ("block-diagonal", ())
    assert s.sentence.startswith("block-diagonal: 5 blocks of 3×4, connected components")
    for r, c in s.blocks_of():
        assert dense[np.ix_(r, c)].all() and dense[r].sum() == dense[:, c].sum() == 12


def test_shared_parameters_break_the_block_diagonal():
    batch = np.kron(np.eye(6), np.ones((2, 3)))
    s = structure(np.hstack([batch, np.ones((12, 4))]), [(6, 3), (2, 2)], [(6, 2)])
    assert s.kind == "sparse"
    (axis,) = s.batch_axes
    assert (axis.size, axis.complete, axis.inputs[1]) == (6, False, None)
    assert "6: axis 0 of x → axis 0 of y; not of w" in str(s)
    assert s.dense_cols.tolist() == [18, 19, 20, 21]


def test_shared_output_breaks_it_too():
    """A mean over the batch beside the values themselves."""
    s = structure(np.vstack([np.kron(np.eye(6), np.ones((1, 3))), np.ones((1, 18))]), [(6, 3)], [(6,), ()])
    (axis,) = s.batch_axes
    assert (axis.complete, axis.outputs[1]) == (False, None)
    assert "not of z" in str(s)
    assert s.dense_rows.tolist() == [6]


def test_trees_that_all_have_the_batch_in_their_own_place():
    """y[b] from x[b], v[:, b]; z[:, b] from w[b] and v[:, b]."""
    x, w, v, y, z = (5, 2), (5,), (2, 5), (5, 2), (3, 5)
    cols = [along(x, 0), along(w, 0), along(v, 1)]
    rows = [along(y, 0), along(z, 1)]
    linked = [[1, 0, 1], [0, 1, 1]]
    dense = np.block([[(rows[k][:, None] == cols[j]) * linked[k][j] for j in range(3)] for k in range(2)])
    s = structure(dense, [x, w, v], [y, z])
    (batch,) = s.batch_axes
    assert batch.complete
    assert [part.axis for part in batch.inputs] == [0, 0, 1]
    assert [part.axis for part in batch.outputs] == [0, 1]
    assert partition(s.blocks_of()) == expected(np.concatenate(rows), np.concatenate(cols))
    assert "5 blocks of 5×5 over axis 0 of x, axis 0 of w and of 1 more" in s.sentence


def test_inputs_without_entries_are_in_no_block():
    dense = np.hstack([np.kron(np.eye(4), np.ones((2, 2))), np.zeros((8, 3))])
    s = structure(dense, [(4, 2), (3,)], [(4, 2)])
    assert s.batch_axes[0].complete and s.batch_axes[0].inputs[1] is None
    assert s.blocks_of().cols.tolist() == np.arange(8).reshape(4, 2).tolist()


def test_empty_and_scalar_arrays_beside_a_batch():
    dense = np.hstack([np.kron(np.eye(4), np.ones((2, 2))), np.zeros((8, 1))])
    s = structure(dense, [(4, 2), (0, 4), ()], [(4, 2)])
    assert [b.size for b in s.batch_axes if b.complete] == [4]
    assert structure(np.zeros((0, 8)), [(4, 2)], [(0, 4)]).batch_axes == ()


def test_one_disagreeing_entry_among_many_is_seen():
    """The sample misses it; the comparison with all entries does not."""
    dense = np.kron(np.eye(200), np.ones((4, 4)))
    dense[3, 799] = 1
    s = structure(dense, [(200, 4)], [(200, 4)])
    assert not any(b.complete for b in s.batch_axes)


def test_one_disagreeing_entry_takes_out_only_its_array():
    """x keeps its batch though a single entry ties w to another sample."""
    blocks = np.kron(np.eye(200), np.ones((4, 4)))
    tied = blocks.copy()
    tied[3, 799] = 1
    s = structure(np.hstack([blocks, tied]), [(200, 4), (200, 4)], [(200, 4)])
    axis = next(b for b in s.batch_axes if b.size == 200)
    assert (axis.complete, axis.inputs[0].axis, axis.inputs[1]) == (False, 0, None)


def test_what_the_blocks_are():
    tri = np.eye(5) + np.eye(5, k=1) + np.eye(5, k=-1)
    assert structure(np.kron(np.eye(4), tri), [(4, 5)], [(4, 5)]).within == "tridiagonal"
    assert structure(np.kron(tri, np.eye(4)), [(5, 4)], [(5, 4)]).within == "tridiagonal"
    causal = structure(np.kron(np.eye(4), np.tril(np.ones((6, 6)))), [(4, 6)], [(4, 6)])
    assert causal.sentence == "block-diagonal: 4 blocks of 6×6 over axis 0 of x, each lower triangular"


@st.composite
def batched(draw: st.DrawFn) -> tuple[Any, ...]:
    """Latent axes, laid out at random in an input and an output, neighbours merged at random; dense inside a copy."""
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=2))
    sides, alone = [], []
    for _ in range(2):
        extra = draw(st.lists(st.integers(1, 3), max_size=2))
        lengths = sizes + extra
        order = draw(st.permutations(range(len(lengths))))
        grid = np.indices([lengths[k] for k in order]).reshape(len(order), -1)
        label = np.zeros(grid.shape[1], int)
        for k, size in enumerate(sizes):
            label = label * size + grid[order.index(k)]
        cuts = [draw(st.booleans()) for _ in order[1:]]
        shape: list[int] = []
        members: list[list[int]] = []
        for place, k in enumerate(order):
            if place and not cuts[place - 1]:
                shape[-1] *= lengths[k]
                members[-1].append(k)
            else:
                shape.append(lengths[k])
                members.append([k])
        alone.append({group[0] for group in members if len(group) == 1})
        sides.append((tuple(shape), label))
    explained = all(k in alone[0] or k in alone[1] for k in range(len(sizes)))
    return sizes, *sides, explained


@settings(deadline=None, max_examples=400)
@given(batched())
def test_random_layouts_against_brute_force(case: tuple[Any, ...]):
    sizes, (in_shape, col_label), (out_shape, row_label), explained = case
    s = structure(row_label[:, None] == col_label[None], [in_shape], [out_shape])
    copies = math.prod(sizes)
    if explained:
        assert partition(s.blocks_of()) == expected(row_label, col_label)
        assert math.prod(b.size for b in s.batch_axes) == copies
    else:  # lengths that no axis has are tried only in part: blocks may hold several copies, but whole ones
        assert copies % len(s.blocks_of()) == 0
        held = {b: k for k, (rows, _) in enumerate(s.blocks_of()) for b in row_label[rows].tolist()}
        assert len(held) == copies
        for k, (rows, cols) in enumerate(s.blocks_of()):
            assert {held[b] for b in row_label[rows].tolist()} == {held[b] for b in col_label[cols].tolist()} == {k}


@settings(deadline=None, max_examples=150)
@given(batched(), st.integers(0, 2**32 - 1))
def test_random_sparse_layouts_stay_sound(case: tuple[Any, ...], seed: int):
    """With entries missing, finer batches may be true: every entry lies inside the block that holds its row."""
    _, (in_shape, col_label), (out_shape, row_label), _ = case
    kept = np.random.default_rng(seed).random((len(row_label), len(col_label))) < 0.4
    dense = (row_label[:, None] == col_label[None]) & kept
    s = structure(dense, [in_shape], [out_shape])
    inside = np.zeros_like(dense)
    for rows, cols in s.blocks_of():
        inside[np.ix_(rows, cols)] = True
    assert not (dense & ~inside).any()
    held_rows = np.concatenate([rows for rows, _ in s.blocks_of()] or [np.zeros(0, int)])
    assert len(np.unique(held_rows)) == len(held_rows)


def test_many_arrays_cost_no_more_than_their_pairs():
    """Gradient of a network's parameters: 60 arrays, every pair dense but one that is not there."""
    shapes = [(3,), (2, 2)] * 30
    total = sum(map(math.prod, shapes))
    dense = np.ones((total, total))
    dense[0, -1] = dense[-1, 0] = 0
    types = [ArrayType("float64", shape) for shape in shapes]
    assert find_structure(pattern_of(dense), types, types, symmetric=True).kind == "dense"
