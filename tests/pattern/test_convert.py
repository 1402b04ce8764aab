"""Patterns of the matrices of other libraries, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.experimental import sparse as jsparse

from crelle import CrelleShapeError, CrelleTypeError, CrelleValueError, SparsityPattern

A = np.array([[0.0, 1.5, 0.0, 0.0], [2.0, 0.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
P = SparsityPattern((3, 4), [0, 1, 3, 3], [1, 0, 3])
FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")


@given(
    hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.sampled_from([0.0, 1.0])),
    st.sampled_from(FORMATS),
    st.booleans(),
)
def test_scipy(a, fmt, matrix):
    sparse = (scipy.sparse.csr_matrix if matrix else scipy.sparse.csr_array)(a).asformat(fmt)
    p = SparsityPattern.from_(sparse)
    whole = a != 0
    if fmt == "dia":  # diagonals are stored in full up to the last column in use, and so are blocks
        diagonals = np.subtract.outer(-np.arange(a.shape[0]), -np.arange(a.shape[1]))
        whole = np.isin(diagonals, diagonals[whole]) & (np.arange(a.shape[1]) < sparse.data.shape[1])
    elif fmt == "bsr":
        blocks = scipy.sparse.bsr_array((np.ones_like(sparse.data), sparse.indices, sparse.indptr), shape=a.shape)
        whole = blocks.toarray() != 0
    np.testing.assert_array_equal(p.to_dense(), whole)
    assert p.nnz == sparse.nnz
    assert SparsityPattern(p.shape, p.indptr, p.indices) == p


@pytest.mark.parametrize("fmt", ["csr", "csc", "coo", "bsr", "dia"])
def test_scipy_zeros_that_are_stored_count(fmt):
    stored = scipy.sparse.csr_array(np.eye(3)).asformat(fmt)
    stored.data[...] = 0
    assert SparsityPattern.from_(stored) == SparsityPattern.from_dense(np.eye(3))


@pytest.mark.parametrize("cls", [scipy.sparse.csr_array, scipy.sparse.csc_array])
def test_scipy_out_of_order_and_repeated(cls):
    m = cls((np.ones(4), [2, 0, 0, 1], [0, 3, 3, 4]), shape=(3, 3))
    assert not m.has_canonical_format
    p = SparsityPattern.from_(m)
    np.testing.assert_array_equal(p.to_dense(), m.toarray() != 0)
    assert m.indices.tolist() == [2, 0, 0, 1]  # sorted in a copy


def test_scipy_with_room_at_the_end_and_shared_by_nobody():
    m = scipy.sparse.csr_array((np.ones(5), np.array([1, 0, 2, 9, 9]), np.array([0, 1, 3, 3])), shape=(3, 4))
    p = SparsityPattern.from_(m)
    assert p == SparsityPattern((3, 4), [0, 1, 3, 3], [1, 0, 2])
    m.indices[:] = 0
    assert p.indices.tolist() == [1, 0, 2]


def test_scipy_that_is_damaged():
    m = scipy.sparse.csr_array(A)
    m.indices[1] = 17
    with pytest.raises(CrelleValueError, match="row 1 holds column 17"):
        SparsityPattern.from_(m)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float32, np.complex128])
def test_dense_of_every_kind(dtype):
    assert SparsityPattern.from_(A.astype(dtype)) == P
    assert SparsityPattern.from_dense(A.astype(dtype).tolist()) == P


def test_dense_nan_is_not_zero_and_minus_zero_is():
    assert SparsityPattern.from_([[np.nan, -0.0, np.inf]]).indices.tolist() == [0, 2]


def test_dense_of_the_frameworks():
    assert SparsityPattern.from_(jnp.array(A)) == P
    assert SparsityPattern.from_(jnp.array(A, jnp.bfloat16)) == P
    assert SparsityPattern.from_(torch.tensor(A)) == P
    assert SparsityPattern.from_(torch.tensor(A, dtype=torch.bfloat16, requires_grad=True)) == P
    assert SparsityPattern.from_(torch.nn.Parameter(torch.tensor(A))) == P


@pytest.mark.parametrize("kind", [jsparse.BCOO, jsparse.BCSR])
def test_jax_sparse(kind):
    p = SparsityPattern.from_(kind.fromdense(jnp.array(A)))
    assert SparsityPattern(p.shape, p.indptr, p.indices) == p == P
    assert SparsityPattern.from_(kind.fromdense(jnp.zeros((2, 3)))).nnz == 0


def test_jax_padding_is_left_out_and_zeros_that_are_stored_count():
    padded = jsparse.BCOO.fromdense(jnp.array(A), nse=7)
    assert padded.nse == 7
    assert SparsityPattern.from_(padded) == P
    assert SparsityPattern.from_(jsparse.BCSR.from_bcoo(padded)) == P
    assert SparsityPattern.from_(0 * jsparse.BCOO.fromdense(jnp.array(A))) == P


def test_jax_out_of_order_and_repeated():
    m = jsparse.BCOO((jnp.ones(4), jnp.array([[1, 3], [1, 0], [0, 1], [1, 3]])), shape=(3, 4))
    assert SparsityPattern.from_(m) == P


def test_jax_batched_is_refused():
    with pytest.raises(CrelleTypeError, match="a BCOO with n_batch=1 and n_dense=0 is not supported"):
        SparsityPattern.from_(jsparse.BCOO.fromdense(jnp.array(A), n_batch=1))
    with pytest.raises(CrelleShapeError, match=r"BCOO has shape \(4,\)"):
        SparsityPattern.from_(jsparse.BCOO.fromdense(jnp.arange(4.0)))


def test_jax_inside_jit_is_refused():
    m = jsparse.BCOO.fromdense(jnp.array(A))
    with pytest.raises(CrelleTypeError, match="the indices of this BCOO are not known while jax.jit"):
        jax.jit(lambda m: SparsityPattern.from_(m).nnz)(m)


def as_torch(layout):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")  # PyTorch calls its compressed layouts beta
        return torch.tensor(A).to_sparse(layout=layout)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_torch_sparse(layout):
    p = SparsityPattern.from_(as_torch(layout))
    assert SparsityPattern(p.shape, p.indptr, p.indices) == p == P


def test_torch_not_coalesced_and_with_zeros():
    t = torch.sparse_coo_tensor([[1, 1, 0, 1], [3, 0, 1, 3]], [1.0, 1.0, 0.0, -1.0], (3, 4), check_invariants=True)
    assert not t.is_coalesced()
    assert SparsityPattern.from_(t) == P


def test_torch_layouts_that_are_refused():
    hybrid = torch.sparse_coo_tensor([[0, 1]], torch.ones(2, 3), (4, 3), check_invariants=True)
    with pytest.raises(CrelleTypeError, match="of layout torch.sparse_coo with 1 dense dimensions is not supported"):
        SparsityPattern.from_(hybrid)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")
        blocks = torch.ones(4, 4).to_sparse_bsr((2, 2))
    with pytest.raises(
        CrelleTypeError, match=r"layout torch\.sparse_bsr with 0 dense .*\n.*\n  try       tensor\.to_dense"
    ):
        SparsityPattern.from_(blocks)
    with pytest.raises(CrelleShapeError, match=r"torch\.Tensor has shape \(2, 2, 2\)"):
        SparsityPattern.from_(torch.ones(2, 2, 2).to_sparse())
    with pytest.raises(CrelleShapeError, match=r"torch\.Tensor has shape \(3,\)"):
        SparsityPattern.from_(torch.ones(3))


@pytest.mark.parametrize("thing", [None, "pattern", {"a": 1}, object(), [["a"]], len])
def test_what_is_no_matrix(thing):
    with pytest.raises(CrelleTypeError, match=r"is not a matrix of numbers\n  expected  a SparsityPattern, a SciPy"):
        SparsityPattern.from_(thing)


@pytest.mark.parametrize("thing", [3.0, [1, 2], np.ones((2, 2, 2)), scipy.sparse.coo_array([1, 0, 2])])
def test_what_has_not_two_dimensions(thing):
    with pytest.raises(CrelleShapeError, match="two dimensions: a pattern is one of a matrix"):
        SparsityPattern.from_(thing)


def test_rows_of_different_lengths():
    with pytest.raises(CrelleShapeError, match="the rows are not of one length"):
        SparsityPattern.from_([[1, 2], [3]])


def test_no_framework_is_imported_and_scipy_only_for_sorting(tmp_path):
    program = """
import sys, crelle
p = crelle.SparsityPattern.from_([[0, 1], [1, 0]])
crelle.SparsityPattern((2, 2), p.indptr, p.indices)
str(p), p._repr_html_(), p.bandwidth, hash(p), p == p, p.to_dense(), (0, 1) in p
p.save("pattern.npz"), crelle.SparsityPattern.load("pattern.npz")
assert not {"scipy", "jax", "torch", "matplotlib"} & sys.modules.keys()
p.T | p
assert "scipy" in sys.modules and not {"jax", "torch", "matplotlib"} & sys.modules.keys()
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
