"""Products in PyTorch: ``torch.func``, with ways around operations whose derivatives it lacks or refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, func
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from crelle._errors import CrelleTypeError, describe
from crelle.backends.torch import tape
from crelle.backends.torch.run import plain_kernels

Function = Callable[..., Any]

# Their number of results depends on has_aux, which their types do not say.
_jvp: Function = func.jvp
_vjp: Function = func.vjp

ZERO_DTYPE = None
CASTS = True


def compiled(function: Function) -> Function:
    """As it is: there is no compiler that pays for one call."""
    return function


def jvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """``torch.func.jvp``; the transpose of the VJP where an operation has no forward rule, or a wrong one, or zero."""
    function = _Tensors(f, has_aux)

    def forward() -> Any:
        with _trusted():
            return _jvp(function, primals, tangents, has_aux=has_aux)

    def transposed() -> tuple[Any, ...]:
        output, pull, *aux = _vjp(function, *primals, has_aux=has_aux)
        # pull is linear, so its derivative is the same everywhere; some rules take logarithms, so not at zero
        ones = pytree.tree_map(torch.ones_like, output)
        _, push = _vjp(pull, ones)
        return output, push(tangents)[0], *aux

    try:
        found = _first("jvp", forward, transposed)
    except RuntimeError as error:
        if not tape.refuses(error):
            raise
        found = tape.jvp(function, primals, tangents, has_aux)
    return function.complete(found)


def vjp(f: Function, primals: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """``torch.func.vjp``; ``torch.autograd`` alone where that refuses an operation."""
    function = _Tensors(f, has_aux)
    try:
        found = _vjp(function, *primals, has_aux=has_aux)
    except RuntimeError as error:
        if not tape.refuses(error):
            raise
        found = tape.vjp(function, primals, has_aux)
    return function.complete(found)


def hvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Forward over reverse; reverse over reverse where an operation has no forward rule, or a wrong one."""
    gradient = func.grad_and_value(f, tuple(range(len(primals))))

    def forward_over_reverse() -> tuple[Any, Any]:
        with _trusted():
            _, product, value = _jvp(gradient, primals, tangents, has_aux=True)
        return value, product

    def reverse_over_reverse() -> tuple[Any, Any]:
        _, pull, value = _vjp(gradient, *primals, has_aux=True)
        return value, pull(tangents)

    try:
        value, product = _first("hvp", forward_over_reverse, reverse_over_reverse)
    except RuntimeError as error:
        if not tape.refuses(error):
            raise
        value, product = tape.hvp(f, primals, tangents)
    return value, product


def checked(pull: Function, check: Function) -> Function:
    """A closure; keywords such as ``retain_graph`` go through."""

    def vjp_fn(cotangents: Any, **options: Any) -> Any:
        check(cotangents)
        return pull(cotangents, **options)

    return vjp_fn


class _Tensors:
    """f with the tensors of aux only: ``torch.func`` refuses anything else there. The rest is put back at the end."""

    def __init__(self, f: Function, has_aux: bool) -> None:
        self._f, self._has_aux = f, has_aux
        self._static: list[Any] = []
        self._tree: Any = None

    def __call__(self, *args: Any) -> Any:
        if not self._has_aux:
            return self._f(*args)
        output, aux = self._f(*args)
        leaves, self._tree = pytree.tree_flatten(aux)
        self._static = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]
        return output, [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def complete(self, result: tuple[Any, ...]) -> tuple[Any, ...]:
        """The result of a transform with aux as f returned it."""
        if not self._has_aux:
            return result
        tensors = iter(result[-1])
        leaves = [next(tensors) if static is None else static[0] for static in self._static]
        return *result[:-1], pytree.tree_unflatten(leaves, self._tree)


class _WrongRule(NotImplementedError):
    """An operation whose forward derivative PyTorch computes, and gets wrong."""


class _Watch(TorchFunctionMode):
    def __torch_function__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(op, "__name__", "")
        kwargs = kwargs or {}
        if name in ("scatter_reduce", "scatter_reduce_"):
            # zero in place of the derivative of a product
            if "prod" in (*args[4:5], *args[3:4], kwargs.get("reduce")):
                raise _WrongRule("the forward derivative of scatter_reduce(reduce='prod') is wrong")
        elif name == "triangular_solve":
            raise _WrongRule("the forward derivative of triangular_solve is wrong")
        elif getattr(op, "namespace", "aten") not in ("aten", "prims", "prim"):
            raise _WrongRule(f"{op} may have no forward rule, and would silently give zeros")
        return op(*args, **kwargs)


@contextlib.contextmanager
def _trusted() -> Iterator[None]:
    """Stop at operations whose forward derivative is known to be wrong (PyTorch 2.13)."""
    with _Watch():
        yield


def _first(name: str, *ways: Callable[[], Any]) -> Any:
    """The first way that PyTorch has all derivatives for; at last with unfused kernels, which have them all."""
    missing: list[str] = []
    for kernels in (contextlib.nullcontext, plain_kernels):
        for way in ways:
            try:
                with kernels():
                    return way()
            except (NotImplementedError, RuntimeError) as error:
                text = str(error).split("\n")[0]
                if not isinstance(error, _WrongRule) and not _is_missing(text):
                    raise
                missing.append(text)
    raise CrelleTypeError(
        describe(
            f"crelle.{name}: PyTorch has no derivative rules to form this product with",
            likely="\n".join(dict.fromkeys(text[:160] for text in missing)),
            try_="another form of the operation that is named"
            + ("; crelle.jacobian needs its backward rule only" if name == "jvp" else ""),
        )
    ) from None


def _is_missing(text: str) -> bool:
    if "forward AD" in text or "forward mode AD" in text:
        return True
    # mse_loss: its forward rule writes into a tensor that stands for zeros
    return "ZeroTensors are immutable" in text or ("derivative" in text and "not implemented" in text)
