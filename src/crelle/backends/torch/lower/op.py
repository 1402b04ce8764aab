"""One operation of an aten graph, as lowering rules see it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crelle._arrays import ArrayType
from crelle.backends.torch.lower.known import Known, as_array, run
from crelle.backends.torch.rewrite.values import Spec
from crelle.tangent.program import Dependence, Ids

Bools = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Primal:
    """A value that does not depend on the tangents.

    Attributes:
        kind: what it depends on.
        known: how to compute it at planning time, ``None`` if that is impossible.
        support: of a value that is not known: False where it is zero nonetheless.
        choices: of integers that are not known: which values each may have.
    """

    kind: Dependence
    known: Known | None = None
    support: Callable[[], Bools | None] | None = None
    choices: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class Tangent:
    """A value that is linear in the tangents; ``value=None`` is zero."""

    value: int | None


Entry = Primal | Tangent


@dataclass(frozen=True, slots=True, eq=False)
class Arg:
    """A tensor among the arguments of an operation."""

    spec: Spec
    entry: Entry

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.spec.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.spec.size

    @property
    def tangent(self) -> int | None:
        """The id of the value, ``None`` for a coefficient or a zero."""
        return self.entry.value if isinstance(self.entry, Tangent) else None

    @property
    def linear(self) -> bool:
        """Whether it depends on the tangents, and is not zero."""
        return self.tangent is not None

    @property
    def value(self) -> int:
        """The id of a value that is linear."""
        assert self.tangent is not None
        return self.tangent

    @property
    def kind(self) -> Dependence:
        """What it depends on as a coefficient."""
        return self.entry.kind if isinstance(self.entry, Primal) else Dependence.CONSTANT

    def tensor(self) -> Tensor | None:
        """The value as far as it can be known before f is run."""
        if isinstance(self.entry, Primal) and self.entry.known is not None:
            found = self.entry.known.try_get()
            return found if isinstance(found, Tensor) else None
        return None

    def array(self) -> Ids | None:
        """The same for NumPy."""
        found = self.tensor()
        return None if found is None else as_array(found)

    def keep(self) -> Bools | None:
        """False where it is known to be zero; ``None`` where that is nowhere known."""
        found = self.tensor()
        if found is not None:
            keep: Any = as_array(found != 0)
        else:
            support = self.entry.support if isinstance(self.entry, Primal) else None
            keep = support() if support is not None else None
        return None if keep is None or keep.all() else keep

    def choices(self) -> Any:
        """CSR pattern over the elements: which values each may have, for integers that are not known."""
        if isinstance(self.entry, Primal) and self.entry.choices is not None:
            return self.entry.choices()
        return None


_RESHAPED = {torch.ops.aten.view.default: torch.ops.aten.reshape.default}


@functools.cache
def names_of(target: Any) -> tuple[tuple[str, Any], ...]:
    """(name, default) of the arguments of an operator."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return ()
    return tuple((a.name, a.default_value if a.has_default_value() else None) for a in schema.arguments)


@functools.cache
def written(target: Any) -> tuple[int, ...]:
    """The arguments that an operator writes to."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return ()
    return tuple(i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write)


@functools.cache
def name_of(target: Any) -> str:
    """``mul`` for ``aten.mul_.Tensor``, ``my_op`` for an operator of another library."""
    packet = getattr(target, "overloadpacket", target)
    name = str(getattr(packet, "__name__", packet))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def map_args(value: Any, change: Callable[[Arg], Any]) -> Any:
    """Nested arguments with every tensor changed."""
    if isinstance(value, Arg):
        return change(value)
    if isinstance(value, (tuple, list)):
        return [map_args(v, change) for v in value]
    if isinstance(value, dict):
        return {k: map_args(v, change) for k, v in value.items()}
    return value


def args_in(value: Any) -> list[Arg]:
    """All tensors in nested arguments."""
    found: list[Arg] = []
    map_args(value, found.append)
    return found


class Op:
    """An operation. ``op["dim"]`` is the argument of that name in its schema, or its default.

    Attributes:
        target: the aten operator.
        name: without overload, and without the underscore of those that write.
        spec: of the result, or of each of them.
        tensors: all arguments that are tensors, those in lists included.
        layout: (strides, offset) of the first one where the operation depends on them.
    """

    layout: tuple[tuple[int, ...], int] | None = None

    def __init__(self, target: Any, args: Any, kwargs: Any, spec: Any) -> None:
        self.target, self.args, self.kwargs, self.spec = target, list(args), dict(kwargs), spec
        self.name = name_of(target)
        self.tensors = args_in([self.args, self.kwargs])

    def __getitem__(self, name: str) -> Any:
        for i, (known, default) in enumerate(names_of(self.target)):
            if known == name:
                return self.args[i] if i < len(self.args) else self.kwargs.get(name, default)
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The argument of a name that not every overload has."""
        try:
            return self[name]
        except KeyError:
            return default

    @property
    def linear(self) -> list[Arg]:
        """The arguments that carry tangents."""
        return [a for a in self.tensors if a.linear]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the only result."""
        return self.spec.shape  # type: ignore[no-any-return]

    @property
    def several(self) -> bool:
        """Whether it has a list of results."""
        return not isinstance(self.spec, Spec)

    @property
    def specs(self) -> list[Spec | None]:
        """One for each result."""
        if isinstance(self.spec, Spec):
            return [self.spec]
        return [s if isinstance(s, Spec) else None for s in self.spec or ()]

    def kind(self, *without: Arg) -> Dependence:
        """What the coefficients depend on."""
        return max((a.kind for a in self.tensors if a not in without), default=Dependence.CONSTANT)

    def run(self, change: Callable[[Arg], Tensor]) -> Any:
        """The operation on other tensors; what it writes to is copied, and returned."""
        args, kwargs = map_args(self.args, change), map_args(self.kwargs, change)
        places = written(self.target)
        if not places:
            # ids and stand-ins lie in memory in another way than the tensors of the traced run
            return run(_RESHAPED.get(self.target, self.target), args, kwargs)
        for i in places:
            if i < len(args) and isinstance(args[i], Tensor):
                args[i] = args[i].clone(memory_format=torch.contiguous_format)
        return run(self.target, args, kwargs)


def type_of(spec: Spec) -> ArrayType:
    """The type of a value."""
    return ArrayType(str(spec.dtype).removeprefix("torch."), spec.shape)
