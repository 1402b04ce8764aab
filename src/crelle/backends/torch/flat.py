"""A PyTorch function of one call, seen as a function of flat leaves; and what it may return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle._request import Request
from crelle.backends._protocol import Call
from crelle.backends.torch.run import type_of

_TENSOR = object()  # marks the place of a tensor among the leaves of aux


@dataclass(slots=True)
class Result:
    """What f returned: trees, and which leaves of aux are not tensors."""

    out_tree: Any
    aux_tree: Any
    aux_static: list[Any]


@dataclass(slots=True)
class Layout:
    """Where the tensors of a call are among its leaves, active ones first, and what f returned."""

    order: list[int]
    active: int
    result: Result | None = None


def layout_of(call: Call) -> Layout:
    """The layout of all calls with this signature."""
    starts = [0]
    for arg in call.args:
        starts.append(starts[-1] + pytree.tree_structure(arg).num_leaves)
    wanted = [k % len(call.args) for k in call.request.argnums_tuple]
    active = [i for k in wanted for i in range(starts[k], starts[k + 1])]
    taken = set(active)
    passive = [i for i, leaf in enumerate(call.leaves) if i not in taken and isinstance(leaf, Tensor)]
    return Layout([*active, *passive], len(active))


class FlatFunction:
    """f of one call as a function of flat leaves: the active ones first, then the other tensors."""

    def __init__(self, call: Call, layout: Layout | None = None) -> None:
        self.call = call
        self.leaves, self.tree = call.leaves, call.tree
        self.layout = layout_of(call) if layout is None else layout

    @property
    def active(self) -> int:
        """How many of the tensors are differentiated."""
        return self.layout.active

    @property
    def dynamic(self) -> list[Any]:
        """The tensors of the call, in the order that :meth:`__call__` takes them."""
        return [self.leaves[i] for i in self.layout.order]

    def __call__(self, *dynamic: Any) -> tuple[list[Any], list[Any]]:
        """Flat outputs and flat tensors of aux."""
        leaves = list(self.leaves)
        for i, value in zip(self.layout.order, dynamic, strict=True):
            leaves[i] = value
        args, kwargs = pytree.tree_unflatten(leaves, self.tree)
        output = self.call.f(*args, **kwargs)
        aux: Any = None
        if self.call.request.has_aux:
            if not isinstance(output, tuple) or len(output) != 2:
                raise CrelleTypeError(
                    describe(
                        f"{self.call.text}: has_aux=True, and f returned {type(output).__name__}, not (output, aux)",
                        called=types_text(self.call.inputs, self.call.names),
                        try_="return a pair from f, or leave has_aux= out",
                    )
                )
            output, aux = output
        outputs, out_tree = pytree.tree_flatten(output)
        _check_outputs(self.call, outputs)
        aux_leaves, aux_tree = pytree.tree_flatten(aux)
        tensors = [leaf for leaf in aux_leaves if isinstance(leaf, Tensor)]
        static = [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in aux_leaves]
        self.layout.result = Result(out_tree, aux_tree, static)
        return list(outputs), tensors

    def assemble(self, blocks: Any, values: list[Any], aux: list[Any]) -> Any:
        """The user's answer from flat parts."""
        result = self.layout.result
        assert result is not None
        request, in_tree = self.call.request, self.call.in_tree
        answer = blocks[0] if request.kind == "gradient" else blocks
        if not request.flat:
            rows = [pytree.tree_unflatten(row, in_tree) for row in blocks]
            if request.kind == "gradient":
                (answer,) = rows
            else:
                answer = pytree.tree_unflatten(rows, in_tree if request.kind == "hessian" else result.out_tree)
        if not (request.value or request.has_aux):
            return answer
        extra = []
        if request.value:
            extra.append(pytree.tree_unflatten(values, result.out_tree))
        if request.has_aux:
            tensors = iter(aux)
            filled = [next(tensors) if static is _TENSOR else static for static in result.aux_static]
            extra.append(pytree.tree_unflatten(filled, result.aux_tree))
        if request.value:
            return (tuple(extra) if request.has_aux else extra[0]), answer
        return answer, extra[0]


def _check_outputs(call: Call, outputs: list[Any]) -> None:
    called = types_text(call.inputs, call.names)
    for leaf in outputs:
        if not isinstance(leaf, Tensor):
            raise CrelleTypeError(
                describe(
                    f"{call.text}: f returned {_short(leaf)} of type {type(leaf).__name__}",
                    called=called,
                    expected="a tensor, or a tree of tensors",
                    likely="a value taken out of PyTorch with .item(), float() or .numpy() has no derivative",
                    try_="return tensors; has_aux=True if f returns (output, aux)",
                )
            )
        if not (leaf.is_floating_point() or leaf.is_complex()):
            raise CrelleTypeError(
                describe(
                    f"{call.text}: f returned {type_of(leaf)}, which has no derivative",
                    called=called,
                    expected="floating-point outputs",
                    try_="has_aux=True, with integer results in aux",
                )
            )
    if not outputs:
        raise CrelleTypeError(
            describe(f"{call.text}: f returned nothing", called=called, expected="a tensor, or a tree of tensors",
                     likely="a missing return statement")
        )  # fmt: skip
    if call.request.kind in ("hessian", "gradient") and (len(outputs) != 1 or outputs[0].shape != ()):
        raise CrelleShapeError(
            describe(
                f"{call.text}: f must return a scalar, and returned {', '.join(str(type_of(o)) for o in outputs)}",
                called=called,
                expected="one tensor of shape []",
                likely="a missing sum or mean, or an axis of length 1",
                try_="f(x).sum(), f(x)[0], or crelle.jacobian for a function with several outputs",
            )
        )


def verify_complex(
    request: Request, text: str, inputs: tuple[ArrayType, ...], names: tuple[str, ...], outputs: tuple[ArrayType, ...]
) -> None:
    """Refuse what has no meaning for complex tensors.

    Raises:
        CrelleTypeError: ``holomorphic=True`` for real tensors; or left out where only it has a meaning.
    """
    types = f"{types_text(inputs, names)} -> {types_text(outputs)}"
    complex_in, complex_out = (any(t.is_complex for t in side) for side in (inputs, outputs))
    if request.holomorphic and not (complex_in and complex_out):
        raise CrelleTypeError(
            describe(f"{text}: holomorphic=True needs complex inputs and outputs", called=types,
                     try_="leave holomorphic= out, or convert the input to complex")
        )  # fmt: skip
    if not request.holomorphic and complex_in and (complex_out or request.kind == "hessian"):
        raise CrelleTypeError(
            describe(
                f"{text}: a complex function has one complex derivative only if it is holomorphic",
                called=types,
                likely="torch.func.jacrev would return the conjugate of what torch.func.jacfwd returns",
                try_="holomorphic=True if it is; otherwise differentiate real and imaginary parts as real tensors",
            )
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
