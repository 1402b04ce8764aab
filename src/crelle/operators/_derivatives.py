"""Jacobians and Hessians as operators: f is linearised once, and kept."""

from __future__ import annotations

from typing import Any

from crelle._errors import CrelleTypeError, describe
from crelle._prepare import Space as Kept
from crelle.backends._protocol import Call
from crelle.operators._linearised import Linearised, linearised
from crelle.operators._operator import Operator
from crelle.operators._spaces import Space


class JacobianOperator(Operator):
    """v ↦ J v and u ↦ Jᵀ u for the Jacobian J of f at a point; made by ``crelle.jacobian(f).at(x)``.

    f is evaluated once; a product then costs about one evaluation of f, or two.

    Attributes:
        value: f(x).
    """

    def __init__(self, call: Call, kept: Kept) -> None:
        self._kept: Linearised = linearised(call, call.backend, kept)
        domain = Space.of(call.backend, call.in_tree, call.inputs, call.names)
        super().__init__(domain, Space.of(call.backend, self._kept.out_tree, self._kept.outputs))
        self.function, self.value, self._call = call.name, self._kept.value, call

    def _products(self, block: Any) -> Any:
        return self._kept.push(block)

    def _adjoint_products(self, block: Any) -> Any:
        return self._kept.pull(block)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of its products."""
        return self._kept.notes

    @property
    def _title(self) -> str:
        return f"Jacobian of {self.function}"


class HessianOperator(Operator):
    """v ↦ H v for the Hessian H of a scalar f at a point; made by ``crelle.hessian(f).at(x)``.

    The gradient of f is linearised once; a product then costs about 1.3 to 2 gradients.

    Attributes:
        value: f(x).
    """

    def __init__(self, call: Call, kept: Kept) -> None:
        self._kept: Linearised = linearised(call, call.backend, kept)
        space = Space.of(call.backend, call.in_tree, call.inputs, call.names)
        super().__init__(space, space, frozenset({"symmetric"}))
        self.function, self.value, self._call = call.name, self._kept.value, call

    def _products(self, block: Any) -> Any:
        return self._kept.push(block)

    _adjoint_products = _products

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of its products."""
        return self._kept.notes

    @property
    def _from_derivatives(self) -> bool:
        return True

    @property
    def _title(self) -> str:
        return f"Hessian of {self.function}"


def operator_at(call: Call, kept: Kept) -> Operator:
    """The operator of a bound call.

    Raises:
        CrelleTypeError: a gradient is no matrix; or a part of a matrix was asked for.
    """
    request = call.request
    if request.kind == "gradient" or request.selection.partial or request.part is not None:
        raise CrelleTypeError(
            describe(
                f"{call.text}.at: an operator stands for a whole matrix",
                called=f"kind={request.kind!r}" + (f", part={request.part!r}" if request.part is not None else ""),
                expected="crelle.jacobian(f).at(x) or crelle.hessian(f).at(x), without rows=, cols=, entries=, part=",
                try_="A.block(...) for the part between some leaves",
            )
        )
    return (HessianOperator if request.kind == "hessian" else JacobianOperator)(call, kept)
