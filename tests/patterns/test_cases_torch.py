"""Patterns of the PyTorch cases: never too small, and exact but for those that say why not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import crelle
from tests.backends.torch.reference import flat_hessian, flat_jacobian
from tests.patterns.cases_torch import HESSIANS, JACOBIANS, Case, N

POINTS = 8


def points(case: Case) -> list[torch.Tensor]:
    drawn = np.random.default_rng(1).uniform(case.low, case.high, (POINTS, N))
    return [torch.from_numpy(x) for x in drawn]


def one_array(f):
    """Leaves side by side, complex numbers refused."""
    return lambda x: torch.cat([leaf.reshape(-1) for leaf in pytree.tree_leaves(f(x))])


def nonzero(dense: torch.Tensor, rounding: float = 0.0) -> np.ndarray:
    """NaN and infinity are nonzeros."""
    return ~(np.abs(dense.numpy()) <= rounding)


def seen(derivative, case: Case) -> np.ndarray:
    """Union of the nonzeros over the points."""
    return np.logical_or.reduce([nonzero(derivative(x), case.rounding) for x in points(case)])


def compare(pattern, found: np.ndarray, case: Case) -> None:
    truth = found if case.truth is None else case.truth
    assert not (found & ~truth).any(), "the case is wrong: its truth misses what was seen"
    assert case.nnz is None or truth.sum() == case.nnz, f"the case is wrong: {truth.sum()} nonzeros"
    dense = pattern.to_dense()
    assert dense.shape == truth.shape
    missed = np.argwhere(truth & ~dense)
    assert not len(missed), f"unsound, misses {len(missed)} of {truth.sum()}: {missed[:6].tolist()}"
    assert pattern.nnz == dense.sum()
    if not case.conservative:
        assert pattern.nnz == truth.sum(), f"conservative: {pattern.nnz} nonzeros, truly {truth.sum()}"
    else:
        assert pattern.nnz > truth.sum(), "precise now: take the excuse away"


@pytest.mark.parametrize("name", JACOBIANS)
def test_jacobian(name):
    case = JACOBIANS[name]
    found = seen(lambda x: flat_jacobian(one_array(case.f), x), case)
    compare(crelle.jacobian(case.f).pattern(points(case)[0]), found, case)


@pytest.mark.parametrize("name", HESSIANS)
def test_hessian(name):
    case = HESSIANS[name]
    found = seen(lambda x: flat_hessian(case.f, x), case)
    pattern = crelle.hessian(case.f).pattern(points(case)[0])
    compare(pattern, found, case)
    dense = pattern.to_dense()
    assert (dense == dense.T).all()


@pytest.mark.parametrize("name", JACOBIANS)
def test_local_jacobian(name):
    """The pattern at one point lies within the global one and has the nonzeros of that point."""
    case = JACOBIANS[name]
    x = points(case)[3]
    transform = crelle.jacobian(case.f)
    local = transform.pattern(x, local=True).to_dense()
    assert not (local & ~transform.pattern(x).to_dense()).any()
    assert not (nonzero(flat_jacobian(one_array(case.f), x)) & ~local).any()


def test_how_many_are_conservative():
    assert sum(bool(case.conservative) for case in (*JACOBIANS.values(), *HESSIANS.values())) <= 5
