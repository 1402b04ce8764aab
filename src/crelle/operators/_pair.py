"""A model, a loss and one batch, bound: what of the arguments is parameters, inputs and target."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from crelle._call import backend_of, bind, describe_arguments, function_name
from crelle._errors import CrelleError, CrelleShapeError, CrelleTypeError, describe
from crelle._prepare import space_for
from crelle._request import make_request
from crelle.backends import framework_of
from crelle.backends._protocol import Backend, Call
from crelle.operators._batches import copied
from crelle.operators._derivatives import Again, HessianOperator, JacobianOperator, operator_again
from crelle.operators._losses import Form, Losses, losses_of, verify_loss

Function = Callable[..., Any]


class Pair:
    """A model and a loss, as ``crelle.ggn``, ``crelle.fisher`` and others take them.

    Attributes:
        model: a function (params, *inputs) -> outputs, or an ``nn.Module`` of the inputs.
        loss: a function (outputs, target) -> scalar, or the name of one.
        is_module: whether the model holds its parameters itself.
        again: for the batches of a data set: what linearises the model without tracing it anew; else ``None``.
    """

    again: Again | None = None

    def __init__(self, kind: str, model: Any, loss: Any, reduction: str | None) -> None:
        name = function_name(model)
        self.what = f"crelle.{kind}({name}, {loss if isinstance(loss, str) else function_name(loss)})"
        if not callable(model):
            raise CrelleTypeError(
                describe(
                    f"crelle.{kind}(model, loss): model is of type {type(model).__name__}",
                    expected="a function (params, x) -> outputs, or an nn.Module",
                    try_="pass the function itself, not its result" if hasattr(model, "shape") else None,
                )
            )
        verify_loss(loss, reduction, self.what)
        self.model, self.loss, self.reduction, self.name = model, loss, reduction or "mean", name
        self.is_module = framework_of(model) == "torch"

    @property
    def loss_reduction(self) -> str:
        """``"sum"`` where the loss says so, else ``"mean"``."""
        if isinstance(self.loss, str):
            return self.reduction
        said = getattr(self.loss, "keywords", {}).get("reduction", getattr(self.loss, "reduction", "mean"))
        return "sum" if said == "sum" else "mean"

    @property
    def arguments(self) -> str:
        """What a call takes, for errors."""
        return "(x, y)" if self.is_module else "(params, x, y)"

    def verify_count(self, args: tuple[Any, ...]) -> None:
        """Refuse a call without inputs or target.

        Raises:
            CrelleTypeError: too few arguments.
        """
        if len(args) < (2 if self.is_module else 3):
            raise CrelleTypeError(
                describe(f"{self.what}: too few arguments", called=describe_arguments(args, {}),
                         expected=f"{self.arguments}: the target comes last")
            )  # fmt: skip

    def frozen(self, *args: Any) -> tuple[Pair, Any]:
        """For all batches of a data set: the pair with a function as its model, and a copy of the parameters.

        Args:
            *args: as for one batch.
        """
        bound, pair = Bound(self, args), copy.copy(self)
        pair.model, pair.is_module, pair.again = bound.call.f, False, {}
        return pair, copied(bound.params, bound.call.backend)

    def loss_in(self, backend: Backend) -> Function:
        """The loss as a function."""
        if isinstance(self.loss, str):
            return losses_of(backend, self.what).named(self.loss, self.reduction)
        return self.loss  # type: ignore[no-any-return]


@contextmanager
def _asked_as(what: str, other: str) -> Iterator[None]:
    """Complaints of a derivative, in the words of what the user asked for."""
    try:
        yield
    except CrelleError as error:
        head, _, rest = str(error).partition(": ")
        if not head.startswith(other):
            raise
        rest = rest.replace("wrt='params', and the module", "the module").replace(", or wrt='inputs'", "")
        raise type(error)(f"{what}: {rest}") from None


class Bound:
    """A :class:`Pair` with one batch.

    Attributes:
        call: of the model, with respect to its parameters.
        params, inputs, target: the arguments.
        loss: as a function (outputs, target) -> scalar.
    """

    def __init__(self, pair: Pair, args: tuple[Any, ...]) -> None:
        pair.verify_count(args)
        self.pair, self.what = pair, pair.what
        *given, self.target = args
        backend = backend_of(pair.model, args, {}, pair.what)
        self.losses: Losses = losses_of(backend, pair.what)
        self._request = make_request(
            "jacobian", pair.model, argnums=0, memory=None, mode="auto", chunk=None,
            wrt="params" if pair.is_module else "inputs",
        )  # fmt: skip
        with _asked_as(pair.what, "crelle.jacobian"):
            self.call: Call = bind(pair.model, tuple(given), {}, self._request)
        self.call.name, self.call.frozen = pair.name, pair.again is not None
        self.params, *self.inputs = self.call.args
        self.loss = pair.loss_in(backend)

    @functools.cached_property
    def jacobian(self) -> JacobianOperator:
        """J of the outputs with respect to the parameters: the model is evaluated, and kept."""
        kept = space_for(self.pair.model, (self._request, self._request.selection.key))
        with _asked_as(self.what, "crelle.jacobian"):
            if self.pair.again is None:
                return JacobianOperator(self.call, kept)
            return cast(JacobianOperator, operator_again(self.call, kept, self.pair.again))

    @property
    def outputs(self) -> Any:
        """What the model returned."""
        return self.jacobian.value

    @functools.cached_property
    def form(self) -> Form | None:
        """The closed form of the loss, where it is known to have one."""
        return self.losses.form(self.loss, self.outputs, self.target)

    @functools.cached_property
    def slope(self) -> tuple[Any, Any]:
        """(loss, its gradient with respect to the outputs)."""
        value, gradient = self.losses.slope(self.loss, self.outputs, self.target)
        return value, gradient

    def loss_hessian(self) -> HessianOperator:
        """H of the loss with respect to the outputs, linearised."""
        request = make_request("hessian", self.loss, argnums=0, memory=None, mode="auto", chunk=None, wrt="inputs")
        with _asked_as(f"{self.what}: the loss", "crelle.hessian"):
            call = bind(self.loss, (self.outputs, self.target), {}, request)
            return HessianOperator(call, space_for(self.loss, (request, request.selection.key)))

    # -- sample by sample

    @property
    def size(self) -> int:
        """Number of samples: the length of the first axis of inputs and target.

        Raises:
            CrelleShapeError: they have none, or differ.
        """
        backend = self.call.backend
        leaves = backend.flatten((self.inputs, self.target))[0]
        lengths = {leaf.shape[0] if getattr(leaf, "shape", ()) else None for leaf in leaves}
        if len(lengths) != 1 or None in lengths:
            raise CrelleShapeError(
                describe(
                    f"{self.what}: samples lie along the first axis, and the arrays have different ones",
                    called=describe_arguments((*self.inputs, self.target), {}),
                    expected="inputs and target with the same first axis",
                    try_="close over what all samples share",
                )
            )
        return lengths.pop()  # type: ignore[return-value]

    @property
    def outputs_per_sample(self) -> int:
        """How many numbers the model returns for each sample."""
        return self.jacobian.shape[0] // max(1, self.size)

    def alone(self, tree: Any) -> Any:
        """A sample as a batch of one."""
        backend = self.call.backend
        leaves, form = backend.flatten(tree)
        return backend.unflatten(form, [leaf[None] for leaf in leaves])

    def sample_loss(self, params: Any, *sample: Any) -> Any:
        """The loss of one sample: that of a batch of one."""
        *inputs, target = (self.alone(item) for item in sample)
        return self.loss(self.call.f(params, *inputs), target)

    def sample_outputs(self, params: Any, *inputs: Any) -> Any:
        """The outputs of one sample, as a batch of one."""
        return self.call.f(params, *map(self.alone, inputs))

    def sample_slopes(self) -> Any:
        """The gradient of each sample's loss with respect to its outputs: a tree like the outputs."""
        return self.losses.each_slope(lambda z, y: self.loss(self.alone(z), self.alone(y)), [self.outputs, self.target])
