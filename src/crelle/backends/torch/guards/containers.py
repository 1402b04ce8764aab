"""Lists, tuples, dicts, sets and NumPy arrays: type, length, keys in order, and every item."""

from __future__ import annotations

import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np

from crelle.backends.torch.guards.objects import class_name
from crelle.backends.torch.guards.plain import is_plain
from crelle.backends.torch.guards.program import plain_copy
from crelle.backends.torch.guards.walk import MAX_OBJECTS, Space, Walk, quoted, visits

#: Larger NumPy arrays are not compared by content.
MAX_ARRAY_BYTES = 1 << 20
#: From this length on, plain items are compared in one call.
_MANY = 16


@visits(list, tuple, deque)
def visit_sequence(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """Items by position."""
    _sequence(walk, value, _named(walk, value, source, label), label, everything)


def _named(walk: Walk, value: Any, source: str, label: str) -> str:
    variable = walk.name(value, source, label)
    cls = class_name(walk, type(value), variable, label)
    walk.program.fail_if(f"{variable}.__class__ is not {cls}", label)
    return variable


def _sequence(walk: Walk, value: Any, variable: str, label: str, everything: bool) -> None:
    walk.program.fail_if(f"len({variable}) != {len(value)}", label)
    if len(value) > _MANY and all(map(is_plain, value)):
        _plain_items(walk, f"[*{variable}]", list(value), label)
        return
    for i, item in enumerate(value):
        walk.visit(item, f"{variable}[{i}]", f"{label}[{i}]", everything)


def _plain_items(walk: Walk, source: str, items: list[Any], label: str) -> None:
    if len(items) > MAX_OBJECTS:
        walk.refuse(f"can see {quoted(label)}, which holds {len(items):,} Python objects")
    else:
        walk.program.fail_if(f"not same_items({source}, {walk.program.constant(items)})", label)


@visits(dict, OrderedDict, defaultdict, Counter, types.MappingProxyType)
def visit_dict(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """Keys in order, and the items by key."""
    _dict(walk, value, _named(walk, value, source, label), label, everything)


def _dict(walk: Walk, value: Any, variable: str, label: str, everything: bool) -> None:
    keys, values = list(value), list(value.values())
    if not all(is_plain(key) or isinstance(key, type) for key in keys):
        walk.refuse(f"captures {quoted(label)}, a {type(value).__name__} with keys that are objects")
        return
    if all(type(key) is str for key in keys) and len(keys) <= MAX_OBJECTS:
        walk.program.fail_if(f"[*{variable}] != {walk.program.constant(keys)}", label)
    else:
        _plain_items(walk, f"[*{variable}]", keys, label)
    if isinstance(value, defaultdict):
        walk.visit(value.default_factory, f"{variable}.default_factory", label, everything)
    if len(values) > _MANY and all(map(is_plain, values)):
        _plain_items(walk, f"[*{variable}.values()]", values, label)
        return
    for key, item in zip(keys, values, strict=True):
        index = repr(key) if type(key) in (str, int) else walk.program.constant(key)
        walk.visit(item, f"{variable}[{index}]", f"{label}[{key!r}]", everything)


@visits(set, frozenset)
def visit_set(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """Items in the order in which they come out."""
    variable = walk.name(value, source, label)
    walk.program.fail_if(f"{variable}.__class__ is not {walk.program.constant(type(value))}", label)
    items = list(value)
    if all(is_plain(item) or isinstance(item, (type, types.BuiltinFunctionType)) for item in items):
        _plain_items(walk, f"[*{variable}]", items, label)
    else:
        walk.refuse(f"captures {quoted(label)}, a set of objects")


_LOOKUPS = ("__getitem__", "__iter__", "__len__", "keys", "values", "items", "get")


def visit_subclass(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A user's list, tuple or dict: what it holds, whatever its own way to look that up is, and its attributes."""
    cls, variable = type(value), _named(walk, value, source, label)
    base = next(b for b in (tuple, list, dict) if isinstance(value, b))
    held, content = value, variable
    if any(hasattr(base, name) and getattr(cls, name) is not getattr(base, name) for name in _LOOKUPS):
        held, content = plain_copy(value), walk.program.let(f"plain_copy({variable})", label)
    (_dict if base is dict else _sequence)(walk, held, content, label, everything)
    if hasattr(value, "__dict__"):
        walk.program.fail_if(f"len({variable}.__dict__) != {len(value.__dict__)}", label)
        walk.open(Space(value.__dict__, lambda name: f"{variable}.__dict__[{name!r}]", label, everything=everything))


@visits(np.ndarray)
def visit_array(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """dtype, shape and content."""
    if value.dtype.hasobject:
        walk.refuse(f"captures {quoted(label)}, a NumPy array of Python objects")
    elif value.nbytes > MAX_ARRAY_BYTES:
        walk.refuse(
            f"captures {quoted(label)}, a NumPy array of {value.nbytes / 1e6:.0f} MB (a tensor would not be compared)"
        )
    else:
        variable = walk.name(value, source, label)
        content = [walk.program.constant(part) for part in (value.dtype, value.shape, value.tobytes())]
        walk.program.fail_if(f"not same_array({variable}, {', '.join(content)})", label)
