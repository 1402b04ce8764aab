"""Modules: parameters, buffers, layers, hooks, modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crelle.backends.torch.guards import record
from tests.backends.torch.guards.kept import (
    Kept,
    Net,
    X,
    kept_and_fresh,
    net,
    vector,
)


def test_optimizer_steps() -> None:
    model = net()
    kept = kept_and_fresh(lambda x: model(x))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
        kept.assert_fresh()


@pytest.mark.parametrize(
    "capture", [lambda m: m, lambda m: lambda x: m(x), lambda m: m.forward], ids=["root", "cell", "method"]
)
def test_changes_of_a_module(capture: Callable[[nn.Module], Callable[..., Any]]) -> None:
    model = net()
    f = capture(model)
    kept = kept_and_fresh(f)
    kept.assert_fresh(capture(net()))  # another module of the same structure
    model.inner.weight = nn.Parameter(torch.eye(3, dtype=torch.float64))
    kept.assert_fresh()
    model.shift = vector()
    kept.assert_fresh()
    model.layers[1] = nn.Linear(3, 3).double()
    kept.assert_fresh()
    model.load_state_dict(net().state_dict())
    kept.assert_fresh()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    kept.assert_fresh()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "gain", 3.0),
        lambda m: setattr(m, "act", torch.sin),
        lambda m: setattr(m, "inner", nn.Sequential(nn.Linear(3, 3)).double()),
        lambda m: setattr(m, "inner", nn.Linear(3, 3, bias=False).double()),
        lambda m: setattr(m, "inner", nn.Identity()),
        lambda m: setattr(m.inner, "bias", None),
        lambda m: m.layers.append(nn.Linear(3, 3).double()),
        lambda m: m.eval(),
        lambda m: m.inner.eval(),
        lambda m: m.float(),
        lambda m: m.requires_grad_(False),
        lambda m: m.inner.weight.requires_grad_(False),
        lambda m: m.register_forward_hook(lambda mod, args, out: out * 2),
        lambda m: m.inner.register_forward_pre_hook(lambda mod, args: (args[0] * 2,)),
        lambda m: m.inner.register_full_backward_hook(lambda mod, gi, go: None),
        lambda m: setattr(m, "forward", lambda x: x),
        lambda m: setattr(m.inner, "forward", lambda x: x),
        lambda m: m.inner.register_parameter("extra", None),
        lambda m: nn.utils.parametrizations.weight_norm(m.inner),
    ],
)
def test_changes_of_a_module_that_need_a_new_trace(change: Callable[[nn.Module], Any]) -> None:
    model = net()
    kept = kept_and_fresh(lambda x: model(x))
    change(model)
    kept.assert_stale()


def test_hook_for_all_modules() -> None:
    model = net()
    kept = kept_and_fresh(lambda x: model(x))
    handle = nn.modules.module.register_module_forward_hook(lambda mod, args, out: None)
    try:
        kept.assert_stale("hooks of all modules")
    finally:
        handle.remove()
    kept.assert_fresh()


def test_hook_that_was_there() -> None:
    model, factor = net(), 2.0
    handle = model.inner.register_forward_hook(lambda mod, args, out: out * factor)
    kept = kept_and_fresh(lambda x: model(x))
    factor = 3.0
    kept.assert_stale("factor")
    factor = 2.0
    kept.assert_fresh()
    handle.remove()
    kept.assert_stale("hooks")


def test_forward_of_a_class_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    kept = kept_and_fresh(lambda x: model(x))
    monkeypatch.setattr(Net, "forward", lambda self, x: x)
    kept.assert_stale("Net.forward")
    monkeypatch.undo()
    kept.assert_fresh()
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x)
    kept.assert_stale("Linear.forward")


def test_parts_that_are_not_used_may_change() -> None:
    model = net()
    kept = kept_and_fresh(lambda x: model.inner(x))
    model.unused = nn.Identity()
    model.layers[0].register_forward_hook(lambda mod, args, out: out)
    kept.assert_fresh()


def test_dropout_and_batch_norm_modes() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.LayerNorm(3)).double().eval()
    kept = kept_and_fresh(lambda x: model(x))
    model[1].train()
    kept.assert_stale("train or eval mode")
    model.eval()
    kept.assert_fresh()
    model[2].eps = 1.0
    kept.assert_stale("eps")


def test_functional_call_swaps_parameters() -> None:
    model = net()
    params = {k: v.detach() for k, v in model.named_parameters()}
    kept = kept_and_fresh(lambda x: torch.func.functional_call(model, params, (x,)))
    params["inner.weight"] = torch.eye(3, dtype=torch.float64)
    kept.assert_fresh()
    model.shift = vector(0.0, 0.0, 1.0)
    kept.assert_fresh()
    model.gain = 7.0
    kept.assert_stale("gain")


def test_walk_over_parameters() -> None:
    model = net()
    kept = kept_and_fresh(lambda x: x * sum(p.square().sum() for p in model.parameters()))
    model.unused.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    kept.assert_fresh()
    model.unused = nn.Linear(2, 3).double()
    kept.assert_stale()


def test_recurrent_layer() -> None:
    cell = nn.GRUCell(3, 3).double()
    kept = kept_and_fresh(lambda x: cell(x, x))
    cell.weight_hh = nn.Parameter(cell.weight_hh * 2)
    kept.assert_fresh()


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4), nn.GRU(3, 4, num_layers=2)], ids=["LSTM", "GRU"])
def test_recurrent_layers(layer: nn.RNNBase) -> None:
    layer = layer.double()
    kept = kept_and_fresh(lambda x: layer(x.reshape(1, 1, 3))[0].reshape(-1))
    layer.weight_ih_l0.data.mul_(2.0)
    kept.assert_fresh()
    layer.weight_ih_l0 = nn.Parameter(layer.weight_ih_l0 * 2)
    answer = kept.replay()  # the layer itself needs a run to follow
    assert answer is None


def test_layers_of_many_kinds() -> None:
    layers = nn.Sequential(
        nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2), nn.PReLU(), nn.Upsample(scale_factor=2.0), nn.Flatten(), nn.Dropout(),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), nn.Softmax(1),
    ).double().eval()  # fmt: skip
    kept = kept_and_fresh(lambda x: layers(x.reshape(1, 1, 3)))
    for p in layers.parameters():
        p.data.mul_(0.9)
    kept.assert_fresh()
    layers[1].running_mean = layers[1].running_mean + 1
    kept.assert_fresh()
    layers[0].stride = (2,)
    kept.assert_stale("stride")


def test_running_statistics_are_an_effect() -> None:
    layer = nn.BatchNorm1d(3).double()
    with record(layer, (X,)) as recording:
        layer(torch.stack([X, 2 * X]))
    assert "in place" in recording.guards([]).unguardable


def test_shared_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    kept = kept_and_fresh(model)
    model[2].weight = nn.Parameter(torch.eye(3, dtype=torch.float64))
    kept.assert_stale("weight")


def test_scripted_module_is_unguardable() -> None:
    class Scripted(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.script(Scripted())
    assert "TorchScript" in Kept(lambda x: scripted(x)).guards.unguardable


def test_distribution() -> None:
    normal = torch.distributions.Normal(vector(), torch.ones(3, dtype=torch.float64), validate_args=False)
    kept = kept_and_fresh(lambda x: normal.log_prob(x))
    normal.loc = vector(5.0, 5.0, 5.0)
    kept.assert_fresh()
