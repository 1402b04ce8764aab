"""Jᵀ H J v in one compiled step, for a kept Jacobian J and the Hessian H of a loss in closed form."""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, replace
from typing import Any

from crelle.backends.jax.linear_products import Products
from crelle.backends.jax.linearised import JaxLinearised, LinearMap
from crelle.operators._losses import Form

#: Compiled products belong to the program of J, and to the kind of loss; never to the values at a point.
_kept: weakref.WeakKeyDictionary[LinearMap, dict[tuple[str, int], Products]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _Both:
    """A symmetric map: one product is the other."""

    push: Products
    pull: Products


def gauss_newton(kept: JaxLinearised, form: Form) -> JaxLinearised | None:
    """v ↦ Jᵀ H J v as what is kept of a linearisation; ``None`` where J has no transpose or is not compiled."""
    linear = kept._linear
    if linear.one_way or not linear.push._compiled or any(t.is_complex for t in linear.outputs):
        return None
    products = _kept.setdefault(linear, {})
    if (form.kind, form.axis) not in products:
        products[form.kind, form.axis] = _products(weakref.ref(linear), linear, form)
    fused = copy.copy(kept)
    both = products[form.kind, form.axis]
    fused._linear = _Both(both, both)  # type: ignore[assignment]
    fused._coefficients = [kept._coefficients, form.mean, form.scale]
    return fused


def _products(of: weakref.ref[LinearMap], linear: LinearMap, form: Form) -> Products:
    empty = replace(form, outputs=None, mean=None, scale=None)

    def apply(coefficients: list[Any], vector: list[Any]) -> list[Any]:
        jacobian, mean, scale = coefficients
        linear = of()
        assert linear is not None
        (outputs,) = linear._product(jacobian, vector, False)
        curved = replace(empty, mean=mean, scale=scale).curvature(outputs[None])[0]
        return linear._product(jacobian, [curved], True)

    return Products(apply, linear.inputs, linear.inputs)
