"""Recorded graphs: what is captured, what is refused, and that they run as the function did."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.func import grad, jacfwd, jacrev, vjp, vmap

from crelle.backends.torch.graph import compile_graph, optimise
from crelle.backends.torch.record import NeedsValue, record

D = torch.float64
aten = torch.ops.aten


def attributes(module: fx.GraphModule) -> list[Tensor]:
    return [getattr(module, str(n.target)) for n in module.graph.find_nodes(op="get_attr")]


def test_captured_tensors_are_the_very_objects() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2, dtype=D))
    bias = torch.zeros(3, dtype=D)
    module = record(jacrev(lambda x: (weight @ x + bias).sin()), [torch.ones(2, dtype=D)])
    assert len(attributes(module)) == 2
    assert attributes(module)[0] is weight
    assert attributes(module)[1] is bias


def test_an_input_may_be_given_twice_and_be_captured() -> None:
    x = torch.tensor([1.0, 2.0], dtype=D)
    replay = compile_graph(record(lambda a, b: a * 10 + b * 100 + x * 1000, [x, x]))
    a, b = torch.tensor([3.0, 4.0], dtype=D), torch.tensor([5.0, 6.0], dtype=D)
    torch.testing.assert_close(replay(a, b), a * 10 + b * 100 + x * 1000)


def test_nothing_is_kept_alive() -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        y = x * 2
        seen.append(weakref.ref(y))
        return y.sum()

    x = torch.ones(3, dtype=D)
    given = weakref.ref(x)
    module = record(f, [x])
    del x
    gc.collect()
    assert seen[0]() is None
    assert given() is None
    torch.testing.assert_close(compile_graph(module)(torch.ones(4, dtype=D)), torch.tensor(8.0, dtype=D))


def test_results_nest_and_hold_other_values() -> None:
    captured = torch.ones(2, dtype=D)
    module = record(lambda x: [x, (captured, 3), None], [torch.zeros(2, dtype=D)])
    x = torch.full((2,), 5.0, dtype=D)
    first, (second, number), nothing = compile_graph(module)(x)
    assert first is x
    assert second is captured
    assert (number, nothing) == (3, None)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * 2 if x.sum() > 0 else x,
        lambda x: x * x[0].item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero().sum() * x,
        lambda x: x if torch.equal(x, x * 2) else x + 1,
        lambda x: torch.unique(x),
        lambda x: x * float(x.detach().norm()),
    ],
)
def test_values_of_inputs_are_refused(f: object) -> None:
    with pytest.raises(
        NeedsValue, match=r"^(f reads the value of a tensor in Python|the shapes inside f depend on values)"
    ):
        record(f, [torch.ones(3, dtype=D)])  # type: ignore[arg-type]


def test_values_of_captured_tensors_are_noted() -> None:
    mask, flag, unread = torch.tensor([True, False, True]), torch.tensor(1.0), torch.ones(2, dtype=D)

    def f(x: Tensor) -> Tensor:
        return x[mask] * 2 + unread if flag > 0 else x

    module = record(jacrev(f), [torch.ones(3, dtype=D)])
    assert {id(t) for t in module.meta["values_read"]} == {id(mask), id(flag)}
    replay = compile_graph(optimise(module))
    torch.testing.assert_close(replay(torch.ones(3, dtype=D)), 2 * torch.eye(3, dtype=D)[mask])


def test_values_of_constants_may_be_read() -> None:
    def f(x: Tensor) -> Tensor:
        steps = torch.arange(3)
        return x * sum(steps.tolist()) + x[steps > 0].sum() * torch.linspace(0, 1, 3, dtype=D)[-1].item()

    x = torch.tensor([1.0, 2.0, 3.0], dtype=D)
    module = record(f, [x])
    assert module.meta["values_read"] == []
    torch.testing.assert_close(compile_graph(optimise(module))(x), f(x))


def test_indices_are_no_masks() -> None:
    index = torch.tensor([2, 0])
    x = torch.tensor([1.0, 2.0, 3.0], dtype=D)
    module = record(lambda x: x[index] * x[[0, 1]], [x])
    assert module.meta["values_read"] == []
    index[0] = 1  # captured by reference
    torch.testing.assert_close(compile_graph(optimise(module))(x), torch.tensor([2.0, 2.0], dtype=D))


def test_data_made_in_f_is_made_anew() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.tensor([1.0, 2.0], dtype=D).add_(x)

    x = torch.ones(2, dtype=D)
    module = record(f, [x])
    replay = compile_graph(module)
    for run in (replay, replay, compile_graph(optimise(module))):
        torch.testing.assert_close(run(x), f(x))


def test_generators_are_arguments() -> None:
    def f(x: Tensor) -> Tensor:
        return x + torch.randn(3, dtype=D, generator=generator)

    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(3, dtype=D)
    replay = compile_graph(optimise(record(f, [x])))
    generator.manual_seed(3)
    first = replay(x)
    generator.manual_seed(3)
    torch.testing.assert_close(first, f(x))


def test_autocast_is_part_of_the_graph() -> None:
    weight = torch.randn(4, 4)
    x = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        x @ weight  # fills the cache of converted weights
        expected = x @ weight
        module = record(lambda x: x @ weight, [x])
    assert attributes(module)[0] is weight
    torch.testing.assert_close(compile_graph(optimise(module))(x), expected)


def test_differentiable_graphs_use_rules_that_have_rules() -> None:
    x = torch.tensor([0.5, -1.0], dtype=D)

    def slopes(x: Tensor) -> Tensor:
        return vmap(vjp(F.silu, x)[1])(torch.eye(2, dtype=D))[0]

    fused, plain = (record(slopes, [x], differentiable=d) for d in (False, True))
    targets = [[n.target for n in m.graph.nodes] for m in (fused, plain)]
    assert aten.silu_backward.default in targets[0]
    assert aten.silu_backward.default not in targets[1]
    replay = compile_graph(optimise(plain))
    y = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(replay(y).sum(), y)
    torch.testing.assert_close(found, vmap(grad(grad(F.silu)))(x))


def test_operations_may_be_computed_in_other_ways() -> None:
    def doubled(x: Tensor, factor: float) -> Tensor:
        return x + x if factor == 2 else NotImplemented

    x = torch.ones(3, dtype=D)
    module = record(lambda x: x.mul(2) + x.mul(3), [x], decompositions={aten.mul.Tensor: doubled})
    targets = [n.target for n in module.graph.nodes if n.op == "call_function"]
    assert targets == [aten.add.Tensor, aten.mul.Tensor, aten.add.Tensor]
    torch.testing.assert_close(compile_graph(module)(x), 5 * x)


def test_recording_leaves_no_trace() -> None:
    x = torch.ones(3, dtype=D, requires_grad=True)
    before = torch.is_autocast_cache_enabled(), torch.is_grad_enabled()
    with pytest.raises(ZeroDivisionError):
        record(lambda x: x / (1 // 0), [x])
    assert (torch.is_autocast_cache_enabled(), torch.is_grad_enabled()) == before
    assert record(jacfwd(torch.sin), [x]) is not None
    assert x.grad is None


def test_dense_tensors_only() -> None:
    sparse = torch.eye(3, dtype=D).to_sparse()
    module = record(lambda x: sparse @ x, [torch.ones(3, 1, dtype=D)])
    assert optimise(module) is module
    torch.testing.assert_close(compile_graph(module)(torch.ones(3, 1, dtype=D)), torch.ones(3, 1, dtype=D))
