"""Diagonals against dense references: exact by structure, estimated entry by entry, with errors that cover."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.estimators import _diagonal, _hutchinson, _sketches

ARRAYS = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}
SIZE = 120


def matrix(decay=0.9, seed=0, size=SIZE, noise=0.1):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    return (left * decay ** np.arange(size)) @ right.T + noise * np.diag(rng.random(size))


@pytest.mark.parametrize("framework", ARRAYS)
def test_exact(framework):
    values = matrix(size=9)
    found = crelle.operator(ARRAYS[framework](values)).diagonal()
    assert type(found.value) is type(ARRAYS[framework](values))
    np.testing.assert_allclose(np.asarray(found.value), np.diag(values), rtol=1e-14)
    assert found.exact
    assert found.products == 9
    assert "9 entries from" in str(found)


@pytest.mark.parametrize("method", ["hutchinson", "xdiag"])
@pytest.mark.parametrize("framework", ARRAYS)
def test_estimates(framework, method):
    values = matrix()
    found = crelle.operator(ARRAYS[framework](values)).diagonal(method, rtol=None, budget=80)
    assert found.products == 80
    z = (np.asarray(found.value) - np.diag(values)) / np.asarray(found.stderr)
    assert 0.55 < (abs(z) < 1).mean() < 0.9
    assert (abs(z) < 1.96).mean() > 0.88
    assert "relative error" in str(found)


@pytest.mark.parametrize("method", ["hutchinson", "xdiag"])
@pytest.mark.parametrize("budget", [16, 60])
def test_errors_cover(method, budget):
    values = matrix()
    operator = crelle.operator(values)
    found = [operator.diagonal(method, rtol=None, budget=budget, seed=seed) for seed in range(40)]
    z = np.array([abs(f.value - np.diag(values)) / f.stderr for f in found])
    assert 0.683 - 0.06 < (z < 1).mean() < 0.683 + 0.15
    assert (z < 1.96).mean() > 0.95 - 0.03


def test_xdiag_is_better_where_few_directions_hold_the_matrix():
    values = matrix(0.7, noise=0.0)
    errors = {
        method: np.linalg.norm(
            crelle.operator(values).diagonal(method, rtol=None, budget=80).value - np.diag(values)
        )
        for method in ("hutchinson", "xdiag")
    }  # fmt: skip
    assert errors["xdiag"] < errors["hutchinson"] / 100


def test_xdiag_is_what_it_says(rng):
    """Leave-one-out means and errors against their definition."""
    values = matrix(0.8, size=30)
    operator = crelle.operator(values)
    source = crelle.operators._vectors.vectors_of(operator.backend).source(1, np.zeros(0))
    sketch = _sketches.Sketch(_hutchinson.Probes(operator, "diagonal", source), transposed=True)
    w = sketch.probes.draw(6)
    sketch.grow(w, _sketches.products_of(sketch.probes, w))

    def estimates(of):
        found = []
        for i in of:
            q = np.linalg.qr(values @ w.T[:, [j for j in of if j != i]])[0]
            inside = q @ q.T @ values
            found.append(np.diag(inside) + w[i] * ((values - inside) @ w[i]))
        return np.array(found)

    value, stderr = _diagonal._leave_one_out(sketch)
    one = estimates(range(6))
    np.testing.assert_allclose(value, one.mean(0), rtol=1e-9)
    without = np.array([estimates([i for i in range(6) if i != j]).mean(0) for j in range(6)])
    naive, jackknife = one.var(0, ddof=1) / 6, without.var(0) * 5
    factor = _hutchinson.student(6)
    np.testing.assert_allclose(stderr, (naive * jackknife) ** 0.25 * factor, rtol=1e-9)


def test_low_rank_is_found_exactly(rng):
    values = rng.normal(size=(SIZE, 4)) @ rng.normal(size=(4, SIZE))
    found = crelle.operator(values).diagonal("xdiag", budget=60)
    np.testing.assert_allclose(found.value, np.diag(values), rtol=1e-9, atol=1e-12)
    assert found.exact
    assert found.products < 60


def test_by_structure_jax():
    def f(tree):
        return {"a": jnp.sin(tree["a"]), "b": tree["b"] * jnp.roll(tree["b"], 1)}

    x = {"a": jnp.linspace(0.0, 1.0, 200), "b": jnp.linspace(1.0, 2.0, 12).reshape(3, 4)}
    operator = crelle.jacobian(f).at(x)
    found = operator.diagonal()
    assert found.method == "exact, by structure"
    assert found.products <= 3
    np.testing.assert_allclose(found.value, np.diag(operator.todense()), rtol=1e-12)
    assert found.tree["b"].shape == (3, 4)
    np.testing.assert_allclose(found.tree["a"], np.cos(x["a"]), rtol=1e-12)


def test_by_structure_torch():
    x = torch.linspace(0.0, 1.0, 400, dtype=torch.float64)
    operator = crelle.hessian(lambda x: (x**3).sum() + (x[1:] * x[:-1]).sum()).at(x)
    found = operator.diagonal()
    assert found.products <= 2
    torch.testing.assert_close(found.value, 6 * x)
    exact = operator.diagonal("exact", budget=None)
    assert exact.products == found.products


def test_dense_matrix_exactly_on_request():
    values = matrix()
    found = crelle.operator(values).diagonal("exact")
    np.testing.assert_allclose(found.value, np.diag(values), rtol=1e-14)
    assert found.products == SIZE
    assert crelle.operator(values).diagonal(budget=None).exact


def test_stopping():
    operator = crelle.operator(np.eye(300) + 0.01 * matrix(size=300))
    found = operator.diagonal()
    assert found.products == _hutchinson.FIRST
    assert np.linalg.norm(found.stderr) < 0.01 * np.linalg.norm(found.value)
    assert operator.diagonal("xdiag", rtol=0.5, budget=200).products < 200


def test_same_seed_same_value_whatever_the_chunks(monkeypatch):
    operator = crelle.operator(matrix())
    for method in ("hutchinson", "xdiag"):
        first = operator.diagonal(method, rtol=None, budget=40, seed=2)
        with monkeypatch.context() as changed:
            changed.setattr(_hutchinson, "CHUNK_BYTES", 3 * 8 * SIZE)
            again = operator.diagonal(method, rtol=None, budget=40, seed=2)
        np.testing.assert_allclose(again.value, first.value, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(again.stderr, first.stderr, rtol=1e-7)
    key = jax.random.key(1)
    by_key = crelle.operator(jnp.asarray(matrix())).diagonal(rtol=None, budget=5, key=key)
    assert by_key.products == 5


def test_the_ends():
    empty = crelle.operator(np.zeros((0, 0))).diagonal()
    assert (empty.value.shape, empty.products) == ((0,), 0)
    assert "0 entries" in str(empty)
    assert crelle.operator(np.array([[3.0]])).diagonal().value == [3.0]
    one = crelle.operator(matrix()).diagonal("hutchinson", budget=1)
    assert np.isnan(one.stderr).all()
    assert not one.exact
    zero = crelle.operator(np.zeros((150, 150)))
    for method in ("hutchinson", "xdiag"):
        found = zero.diagonal(method)
        assert not found.value.any()
        assert found.exact


def test_what_goes_wrong():
    with pytest.raises(crelle.CrelleShapeError, match="3 × 2"):
        crelle.operator(np.ones((3, 2))).diagonal()
    with pytest.raises(crelle.CrelleValueError, match='"xdiag"'):
        crelle.operator(matrix()).diagonal("xtrace")
    with pytest.raises(crelle.CrelleValueError, match="at least 2"):
        crelle.operator(matrix()).diagonal("xdiag", budget=1)


@pytest.mark.parametrize("method", ["hutchinson", "xdiag"])
def test_nan_and_interrupts(method, monkeypatch):
    values, calls = matrix(), []

    def operator(at, then):
        calls.clear()

        def product(v):
            calls.append(0)
            if len(calls) == at:
                if then is KeyboardInterrupt:
                    raise then
                return v * np.nan
            return values @ v

        return crelle.operator(product, (SIZE, SIZE), adjoint=lambda u: values.T @ u, like=np.zeros(1))

    with pytest.raises(crelle.CrelleValueError, match="diagonal: product 7 is NaN"):
        operator(7, None).diagonal(method)
    monkeypatch.setattr(_hutchinson, "CHUNK_BYTES", 8 * SIZE)
    found = operator(40, KeyboardInterrupt).diagonal(method, rtol=None)
    assert found.partial
    assert "interrupted" in str(found)
    with pytest.raises(KeyboardInterrupt):
        operator(1, KeyboardInterrupt).diagonal(method)


def test_no_graph_grows_where_parameters_require_grad():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)).double()
    x, y = torch.randn(9, 6).double(), torch.randn(9, 3).double()
    operator = crelle.hessian(crelle.objective(model, "mse"), wrt="params").at(x, y)
    for found in (operator.diagonal("hutchinson"), operator.diagonal("xdiag", rtol=None), operator.row_norms()):
        assert not found.value.requires_grad
        assert not found.stderr.requires_grad
    assert set(operator.diagonal().tree) == set(dict(model.named_parameters()))
