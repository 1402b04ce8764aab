"""The largest label that each element of each value reads, and the largest of what reads it: two sweeps of a program.

They tell which values take part in the wanted entries, without any index set: everything else need not be run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle.tangent.program import Add, Gather, LinearMap, Mix, Scale, TangentProgram

Array = np.ndarray[Any, Any]
#: Elements that a step of a segmented maximum may gather.
_GATHERED = 20_000_000


def forward(program: TangentProgram, given: Sequence[Array]) -> dict[int, Array]:
    """For each element of each value the largest label of the inputs that it reads; 0 if it reads none.

    Args:
        given: labels of the elements of each input, from 1 on.
    """
    values: dict[int, Array] = dict(zip(program.inputs, given, strict=True))
    for m in program.maps:
        operands = [_of(values, program, v) for v in m.operands]
        for r, found in zip(m.results, _push(program, m, operands), strict=True):
            if r is not None:
                values[r] = found
    return values


def backward(program: TangentProgram, given: Sequence[Array]) -> dict[int, Array]:
    """For each element of each value the largest label of the outputs that read it; 0 if none does."""
    values: dict[int, Array] = {}

    def put(v: int | None, labels: Array) -> None:
        if v is not None:
            values[v] = np.maximum(values[v], labels) if v in values else labels

    for v, labels in zip(program.outputs, given, strict=True):
        put(v, labels)
    for m in reversed(program.maps):
        if not any(r in values for r in m.results):
            continue
        results = [_of(values, program, r) for r in m.results]
        for v, labels in zip(m.operands, _pull(program, m, results), strict=True):
            put(v, labels)
    return values


def _of(values: dict[int, Array], program: TangentProgram, v: int | None) -> Array:
    if v is None:
        return np.zeros((), np.int64)
    found = values.get(v)
    return np.zeros(program.types[v].shape, np.int64) if found is None else found


def shapes_of(program: TangentProgram, m: Gather) -> tuple[tuple[int, ...], ...]:
    """The shapes of all operands of a map that moves elements."""
    return tuple(m.shapes[k] if v is None else program.types[v].shape for k, v in enumerate(m.operands))


def _push(program: TangentProgram, m: LinearMap, operands: list[Array]) -> Sequence[Array]:
    if isinstance(m, Gather):
        zeros = [np.zeros(s, np.int64) if v is None else o
                 for s, v, o in zip(shapes_of(program, m), m.operands, operands, strict=True)]  # fmt: skip
        found = m.move(*zeros)
        return found if isinstance(found, tuple) else (found,)
    if isinstance(m, Scale):
        return (operands[0] if m.keep is None else np.where(m.keep, operands[0], 0),)
    if isinstance(m, Add):
        return (np.maximum.reduce([o for o, v in zip(operands, m.operands, strict=True) if v is not None]),)
    if isinstance(m, Mix):
        (one,) = [o for o, v in zip(operands, m.operands, strict=True) if v is not None]
        sides = m.into(one)
        return (m.out(sides.max(0, keepdims=True, initial=0) if m.pattern is None else _groups(sides, *m.pattern)),)
    return _everywhere(program, m.results, operands)


def _pull(program: TangentProgram, m: LinearMap, results: list[Array]) -> Sequence[Array]:
    if isinstance(m, Gather):
        return _ungathered(program, m, results)
    if isinstance(m, Scale):
        return (results[0] if m.keep is None else np.where(m.keep, results[0], 0),)
    if isinstance(m, Add):
        return [results[0]] * len(m.operands)
    if isinstance(m, Mix):
        return _unmixed(program, m, results[0])
    return _everywhere(program, m.operands, results)


def _everywhere(program: TangentProgram, values: Sequence[int | None], labels: Sequence[Array]) -> list[Array]:
    """Loops, branches and what is not understood: everything reads everything."""
    top = max(int(a.max(initial=0)) for a in labels)
    return [np.full(() if v is None else program.types[v].shape, top, np.int64) for v in values]


def _ungathered(program: TangentProgram, m: Gather, results: list[Array]) -> list[Array]:
    shapes = shapes_of(program, m)
    sizes = [int(np.prod(s, dtype=np.int64)) for s in shapes]
    *starts, total = np.cumsum([0, *sizes]).tolist()
    numbers = [np.arange(a + 1, a + size + 1).reshape(s) for a, size, s in zip(starts, sizes, shapes, strict=True)]
    found = m.move(*numbers)
    labels = np.zeros(total + 1, np.int64)
    for where, result, r in zip(found if isinstance(found, tuple) else (found,), results, m.results, strict=True):
        if r is not None:
            np.maximum.at(labels, where.reshape(-1), result.reshape(-1))
    return [labels[a + 1 : a + size + 1].reshape(s) for a, size, s in zip(starts, sizes, shapes, strict=True)]


def _unmixed(program: TangentProgram, m: Mix, result: Array) -> list[Array]:
    (value,) = [v for v in m.operands if v is not None]
    type_ = program.types[value]
    source = m.into(np.arange(1, type_.size + 1).reshape(type_.shape))  # [K, N]
    length, width = source.shape
    count = 1 if m.pattern is None else len(m.pattern[0]) - 1
    where = m.out(np.arange(1, count * width + 1).reshape(count, width))
    read = np.zeros(count * width + 1, np.int64)
    np.maximum.at(read, where.reshape(-1), np.broadcast_to(result, where.shape).reshape(-1))
    sides = read[1:].reshape(count, width)
    if m.pattern is None:
        back = np.broadcast_to(sides, (length, width))
    else:
        indptr, indices = m.pattern
        order = np.argsort(indices, kind="stable")
        rows = np.repeat(np.arange(count), np.diff(indptr))[order]
        back = _groups(sides, np.append(0, np.cumsum(np.bincount(indices, minlength=length))), rows)
    labels = np.zeros(type_.size + 1, np.int64)
    np.maximum.at(labels, source.reshape(-1), back.reshape(-1))
    return [np.zeros((), np.int64) if v is None else labels[1:].reshape(type_.shape) for v in m.operands]


def _groups(labels: Array, indptr: Array, indices: Array) -> Array:
    """The maximum over the rows of ``labels`` [K, N] that each row of a CSR pattern lists, [M, N]."""
    filled = np.flatnonzero(np.diff(indptr))
    found = np.zeros((len(indptr) - 1, labels.shape[1]), np.int64)
    if len(filled):
        step = max(1, _GATHERED // len(indices))
        for c in range(0, labels.shape[1], step):
            some = np.maximum.reduceat(labels[indices, c : c + step], indptr[filled], axis=0)
            found[filled, c : c + step] = some
    return found
