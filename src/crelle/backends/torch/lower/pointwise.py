"""Rules for operations that work element by element: sums, coefficients, choices by a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crelle.backends.torch.lower.known import as_array
from crelle.backends.torch.lower.op import Arg, Bools, Op
from crelle.backends.torch.lower.walk import Lowering, Results, rule
from crelle.tangent.program import Dependence

#: Element by element, though without ``torch.Tag.pointwise`` in some version of PyTorch.
NAMES = frozenset(
    """
    add sub rsub mul div neg positive complex polar conj_physical _conj_physical real imag copysign masked_fill where
    addcmul addcdiv lerp threshold_backward sigmoid_backward tanh_backward gelu_backward silu_backward mish_backward
    elu_backward leaky_relu_backward hardswish_backward hardsigmoid_backward hardtanh_backward softplus_backward
    log_sigmoid_backward logit_backward softshrink_backward hardshrink_backward rrelu_with_noise_backward
    native_dropout_backward mse_loss_backward huber_loss_backward smooth_l1_loss_backward soft_margin_loss_backward
    binary_cross_entropy_backward binary_cross_entropy_with_logits_backward glu_jvp _prelu_kernel_backward sgn abs
    nan_to_num clamp masked_scale _masked_scale infinitely_differentiable_gelu_backward
    """.split()
)


def is_pointwise(op: Op) -> bool:
    """Whether element i of the result reads element i of every operand, after broadcasting."""
    if op.name in ("glu_jvp", "binary_cross_entropy_backward") and len(op.specs) != 1:
        return False
    tagged = torch.Tag.pointwise in getattr(op.target, "tags", ()) or op.name in NAMES
    return tagged and all(_broadcasts(a.shape, s.shape) for a in op.tensors for s in op.specs if s)


def _broadcasts(shape: tuple[int, ...], out: tuple[int, ...]) -> bool:
    return len(shape) <= len(out) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(out), strict=False))


def pointwise(low: Lowering, op: Op) -> Results:
    """Every operand times its coefficient, and the sum of that. It is the result for an operand of ones."""
    if len(op.specs) > 1:  # each result by itself: _prelu_kernel_backward
        return [_one(low, op, k) for k in range(len(op.specs))]
    return _one(low, op, None)


def _one(low: Lowering, op: Op, k: int | None) -> int | None:
    spec = op.specs[k or 0]
    assert spec is not None
    linear = op.linear
    kind = op.kind() if op.name not in _NOT_LINEAR else Dependence.VARYING
    sums = op.name in ("add", "sub", "rsub", "neg", "positive", "clone", "complex", "conj_physical", "_conj_physical")
    parts: list[int | None] = []
    for arg in linear:
        factor = _number(op, arg)
        if factor == 0:
            continue
        keep = None if sums else _keep(op, arg, k)
        if sums and factor == 1 and op.name in ("add", "clone", "positive"):
            parts.append(low.broadcast(arg.value, spec.shape))
        elif sums:
            parts.append(low.scaled(arg.value, Dependence.CONSTANT, None, spec.shape))
        else:
            both = Dependence.VARYING if _multiplied(op, linear) else kind
            parts.append(low.scaled(arg.value, both, keep, spec.shape))
    return low.added(parts)


_NOT_LINEAR = frozenset(("abs", "sgn", "clamp", "nan_to_num", "pow", "sin", "cos", "exp", "log", "sqrt", "tanh"))


def _multiplied(op: Op, linear: list[Arg]) -> bool:
    """Whether tangents are multiplied with one another: not a linear operation, then."""
    return len(linear) > 1 and op.name in ("mul", "div", "pow")


def _number(op: Op, arg: Arg) -> Any:
    """The factor that ``add`` and ``sub`` give to the second operand."""
    if op.name in ("add", "sub", "rsub"):
        scaled = op.get("self") if op.name == "rsub" else op.get("other")
        return op.get("alpha", 1) if arg is scaled and op.get("self") is not op.get("other") else 1
    return 1


def _keep(op: Op, arg: Arg, k: int | None) -> Bools | None:
    """Where the coefficient of an operand is not known to be zero."""
    others = [a for a in op.tensors if not a.linear]
    if op.name == "mul" and len(op.tensors) == 2:
        return others[0].keep() if others else None
    if op.name == "div" and not op.get("rounding_mode") and op.get("self") is arg:
        return None
    if op.name == "where":
        mask = op["condition"].array()
        if mask is None:
            return None
        return np.asarray(mask if arg is op["self"] else ~mask)
    values = {id(a): a.tensor() for a in others}
    if any(v is None for v in values.values()):
        return _without_values(op, arg)
    device = next((v.device for v in values.values() if v is not None), torch.device("cpu"))

    def stand_in(a: Arg) -> Tensor:
        if a is arg:
            return torch.ones(a.shape, dtype=a.spec.dtype, device=device)
        if a.linear or id(a) not in values:
            return torch.zeros(a.shape, dtype=a.spec.dtype, device=device)
        found = values[id(a)]
        assert found is not None
        return found

    found = op.run(stand_in)
    return np.asarray(as_array((found if k is None else found[k]) != 0))


def _without_values(op: Op, arg: Arg) -> Bools | None:
    """The zeros that products have for the sake of one factor."""
    if op.name in ("addcmul", "addcdiv"):
        if arg is op["self"]:
            return None
        other = op["tensor2"] if arg is op["tensor1"] else op["tensor1"]
        return other.keep() if op.name == "addcmul" else None
    if op.name == "masked_fill" and arg is op["self"]:
        mask = op["mask"].array()
        return None if mask is None else ~mask
    return None


@rule("_to_copy to alias detach lift_fresh lift_fresh_copy clone contiguous positive _conj _neg_view resolve_conj "
      "resolve_neg conj alias_copy detach_copy _conj_copy _neg_view_copy")  # fmt: skip
def _same(low: Lowering, op: Op) -> int | None:
    (a,) = op.linear
    return a.value


@rule("real imag")
def _part(low: Lowering, op: Op) -> int | None:
    (a,) = op.linear
    if not a.spec.dtype.is_complex:
        return a.value if op.name == "real" else None
    return low.scaled(a.value, Dependence.CONSTANT)


@rule("copy")
def _copy(low: Lowering, op: Op) -> int | None:
    source = op["src"]
    return low.broadcast(source.value, op.shape) if source.linear else None


@rule("fill")
def _fill(low: Lowering, op: Op) -> int | None:
    value = op["value"]
    return low.broadcast(value.value, op.shape) if isinstance(value, Arg) and value.linear else None


@rule("zero zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_empty_strided "
      "_new_zeros_with_same_feature_meta rand_like randn_like randint_like scalar_tensor")  # fmt: skip
def _made(low: Lowering, op: Op) -> int | None:
    return None
