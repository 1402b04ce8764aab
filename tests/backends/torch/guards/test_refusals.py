"""What cannot be guarded is refused, with the reason."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crelle.backends.torch.guards import record
from tests.backends.torch.guards.kept import (
    Kept,
    X,
)


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


def test_modules_by_computed_names() -> None:
    import importlib

    for f, reason in [
        (lambda x: x * sys.modules["math"].pi, "uses sys.modules"),
        (lambda x: x * importlib.import_module("math").pi, "uses importlib.import_module"),
        (lambda x: x * globals()["TOTAL"], "calls globals"),
    ]:
        assert reason in Kept(f).guards.unguardable


def test_threads() -> None:
    def f(x: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: x * TOTAL).result()

    with record(f, (X,)) as recording:
        f(X)
    assert "calls concurrent.futures.thread" in recording.guards([]).unguardable


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
