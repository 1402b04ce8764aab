"""Derivatives over a data set: the shared arguments are copied once, and every batch is linearised there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crelle._call import bind, describe_arguments, function_name
from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.backends import framework_of
from crelle.backends._protocol import Call
from crelle.operators._batches import Batches, arguments_of, copied
from crelle.operators._data import Parts, over_data
from crelle.operators._derivatives import Again, operator_again
from crelle.operators._determinism import captured_modules
from crelle.operators._operator import Operator
from crelle.operators._stacked import StackedOperator

if TYPE_CHECKING:
    from crelle._transforms import Transform


class Point:
    """Where a derivative is taken, for all batches of a data set: the arguments that they share, copied once.

    Arrays may be changed in place while the operator is in use; batches that are linearised anew later must not see it.
    """

    def __init__(self, transform: Transform, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function, self._request, self._kept = transform.function, transform.request, transform._space
        self._args, self._kwargs = args, kwargs
        self._first = True
        self._name = ""
        self._again: Again = {}

    def at(self, batch: Any) -> Operator:
        """The operator of one batch."""
        more, named = arguments_of(batch, "a batch")
        if self._first:
            self._settle(
                bind(self._function, (*self._args, *more), {**self._kwargs, **named}, self._request), len(more)
            )
        call = bind(self._function, (*self._args, *more), {**self._kwargs, **named}, self._request)
        call.name, call.frozen = self._name, True
        _verify_place(call)
        return operator_again(call, self._kept, self._again)

    def _settle(self, call: Call, more: int) -> None:
        """Copy the shared arguments; a module's parameters become one of them."""
        shared = len(call.args) - more
        if any(i % len(call.args) >= shared for i in self._request.argnums_tuple):
            raise CrelleTypeError(
                describe(
                    f"argnums={self._request.argnums} names an argument that comes from the batch",
                    called=describe_arguments(call.args, call.kwargs),
                    expected=f"one of the first {shared}, which all batches share" if shared else
                    "the parameters before data=",
                    try_="f(params, batch), with .at(params, data=...); without data= for one batch",
                )
            )  # fmt: skip
        if self._request.check:
            for module in captured_modules(self._function):
                call.backend.adapt(
                    module, (), replace(self._request, wrt="inputs")
                )  # which refuses dropout and BatchNorm in train mode
        if self._request.wrt == "params":
            self._function, self._request = call.f, replace(self._request, wrt="inputs")
            self._args = call.args[:shared]
        self._args, self._kwargs = copied((self._args, self._kwargs), call.backend)
        self._name, self._first = call.name, False


def _verify_place(call: Call) -> None:
    """Refuse batches on another device; JAX moves them by itself."""
    if call.backend.name == "jax":
        return
    where = call.inputs[0].device
    for leaf in call.leaves:
        found = call.backend.array_type(leaf).device if framework_of(leaf) == call.backend.name else where
        if found != where:
            raise CrelleValueError(
                describe(
                    f"an array on {found}, and {call.names[0]} on {where}",
                    called=describe_arguments(call.args, call.kwargs),
                    expected="one device",
                    try_=f"move each batch: an iterable whose __iter__ yields tuple(a.to({where!r}) for a in batch)",
                )
            )


def operator_over(
    transform: Transform,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    data: Any,
    batch_size: int | None,
    reduction: str,
    memory: int | str | None,
) -> Operator:
    """The operator of f over a data set: the sum of the batches' Hessians, or the rows of all Jacobians."""
    request = transform.request
    what = f"{request.kind.capitalize()} of {function_name(transform.function)}"
    make = Point(transform, args, kwargs).at
    if request.kind == "jacobian":
        batches = Batches(data, batch_size, None, what)
        return StackedOperator(Parts(make, batches, what, memory, request.check, counted=True))
    return over_data(make, data, what=what, reduction=reduction, memory=memory, batch_size=batch_size,
                     check=request.check)  # fmt: skip
