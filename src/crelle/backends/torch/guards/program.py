"""A list of checks, compiled into one Python function: how guards are made cheap enough to run at every call."""

from __future__ import annotations

import builtins
import math
import operator
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are interchangeable: types equal, 1 is not True, 0.0 is not -0.0, nan is nan."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is float:
        return (a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) or (a != a and b != b)
    if kind is complex:
        return same(a.real, b.real) and same(a.imag, b.imag)
    if kind is tuple or kind is list:
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.generic):
        return bool(a.dtype == b.dtype) and a.tobytes() == b.tobytes()
    return bool(a == b)


def same_items(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists of plain values are interchangeable; quick where they hold the same objects."""
    return len(a) == len(b) and (all(map(operator.is_, a, b)) or all(map(same, a, b)))


def same_array(a: Any, dtype: np.dtype[Any], shape: tuple[int, ...], content: bytes) -> bool:
    """Whether a NumPy array still has this content."""
    return type(a) is np.ndarray and a.dtype == dtype and a.shape == shape and a.tobytes() == content


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of equal type hold equal values."""
    return torch.equal(a.detach(), b)


def attributes_of(value: Any) -> Any:
    """The attributes of an object whose class looks them up by its own code."""
    return object.__getattribute__(value, "__dict__")


def plain_copy(value: Any) -> Any:
    """What a user's dict, list or tuple holds, without any of its own methods."""
    if isinstance(value, dict):
        return dict.copy(value)
    return list.copy(value) if isinstance(value, list) else tuple.__getitem__(value, slice(None))


class Program:
    """Statements in the order in which they will run, each with what it is about.

    A statement is an assignment to a fresh variable, or a condition under which the guards fail.
    """

    def __init__(self) -> None:
        self._statements: list[tuple[str, str]] = []
        self._namespace: dict[str, Any] = {
            "same": same,
            "same_array": same_array,
            "same_tensor": same_tensor,
            "same_items": same_items,
            "attributes_of": attributes_of,
            "plain_copy": plain_copy,
            "Function": types.FunctionType,
        }
        self._constants: dict[int, str] = {}
        self._count = 0

    def let(self, source: str, label: str) -> str:
        """Assign ``source`` to a new variable; returns its name."""
        self._count += 1
        name = f"v{self._count}"
        self._statements.append((f"{name} = {source}", label))
        return name

    def fail_if(self, condition: str, label: str) -> None:
        """The guards fail where ``condition`` holds; ``label`` is what has changed then."""
        self._statements.append((f"if {condition}:", label))

    def constant(self, value: Any) -> str:
        """A name for ``value``, which the program keeps alive."""
        name = self._constants.get(id(value))
        if name is None:
            name = f"k{len(self._namespace)}"
            self._constants[id(value)] = name
            self._namespace[name] = value
        return name

    def weak(self, value: Any) -> str:
        """Source that gives ``value`` as long as somebody else keeps it alive, and None after."""
        return self.constant(weakref.ref(value)) + "()"

    def require(self, source: str, value: Any, label: str) -> None:
        """Fail unless ``source`` gives a plain value interchangeable with ``value``."""
        if value is None or value is True or value is False or value is ...:
            self.fail_if(f"{source} is not {value!r}", label)
        elif isinstance(value, (type, types.BuiltinFunctionType)) and getattr(builtins, value.__name__, None) is value:
            self.fail_if(f"{source} is not {self.constant(value)}", label)
        else:
            k = self.constant(value)
            self.fail_if(f"(p := {source}) is not {k} and not same(p, {k})", label)

    def compile(self, result: str) -> Callable[..., Any]:
        """The function ``(f, args=(), kwargs={}) -> result``, or None where a check fails."""
        lines = ["def match(f, args=(), kwargs={}):", "    try:"]
        for text, _ in self._statements:
            lines.append(f"        {text} return None" if text.startswith("if ") else f"        {text}")
        lines += [f"        return {result}", "    except Exception:", "        return None"]
        return self._function("\n".join(lines), "match")

    def compile_search(self) -> Callable[..., str | None]:
        """The same checks, slower: gives the label of the first that fails, or None."""
        lines = ["def search(f, args=(), kwargs={}):", "    at = 0", "    try:"]
        for i, (text, _) in enumerate(self._statements):
            lines.append(f"        at = {i}")
            lines.append(f"        {text} return labels[at]" if text.startswith("if ") else f"        {text}")
        lines += ["        return None", "    except Exception:", "        return labels[at]"]
        self._namespace["labels"] = [label for _, label in self._statements]
        return self._function("\n".join(lines), "search")

    def _function(self, source: str, name: str) -> Callable[..., Any]:
        scope = dict(self._namespace)
        exec(compile(source, "<crelle guards>", "exec"), scope)
        function: Callable[..., Any] = scope[name]
        return function
