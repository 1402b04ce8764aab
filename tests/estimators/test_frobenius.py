"""Norms of whole matrices, rows and columns against dense references."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.estimators import _hutchinson

ARRAYS = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}


@pytest.mark.parametrize("framework", ARRAYS)
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (3, 200), (200, 3), (1, 1)])
def test_exact_from_the_smaller_side(rng, framework, shape):
    values = rng.normal(size=shape)
    operator = crelle.operator(ARRAYS[framework](values))
    found = operator.frobenius_norm()
    assert found.value == pytest.approx(np.linalg.norm(values), rel=1e-12)
    assert (found.stderr, found.products) == (0.0, min(shape))
    if shape[1] <= 100:
        rows = operator.row_norms()
        np.testing.assert_allclose(np.asarray(rows.value), np.linalg.norm(values, axis=1), rtol=1e-12)
        assert rows.exact
    if shape[0] <= 100:
        cols = operator.col_norms()
        np.testing.assert_allclose(np.asarray(cols.value), np.linalg.norm(values, axis=0), rtol=1e-12)
        assert cols.exact


def test_frobenius_errors_cover(rng):
    values = rng.normal(size=(150, 160)) * 0.97 ** np.arange(160)
    operator, truth = crelle.operator(values), np.linalg.norm(values)
    found = [operator.frobenius_norm(rtol=None, budget=40, seed=seed) for seed in range(150)]
    z = np.array([abs(f.value - truth) / f.stderr for f in found])
    assert 0.683 - 0.115 < (z < 1).mean() < 0.683 + 0.115
    assert (z < 1.96).mean() > 0.95 - 0.055


@pytest.mark.parametrize("framework", ARRAYS)
def test_row_norms_cover(rng, framework):
    values = rng.normal(size=(180, 150)) * np.linspace(0.1, 3, 180)[:, None]
    values[5] = 0
    operator = crelle.operator(ARRAYS[framework](values))
    rows, cols = operator.row_norms(rtol=None, budget=60), operator.col_norms(rtol=None, budget=60)
    for found, axis in ((rows, 1), (cols, 0)):
        truth = np.linalg.norm(values, axis=axis)
        value, stderr = np.asarray(found.value), np.asarray(found.stderr)
        some = truth > 0
        z = abs(value - truth)[some] / stderr[some]
        assert 0.55 < (z < 1).mean() < 0.82
        assert (z < 1.96).mean() > 0.88
        assert found.products == 60
    assert np.asarray(rows.value)[5] == np.asarray(rows.stderr)[5] == 0


def test_by_structure_jax():
    def f(x):
        return {"d": x[1:] - x[:-1] ** 2, "s": jnp.sin(x)}

    x = jnp.linspace(0.0, 1.0, 300)
    operator = crelle.jacobian(f).at(x)
    dense = np.asarray(operator.todense())
    norm, rows, cols = operator.frobenius_norm(), operator.row_norms(), operator.col_norms()
    assert norm.value == pytest.approx(np.linalg.norm(dense), rel=1e-12)
    np.testing.assert_allclose(rows.value, np.linalg.norm(dense, axis=1), rtol=1e-12)
    np.testing.assert_allclose(cols.value, np.linalg.norm(dense, axis=0), rtol=1e-12)
    assert max(norm.products, rows.products) <= 3
    assert cols.products <= 4
    assert {norm.method, rows.method, cols.method} == {"exact, by structure"}
    assert jax.tree.map(jnp.shape, rows.tree) == {"d": (299,), "s": (300,)}
    assert cols.tree.shape == (300,)


def test_by_structure_torch():
    x = torch.linspace(0.0, 1.0, 250, dtype=torch.float64)
    operator = crelle.hessian(lambda x: (x**3).sum() + (x[1:] * x[:-1]).sum()).at(x)
    found = operator.row_norms()
    assert found.products <= 3
    torch.testing.assert_close(found.value, torch.linalg.norm(operator.todense(), dim=1))


def test_stopping(rng):
    values = np.diag(rng.normal(size=400)) + 0.01 * rng.normal(size=(400, 400))
    found = crelle.operator(values).frobenius_norm()
    assert found.products == _hutchinson.FIRST
    assert found.stderr <= 0.01 * found.value
    rows = crelle.operator(values).row_norms(rtol=0.2)
    assert rows.products == _hutchinson.FIRST


def test_the_ends():
    for shape in ((0, 4), (4, 0), (0, 0)):
        operator = crelle.operator(np.zeros(shape))
        assert (operator.frobenius_norm().value, operator.frobenius_norm().products) == (0.0, 0)
        assert operator.row_norms().value.shape == (shape[0],)
    zero = crelle.operator(np.zeros((150, 150)))
    found = zero.frobenius_norm()
    assert (found.value, found.stderr) == (0.0, 0.0)
    assert zero.row_norms().exact
    one = crelle.operator(np.ones((150, 150))).frobenius_norm(budget=1)
    assert np.isnan(one.stderr)


@pytest.mark.parametrize("method", ["frobenius_norm", "row_norms", "col_norms"])
def test_nan_and_interrupts(method, monkeypatch):
    calls = []

    def operator(at, then):
        calls.clear()

        def product(v):
            calls.append(0)
            if len(calls) == at:
                if then is KeyboardInterrupt:
                    raise then
                return v * np.nan
            return v

        return crelle.operator(product, (150, 150), like=np.zeros(1), symmetric=True)

    with pytest.raises(crelle.CrelleValueError, match=f"{method}: product 7 is NaN"):
        getattr(operator(7, None), method)()
    monkeypatch.setattr(_hutchinson, "CHUNK_BYTES", 8 * 150)
    found = getattr(operator(20, KeyboardInterrupt), method)(rtol=None)
    assert found.partial
    assert found.products == 19
    with pytest.raises(KeyboardInterrupt):
        getattr(operator(1, KeyboardInterrupt), method)()
