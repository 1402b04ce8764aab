"""Writing a tangent program: the shapes of linear map that lowering rules are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle.tangent.program import Add, Dependence, Gather, Ids, LinearMap, Mix, Move, Opaque, Scale, TangentProgram

Pattern = tuple[Ids, Ids]
CONSTANT = Dependence.CONSTANT


class Builder:
    """Appends maps to a program. The name and the cost of a map are those of the operation that is being lowered."""

    def __init__(self, program: TangentProgram) -> None:
        self.program = program
        self.operation: tuple[str, float, float] = ("", 0.0, 0.0)

    def emit(self, make: type[LinearMap], operands: Sequence[int | None], type_: ArrayType, **fields: Any) -> int:
        """Append a map with one result."""
        name, flops, moved = self.operation
        result = self.program.value(type_)
        fields = {"name": name, "flops": flops, "bytes": moved, **fields}
        self.operation = (name, 0.0, 0.0)  # an operation is paid once, however many maps it becomes
        self.program.maps.append(make(operands=tuple(operands), results=(result,), **fields))
        return result

    def type_of(self, value: int) -> ArrayType:
        """The type of a value."""
        return self.program.types[value]

    def moved(self, value: int, move: Move, shape: Sequence[int], kind: Dependence = CONSTANT) -> int:
        """One value, moved."""
        return self.emit(
            Gather, [value], ArrayType(self.type_of(value).dtype, tuple(shape)), move=move, dependence=kind
        )

    def broadcast(self, value: int, shape: Sequence[int]) -> int:
        """A value of a larger shape."""
        shape = tuple(shape)
        return value if self.type_of(value).shape == shape else self.moved(value, Broadcast(shape), shape)

    def reshaped(self, value: int, shape: Sequence[int]) -> int:
        """The same elements in another shape."""
        shape = tuple(shape)
        return value if self.type_of(value).shape == shape else self.moved(value, lambda a: a.reshape(shape), shape)

    def scaled(self, value: int, kind: Dependence, keep: Any = None, shape: Sequence[int] | None = None) -> int:
        """A value times a coefficient, broadcast to ``shape`` first."""
        if shape is not None:
            value = self.broadcast(value, shape)
        type_ = self.type_of(value)
        if keep is not None:
            keep = np.broadcast_to(keep, type_.shape)
            keep = None if keep.all() else keep
        return self.emit(Scale, [value], type_, keep=keep, dependence=kind)

    def added(self, values: Sequence[int | None], kind: Dependence = CONSTANT) -> int | None:
        """The sum of some values."""
        some = [v for v in values if v is not None]
        if len(some) < 2:
            return some[0] if some else None
        return self.emit(Add, some, self.type_of(some[0]), dependence=kind)

    def mixed(
        self, make: type[Mix], value: int, axis: int, pattern: Pattern | None, size: int, kind: Dependence,
        **fields: Any,
    ) -> int:  # fmt: skip
        """A mix along one axis, which becomes ``size`` long; ``pattern=None`` makes all of it equal."""
        shape = self.type_of(value).shape
        rest = shape[:axis] + shape[axis + 1 :]

        def into(a: Any) -> Any:
            return np.moveaxis(a, axis, 0).reshape(shape[axis], -1)

        def out(a: Any) -> Any:
            return np.moveaxis(np.broadcast_to(a, (size, a.shape[1])).reshape(size, *rest), 0, axis)

        type_ = ArrayType(self.type_of(value).dtype, (*shape[:axis], size, *shape[axis + 1 :]))
        return self.emit(make, [value], type_, into=into, out=out, pattern=pattern, dependence=kind, **fields)

    def lanes(self, make: type[Mix], value: int, axes: Sequence[int], shape: Sequence[int], kind: Dependence) -> int:
        """Dense over some axes together; the result has length 1 there, then broadcasts to ``shape``."""
        old = self.type_of(value).shape
        length = int(np.prod([old[a] for a in axes], dtype=np.int64))
        rest = [s for a, s in enumerate(old) if a not in axes]

        def into(a: Any) -> Any:
            return np.moveaxis(a, tuple(axes), tuple(range(len(axes)))).reshape(length, int(np.prod(rest, dtype=int)))

        def out(a: Any) -> Any:
            return np.broadcast_to(np.expand_dims(a.reshape(rest), tuple(axes)), tuple(shape))

        type_ = ArrayType(self.type_of(value).dtype, tuple(shape))
        return self.emit(make, [value], type_, into=into, out=out, dependence=kind)

    def by_pattern(
        self, make: type[Mix], value: int, pattern: Pattern | None, shape: Sequence[int], kind: Dependence
    ) -> int:
        """A map given by the CSR pattern of its whole matrix, ``None`` for everything."""
        type_ = ArrayType(self.type_of(value).dtype, tuple(shape))
        return self.emit(
            make, [value], type_, into=lambda a: a.reshape(-1, 1), pattern=pattern, dependence=kind,
            out=lambda a: np.broadcast_to(a, (type_.size, 1)).reshape(type_.shape),
        )  # fmt: skip

    def opaque(self, operands: Sequence[int | None], types: Sequence[ArrayType | None], why: str) -> list[int | None]:
        """Every element on every element, and a note that says so."""
        name, flops, moved = self.operation
        results = [None if t is None else self.program.value(t) for t in types]
        self.program.maps.append(
            Opaque(
                name=name, operands=tuple(operands), results=tuple(results), dependence=Dependence.VARYING,
                flops=flops, bytes=moved,
            )
        )  # fmt: skip
        self.program.note(f"{name}: {why}; every output is taken to depend on all of its input")
        return results


class Broadcast:
    """Elements repeated to a larger shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __call__(self, ids: Ids) -> Ids:
        return np.broadcast_to(ids, self.shape)
