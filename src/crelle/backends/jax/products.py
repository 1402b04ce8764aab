"""Products in JAX: ``jax.jvp``, ``jax.vjp``, forward over reverse; transposed where a forward rule is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core as jex
from jax.tree_util import Partial

from crelle._errors import CrelleTypeError, describe

Function = Callable[..., Any]

# Their number of results depends on has_aux, which their types do not say.
_jvp: Function = jax.jvp
_vjp: Function = jax.vjp

ZERO_DTYPE = jax.dtypes.float0
CASTS = False


def compiled(function: Function) -> Function:
    """Compiled as a whole: operation by operation takes several times as long."""
    return jax.jit(function)


def jvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """``jax.jvp``; for a function with a ``custom_vjp`` the transpose of its VJP, which JAX does not offer."""

    def forward() -> Any:
        return _jvp(f, primals, tangents, has_aux=has_aux)

    def transposed() -> Any:
        output, pull, *aux = _vjp(f, *primals, has_aux=has_aux)
        return output, _transposed(pull, output, tangents), *aux

    output_of = (lambda *args: f(*args)[0]) if has_aux else f
    found: tuple[Any, ...] = _first(forward, transposed, output_of, primals)
    return found


def vjp(f: Function, primals: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """``jax.vjp``."""
    return _vjp(f, *primals, has_aux=has_aux)  # type: ignore[no-any-return]


def hvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Forward over reverse; reverse over reverse where a forward rule is missing."""

    def gradient(*args: Any) -> tuple[Any, Any]:
        value, slopes = jax.value_and_grad(f, tuple(range(len(args))))(*args)
        return slopes, value

    def forward_over_reverse() -> Any:
        _, product, value = _jvp(gradient, primals, tangents, has_aux=True)
        return value, product

    def reverse_over_reverse() -> Any:
        _, pull, value = _vjp(gradient, *primals, has_aux=True)
        return value, pull(tangents)

    value, product = _first(forward_over_reverse, reverse_over_reverse, gradient, primals)
    return value, product


def checked(pull: Function, check: Function) -> Function:
    """A ``Partial``, as a pytree: like the result of ``jax.vjp``, it may leave a jitted function."""
    return Partial(_Checked(check), pull)


@dataclass(frozen=True, slots=True)
class _Checked:
    check: Function

    def __call__(self, pull: Function, cotangents: Any) -> Any:
        self.check(cotangents)
        return pull(cotangents)


def _first(forward: Callable[[], Any], backward: Callable[[], Any], f: Function, primals: tuple[Any, ...]) -> Any:
    """The forward way, or the backward one where f uses a ``custom_vjp``, which has no forward rule."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(primals)):
        # a missing rule would be noticed only when the outer function is compiled, too late for another way
        return backward() if _uses_custom_vjp(jax.make_jaxpr(f)(*primals).jaxpr) else forward()
    try:
        return forward()
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
    return backward()


def _uses_custom_vjp(jaxpr: jex.Jaxpr) -> bool:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name.startswith("custom_vjp_call"):
            return True
        for value in eqn.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                inner = item.jaxpr if isinstance(item, jex.ClosedJaxpr) else item
                if isinstance(inner, jex.Jaxpr) and _uses_custom_vjp(inner):
                    return True
    return False


def _transposed(pull: Function, output: Any, tangents: tuple[Any, ...]) -> Any:
    try:
        (product,) = jax.linear_transpose(pull, output)(tangents)
    except Exception as error:  # whatever the rule does that is not linear raises in its own way
        raise CrelleTypeError(
            describe(
                "crelle.jvp: f has a custom_vjp, so no forward derivative, and its backward rule cannot be transposed",
                likely=f"the backward rule is not linear in the cotangent ({type(error).__name__}: "
                f"{str(error).splitlines()[0][:120]})",
                try_="crelle.vjp, or jax.custom_jvp in place of jax.custom_vjp",
            )
        ) from None
    return product
