"""‖g_n‖² for the gradients g_n of samples, without those that are products: ‖a b‖² = Σ (aᵀa) ∘ (b bᵀ).

The gradient of a linear layer's weights in one sample is a product a b of a thin and a flat matrix (I. Goodfellow,
*Efficient per-example gradient computations*, arXiv:1510.01799). It is found in the jaxpr of a sample's reverse pass,
whatever wrote the layer, and left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from crelle.backends.jax.lower.known import bind

#: Operations that only put the same numbers into another shape or order.
_SAME_NUMBERS = {"transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "copy"}


class SampleNorms:
    """(seed, *sample) ↦ ‖Jᵀ seed‖² for f(point, *sample), for all samples of a batch at once; compiled.

    Attributes:
        bytes: what the gradients of one sample hold that are formed.
    """

    def __init__(self, f: Callable[..., Any], point: Any, sample: Sequence[Any], seed: Any) -> None:
        def pulled(point: Any, seed: Any, *sample: Any) -> list[Any]:
            _, pull = jax.vjp(lambda p: f(p, *sample), point)
            return jax.tree.leaves(pull(jax.tree.map(lambda s: s[None], seed))[0])

        closed = jax.make_jaxpr(pulled)(point, seed, *sample)
        made = {v: eqn for eqn in closed.jaxpr.eqns for v in eqn.outvars}
        products = [_product(v, made) for v in closed.jaxpr.outvars]
        left_out = {id(eqn) for eqn in products if eqn is not None}
        needed = _needed(closed.jaxpr, products)
        self.bytes = sum(
            v.aval.size * v.aval.dtype.itemsize
            for v, product in zip(closed.jaxpr.outvars, products, strict=True)
            if product is None
        )

        def norm(point: Any, seed: Any, *sample: Any) -> Any:
            values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
            values |= dict(zip(closed.jaxpr.invars, jax.tree.leaves((point, seed, *sample)), strict=True))

            def read(v: Any) -> Any:
                return v.val if isinstance(v, jex.Literal) else values[v]

            for eqn in closed.jaxpr.eqns:
                if id(eqn) in needed and id(eqn) not in left_out:
                    values |= dict(zip(eqn.outvars, bind(eqn, [read(v) for v in eqn.invars]), strict=True))
            total = jnp.zeros(())
            for v, product in zip(closed.jaxpr.outvars, products, strict=True):
                if product is None:
                    total = total + jnp.sum(read(v) ** 2)
                else:
                    a, b = (_rows(read(u), axes) for u, axes in zip(product.invars, _contracted(product), strict=True))
                    total = total + jnp.sum((a @ a.T) * (b @ b.T))
            return total

        self._norms = jax.jit(jax.vmap(norm, (None, 0, *[0] * len(sample))))
        self._point = point

    def __call__(self, batch: Sequence[Any], seed: Any) -> Any:
        """[B]."""
        return self._norms(self._point, seed, *batch)


def _product(v: Any, made: dict[Any, Any]) -> Any:
    """The matrix product that yields the numbers of a variable, if its norm takes less without it."""
    eqn = None if isinstance(v, jex.Literal) else made.get(v)
    while eqn is not None and eqn.primitive.name in _SAME_NUMBERS and eqn.invars[0].aval.size == v.aval.size:
        v = eqn.invars[0]
        eqn = None if isinstance(v, jex.Literal) else made.get(v)
    if eqn is None or eqn.primitive.name != "dot_general" or any(eqn.params["dimension_numbers"][1]):
        return None
    left, right = (u.aval for u in eqn.invars)
    k = math.prod(left.shape[i] for i in _contracted(eqn)[0])
    p, q = left.size // max(k, 1), right.size // max(k, 1)
    return eqn if k * (p + q) < p * q else None


def _contracted(eqn: Any) -> Any:
    """The axes of both operands of a product that are summed over."""
    return eqn.params["dimension_numbers"][0]


def _rows(operand: Any, axes: Sequence[int]) -> Any:
    """[k, others]: the contracted axes first."""
    moved = jnp.moveaxis(operand, axes, range(len(axes)))
    return moved.reshape(math.prod(moved.shape[: len(axes)]), -1)


def _needed(jaxpr: Any, products: Sequence[Any]) -> set[int]:
    """Equations that something still depends on."""
    wanted = {v for v, product in zip(jaxpr.outvars, products, strict=True) if product is None and _is_variable(v)}
    wanted |= {v for product in products if product is not None for v in product.invars if _is_variable(v)}
    needed = set()
    for eqn in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(eqn.outvars):
            needed.add(id(eqn))
            wanted.update(v for v in eqn.invars if _is_variable(v))
    return needed


def _is_variable(v: Any) -> bool:
    return not isinstance(v, jex.Literal)
