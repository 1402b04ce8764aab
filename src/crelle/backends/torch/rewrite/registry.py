"""What is simplified, operation by operation. A rule gets the new arguments of an operation and gives its value.

A rule must keep the primal value to rounding, keep derivatives of all orders, and hold under ``torch.func``. Zeros are
dropped from products only where they are structural: seeds, and tangents that the derivative rules made up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from crelle.backends.torch.rewrite.builder import Builder
from crelle.backends.torch.rewrite.values import Fill, Spec, aten, is_random

Rule = Callable[[Builder, Any, tuple[Any, ...], dict[str, Any], Any], fx.Node]
RULES: dict[Any, Rule] = {}


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operations, or for all that have a tag."""

    def register(function: Rule) -> Rule:
        for target in targets:
            RULES[target] = function
        return function

    return register


def apply(b: Builder, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Any) -> fx.Node:
    """The value of an operation, simplified."""
    if target in RULES:
        return RULES[target](b, target, args, kwargs, spec)
    if is_random(target):
        return b.emit(target, args, kwargs, spec)
    if torch.Tag.pointwise in target.tags and isinstance(spec, Spec):
        return RULES[torch.Tag.pointwise](b, target, args, kwargs, spec)
    return b.emit(target, args, kwargs, spec)


def number(b: Builder, value: Any) -> Fill | None:
    """What an operand is filled with."""
    if isinstance(value, fx.Node):
        return b.fill.get(value)
    return Fill(value, False) if isinstance(value, (int, float, complex)) else None


def cast(b: Builder, x: fx.Node, spec: Spec) -> fx.Node:
    """x with the type and shape of a result."""
    if b.spec[x].dtype != spec.dtype:
        x = b.emit(aten._to_copy.default, (x,), {"dtype": spec.dtype}, b.spec[x]._replace(dtype=spec.dtype))
    return b.expand(x, spec.shape)


def zero(b: Builder, *nodes: Any) -> bool:
    """Whether any of the factors is a structural zero."""
    return any(n in b.fill and b.fill[n].value == 0 and b.fill[n].structural for n in nodes)


def plain(spec: Spec) -> bool:
    """Whether numbers may be held as 0-d tensors: kernels of shorter types compute with the number in float32."""
    return spec.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)
