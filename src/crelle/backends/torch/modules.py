"""``nn.Module`` as a function of its inputs, or of its parameters; layers without a derivative are named."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from crelle._errors import CrelleTypeError, describe
from crelle._request import Request
from crelle.backends._protocol import Adapted
from crelle.backends.torch.objective import Objective

_NORMS = (nn.modules.batchnorm._BatchNorm,)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)


def adapt(f: Any, args: tuple[Any, ...], request: Request) -> Adapted | None:
    """A module made a plain function, or None if f is not a module.

    Raises:
        CrelleTypeError: BatchNorm or active dropout in train mode.
    """
    module = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    if not isinstance(module, nn.Module):
        return None
    name = type(module).__name__
    _refuse_train_mode(module, f"crelle.{request.kind}({name})")
    if request.wrt == "inputs":
        return Adapted(f, args, name) if f is module else None
    inner = module.model if isinstance(module, Objective) else module
    parameters = {key: p for key, p in inner.named_parameters() if p.requires_grad}
    if not parameters:
        raise CrelleTypeError(
            describe(
                f"crelle.{request.kind}({name}): wrt='params', and the module has no parameter that requires grad",
                try_="module.requires_grad_(True), or wrt='inputs'",
            )
        )
    # buffers are looked up at each call, as the parameters are: both may be replaced between calls
    buffers = dict(inner.named_buffers())

    def of_parameters(params: dict[str, Any], *inputs: Any, **kwargs: Any) -> Any:
        if isinstance(module, Objective):
            *inputs, target = inputs  # type: ignore[assignment]
            return module.reduce(functional_call(inner, {**params, **buffers}, tuple(inputs), kwargs), target)
        return functional_call(inner, {**params, **buffers}, inputs, kwargs)

    if isinstance(module, Objective):
        pair = module.pair(buffers)
        of_parameters.pair, of_parameters.model, of_parameters.loss = pair, pair.model, pair.loss  # type: ignore[attr-defined]
    return Adapted(of_parameters, (parameters, *args), name)


def _refuse_train_mode(module: nn.Module, what: str) -> None:
    for path, layer in module.named_modules():
        if not layer.training:
            continue
        if isinstance(layer, _NORMS) and layer.track_running_stats:
            problem = "uses the statistics of the batch and updates its running statistics at every call"
            remedy = "module.eval(); or layer.track_running_stats = False, or GroupNorm, for training"
        elif isinstance(layer, _DROPOUTS) and layer.p > 0:
            problem = "drops other entries at every call"
            remedy = "module.eval(), or p=0.0"
        else:
            continue
        raise CrelleTypeError(
            describe(
                f"{what}: layer {path or '(the module itself)'} is {type(layer).__name__} in train mode, "
                f"and has no well-defined derivative: it {problem}",
                expected="a function of its inputs alone",
                try_=remedy,
            )
        )


def unsupported_tensor(leaves: list[Any]) -> str:
    """Why these tensors cannot be traced into a kept graph, or an empty string."""
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            if type(leaf) not in (torch.Tensor, nn.Parameter):
                return f"an argument is a {type(leaf).__name__}, a subclass of Tensor"
            if leaf.layout is not torch.strided:
                return f"an argument has layout {leaf.layout}"
    return ""
