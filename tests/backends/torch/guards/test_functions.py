"""Functions that a function calls: replaced, rebuilt, wrapped, with other defaults."""

from __future__ import annotations

import contextlib
import functools
import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.backends.torch.guards.kept import (
    Config,
    Kept,
    kept_and_fresh,
    vector,
)


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


def test_methods_found_by_library_functions() -> None:
    config, getter = Config(2, 3.0), operator.attrgetter("nested.scale")
    config.nested = Config(0, 5.0)
    kept = kept_and_fresh(lambda x: x * getter(config) * operator.attrgetter("scale")(config))
    config.scale = 4.0
    kept.assert_stale("config.scale")
    config.scale = 3.0
    kept.assert_fresh()
    config.nested.scale = 6.0
    kept.assert_stale("config.nested.scale")


def test_dispatch_on_types() -> None:
    gain = 2.0

    @functools.singledispatch
    def g(x: Any) -> Any:
        return x

    @g.register
    def _(x: Tensor) -> Tensor:
        return x * gain

    kept = kept_and_fresh(lambda x: g(x))
    gain = 3.0
    kept.assert_stale("gain")
    gain = 2.0
    kept.assert_fresh()
    g.register(torch.Tensor, lambda x: x**2)
    kept.assert_stale("registry")


def test_context_manager_of_the_user() -> None:
    gain = 2.0

    @contextlib.contextmanager
    def context() -> Iterator[float]:
        yield gain

    @context()
    def decorated(x: Tensor) -> Tensor:
        return x**2

    def f(x: Tensor) -> Tensor:
        with context() as g:
            return decorated(x) * g

    kept = kept_and_fresh(f)
    kept.assert_fresh()
    gain = 3.0
    kept.assert_stale("gain")


def test_functions_made_inside_and_outside_by_one_maker() -> None:
    def make(box: list[float]) -> Callable[[Tensor], Tensor]:
        return lambda x: x * box[0]

    box = [5.0]
    made = make(box)
    kept = kept_and_fresh(lambda x: make([1.0])(x) + made(x))
    box[0] = 6.0
    kept.assert_stale("box[0]")


def test_lock_held_while_running() -> None:
    lock = threading.Lock()

    def f(x: Tensor) -> Tensor:
        with lock:
            return x * 2

    kept_and_fresh(f)
