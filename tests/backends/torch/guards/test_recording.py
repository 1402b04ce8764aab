"""The recording itself: what it costs, keeps and leaves behind."""

from __future__ import annotations

import cProfile
import functools
import gc
import sys
import time
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from crelle.backends.torch.guards import Guards, record
from tests.backends.torch.guards.kept import (
    Kept,
    Scale,
    X,
    kept_and_fresh,
    mlp,
    net,
    vector,
)


def test_recording_leaves_no_trace_of_itself() -> None:
    def guards_of_a_short_life() -> tuple[Guards, list[weakref.ref[Any]]]:
        model, scale, weight = net(), Scale(2.0, vector()), vector()
        guards = kept_and_fresh(lambda x: scale(model(x)) * weight).guards
        return guards, [weakref.ref(o) for o in (model, model.inner.weight, scale, weight)]

    guards, references = guards_of_a_short_life()
    gc.collect()
    assert sys.getprofile() is None and gc.isenabled()
    assert [r() for r in references] == [None] * 4
    assert guards.match(lambda x: x) is None


def test_error_while_recording() -> None:
    with pytest.raises(ValueError, match="mine"), record(len, (X,)):
        raise ValueError("mine")
    assert sys.getprofile() is None
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
        vector(1.0)
    finally:
        profile.disable()
    assert any(getattr(entry.code, "co_name", "") == "vector" for entry in profile.getstats())


def test_recordings_nest() -> None:
    flag = 2.0

    def inner(x: Tensor) -> Tensor:
        return x * flag

    with record(inner, (X,)) as outer, record(inner, (X,)) as within:
        inner(X)
    for recording in (outer, within):
        guards = recording.guards([])
        assert guards.match(inner) == []
        assert guards.changed(inner) == ""
    flag = 3.0
    for recording in (outer, within):
        assert "flag" in recording.guards([]).unguardable  # it compares with what was found, so this is too late


def test_effect_that_settles() -> None:
    class Model:
        def __init__(self) -> None:
            self.scale = 2.0

        @functools.cached_property
        def doubled(self) -> float:
            return 2 * self.scale

    model = Model()
    f = lambda x: x * model.doubled
    first = Kept(f).guards
    assert first.effect and "f changes model" in first.unguardable
    kept_and_fresh(f)


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
