"""``nn.Module``: parameters, buffers, submodules, hooks, mode, and the attributes whose names occur."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# The hooks that PyTorch runs for all modules have no public name.
from torch.nn.modules import module as _module

from crelle.backends.torch.guards.code import USER, class_kind
from crelle.backends.torch.guards.functions import visit_library_value
from crelle.backends.torch.guards.objects import class_name
from crelle.backends.torch.guards.walk import Space, Walk

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOK_KINDS = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")
_HOOKS_OF_ALL = (
    _module._global_forward_hooks,
    _module._global_forward_pre_hooks,
    _module._global_backward_hooks,
    _module._global_backward_pre_hooks,
)
_PARTS = ("_parameters", "_buffers", "_modules")
_PLUMBING = frozenset(nn.Module().__dict__)
#: Modules that run their parts in order, without naming them.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def visit_module(walk: Walk, value: nn.Module, source: str, label: str, everything: bool) -> None:
    """A module.

    Its parts count where their names occur. All of them count, and at once, where the module is f itself or is used out
    of sight: code like ``functional_call`` puts other tensors into them while it runs.
    """
    if isinstance(value, torch.jit.ScriptModule):
        walk.refuse(f"captures `{label or 'f'}`, a compiled TorchScript module")
        return
    program, about = walk.program, label or "the module"
    variable = walk.name(value, source, label)
    _class(walk, type(value), variable, about)
    attributes = value.__dict__
    names = program.let(f"{variable}.__dict__", label)
    program.fail_if(f"len({names}) != {len(attributes)}", about)
    program.require(f"{names}['training']", value.training, f"train or eval mode of {about}")
    _hooks(walk, attributes, names, f"hooks of {about}")
    whole = everything or isinstance(value, _CONTAINERS) or not label
    for part in _PARTS:
        items = attributes[part]
        held = program.let(f"{names}[{part!r}]", label)
        program.fail_if(f"len({held}) != {len(items)}", f"{part[1:]} of {about}")
        walk.open(
            Space(
                items,
                lambda name, held=held: f"{held}[{name!r}]",  # type: ignore[misc]
                label,
                mapping=held if len(items) > 1 else "",
                walked=True,
                everything=whole,
            )
        )
    walk.open(Space(attributes, lambda name: f"{names}[{name!r}]", label, skip=_PLUMBING))


def _class(walk: Walk, cls: type, variable: str, label: str) -> None:
    """The class; of PyTorch's own layers, only ``forward`` is looked at."""
    own = class_kind(cls) != USER
    fresh = own and id(cls) not in walk.seen
    name = class_name(walk, cls, variable, label)
    walk.program.fail_if(f"{variable}.__class__ is not {name}", label)
    if fresh:
        walk.keep(cls, name)
        visit_library_value(walk, getattr(cls, "forward", None), f"{name}.forward", f"{cls.__name__}.forward")


def _hooks(walk: Walk, attributes: dict[str, Any], names: str, label: str) -> None:
    present = [hooks for hooks in _HOOKS if attributes.get(hooks)]
    absent = [hooks for hooks in _HOOKS if hooks in attributes and not attributes[hooks]]
    if absent:
        walk.program.fail_if(" or ".join(f"{names}[{hooks!r}]" for hooks in absent), label)
    if present:
        for hooks in (*present, *(kind for kind in _HOOK_KINDS if kind in attributes)):
            walk.visit(attributes[hooks], f"{names}[{hooks!r}]", label, True)
    if not walk.hooks_of_all:
        walk.hooks_of_all = True
        for held in _HOOKS_OF_ALL:
            walk.visit(held, walk.program.constant(held), "hooks of all modules", True)
