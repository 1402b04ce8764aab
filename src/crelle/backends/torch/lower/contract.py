"""Rules for matrix products."""

from __future__ import annotations

import numpy as np

from crelle.backends.torch.lower.op import Arg, Op, type_of
from crelle.backends.torch.lower.walk import Lowering, rule
from crelle.tangent.program import Contract, Dependence, Ids
from crelle.tangent.stencils import csr


def product(low: Lowering, op: Op, left: Arg, right: Arg, shape: tuple[int, ...]) -> list[int | None]:
    """The parts of left[..., i, k] right[..., k, j] that come from the tangents of either side.

    ``shape`` is [..., i, j]; operands without the leading axes or without i or j come with length 1 there.
    """
    parts: list[int | None] = []
    both = left.linear and right.linear
    for mine, other, on_left in ((left, right, True), (right, left, False)):
        if mine.linear:
            kind = Dependence.VARYING if both else other.kind
            parts.append(_one_sided(low, op, mine, other, on_left, shape, kind))
    return parts


def _matrix(shape: tuple[int, ...], on_left: bool) -> tuple[int, ...]:
    """A vector as a matrix."""
    if len(shape) >= 2:
        return shape
    return (1, *shape) if on_left else (*shape, 1)


def _one_sided(
    low: Lowering, op: Op, mine: Arg, other: Arg, on_left: bool, shape: tuple[int, ...], kind: Dependence
) -> int:
    """[b, f, k] times [b, k, o] or the other way round: k is mixed, b and f stay, o is new."""
    a, c = _matrix(mine.shape, on_left), _matrix(other.shape, not on_left)
    batch = int(np.prod(a[:-2], dtype=np.int64))
    inner = a[-1] if on_left else a[-2]
    free = a[-2] if on_left else a[-1]
    new = c[-1] if on_left else c[-2]
    keep = other.keep()
    pattern, per_batch, size = None, False, new * inner
    if keep is not None:
        whole = keep.reshape(batch, *c[-2:])
        coefficient = whole.transpose(0, 2, 1) if on_left else whole  # [b, new, inner]
        per_batch = batch > 1 and not (coefficient == coefficient[:1]).all()
        if per_batch:
            at = np.nonzero(coefficient)
            pattern = (np.append(0, np.cumsum(coefficient.sum(2).reshape(-1))), at[0] * inner + at[2])
            size *= batch
        elif batch:
            pattern = csr(coefficient[0])

    def into(ids: Ids) -> Ids:
        ids = ids.reshape(batch, *a[-2:])
        ids = ids.transpose(0, 2, 1) if on_left else ids  # [b, inner, free]
        if per_batch:
            return ids.reshape(batch * inner, free)
        return ids.transpose(1, 0, 2).reshape(inner, batch * free)

    def out(ids: Ids) -> Ids:
        if per_batch:
            whole = ids.reshape(batch, new, free)
        elif pattern is None:
            whole = np.broadcast_to(ids.reshape(1, batch, free), (new, batch, free)).transpose(1, 0, 2)
        else:
            whole = ids.reshape(new, batch, free).transpose(1, 0, 2)
        return (whole.transpose(0, 2, 1) if on_left else whole).reshape(shape)

    detail = "" if pattern is None else f"{len(pattern[1]):,} of {size:,} nonzero"
    return low.emit(
        Contract, [mine.value], type_of(op.spec), into=into, out=out, pattern=pattern, dependence=kind, detail=detail,
    )  # fmt: skip


@rule("mm bmm mv dot vdot matmul")
def _product(low: Lowering, op: Op) -> int | None:
    names = ("mat2", "vec", "tensor", "other")
    right = next(op.get(n) for n in names if op.get(n) is not None)
    return low.added(product(low, op, op["self"], right, op.shape))


@rule("addmm addmv baddbmm")
def _added_product(low: Lowering, op: Op) -> int | None:
    left, right = {
        "addmm": ("mat1", "mat2"), "addmv": ("mat", "vec"), "baddbmm": ("batch1", "batch2"),
    }[op.name]  # fmt: skip
    parts = product(low, op, op[left], op[right], op.shape) if op["alpha"] != 0 else []
    if op["self"].linear and op["beta"] != 0:
        parts.append(low.broadcast(op["self"].value, op.shape))
    return low.added(parts)


@rule("addr ger outer")
def _outer(low: Lowering, op: Op) -> int | None:
    first, second = (op["vec1"], op["vec2"]) if op.name == "addr" else (op["self"], op["vec2"])
    parts: list[int | None] = []
    for mine, other, axis in ((first, second, 1), (second, first, 0)):
        if mine.linear:
            value = low.moved(
                mine.value, lambda ids, k=axis: np.expand_dims(ids, k), np.expand_dims(np.empty(mine.shape), axis).shape
            )
            keep = other.keep()
            parts.append(
                low.scaled(value, other.kind, None if keep is None else np.expand_dims(keep, 1 - axis), op.shape)
            )
    if op.name == "addr" and op["self"].linear and op["beta"] != 0:
        parts.append(low.broadcast(op["self"].value, op.shape))
    return low.added(parts)
