"""Values that do not depend on the tangents: what they depend on, what they are, where they are zero."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crelle.backends.torch.lower.known import Known, on_ids
from crelle.backends.torch.lower.movement import MOVES, move_of
from crelle.backends.torch.lower.op import Arg, Entry, Op, Primal
from crelle.backends.torch.rewrite.values import is_random
from crelle.tangent.program import Dependence

#: Only the shape and the dtype of the first argument matter.
SHAPE_ONLY = frozenset(
    """
    zeros_like ones_like full_like new_zeros new_ones new_full fill zero copy _new_zeros_with_same_feature_meta
    """.split()
)
_NO_VALUES = frozenset("empty empty_like new_empty empty_strided new_empty_strided empty_permuted".split())


def results(op: Op) -> list[Entry]:
    """The results of an operation without tangents."""
    specs = op.specs
    if op.name in _NO_VALUES:
        return [Primal(Dependence.CONSTANT) for _ in specs]
    if is_random(op.target):
        return [Primal(Dependence.VARYING) for _ in specs]
    read = (
        op.tensors[1:]
        if op.name in SHAPE_ONLY and op.tensors and op.args and op.args[0] is op.tensors[0]
        else op.tensors
    )
    kind = max((a.kind for a in read), default=Dependence.CONSTANT)
    inputs = [a.entry.known if isinstance(a.entry, Primal) else None for a in read]
    if all(k is not None for k in inputs):
        known = Known(lambda: op.run(lambda a: _value(a, read)))
        if not op.several:
            return [Primal(kind, known)]
        return [Primal(kind, known.item(k)) for k in range(len(specs))]
    found: list[Entry] = []
    for k, spec in enumerate(specs):
        support = choices = None
        if spec is not None and (spec.dtype.is_floating_point or spec.dtype.is_complex):
            support = _support(op, k)
        elif spec is not None:
            choices = _choices(op, k)
        found.append(Primal(kind, None, support, choices))
    return found


def _value(a: Arg, read: list[Arg]) -> Tensor:
    if not any(a is r for r in read):  # only its shape is read
        return torch.empty(a.shape, dtype=a.spec.dtype, device=a.spec.device)
    assert isinstance(a.entry, Primal) and a.entry.known is not None
    found = a.entry.known.get()
    assert isinstance(found, Tensor)
    return found


# -- zeros of what is not known

_KEEP_ZERO = frozenset(
    """
    neg abs sqrt sin tan asin atan sinh tanh asinh atanh expm1 log1p erf erfinv relu square sgn sign trunc round floor
    ceil positive conj_physical _conj_physical _conj real imag _to_copy clone alias detach lift_fresh nan_to_num
    contiguous resolve_conj _neg_view resolve_neg
    """.split()
)
_MOVES = frozenset(MOVES.split())
_PARTS = {"linalg_cholesky_ex": 0, "linalg_cholesky": 0, "linalg_qr": 1}


def _support(op: Op, k: int) -> Callable[[], Any] | None:
    rule = _SUPPORTS.get(op.name)
    if op.name in _KEEP_ZERO:
        rule = _same
    elif op.name in _MOVES:
        rule = _moved
    if rule is None:
        return None
    return functools.cache(lambda: _safely(rule, op, k))


def _safely(rule: Callable[[Op, int], Any], op: Op, k: int) -> Any:
    try:
        return rule(op, k)
    except Exception:  # a form that the rule did not foresee: nothing is said
        return None


def _mask(a: Any, shape: tuple[int, ...]) -> Any:
    """Where an operand may be nonzero."""
    if not isinstance(a, Arg):
        return np.full(shape, a != 0)
    keep = a.keep()
    return np.ones(shape, bool) if keep is None else np.broadcast_to(keep, shape)


def _same(op: Op, k: int) -> Any:
    return op.tensors[0].keep()


def _moved(op: Op, k: int) -> Any:
    if op.name == "constant_pad_nd" and op["value"] not in (0, None):
        return None
    moved = [a for a in op.tensors if a.spec.dtype.is_floating_point or a.spec.dtype.is_complex]
    masks = [_mask(a, a.shape).astype(np.int32) for a in moved]
    if all(m.all() for m in masks) and op.name not in _MAKES_ZEROS:
        return None
    found = on_ids(move_of(op), *masks)
    return (found[k] if isinstance(found, tuple) else found) != 0


_MAKES_ZEROS = frozenset(
    "tril triu constant_pad_nd diag_embed block_diag select_backward slice_backward diagonal_backward im2col".split()
)


def _product(op: Op, k: int) -> Any:
    shape = op.specs[k].shape  # type: ignore[union-attr]
    return _mask(op["self"], shape) & _mask(op["other"], shape)


def _numerator(op: Op, k: int) -> Any:
    return _mask(op["self"], op.shape)


def _sum(op: Op, k: int) -> Any:
    if not isinstance(op.get("other"), Arg) and op.get("other"):
        return None
    return _mask(op["self"], op.shape) | _mask(op["other"], op.shape)


def _where(op: Op, k: int) -> Any:
    condition = op["condition"].array()
    a, b = _mask(op["self"], op.shape), _mask(op["other"], op.shape)
    return a | b if condition is None else np.where(condition, a, b)


def _masked_fill(op: Op, k: int) -> Any:
    mask = op["mask"].array()
    a, b = _mask(op["self"], op.shape), _mask(op["value"], op.shape)
    return a | b if mask is None else np.where(mask, b, a)


def _triangular(op: Op, k: int) -> Any:
    if _PARTS[op.name] != k:
        return None
    shape = op.specs[k].shape  # type: ignore[union-attr]
    upper = op.name == "linalg_qr" or bool(op.get("upper"))
    ones = np.ones(shape, bool)
    return np.triu(ones) if upper else np.tril(ones)


_SUPPORTS: dict[str, Callable[[Op, int], Any]] = {
    "mul": _product, "div": _numerator, "add": _sum, "sub": _sum, "where": _where, "masked_fill": _masked_fill,
    **dict.fromkeys(_PARTS, _triangular),
}  # fmt: skip


# -- integers that are one of a few


def _choices(op: Op, k: int) -> Callable[[], Any] | None:
    from crelle.backends.torch.lower.windows import pooling_choices

    if op.name in ("max_pool2d_with_indices", "max_pool3d_with_indices") and k == 1:
        return functools.cache(lambda: pooling_choices(op))
    if op.name in _MOVES or op.name in ("clone", "_to_copy", "alias", "detach"):
        sources = [a for a in op.tensors if isinstance(a.entry, Primal) and a.entry.choices is not None]
        if len(sources) == len(op.tensors) == 1:
            return functools.cache(lambda: _moved_choices(op, sources[0], k))
    return None


def _moved_choices(op: Op, source: Arg, k: int) -> Any:
    """A move of indices moves their choices."""
    from crelle.tangent.rows import ragged

    found = source.choices()
    if found is None:
        return None
    indptr, values = found
    ids = torch.arange(source.size).reshape(source.shape)
    moved = op.run(lambda a: ids) if op.name != "_to_copy" else ids
    rows = (moved if isinstance(moved, Tensor) else moved[k]).reshape(-1).numpy()
    lengths = np.diff(indptr)[rows]
    return np.append(0, np.cumsum(lengths)), values[ragged(indptr[rows], lengths)]
