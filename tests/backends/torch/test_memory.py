"""``memory=`` bounds every call, the first with its trace and check included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import crelle


def peak_bytes(run: Callable[[], Any]) -> int:
    """Largest sum of the bytes that PyTorch's allocator had given out during a run."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def chain(x: torch.Tensor) -> torch.Tensor:
    return (torch.tanh(x[1:] * x[:-1]) ** 2).sum()


MATRIX = torch.linspace(-1.0, 1.0, 900 * 300, dtype=torch.float64).reshape(900, 300).sin()


@pytest.mark.parametrize(
    ("kind", "f", "n", "m"),
    [(crelle.hessian, chain, 400, 400), (crelle.jacobian, lambda x: torch.tanh(MATRIX @ torch.tanh(x)), 300, 900)],
    ids=["hessian", "jacobian"],
)
def test_no_call_takes_more_than_the_bound(kind, f, n, m):
    x = torch.linspace(0.1, 1.0, n, dtype=torch.float64)
    kind(f)(torch.ones(n, dtype=torch.float64))  # what is loaded once is not part of a call
    crelle.clear_caches()
    budget, result = 300_000, 8 * m * n
    bounded = kind(f, memory=budget)
    for call in ("first", "second"):
        assert peak_bytes(lambda: bounded(x)) - result <= 1.2 * budget, call
    assert torch.allclose(bounded(x), kind(f)(x), rtol=1e-12, atol=1e-14)
