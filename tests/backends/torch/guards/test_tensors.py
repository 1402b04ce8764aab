"""Captured tensors: others of the same kind are followed, other kinds are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backends.torch.guards.kept import (
    Kept,
    X,
    kept_and_fresh,
    vector,
)


def test_closure_tensor_rebound_is_followed() -> None:
    w = vector()
    kept = kept_and_fresh(lambda x: (x * w) ** 2)
    w = vector(4.0, 5.0, 6.0)
    kept.assert_fresh()
    assert kept.tensors() == [w]


G_WEIGHT = vector()


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
