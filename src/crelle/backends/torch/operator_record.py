"""Products of operators as one step of autograd: their derivative is the product with the transpose.

A is a constant to the recorded step, except for the tensors that it was made of and that require gradients: their
slopes are computed from the kept graph when a backward pass asks for them, and cost nothing before.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from crelle._errors import CrelleTypeError, describe
from crelle.operators._recording import is_asked_by_user


class Products(Protocol):
    """What is recorded."""

    text: str

    def rows(self, block: Tensor, transposed: bool) -> Tensor:
        """A v, or Aᵀ v, for each row; nothing is recorded."""
        ...

    def sources(self) -> list[Tensor]:
        """The user's tensors that require gradients, and that A depends on."""
        ...

    def slopes(self, block: Tensor, transposed: bool, cotangent: Tensor) -> list[Tensor | None]:
        """Derivatives of Re ⟨cotangent, products⟩ with respect to the sources."""
        ...


def recorded(products: Products, block: Tensor, transposed: bool, tied: bool | None = None) -> Tensor:
    """The products, recorded where the vectors, or what A depends on, ask for it.

    Args:
        tied: whether to record what A depends on; where the user asked for the product, if left out.
    """
    inside = torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
    if not inside and not torch.is_grad_enabled():
        return products.rows(block, transposed)
    if tied is None:
        tied = is_asked_by_user()
    sources = products.sources() if tied else []
    if inside or block.requires_grad or sources:
        return _Product.apply(products, transposed, block, *sources)  # type: ignore[no-any-return, no-untyped-call]
    return products.rows(block, transposed)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(products: Products, transposed: bool, block: Tensor, *sources: Tensor) -> Tensor:
        return products.rows(block, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.products, ctx.transposed, block, *sources = inputs
        ctx.count = len(sources)
        ctx.save_for_backward(block)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        (block,) = ctx.saved_tensors
        products, transposed = ctx.products, ctx.transposed
        along = None
        if ctx.needs_input_grad[2]:
            along = recorded(products, cotangent.conj().resolve_conj(), not transposed, tied=ctx.count > 0)
            along = along.conj().resolve_conj()
        slopes: list[Any] = [None] * ctx.count
        if any(ctx.needs_input_grad[3:]):
            with torch.no_grad():
                slopes = products.slopes(block, transposed, cotangent)
            if torch.is_grad_enabled():
                slopes = [None if slope is None else _final(slope, products.text) for slope in slopes]
        return None, None, along, *slopes

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        _, _, tangent, *others = tangents
        if any(other is not None for other in others):
            raise CrelleTypeError(
                describe(
                    f"a product of the operator of {ctx.products.text}: no forward derivative in its inputs",
                    try_="reverse mode, or crelle.hvp and crelle.jvp, which can be differentiated in every way",
                )
            )
        return recorded(ctx.products, tangent, ctx.transposed, tied=ctx.count > 0)

    @staticmethod
    def vmap(info: Any, in_dims: Any, products: Products, transposed: bool, block: Tensor, *sources: Tensor) -> Any:
        if any(dim is not None for dim in in_dims[3:]):
            raise CrelleTypeError(
                describe(
                    f"vmap over what the operator of {products.text} was made of",
                    expected="one operator for all",
                    try_="crelle.hvp or crelle.jvp inside vmap, which take the point as an argument",
                )
            )
        moved = block.movedim(in_dims[2], 0)
        found = _Product.apply(products, transposed, moved.flatten(0, 1), *sources)  # type: ignore[no-untyped-call]
        return found.unflatten(0, moved.shape[:2]), 0


def _final(slope: Tensor, text: str) -> Tensor:
    """A slope that is not to be differentiated again: a wrong zero would come out."""
    return _Final.apply(slope, torch.zeros((), requires_grad=True), text)  # type: ignore[no-any-return, no-untyped-call]


class _Final(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slope: Tensor, switch: Tensor, text: str) -> Tensor:
        ctx.text = text
        return slope.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        raise CrelleTypeError(
            describe(
                f"a product of the operator of {ctx.text} is differentiated a second time with respect to its inputs",
                expected="one derivative with respect to the inputs, any number with respect to the vectors",
                try_="crelle.hvp or crelle.jvp, which can be differentiated again",
            )
        )
