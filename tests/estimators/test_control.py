"""The trace of a Hessian by way of the Gauss-Newton matrix: exactly, or as a control variate that is tried first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import crelle
from crelle.estimators._control import gauss_newton, is_affine_in_each

SAMPLES, INPUTS, CLASSES = 40, 8, 5


def batch():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(SAMPLES, INPUTS))
    return x, (x @ rng.normal(size=(INPUTS, CLASSES))).argmax(1)


def trained(model, steps=40):
    x, y = (torch.as_tensor(a) for a in batch())
    optimiser = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model, x, y


def network(activation, width=12):
    torch.manual_seed(0)
    layers = nn.Linear(INPUTS, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, CLASSES)
    return nn.Sequential(*layers).double()


def hessian_of(model, x, y):
    return crelle.hessian(crelle.objective(model, F.cross_entropy), wrt="params").at(x, y)


def true_trace(operator):
    return float(np.trace(operator.todense().detach().numpy()))


def test_relu_needs_no_samples_torch():
    model, x, y = trained(network(nn.ReLU))
    operator = hessian_of(model, x, y)
    found = operator.trace()
    assert (found.method, found.stderr, found.products) == ("exact, Gauss-Newton", 0.0, CLASSES)
    assert found.value == pytest.approx(true_trace(operator), rel=1e-9)
    assert found.value == pytest.approx(crelle.ggn(model, F.cross_entropy).at(x, y).exact_trace(), rel=1e-12)


def test_relu_needs_no_samples_jax():
    x, y = batch()
    rng = np.random.default_rng(0)
    params = [
        (rng.normal(size=(INPUTS, 12)) / 3, np.zeros(12)),
        (rng.normal(size=(12, CLASSES)) / 3, np.zeros(CLASSES)),
    ]
    params = jax.tree.map(jnp.asarray, params)

    def model(params, x):
        (w, b), (v, c) = params
        return jax.nn.relu(x @ w + b) @ v + c

    operator = crelle.hessian(crelle.objective(model, "cross_entropy")).at(params, jnp.asarray(x), jnp.asarray(y))
    found = operator.trace()
    assert (found.method, found.stderr, found.products) == ("exact, Gauss-Newton", 0.0, CLASSES)
    assert found.value == pytest.approx(float(np.trace(operator.todense())), rel=1e-9)


class Flat(nn.Module):
    """A network whose parameters are one vector: the same array is in both layers, no entry is."""

    def __init__(self, act):
        super().__init__()
        torch.manual_seed(0)
        self.act = act
        self.theta = nn.Parameter(torch.randn(INPUTS * 6 + 6 * CLASSES).double() / 3)

    def forward(self, x):
        first, second = self.theta.split([INPUTS * 6, 6 * CLASSES])
        return self.act(x @ first.reshape(INPUTS, 6)) @ second.reshape(6, CLASSES)


class Tied(nn.Module):
    """Weights that are used twice: not affine in each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.square, self.last = nn.Linear(INPUTS, INPUTS).double(), nn.Linear(INPUTS, CLASSES).double()

    def forward(self, x):
        return self.last(torch.relu(self.square(torch.relu(self.square(x)))))


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2, padding=1), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(6, 7), nn.Hardtanh(), nn.Linear(7, CLASSES),
    ).double().eval()  # fmt: skip


@pytest.mark.parametrize(
    ("model", "affine"),
    [
        (lambda: network(nn.ReLU), True),
        (convolutional, True),
        (lambda: Flat(torch.relu), True),
        (lambda: nn.Linear(INPUTS, CLASSES).double(), True),
        (lambda: network(nn.Tanh), False),
        (lambda: network(nn.GELU), False),
        (lambda: Flat(torch.tanh), False),
        (Tied, False),
        (lambda: nn.Sequential(nn.Linear(INPUTS, 6), nn.LayerNorm(6), nn.Linear(6, CLASSES)).double(), False),
    ],
    ids=["relu", "cnn", "flat", "linear", "tanh", "gelu", "flat tanh", "tied", "layernorm"],
)
def test_what_is_proved(model, affine):
    model, x, y = trained(model().train(False), steps=3)
    operator = hessian_of(model, x, y)
    found = gauss_newton(operator)
    assert is_affine_in_each(found.matrix) is affine
    if affine:
        assert operator.trace().value == pytest.approx(true_trace(operator), rel=1e-8)
    else:
        assert operator.trace(budget=50).method != "exact, Gauss-Newton"


def test_a_changed_parameter_is_noticed():
    model, x, y = trained(network(nn.ReLU))
    operator = hessian_of(model, x, y)
    truth = true_trace(operator)
    with torch.no_grad():
        next(model.parameters()).mul_(3.0)
    assert gauss_newton(operator) is None
    found = operator.trace(budget=400)
    assert found.method != "exact, Gauss-Newton"
    assert abs(found.value - truth) <= 4 * found.stderr + 1e-9 * truth


def test_a_control_variate_that_helps():
    model, x, y = trained(network(nn.GELU, 20), steps=60)
    operator, matrix = hessian_of(model, x, y), crelle.ggn(model, F.cross_entropy).at(x, y)
    truth = true_trace(operator)
    unasked = operator.trace(rtol=None)
    assert unasked.method == "Hutchinson, control variate"
    assert unasked.products <= 100
    assert "standard deviation of a probe" in unasked.notes[0]
    without = operator.trace(rtol=None, control=False)
    assert "control" not in without.method
    for control in (matrix, (matrix, matrix.exact_trace())):
        found = operator.trace("hutchinson", rtol=None, control=control)
        assert found.method == "Hutchinson, control variate"
        assert abs(found.value - truth) < 4 * found.stderr
        assert found.stderr < operator.trace("hutchinson", rtol=None).stderr


def test_a_control_variate_that_does_not_help_is_dropped(rng):
    values = rng.normal(size=(150, 150))
    values = values + values.T
    other = np.diag(rng.normal(size=150)) + np.outer(*2 * [10 * np.ones(150)])
    found = crelle.operator(values, symmetric=True).trace(
        "hutchinson", rtol=None, control=(crelle.operator(other), float(np.trace(other)))
    )
    assert found.method == "Hutchinson"
    assert "dropped" in found.notes[0]
    assert found.products == 100
    assert abs(found.value - np.trace(values)) < 4 * found.stderr


def test_errors_cover_with_a_control_variate(rng):
    values = rng.normal(size=(120, 120))
    values = values + values.T + 2 * np.eye(120)
    near = values + 0.1 * rng.normal(size=(120, 120))
    operator, control = crelle.operator(values, symmetric=True), (crelle.operator(near), float(np.trace(near)))
    found = [operator.trace("hutchinson", rtol=None, budget=60, control=control, seed=s) for s in range(100)]
    z = np.array([abs(f.value - np.trace(values)) / f.stderr for f in found])
    assert all(f.method == "Hutchinson, control variate" for f in found)
    assert (z < 1).mean() >= 0.683 - 0.14
    assert (z < 1.96).mean() >= 0.95 - 0.07


def test_a_gauss_newton_matrix_knows_its_trace():
    model, x, y = trained(network(nn.Tanh))
    matrix = crelle.ggn(model, F.cross_entropy).at(x, y)
    found = matrix.trace()
    assert (found.method, found.products) == ("exact, output by output", CLASSES)
    assert found.value == pytest.approx(true_trace(matrix), rel=1e-9)


class Mixing(nn.Module):
    """Outputs that depend on other samples."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(INPUTS, 25).double(), nn.Linear(25, CLASSES).double()

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.last(hidden - hidden.mean(0))


def test_samples_that_depend_on_each_other():
    model, x, y = trained(Mixing(), steps=5)
    matrix, operator = crelle.ggn(model, F.cross_entropy).at(x, y), hessian_of(model, x, y)
    for found, truth in ((matrix.trace(), true_trace(matrix)), (operator.trace(), true_trace(operator))):
        assert found.products <= 100
        assert abs(found.value - truth) < 4 * found.stderr
    with pytest.raises(crelle.CrelleTypeError, match="depend on other samples"):
        operator.trace(control=matrix)


def test_over_a_data_set():
    model, x, y = trained(network(nn.Tanh, 14), steps=5)
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    matrix = crelle.ggn(model, F.cross_entropy).at(data=batches)
    operator = crelle.hessian(crelle.objective(model, F.cross_entropy), wrt="params").at(data=batches)
    assert matrix.trace().value == pytest.approx(true_trace(matrix), rel=1e-9)
    assert matrix.trace().products == CLASSES
    found = operator.trace(control=matrix)
    assert abs(found.value - true_trace(operator)) < 4 * found.stderr


def test_what_is_no_control_variate(rng):
    operator = crelle.operator(rng.normal(size=(5, 5)))
    with pytest.raises(crelle.CrelleTypeError, match=r"\(operator, its trace\)"):
        operator.trace(control=operator)
    with pytest.raises(crelle.CrelleShapeError, match="the same shape"):
        operator.trace(control=(crelle.operator(np.eye(4)), 4.0))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 60])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_970_parameters(activation, steps):
    """Errors cover the truth on Hessians of a network, at initialisation and trained, with and without control."""
    torch.manual_seed(0)
    x = torch.randn(256, 32).double()
    y = (x @ torch.randn(32, 10).double()).argmax(1)
    model = nn.Sequential(
        nn.Linear(32, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 10)
    ).double()  # fmt: skip
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    dense, near = (
        np.asarray(made.todense().detach())
        for made in (hessian_of(model, x, y), crelle.ggn(model, F.cross_entropy).at(x, y))
    )
    operator, truth = crelle.operator(dense, symmetric=True), float(np.trace(dense))
    control = (crelle.operator(near), float(np.trace(near)))
    for options in ({"method": "hutchinson", "budget": 64}, {"method": "hutch++", "budget": 90},
                    {"method": "xtrace", "budget": 64}, {"method": "auto", "budget": 100},
                    {"method": "hutchinson", "budget": 64, "control": control}):  # fmt: skip
        found = [operator.trace(seed=seed, rtol=None, **options) for seed in range(200)]
        z = np.array([abs(f.value - truth) / f.stderr for f in found])
        assert (z < 1).mean() >= 0.683 - 0.1, options
        assert (z < 1.96).mean() >= 0.95 - 0.046, options
