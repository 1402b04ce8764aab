"""Patterns of the JAX cases: never too small, and exact but for the few that say why not."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from tests.patterns.cases_jax import HESSIANS, JACOBIANS, MORE, Case, N

POINTS = 8
FIRST = {**JACOBIANS, **MORE}


def points(case: Case) -> np.ndarray:
    return np.random.default_rng(1).uniform(case.low, case.high, (POINTS, N))


def nonzero(dense) -> np.ndarray:
    """NaN and infinity are nonzeros."""
    return np.asarray(dense) != 0


def flat(f):
    return lambda x: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(f(x))])


def seen(derivative, case: Case) -> np.ndarray:
    """Union of the nonzeros over the points, two-dimensional."""
    dense = jax.jit(derivative)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of JAX's own functions
        return np.logical_or.reduce([nonzero(dense(x)).reshape(-1, N) for x in points(case)])


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


@pytest.mark.parametrize("name", FIRST)
def test_jacobian(name):
    case = FIRST[name]
    f = flat(case.f)
    found = seen((jax.jacrev if case.reverse else jax.jacfwd)(f), case)
    compare(crelle.jacobian(case.f).pattern(jnp.asarray(points(case)[0])), found, case)


@pytest.mark.parametrize("name", HESSIANS)
def test_hessian(name):
    case = HESSIANS[name]
    found = seen(jax.jacfwd(jax.jacfwd(case.f)), case)
    pattern = crelle.hessian(case.f).pattern(jnp.asarray(points(case)[0]))
    compare(pattern, found, case)
    dense = pattern.to_dense()
    assert (dense == dense.T).all()


@pytest.mark.parametrize("name", FIRST)
def test_local_jacobian(name):
    """The pattern at one point lies within the global one and has the nonzeros of that point."""
    case = FIRST[name]
    x = jnp.asarray(points(case)[3])
    transform = crelle.jacobian(case.f)
    local = transform.pattern(x, local=True).to_dense()
    assert not (local & ~transform.pattern(x).to_dense()).any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = jax.jit((jax.jacrev if case.reverse else jax.jacfwd)(flat(case.f)))(x)
    assert not (nonzero(dense).reshape(-1, N) & ~local).any()


def test_how_many():
    assert (len(JACOBIANS), len(HESSIANS)) == (76, 28)
    assert sum(bool(case.conservative) for case in (*JACOBIANS.values(), *HESSIANS.values())) <= 4


def test_shapes_are_enough():
    """No values are needed where no index is taken from them."""
    x = jax.ShapeDtypeStruct((N,), np.float64)
    for name in ("gather, computed constant index", "cumsum", "conv, one axis", "scan, this and the last"):
        assert crelle.jacobian(JACOBIANS[name].f).pattern(x).nnz == JACOBIANS[name].nnz
    assert crelle.hessian(HESSIANS["bilinear"].f).pattern(x).nnz == 12
