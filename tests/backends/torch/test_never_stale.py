"""crelle.jacobian(f)(x) answers for the f of this call, whatever changed since the last one; and traces little."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.func import jacrev

import crelle
from crelle.backends.torch import TorchBackend
from tests.backends.torch.reference import assert_close


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def traces(monkeypatch):
    """How often something was traced."""
    counted = []
    original = TorchBackend.trace
    monkeypatch.setattr(TorchBackend, "trace", lambda self, call: counted.append(call.name) or original(self, call))
    crelle.clear_caches()
    return counted


def test_training_steps_trace_once(traces):
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    twin = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    twin.load_state_dict(net.state_dict())
    x = torch.randn(3)

    def train(model, transform, make_anew):
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        kept = transform(lambda x: model(x))
        losses = []
        for _ in range(10):
            optimiser.zero_grad()
            derivative = transform(lambda x: model(x)) if make_anew else kept
            loss = derivative(x).square().sum() + model(x).square().sum()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    for make_anew in (False, True):
        assert_close(train(net, crelle.jacobian, make_anew), train(twin, jacrev, make_anew))
    assert len(traces) == 2  # one a lambda: their code differs


def test_what_is_captured_may_be_rebound_or_mutated(traces):
    w = torch.randn(3)
    f = lambda x: x.sin() * w
    J = crelle.jacobian(f)
    x = torch.randn(3)
    assert_close(J(x), jacrev(f)(x))
    w = torch.randn(3)
    assert_close(J(x), jacrev(f)(x))
    w.mul_(2)
    assert_close(J(x), jacrev(f)(x))
    assert len(traces) == 1
    w = torch.randn(())
    assert_close(J(x), jacrev(f)(x))
    assert len(traces) == 2


def test_flags_numbers_and_methods(traces):
    class Scaled:
        def __init__(self, factor):
            self.factor, self.square = factor, False

        def __call__(self, x):
            return self.factor * (x**2 if self.square else x)

    f = Scaled(2.0)
    J = crelle.jacobian(f)
    x = torch.randn(3)
    assert_close(J(x), 2 * torch.eye(3))
    f.factor = 3.0
    assert_close(J(x), 3 * torch.eye(3))
    f.square = True
    assert_close(J(x), torch.diag(6 * x))
    f.square, f.factor = False, 2.0
    assert_close(J(x), 2 * torch.eye(3))
    assert len(traces) == 3  # going back finds the first trace again
    g = functools.partial(lambda c, x: c * x, 5.0)
    assert_close(crelle.jacobian(g)(x), 5 * torch.eye(3))
    assert_close(crelle.jacobian(functools.partial(g.func, 7.0))(x), 7 * torch.eye(3))


def test_modules_swapped_and_switched(traces):
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Tanh()).eval()
    J = crelle.jacobian(net)
    x = torch.randn(3)
    assert_close(J(x), jacrev(net)(x))
    net[2] = nn.Sigmoid()
    assert_close(J(x), jacrev(net)(x))
    net[0].weight = nn.Parameter(torch.randn(3, 3))
    assert_close(J(x), jacrev(net)(x))
    handle = net[0].register_forward_hook(lambda module, args, output: output * 2)
    assert_close(J(x), jacrev(net)(x))
    handle.remove()
    assert_close(J(x), jacrev(net)(x))
    net.train()
    with pytest.raises(crelle.CrelleTypeError, match="layer 1 is Dropout in train mode"):
        J(x)


def test_a_function_that_changes_every_time_ends_up_run_anew(traces):
    state = {"k": 0}

    def f(x):
        return x * state["k"]

    J = crelle.jacobian(f)
    x = torch.randn(2)
    for k in range(20):
        state["k"] = k
        assert_close(J(x), k * torch.eye(2))
    assert 8 <= len(traces) <= 14
    assert "it is run anew each time" in str(J.plan(x))


def test_a_called_plan_is_frozen():
    scale = [2.0]
    plan = crelle.jacobian(lambda x: x * scale[0]).plan(torch.randn(2))
    scale[0] = 5.0
    assert_close(plan(torch.randn(2)), 2 * torch.eye(2))


def test_nothing_of_the_users_is_kept_alive():
    import gc
    import weakref

    model = nn.Linear(3, 2)
    x = torch.randn(3)
    J = crelle.jacobian(lambda x: model(x))
    J(x)
    J(x)
    watched = [weakref.ref(x), weakref.ref(model), weakref.ref(model.weight)]
    x = model = J = None
    gc.collect()
    assert [r() for r in watched] == [None, None, None]


def test_caches_are_bounded():
    from crelle import _prepare

    crelle.clear_caches()
    for i in range(_prepare.KEPT_FUNCTIONS + 5):
        scope: dict = {}
        exec(f"f = lambda x: x * {i}", scope)
        crelle.jacobian(scope["f"])
    assert len(_prepare._spaces) <= _prepare.KEPT_FUNCTIONS
    crelle.clear_caches()
    assert len(_prepare._spaces) == 0
