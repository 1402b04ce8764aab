"""Blocks of vectors in PyTorch against NumPy: joining and cutting leaves, Gram-Schmidt, random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import crelle
from crelle._arrays import ArrayType
from crelle.backends.torch import BACKEND, vectors
from crelle.operators._spaces import Space

F64 = torch.float64
TYPES = (ArrayType("float64", (2, 3)), ArrayType("float32", ()), ArrayType("float64", (0,)), ArrayType("float64", (2,)))


@pytest.fixture
def gen():
    return torch.Generator().manual_seed(1841)


def randn(gen, *shape, dtype=F64):
    return torch.randn(shape, generator=gen, dtype=dtype)


def test_join_and_cut(gen):
    leaves = [randn(gen, 4, *t.shape, dtype=getattr(torch, t.dtype)) for t in TYPES]
    block = vectors.join(leaves, "float64")
    assert block.shape == (4, 9) and block.dtype == F64
    expected = np.concatenate([leaf.double().numpy().reshape(4, -1) for leaf in leaves], 1)
    np.testing.assert_array_equal(block.numpy(), expected)
    back = vectors.cut(block, TYPES)
    for one, other in zip(back, leaves, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_cut_makes_views_where_dtypes_agree(gen):
    block = randn(gen, 2, 9)
    first = vectors.cut(block, TYPES)[0]
    first.zero_()
    assert torch.equal(block[:, :6], torch.zeros(2, 6, dtype=F64))


def test_no_vectors():
    assert vectors.join([torch.zeros(0, 2, 3), torch.zeros(0)], "float32").shape == (0, 7)
    assert [leaf.shape for leaf in vectors.cut(torch.zeros(0, 9, dtype=F64), TYPES)] == [
        (0, 2, 3),
        (0,),
        (0, 0),
        (0, 2),
    ]


def test_stack_concatenate_zeros_put(gen):
    rows = [randn(gen, 3) for _ in range(2)]
    block = vectors.concatenate([vectors.stack(rows), vectors.zeros(1, 3, rows[0])])
    np.testing.assert_array_equal(block.numpy(), np.stack([*(r.numpy() for r in rows), np.zeros(3)]))
    assert torch.equal(vectors.put(block, 2, rows[0])[2], rows[0])
    assert vectors.zeros(1, 3, torch.zeros(0, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_project_out(gen, dtype):
    q = torch.linalg.qr(randn(gen, 50, 6, dtype=dtype)).Q.T.contiguous()
    q[4:] = float("nan")  # rows that are not there yet
    w = randn(gen, 50, dtype=dtype)
    rest, along = vectors.project_out(q, 4, w)
    basis = q[:4]
    expected = basis.conj() @ w
    torch.testing.assert_close(along, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(rest, w - basis.T @ expected, rtol=1e-13, atol=1e-13)
    assert float((basis.conj() @ rest).abs().max()) < 1e-15 * float(w.norm())


def test_project_out_twice(gen):
    """What is left of a vector that lies almost inside the basis is orthogonal to it, too."""
    q = torch.linalg.qr(randn(gen, 50, 6)).Q.T.contiguous()
    w = q.sum(0) + 1e-10 * randn(gen, 50)
    rest, _ = vectors.project_out(q, 6, w)
    assert float((q @ rest).abs().max()) < 1e-14 * float(rest.norm())


def test_orthonormal(gen):
    block = randn(gen, 4, 20)
    q, r = vectors.orthonormal(block)
    torch.testing.assert_close(r.T @ q, block, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(q @ q.T, torch.eye(4, dtype=F64), rtol=1e-13, atol=1e-13)


def test_spaces():
    space = Space.of(BACKEND, BACKEND.flatten([0, 0])[1], TYPES[:2])
    assert vectors.empty(space).shape == (0, 7)
    assert torch.equal(vectors.identity(space), torch.eye(7, dtype=F64))
    assert torch.equal(vectors.identity(space, 2, 5), torch.eye(7, dtype=F64)[2:5])


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.complex128])
def test_from_host(dtype):
    got = vectors.from_host(np.arange(3.0), torch.zeros(1, dtype=dtype))
    assert got.dtype == dtype and torch.equal(got, torch.arange(3.0).to(dtype))


def test_from_host_copies():
    values = np.zeros(3)
    vectors.from_host(values, torch.zeros(1, dtype=F64)).fill_(1.0)
    assert not values.any()


class TestSource:
    def test_reproducible_and_going_on(self):
        like = torch.zeros(1, dtype=F64)
        one, other = vectors.source(7, like), vectors.source(np.int64(7), like)
        first = one.normal(2, 5)
        assert torch.equal(first, other.normal(2, 5))
        assert not torch.equal(first, one.normal(2, 5))
        assert not torch.equal(first, vectors.source(8, like).normal(2, 5))

    def test_generator(self):
        like = torch.zeros(1, dtype=F64)
        one, other = (vectors.source(torch.Generator().manual_seed(7), like) for _ in range(2))
        assert torch.equal(one.normal(1, 4), other.normal(1, 4))

    @pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
    def test_signs(self, dtype):
        signs = vectors.source(0, torch.zeros(1, dtype=dtype)).rademacher(100, 100)
        assert signs.dtype == dtype and signs.shape == (100, 100)
        assert set(signs.double().unique().tolist()) == {-1.0, 1.0}
        assert abs(float(signs.double().mean())) < 0.04  # four standard deviations

    def test_normal_moments(self):
        draws = vectors.source(0, torch.zeros(1, dtype=F64)).normal(100, 1000)
        assert abs(float(draws.mean())) < 4 / 10**2.5
        assert abs(float(draws.var()) - 1) < 4 * 2**0.5 / 10**2.5

    @pytest.mark.parametrize("given", ["seed", 1.5, True, np.random.default_rng(0)])
    def test_no_source(self, given):
        with pytest.raises(crelle.CrelleTypeError, match="is no source of random numbers for PyTorch tensors"):
            vectors.source(given, torch.zeros(1))


def test_probes_of_a_seed_are_not_the_numbers_that_a_user_draws_with_it():
    torch.manual_seed(0)
    weights = torch.randn(1, 1000, dtype=torch.float64)
    drawn = vectors.source(0, weights).normal(1, 1000)
    assert abs(torch.corrcoef(torch.cat([weights, drawn]))[0, 1]) < 0.15
