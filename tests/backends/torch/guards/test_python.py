"""Numbers, flags, containers, arrays and Python modules that a function reads."""

from __future__ import annotations

import enum
import math
import sys
import types
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.backends.torch.guards.kept import (
    Kept,
    kept_and_fresh,
    make_module,
    vector,
)

G_FLAG = True
G_CONFIG = {"scale": 2.0, "power": 3}


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
    ids=lambda value: repr(value).partition(" at 0x")[0],  # addresses differ between processes
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
