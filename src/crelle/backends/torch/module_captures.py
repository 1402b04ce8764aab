"""What f can see of an ``nn.Module``: parameters, buffers, submodules, hooks, mode, and attributes whose names occur."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

# The hooks of all modules have no public name.
from torch.nn.modules import module as _module

if TYPE_CHECKING:
    from crelle.backends.torch.captures import Captures

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOK_KINDS = ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called")
_PARTS = ("_parameters", "_buffers", "_modules")
_PLUMBING = frozenset(nn.Module().__dict__)
_GLOBAL_HOOKS = (
    _module._global_forward_hooks,
    _module._global_forward_pre_hooks,
    _module._global_backward_hooks,
    _module._global_backward_pre_hooks,
)
#: Modules that run their parts in order, without naming them.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def visit_module(captures: Captures, module: nn.Module, source: str, label: str, everything: bool) -> None:
    """Guard a module.

    ``everything``: the module is f itself, or is used by code that is not looked into (``functional_call``): all its parts
    count, and are visited at once, since such code swaps parameters while it runs.
    """
    from crelle.backends.torch.captures import Space

    if isinstance(module, torch.jit.ScriptModule):
        captures.refuse(f"captures `{label}`, a compiled TorchScript module")
        return
    program = captures.program
    variable = captures.name(module, source, label)
    captures.layer_class(type(module), variable, label)
    attributes = module.__dict__
    space = program.let(f"{variable}.__dict__", label)
    program.fail_if(f"len({space}) != {len(attributes)}", label)
    program.require(f"{space}['training']", module.training, f"train or eval mode of {label or 'the module'}")
    _hooks(captures, attributes, space, label)
    if not captures.global_hooks_seen:
        captures.global_hooks_seen = True
        for hooks in _GLOBAL_HOOKS:
            captures.visit(hooks, program.constant(hooks), "hooks of all modules", True)
    whole = everything or isinstance(module, _CONTAINERS) or not label
    for part in _PARTS:
        items = attributes[part]
        held = program.let(f"{space}[{part!r}]", label)
        program.fail_if(f"len({held}) != {len(items)}", f"{part[1:]} of {label or 'the module'}")
        if isinstance(module, _CONTAINERS) and len(items) > 1:
            program.fail_if(f"[*{held}] != {program.constant(list(items))}", f"{part[1:]} of {label or 'the module'}")
        captures.open(
            Space(items, lambda name, held=held: f"{held}[{name!r}]", label, walked=True, everything=whole)  # type: ignore[misc]
        )
    captures.open(Space(attributes, lambda name: f"{space}[{name!r}]", label, skip=_PLUMBING))


def _hooks(captures: Captures, attributes: dict[str, Any], space: str, label: str) -> None:
    program = captures.program
    present = [name for name in _HOOKS if attributes.get(name)]
    absent = [name for name in _HOOKS if name in attributes and not attributes[name]]
    if absent:
        program.fail_if(" or ".join(f"{space}[{name!r}]" for name in absent), f"hooks of {label or 'the module'}")
    if present:
        for name in (*present, *(kind for kind in _HOOK_KINDS if kind in attributes)):
            captures.visit(attributes[name], f"{space}[{name!r}]", f"hooks of {label or 'the module'}", True)
