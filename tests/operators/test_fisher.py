"""Fisher matrices against sums over labels, over draws, and over the samples, written out densely."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import crelle
from tests.operators.networks import FRAMEWORKS, INPUTS, OUTPUTS, SAMPLES, data
from tests.operators.test_ggn import assert_same, host, says

TARGETS = {"cross_entropy": "classes", "mse": "reals", "bce": "shares"}


@pytest.fixture(params=FRAMEWORKS, ids=lambda f: f.name)
def network(request):
    return request.param()


def outputs(network, x):
    function = network.function if network.name == "torch" else network.model
    return host(function(network.params, network.array(x)))


def expected_over_labels(network, x):
    """Σ_n Σ_y p(y|x_n) ∇ℓ ∇ℓᵀ / N with ℓ = -log p(y|x_n): by the gradient at every label."""
    total = 0
    z = outputs(network, x)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    for label in range(OUTPUTS):
        g = network.gradients(network.losses("cross_entropy"), x, np.full(SAMPLES, label))
        total = total + (p[:, label, None] * g).T @ g / SAMPLES
    return total


def test_exact_is_the_mean_over_the_labels_of_the_model(network):
    values = data()
    F = network.at(crelle.fisher(network.model, "cross_entropy"), values["x"], values["classes"])
    expected = expected_over_labels(network, values["x"])
    assert_same(F.todense(), expected)
    assert F.tags == {"symmetric", "psd"}
    assert F.exact_trace() == pytest.approx(np.trace(expected), rel=1e-12)


@pytest.mark.parametrize("name", ["mse", "bce"])
def test_exact_is_the_gauss_newton_matrix(network, name):
    values = data()
    x, y = values["x"], values[TARGETS[name]]
    fisher, ggn = (network.at(asked(network.model, name), x, y) for asked in (crelle.fisher, crelle.ggn))
    assert_same(fisher.todense(), host(ggn.todense()))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce"])
def test_the_mean_of_draws_is_the_exact_one(network, name, reduction):
    values = data()
    x, y = values["x"], values[TARGETS[name]]
    draws = 4000
    sampled = crelle.fisher(network.model, name, "sampled", samples=draws, seed=3, reduction=reduction)
    ours = host(network.at(sampled, x, y).todense())
    exact = host(network.at(crelle.fisher(network.model, name, reduction=reduction), x, y).todense())
    # the error of a mean of independent draws: 5 standard deviations of the trace, and of the norm in proportion
    assert abs(np.trace(ours) - np.trace(exact)) < 5 * 2 * np.trace(exact) / draws**0.5
    assert np.linalg.norm(ours - exact) < 5 * 2 * np.trace(exact) / draws**0.5
    assert np.linalg.norm(ours - exact) > 1e-6


def test_one_draw_is_an_outer_product_of_each_samples_gradient(network):
    values = data()
    x = values["x"]
    F = network.at(crelle.fisher(network.model, "cross_entropy", "sampled", seed=1), x, values["classes"])
    dense = host(F.todense())
    # with one draw there is one label for each sample: F is J_sᵀJ_s/N for the gradients at some labels
    J, best = network.jacobian(x).reshape(SAMPLES, OUTPUTS, -1), []
    z = outputs(network, x)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    for n in range(SAMPLES):
        row = host(F.curvature.rows)[n, 0] * SAMPLES**0.5
        label = int(np.argmin(row))
        np.testing.assert_allclose(row, p[n] - np.eye(OUTPUTS)[label], atol=1e-14)
        best.append(J[n].T @ row)
    assert_same(dense, np.stack(best).T @ np.stack(best) / SAMPLES)


def test_draws_are_reproducible(network):
    values = data()
    at = lambda **given: host(
        network.at(
            crelle.fisher(network.model, "cross_entropy", "sampled", samples=2, **given), values["x"], values["classes"]
        ).todense()
    )
    assert np.array_equal(at(seed=1), at(seed=1))
    assert np.array_equal(at(), at(seed=0))
    assert not np.array_equal(at(seed=1), at(seed=2))
    if network.name == "torch":
        assert np.array_equal(at(generator=torch.Generator().manual_seed(1)), at(seed=1))
    else:
        assert np.array_equal(at(key=jax.random.key(1)), at(seed=1))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce"])
def test_empirical_is_the_sum_over_gradients_of_samples(network, name, reduction):
    values = data()
    x, y = values["x"], values[TARGETS[name]]
    F = network.at(crelle.fisher(network.model, name, "empirical", reduction=reduction), x, y)
    g = network.gradients(network.losses(name, reduction), x, y)
    expected = g.T @ g / (SAMPLES if reduction == "mean" else 1)
    assert_same(F.todense(), expected)
    assert F.exact_trace() == pytest.approx(np.trace(expected), rel=1e-12)
    assert np.linalg.matrix_rank(host(F.todense())) <= SAMPLES


def test_empirical_takes_any_loss_that_is_a_sum_over_samples(network):
    values = data()
    x, y = values["x"], values["reals"]
    F = network.at(crelle.fisher(network.model, network.quartic, "empirical"), x, y)
    g = network.gradients(network.quartic, x, y)
    assert_same(F.todense(), g.T @ g / SAMPLES)


def test_empirical_with_outputs_that_are_trees():
    rng = np.random.default_rng(0)
    params = {"a": jnp.array(rng.normal(size=(3, 2))), "b": jnp.array(rng.normal(size=3))}
    x, y = jnp.array(rng.normal(size=(5, 3))), jnp.array(rng.normal(size=5))
    model = lambda p, x: (jnp.tanh(x @ p["a"]), x @ p["b"])
    loss = lambda z, y: ((z[0].sum(1) * z[1] - y) ** 2).sum()
    F = crelle.fisher(model, loss, "empirical").at(params, x, y)
    one = lambda p, x, y: loss(model(p, x[None]), y[None])
    g = [jax.grad(one)(params, x[n], y[n]) for n in range(5)]
    g = np.stack([np.concatenate([np.ravel(leaf) for leaf in row.values()]) for row in g])
    assert_same(F.todense(), g.T @ g)


def test_samples_of_several_positions():
    torch.manual_seed(0)
    model = nn.Conv1d(3, 5, 1).double()
    x, y = torch.randn(4, 3, 2).double(), torch.randint(0, 5, (4, 2))
    exact = crelle.fisher(model, F.cross_entropy).at(x, y).todense()
    assert_same(exact, host(crelle.ggn(model, F.cross_entropy).at(x, y).todense()))
    sampled = crelle.fisher(model, F.cross_entropy, "sampled", samples=5000).at(x, y).todense()
    assert float((sampled - exact).norm()) < 10 * float(exact.trace()) / 5000**0.5
    rows = []
    for n in range(4):
        model.zero_grad()
        F.cross_entropy(model(x[n : n + 1]), y[n : n + 1]).backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    g = torch.stack(rows)
    assert_same(crelle.fisher(model, F.cross_entropy, "empirical").at(x, y).todense(), host(g.T @ g / 4))


def test_ignored_samples():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 4).double(), torch.randn(6, 3).double(), torch.tensor([0, 1, -100, 3, -100, 2])
    kept = y >= 0
    for kind in ("exact", "sampled"):
        ours = crelle.fisher(model, F.cross_entropy, kind, **({"samples": 4000} if kind == "sampled" else {})).at(x, y)
        expected = crelle.fisher(model, F.cross_entropy).at(x[kept], y[kept]).todense()
        assert float((ours.todense() - expected).norm()) < (1e-14 if kind == "exact" else 0.2)
    with pytest.raises(crelle.CrelleTypeError, match="neither the sum nor the mean"):
        crelle.fisher(model, F.cross_entropy, "empirical").at(x, y)
    summed = functools.partial(F.cross_entropy, reduction="sum")
    g = crelle.per_sample_gradient(model, summed)(x[kept], y[kept])
    g = torch.cat([leaf.reshape(4, -1) for leaf in g.values()], 1)
    assert_same(crelle.fisher(model, summed, "empirical").at(x, y).todense(), host(g.T @ g))


def test_one_sample_without_a_batch():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 4).double(), torch.randn(3).double(), torch.tensor(1)
    exact = crelle.fisher(model, F.cross_entropy).at(x, y).todense()
    sampled = crelle.fisher(model, F.cross_entropy, "sampled", samples=4000).at(x, y).todense()
    assert float((sampled - exact).norm()) < 10 * float(exact.trace()) / 4000**0.5


def test_a_data_set(network):
    values = data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    asked = crelle.fisher(network.model, "cross_entropy", "empirical")
    point = () if network.name == "torch" else (network.params,)
    parts = asked.at(*point, data=[(x[:3], y[:3]), (x[3:], y[3:])])
    assert_same(parts.todense(), host(asked.at(*point, x, y).todense()))
    assert repr(parts).startswith("Fisher (empirical) of ")


def test_adjoint(network):
    values = data()
    F = network.at(crelle.fisher(network.model, "mse", "sampled", samples=3), values["x"], values["reals"])
    u, v = (network.array(np.random.default_rng(i).normal(size=F.shape[0])) for i in (0, 1))
    assert float((F @ v) @ u) == pytest.approx(float((F.T @ u) @ v), rel=1e-12)


WEIGHTED = functools.partial(F.cross_entropy, weight=torch.ones(OUTPUTS).double())


@pytest.mark.parametrize(
    ("loss", "cause"),
    [
        (lambda z, y: F.cross_entropy(z, y), "a loss of your own says nothing of labels"),
        (WEIGHTED, "weight= changes the terms with their labels"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing= mixes the labels"),
    ],
)
@pytest.mark.parametrize("kind", ["exact", "sampled"])
def test_losses_that_are_no_likelihood(loss, cause, kind):
    name = "f" if "own" in cause else "partial(cross_entropy)" if "weight" in cause else "CrossEntropyLoss"
    model, x = nn.Linear(INPUTS, OUTPUTS).double(), torch.ones(2, INPUTS).double()
    error = says(
        f"crelle.fisher(Linear, {name}): kind={kind!r} needs the distribution whose -log-likelihood the loss is\n"
        "  expected  F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits, their modules or "
        'functools.partial of them; or "cross_entropy", "mse", "bce"\n'
        f"  likely    {cause}\n"
        "  try       kind='empirical', or crelle.ggn, which is the same for losses that are likelihoods",
        lambda: crelle.fisher(model, loss, kind).at(x, torch.zeros(2, dtype=torch.int64)),
    )
    assert isinstance(error, crelle.CrelleTypeError)


def test_a_loss_that_is_no_sum_over_samples():
    says(
        "crelle.fisher(Linear, f): the loss is neither the sum nor the mean of the losses of samples\n"
        "  called    f64[2,3], f64[2,4], f64[2,4]\n"
        "  expected  samples along the first axis of inputs, target and outputs, and a loss that adds them up\n"
        "  likely    a weighted mean (weight=, ignore_index=), a penalty, or batches of one that give NaN\n"
        "  try       reduction='sum'; penalties apart from the loss",
        lambda: crelle.fisher(nn.Linear(3, 4).double(), lambda z, y: (z - y).sum() ** 2, "empirical").at(
            torch.ones(2, 3).double(), torch.zeros(2, 4).double()
        ),
    )


def test_keywords():
    model = nn.Linear(3, 4)
    says(
        "kind='montecarlo' is not known to crelle.fisher\n  expected  'exact' | 'sampled' | 'empirical'",
        lambda: crelle.fisher(model, "mse", "montecarlo"),
    )
    says(
        "crelle.fisher(Linear, mse): samples=0\n  expected  a positive integer",
        lambda: crelle.fisher(model, "mse", "sampled", samples=0),
    )
    says(
        "crelle.fisher(Linear, mse): several sources of random numbers\n  expected  one of seed=, key=, generator=",
        lambda: crelle.fisher(model, "mse", "sampled", seed=1, key=2),
    )
    says(
        "crelle.fisher(Linear, mse): kind='exact' draws no labels\n"
        "  expected  no samples=, seed=, key=, generator=\n"
        "  try       kind='sampled'",
        lambda: crelle.fisher(model, "mse", seed=1),
    )


def test_sources_of_the_other_framework():
    with pytest.raises(crelle.CrelleTypeError, match="no source of random numbers"):
        crelle.fisher(nn.Linear(3, 4).double(), "mse", "sampled", key=jax.random.key(0)).at(
            torch.ones(2, 3).double(), torch.ones(2, 4).double()
        )
    with pytest.raises(crelle.CrelleTypeError, match="no source of random numbers"):
        crelle.fisher(lambda p, x: p * x, "mse", "sampled", generator=torch.Generator()).at(
            jnp.ones(4), jnp.ones((3, 4)), jnp.ones((3, 4))
        )
