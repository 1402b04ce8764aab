"""The generalised Gauss-Newton matrix Jᵀ H J of a model and a loss, and matrices of the same make."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from crelle._errors import CrelleTypeError, describe
from crelle.operators._losses import Form
from crelle.operators._operator import Operator
from crelle.operators._pair import Bound, Pair
from crelle.operators._recording import asked_by_user
from crelle.operators._samples import exact_trace, joined, unit_columns
from crelle.operators._spaces import Space
from crelle.operators._vectors import vectors_of

_PSD = frozenset({"symmetric", "psd"})


class LossHessian(Operator):
    """v ↦ H v for the Hessian H of a loss with respect to the outputs, in closed form."""

    def __init__(self, space: Space, form: Form) -> None:
        super().__init__(space, space, _PSD if form.convex else frozenset({"symmetric"}))
        self.form = form

    def _products(self, block: Any) -> Any:
        return self._flat(self.form.curvature(self._shaped(block)))

    _adjoint_products = _products

    def columns(self, count: int) -> Iterator[Any]:
        """Blocks [1, m] that hold a vector s for each of ``count`` samples, with H = Σ s sᵀ in each of them."""
        for column in unit_columns(self.domain, count):
            yield self._flat(self.form.factor(self._shaped(column)))

    def _shaped(self, block: Any) -> Any:
        return vectors_of(self.backend).cut(block, self.domain.types)[0]

    def _flat(self, values: Any) -> Any:
        return vectors_of(self.backend).join([values], self.domain.dtype)


class GaussNewtonOperator(Operator):
    """v ↦ Jᵀ H J v for the Jacobian J of a model's outputs z with respect to its parameters, and an H on the outputs.

    Made by ``crelle.ggn(model, loss).at(...)`` and ``crelle.fisher(model, loss).at(...)``. The model is evaluated once;
    a product then costs about as much as a gradient.

    Attributes:
        jacobian: J, an operator.
        curvature: H, an operator on the outputs.
        outputs: z, as the model returned it.
    """

    def __init__(self, bound: Bound, curvature: Operator, title: str) -> None:
        self.jacobian, self.curvature, self.outputs = bound.jacobian, curvature, bound.outputs
        super().__init__(self.jacobian.domain, self.jacobian.domain, curvature.tags & _PSD)
        self._bound, self._name = bound, title
        form = curvature.form if isinstance(curvature, LossHessian) else None
        self._fused = None if form is None else bound.losses.gauss_newton(self.jacobian._kept, form)

    def _products(self, block: Any) -> Any:
        j = self.jacobian
        if self._fused is not None:
            return self._fused.push(block)
        with asked_by_user(False):  # H is that of fixed outputs: a recorded J would give half of a derivative
            return j._adjoint_products(self.curvature._products(j._products(block)))

    _adjoint_products = _products

    def _answer(self, form: str, leaves: list[Any]) -> Any:
        one = getattr(self._fused, "one", None)
        if one is None or form not in ("flat", "tree"):
            return super()._answer(form, leaves)
        found = one(form, leaves[0] if form == "flat" else leaves, False)
        return found if form == "flat" else self.backend.unflatten(self.domain.tree, found)

    _adjoint_answer = _answer

    @property
    def kept_bytes(self) -> int:
        """Of J and H."""
        return self.jacobian.kept_bytes + self.curvature.kept_bytes

    @property
    def value(self) -> Any:
        """The loss."""
        return self._bound.slope[0]

    def gradient(self) -> Any:
        """Jᵀ ∂loss/∂z: the gradient of the loss with respect to the parameters, a tree like them."""
        space = self.jacobian.codomain
        return self.domain.leave(self.jacobian._adjoint_products(joined(self._bound.slope[1], space)))[0]

    def exact_trace(self, memory: int | str | None = None) -> float | None:
        """tr G = Σ_c Σ_n ‖J_nᵀ S_n[:, c]‖² with S_n S_nᵀ = H_n for each sample n: exact, without random numbers.

        Args:
            memory: for gradients of samples at once, of those layers that need them: bytes, or a text such as
                ``"2GB"``; a tenth of what is free if left out.

        Returns:
            A number; ``None`` if the outputs of a sample depend on other samples, or the loss is no sum or
            mean over samples: then the sum does not hold.

        Cost:
            About one gradient for each output of a sample: 10 for 10 classes. The gradients of samples are formed for
            biases and convolutions, not for the weights of linear layers (I. Goodfellow, arXiv:1510.01799).
        """
        return exact_trace(self, self._bound, memory)

    @property
    def outputs_per_sample(self) -> int:
        """How many numbers the model returns for each sample: the passes that :meth:`exact_trace` takes."""
        return self._bound.outputs_per_sample

    @property
    def _from_derivatives(self) -> bool:
        return self.curvature._from_derivatives

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of its products."""
        return tuple(dict.fromkeys((*self.jacobian.notes, *self.curvature.notes)))

    @property
    def _title(self) -> str:
        return f"{self._name} of {self.jacobian.function}"


class OfModel:
    """What is asked of a model and a loss: ``.at(...)`` makes the operator."""

    title = ""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def _one(self, *args: Any) -> GaussNewtonOperator:
        """The operator of one batch."""
        raise NotImplementedError

    def at(
        self,
        *args: Any,
        data: Any = None,
        batch_size: int | None = None,
        reduction: str | None = None,
        memory: int | str | None = None,
    ) -> Operator:
        """The operator at some parameters, of one batch or of a data set.

        Args:
            *args: ``(params, x, y)`` for a function ``model(params, x)``, ``(x, y)`` for an ``nn.Module``; with several
                inputs, the target comes last. With ``data``: ``(params,)``, or nothing for an ``nn.Module``.
            data: an iterable of batches ``(x, y)`` that can be gone through again, such as a ``DataLoader``; or, with
                ``batch_size``, a tuple of arrays.
            batch_size: cut arrays into batches of so many samples.
            reduction: how the loss sums up the samples of a batch: ``"mean"`` or ``"sum"``; read off losses that have
                such an option, ``"mean"`` for others.
            memory: how much the kept linearisations may take: bytes, or a text such as ``"2GB"``; half of what is free
                if left out.

        Raises:
            CrelleTypeError: too few arguments; parameters that are no floating-point arrays.

        Cost:
            One evaluation of the model; then about one gradient for each product. With ``data`` this holds for each
            batch.
        """
        if data is None:
            return self._one(*args)
        from crelle.operators._batches import arguments_of
        from crelle.operators._data import over_data

        what = f"{self.title} of {self._pair.name}"
        one, shared = copy.copy(self), [*args]

        def make(batch: Any) -> Operator:
            nonlocal shared
            given, named = arguments_of(batch, "a batch")
            if named:
                raise CrelleTypeError(
                    describe(f"{self._pair.what}.at: a batch is a dict, which does not say what is the target",
                             expected="(x, y): inputs, and the target last",
                             try_="data that yields tuples: a collate_fn=, or [(b['x'], b['y']) for b in data]")
                )  # fmt: skip
            if one._pair is self._pair:
                one._pair, *shared = self._pair.frozen(*args, *given)
            return one._one(*shared, *given)

        return over_data(
            make, data, what=what, batch_size=batch_size, memory=memory,
            reduction=reduction or self._pair.loss_reduction,
        )  # fmt: skip

    def __repr__(self) -> str:
        return self._pair.what


class GaussNewton(OfModel):
    """See :func:`crelle.ggn`."""

    title = "GGN"

    def _one(self, *args: Any) -> GaussNewtonOperator:
        bound = Bound(self._pair, args)
        form = bound.form
        curvature = bound.loss_hessian() if form is None else LossHessian(bound.jacobian.codomain, form)
        return GaussNewtonOperator(bound, curvature, self.title)


def ggn(model: Any, loss: Any, *, reduction: str | None = None) -> GaussNewton:
    """G = Jᵀ H J: J the Jacobian of a model's outputs in its parameters, H the Hessian of the loss in the outputs.

    The generalised Gauss-Newton matrix: the Hessian of the loss without the curvature of the model. Positive
    semidefinite where the loss is convex in the outputs, which those with a closed form are.

    Args:
        model: a function ``model(params, x)`` of JAX or PyTorch, or an ``nn.Module``.
        loss: a function ``loss(outputs, target)`` that returns a scalar; or ``"cross_entropy"``, ``"mse"``, ``"bce"``
            (of logits): those of ``torch.nn.functional``, and the same in JAX, with classes along the last axis.
        reduction: of a loss given by name: ``"mean"``, if left out, or ``"sum"``.

    Returns:
        An object with ``.at(params, x, y)``, or ``.at(x, y)`` for a module, which gives the operator. In PyTorch,
        autograd records none of its products: they are numbers, without derivatives.

    Raises:
        CrelleTypeError, CrelleValueError: what is no model, no loss, or no name of one.

    Cost:
        H is known for ``F.cross_entropy``, ``F.mse_loss``, ``F.binary_cross_entropy_with_logits``, their modules, and
        ``functools.partial`` of them, and for losses given by name; that of any other loss is linearised like a
        Hessian. J is linearised once: a product costs about as much as a gradient (N. N. Schraudolph, *Fast
        curvature matrix-vector products for second-order gradient descent*, Neural Computation 14, 2002).

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x, y = torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.zeros(2, 1)
    >>> ggn(model, "mse").at(x, y).todense()  # 2/N XᵀX
    tensor([[2., 2.],
            [2., 4.]])
    """
    return GaussNewton(Pair("ggn", model, loss, reduction))
