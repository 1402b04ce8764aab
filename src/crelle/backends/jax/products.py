"""Products in JAX: ``jax.jvp``, ``jax.vjp``, forward over reverse; transposed where a forward rule is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import Partial

from crelle._errors import CrelleTypeError, describe

Function = Callable[..., Any]

# Their number of results depends on has_aux, which their types do not say.
_jvp: Function = jax.jvp
_vjp: Function = jax.vjp

ZERO_DTYPE = jax.dtypes.float0
CASTS = False


def jvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """``jax.jvp``; for a function with a ``custom_vjp`` the transpose of its VJP, which JAX does not offer."""
    try:
        return _jvp(f, primals, tangents, has_aux=has_aux)  # type: ignore[no-any-return]
    except TypeError as error:
        if not _lacks_forward(error):
            raise
    output, pull, *aux = _vjp(f, *primals, has_aux=has_aux)
    return output, _transposed(pull, output, tangents), *aux


def vjp(f: Function, primals: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """``jax.vjp``."""
    return _vjp(f, *primals, has_aux=has_aux)  # type: ignore[no-any-return]


def hvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Forward over reverse; reverse over reverse where a forward rule is missing."""

    def gradient(*args: Any) -> tuple[Any, Any]:
        value, slopes = jax.value_and_grad(f, tuple(range(len(args))))(*args)
        return slopes, value

    try:
        _, product, value = _jvp(gradient, primals, tangents, has_aux=True)
    except TypeError as error:
        if not _lacks_forward(error):
            raise
        _, pull, value = _vjp(gradient, *primals, has_aux=True)
        product = pull(tangents)
    return value, product


def checked(pull: Function, check: Function) -> Function:
    """A ``Partial``, as a pytree: like the result of ``jax.vjp``, it may leave a jitted function."""
    return Partial(_Checked(check), pull)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Checked:
    check: Function

    def __call__(self, pull: Function, cotangents: Any) -> Any:
        self.check(cotangents)
        return pull(cotangents)


def _lacks_forward(error: TypeError) -> bool:
    return "custom_vjp" in str(error)


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
