"""Matchings, block triangular forms, connected components and separable parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import maximum_bipartite_matching

from crelle.tangent.structure import find_structure, matching
from crelle.tangent.structure.blocks import connected_blocks
from crelle.tangent.structure.matching import maximum_matching
from crelle.tangent.structure.pattern import Entries
from crelle.tangent.structure.triangular import topological_places


def entries(matrix: Any) -> Entries:
    csr = sp.csr_array(matrix)
    csr.sort_indices()
    return Entries(csr.shape, csr.indptr, csr.indices)


def pattern_of(matrix: Any) -> SimpleNamespace:
    e = entries(matrix)
    return SimpleNamespace(shape=e.shape, indptr=e.indptr, indices=e.indices)


def stencil(side: int) -> Any:
    line = sp.diags_array([np.ones(side - 1), np.ones(side), np.ones(side - 1)], offsets=[-1, 0, 1])
    return sp.csr_array(sp.kron(line, sp.eye_array(side)) + sp.kron(sp.eye_array(side), line))


def assert_matching(matrix: Any, columns: np.ndarray[Any, Any]) -> None:
    rows = np.flatnonzero(columns >= 0)
    assert len(np.unique(columns[rows])) == len(rows)
    assert (sp.csr_array(matrix).toarray()[rows, columns[rows]] != 0).all()


dense_patterns = st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.integers(0, 2**32 - 1)).map(
    lambda a: (np.random.default_rng(a[3]).random((a[0], a[1])) < a[2]).astype(float)
)


@pytest.mark.parametrize("small", [0, 5000])
@settings(deadline=None, max_examples=250)
@given(matrix=dense_patterns)
def test_matching_is_maximum(small: int, matrix: np.ndarray[Any, Any]):
    """Both searches, the array one from the first row on, against SciPy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "SMALL", small)
        columns = maximum_matching(entries(matrix))
    assert columns is not None and columns.shape == (matrix.shape[0],)
    assert_matching(matrix, columns)
    best = 0
    if matrix.any():
        best = int((maximum_bipartite_matching(sp.csr_array(matrix), perm_type="column") >= 0).sum())
    assert (columns >= 0).sum() == best


@pytest.mark.parametrize("shape", [(300, 300), (300, 320), (320, 300)])
@pytest.mark.parametrize("per_row", [1, 2, 3])
def test_matching_of_larger_random_patterns(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], per_row: int
):
    monkeypatch.setattr(matching, "SMALL", 0)
    matrix = np.zeros(shape)
    matrix[np.repeat(np.arange(shape[0]), per_row), rng.integers(0, shape[1], shape[0] * per_row)] = 1
    columns = maximum_matching(entries(matrix))
    assert columns is not None
    assert_matching(matrix, columns)
    best = maximum_bipartite_matching(sp.csr_array(matrix), perm_type="column")
    assert (columns >= 0).sum() == (best >= 0).sum() < min(shape)


def test_stencil_in_random_order_is_matched_within_the_bound(rng: np.random.Generator):
    """In this order SciPy's search takes time that grows with the square of the number of rows."""
    n = 120**2
    matrix = stencil(120)[rng.permutation(n)][:, rng.permutation(n)]
    columns = maximum_matching(entries(matrix))
    assert columns is not None and (np.sort(columns) == np.arange(n)).all()


def test_search_is_given_up_at_the_bound(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch):
    """The rank then has its plain bounds, and nothing is said of a block triangular form."""
    monkeypatch.setattr(matching, "SMALL", 0)
    monkeypatch.setattr(matching, "STEPS", 0)
    matrix = stencil(30)[rng.permutation(900)][:, rng.permutation(900)]
    s = find_structure(pattern_of(matrix))
    assert (s.kind, s.rank_bound, s.structural_rank, s.block_triangular) == ("sparse", 900, None, None)
    assert "by the pattern alone: not computed" in str(s)


def test_structural_rank_bounds_the_rank():
    """Three columns for five rows that use them only, beside a full part."""
    matrix = np.zeros((8, 8))
    matrix[:5, :3] = 1
    matrix[5:, 3:] = 1
    s = find_structure(pattern_of(matrix))
    assert s.structural_rank == s.rank_bound == 6
    assert np.linalg.matrix_rank(matrix * np.random.default_rng(0).random((8, 8))) == 6
    assert "rank ≤ 6" in s.sentence
    assert find_structure(pattern_of(matrix), rank_bound=2).rank_bound == 2
    assert find_structure(pattern_of(matrix), rank_bound=2).structural_rank == 6
    assert find_structure(pattern_of(matrix), rank_bound=99).rank_bound == 6


@st.composite
def permuted_block_triangular(draw: st.DrawFn) -> tuple[Any, Any, Any, Any]:
    """Dense diagonal blocks with a random lower part, rows and columns in random order."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    label = np.repeat(np.arange(len(sizes)), sizes)
    n = len(label)
    matrix = (label[:, None] == label[None]) | (
        (label[:, None] > label[None]) & (rng.random((n, n)) < draw(st.floats(0, 1)))
    )
    rows, cols = rng.permutation(n), rng.permutation(n)
    return matrix[rows][:, cols].astype(float), label[rows], label[cols], sizes


@settings(deadline=None, max_examples=300)
@given(permuted_block_triangular())
def test_block_triangular_form_is_recovered(case: tuple[Any, Any, Any, Any]):
    matrix, row_label, col_label, sizes = case
    form = find_structure(pattern_of(matrix)).block_triangular
    assert form is not None
    assert form.count == len(sizes)
    assert sorted(form.sizes.tolist()) == sorted(sizes)
    ordered = matrix[form.rows][:, form.cols]
    for b in range(form.count):
        start, stop = form.bounds[b], form.bounds[b + 1]
        assert not ordered[start:stop, stop:].any()
        assert np.diagonal(ordered[start:stop, start:stop]).all()
        assert len(set(row_label[form.rows[start:stop]]) | set(col_label[form.cols[start:stop]])) == 1


@pytest.mark.parametrize(
    "matrix", [np.ones((2, 3)), np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]]), np.zeros((3, 3))], ids=str
)
def test_no_block_triangular_form_of_what_cannot_be_inverted(matrix: np.ndarray[Any, Any]):
    assert find_structure(pattern_of(matrix)).block_triangular is None


def test_block_triangular_form_of_the_plainest():
    assert find_structure(pattern_of(np.ones((4, 4)))).block_triangular.sizes.tolist() == [4]
    assert find_structure(pattern_of(np.eye(4))).block_triangular.sizes.tolist() == [1] * 4
    assert find_structure(pattern_of(np.zeros((0, 0)))).block_triangular.count == 0
    assert (
        repr(find_structure(pattern_of(np.eye(4))).block_triangular) == "<BlockTriangular: 4 blocks, the largest 1×1>"
    )


def test_long_chain_in_random_order(rng: np.random.Generator):
    """A bidiagonal matrix of 20,000 rows: as many blocks, each waiting for the one before."""
    n = 20_000
    chain = sp.diags_array([np.ones(n), np.ones(n - 1)], offsets=[0, -1]).tocsr()
    s = find_structure(pattern_of(chain[rng.permutation(n)][:, rng.permutation(n)]))
    assert s.kind == "block triangular"
    assert s.sentence == "block triangular: 20,000 blocks after reordering, the largest 1×1"
    assert s.block_triangular.count == n


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_topological_places(count: int, seed: int):
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    before, after = np.nonzero(np.triu(rng.random((count, count)) < 0.5, 1))
    places = topological_places(count, order[before], order[after])
    assert sorted(places.tolist()) == list(range(count))
    assert (places[order[before]] < places[order[after]]).all()


@settings(deadline=None, max_examples=200)
@given(dense_patterns)
def test_connected_blocks_hold_all_entries_and_cannot_be_split(matrix: np.ndarray[Any, Any]):
    blocks = connected_blocks(entries(matrix))
    inside = np.zeros(matrix.shape, bool)
    for rows, cols in blocks:
        assert not inside[np.ix_(rows, cols)].any()
        inside[np.ix_(rows, cols)] = True
        block = matrix[np.ix_(rows, cols)]
        reached = np.zeros(len(rows), bool)
        reached[0] = True
        for _ in rows:
            reached = (block @ (block.T @ reached)) > 0
        assert reached.all() and block.any(axis=0).all()
    assert not (matrix.astype(bool) & ~inside).any()
    assert sum(len(rows) for rows, _ in blocks) == matrix.any(axis=1).sum()


def test_blocks_are_a_sequence():
    blocks = find_structure(pattern_of(np.kron(np.eye(3), np.ones((2, 1))))).blocks_of()
    assert len(blocks) == len(list(blocks)) == 3
    np.testing.assert_array_equal(blocks[-1][0], [4, 5])
    with pytest.raises(IndexError, match="block 3 of 3"):
        blocks[3]
    matrix = np.kron(np.diag([1.0, 2, 3]), np.ones((2, 1)))
    np.testing.assert_array_equal(
        matrix[blocks.rows[:, :, None], blocks.cols[:, None, :]], np.array([1.0, 2, 3])[:, None, None] * np.ones((2, 1))
    )


def test_separable_and_quadratic_parts():
    """x₀² x₂ + x₁ x₃ + x₅: groups {0, 2} and {1, 3}, the second quadratic; x₄ and x₅ at most linear."""
    hessian = np.zeros((6, 6))
    hessian[0, 0] = hessian[0, 2] = hessian[2, 0] = hessian[1, 3] = hessian[3, 1] = 1
    classes = np.array([2, 2, 0, 2, 0], np.uint8)
    parts = find_structure(pattern_of(hessian), symmetric=True, entry_class=classes).separable
    assert parts.labels.tolist() == [0, 1, 0, 1, -1, -1]
    assert parts.quadratic.tolist() == [False, True]
    assert (parts.count, parts.affine) == (2, 2)
    assert parts.describe() == "2 separate groups of 2 variables, 1 quadratic; 2 variables at most linear"
    assert parts.to_dict() == {"count": 2, "quadratic": 1, "affine": 2}


def test_separable_parts_of_the_plainest():
    assert find_structure(pattern_of(np.ones((3, 3)))).separable is None
    whole = find_structure(pattern_of(np.ones((3, 3))), symmetric=True).separable
    assert (whole.describe(), whole.quadratic) == ("not separable", None)
    none = find_structure(pattern_of(np.zeros((3, 3))), symmetric=True).separable
    assert (none.describe(), none.count) == ("at most linear in every variable", 0)
    assert find_structure(pattern_of(np.zeros((0, 0))), symmetric=True).separable.count == 0
    single = find_structure(pattern_of(np.eye(3)), symmetric=True, entry_class=np.zeros(3, np.uint8)).separable
    assert single.describe() == "3 separate groups of 1 variable, quadratic"
