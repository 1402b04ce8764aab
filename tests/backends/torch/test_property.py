"""Random small programs: every mode gives what single autograd passes give, twice, and differentiated again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import crelle
from tests.backends.torch.reference import assert_close, flat_hessian, flat_jacobian


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def _in_place(x: Tensor, w: Tensor) -> Tensor:
    y = x.clone()
    y[0] *= 2
    return y.add_(w[0])


#: (x, w) -> an array of the shape of x, [3, 3]; w is captured.
STEPS = {
    "tanh": lambda x, w: torch.tanh(x),
    "exp": lambda x, w: torch.exp(-(x**2)),
    "matmul": lambda x, w: w @ x,
    "square": lambda x, w: x @ x.T / 4,
    "flip": lambda x, w: x.flip(0) * w,
    "permute": lambda x, w: x.T.contiguous(),
    "where": lambda x, w: torch.where(w > 0, x, torch.sin(x)),
    "cat": lambda x, w: torch.cat([x[1:] * 2, x[:1]]),
    "cumsum": lambda x, w: torch.cumsum(x, 1) / 3,
    "softmax": lambda x, w: torch.softmax(x, -1),
    "broadcast": lambda x, w: x - x.mean(0, keepdim=True),
    "index": lambda x, w: x[torch.tensor([2, 0, 0])],
    "gather": lambda x, w: x.gather(1, torch.tensor([[0, 2, 1], [1, 1, 0], [2, 2, 2]])),
    "scatter": lambda x, w: torch.zeros(3, 3).index_add(0, torch.tensor([0, 0, 2]), x),
    "in_place": _in_place,
    "einsum": lambda x, w: torch.einsum("ij,kj->ik", x, w),
}
PROGRAMS = st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4)


def check_program(names: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    w = torch.randn(3, 3)

    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        for name in names:
            x = STEPS[name](x, w)
        return x, x.sum(1)

    scalar = lambda x: (f(x)[0] * torch.arange(9.0).reshape(3, 3)).sum() + f(x)[1].square().sum()
    points = torch.randn(2, 3, 3)
    for mode in ("auto", "forward", "reverse"):
        for chunk in (None, 2):
            jac = crelle.jacobian(f, mode=mode, chunk=chunk, flatten=True)
            for x in points:
                assert_close(jac(x), flat_jacobian(f, x))
    hess = crelle.hessian(scalar, flatten=True)
    for x in points:
        assert_close(hess(x), flat_hessian(scalar, x))
    w = torch.randn(3, 3, requires_grad=True)  # rebound: what is captured now counts
    x = points[0].clone().requires_grad_()

    def slopes(transform: object) -> tuple[Tensor, ...]:
        total = sum(block.square().sum() for block in transform(f)(x))  # type: ignore[operator]
        return (
            torch.autograd.grad(total, (x, w), allow_unused=True, materialize_grads=True) if total.requires_grad else ()
        )

    assert_close(slopes(crelle.jacobian), slopes(torch.func.jacrev))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(PROGRAMS, st.integers(0, 1000))
def test_random_programs(names: list[str], seed: int) -> None:
    check_program(names, seed)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=7), st.integers(0, 10_000))
def test_many_random_programs(names: list[str], seed: int) -> None:
    check_program(names, seed)
