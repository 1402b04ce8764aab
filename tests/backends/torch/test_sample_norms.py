"""Norms of the gradients of samples, with and without the products that are left out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import crelle
from crelle.backends.torch.sample_norms import SampleNorms


class Tied(nn.Module):
    """A small language model whose last layer shares its weights with the first."""

    def __init__(self):
        super().__init__()
        self.first = nn.Embedding(7, 6)
        self.middle = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.last = nn.Linear(6, 7)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(self.middle(self.first(x))).transpose(1, 2)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(9, 4)

    def forward(self, x):
        return self.linear(x).mul_(2.0).sin()


MODELS = {
    "linear": (lambda: nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4)), (5, 9)),
    "sequence": (lambda: nn.Sequential(nn.Linear(9, 8), nn.GELU(), nn.Linear(8, 4)), (5, 3, 9)),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(21, 4)), (5, 2, 9)),
    "transformer": (Tied, (4, 3)),
    "in place": (InPlace, (5, 9)),
}


def made(name):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double()
    x = torch.randint(0, 7, shape) if name == "transformer" else torch.randn(shape).double()
    params = {key: p.detach() for key, p in model.named_parameters()}
    f = lambda p, x: functional_call(model, p, (x[None],))
    seed = torch.randn_like(model(x).detach())
    return model, f, params, x, seed


@pytest.mark.parametrize("name", MODELS)
def test_against_a_loop(name):
    _, f, params, x, seed = made(name)
    norms = SampleNorms(f, params, [x[0]], seed[0])([x], seed)
    for n in range(len(x)):
        gradient = torch.func.vjp(lambda p, n=n: f(p, x[n])[0], params)[1](seed[n])[0]
        expected = sum(float((g**2).sum()) for g in gradient.values())
        assert float(norms[n]) == pytest.approx(expected, rel=1e-12)


def test_gradients_of_weights_are_not_formed():
    _, f, params, x, seed = made("linear")
    formed = SampleNorms(f, params, [x[0]], seed[0]).bytes
    assert formed == params["0.bias"].nbytes + params["2.bias"].nbytes


def test_all_are_formed_where_a_graph_cannot_be_had():
    _, f, params, x, seed = made("linear")
    branching = lambda p, x: f(p, x) if x.sum() > 1e9 else f(p, x) + 0 * p["0.bias"].sum()
    with pytest.raises(RuntimeError, match="vmap"):  # and neither can samples be taken at once
        SampleNorms(branching, params, [x[0]], seed[0])([x], seed)


@pytest.mark.parametrize("name", ["sequence", "convolution", "transformer"])
def test_traces_of_networks(name):
    model, _, _, x, _ = made(name)
    loss = F.cross_entropy if name == "transformer" else F.mse_loss
    z = model(x).detach()
    y = torch.randint(0, 7, (4, 3)) if name == "transformer" else torch.randn_like(z)
    G = crelle.ggn(model, loss).at(x, y)
    assert G.exact_trace() == pytest.approx(float(G.todense().trace()), rel=1e-11)
    assert G.outputs_per_sample == z[0].numel()
