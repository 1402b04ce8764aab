"""Objects that a function reads, and their classes."""

from __future__ import annotations

import contextvars
import weakref
from typing import Any

import pytest
from torch import Tensor

from tests.backends.torch.guards.kept import (
    Config,
    Frozen,
    Scale,
    kept_and_fresh,
    vector,
)

G_CONFIG = {"scale": 2.0}


def test_callable_object() -> None:
    f = Scale(2.0, vector())
    kept = kept_and_fresh(f)
    f.weight = vector(2.0, 2.0, 2.0)
    kept.assert_fresh()
    f.unrelated = object()
    kept.assert_fresh()
    kept.assert_fresh(Scale(2.0, vector(1.0, 0.0, 0.0)))
    f.scale = 3.0
    kept.assert_stale("scale")
    kept.assert_stale("scale", Scale(5.0, vector()))


def test_bound_method_of_another_instance() -> None:
    kept = kept_and_fresh(Scale(2.0, vector()).scaled)
    kept.assert_fresh(Scale(2.0, vector(4.0, 4.0, 4.0)).scaled)
    kept.assert_stale("self.scale", Scale(3.0, vector()).scaled)


def test_class_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Scale(2.0, vector())
    kept = kept_and_fresh(lambda x: x * f.offset)
    monkeypatch.setattr(Scale, "offset", 2.0)
    kept.assert_stale("offset")
    monkeypatch.undo()
    kept.assert_fresh()
    f.offset = 7.0  # the instance now hides the class attribute
    kept.assert_stale("f")


def test_method_monkeypatched(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Scale(2.0, vector())
    kept = kept_and_fresh(lambda x: f(x))
    monkeypatch.setattr(Scale, "scaled", lambda self, x: x)
    kept.assert_stale("Scale.scaled")
    monkeypatch.undo()
    kept.assert_fresh()
    f.scaled = lambda x: x  # type: ignore[method-assign]
    kept.assert_stale("f")


def test_inherited_method_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Child(Scale):
        pass

    f = Child(2.0, vector())
    kept = kept_and_fresh(lambda x: f.scaled(x))
    monkeypatch.setattr(Child, "scaled", lambda self, x: x, raising=False)
    kept.assert_stale("Child")
    monkeypatch.undo()
    kept.assert_fresh()
    monkeypatch.setattr(Scale, "scaled", lambda self, x: x)
    kept.assert_stale("Scale.scaled")


def test_class_of_an_object_replaced() -> None:
    class Other(Scale):
        def scaled(self, x: Tensor) -> Tensor:
            return x

    f = Scale(2.0, vector())
    kept = kept_and_fresh(lambda x: f(x))
    f.__class__ = Other
    kept.assert_stale("f")


class Area:
    def __init__(self, side: float) -> None:
        self.side = side

    @property
    def area(self) -> float:
        return self.side**2

    @classmethod
    def unit(cls) -> float:
        return cls.length * 1.0

    @staticmethod
    def half(x: Tensor) -> Tensor:
        return x / G_CONFIG["scale"]

    length = 3.0


def test_property_class_method_and_static_method(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Area(2.0)
    kept = kept_and_fresh(lambda x: a.half(x) ** 2 * a.area * Area.unit())
    a.side = 3.0
    kept.assert_stale("a.side")
    a.side = 2.0
    kept.assert_fresh()
    monkeypatch.setattr(Area, "length", 4.0)
    kept.assert_stale("Area.length")
    monkeypatch.undo()
    kept.assert_fresh()
    monkeypatch.setitem(G_CONFIG, "scale", 9.0)
    kept.assert_stale("G_CONFIG")


def test_dataclass_field() -> None:
    config = Config(2, nested=Config(3))
    kept = kept_and_fresh(lambda x: x**config.power * config.nested.scale)
    config.nested.power = 5
    kept.assert_stale("config.nested.power")
    config.nested = Config(3)
    kept.assert_fresh()
    config.nested.scale = 2.0
    kept.assert_stale("config.nested.scale")


def test_slots() -> None:
    config = Frozen(2, vector())
    kept = kept_and_fresh(lambda x: x**config.power * config.weight)
    config = Frozen(2, vector(1.0, 1.0, 0.0))
    kept.assert_fresh()
    config = Frozen(3, vector())
    kept.assert_stale("config.power")


def test_attributes_by_computed_names() -> None:
    class Bag:
        pass

    bag, i = Bag(), 1
    bag.w0, bag.w1, bag.gain = vector(), vector(2.0, 2.0, 2.0), 3.0  # type: ignore[attr-defined]
    kept = kept_and_fresh(lambda x: x * getattr(bag, f"w{i}") * getattr(bag, "gain", 1.0))
    bag.w1 = vector(5.0, 5.0, 5.0)  # type: ignore[attr-defined]
    kept.assert_fresh()
    bag.gain = 4.0  # type: ignore[attr-defined]
    kept.assert_stale("bag.gain")
    del bag.gain  # type: ignore[attr-defined]
    kept.assert_stale("bag")


def test_attribute_that_appears_later() -> None:
    class Bag:
        pass

    bag = Bag()
    kept = kept_and_fresh(lambda x: x * 2 if hasattr(bag, "flag") else x)
    bag.flag = True  # type: ignore[attr-defined]
    kept.assert_stale("bag")


def test_attribute_of_a_tensor_that_appears_later() -> None:
    w = vector()
    kept = kept_and_fresh(lambda x: x * w * getattr(w, "gain", 1.0))
    w.gain = 2.0  # type: ignore[attr-defined]
    kept.assert_stale("w")


def test_context_variable() -> None:
    variable = contextvars.ContextVar[float]("variable")
    kept = kept_and_fresh(lambda x: x * variable.get(2.0))
    token = variable.set(3.0)
    kept.assert_stale("variable")
    variable.reset(token)
    kept.assert_fresh()


def test_weak_reference() -> None:
    target = Config(2)
    reference = weakref.ref(target)
    kept = kept_and_fresh(lambda x: x ** (reference() or Config(1)).power)
    target.power = 3
    kept.assert_stale("power")
    target.power = 2
    kept.assert_fresh()
    del target
    kept.assert_stale("reference")


def test_cycle_of_objects() -> None:
    a, b = Config(2), Config(3)
    a.nested, b.nested = b, a
    kept = kept_and_fresh(lambda x: x**a.nested.nested.power)
    b.nested = Config(2)
    kept.assert_stale()


def test_pattern_matching() -> None:
    config = Frozen(2, 1.5)

    def f(x: Tensor) -> Tensor:
        match config:
            case Frozen(power=2, weight=w):
                return x**2 * w
        return x

    kept = kept_and_fresh(f)
    config = Frozen(2, 2.5)
    kept.assert_stale("config.weight")


def test_containers_with_their_own_lookup() -> None:
    class Doubled(dict[str, float]):
        def __getitem__(self, key: str) -> float:
            return 2 * super().__getitem__(key)

    class Reversed(list[float]):
        unit = 1.0

        def __iter__(self) -> Any:
            return iter([self.unit * item for item in self[::-1]])

    table, items = Doubled(a=1.0), Reversed([1.0, 2.0])
    kept = kept_and_fresh(lambda x: x * table["a"] + sum(x**i * item for i, item in enumerate(items)))
    table["a"] = 3.0
    kept.assert_stale("table['a']")
    table["a"] = 1.0
    kept.assert_fresh()
    items.unit = 2.0
    kept.assert_stale("items")
    del items.unit
    kept.assert_fresh()
    items.reverse()
    kept.assert_stale("items[0]")


def test_class_with_its_own_attribute_lookup() -> None:
    class Renamed:
        names = {"gain": "scale"}  # noqa: RUF012

        def __init__(self) -> None:
            self.scale = 2.0

        def __getattribute__(self, name: str) -> Any:
            names = super().__getattribute__("names")
            return super().__getattribute__(names.get(name, name))

    config = Renamed()
    kept = kept_and_fresh(lambda x: x * config.gain)
    config.scale = 3.0
    kept.assert_stale("config.scale")
    config.scale = 2.0
    kept.assert_fresh()
    Renamed.names["gain"] = "__class__"
    kept.assert_stale("Renamed.names")


def test_operators_of_user_objects() -> None:
    class Gain:
        def __init__(self, value: float) -> None:
            self.value = value

        def __rmul__(self, x: Tensor) -> Tensor:
            return x * self.value

        def __bool__(self) -> bool:
            return self.value > 0

    class Plain:
        def __init__(self, gain: Gain) -> None:
            self.gain = gain

        def __getitem__(self, key: str) -> float:
            return self.gain.value

    gain = Gain(2.0)
    table = Plain(gain)
    kept = kept_and_fresh(lambda x: x * table["a"] if gain else x)
    gain.value = 3.0
    kept.assert_stale("value")


def test_object_among_the_arguments() -> None:
    config = Config(2, scale=3.0, nested=vector())

    def f(x: Tensor, config: Config, k: int = 1) -> Tensor:
        return x**config.power * config.nested * k

    kept = kept_and_fresh(f, config=config, k=2)
    config.nested = vector(0.0, 1.0, 1.0)
    kept.assert_fresh()
    config.power = 3
    kept.assert_stale("power")


def test_metaclass() -> None:
    class Meta(type):
        gain = 2.0

        def __call__(cls, *args: Any) -> Any:
            made = super().__call__(*args)
            made.gain = cls.gain
            return made

    class Made(metaclass=Meta):
        pass

    kept = kept_and_fresh(lambda x: x * Made().gain)
    Meta.gain = 3.0
    kept.assert_stale("gain")


def test_method_of_a_base_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base:
        gain = 2.0

        def run(self, x: Tensor) -> Tensor:
            return x * self.gain

    class Derived(Base):
        def run(self, x: Tensor) -> Tensor:
            return super().run(x) + 1

    derived = Derived()
    kept = kept_and_fresh(lambda x: derived.run(x))
    Base.gain = 3.0
    kept.assert_stale("Base.gain")
    Base.gain = 2.0
    kept.assert_fresh()
    monkeypatch.setattr(Base, "run", lambda self, x: x)
    kept.assert_stale("Base.run")


def test_descriptor_of_the_user() -> None:
    class Constant:
        def __init__(self) -> None:
            self.value = 2.0

        def __get__(self, owner: Any, cls: Any = None) -> float:
            return self.value

    class Holder:
        constant = Constant()

    holder = Holder()
    kept = kept_and_fresh(lambda x: x * holder.constant)
    vars(Holder)["constant"].value = 3.0
    kept.assert_stale("value")


def test_what_is_not_read_may_change() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.weight = vector()
            self.history: list[float] = []
            self.step = 0

        def loss(self, x: Tensor) -> Tensor:
            return x * self.weight

    trainer = Trainer()
    kept = kept_and_fresh(trainer.loss)
    trainer.history.append(1.0)
    trainer.step += 1
    kept.assert_fresh()
