"""f of one call as a function of flat leaves, and the user's trees around the answer. No tracing lives here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle.backends._protocol import Call


def is_dynamic(leaf: Any) -> bool:
    """Whether a leaf becomes an input of the trace: JAX's arrays, tracers and shape structs."""
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))


@dataclass(slots=True)
class Result:
    """What one evaluation of f returned: trees, and the leaves of the aux tree that are no arrays."""

    out_tree: Any
    aux_tree: Any
    aux_static: list[Any]


@dataclass(slots=True)
class Layout:
    """Where the arrays of a call are among its leaves, and what the rest was. Holds no array of JAX.

    Attributes:
        order: positions of the arrays, the differentiated ones first.
        active: how many are differentiated.
        static: every other leaf, with its position.
        result: what f returned when it was last evaluated.
    """

    order: list[int]
    active: int
    static: list[tuple[int, Any]]
    result: Result | None = None


def layout_of(call: Call) -> Layout:
    """The layout of a call."""
    count = len(call.args)
    # argnums may name the arguments in any order: the differentiated leaves follow it
    starts = np.cumsum([0, *(len(jax.tree.leaves(arg)) for arg in call.args)]).tolist()
    order = [i for k in call.request.argnums_tuple for i in range(starts[k % count], starts[k % count + 1])]
    active, taken = len(order), set(order)
    static = []
    for i, leaf in enumerate(call.leaves):
        if i not in taken:
            if is_dynamic(leaf):
                order.append(i)
            else:
                static.append((i, leaf))
    return Layout(order, active, static)


class FlatFunction:
    """f of one call as a function of its arrays, in the order of its layout."""

    def __init__(self, call: Call, layout: Layout | None = None) -> None:
        self.call = call
        self.layout = layout_of(call) if layout is None else layout

    @property
    def dynamic(self) -> list[Any]:
        """The arrays of the call, in the order that :meth:`__call__` takes them."""
        return [self.call.leaves[i] for i in self.layout.order]

    def __call__(self, *dynamic: Any) -> tuple[list[Any], list[Any]]:
        """Flat outputs and flat array leaves of aux."""
        leaves = list(self.call.leaves)
        for i, value in zip(self.layout.order, dynamic, strict=True):
            leaves[i] = value
        args, kwargs = jax.tree.unflatten(self.call.tree, leaves)
        output = self.call.f(*args, **kwargs)
        aux: Any = None
        if self.call.request.has_aux:
            if not isinstance(output, tuple) or len(output) != 2:
                raise CrelleTypeError(
                    describe(
                        f"{self.call.text}: has_aux=True, and f returned {_in_words(output)}, not (output, aux)",
                        called=types_text(self.call.inputs, self.call.names),
                        try_="return a pair from f, or leave has_aux= out",
                    )
                )
            output, aux = output
        outputs, out_tree = jax.tree.flatten(output)
        check_outputs(self.call, outputs)
        aux_leaves, aux_tree = jax.tree.flatten(aux)
        static = [_ARRAY if is_dynamic(leaf) else leaf for leaf in aux_leaves]
        self.layout.result = Result(out_tree, aux_tree, static)
        return [jnp.asarray(leaf) for leaf in outputs], [leaf for leaf in aux_leaves if is_dynamic(leaf)]


def _in_words(value: Any) -> str:
    return str(ArrayType(str(value.dtype), value.shape)) if is_dynamic(value) else type(value).__name__


_ARRAY = object()  # stands for an array among the static leaves of aux


def assemble(call: Call, layout: Layout, blocks: Any, values: list[Any], aux: list[Any]) -> Any:
    """The user's answer from flat parts."""
    result, request = layout.result, call.request
    assert result is not None
    if request.flat:
        answer = blocks[0] if request.kind == "gradient" else blocks
    else:
        rows = [jax.tree.unflatten(call.in_tree, row) for row in blocks]
        if request.kind == "gradient":
            answer = rows[0]
        else:
            answer = jax.tree.unflatten(call.in_tree if request.kind == "hessian" else result.out_tree, rows)
    extra = []
    if request.value:
        extra.append(jax.tree.unflatten(result.out_tree, values))
    if request.has_aux:
        arrays = iter(aux)
        filled = [next(arrays) if static is _ARRAY else static for static in result.aux_static]
        extra.append(jax.tree.unflatten(result.aux_tree, filled))
    if request.value:
        return (tuple(extra) if request.has_aux else extra[0]), answer
    return (answer, extra[0]) if request.has_aux else answer


def check_outputs(call: Call, outputs: list[Any]) -> None:
    """Refuse what has no derivative of the kind that was asked for.

    Raises:
        CrelleTypeError: nothing, no array, or an integer was returned.
        CrelleShapeError: a gradient or Hessian of a function that returns no scalar.
    """
    called = types_text(call.inputs, call.names)
    for leaf in outputs:
        try:
            kind = jnp.result_type(leaf)
        except TypeError:
            raise CrelleTypeError(
                describe(
                    f"{call.text}: f returned {leaf!r} of type {type(leaf).__name__}",
                    called=called,
                    expected="an array, or a tree of arrays",
                    try_="has_aux=True if f returns (output, aux)",
                )
            ) from None
        if not jnp.issubdtype(kind, jnp.inexact):
            raise CrelleTypeError(
                describe(
                    f"{call.text}: f returned {ArrayType(str(kind), np.shape(leaf))}, which has no derivative",
                    called=called,
                    expected="floating-point outputs",
                    try_="has_aux=True, with integer results in aux",
                )
            )
    if not outputs:
        raise CrelleTypeError(
            describe(f"{call.text}: f returned nothing", called=called, expected="an array, or a tree of arrays",
                     likely="a missing return statement")
        )  # fmt: skip
    if call.request.kind in ("hessian", "gradient") and (len(outputs) != 1 or np.shape(outputs[0]) != ()):
        returned = ", ".join(str(ArrayType(str(jnp.result_type(o)), np.shape(o))) for o in outputs)
        raise CrelleShapeError(
            describe(
                f"{call.text}: f must return a scalar, and returned {returned}",
                called=called,
                expected="one array of shape []",
                likely="a missing sum or mean, or an axis of length 1",
                try_="f(x).sum(), f(x)[0], or crelle.jacobian for a function with several outputs",
            )
        )
