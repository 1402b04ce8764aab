"""Rules for sums, lanes, contractions and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from crelle.backends.torch.lowering.walk import Lowering, args_of, rule, type_of
from crelle.tangent.program import Contract, Dependence, Lanes, Mix, Reduce
from crelle.tangent.shapes import product, triangle


def _axes(value: Any, rank: int) -> list[int]:
    if value is None or (isinstance(value, (tuple, list)) and not value):
        return list(range(rank))
    listed = value if isinstance(value, (tuple, list)) else (value,)
    return sorted({int(a) % max(rank, 1) for a in listed})


@rule("sum", "mean", "nansum")
def _sum(low: Lowering, node: fx.Node) -> Any:
    value = low.tangent(args_of(node)[0])
    assert value is not None
    shape = low.shape(args_of(node)[0])
    dims = args_of(node)[1] if len(args_of(node)) > 1 and not hasattr(args_of(node)[1], "is_floating_point") else None
    axes = _axes(dims if isinstance(dims, (int, tuple, list)) else None, len(shape))
    out = low.spec(node).shape
    if not shape:
        return value
    kept = tuple(1 if a in axes else s for a, s in enumerate(shape))
    summed = low.lanes(Reduce, value, axes, kept, Dependence.CONSTANT)
    return low.moved(summed, lambda a: a.reshape(out), out)


@rule("trace")
def _trace(low: Lowering, node: fx.Node) -> Any:
    value = low.tangent(args_of(node)[0])
    assert value is not None
    size = min(low.shape(args_of(node)[0]))
    diagonal = low.moved(value, lambda a: np.diagonal(a).copy(), (size,))
    summed = low.lanes(Reduce, diagonal, [0], (1,), Dependence.CONSTANT)
    return low.moved(summed, lambda a: a.reshape(()), ())


def along(low: Lowering, node: fx.Node, make: type[Mix], pattern_of: Any, kind: Dependence) -> Any:
    """A mix along one axis that keeps its length; ``pattern_of`` its length gives the CSR pattern."""
    value, shape = low.tangent(args_of(node)[0]), low.shape(args_of(node)[0])
    assert value is not None
    if not shape:
        return value
    axis = int(args_of(node)[1]) % len(shape)
    return low.mixed(make, value, axis, pattern_of(shape[axis]), shape[axis], kind)


@rule("cumsum")
def _cumsum(low: Lowering, node: fx.Node) -> Any:
    return along(low, node, Reduce, lambda size: triangle(size, False), Dependence.CONSTANT)


@rule("logcumsumexp", "cumprod")
def _cumulative(low: Lowering, node: fx.Node) -> Any:
    return along(low, node, Reduce, lambda size: triangle(size, False), Dependence.VARYING)


@rule("_softmax_backward_data", "_log_softmax_backward_data")
def _softmax_backward(low: Lowering, node: fx.Node) -> Any:
    gradient, output, axis = args_of(node)[:3]
    value = low.tangent(gradient)
    if value is None or low.tangent(output) is not None:
        return low.opaque(node, "not linear in its operands")
    shape = low.shape(gradient)
    if not shape:
        return low.scaled(value, low.kind(output))
    return low.lanes(Lanes, value, [int(axis)], shape, low.kind(output))


@rule("native_layer_norm_backward", "native_group_norm_backward", "native_batch_norm_backward")
def _norm_backward(low: Lowering, node: fx.Node) -> Any:
    """Of the input over the axes that are normalised; of weight and bias over the others."""
    gradient = args_of(node)[0]
    value = low.tangent(gradient)
    if value is None or any(low.tangent(a) is not None for a in args_of(node)[1:] if isinstance(a, fx.Node)):
        return low.opaque(node, "not linear in its operands")
    shape, kind = low.shape(gradient), low.kind(*args_of(node)[1:])
    rank, name = len(shape), str(node.target)
    specs: Any = low_specs(node)
    if "layer" in name:
        normal = list(range(rank - len(args_of(node)[2]), rank))
    elif "batch" in name:
        normal = [] if args_of(node)[7] is False else [a for a in range(rank) if a != 1]
    else:
        return _group_norm_backward(low, node, value, kind, specs)
    rest = [a for a in range(rank) if a not in (normal if "layer" in name else [1])]
    results: list[int | None] = [low.lanes(Lanes, value, normal, shape, kind) if normal else low.scaled(value, kind)]
    for spec in specs[1:]:
        if spec is None:
            results.append(None)
            continue
        kept = tuple(1 if a in rest else s for a, s in enumerate(shape))
        summed = low.lanes(Reduce, value, rest, kept, kind)
        results.append(low.moved(summed, lambda a, s=spec.shape: a.reshape(s), spec.shape))
    return results


def _group_norm_backward(low: Lowering, node: fx.Node, value: int, kind: Dependence, specs: Any) -> Any:
    shape = low.shape(args_of(node)[0])
    batch, channels, groups = shape[0], shape[1], int(args_of(node)[8])
    split = low.moved(value, lambda a: a.reshape(batch, groups, -1), (batch, groups, int(np.prod(shape[1:])) // groups))
    lane = low.lanes(Lanes, split, [2], low.program.types[split].shape, kind)
    results: list[int | None] = [low.moved(lane, lambda a: a.reshape(shape), shape)]
    for spec in specs[1:]:
        if spec is None:
            results.append(None)
            continue
        flat = low.moved(value, lambda a: a.reshape(batch, channels, -1), (batch, channels, int(np.prod(shape[2:]))))
        summed = low.lanes(Reduce, flat, [0, 2], (1, channels, 1), kind)
        results.append(low.moved(summed, lambda a, s=spec.shape: a.reshape(s), spec.shape))
    return results


def low_specs(node: fx.Node) -> Any:
    """The specs of the results."""
    from crelle.backends.torch.cost import spec_of_node

    return spec_of_node(node)


# -- contractions

_PRODUCTS: dict[str, tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]] = {
    "mm": (((1,), (0,)), ((), ())), "mv": (((1,), (0,)), ((), ())), "dot": (((0,), (0,)), ((), ())),
    "vdot": (((0,), (0,)), ((), ())), "bmm": (((2,), (1,)), ((0,), (0,))), "outer": (((), ()), ((), ())),
}  # fmt: skip


def multiplied(low: Lowering, name: str, a: Any, b: Any, out: tuple[int, ...], dtype: Any) -> int | None:
    """The product of two arguments of which one is a tangent."""
    left, right = low.tangent(a), low.tangent(b)
    if left is None and right is None:
        return None
    (c_left, c_right), (b_left, b_right) = _PRODUCTS[name]
    first = left is not None
    mine, other = (a, b) if first else (b, a)
    contract = (c_left, c_right) if first else (c_right, c_left)
    batch = (b_left, b_right) if first else (b_right, b_left)
    p = product(low.shape(mine), low.shape(other), low.keep(other), contract, batch, first, out)
    value = left if first else right
    return low.emit(
        Contract, [value], dtype, into=p.into, out=p.out, pattern=p.pattern, dependence=low.kind(other), detail=p.detail
    )


@rule("mm", "bmm", "mv", "dot", "vdot", "outer")
def _product(low: Lowering, node: fx.Node) -> Any:
    a, b = args_of(node)[:2]
    if low.tangent(a) is not None and low.tangent(b) is not None:
        return low.opaque(node, "not linear in its operands")
    spec = low.spec(node)
    return multiplied(low, str(node.target).split(".")[1], a, b, spec.shape, type_of(spec))


@rule("addmm", "baddbmm", "addmv")
def _sum_and_product(low: Lowering, node: fx.Node) -> Any:
    c, a, b = args_of(node)[:3]
    if low.tangent(a) is not None and low.tangent(b) is not None:
        return low.opaque(node, "not linear in its operands")
    spec, name = low.spec(node), {"addmm": "mm", "baddbmm": "bmm", "addmv": "mv"}[str(node.target).split(".")[1]]
    plus = low.tangent(c)
    product_ = multiplied(low, name, a, b, spec.shape, type_of(spec))
    return low.added([None if plus is None else low.spread(plus, spec.shape), product_])


# -- lanes


@rule("_fft_c2c", "_fft_r2c", "_fft_c2r")
def _fft(low: Lowering, node: fx.Node) -> Any:
    value, shape = low.tangent(args_of(node)[0]), low.shape(args_of(node)[0])
    assert value is not None
    axes = _axes(args_of(node)[1], len(shape))
    out = low.spec(node).shape
    kept = tuple(1 if a in axes else s for a, s in enumerate(shape))
    return low.spread(low.lanes(Lanes, value, axes, kept, Dependence.CONSTANT), out)


def _solved(low: Lowering, value: int, axis: int, out: tuple[int, ...], kind: Dependence, pattern: Any = None) -> int:
    """A solve: dense along one axis of the right-hand side, whose batch may be broadcast."""
    shape = low.program.types[value].shape
    size = shape[axis]
    mixed = low.mixed(Lanes, value, axis, pattern, size, kind)
    return low.spread(mixed, out)


@rule("linalg_solve_triangular", "triangular_solve")
def _triangular(low: Lowering, node: fx.Node) -> Any:
    name = str(node.target)
    matrix, b = (args_of(node)[0], args_of(node)[1]) if "linalg" in name else (args_of(node)[1], args_of(node)[0])
    value = low.tangent(b)
    if value is None or low.tangent(matrix) is not None:
        return low.opaque(node, "not linear in its operands")
    if "linalg" in name:
        upper, left = bool(node.kwargs.get("upper")), bool(node.kwargs.get("left", True))
        size = low.shape(b)[-2 if left else -1]
        pattern = triangle(size, upper == left) if size <= 4096 else None
        return _solved(low, value, -2 if left else -1, low.spec(node).shape, low.kind(matrix), pattern)
    out = low.spec(node, 0).shape
    return [_solved(low, value, -2, out, low.kind(matrix)), None]


@rule("linalg_lu_solve", "cholesky_solve", "linalg_solve", "lu_solve")
def _lu_solve(low: Lowering, node: fx.Node) -> Any:
    name = str(node.target).split(".")[1]
    place = {"linalg_lu_solve": 2, "cholesky_solve": 0, "linalg_solve": 1, "lu_solve": 0}[name]
    value = low.tangent(args_of(node)[place])
    others = [a for k, a in enumerate(args_of(node)) if k != place]
    if value is None or any(low.tangent(a) is not None for a in others):
        return low.opaque(node, "not linear in its operands")
    left = bool(node.kwargs.get("left", True))
    shape, out = low.program.types[value].shape, low.spec(node).shape
    axis = -1 if len(shape) == 1 or not left else -2
    return _solved(low, value, axis, out, low.kind(*others))


@rule("_linalg_solve_ex", "linalg_solve_ex")
def _solve_ex(low: Lowering, node: fx.Node) -> Any:
    matrix, b = args_of(node)[:2]
    value = low.tangent(b)
    specs = low_specs(node)
    if value is None or low.tangent(matrix) is not None:
        return low.opaque(node, "not linear in its operands")
    left = bool(node.kwargs.get("left", True))
    vector = len(low.shape(b)) == 1 or len(low.shape(b)) == len(low.shape(matrix)) - 1
    solved = _solved(low, value, -1 if vector or not left else -2, specs[0].shape, low.kind(matrix))
    return [solved, *[None] * (len(specs) - 1)]


@rule("_cdist_backward")
def _cdist_backward(low: Lowering, node: fx.Node) -> Any:
    value, shape = low.tangent(args_of(node)[0]), low.shape(args_of(node)[0])
    if value is None or any(low.tangent(a) is not None for a in args_of(node)[1:]):
        return low.opaque(node, "not linear in its operands")
    lane = low.lanes(Lanes, value, [-1], (*shape[:-1], 1), low.kind(*args_of(node)[1:]))
    return low.spread(lane, low.spec(node).shape)


@rule("linalg_matrix_exp", "linalg_inv_ex", "linalg_cholesky_ex", "_linalg_eigh", "_linalg_svd", "linalg_qr",
      "linalg_lu_factor_ex", "_linalg_det", "_linalg_slogdet", "linalg_lu", "inverse")  # fmt: skip
def _matrices(low: Lowering, node: fx.Node) -> Any:
    """Anything that is done matrix by matrix: dense inside each."""
    value, shape = low.tangent(args_of(node)[0]), low.shape(args_of(node)[0])
    assert value is not None
    lane = low.lanes(Lanes, value, [-2, -1], (*shape[:-2], 1, 1), Dependence.VARYING)
    specs = low_specs(node)

    def result(spec: Any) -> int | None:
        if spec is None or not (spec.dtype.is_floating_point or spec.dtype.is_complex):
            return None
        batch = len(shape) - 2
        wide = low.moved(lane, lambda a: a.reshape((*shape[:-2], *[1] * (len(spec.shape) - batch))),
                         (*shape[:-2], *[1] * (len(spec.shape) - batch)))  # fmt: skip
        return low.spread(wide, spec.shape)

    return [result(s) for s in specs] if isinstance(specs, tuple) and not hasattr(specs, "dtype") else result(specs)
