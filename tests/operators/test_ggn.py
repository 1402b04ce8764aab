"""G = Jᵀ H J against the dense product, for every loss that is known and some that are not."""

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

TARGETS = {"cross_entropy": "classes", "mse": "reals", "bce": "shares"}


@pytest.fixture(params=FRAMEWORKS, ids=lambda f: f.name)
def network(request):
    return request.param()


def host(a):
    return np.asarray(a.detach() if isinstance(a, torch.Tensor) else a)


def assert_same(ours, theirs, rtol=1e-12):
    scale = np.abs(theirs).max()
    assert scale > 0
    np.testing.assert_allclose(host(ours) / scale, theirs / scale, rtol=0, atol=rtol)


def dense(network, loss, x, y):
    J = network.jacobian(x)
    return J.T @ network.loss_hessian(loss, x, y) @ J


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce"])
def test_losses_by_name(network, name, reduction):
    values = data()
    x, y = values["x"], values[TARGETS[name]]
    G = network.at(crelle.ggn(network.model, name, reduction=reduction), x, y)
    expected = dense(network, network.losses(name, reduction), x, y)
    assert_same(G.todense(), expected)
    assert G.tags == {"symmetric", "psd"}
    assert not G._from_derivatives
    assert G.exact_trace() == pytest.approx(np.trace(expected), rel=1e-12)


def test_probabilities_as_targets(network):
    values = data()
    x, y = values["x"], values["probabilities"] * np.arange(1, SAMPLES + 1)[:, None]
    G = network.at(crelle.ggn(network.model, "cross_entropy"), x, y)
    assert_same(G.todense(), dense(network, network.losses("cross_entropy"), x, y))


def test_any_other_loss_is_linearised(network):
    values = data()
    x, y = values["x"], values["reals"]
    G = network.at(crelle.ggn(network.model, network.quartic), x, y)
    expected = dense(network, network.quartic, x, y)
    assert_same(G.todense(), expected)
    assert G.tags == {"symmetric"}
    assert G._from_derivatives
    assert G.exact_trace() == pytest.approx(np.trace(expected), rel=1e-12)


def test_a_loss_that_is_not_convex_has_an_exact_trace_too(network):
    values = data()
    x, y = values["x"], values["reals"]
    loss = lambda z, y: ((z * z.mean(1, keepdims=True) - y) ** 2 * y).sum()
    G = network.at(crelle.ggn(network.model, loss), x, y)
    expected = dense(network, loss, x, y)
    assert np.linalg.eigvalsh(expected).min() < -0.1
    assert_same(G.todense(), expected)
    assert G.exact_trace() == pytest.approx(np.trace(expected), rel=1e-11)


def test_products_take_vectors_blocks_and_trees(network):
    values = data()
    x, y = values["x"], values["classes"]
    G = network.at(crelle.ggn(network.model, "cross_entropy"), x, y)
    expected = dense(network, network.losses("cross_entropy"), x, y)
    rng = np.random.default_rng(0)
    u, v, block = (rng.normal(size=shape) for shape in [(len(expected),), (len(expected),), (len(expected), 3)])
    assert_same(G @ network.array(v), expected @ v)
    assert_same(G @ network.array(block), expected @ block)
    tree = G @ network.params
    flat = np.concatenate([np.ravel(p) for p in network.params.values()])
    assert_same(np.concatenate([np.ravel(leaf) for leaf in tree.values()]), expected @ flat)
    left, right = float((G @ network.array(v)) @ network.array(u)), float(network.array(v) @ (G.T @ network.array(u)))
    assert left == pytest.approx(right, rel=1e-12)


def test_value_and_gradient(network):
    values = data()
    x, y = values["x"], values["classes"]
    G = network.at(crelle.ggn(network.model, "cross_entropy"), x, y)
    loss = network.losses("cross_entropy")
    function = network.function if network.name == "torch" else network.model
    assert float(G.value) == pytest.approx(float(loss(function(network.params, network.array(x)), network.array(y))))
    expected = network.gradients(loss, x, y).mean(0)
    assert_same(np.concatenate([np.ravel(g) for g in G.gradient().values()]), expected)


def test_a_data_set(network):
    values = data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    point, size = ((), 4) if network.name == "torch" else ((network.params,), 3)
    for reduction in ("mean", "sum"):
        asked = crelle.ggn(network.model, "cross_entropy", reduction=reduction)
        whole = asked.at(*point, x, y)
        parts = asked.at(*point, data=[(x[:size], y[:size]), (x[size:], y[size:])])
        assert_same(parts.todense(), host(whole.todense()))
        assert "psd" in parts.tags
    assert_same(asked.at(*point, data=(x, y), batch_size=size).todense(), host(whole.todense()))


def test_outputs_and_inputs_that_are_trees():
    rng = np.random.default_rng(0)
    params = {"a": jnp.array(rng.normal(size=(3, 2))), "b": jnp.array(rng.normal(size=(2, 2)))}
    x = (jnp.array(rng.normal(size=(5, 3))), jnp.array(rng.normal(size=(5, 2))))
    model = lambda p, x: {"u": jnp.sin(x[0] @ p["a"]), "v": (x[1] @ p["b"] ** 2).sum(1)}
    loss = lambda z, y: (jnp.exp(z["u"]).sum(1) * z["v"] * y).mean()
    y = jnp.array(rng.normal(size=5))
    G = crelle.ggn(model, loss).at(params, x, y)
    flat = lambda tree: jnp.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(tree)], 1).ravel()
    unflat = lambda z: {"u": z.reshape(5, 3)[:, :2], "v": z.reshape(5, 3)[:, 2]}
    J = jax.jacrev(lambda p: flat(model(p, x)))(params)
    J = np.concatenate([np.asarray(J[k]).reshape(15, -1) for k in J], 1)
    H = jax.hessian(lambda z: loss(unflat(z), y))(flat(model(params, x)))
    assert_same(G.todense(), J.T @ np.asarray(H) @ J)
    assert G.exact_trace() == pytest.approx(np.trace(J.T @ H @ J), rel=1e-11)


class OfTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, a, b):
        return self.first(a) * self.second(b)


def test_several_inputs_with_the_target_last():
    torch.manual_seed(0)
    model = OfTwo().double()
    a, b, y = torch.randn(5, 3).double(), torch.randn(5, 2).double(), torch.randint(0, 4, (5,))
    G = crelle.ggn(model, F.cross_entropy).at(a, b, y)
    params = {key: p.detach() for key, p in model.named_parameters()}
    function = lambda p: torch.func.functional_call(model, p, (a, b))
    J = torch.cat([j.reshape(20, -1) for j in torch.func.jacrev(function)(params).values()], 1)
    H = torch.func.hessian(lambda z: F.cross_entropy(z, y))(function(params)).reshape(20, 20)
    assert_same(G.todense(), host(J.T @ H @ J))
    assert G.exact_trace() == pytest.approx(float((J.T @ H @ J).trace()), rel=1e-12)


WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.1], dtype=torch.float64)
CLASSES = torch.tensor([0, 3, 1, 1, 2, 0])
SHARES = torch.linspace(0, 1, SAMPLES * OUTPUTS, dtype=torch.float64).reshape(SAMPLES, OUTPUTS)
KNOWN = {
    "function": (F.cross_entropy, CLASSES),
    "partial": (functools.partial(F.cross_entropy, reduction="sum"), CLASSES),
    "weights": (functools.partial(F.cross_entropy, weight=WEIGHTS), CLASSES),
    "ignored": (functools.partial(F.cross_entropy, ignore_index=1), CLASSES),
    "smooth": (functools.partial(F.cross_entropy, label_smoothing=0.2), CLASSES),
    "all": (
        functools.partial(F.cross_entropy, weight=WEIGHTS, ignore_index=1, label_smoothing=0.2, reduction="mean"),
        CLASSES,
    ),
    "all, summed": (nn.CrossEntropyLoss(WEIGHTS, ignore_index=1, label_smoothing=0.2, reduction="sum"), CLASSES),
    "probabilities": (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.2), SHARES),
    "mse": (F.mse_loss, SHARES),
    "mse module": (nn.MSELoss(reduction="sum"), SHARES),
    "bce": (F.binary_cross_entropy_with_logits, SHARES),
    "bce module": (nn.BCEWithLogitsLoss(weight=WEIGHTS[:, None].expand(4, 6).T, pos_weight=2 * WEIGHTS), SHARES),
}


@pytest.mark.parametrize("name", KNOWN)
def test_losses_of_torch_in_closed_form(name):
    network, (loss, y) = FRAMEWORKS[0](), KNOWN[name]
    x = data()["x"]
    G = network.at(crelle.ggn(network.model, loss), x, y)
    expected = dense(network, loss, x, y)
    assert_same(G.todense(), expected)
    assert "psd" in G.tags
    assert not G._from_derivatives
    assert G.exact_trace() == pytest.approx(np.trace(expected), rel=1e-12)


UNKNOWN = {
    "other options": functools.partial(F.mse_loss, weight=SHARES),
    "positional": functools.partial(lambda w, z, y: F.cross_entropy(z, y, w), WEIGHTS),
    "another shape": lambda z, y: F.mse_loss(z, y.sum(1, keepdim=True).expand_as(z)),
    "another loss": nn.HuberLoss(delta=0.3),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_losses_of_torch_without_closed_form(name):
    network, loss = FRAMEWORKS[0](), UNKNOWN[name]
    y = CLASSES if name == "positional" else SHARES
    x = data()["x"]
    G = network.at(crelle.ggn(network.model, loss), x, y)
    expected = dense(network, loss, x, y)
    assert_same(G.todense(), expected)
    assert G._from_derivatives


def test_targets_that_are_stretched_are_no_closed_form():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 4).double(), torch.randn(6, 3).double(), torch.randn(6, 1).double()
    with pytest.warns(UserWarning, match="broadcast"):
        G = crelle.ggn(model, F.mse_loss).at(x, y)
    assert G._from_derivatives
    ones = torch.cat([x, torch.ones(6, 1).double()], 1)
    assert float(torch.linalg.eigvalsh(G.todense())[-1]) == pytest.approx(
        float(torch.linalg.eigvalsh(2 * ones.T @ ones / 24)[-1])
    )


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 5, 2, 2)])
@pytest.mark.parametrize("target", ["classes", "probabilities"])
def test_classes_along_the_second_axis(shape, target):
    torch.manual_seed(0)
    convolution = (nn.Conv1d if len(shape) == 3 else nn.Conv2d)(3, 5, 1).double()
    x = torch.randn(2, 3, *shape[2:]).double()
    others = (shape[0], *shape[2:])
    y = torch.randint(0, 5, others) if target == "classes" else torch.rand(shape).double()
    loss = functools.partial(F.cross_entropy, weight=torch.rand(5).double(), label_smoothing=0.1)
    G = crelle.ggn(convolution, loss).at(x, y)
    params = {key: p.detach() for key, p in convolution.named_parameters()}
    function = lambda p: torch.func.functional_call(convolution, p, (x,))
    z = function(params)
    J = torch.cat([j.reshape(z.numel(), -1) for j in torch.func.jacrev(function)(params).values()], 1)
    H = torch.func.hessian(lambda z: loss(z, y))(z).reshape(z.numel(), -1)
    assert_same(G.todense(), host(J.T @ H @ J))
    assert not G._from_derivatives
    assert G.exact_trace() == pytest.approx(float((J.T @ H @ J).trace()), rel=1e-12)
    assert G.outputs_per_sample == z[0].numel()


def test_one_sample_without_a_batch():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 4).double(), torch.randn(3).double(), torch.tensor(2)
    G = crelle.ggn(model, F.cross_entropy).at(x, y)
    p = model(x).detach().softmax(0)
    H = p.diag() - torch.outer(p, p)
    ones = torch.cat([x, torch.ones(1).double()])
    assert_same(torch.linalg.eigvalsh(G.todense())[-3:], host(torch.linalg.eigvalsh(H)[-3:] * ones.dot(ones)))
    assert G.exact_trace() is None  # there is no axis of samples


def test_no_trace_where_samples_see_each_other(network):
    values = data()
    x, y = values["x"], values["reals"]
    if network.name == "torch":
        model = nn.Sequential(network.model, nn.BatchNorm1d(OUTPUTS, track_running_stats=False).double())
        G = network.at(crelle.ggn(model, "mse"), x, y)
    else:
        model = lambda p, x: network.model(p, x) - network.model(p, x).mean(0)
        G = network.at(crelle.ggn(model, "mse"), x, y)
    assert G.exact_trace() is None


def test_no_trace_where_the_loss_mixes_samples(network):
    values = data()
    loss = lambda z, y: ((z - y).sum() ** 2) + (z**2).sum()
    G = network.at(crelle.ggn(network.model, loss), values["x"], values["reals"])
    assert G.exact_trace() is None


def test_a_trace_in_chunks(network):
    values = data()
    G = network.at(crelle.ggn(network.model, "cross_entropy"), values["x"], values["classes"])
    assert G.exact_trace(memory=1) == pytest.approx(G.exact_trace(), rel=1e-12)


def test_no_samples():
    network = FRAMEWORKS[0]()
    loss = functools.partial(F.cross_entropy, reduction="sum")
    G = crelle.ggn(network.model, loss).at(torch.zeros(0, INPUTS).double(), torch.zeros(0, dtype=torch.int64))
    assert not host(G.todense()).any()
    assert G.exact_trace() == 0


def test_under_jit():
    network, values = FRAMEWORKS[1](), data()
    x, y = network.array(values["x"]), network.array(values["classes"])
    product = lambda p, v: crelle.ggn(network.model, "cross_entropy").at(p, x, y) @ v
    expected = product(network.params, network.params)
    found = jax.jit(product)(network.params, network.params)
    for key, leaf in expected.items():
        assert_same(found[key], host(leaf))


def test_results_hold_no_autograd_graph():
    network, values = FRAMEWORKS[0](), data()
    G = network.at(crelle.ggn(network.model, "cross_entropy"), values["x"], values["classes"])
    assert not (G @ torch.ones(G.shape[1]).double()).requires_grad


def test_parameters_that_change_later_do_not_matter():
    network, values = FRAMEWORKS[0](), data()
    G = network.at(crelle.ggn(network.model, "cross_entropy"), values["x"], values["classes"])
    before = G.todense().clone()
    with torch.no_grad():
        for p in network.model.parameters():
            p.add_(1)
    assert torch.equal(G.todense(), before)


def test_repr(network):
    values = data()
    name = "Sequential" if network.name == "torch" else "model"
    asked = crelle.ggn(network.model, "mse")
    assert repr(asked) == f"crelle.ggn({name}, mse)"
    G = network.at(asked, values["x"], values["reals"])
    n = 44 if network.name == "torch" else 40
    assert repr(G) == f"GGN of {name}(f64[{n}×{n}], {network.name}, cpu, symmetric, psd)"


def says(text, call):
    with pytest.raises(crelle.CrelleError) as caught:
        call()
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    return caught.value


def test_what_is_no_model_or_loss():
    f = lambda p, x: p * x
    error = says(
        "crelle.ggn(model, loss): model is of type ndarray\n"
        "  expected  a function (params, x) -> outputs, or an nn.Module\n"
        "  try       pass the function itself, not its result",
        lambda: crelle.ggn(np.ones(3), "mse"),
    )
    assert isinstance(error, crelle.CrelleTypeError)
    says(
        "crelle.ggn(f, float): loss is of type float\n"
        "  expected  a function (outputs, target) -> scalar, or one of 'cross_entropy', 'mse', 'bce'",
        lambda: crelle.ggn(f, 3.0),
    )
    error = says(
        "crelle.ggn(f, hinge): loss='hinge' is not known\n  expected  'cross_entropy' | 'mse' | 'bce'",
        lambda: crelle.ggn(f, "hinge"),
    )
    assert isinstance(error, crelle.CrelleValueError)


def test_reductions_that_cannot_be():
    f = lambda p, x: p * x
    says(
        "crelle.ggn(f, mse): reduction='none' is not known\n  expected  'mean' | 'sum'",
        lambda: crelle.ggn(f, "mse", reduction="none"),
    )
    says(
        "crelle.ggn(f, mse_loss): reduction='sum' goes with a loss given by name\n"
        "  try  let the function reduce: functools.partial(F.cross_entropy, reduction='sum')",
        lambda: crelle.ggn(f, F.mse_loss, reduction="sum"),
    )


def test_too_few_arguments():
    says(
        "crelle.ggn(f, mse): too few arguments\n"
        "  called    f64[3], f64[3]\n"
        "  expected  (params, x, y): the target comes last",
        lambda: crelle.ggn(lambda p, x: p * x, "mse").at(jnp.ones(3), jnp.ones(3)),
    )
    says(
        "crelle.ggn(Linear, mse): too few arguments\n  called    f64[3]\n  expected  (x, y): the target comes last",
        lambda: crelle.ggn(nn.Linear(3, 1), "mse").at(torch.ones(3).double()),
    )


def test_numpy_has_no_reverse_mode():
    says(
        "crelle.ggn(f, mse): the arrays are NumPy's, and NumPy functions have no reverse mode\n"
        "  expected  a model written in JAX or PyTorch",
        lambda: crelle.ggn(lambda p, x: p * x, "mse").at(np.ones(3), np.ones(3), np.ones(3)),
    )


def test_targets_of_another_shape():
    f = lambda p, x: p * x
    says(
        "cross_entropy: outputs f64[3,4] and target f64[3]\n"
        "  expected  integers like the outputs without their last axis, or probabilities of their shape",
        lambda: crelle.ggn(f, "cross_entropy").at(jnp.ones(4), jnp.ones((3, 4)), jnp.ones(3)).value,
    )
    says(
        "mse: outputs f64[3,4] and target f64[3]\n  expected  one shape",
        lambda: crelle.ggn(f, "mse").at(jnp.ones(4), jnp.ones((3, 4)), jnp.ones(3)).value,
    )


def test_a_loss_that_is_no_scalar():
    with pytest.raises(crelle.CrelleShapeError, match=r"crelle.ggn\(f, f\): the loss: f must return a scalar"):
        crelle.ggn(lambda p, x: p * x, lambda z, y: (z - y) ** 2).at(jnp.ones(4), jnp.ones((3, 4)), jnp.ones((3, 4)))


def test_a_class_that_is_not_there():
    model, x = nn.Linear(3, 2).double(), torch.ones(4, 3).double()
    says(
        "cross_entropy: the target holds a class beyond the 2 of the outputs\n"
        "  called    outputs f64[4,2], target i64[4] up to 5\n"
        "  expected  integers from 0 to 1, or ignore_index=-100",
        lambda: crelle.ggn(model, F.cross_entropy).at(x, torch.tensor([0, 1, 2, 5])),
    )


def test_models_without_a_derivative():
    x, y = torch.ones(4, 3).double(), torch.zeros(4, dtype=torch.int64)
    says(
        "crelle.ggn(Sequential, cross_entropy): layer 0 is Dropout in train mode, and has no well-defined derivative: "
        "it drops other entries at every call\n"
        "  expected  a function of its inputs alone\n"
        "  try       module.eval(), or p=0.0",
        lambda: crelle.ggn(nn.Sequential(nn.Dropout(), nn.Linear(3, 2)), F.cross_entropy).at(x, y),
    )
    says(
        "crelle.ggn(ReLU, cross_entropy): the module has no parameter that requires grad\n"
        "  try  module.requires_grad_(True)",
        lambda: crelle.ggn(nn.ReLU(), F.cross_entropy).at(x, y),
    )


def test_batches_that_are_dicts():
    x, y = torch.ones(4, 3).double(), torch.zeros(4, dtype=torch.int64)
    says(
        "GGN of Linear: batch 0: crelle.ggn(Linear, cross_entropy).at: a batch is a dict, which does not say what is "
        "the target\n"
        "  expected  (x, y): inputs, and the target last\n"
        "  try       data that yields tuples: a collate_fn=, or [(b['x'], b['y']) for b in data]",
        lambda: crelle.ggn(nn.Linear(3, 2).double(), F.cross_entropy).at(data=[{"x": x, "y": y}]),
    )
