"""Losses in JAX: three by name, labels drawn from a model, and derivatives sample by sample."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crelle._errors import CrelleShapeError, describe
from crelle.backends.jax import gauss_newton as fused
from crelle.backends.jax.linearised import JaxLinearised
from crelle.backends.jax.sample_norms import SampleNorms
from crelle.backends.jax.trace import type_of
from crelle.operators._losses import Form

Loss = Callable[[Any, Any], Any]


def cross_entropy(outputs: Any, target: Any, reduction: str = "mean") -> Any:
    """-log softmax(z)[y] over the last axis; the target holds class indices [...] or probabilities [..., C]."""
    logs = jax.nn.log_softmax(outputs)
    target = jnp.asarray(target)
    if jnp.issubdtype(target.dtype, jnp.floating) and target.shape == logs.shape:
        terms = -(target * logs).sum(-1)
    elif jnp.issubdtype(target.dtype, jnp.integer) and target.shape == logs.shape[:-1]:
        terms = -jnp.take_along_axis(logs, target[..., None], -1)[..., 0]
    else:
        z, y = type_of(outputs), type_of(target)
        raise CrelleShapeError(
            describe(f"cross_entropy: outputs {z} and target {y}",
                     expected="integers like the outputs without their last axis, or probabilities of their shape")
        )  # fmt: skip
    return _reduced(terms, reduction)


def mse(outputs: Any, target: Any, reduction: str = "mean") -> Any:
    """(z - y)²."""
    _verify_same("mse", outputs, target)
    return _reduced((outputs - target) ** 2, reduction)


def bce(outputs: Any, target: Any, reduction: str = "mean") -> Any:
    """log(1 + eᶻ) - y z: binary cross-entropy of logits."""
    _verify_same("bce", outputs, target)
    return _reduced(jnp.logaddexp(0, outputs) - target * outputs, reduction)


def _verify_same(name: str, outputs: Any, target: Any) -> None:
    if np.shape(outputs) != np.shape(target):
        z, y = type_of(outputs), type_of(jnp.asarray(target))
        raise CrelleShapeError(describe(f"{name}: outputs {z} and target {y}", expected="one shape"))


def _reduced(terms: Any, reduction: str) -> Any:
    return terms.mean() if reduction == "mean" else terms.sum()


_FUNCTIONS: dict[str, Callable[..., Any]] = {"cross_entropy": cross_entropy, "mse": mse, "bce": bce}


def named(name: str, reduction: str) -> Loss:
    """One of this module."""
    return functools.partial(_FUNCTIONS[name], reduction=reduction)


def form(loss: Loss, outputs: Any, target: Any) -> Form | None:
    """Of the losses of this module."""
    if not isinstance(loss, functools.partial) or loss.func not in _FUNCTIONS.values():
        return None
    terms = outputs[..., :1] if loss.func is cross_entropy else outputs
    scale = jnp.ones_like(terms) / (max(1, terms.size) if loss.keywords["reduction"] == "mean" else 1)
    if loss.func is mse:
        return Form("gaussian", outputs, outputs, scale)
    if loss.func is bce:
        return Form("bernoulli", outputs, jax.nn.sigmoid(outputs), scale)
    if jnp.issubdtype(jnp.asarray(target).dtype, jnp.floating):
        scale = scale * jnp.sum(target, -1, keepdims=True)
    return Form("categorical", outputs, jax.nn.softmax(outputs), scale)


def gauss_newton(kept: JaxLinearised, form: Form) -> JaxLinearised | None:
    """Compiled."""
    return fused.gauss_newton(kept, form)


def draw(form: Form, count: int, given: Any) -> Any:
    """Labels of a categorical, Bernoulli, or normal distribution of variance 1/2."""
    key = given if isinstance(given, jax.Array) else jax.random.key(int(given))
    mean = form.mean
    shape = (count, *mean.shape)
    if form.kind == "categorical":
        labels = jax.random.categorical(key, form.outputs, shape=shape[:-1])
        return mean - jax.nn.one_hot(labels, mean.shape[-1], dtype=mean.dtype)
    if form.kind == "bernoulli":
        return mean - jax.random.bernoulli(key, mean, shape).astype(mean.dtype)
    return jax.random.normal(key, shape, mean.dtype) * 2**0.5


def slope(loss: Loss, outputs: Any, target: Any) -> tuple[Any, Any]:
    """By reverse mode."""
    return jax.value_and_grad(loss)(outputs, target)


def each_gradient(f: Callable[..., Any], point: Any, batch: Sequence[Any]) -> Any:
    """By vmap."""
    return jax.vmap(jax.grad(f), (None, *[0] * len(batch)))(point, *batch)


def each_slope(f: Callable[..., Any], batch: Sequence[Any]) -> Any:
    """By vmap."""
    return jax.vmap(jax.grad(f))(*batch)


def each(f: Callable[..., Any], batch: Sequence[Any]) -> Any:
    """By vmap."""
    return jax.vmap(f)(*batch)


def pulled(f: Callable[..., Any], point: Any, batch: Sequence[Any], seed: Any) -> Any:
    """By the pullback of a vmap."""
    along = jax.vmap(f, (None, *[0] * len(batch)))
    _, pull = jax.vjp(lambda p: along(p, *batch), point)
    return pull(seed)[0]


def sample_norms(f: Callable[..., Any], point: Any, sample: Sequence[Any], seed: Any) -> SampleNorms:
    """By vmap of a jaxpr."""
    return SampleNorms(f, point, sample, seed)
