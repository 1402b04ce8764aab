"""The forward Laplacian in JAX: value, tangents and Laplacian of every intermediate, from the inputs on.

For y = p(x) with tangents J_i of x and Laplacian L of x: the tangents of y are Dp·J_i, and its Laplacian is
Dp·L + Σ_i D²p[J_i, J_i]. The linear part of the second order is so pushed once, not once for each direction (R. Li et
al., *A computational framework for neural network-based variational Monte Carlo with Forward Laplacian*, Nature Machine
Intelligence 6, 2024; F. Dangel et al., *Collapsing Taylor mode automatic differentiation*, 2025). Dp and D²p come from
JAX's own derivative rules, so that there is no table of operations here.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from crelle.backends._protocol import Call
from crelle.backends.jax import cost
from crelle.backends.jax.compressed import JaxCompressed
from crelle.backends.jax.flat import FlatFunction, Layout, assemble
from crelle.backends.jax.lower.known import bind
from crelle.tangent.cost import PassCost

#: Equations that are walked as if they stood in their place.
_INLINED = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")


@dataclass(frozen=True, slots=True)
class Taylor:
    """A value, its tangents [k, ...], and its Laplacian: the sum of the second derivatives along all tangents."""

    value: Any
    tangents: Any
    laplacian: Any


class ForwardLaplacian:
    """Laplacians of a function that was compressed, in one forward pass for each chunk of seeds.

    Args:
        colors: of the inputs; those of a colour, which have no second derivative in common, share a seed. -1 for none.
        sampled: whether the numbers are those that f returns as aux, and the scalar is their sum.
        memory: bytes that a chunk may take.
    """

    def __init__(
        self, call: Call, compressed: JaxCompressed, captured: tuple[Layout, list[Any]], colors: Any, sampled: bool,
        memory: int | None,
    ) -> None:  # fmt: skip
        self.jaxpr = compressed.jaxpr
        self.types, self.wants_value = call.inputs, call.request.value
        self.outputs = len(compressed.parts.f_outputs)
        self.at = self.outputs if sampled else 0
        self.colors, self.seeds = colors, int(colors.max(initial=-1)) + 1
        self.chunk: int | None = None
        layout, consts = captured
        dynamic = FlatFunction(call, layout).dynamic
        shapes = [jax.ShapeDtypeStruct(jnp.shape(v), jnp.result_type(v)) for v in dynamic]
        forms: list[PassCost] = []
        traced = jax.make_jaxpr(
            lambda arrays: _laplacian(
                self._push(consts, arrays, jnp.asarray(colors), np.arange(self.seeds), forms)[self.at]
            )
        )
        self.price = cost.pass_cost(traced(shapes), None)
        self.products = cost.pass_cost(_products(call, compressed, captured, shapes), None)
        if self.products.matmul_flops:
            self.price = _discounted(self.price, forms, self.seeds)
        each = self.price.peak_bytes / max(self.seeds, 1)
        if memory is not None and self.price.peak_bytes > memory:
            self.chunk = max(1, int(memory / each))
        self._jitted = jax.jit(self._compute, static_argnums=3)
        self._table = jnp.asarray(colors)

    def values(self, call: Call, captured: tuple[Layout, list[Any]]) -> tuple[Any, Callable[[Any], Any]]:
        """The Laplacian, and what puts it into the user's answer."""
        layout, consts = captured
        dynamic = FlatFunction(call, layout).dynamic
        run = self._compute if call.abstract else self._jitted
        laplacian, values, aux = run(consts, dynamic, self._table, self.seeds)
        return laplacian, lambda found: assemble(call, layout, found, values, aux)

    def along(self, call: Call, captured: tuple[Layout, list[Any]], color: int) -> float:
        """The second derivative along the seed of one colour, of the sum over samples."""
        layout, consts = captured
        one = jnp.asarray(np.where(self.colors == color, 0, -1))
        found = self._jitted(consts, FlatFunction(call, layout).dynamic, one, 1)[0]
        return float(np.asarray(found).sum())

    def _compute(self, consts: list[Any], dynamic: list[Any], colors: Any, seeds: int) -> tuple[Any, Any, Any]:
        """(Laplacian, values, aux)."""

        def chunk(start: Any, count: int) -> list[Any]:
            return self._push(consts, dynamic, colors, start + jnp.arange(count))

        size = seeds if self.chunk is None else min(self.chunk, seeds)
        if size == seeds:
            found = chunk(0, seeds)
            results = [r.value if isinstance(r, Taylor) else r for r in found]
            laplacian = _laplacian(found[self.at])
        else:
            results = jex.jaxpr_as_fun(jex.ClosedJaxpr(self.jaxpr, list(consts)))(*dynamic)
            starts = jnp.arange(math.ceil(seeds / size)) * size
            laplacian = jax.lax.map(lambda start: _laplacian(chunk(start, size)[self.at]), starts).sum(0)
        results = [jnp.asarray(r) for r in results]
        return laplacian, results[: self.outputs] if self.wants_value else [], results[self.outputs :]

    def _push(
        self, consts: list[Any], dynamic: list[Any], colors: Any, ids: Any, forms: list[PassCost] | None = None
    ) -> list[Any]:
        hot, begin, given = colors[None, :] == ids[:, None], 0, list(dynamic)
        for i, t in enumerate(self.types):
            seeds = hot[:, begin : begin + t.size].astype(t.dtype).reshape(-1, *t.shape)
            given[i] = Taylor(dynamic[i], seeds, jnp.zeros(t.shape, t.dtype))
            begin += t.size
        return _walk(self.jaxpr, consts, given, [] if forms is None else forms)


def _discounted(whole: PassCost, forms: Sequence[PassCost], seeds: int) -> PassCost:
    """The cost where there are matrix products: what the second order adds is then cheaper than its operations alone.

    It reads tangents that such a product reads or writes anyway, and XLA fuses it with them: functions with products
    took 1.3 to 2.1 times less than their Hessian-vector products, where the plain count says 0.6 to 1.2 (JAX 0.10,
    CPU). Without matrix products, Hessian-vector products are fused just as well.
    """
    flops, moved = (_FUSED * seeds * sum(getattr(form, name) for form in forms) for name in ("flops", "bytes"))
    return replace(whole, flops=max(whole.flops - flops, 0.0), bytes=max(whole.bytes - moved, 0.0))


#: The share of the second order's element-wise work that fusion saves.
_FUSED = 0.5


def _laplacian(result: Any) -> Any:
    return result.laplacian if isinstance(result, Taylor) else jnp.zeros_like(result)


def _products(call: Call, compressed: JaxCompressed, captured: Any, shapes: list[Any]) -> jex.ClosedJaxpr:
    """The Hessian-vector products that would be run instead."""
    order = captured[0].order

    def entries(arrays: list[Any]) -> Any:
        leaves = list(call.leaves)
        for i, value in zip(order, arrays, strict=True):
            leaves[i] = value
        return compressed.values(Call(
            call.f, call.name, call.args, call.kwargs, call.request, call.backend, call.active, call.in_tree,
            call.inputs, call.names, leaves, call.tree, call.signature, True,
        ), captured)[0]  # fmt: skip

    return jax.make_jaxpr(entries)(shapes)


def _walk(jaxpr: jex.Jaxpr, consts: Sequence[Any], given: Sequence[Any], forms: list[PassCost]) -> list[Any]:
    """Run a jaxpr on values and Taylor series; append the cost of each quadratic form, for one seed."""
    env: dict[Any, Any] = {}
    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, given, strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, jex.Literal) else env[v]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _equation(eqn, [read(v) for v in eqn.invars], forms), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _equation(eqn: Any, args: list[Any], forms: list[PassCost]) -> list[Any]:
    seeded = [i for i, a in enumerate(args) if isinstance(a, Taylor)]
    if not seeded:
        return bind(eqn, args)
    if eqn.primitive.name in _INLINED:
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if isinstance(inner, jex.ClosedJaxpr):
            return _walk(inner.jaxpr, inner.consts, args, forms)
        if inner is not None and not inner.constvars:
            return _walk(inner, [], args, forms)
    inexact = [i for i, v in enumerate(eqn.outvars) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]

    def apply(*values: Any) -> tuple[list[Any], list[Any]]:
        full = [a.value if isinstance(a, Taylor) else a for a in args]
        for i, value in zip(seeded, values, strict=True):
            full[i] = value
        results = bind(eqn, full)
        return [results[i] for i in inexact], results

    taylors = [args[i] for i in seeded]
    values, push, results = jax.linearize(apply, *(t.value for t in taylors), has_aux=True)
    tangents = jax.vmap(push)(*(t.tangents for t in taylors))
    laplacians = push(*(t.laplacian for t in taylors))
    curved = _curvature(lambda *a: apply(*a)[0], taylors, forms)
    for i, value, tangent, laplacian, more in zip(inexact, values, tangents, laplacians, curved, strict=True):
        results[i] = Taylor(value, tangent, laplacian if more is None else laplacian + more)
    return list(results)


def _curvature(apply: Callable[..., list[Any]], taylors: list[Taylor], costs: list[PassCost]) -> list[Any]:
    """Σ_i D²p[J_i, J_i] for each result; ``None`` where p is linear."""
    primals = tuple(t.value for t in taylors)

    def second(*v: Any) -> Any:
        return jax.jvp(lambda *a: jax.jvp(apply, a, v)[1], primals, v)[1]

    closed = jax.make_jaxpr(second)(*(jax.ShapeDtypeStruct(p.shape, p.dtype) for p in map(jnp.asarray, primals)))
    reached = set(closed.jaxpr.invars)
    for eqn in closed.jaxpr.eqns:
        if any(v in reached for v in eqn.invars if not isinstance(v, jex.Literal)):
            reached.update(eqn.outvars)
    # a quadratic form that does not read its vector is zero
    curved = [not isinstance(v, jex.Literal) and v in reached for v in closed.jaxpr.outvars]
    if not any(curved):
        return [None] * len(curved)
    costs.append(cost.pass_cost(closed, None))
    forms = jax.vmap(jex.jaxpr_as_fun(closed))(*(t.tangents for t in taylors))
    return [_total(form) if c else None for form, c in zip(forms, curved, strict=True)]


def _total(forms: Any) -> Any:
    """The sum over the first axis, in a form that XLA does not draw all of the program into on a CPU.

    As a plain sum it is fused with the matrix products around it, up to twelve times slower (JAX 0.10, 6 × 256 × 64).
    """
    count = forms.shape[0]
    if count <= _FEW:
        return functools.reduce(operator.add, list(forms))
    if jax.default_backend() == "cpu":
        return jnp.tensordot(jnp.ones(count, forms.dtype), forms, 1, precision=jax.lax.Precision.HIGHEST)
    return forms.sum(0)


#: As many terms are written out.
_FEW = 8
