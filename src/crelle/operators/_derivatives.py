"""Jacobians and Hessians as operators: f is linearised once, and kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from crelle._errors import CrelleTypeError, describe
from crelle._prepare import Space as Kept
from crelle.backends._protocol import Call
from crelle.operators._linearised import Linearised, linearised
from crelle.operators._operator import Operator
from crelle.operators._spaces import Space

Again = dict[Hashable, Callable[[Call], Linearised | None]]


class _Derivative(Operator):
    """What Jacobians and Hessians share: f at one point, linearised."""

    _kept: Linearised
    function: str

    def _products(self, block: Any) -> Any:
        return self._kept.push(block)

    def _adjoint_products(self, block: Any) -> Any:
        return self._kept.pull(block)

    def _answer(self, form: str, leaves: list[Any]) -> Any:
        found = self._one(form, leaves, self.codomain, False)
        return super()._answer(form, leaves) if found is None else found

    def _adjoint_answer(self, form: str, leaves: list[Any]) -> Any:
        found = self._one(form, leaves, self.domain, True)
        return super()._adjoint_answer(form, leaves) if found is None else found

    def _one(self, form: str, leaves: list[Any], made: Space, transposed: bool) -> Any:
        """The product with one vector where the backend computes it as it comes, in one step."""
        one = getattr(self._kept, "one", None)
        if one is None or form not in ("tree", "flat"):
            return None
        if form == "flat":
            return one(form, leaves[0], transposed)
        return self.backend.unflatten(made.tree, one(form, leaves, transposed))

    @property
    def _one_way(self) -> bool:
        return bool(getattr(self._kept, "one_way", False))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of its products."""
        return self._kept.notes


class JacobianOperator(_Derivative):
    """v ↦ J v and u ↦ Jᵀ u for the Jacobian J of f at a point; made by ``crelle.jacobian(f).at(x)``.

    f is evaluated once; a product then costs about one evaluation of f, or two. Jᵀ is the plain transpose, not
    conjugated. Where f takes or returns complex numbers, J is complex, and so are the vectors on both sides; real
    ones are converted.

    ``A @ v`` can be differentiated with respect to v. In PyTorch also with respect to x, other arguments, and what f
    captures (parameters), where these require gradients and grad mode is on, once; the products inside estimates are
    not recorded. What f reads must not be changed in place while A is in use, x itself may be.

    Attributes:
        value: f(x).
    """

    def __init__(self, call: Call, kept: Kept, known: Linearised | None = None) -> None:
        self._kept = known or linearised(call, call.backend, kept)
        self.function, self.value, self._call = call.name, self._kept.value, call
        domain = Space.of(call.backend, call.in_tree, self._kept.inputs, call.names)
        outputs = self._kept.outputs
        paths = tuple(call.backend.paths(self.value)) if len(outputs) > 1 else ()
        super().__init__(domain, Space.of(call.backend, self._kept.out_tree, outputs, paths))

    @property
    def _title(self) -> str:
        return f"Jacobian of {self.function}"


class HessianOperator(_Derivative):
    """v ↦ H v for the Hessian H of a scalar f at a point; made by ``crelle.hessian(f).at(x)``.

    The gradient of f is linearised once; a product then costs about 1.3 to 2 gradients.

    Attributes:
        value: f(x).
    """

    def __init__(self, call: Call, kept: Kept, known: Linearised | None = None) -> None:
        self._kept = known or linearised(call, call.backend, kept)
        self.function, self.value, self._call = call.name, self._kept.value, call
        space = Space.of(call.backend, call.in_tree, call.inputs, call.names)
        super().__init__(space, space, frozenset({"symmetric"}))

    @property
    def _from_derivatives(self) -> bool:
        return True

    @property
    def _title(self) -> str:
        return f"Hessian of {self.function}"


def operator_at(call: Call, kept: Kept, known: Linearised | None = None) -> JacobianOperator | HessianOperator:
    """The operator of a bound call, which may have been linearised already.

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
    return (HessianOperator if request.kind == "hessian" else JacobianOperator)(call, kept, known)


#: Types of batches for which a backend may keep what linearises f without tracing it again.
_SIGNATURES = 16


def operator_again(call: Call, kept: Kept, again: Again) -> JacobianOperator | HessianOperator:
    """As :func:`operator_at`, for one of many batches: f is traced once for each type of batch.

    Args:
        again: what linearises f at other batches, by their types; filled here.
    """
    known = again.get(call.signature)
    operator = operator_at(call, kept, None if known is None else known(call))
    if known is None and hasattr(operator._kept, "again") and len(again) < _SIGNATURES:
        again[call.signature] = operator._kept.again
    return operator
