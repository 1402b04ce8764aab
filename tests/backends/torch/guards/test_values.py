"""Values of tensors that become Python data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backends.torch.guards.kept import (
    Kept,
    kept_and_fresh,
)


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
