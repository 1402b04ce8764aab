"""Writing a tangent program: what the rules of every backend emit, whatever the framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle.tangent.program import (
    Add,
    Dependence,
    Gather,
    Lanes,
    LinearMap,
    Mix,
    Move,
    Opaque,
    Reduce,
    Scale,
    TangentProgram,
)
from crelle.tangent.shapes import Csr, picking

Array = np.ndarray[Any, Any]


class Builder:
    """Appends maps to a program. Every backend's walk is one.

    Attributes:
        operation: name, flops and bytes of the operation that is being lowered: its maps carry them.
    """

    def __init__(self, program: TangentProgram) -> None:
        self.program = program
        self.operation: tuple[str, float, float] = ("", 0.0, 0.0)

    def emit(self, make: type[LinearMap], operands: Sequence[int | None], type_: ArrayType, **fields: Any) -> int:
        """Append a map with one result; its name and cost are those of the operation."""
        name, flops, moved = self.operation
        self.operation = (name, 0.0, 0.0)  # an operation is paid once, however many maps it becomes
        result = self.program.value(type_)
        fields = {"name": name, "flops": flops, "bytes": moved, **fields}
        self.program.maps.append(make(operands=tuple(operands), results=(result,), **fields))
        return result

    def unread(self, operands: Sequence[int | None], types: Sequence[ArrayType | None], why: str) -> list[int | None]:
        """Results that may read every element of every operand, and a note that says so."""
        results = [None if t is None else self.program.value(t) for t in types]
        name, flops, moved = self.operation
        self.program.maps.append(
            Opaque(
                name=name, operands=tuple(operands), results=tuple(results), dependence=Dependence.VARYING, flops=flops,
                bytes=moved,
            )
        )  # fmt: skip
        self.program.note(f"{name}: {why}; every output is taken to depend on all of its input")
        return results

    def type_of(self, value: int) -> ArrayType:
        """The type of a value."""
        return self.program.types[value]

    def _shaped(self, value: int, shape: Sequence[int]) -> ArrayType:
        return ArrayType(self.type_of(value).dtype, tuple(shape))

    def moved(self, value: int, move: Move, shape: Sequence[int], kind: Dependence = Dependence.CONSTANT) -> int:
        """One value, moved."""
        return self.emit(Gather, [value], self._shaped(value, shape), move=move, dependence=kind)

    def spread(self, value: int, shape: Sequence[int]) -> int:
        """A value broadcast to a shape."""
        shape = tuple(shape)
        if self.type_of(value).shape == shape:
            return value
        return self.moved(value, lambda a: np.broadcast_to(a, shape), shape)

    def scaled(
        self, value: int, kind: Dependence, keep: Array | None = None, shape: Sequence[int] | None = None
    ) -> int:
        """A value times a coefficient, broadcast to ``shape`` first."""
        value = value if shape is None else self.spread(value, shape)
        return self.emit(Scale, [value], self.type_of(value), keep=keep, dependence=kind)

    def added(self, values: Sequence[int | None], kind: Dependence = Dependence.CONSTANT) -> int | None:
        """The sum of some values."""
        some = [v for v in values if v is not None]
        if len(some) < 2:
            return some[0] if some else None
        return self.emit(Add, some, self.type_of(some[0]), dependence=kind)

    def mixed(
        self, make: type[Mix], value: int, axis: int, pattern: Csr | None, size: int, kind: Dependence, **fields: Any
    ) -> int:
        """A mix along one axis, which becomes ``size`` long; ``pattern=None`` makes all of it equal."""
        shape = self.type_of(value).shape
        axis %= len(shape)
        rest = shape[:axis] + shape[axis + 1 :]

        def into(a: Any) -> Any:
            return np.moveaxis(a, axis, 0).reshape(shape[axis], -1)

        def out(a: Any) -> Any:
            return np.moveaxis(np.broadcast_to(a, (size, a.shape[1])).reshape((size, *rest)), 0, axis)

        type_ = self._shaped(value, (*shape[:axis], size, *shape[axis + 1 :]))
        return self.emit(make, [value], type_, into=into, out=out, pattern=pattern, dependence=kind, **fields)

    def lanes(self, make: type[Mix], value: int, axes: Sequence[int], shape: Sequence[int], kind: Dependence) -> int:
        """Dense over some axes together; they stay, and broadcast to ``shape``, which agrees with the others."""
        old = self.type_of(value).shape
        axes = sorted({a % len(old) for a in axes}) if old else []
        length = int(np.prod([old[a] for a in axes], dtype=np.int64))
        rest = [s for a, s in enumerate(old) if a not in axes]

        def into(a: Any) -> Any:
            return np.moveaxis(a, tuple(axes), tuple(range(len(axes)))).reshape(length, -1)

        def out(a: Any) -> Any:
            return np.broadcast_to(np.expand_dims(a.reshape(rest), tuple(axes)), tuple(shape))

        return self.emit(make, [value], self._shaped(value, shape), into=into, out=out, dependence=kind)

    def by_matrix(self, value: int, type_: ArrayType, pattern: Csr | None, kind: Dependence) -> int:
        """A linear map given by the pattern of its whole matrix, ``None`` for everything."""
        return self.emit(
            Lanes, [value], type_, into=lambda ids: ids.reshape(-1, 1), pattern=pattern, dependence=kind,
            out=lambda ids: np.broadcast_to(ids, (type_.size, 1)).reshape(type_.shape),
        )  # fmt: skip

    def placed(
        self, value: int, where: Array, shape: Sequence[int], kind: Dependence, arrange: Move | None = None
    ) -> int:
        """Elements of a value at places of an array of zeros, added up where they meet; -1 for nowhere.

        Args:
            arrange: brings the value into the order of ``where``, if it is not in it.
        """
        size, shape = int(np.prod(shape, dtype=np.int64)), tuple(shape)
        where = where.reshape(-1)
        inside = np.flatnonzero(where >= 0)
        order = inside[np.argsort(where[inside], kind="stable")]
        counts = np.bincount(where[order], minlength=size)
        if counts.max(initial=0) <= 1:  # no two meet
            source = np.full(size, -1, np.int64)
            source[where[order]] = order
            return self.moved(value, picking(source.reshape(shape), arrange), shape, kind)
        return self.emit(
            Reduce, [value], self._shaped(value, shape), dependence=kind,
            pattern=(np.append(0, np.cumsum(counts)), order), out=lambda a: a.reshape(shape),
            into=lambda a: (a if arrange is None else arrange(a)).reshape(-1, 1),
        )  # fmt: skip
