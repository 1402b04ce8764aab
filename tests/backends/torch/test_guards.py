"""Every way in which a kept trace can become stale is made to happen and must be seen; the unchanged must match."""

from __future__ import annotations

import contextvars
import cProfile
import dataclasses
import enum
import functools
import gc
import math
import random
import sys
import time
import types
import weakref
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from crelle.backends.torch.guards import Guards, is_recording, record

X = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)


def vector(*values: float) -> Tensor:
    return torch.tensor(values or (1.0, 2.0, 3.0), dtype=torch.float64)


class Kept:
    """A traced ``jacrev(f)`` with its constants lifted to inputs, and the guards on it."""

    def __init__(self, f: Callable[..., Any], x: Tensor = X, **kwargs: Any) -> None:
        detached = x.detach()
        # partials, so that the signature of f is no concern
        transform = make_fx(functools.partial(torch.func.jacrev(functools.partial(f, **kwargs))))
        with record(f, (x,), kwargs) as recording:
            traced = transform(detached)
        self.graph, self.constants = lift(traced)
        self.guards: Guards = recording.guards(self.constants)
        self.f, self.x, self.kwargs = f, x, kwargs

    def tensors(self, f: Callable[..., Any] | None = None) -> list[Tensor] | None:
        return self.guards.match(f or self.f, (self.x,), self.kwargs)

    def replay(self, f: Callable[..., Any] | None = None) -> Tensor | None:
        """The derivative by the kept graph, None where the guards say that it does not describe f."""
        tensors = self.tensors(f)
        return None if tensors is None else self.graph(self.x.detach(), *tensors)

    def assert_fresh(self, f: Callable[..., Any] | None = None) -> None:
        """The guards hold, and the kept graph gives what PyTorch gives for f as it is now."""
        assert not self.guards.unguardable, self.guards.unguardable
        answer = self.replay(f)
        assert answer is not None, self.guards.changed(f or self.f, (self.x,), self.kwargs)
        expected = torch.func.jacrev(functools.partial(f or self.f, **self.kwargs))(self.x)
        torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)

    def assert_stale(self, what: str = "", f: Callable[..., Any] | None = None) -> None:
        """The guards fail, and say over what."""
        assert not self.guards.unguardable, self.guards.unguardable
        assert self.tensors(f) is None
        assert what in self.guards.changed(f or self.f, (self.x,), self.kwargs)


def lift(traced: fx.GraphModule) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph with its constants as further inputs, and the constants."""
    graph, env, targets = fx.Graph(), {}, []
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            env[node] = graph.node_copy(node)
    for node in traced.graph.nodes:
        if node.op == "get_attr" and node.target not in targets:
            targets.append(node.target)
    inputs = {target: graph.placeholder(f"lifted_{i}") for i, target in enumerate(targets)}
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            env[node] = inputs[node.target]
        elif node.op != "placeholder":
            env[node] = graph.node_copy(node, env.__getitem__)
    return fx.GraphModule(traced, graph), [getattr(traced, target) for target in targets]


def kept_and_fresh(f: Callable[..., Any], **kwargs: Any) -> Kept:
    kept = Kept(f, X, **kwargs)
    kept.assert_fresh()
    return kept


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()


# -- captured tensors


def test_closure_tensor_rebound_is_followed() -> None:
    w = vector()
    kept = kept_and_fresh(lambda x: (x * w) ** 2)
    w = vector(4.0, 5.0, 6.0)
    kept.assert_fresh()
    assert kept.tensors() == [w]


G_WEIGHT = vector()
G_FLAG = True
G_CONFIG = {"scale": 2.0, "power": 3}


def test_global_tensor_rebound_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_and_fresh(lambda x: x * G_WEIGHT)
    monkeypatch.setitem(globals(), "G_WEIGHT", vector(7.0, 8.0, 9.0))
    kept.assert_fresh()


def test_in_place_update_is_seen_without_a_new_trace() -> None:
    w = vector()
    kept = kept_and_fresh(lambda x: torch.sin(x) * w)
    w.mul_(3.0)
    kept.assert_fresh()
    w.data = vector(0.0, 1.0, 0.0)
    kept.assert_fresh()
    found = kept.tensors()
    assert found is not None and found[0] is w


@pytest.mark.parametrize(
    "other",
    [
        vector().float(),
        torch.ones(1, dtype=torch.float64),
        torch.ones(3, 3, dtype=torch.float64),
        vector().requires_grad_(),
        nn.Parameter(vector()),
        torch.ones(6, dtype=torch.float64)[::2],
        torch.ones(3, dtype=torch.float64).to_sparse(),
        2.0,
        None,
    ],
    ids=["dtype", "shape", "rank", "requires_grad", "class", "strides", "layout", "number", "nothing"],
)
def test_captured_tensor_of_another_kind(other: Any) -> None:
    w: Any = vector()
    kept = kept_and_fresh(lambda x: x * w)
    w = other
    kept.assert_stale("w")
    w = vector(1.0, 1.0, 1.0)
    kept.assert_fresh()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.requires_grad_(),
        lambda w: w.resize_(1),
        lambda w: w.t_(),
        lambda w: w.unsqueeze_(0),
        lambda w: setattr(w, "data", w.data.float()),
    ],
    ids=["requires_grad_", "resize_", "t_", "unsqueeze_", "data of another dtype"],
)
def test_captured_tensor_changed_in_kind_in_place(change: Callable[[Tensor], Any]) -> None:
    w = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    kept = kept_and_fresh(lambda x: x * w[0])
    change(w)
    kept.assert_stale("w")


def test_shape_read_without_the_values() -> None:
    points = torch.zeros(4, 2)
    kept = kept_and_fresh(lambda x: x * points.shape[0])
    points = torch.zeros(4, 2)
    kept.assert_fresh()
    points = torch.zeros(5, 2)
    kept.assert_stale("points")


def test_two_names_of_one_tensor() -> None:
    a = b = vector()
    kept = kept_and_fresh(lambda x: x * a + b)
    a = vector(4.0, 5.0, 6.0)
    kept.assert_stale()
    b = a
    kept.assert_fresh()


def test_two_tensors_become_one() -> None:
    a, b = vector(), vector(5.0, 5.0, 5.0)
    kept = kept_and_fresh(lambda x: x * a + b * x**2)
    b = a
    answer = kept.replay()
    assert answer is None or torch.equal(answer, torch.func.jacrev(kept.f)(X))


def test_data_of_a_tensor() -> None:
    w = nn.Parameter(vector())
    kept = kept_and_fresh(lambda x: x * w.data + w.detach())
    w = nn.Parameter(vector(3.0, 3.0, 3.0))
    kept.assert_fresh()


def test_gradient_of_a_tensor() -> None:
    w = nn.Parameter(vector())
    w.grad = vector(1.0, 0.0, 2.0)
    kept = kept_and_fresh(lambda x: x * w.grad)
    w.grad = vector(5.0, 5.0, 5.0)
    kept.assert_fresh()
    w.grad = None
    kept.assert_stale("w.grad")


def test_gradient_is_guarded_only_where_it_is_read() -> None:
    w = nn.Parameter(vector())
    kept = kept_and_fresh(lambda x: torch.func.grad(lambda y: (y**3 * w).sum())(x))
    w.grad = vector()
    kept.assert_fresh()


def test_attribute_of_a_tensor() -> None:
    w = vector()
    w.gain = 2.0  # type: ignore[attr-defined]
    kept = kept_and_fresh(lambda x: x * w * w.gain)  # type: ignore[attr-defined]
    w.gain = 3.0  # type: ignore[attr-defined]
    kept.assert_stale("w.gain")


def test_modes_of_autograd_do_not_matter() -> None:
    w = nn.Parameter(vector())
    kept = kept_and_fresh(lambda x: x * w)
    with torch.no_grad():
        assert kept.tensors() == [w]
    with torch.inference_mode():
        assert kept.tensors() == [w]
        inside = Kept(kept.f)
        assert inside.tensors() == [w]
    assert inside.tensors() == [w]


# -- values of tensors in Python


@pytest.mark.parametrize(
    "f",
    [
        lambda s: lambda x: x * s.item(),
        lambda s: lambda x: x * float(s),
        lambda s: lambda x: x**2 if s else x,
        lambda s: lambda x: x * s.tolist(),
        lambda s: lambda x: x * torch.tensor([s, 1.0, s], dtype=torch.float64),
        lambda s: lambda x: x * torch.full((3,), s, dtype=torch.float64),
        lambda s: lambda x: x * torch.as_tensor((1.0, s, 2.0), dtype=torch.float64),
        lambda s: lambda x: x * x.new_tensor([1.0, s, 2.0]),
        lambda s: lambda x: x * len(repr(s)),
        lambda s: lambda x: x[: int(s)],
    ],
)
def test_value_of_a_captured_tensor_in_python(f: Callable[[Tensor], Callable[..., Any]]) -> None:
    s = torch.tensor(2.0, dtype=torch.float64)
    kept = Kept(f(s))
    if kept.guards.unguardable:  # allowed, as long as it is not stale
        assert "value" in kept.guards.unguardable
        return
    kept.assert_fresh()
    s.fill_(-1.25)
    kept.assert_stale("s")
    s.fill_(2.0)
    kept.assert_fresh()


def test_value_guard_is_used_for_items() -> None:
    s = torch.tensor(2.0)
    assert not Kept(lambda x: x * s.item()).guards.unguardable
    assert not Kept(lambda x: x * torch.tensor([s, s, s])).guards.unguardable


def test_captured_mask_decides_a_shape() -> None:
    mask = torch.tensor([True, False, True])
    kept = kept_and_fresh(lambda x: x[mask] ** 2)
    mask = mask.clone()
    kept.assert_fresh()
    mask[0] = False
    kept.assert_stale("mask")


def test_captured_index_is_an_ordinary_tensor() -> None:
    index = torch.tensor([0, 2])
    kept = kept_and_fresh(lambda x: x[index] ** 2)
    index.fill_(1)
    kept.assert_fresh()


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda x: x * torch.tensor([x[0], x[1], 1.0], dtype=torch.float64), "the value of a tensor that it computes"),
        (lambda x: x[x > 0], "the value of a tensor that it computes"),
        (lambda x: x * torch.DoubleTensor([1.0, 2.0, 3.0]), "a constructor that hides what it reads"),
        (lambda x: x * nn.Parameter(torch.ones(3)), "f32[3] that cannot be found from f"),
    ],
    ids=["torch.tensor of x", "mask of x", "legacy constructor", "parameter made inside"],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
def test_unguardable_values(f: Callable[..., Any], reason: str) -> None:
    assert reason in Kept(f).guards.unguardable


def test_constant_made_from_python_data() -> None:
    values = [1.0, 2.0, 3.0]
    kept = kept_and_fresh(lambda x: x * torch.tensor(values, dtype=torch.float64) + torch.arange(3))
    kept.assert_fresh()
    values[1] = 5.0
    kept.assert_stale("values[1]")


# -- Python values


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1.0, 2.0),
        (True, 1),
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        (1.0, math.nan),
        (2, None),
        ("relu", "tanh"),
        (1 + 0j, 1.0),
        ((1, 2), (1, 3)),
        ((1, 2), (1, 2.0)),
        ((1, 2), [1, 2]),
        ([1, 2], [1, 2, 3]),
        ([1, [2, 3]], [1, [2, 4]]),
        (list(range(100)), [*range(99), 99.0]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: 1}, {True: 1}),
        ({1, 2}, {1, 3}),
        (frozenset((1, 2)), frozenset((1,))),
        (torch.float32, torch.float64),
        (torch.device("cpu"), torch.device("meta")),
        (slice(0, 2), slice(0, 3)),
        (range(3), range(4)),
        (np.float64(2.0), np.float64(3.0)),
        (np.float64(2.0), 2.0),
        (np.float64(2.0), np.float32(2.0)),
        (math.sin, math.cos),
        (torch.sin, torch.cos),
        (int, float),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), defaultdict(list, a=[2])),
        (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
        (types.MappingProxyType({"a": 1}), types.MappingProxyType({"a": 2})),
        (bytes(3), bytes(4)),
        (bytearray(3), None),
    ],
    ids=repr,
)
def test_captured_python_value_changes(before: Any, after: Any) -> None:
    flag = before
    kept = Kept(lambda x: x * 2 if flag is not None else x)
    if kept.guards.unguardable:
        assert "flag" in kept.guards.unguardable and isinstance(before, bytearray)
        return
    kept.assert_fresh()
    flag = after
    kept.assert_stale("flag")
    flag = before
    kept.assert_fresh()


def test_nan_and_rebuilt_values_match() -> None:
    values: Any = (math.nan, -0.0, 10**20, "a" * 50, [1.5], {"k": (1, 2.5)}, 1e300 + 1j)
    kept = kept_and_fresh(lambda x: x * len(values))
    values = (float("nan"), -0.0, 10**20, "".join(["a"] * 50), [1.5], {"k": (1, 2.5)}, complex(1e300, 1))
    kept.assert_fresh()


def test_global_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_and_fresh(lambda x: x**2 if G_FLAG else x)
    monkeypatch.setitem(globals(), "G_FLAG", False)
    kept.assert_stale("G_FLAG")
    monkeypatch.setitem(globals(), "G_FLAG", 1)
    kept.assert_stale("G_FLAG")


def test_entry_of_a_global_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_and_fresh(lambda x: x ** G_CONFIG["power"] * G_CONFIG["scale"])
    monkeypatch.setitem(G_CONFIG, "scale", 5.0)
    kept.assert_stale("G_CONFIG['scale']")


def test_list_of_tensors() -> None:
    ws = [vector(), vector(2.0, 2.0, 2.0)]
    kept = kept_and_fresh(lambda x: sum(w * x**i for i, w in enumerate(ws)))
    ws[0] = vector(9.0, 9.0, 9.0)
    kept.assert_fresh()
    ws.append(vector())
    kept.assert_stale("ws")


def test_nonlocal_rebound() -> None:
    def make() -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
        power = 2

        def f(x: Tensor) -> Tensor:
            return x**power

        def change() -> None:
            nonlocal power
            power += 1

        return f, change

    f, change = make()
    kept = kept_and_fresh(f)
    change()
    kept.assert_stale("power")


def test_global_that_shadows_a_builtin(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_and_fresh(lambda x: x * max(2, 3))
    monkeypatch.setitem(globals(), "max", min)
    kept.assert_stale("max")


class Activation(enum.Enum):
    TANH = "tanh"
    SIN = "sin"


def test_enum() -> None:
    kind = Activation.TANH
    kept = kept_and_fresh(lambda x: torch.tanh(x) if kind is Activation.TANH else torch.sin(x))
    kind = Activation.SIN
    kept.assert_stale("kind")


Pair = namedtuple("Pair", "weight gain")


def test_named_tuple() -> None:
    pair = Pair(vector(), 2.0)
    kept = kept_and_fresh(lambda x: x * pair.weight * pair.gain)
    pair = Pair(vector(3.0, 3.0, 3.0), 2.0)
    kept.assert_fresh()
    pair = pair._replace(gain=3.0)
    kept.assert_stale("pair[1]")


@pytest.mark.parametrize("nbytes", [80, 8000])
def test_numpy_array_mutated_in_place(nbytes: int) -> None:
    grid = np.ones(nbytes // 8)
    kept = kept_and_fresh(lambda x: x * float(grid.sum()))
    kept.assert_fresh()
    grid[0] = 2.0
    kept.assert_stale("grid")
    grid[0] = 1.0
    kept.assert_fresh()
    grid = grid.astype(np.float32)
    kept.assert_stale("grid")


def test_numpy_array_as_a_tensor() -> None:
    grid = np.array([1.0, 2.0, 3.0])
    kept = kept_and_fresh(lambda x: x * torch.from_numpy(grid))
    grid *= 2
    kept.assert_stale("grid")


# -- functions


def helper(x: Tensor) -> Tensor:
    return x**2


def outer_helper(x: Tensor) -> Tensor:
    return helper(x) + 1


def test_helper_monkeypatched(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_and_fresh(lambda x: outer_helper(x))
    monkeypatch.setitem(globals(), "helper", lambda x: x**3)
    kept.assert_stale("helper")


def test_library_function_monkeypatched(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = kept_and_fresh(lambda x: torch.sin(x) + torch.nn.functional.softplus(x))
    monkeypatch.setattr(torch.nn.functional, "softplus", torch.nn.functional.silu)
    kept.assert_stale("torch.nn.functional.softplus")
    monkeypatch.undo()
    kept.assert_fresh()


def test_code_of_a_function_replaced() -> None:
    def inner(x: Tensor) -> Tensor:
        return x * 2

    kept = kept_and_fresh(lambda x: inner(x))
    inner.__code__ = (lambda x: x * 3).__code__
    kept.assert_stale("inner")


def test_lambda_rebuilt_with_the_same_code() -> None:
    def scaled(k: float, w: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: x * k * w

    g = scaled(2.0, vector())
    kept = kept_and_fresh(lambda x: g(x) ** 2)
    g = scaled(2.0, vector(5.0, 6.0, 7.0))
    kept.assert_fresh()
    g = scaled(3.0, vector())
    kept.assert_stale("k")


def scaled_by(w: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.exp(x) * w


def test_lambda_made_anew_in_a_loop() -> None:
    kept: Kept | None = None
    for k in range(4):
        w = torch.full((3,), float(k), dtype=torch.float64)
        f = lambda x, w=w: torch.exp(x) * w
        g = scaled_by(w)
        if kept is None:
            kept, kept_cell = Kept(f), Kept(g)
        kept.assert_fresh(f)
        kept_cell.assert_fresh(g)
        found = kept_cell.tensors(g)
        assert found is not None and found[0] is w


def test_another_function_does_not_match() -> None:
    kept = kept_and_fresh(lambda x: x * 2)
    assert kept.tensors(lambda x: x * 3) is None
    assert kept.tensors(len) is None
    assert kept.tensors(functools.partial(kept.f)) is None


def test_default_arguments() -> None:
    def f(x: Tensor, power: int = 2, *, scale: float = 1.0, weights: list[float] = [1.0, 2.0]) -> Tensor:  # noqa: B006
        return x**power * scale * weights[0]

    kept = kept_and_fresh(f)
    f.__defaults__ = (3,)
    kept.assert_stale("power")
    f.__defaults__ = (2,)
    kept.assert_fresh()
    assert f.__kwdefaults__ is not None
    f.__kwdefaults__["scale"] = 4.0
    kept.assert_stale("scale")
    f.__kwdefaults__["scale"] = 1.0
    f.__kwdefaults__["weights"][0] = 7.0
    kept.assert_stale("weights")


def test_partial() -> None:
    def f(w: Tensor, k: int, x: Tensor) -> Tensor:
        return x**k * w

    kept = kept_and_fresh(functools.partial(f, vector(), 2))
    kept.assert_fresh(functools.partial(f, vector(2.0, 0.0, 1.0), 2))
    kept.assert_stale("[1]", functools.partial(f, vector(), 3))


def test_decorated_function() -> None:
    def twice(g: Callable[[Tensor], Tensor], times: int = 2) -> Callable[[Tensor], Tensor]:
        @functools.wraps(g)
        def wrapper(x: Tensor) -> Tensor:
            return times * g(x)

        return wrapper

    scale = 3.0

    @twice
    def f(x: Tensor) -> Tensor:
        return x**2 * scale

    kept = kept_and_fresh(f)
    scale = 4.0
    kept.assert_stale("scale")


def test_function_wrapped_by_a_transform() -> None:
    w, k = vector(), 2

    def inner(x: Tensor) -> Tensor:
        return (x**k * w).sum()

    kept = kept_and_fresh(torch.func.grad(inner))
    w = vector(3.0, 3.0, 3.0)
    kept.assert_fresh()
    k = 3
    kept.assert_stale("k")


def test_attribute_of_a_function() -> None:
    def f(x: Tensor) -> Tensor:
        return x * f.scale  # type: ignore[attr-defined]

    f.scale = 2.0  # type: ignore[attr-defined]
    kept = kept_and_fresh(f)
    f.scale = 3.0  # type: ignore[attr-defined]
    kept.assert_stale("scale")


def test_recursive_function() -> None:
    def power(x: Tensor, n: int) -> Tensor:
        return x if n == 1 else x * power(x, n - 1)

    n = 3
    kept = kept_and_fresh(lambda x: power(x, n))
    n = 4
    kept.assert_stale("n")


def test_table_of_functions() -> None:
    table: dict[str, Callable[[Tensor], Tensor]] = {"a": torch.tanh, "b": lambda x: x**2}
    name = "b"
    kept = kept_and_fresh(lambda x: table[name](x))
    table["b"] = lambda x: x**3
    kept.assert_stale("table['b']")


def test_cached_function() -> None:
    @functools.lru_cache
    def size(n: int) -> int:
        return n + 1

    kept = kept_and_fresh(lambda x: x * size(3))
    kept.assert_fresh()
    size.cache_clear()
    kept.assert_stale("size")


def test_backward_reads_python_values() -> None:
    slope = [0.5]

    class Leaky(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * slope[0]

    kept = Kept(lambda x: Leaky.apply(x))
    if not kept.guards.unguardable:
        kept.assert_fresh()
        slope[0] = 2.0
        kept.assert_stale("slope")


# -- objects


class Scale:
    offset = 1.0

    def __init__(self, scale: float, weight: Tensor) -> None:
        self.scale = scale
        self.weight = weight
        self.unrelated = object()

    def __call__(self, x: Tensor) -> Tensor:
        return self.scaled(x) + self.offset

    def scaled(self, x: Tensor) -> Tensor:
        return x**2 * self.scale * self.weight


def test_callable_object() -> None:
    f = Scale(2.0, vector())
    kept = kept_and_fresh(f)
    f.weight = vector(2.0, 2.0, 2.0)
    kept.assert_fresh()
    f.unrelated = object()
    kept.assert_fresh()
    kept.assert_fresh(Scale(2.0, vector(1.0, 0.0, 0.0)))
    f.scale = 3.0
    kept.assert_stale("scale")
    kept.assert_stale("scale", Scale(5.0, vector()))


def test_bound_method_of_another_instance() -> None:
    kept = kept_and_fresh(Scale(2.0, vector()).scaled)
    kept.assert_fresh(Scale(2.0, vector(4.0, 4.0, 4.0)).scaled)
    kept.assert_stale("self.scale", Scale(3.0, vector()).scaled)


def test_class_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Scale(2.0, vector())
    kept = kept_and_fresh(lambda x: x * f.offset)
    monkeypatch.setattr(Scale, "offset", 2.0)
    kept.assert_stale("offset")
    monkeypatch.undo()
    kept.assert_fresh()
    f.offset = 7.0  # the instance now hides the class attribute
    kept.assert_stale("f")


def test_method_monkeypatched(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Scale(2.0, vector())
    kept = kept_and_fresh(lambda x: f(x))
    monkeypatch.setattr(Scale, "scaled", lambda self, x: x)
    kept.assert_stale("Scale.scaled")
    monkeypatch.undo()
    kept.assert_fresh()
    f.scaled = lambda x: x  # type: ignore[method-assign]
    kept.assert_stale("f")


def test_inherited_method_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Child(Scale):
        pass

    f = Child(2.0, vector())
    kept = kept_and_fresh(lambda x: f.scaled(x))
    monkeypatch.setattr(Child, "scaled", lambda self, x: x, raising=False)
    kept.assert_stale("Child")
    monkeypatch.undo()
    kept.assert_fresh()
    monkeypatch.setattr(Scale, "scaled", lambda self, x: x)
    kept.assert_stale("Scale.scaled")


def test_class_of_an_object_replaced() -> None:
    class Other(Scale):
        def scaled(self, x: Tensor) -> Tensor:
            return x

    f = Scale(2.0, vector())
    kept = kept_and_fresh(lambda x: f(x))
    f.__class__ = Other
    kept.assert_stale("f")


class Area:
    def __init__(self, side: float) -> None:
        self.side = side

    @property
    def area(self) -> float:
        return self.side**2

    @classmethod
    def unit(cls) -> float:
        return cls.length * 1.0

    @staticmethod
    def half(x: Tensor) -> Tensor:
        return x / G_CONFIG["scale"]

    length = 3.0


def test_property_class_method_and_static_method(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Area(2.0)
    kept = kept_and_fresh(lambda x: a.half(x) ** 2 * a.area * Area.unit())
    a.side = 3.0
    kept.assert_stale("a.side")
    a.side = 2.0
    kept.assert_fresh()
    monkeypatch.setattr(Area, "length", 4.0)
    kept.assert_stale("Area.length")
    monkeypatch.undo()
    kept.assert_fresh()
    monkeypatch.setitem(G_CONFIG, "scale", 9.0)
    kept.assert_stale("G_CONFIG")


@dataclasses.dataclass
class Config:
    power: int
    scale: float = 1.0
    nested: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    power: int
    weight: Any


def test_dataclass_field() -> None:
    config = Config(2, nested=Config(3))
    kept = kept_and_fresh(lambda x: x**config.power * config.nested.scale)
    config.nested.power = 5
    kept.assert_stale("config.nested.power")
    config.nested = Config(3)
    kept.assert_fresh()
    config.nested.scale = 2.0
    kept.assert_stale("config.nested.scale")


def test_slots() -> None:
    config = Frozen(2, vector())
    kept = kept_and_fresh(lambda x: x**config.power * config.weight)
    config = Frozen(2, vector(1.0, 1.0, 0.0))
    kept.assert_fresh()
    config = Frozen(3, vector())
    kept.assert_stale("config.power")


def test_attributes_by_computed_names() -> None:
    class Bag:
        pass

    bag, i = Bag(), 1
    bag.w0, bag.w1, bag.gain = vector(), vector(2.0, 2.0, 2.0), 3.0  # type: ignore[attr-defined]
    kept = kept_and_fresh(lambda x: x * getattr(bag, f"w{i}") * getattr(bag, "gain", 1.0))
    bag.w1 = vector(5.0, 5.0, 5.0)  # type: ignore[attr-defined]
    kept.assert_fresh()
    bag.gain = 4.0  # type: ignore[attr-defined]
    kept.assert_stale("bag.gain")
    del bag.gain  # type: ignore[attr-defined]
    kept.assert_stale("bag")


def test_attribute_that_appears_later() -> None:
    class Bag:
        pass

    bag = Bag()
    kept = kept_and_fresh(lambda x: x * 2 if hasattr(bag, "flag") else x)
    bag.flag = True  # type: ignore[attr-defined]
    kept.assert_stale("bag")


def test_attribute_of_a_tensor_that_appears_later() -> None:
    w = vector()
    kept = kept_and_fresh(lambda x: x * w * getattr(w, "gain", 1.0))
    w.gain = 2.0  # type: ignore[attr-defined]
    kept.assert_stale("w")


def test_context_variable() -> None:
    variable = contextvars.ContextVar[float]("variable")
    kept = kept_and_fresh(lambda x: x * variable.get(2.0))
    token = variable.set(3.0)
    kept.assert_stale("variable")
    variable.reset(token)
    kept.assert_fresh()


def test_weak_reference() -> None:
    target = Config(2)
    reference = weakref.ref(target)
    kept = kept_and_fresh(lambda x: x ** (reference() or Config(1)).power)
    target.power = 3
    kept.assert_stale("power")
    target.power = 2
    kept.assert_fresh()
    del target
    kept.assert_stale("reference")


def test_cycle_of_objects() -> None:
    a, b = Config(2), Config(3)
    a.nested, b.nested = b, a
    kept = kept_and_fresh(lambda x: x**a.nested.nested.power)
    b.nested = Config(2)
    kept.assert_stale()


def test_pattern_matching() -> None:
    config = Frozen(2, 1.5)

    def f(x: Tensor) -> Tensor:
        match config:
            case Frozen(power=2, weight=w):
                return x**2 * w
        return x

    kept = kept_and_fresh(f)
    config = Frozen(2, 2.5)
    kept.assert_stale("config.weight")


def test_containers_with_their_own_lookup() -> None:
    class Doubled(dict[str, float]):
        def __getitem__(self, key: str) -> float:
            return 2 * super().__getitem__(key)

    class Reversed(list[float]):
        unit = 1.0

        def __iter__(self) -> Any:
            return iter([self.unit * item for item in self[::-1]])

    table, items = Doubled(a=1.0), Reversed([1.0, 2.0])
    kept = kept_and_fresh(lambda x: x * table["a"] + sum(x**i * item for i, item in enumerate(items)))
    table["a"] = 3.0
    kept.assert_stale("table['a']")
    table["a"] = 1.0
    kept.assert_fresh()
    items.unit = 2.0
    kept.assert_stale("items")
    del items.unit
    kept.assert_fresh()
    items.reverse()
    kept.assert_stale("items[0]")


def test_class_with_its_own_attribute_lookup() -> None:
    class Renamed:
        names = {"gain": "scale"}  # noqa: RUF012

        def __init__(self) -> None:
            self.scale = 2.0

        def __getattribute__(self, name: str) -> Any:
            names = super().__getattribute__("names")
            return super().__getattribute__(names.get(name, name))

    config = Renamed()
    kept = kept_and_fresh(lambda x: x * config.gain)
    config.scale = 3.0
    kept.assert_stale("config.scale")
    config.scale = 2.0
    kept.assert_fresh()
    Renamed.names["gain"] = "__class__"
    kept.assert_stale("Renamed.names")


def test_operators_of_user_objects() -> None:
    class Gain:
        def __init__(self, value: float) -> None:
            self.value = value

        def __rmul__(self, x: Tensor) -> Tensor:
            return x * self.value

        def __bool__(self) -> bool:
            return self.value > 0

    class Plain:
        def __init__(self, gain: Gain) -> None:
            self.gain = gain

        def __getitem__(self, key: str) -> float:
            return self.gain.value

    gain = Gain(2.0)
    table = Plain(gain)
    kept = kept_and_fresh(lambda x: x * table["a"] if gain else x)
    gain.value = 3.0
    kept.assert_stale("value")


# -- Python modules


def make_module(name: str, source: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(source, module.__dict__)
    sys.modules[name] = module
    return module


def test_constant_of_a_user_module() -> None:
    settings_module = make_module("crelle_test_settings", "SCALE = 2.0\nOTHER = 1\ndef f(x): return x * SCALE")
    try:
        kept = kept_and_fresh(lambda x: x * settings_module.SCALE)
        kept_inner = kept_and_fresh(lambda x: settings_module.f(x))
        settings_module.OTHER = 2  # type: ignore[attr-defined]
        kept.assert_fresh()
        settings_module.SCALE = 3.0  # type: ignore[attr-defined]
        kept.assert_stale("settings_module.SCALE")
        kept_inner.assert_stale("SCALE")
    finally:
        del sys.modules["crelle_test_settings"]


def test_module_named_and_used_as_an_object() -> None:
    module = make_module("crelle_test_both", "SCALE = 2.0\nOTHER = 1.0")
    try:

        def f(x: Tensor) -> Tensor:
            y: Tensor = x * module.SCALE  # type: ignore[attr-defined]
            return y * getattr(module, "OTHER")  # noqa: B009

        kept = kept_and_fresh(f)
        module.OTHER = 2.0  # type: ignore[attr-defined]
        kept.assert_stale("OTHER")
    finally:
        del sys.modules["crelle_test_both"]


def test_module_imported_inside() -> None:
    module = make_module("crelle_test_inside", "SCALE = 2.0\nPOWER = 3")
    try:

        def f(x: Tensor) -> Tensor:
            import crelle_test_inside  # type: ignore[import-not-found]
            from crelle_test_inside import POWER

            scaled: Tensor = x**POWER * crelle_test_inside.SCALE
            return scaled

        kept = kept_and_fresh(f)
        module.SCALE = 3.0  # type: ignore[attr-defined]
        kept.assert_stale("SCALE")
        module.SCALE = 2.0  # type: ignore[attr-defined]
        kept.assert_fresh()
        module.POWER = 2  # type: ignore[attr-defined]
        kept.assert_stale("POWER")
    finally:
        del sys.modules["crelle_test_inside"]


# -- nn.Module


class Net(nn.Module):
    """Parameters, a buffer, a flag, a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.register_buffer("shift", torch.ones(3))
        self.gain = 2.0
        self.act = torch.tanh
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.inner(x)) * self.gain
        for layer in self.layers:
            x = torch.sin(layer(x))
        return x + x**2 * self.shift


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


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


# -- arguments


def test_object_among_the_arguments() -> None:
    config = Config(2, scale=3.0, nested=vector())

    def f(x: Tensor, config: Config, k: int = 1) -> Tensor:
        return x**config.power * config.nested * k

    kept = kept_and_fresh(f, config=config, k=2)
    config.nested = vector(0.0, 1.0, 1.0)
    kept.assert_fresh()
    config.power = 3
    kept.assert_stale("power")


# -- what cannot be guarded


class Counter:
    def __init__(self) -> None:
        self.calls = 0
        self.log: list[int] = []
        self.cache: dict[str, float] = {}


COUNTER = Counter()
TOTAL = 0
RNG = np.random.default_rng(0)
PYTHON_RNG = random.Random(0)


def test_side_effects_on_captured_objects() -> None:
    counter, count = Counter(), 0
    seen: list[int] = []
    buffer = torch.zeros(3, dtype=torch.float64)
    array = np.zeros(3)

    def attribute(x: Tensor) -> Tensor:
        counter.calls += 1
        return x * 2

    def in_list(x: Tensor) -> Tensor:
        seen.append(1)
        return x * 2

    def in_attribute_list(x: Tensor) -> Tensor:
        counter.log.append(1)
        return x * 2

    def in_dict(x: Tensor) -> Tensor:
        counter.cache["a"] = 1.0
        return x * 2

    def new_attribute(x: Tensor) -> Tensor:
        counter.fresh = 1  # type: ignore[attr-defined]
        return x * 2

    def of_nonlocal(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return x * 2

    def of_global(x: Tensor) -> Tensor:
        global TOTAL
        TOTAL += 1
        return x * 2

    def of_new_global(x: Tensor) -> Tensor:
        global NEVER_DEFINED
        NEVER_DEFINED = 1  # type: ignore[name-defined]
        return x * 2

    def of_tensor(x: Tensor) -> Tensor:
        buffer.add_(1.0)
        return x * 2

    def of_array(x: Tensor) -> Tensor:
        array[0] += 1
        return x * 2

    for f, what in [
        (attribute, "f changes counter.calls"),
        (in_list, "f changes seen"),
        (in_attribute_list, "f changes counter.log"),
        (in_dict, "f changes counter.cache"),
        (new_attribute, "f changes counter"),
        (of_nonlocal, "f changes count"),
        (of_global, "f changes TOTAL"),
        (of_new_global, "f changes NEVER_DEFINED"),
        (of_array, "f changes array"),
    ]:
        assert what in Kept(f).guards.unguardable
    with record(of_tensor, (X,)) as recording:
        of_tensor(X)
    assert "changes buffer in place" in recording.guards([]).unguardable


def test_effects_of_nested_functions() -> None:
    class Layer:
        def __init__(self) -> None:
            self.statistics = Counter()

        def __call__(self, x: Tensor) -> Tensor:
            self.statistics.calls += 1
            return x * 2

    layer = Layer()
    assert "f changes layer.statistics.calls" in Kept(lambda x: layer(x)).guards.unguardable


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda x: x * time.time(), "calls time.time"),
        (lambda x: x * time.perf_counter(), "calls time.perf_counter"),
        (lambda x: x * random.random(), "random"),
        (lambda x: x * random.uniform(0, 1), "uses random.uniform"),
        (lambda x: x * PYTHON_RNG.random(), "`PYTHON_RNG`, a Random"),
        (lambda x: x * RNG.normal(), "`RNG`, a Generator"),
        (lambda x: x * np.random.rand(), "np.random.rand"),
        (lambda x: x * float(np.random.default_rng().normal()), "np.random.default_rng"),
        (lambda x: (print("side effect"), x)[1], "calls print"),
        (lambda x: (torch.manual_seed(0), x)[1], "uses torch.manual_seed"),
        (lambda x: x * eval("2"), "code from a string"),
        (lambda x: x * len(sys.argv) if isinstance(x, Tensor) else x, ""),
    ],
)
def test_clocks_randomness_and_the_world(
    f: Callable[..., Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in Kept(f).guards.unguardable


def test_environment_and_files(tmp_path: Any) -> None:
    import os

    path = tmp_path / "scale.txt"
    path.write_text("2")

    def from_file(x: Tensor) -> Tensor:
        with open(path) as file:
            return x * float(file.read())

    assert "calls io.open" in Kept(from_file).guards.unguardable
    assert "os.environ" in Kept(lambda x: x * len(os.environ.get("HOME", ""))).guards.unguardable
    assert "getenv" in Kept(lambda x: x * len(os.getenv("HOME", ""))).guards.unguardable


def test_unguardable_captures() -> None:
    gen = (i for i in range(100))
    numbers = iter(range(100))
    generator = torch.Generator()
    big = np.zeros(200_000)
    objects = [object.__new__(Counter) for _ in range(12_000)]
    key = Counter()
    keyed = {key: 1.0}
    for f, reason in [
        (lambda x: x * next(gen), "`gen`, an iterator"),
        (lambda x: x * next(numbers), "`numbers`, an iterator"),
        (lambda x: x * torch.rand(3, generator=generator), "`generator`, a Generator"),
        (lambda x: x * float(big[0]), "`big`, a NumPy array of 2 MB"),
        (lambda x: x * len(objects), "more than 10,000 Python objects"),
        (lambda x: x * keyed[key], "`keyed`, a dict with keys that are objects"),
    ]:
        assert reason in Kept(f).guards.unguardable


def test_randomness_of_pytorch_is_in_the_graph() -> None:
    kept = Kept(lambda x: x * torch.rand(3, dtype=torch.float64))
    assert not kept.guards.unguardable
    first, second = kept.replay(), kept.replay()
    assert first is not None and second is not None and not torch.equal(first, second)


# -- the recording itself


def test_recording_leaves_no_trace_of_itself() -> None:
    def guards_of_a_short_life() -> tuple[Guards, list[weakref.ref[Any]]]:
        model, scale, weight = net(), Scale(2.0, vector()), vector()
        guards = kept_and_fresh(lambda x: scale(model(x)) * weight).guards
        return guards, [weakref.ref(o) for o in (model, model.inner.weight, scale, weight)]

    guards, references = guards_of_a_short_life()
    gc.collect()
    assert sys.getprofile() is None and gc.isenabled() and not is_recording()
    assert [r() for r in references] == [None] * 4
    assert guards.match(lambda x: x) is None


def test_error_while_recording() -> None:
    with pytest.raises(ValueError, match="mine"), record(len, (X,)):
        assert is_recording()
        raise ValueError("mine")
    assert sys.getprofile() is None and not is_recording()
    assert torch.overrides._get_current_function_mode() is None


def test_profilers_go_on() -> None:
    calls: list[str] = []

    def profiler(frame: Any, event: str, arg: Any) -> None:
        calls.append(event)

    sys.setprofile(profiler)
    try:
        Kept(lambda x: x * 2)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    profile = cProfile.Profile()
    profile.enable()
    try:
        Kept(lambda x: x * 2)
        helper(X)
    finally:
        profile.disable()
    assert any(getattr(entry.code, "co_name", "") == "helper" for entry in profile.getstats())


def test_recordings_nest() -> None:
    flag = 2.0

    def inner(x: Tensor) -> Tensor:
        return x * flag

    def f(x: Tensor) -> Tensor:
        with record(inner, (x,)):
            return inner(x)

    with record(inner, (X,)) as outer:
        f(X)
    found = outer.guards([])
    assert not found.unguardable or "f" in found.unguardable
    with record(f, (X,)) as outer:
        f(X)
    assert not is_recording()


def test_match_is_quick() -> None:
    """Budgets of 5 and 15 microseconds on a quiet machine, with room for a busy one."""
    a, b, c, d, e, h = (vector(float(i), 1.0, 2.0) for i in range(6))
    six = lambda x: torch.sin(x * a + b) * c + d * torch.exp(e * x) + h
    model = mlp()
    for f, budget in [(six, 5e-6), (lambda x: model(x), 15e-6)]:
        match = kept_and_fresh(f).guards.match
        times = []
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(100):
                match(f)
            times.append((time.perf_counter() - start) / 100)
        assert min(times) < 4 * budget


# -- at random


@dataclasses.dataclass
class World:
    """Many things that one function reads, each of which can be changed."""

    weight: Tensor
    scale: float
    power: int
    layers: list[Tensor]
    table: dict[str, Any]
    model: nn.Sequential
    offset: np.ndarray[Any, Any]
    activation: Callable[[Tensor], Tensor]
    config: Config

    def __call__(self, x: Tensor) -> Tensor:
        y = self.activation(x * self.weight) ** self.power * self.scale
        for layer in self.layers:
            y = y + layer * x
        if self.table["flag"]:
            y = y * self.table["gain"]
        y = self.model(y) + torch.from_numpy(self.offset)
        return y * self.config.scale if self.config.power > 2 else y


def world() -> World:
    torch.manual_seed(1)
    return World(
        vector(), 2.0, 2, [vector(), vector(0.0, 1.0, 0.0)], {"flag": True, "gain": vector(2.0, 2.0, 1.0)},
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double(), np.array([1.0, 2.0, 3.0]),
        torch.sin, Config(3, 1.5),
    )  # fmt: skip


def _values(k: int) -> Tensor:
    return vector(k + 0.5, -k, 1.0 / (k + 1))


CHANGES: list[Callable[[World, int], Any]] = [
    lambda w, k: setattr(w, "weight", _values(k)),
    lambda w, k: w.weight.mul_(k + 0.5),
    lambda w, k: setattr(w, "scale", float(k)),
    lambda w, k: setattr(w, "scale", k),
    lambda w, k: setattr(w, "power", 1 + k % 3),
    lambda w, k: w.layers.append(_values(k)),
    lambda w, k: w.layers.pop() if len(w.layers) > 1 else None,
    lambda w, k: w.layers.__setitem__(0, _values(k)),
    lambda w, k: w.layers.reverse(),
    lambda w, k: w.layers.__setitem__(0, w.weight),
    lambda w, k: w.table.update(flag=bool(k % 2)),
    lambda w, k: w.table.update(gain=_values(k)),
    lambda w, k: w.table.update(gain=float(k)),
    lambda w, k: setattr(w.model[0], "weight", nn.Parameter(torch.full((4, 3), 0.1 * k, dtype=torch.float64))),
    lambda w, k: w.model[2].bias.data.fill_(float(k)),
    lambda w, k: w.model.__setitem__(1, nn.Sigmoid() if k % 2 else nn.Tanh()),
    lambda w, k: w.model.train(bool(k % 2)),
    lambda w, k: w.model[0].requires_grad_(bool(k % 2)),
    lambda w, k: w.offset.__setitem__(0, float(k)),
    lambda w, k: setattr(w, "offset", w.offset + k),
    lambda w, k: setattr(w, "activation", torch.cos if k % 2 else torch.sin),
    lambda w, k: setattr(w, "activation", (lambda p: lambda x: x**p)(1 + k % 3)),
    lambda w, k: setattr(w.config, "scale", 0.5 * k),
    lambda w, k: setattr(w.config, "power", k),
    lambda w, k: setattr(w, "config", Config(k, 2.5)),
    lambda w, k: None,
]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CHANGES) - 1), st.integers(0, 4)), min_size=1, max_size=5))
def test_replay_or_trace_again_is_always_right(steps: list[tuple[int, int]]) -> None:
    f = world()
    kept = kept_and_fresh(f)
    for index, k in steps:
        CHANGES[index](f, k)
        answer = kept.replay()
        if answer is None:
            kept = Kept(f)
            answer = kept.replay()
            assert answer is not None, kept.guards.unguardable
        torch.testing.assert_close(answer, torch.func.jacrev(f)(X), rtol=1e-12, atol=1e-12)
