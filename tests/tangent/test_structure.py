"""What patterns are called, the figures that come with the name, and how they are printed."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from crelle import CrelleError, CrelleShapeError
from crelle._arrays import ArrayType
from crelle._errors import CrelleValueError
from crelle.tangent.structure import find_structure
from crelle.tangent.structure.pattern import band_area


def pattern_of(matrix: Any) -> SimpleNamespace:
    csr = sp.csr_array(matrix)
    csr.sort_indices()
    return SimpleNamespace(shape=csr.shape, indptr=csr.indptr, indices=csr.indices)


def bands(n: int, *offsets: int, m: int | None = None) -> np.ndarray[Any, Any]:
    return sum(np.eye(m or n, n, k=k) for k in offsets)


def arrow(n: int) -> np.ndarray[Any, Any]:
    matrix = np.eye(n)
    matrix[0] = matrix[:, 0] = 1
    return matrix


KINDS = [
    (np.zeros((3, 4)), "zero"),
    (np.zeros((0, 4)), "zero"),
    (np.zeros((4, 0)), "zero"),
    (np.zeros((0, 0)), "zero"),
    (np.ones((1, 1)), "diagonal"),
    (np.eye(5), "diagonal"),
    (np.eye(3, 7), "diagonal"),
    (np.eye(7, 3), "diagonal"),
    (np.diag([1, 0, 1]), "diagonal"),
    (np.ones((1, 6)), "dense"),
    (np.ones((6, 1)), "dense"),
    (np.ones((3, 7)), "dense"),
    (np.ones((7, 7)) - np.eye(7), "dense"),
    (bands(6, -1, 0, 1), "banded"),
    (bands(3, -1, 0, 1), "banded"),
    (bands(50, 0, 1, m=49), "banded"),
    (bands(50, -2, 0, 2), "banded"),
    (bands(9, -1, 0), "banded"),
    (np.kron(np.eye(4), np.ones((3, 2))), "block-diagonal"),
    (np.eye(6)[[3, 1, 5, 0, 2, 4]], "block-diagonal"),
    (sp.block_diag([np.ones((2, 3)), np.ones((4, 1)), np.ones((3, 3))]).toarray(), "block-diagonal"),
    (np.tril(np.ones((6, 6))), "lower triangular"),
    (np.triu(np.ones((6, 6))), "upper triangular"),
    (np.tril(np.ones((6, 6)), -1), "strictly lower triangular"),
    (np.triu(np.ones((6, 6)), 1), "strictly upper triangular"),
    (np.tril(np.ones((6, 6)))[[3, 1, 5, 0, 2, 4]], "block triangular"),
    (np.tril(np.ones((6, 6)))[::-1], "block triangular"),
    (arrow(12), "sparse"),
    (bands(20, 0, 1, -1) + bands(20, 19, -19), "sparse"),
]


@pytest.mark.parametrize("matrix, kind", KINDS)
def test_kinds(matrix: np.ndarray[Any, Any], kind: str):
    s = find_structure(pattern_of(matrix))
    assert s.kind == kind
    assert (s.shape, s.nnz) == (matrix.shape, np.count_nonzero(matrix))
    assert s.rank_bound >= np.linalg.matrix_rank(matrix) if matrix.size else s.rank_bound == 0
    assert repr(s) == f"<Structure: {s.sentence}>" and "\n" not in repr(s)
    assert str(s).splitlines()[0] == s.sentence
    assert json.loads(json.dumps(s.to_dict()))["kind"] == kind
    assert s._repr_html_().startswith("<table>")


def test_scaled_identity_only_if_it_is_one():
    s = find_structure(pattern_of(np.eye(4)), constant_diagonal=2.5)
    assert (s.kind, s.diagonal) == ("scaled identity", 2.5)
    assert s.sentence == "scaled identity: 2.5 on the diagonal of 4×4"
    for matrix in (np.eye(3, 4), np.diag([1, 0, 1]), np.eye(4) + np.eye(4, k=1)):
        s = find_structure(pattern_of(matrix), constant_diagonal=2.5)
        assert (s.kind != "scaled identity", s.diagonal) == (True, None)


@pytest.mark.parametrize(
    "matrix, expected",
    [
        (bands(6, -1, 0, 1), (1, 1)),
        (bands(6, 2, 3), (0, 3)),
        (np.tril(np.ones((5, 5)), -2), (4, 0)),
        (np.ones((2, 7)), (1, 6)),
        (np.zeros((3, 3)), (0, 0)),
        (np.vstack([np.zeros((3, 4)), np.eye(2, 4)]), (3, 0)),
    ],
)
def test_bandwidths(matrix: np.ndarray[Any, Any], expected: tuple[int, int]):
    assert find_structure(pattern_of(matrix)).bandwidths == expected


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 8), st.integers(0, 8))
def test_band_area(m: int, n: int, lower: int, upper: int):
    offsets = np.arange(n)[None] - np.arange(m)[:, None]
    assert band_area((m, n), lower, upper) == ((-lower <= offsets) & (offsets <= upper)).sum()


def test_dense_rows_and_columns():
    s = find_structure(pattern_of(arrow(12)))
    assert (s.dense_rows.tolist(), s.dense_cols.tolist()) == ([0], [0])
    assert s.sentence == "sparse: 34 of 144 entries (24 %), 1 dense row and 1 dense column"
    assert "dense      row 0; column 0" in str(s)
    for matrix in (np.ones((5, 5)), bands(5, -1, 0, 1), np.tril(np.ones((9, 9))), np.eye(2)):
        s = find_structure(pattern_of(matrix))
        assert (s.dense_rows.tolist(), s.dense_cols.tolist()) == ([], [])


def test_constant_and_passive_shares():
    pattern = pattern_of(np.ones((5, 5)) - np.eye(5))
    classes = np.array([0] * 10 + [1] * 5 + [2] * 5, np.uint8)
    s = find_structure(pattern, entry_class=classes)
    assert (s.constant_share, s.passive_share, s.constant, s.linear) == (0.5, 0.25, False, False)
    assert "; 50 % constant" in s.sentence
    assert "25 % change only with arguments that are not differentiated" in str(s)
    passive = find_structure(pattern, entry_class=np.minimum(classes, 1))
    assert (passive.constant, passive.linear) == (False, True)
    assert "; linear" in passive.sentence
    constant = find_structure(pattern, entry_class=classes * 0)
    assert (constant.constant, constant.linear, constant.constant_share) == (True, True, 1.0)
    assert "; constant" in constant.sentence
    unknown = find_structure(pattern)
    assert (unknown.constant_share, unknown.passive_share, unknown.constant, unknown.linear) == (
        None,
        None,
        False,
        False,
    )
    assert find_structure(pattern, linear=True).linear
    zero = find_structure(pattern_of(np.zeros((3, 3))), entry_class=np.zeros(0, np.uint8))
    assert (zero.constant, zero.linear, zero.constant_share) == (True, True, 1.0)


def test_printed_whole():
    x, y = ArrayType("float64", (4, 3)), ArrayType("float64", (4, 2))
    classes = np.zeros(24, np.uint8)
    classes[3:] = 2
    s = find_structure(
        pattern_of(np.kron(np.eye(4), np.ones((2, 3)))),
        [x],
        [y],
        input_names=["x"],
        entry_class=classes,
        rank_bound=4,
    )
    assert str(s) == (
        "block-diagonal: 4 blocks of 2×3 over axis 0 of x; 12 % constant; rank ≤ 4\n"
        "  shape      8×12, 24 of 96 entries (25 %)\n"
        "  batch      4: axis 0 of x → axis 0 of the output\n"
        "  blocks     4 blocks of 2×3\n"
        "  bandwidth  1 below, 5 above the diagonal\n"
        "  constant   12 % of the entries are the same for all arguments\n"
        "  rank       ≤ 4; by the pattern alone: 8"
    )


def test_html_escapes_names():
    s = find_structure(
        pattern_of(np.kron(np.eye(2), np.ones((2, 3)))), [ArrayType("float64", (2, 3))], input_names=["<b>"]
    )
    assert "&lt;b&gt;" in s._repr_html_() and "<b>" not in s._repr_html_()


def test_arrays_that_do_not_fit():
    with pytest.raises(CrelleShapeError) as error:
        find_structure(pattern_of(np.eye(3)), [ArrayType("float64", (2, 2))])
    assert str(error.value) == (
        "a pattern of shape 3×3 does not fit the arrays that it is said to belong to\n"
        "  called    inputs f64[2,2], outputs f64[3]\n"
        "  expected  3 rows and 4 columns"
    )


def test_classes_that_do_not_fit():
    with pytest.raises(CrelleShapeError, match=r"classes of shape \[4\] for a pattern with 3 entries"):
        find_structure(pattern_of(np.eye(3)), entry_class=np.zeros(4, np.uint8))
    for wrong in (np.full(3, 3, np.uint8), np.array([0, -1, 2]), np.zeros(3)):
        with pytest.raises(CrelleValueError, match="the class of an entry is not known") as error:
            find_structure(pattern_of(np.eye(3)), entry_class=wrong)
        assert isinstance(error.value, CrelleError)


def test_reads_a_sparsity_pattern_and_leaves_it_alone():
    from crelle import SparsityPattern

    pattern = SparsityPattern.from_(np.kron(np.eye(3), np.ones((2, 2))))
    assert find_structure(pattern).kind == "block-diagonal"


def test_import_loads_no_scipy():
    program = "import sys, crelle.tangent.structure; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": "src"})
    assert done.stdout.strip() == "False", done.stderr


def test_a_million_rows():
    """Every analysis at size; what takes time per row in Python would take minutes."""
    n = 10**6
    i = np.arange(n)
    upper = SimpleNamespace(
        shape=(n - 1, n),
        indptr=np.arange(0, 2 * n - 1, 2, dtype=np.int32),
        indices=np.stack([i[:-1], i[1:]], axis=1).reshape(-1).astype(np.int32),
    )
    assert find_structure(upper).sentence.startswith("banded: upper bidiagonal, 1,999,998 of ")
    batch = SimpleNamespace(
        shape=(n, n), indptr=np.arange(0, 2 * n + 1, 2), indices=((i // 2 * 2)[:, None] + np.arange(2)).reshape(-1)
    )
    square = ArrayType("float64", (n // 2, 2))
    assert find_structure(batch, [square], [square]).blocks_of().shape == (2, 2)
