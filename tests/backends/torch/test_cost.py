"""Costs of small programs, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.func import grad, jvp, vjp
from torch.fx.experimental.proxy_tensor import make_fx

from crelle.backends.torch.cost import is_data_movement, is_view, pass_cost
from crelle.backends.torch.graph import optimise
from crelle.backends.torch.record import record
from crelle.tangent.cost import PassCost

D = torch.float64
ITEM = 8
aten = torch.ops.aten

W1, B1 = torch.randn(16, 2, dtype=D), torch.randn(16, dtype=D)
W2, B2 = torch.randn(16, 16, dtype=D), torch.randn(16, dtype=D)
W3, B3 = torch.randn(3, 16, dtype=D), torch.randn(3, dtype=D)


def network(x: Tensor) -> Tensor:
    h = torch.tanh(F.linear(x, W1, B1))
    h = torch.tanh(F.linear(h, W2, B2))
    return F.linear(h, W3, B3)


def pull(x: Tensor, u: Tensor) -> Any:
    y, back = vjp(network, x)
    return y, back(u)[0]


def push(x: Tensor, t: Tensor) -> Any:
    return jvp(network, (x,), (t,))


def cost_of(f: Any, *inputs: Tensor, seeds: int = 1) -> PassCost:
    module = optimise(record(f, inputs))
    return pass_cost(module.graph, list(module.graph.find_nodes(op="placeholder"))[-seeds:])


@pytest.mark.parametrize("batch", [(), (5,)], ids=["vector", "batch"])
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_network(mode: str, batch: tuple[int, ...]) -> None:
    n = batch[0] if batch else 1
    x, u = torch.ones(*batch, 2, dtype=D), torch.ones(*batch, 3, dtype=D)
    cost = cost_of(pull, x, u) if mode == "reverse" else cost_of(push, x, x)
    products = 2 * (2 * 16 + 16 * 16 + 16 * 3) * n
    assert cost.matmul_flops == products
    assert cost.flops == 2 * 16 * n  # tanh_backward, twice
    assert cost.ops == 5
    # each operation reads and writes its seed-dependent values: 3 -> 16 -> 16 -> 16 -> 16 -> 2
    assert cost.bytes == ITEM * n * ((3 + 16) + 4 * 16 + (16 + 16) + (16 + 2))
    assert cost.coefficient_bytes == ITEM * (W1.numel() + W2.numel() + W3.numel() + 2 * 16 * n)
    assert cost.residual_bytes == ITEM * 2 * 16 * n  # the two activations; weights are there anyway
    assert cost.peak_bytes == ITEM * n * 2 * 16
    assert cost.primal_ops == 5
    assert cost.primal_flops == 10 * 2 * 16 * n + products / 4


def test_network_hessian_product() -> None:
    def product(x: Tensor, v: Tensor) -> Tensor:
        return jvp(grad(lambda x: network(x).pow(2).sum()), (x,), (v,))[1]

    x = torch.ones(2, dtype=D)
    cost = cost_of(product, x, x)
    assert cost.matmul_flops == 2 * 2 * (2 * 16 + 16 * 16 + 16 * 3)  # forward, and back
    assert cost.ops < 20
    assert cost.primal_ops > 0


def test_traces_cost_what_they_do_without_their_dead_operations() -> None:
    x, u = torch.ones(2, dtype=D), torch.ones(3, dtype=D)
    raw = make_fx(pull)(x, u)
    cost = pass_cost(raw.graph, [list(raw.graph.find_nodes(op="placeholder"))[1]])
    clean = cost_of(pull, x, u)
    for name in ("matmul_flops", "flops", "bytes", "ops", "peak_bytes", "coefficient_bytes", "residual_bytes"):
        assert getattr(cost, name) == getattr(clean, name), name


def test_elementwise() -> None:
    x = torch.ones(1000, dtype=D)
    cost = cost_of(lambda x, t: jvp(torch.sin, (x,), (t,)), x, x)
    assert (cost.flops, cost.matmul_flops, cost.ops) == (1000, 0, 1)
    assert cost.bytes == 2 * 1000 * ITEM
    assert cost.coefficient_bytes == cost.residual_bytes == 1000 * ITEM
    assert cost.peak_bytes == 2 * 1000 * ITEM
    assert cost.primal_flops == 2 * 10 * 1000  # sin, and cos


def test_views_are_free_and_keep_memory_alive() -> None:
    x = torch.ones(6, 5, dtype=D)

    def f(x: Tensor, t: Tensor) -> Tensor:
        views = t.t()[1:].reshape(-1)[:7].view(7, 1).expand(7, 2)
        return views.sum()

    cost = cost_of(f, x, x)
    assert cost.ops == 2  # the copy of a transposed slice, and the sum
    assert cost.peak_bytes >= 30 * ITEM


def test_linear_function_keeps_no_residuals() -> None:
    x = torch.ones(2, dtype=D)
    cost = cost_of(lambda x, t: jvp(lambda x: W1 @ x, (x,), (t,))[1], x, x)
    assert cost.residual_bytes == 0
    assert cost.coefficient_bytes == W1.numel() * ITEM
    assert cost.primal_ops == 0


def test_convolution() -> None:
    kernel = torch.ones(4, 3, 3, 3, dtype=D)
    x = torch.ones(1, 3, 8, 8, dtype=D)
    cost = cost_of(lambda x, t: jvp(lambda x: F.conv2d(x, kernel), (x,), (t,))[1], x, x)
    assert cost.matmul_flops == 2 * (4 * 6 * 6) * (3 * 3 * 3)


def test_complex_arithmetic_counts_four_times() -> None:
    a = torch.ones(4, 5, dtype=torch.complex128)
    x = torch.ones(5, dtype=torch.complex128)
    assert cost_of(lambda x, t: a @ t, x, x).matmul_flops == 4 * 2 * 4 * 5


def test_solves_count_as_dense_work() -> None:
    a = torch.eye(6, dtype=D)
    x = torch.ones(6, 2, dtype=D)
    cost = cost_of(lambda x, t: torch.linalg.solve_triangular(a, t, upper=True), x, x)
    assert cost.matmul_flops == 12 * 6


def test_seeds_that_are_not_used_cost_nothing() -> None:
    x = torch.ones(3, dtype=D)
    cost = cost_of(lambda x, t: x.sin(), x, x)
    assert (cost.ops, cost.bytes, cost.peak_bytes) == (0, 0, 0)
    assert cost.primal_ops == 1


def test_several_seeds() -> None:
    x = torch.ones(3, dtype=D)
    cost = cost_of(lambda x, s, t: s * x + t, x, x, x, seeds=2)
    assert cost.ops == 1  # addcmul
    assert cost.flops == 2 * 3
    assert cost.bytes == 3 * 3 * ITEM


def test_writes_into_zeros_are_seen() -> None:
    x = torch.ones(6, dtype=D)

    def f(x: Tensor, t: Tensor) -> Tensor:
        out = torch.zeros(6, dtype=D)
        out[2:5].copy_(t[:3])
        return out * x

    raw = make_fx(f)(x, x)
    cost = pass_cost(raw.graph, [list(raw.graph.find_nodes(op="placeholder"))[1]])
    assert cost.ops == 2
    assert cost.flops == 6


def test_empty_values() -> None:
    x = torch.ones(0, dtype=D)
    assert cost_of(lambda x, t: jvp(torch.sin, (x,), (t,))[1], x, x).bytes == 0


def test_tables() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    moves = {
        aten.view.default: (True, True),
        aten.clone.default: (False, True),
        aten.cat.default: (False, True),
        aten.where.self: (False, True),
        aten.mul.Tensor: (False, False),
        aten.sum.default: (False, False),
        aten.reshape.default: (True, True),
    }
    for target, expected in moves.items():
        node = graph.call_function(target, (x,))
        assert (is_view(node), is_data_movement(node)) == expected, target
    turned = graph.call_function(aten.permute.default, (x, (1, 0)))
    assert not is_view(graph.call_function(aten.reshape.default, (turned, (6,))))
