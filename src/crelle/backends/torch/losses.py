"""Losses of PyTorch: which are known in closed form, labels drawn from a model, and derivatives sample by sample."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from crelle._errors import CrelleValueError, describe
from crelle.backends.torch import run
from crelle.backends.torch.sample_norms import SampleNorms
from crelle.operators._losses import Form

Loss = Callable[[Any, Any], Any]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy_with_logits,
}
_MODULES: dict[type, str] = {nn.CrossEntropyLoss: "cross_entropy", nn.MSELoss: "mse", nn.BCEWithLogitsLoss: "bce"}
_OPTIONS = ("weight", "ignore_index", "label_smoothing", "pos_weight", "reduction")


def named(name: str, reduction: str) -> Loss:
    """PyTorch's own function."""
    return functools.partial(_FUNCTIONS[name], reduction=reduction)


def form(loss: Loss, outputs: Any, target: Any) -> Form | None:
    """Of ``F.cross_entropy``, ``F.mse_loss``, ``F.binary_cross_entropy_with_logits``, and their modules."""
    found = _options(loss)
    tensors = isinstance(outputs, Tensor) and isinstance(target, Tensor) and outputs.is_floating_point()
    if found is None or not tensors or found[1].get("reduction", "mean") not in ("mean", "sum"):
        return None
    name, options = found
    with torch.no_grad():
        if name == "cross_entropy":
            return _cross_entropy(outputs, target, **options)
        if outputs.shape != target.shape:
            return None
        return (_mse if name == "mse" else _bce)(outputs, target, **options)


def _options(loss: Loss) -> tuple[str, dict[str, Any]] | None:
    """The name of a known loss, and its keywords that are not the default."""
    if (name := _MODULES.get(type(loss))) is not None:
        kept = vars(loss) | dict(loss.named_buffers())  # type: ignore[attr-defined]
        return name, {key: kept[key] for key in _OPTIONS if kept.get(key) is not None}
    inner, options = (loss.func, loss.keywords) if isinstance(loss, functools.partial) else (loss, {})
    if isinstance(loss, functools.partial) and loss.args:
        return None
    for name, function in _FUNCTIONS.items():
        if inner is function:
            defaults = inspect.signature(function).parameters
            changed = {k: v for k, v in options.items() if k not in defaults or v is not defaults[k].default}
            return (name, changed) if set(changed) <= set(_OPTIONS) else None
    return None


def _cross_entropy(
    outputs: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100,
    label_smoothing: float = 0.0, reduction: str = "mean",
) -> Form | None:  # fmt: skip
    """The Hessian of -Σ_c w_c t_c log p_c is (Σ_c w_c t_c)(diag(p) - p pᵀ), whatever t."""
    axis = 0 if outputs.dim() == 1 else 1
    if outputs.dim() == 0:
        return None
    classes = outputs.shape[axis]
    weights = torch.ones(classes).to(outputs) if weight is None else weight.to(outputs)
    others = outputs.shape[:axis] + outputs.shape[axis + 1 :]
    if target.is_floating_point():
        if target.shape != outputs.shape:
            return None
        smooth = target * (1 - label_smoothing) + label_smoothing / classes
        mass = (smooth.movedim(axis, -1) * weights).sum(-1)
        count: Any = mass.numel()
    else:
        if target.shape != others:
            return None
        kept = target != ignore_index
        try:
            own = weights[torch.where(kept, target, 0)] * kept
        except IndexError:
            raise CrelleValueError(
                describe(
                    f"cross_entropy: the target holds a class beyond the {classes} of the outputs",
                    called=f"outputs {run.type_of(outputs)}, target {run.type_of(target)} up to {int(target.max())}",
                    expected=f"integers from 0 to {classes - 1}, or ignore_index={ignore_index}",
                )
            ) from None
        mass = (1 - label_smoothing) * own + label_smoothing * weights.mean() * kept
        count = own.sum()
    scale = mass / count if reduction == "mean" else mass
    unlikely = "weight= changes the terms with their labels" if weight is not None else ""
    if label_smoothing:
        unlikely = "label_smoothing= mixes the labels"
    plain = weight is None and not target.is_floating_point() and 0 <= label_smoothing <= 1
    back = axis - outputs.dim()
    convex = plain or bool((scale >= 0).all())
    return Form("categorical", outputs, outputs.softmax(axis), scale.unsqueeze(back), back, unlikely, convex)


def _mse(outputs: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Form | None:
    if weight is not None:
        return None
    scale = torch.ones_like(outputs) / (max(1, outputs.numel()) if reduction == "mean" else 1)
    return Form("gaussian", outputs, outputs, scale)


def _bce(
    outputs: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None,
    reduction: str = "mean",
) -> Form:  # fmt: skip
    """The Hessian of -w (a y log p + (1 - y) log(1 - p)) is w (1 + (a - 1) y) p (1 - p)."""
    scale = torch.ones_like(outputs) / (max(1, outputs.numel()) if reduction == "mean" else 1)
    unlikely = ""
    if pos_weight is not None:
        scale, unlikely = scale * (1 + (pos_weight - 1) * target), "pos_weight= changes the terms with their labels"
    if weight is not None:
        scale, unlikely = scale * weight, "weight= changes the terms"
    convex = not unlikely or bool((scale >= 0).all())
    return Form("bernoulli", outputs, outputs.sigmoid(), scale, unlikely=unlikely, convex=convex)


def gauss_newton(kept: Any, form: Form) -> None:
    """Three steps are as quick as one."""


@torch.no_grad()
def draw(form: Form, count: int, given: Any) -> Tensor:
    """Labels of a categorical, Bernoulli, or normal distribution of variance 1/2."""
    mean: Tensor = form.mean
    generator = given
    if not isinstance(given, torch.Generator):
        generator = torch.Generator(mean.device).manual_seed(int(given))
    shape = (count, *mean.shape)
    if form.kind == "categorical":
        p = mean.movedim(form.axis, -1)
        flat = p.reshape(-1, p.shape[-1])
        labels = torch.multinomial(flat, count, replacement=True, generator=generator)
        hot = F.one_hot(labels.T, p.shape[-1]).to(mean).reshape(count, *p.shape)
        return mean - hot.movedim(-1, form.axis)
    if form.kind == "bernoulli":
        return mean - torch.bernoulli(mean.expand(shape), generator=generator)
    noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return noise * 2**0.5


def slope(loss: Loss, outputs: Any, target: Any) -> tuple[Tensor, Any]:
    """By the autograd tape."""
    leaves, tree = pytree.tree_flatten(outputs)
    with torch.inference_mode(False), torch.enable_grad():
        inputs = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        value = loss(pytree.tree_unflatten(inputs, tree), target)
        found = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return value.detach(), pytree.tree_unflatten(list(found), tree)


def each_gradient(f: Callable[..., Any], point: Any, batch: Sequence[Any]) -> Any:
    """By vmap."""
    gradient = torch.func.grad(f)
    with run.plain_kernels():  # fused attention has no batching rule: it would go sample by sample
        return torch.func.vmap(gradient, (None, *[0] * len(batch)))(_plain(point), *_plain(tuple(batch)))


def each_slope(f: Callable[..., Any], batch: Sequence[Any]) -> Any:
    """By vmap."""
    with run.plain_kernels():
        return torch.func.vmap(torch.func.grad(f))(*_plain(tuple(batch)))


def each(f: Callable[..., Any], batch: Sequence[Any]) -> Any:
    """By vmap."""
    with torch.no_grad(), run.plain_kernels():
        return torch.func.vmap(f)(*_plain(tuple(batch)))


def pulled(f: Callable[..., Any], point: Any, batch: Sequence[Any], seed: Any) -> Any:
    """By the pullback of a vmap."""
    along = torch.func.vmap(f, (None, *[0] * len(batch)))
    with run.plain_kernels():
        _, pull = run.vjp(lambda p: along(p, *_plain(tuple(batch))), _plain(point))
        return pull(_plain(seed))[0]


def sample_norms(f: Callable[..., Any], point: Any, sample: Sequence[Any], seed: Any) -> SampleNorms:
    """By vmap of a recorded graph."""
    return SampleNorms(f, _plain(point), _plain(tuple(sample)), _plain(seed))


def _plain(tree: Any) -> Any:
    """Without the caller's autograd graph."""
    return pytree.tree_map_only(Tensor, lambda t: run.plain_leaves([t])[0], tree)
