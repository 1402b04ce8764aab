"""Classes and their instances: the class, the number of attributes, and the attributes whose names occur."""

from __future__ import annotations

import contextvars
import enum
import threading
import types
import weakref
from collections import namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from crelle.backends.torch.guards.code import LIBRARY, USER, class_kind, impure_class
from crelle.backends.torch.guards.program import attributes_of
from crelle.backends.torch.guards.walk import Space, Walk, join, quoted, visits

#: How a class finds slots and fields of a tuple: part of the class, not of what f reads.
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, type(vars(namedtuple("_", "field"))["field"]))
_CLASS_PLUMBING = frozenset(
    (
        "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__abstractmethods__", "_abc_impl",
        "__parameters__", "__orig_bases__", "__slots__", "__match_args__", "__dataclass_fields__",
        "__dataclass_params__", "__hash__", "__static_attributes__", "__firstlineno__", "__slotnames__",
        "__annotate_func__", "__annotations_cache__",
    )
)  # fmt: skip
_UNSET = NotImplemented  # a plain value, which nobody sets
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not written in C
_INERT_MODULES = ("typing", "torch._ops", "torch._library", "torch._C", "logging", "operator", "_operator")


def visit_class(walk: Walk, value: type, source: str, label: str, everything: bool) -> None:
    """A class; of a user's, and of those that it inherits from, the attributes whose names occur."""
    program = walk.program
    if class_kind(value) != USER:
        if impure_class(value):
            walk.refuse(f"uses {label}")
        program.fail_if(f"{source} is not {program.constant(value)}", label)
        return
    variable = walk.name(value, source, label)
    program.fail_if(f"{variable} is not {program.weak(value)}", label)
    if class_kind(type(value)) == USER:
        walk.visit(type(value), f"type({variable})", f"class of {value.__name__}")
    for i, base in enumerate(value.__mro__):
        if class_kind(base) != USER or (i and id(base) in walk.seen):
            continue
        owner = walk.name(base, f"{variable}.__mro__[{i}]", label) if i else variable
        names = program.let(f"{owner}.__dict__", label)
        program.fail_if(f"len({names}) != {len(base.__dict__)}", base.__name__)
        items = {k: v for k, v in base.__dict__.items() if k not in _CLASS_PLUMBING and not isinstance(v, _DESCRIPTORS)}
        walk.open(Space(items, lambda name, names=names: f"{names}[{name!r}]", base.__name__))  # type: ignore[misc]


def class_name(walk: Walk, cls: type, owner: str, label: str) -> str:
    """Source for the class that ``owner``'s must be; guards the class where that has not been done."""
    known = walk.seen.get(id(cls))
    if known is None:
        if class_kind(cls) != USER:
            return walk.program.constant(cls)
        visit_class(walk, cls, f"type({owner})", label, False)
        known = walk.seen[id(cls)]
    return known


def visit_object(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """An instance, if all of its state can be seen."""
    cls = type(value)
    # a class may look up attributes by its own code: that is recorded as it runs, and not run by the checks
    own_lookup = isinstance(cls.__getattribute__, types.FunctionType)
    attributes, slots = (attributes_of(value) if own_lookup else getattr(value, "__dict__", None)), _slots(cls)
    if not _has_visible_state(cls) or (attributes is None and slots is None):
        what = "an iterator" if hasattr(cls, "__next__") else f"a {cls.__name__}, whose state cannot be seen"
        walk.refuse(f"captures {quoted(label)}, {what}")
        return
    program = walk.program
    variable = walk.name(value, source, label)
    known = class_name(walk, cls, variable, label)
    program.fail_if(f"{f'type({variable})' if own_lookup else f'{variable}.__class__'} is not {known}", label)
    everything = everything or class_kind(cls) == LIBRARY
    if isinstance(attributes, dict):
        names = program.let(f"attributes_of({variable})" if own_lookup else f"{variable}.__dict__", label)
        program.fail_if(f"len({names}) != {len(attributes)}", label)
        walk.open(Space(attributes, lambda name: f"{names}[{name!r}]", label, names, everything=everything))
    present = [name for name in slots or () if hasattr(value, name)]
    for name in set(slots or ()) - set(present):
        program.fail_if(f"hasattr({variable}, {name!r})", join(label, name))
    if present:
        walk.open(Space(_Slots(value, present), lambda name: f"{variable}.{name}", label, everything=everything))


class _Slots(Mapping[str, Any]):
    """The slots of an object that are filled."""

    def __init__(self, owner: Any, names: list[str]) -> None:
        self._owner, self._names = owner, names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return getattr(self._owner, name)

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _slots(cls: type) -> tuple[str, ...] | None:
    found: list[str] = []
    declared = False
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__")
        if slots is None:
            continue
        declared = True
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            private = name.startswith("__") and not name.endswith("__")
            if name not in ("__dict__", "__weakref__"):
                found.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return tuple(found) if declared else None


def _has_visible_state(cls: type) -> bool:
    visible = all(base in (object, types.SimpleNamespace) or base.__flags__ & _HEAP_TYPE for base in cls.__mro__)
    return visible and not issubclass(cls, (weakref.ref, torch.ScriptObject))


def is_inert(value: Any) -> bool:
    """Whether it is enough to know that an object is the same one."""
    if isinstance(value, (enum.Enum, np.ufunc, types.CodeType, types.GenericAlias, types.UnionType)):
        return True
    if isinstance(value, torch.ScriptObject) or impure_class(type(value)):
        return False
    module = type(value).__module__
    return any(module == name or module.startswith(name + ".") for name in _INERT_MODULES)


def visit_inert(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """An object without state, or whose state does not matter."""
    walk.program.fail_if(f"{source} is not {walk.program.constant(value)}", label)


@visits(type(threading.Lock()), type(threading.RLock()))
def visit_lock(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """Whether it is taken does not change what f gives."""
    visit_inert(walk, value, source, label, everything)


def visit_impure(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A source of random numbers, or a file."""
    walk.refuse(f"uses {quoted(label)}, a {type(value).__name__}")


def visit_tensor_subclass(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A tensor that answers in its own way."""
    walk.refuse(f"captures {quoted(label)}, a {type(value).__name__}, which is a subclass of Tensor")


@visits(contextvars.ContextVar)
def visit_context_variable(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """Its value in the present context."""
    variable, unset = walk.name(value, source, label), walk.program.constant(_UNSET)
    walk.program.fail_if(f"{variable} is not {walk.program.constant(value)}", label)
    walk.visit(value.get(_UNSET), f"{variable}.get({unset})", label, everything)


@visits(weakref.ref)
def visit_weak_reference(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """What it refers to, which may be nothing."""
    variable = walk.name(value, source, label)
    walk.program.fail_if(f"{variable}.__class__ is not {walk.program.constant(weakref.ref)}", label)
    walk.visit(value(), f"{variable}()", label, everything)
