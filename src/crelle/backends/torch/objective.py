"""A module and a loss as one module; made by ``crelle.objective``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from crelle.operators._pair import Pair


class Objective(nn.Module):
    """forward(x, y) = loss(model(x), y).

    Attributes:
        model: the module.
        loss: the loss, or its name, as it was given; ``reduce`` is the function.
    """

    def __init__(self, model: nn.Module, loss: Any, reduce: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.model, self.loss, self.reduce = model, loss, reduce
        self.train(model.training)

    def forward(self, *batch: Any) -> Any:
        """What the model loses on the batch; the target comes last."""
        *inputs, target = batch
        return self.reduce(self.model(*inputs), target)

    def pair(self, buffers: dict[str, Tensor]) -> Pair:
        """The model as a function of its parameters, and the loss."""

        def model(params: dict[str, Tensor], *inputs: Any) -> Any:
            return functional_call(self.model, {**params, **buffers}, inputs)

        model.__name__ = type(self.model).__name__
        return Pair("objective", model, self.reduce, None)
