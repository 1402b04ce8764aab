"""What XLA does with a batch of seeds on a CPU, as far as choices depend on it. Measured with JAX 0.10, one core.

XLA fuses the operations of a linear program into loops over the result. Two of its habits matter here:

- A result of columns is written across the order in which the seeds are computed. That costs nothing where each entry
  is computed on its own (element-wise functions, one sum over everything), a little where a matrix product comes
  before (it can write in any order), and much where whole rows were computed and kept.
- It takes a sine for a cheap operation, and recomputes it for every seed rather than keep it, as it does with a
  tangent or an exponential. An optimization barrier does not hinder it: barriers are gone before it fuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex

from crelle.backends.jax.cost import sub_jaxprs

Linear = Callable[..., list[Any]]

#: How much dearer a pass is whose results are written as columns: medians over some sixty functions.
AFTER_PRODUCT, AFTER_ROWS = 1.05, 2.0

#: Below this many bytes in a batch of seeds, sines are left to XLA.
KEEP_BYTES = 1 << 18

#: What XLA recomputes although it is dear.
_RECOMPUTED = frozenset(("sin", "cos"))
#: What XLA fuses with its operands, so that a sine below it is recomputed with it.
_FUSED = frozenset(
    ("add", "add_any", "sub", "mul", "neg", "abs", "sign", "max", "min", "select_n", "integer_pow", "square",
     "convert_element_type", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "transpose", "slice", "rev",
     "concatenate", "pad", "copy", "stop_gradient", "real", "imag")
)  # fmt: skip
#: What stores its results, whatever it computed inside.
_STORED = frozenset(("scan", "while", "cond"))
#: Operations that XLA does not carry out entry by entry inside a fused loop.
_ROWS = frozenset(
    ("concatenate", "pad", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "dynamic_slice",
     "dynamic_update_slice", "scatter", "scatter-add", "scatter_add", "sort", "scan", "while", "fft",
     "triangular_solve", "reduce_window_sum", "select_and_scatter_add", "custom_linear_solve")
)  # fmt: skip
_PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))


def column_factor(linear: jex.Jaxpr) -> float:
    """How much dearer the passes of a linear program are because their results are columns."""
    names, rows = _survey(linear)
    if names & _PRODUCTS:
        return AFTER_PRODUCT
    return AFTER_ROWS if rows else 1.0


def _survey(jaxpr: jex.Jaxpr) -> tuple[set[str], bool]:
    """The primitives in a jaxpr, and whether one of them computes rows: a sum over some of the axes, or as listed."""
    names: set[str] = set()
    rows = False
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        names.add(name)
        rows |= name in _ROWS
        if name.startswith("reduce_") and "axes" in eqn.params:
            rows |= len(eqn.params["axes"]) < len(_aval(eqn.invars[0]).shape)
        for sub, _ in sub_jaxprs(eqn):
            inner, below = _survey(sub)
            names |= inner
            rows |= below
    return names, rows


def recomputes(jaxpr: jex.Jaxpr | None) -> bool:
    """Whether XLA would compute parts of this function again for every seed. On accelerators that is right."""
    return jaxpr is not None and jax.default_backend() == "cpu" and bool(_survey(jaxpr)[0] & _RECOMPUTED)


def keep_coefficients(
    linearised: Callable[..., tuple[list[Any], list[Any], Linear]],
    active: Sequence[Any],
    program: Callable[[list[Any], Linear], jex.ClosedJaxpr],
    seeds: int,
) -> tuple[list[Any], list[Any], Linear]:
    """What ``linearised(*active)`` returns, (values, aux, linear map), with sines computed once, not for every seed.

    Args:
        program: traces the linear map, given the values.
        seeds: in one batch: a few small ones are not worth the trouble.
    """
    maps: list[jex.Jaxpr] = []

    def primal(*leaves: Any) -> tuple[tuple[list[Any], list[Any]], list[Any]]:
        values, aux, linear = linearised(*leaves)
        traced = program(values, linear)
        maps.append(traced.jaxpr)
        return (values, aux), list(traced.consts)

    closed, shapes = jax.make_jaxpr(primal, return_shape=True)(*active)
    results = jex.jaxpr_as_fun(closed)(*active)
    others = len(jax.tree.leaves(shapes[0]))
    values, aux = jax.tree.unflatten(jax.tree.structure(shapes[0]), results[:others])
    (linear,), coefficients = maps, results[others:]
    widest = max((_nbytes(v) for eqn in linear.eqns for v in eqn.outvars), default=0)
    if widest * seeds >= KEEP_BYTES:
        recomputed = _recomputed(closed.jaxpr)
        variables = closed.jaxpr.outvars[others:]
        coefficients = [
            _kept(value) if isinstance(var, jex.Var) and var in recomputed else value
            for var, value in zip(variables, coefficients, strict=True)
        ]
    return values, aux, jex.jaxpr_as_fun(jex.ClosedJaxpr(linear, coefficients))


def _kept(value: Any) -> Any:
    """The same array, by an operation that XLA does not fuse: the first of the running sums of (value, 0)."""
    return lax.cumsum(jnp.stack([value, jnp.zeros_like(value)]), axis=0)[0]


def _recomputed(jaxpr: jex.Jaxpr) -> set[jex.Var]:
    """The variables that XLA would compute again where they are read: sines, and what it fuses with them."""
    found: set[jex.Var] = set()
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        below = name in _FUSED and any(isinstance(v, jex.Var) and v in found for v in eqn.invars)
        inside = name not in _STORED and any(_survey(sub)[0] & _RECOMPUTED for sub, _ in sub_jaxprs(eqn))
        if name in _RECOMPUTED or below or inside:
            found |= {v for v in eqn.outvars if jnp.issubdtype(_aval(v).dtype, jnp.inexact)}
    return found


def _aval(v: Any) -> Any:
    return v.aval


def _nbytes(v: Any) -> int:
    aval = _aval(v)
    return int(aval.size * aval.dtype.itemsize) if hasattr(aval, "shape") else 0
