"""The tangent program: the part of a derivative that is linear in the tangent, as a list of linear maps.

A backend lowers its own graph to values and these maps; everything in ``tangent/`` works on them and knows no framework
(Griewank & Walther, *Evaluating Derivatives*, 2nd ed., SIAM 2008, ch. 2: the linearised computational graph).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from crelle._arrays import ArrayType, bytes_text
from crelle.tangent.cost import PassCost

Ids = np.ndarray[Any, Any]
Move = Callable[..., Any]
"""Moves the elements of an array of any dtype as the operation moves those of a tangent; what is new is 0."""


class Dependence(IntEnum):
    """What the coefficients of a map depend on."""

    CONSTANT = 0
    PASSIVE = 1  # on arguments that are not differentiated: constant while those stay
    VARYING = 2


@dataclass(slots=True, kw_only=True)
class LinearMap:
    """A linear map from values to values.

    Attributes:
        name: the framework's operation, for people.
        operands, results: ids of values; ``None`` where an operand is zero or a result is not needed.
        dependence: of the coefficients.
        flops, bytes: of one application.
        detail: what else is worth saying: the matrix is sparse, the index is not known ...
    """

    name: str
    operands: tuple[int | None, ...]
    results: tuple[int | None, ...]
    dependence: Dependence = Dependence.CONSTANT
    flops: float = 0.0
    bytes: float = 0.0
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class Gather(LinearMap):
    """out[i] = in[index[i]], or 0: reshapes, transposes, slices, broadcasts, pads, concatenations, known indices.

    ``move(*operands)`` returns the result, or a tuple of them where there are several; an operand that is zero comes as
    an array of zeros if ``shapes`` gives its shape.
    """

    move: Move
    shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(slots=True, kw_only=True)
class Scale(LinearMap):
    """out[i] = c[i] in[i]. ``keep`` is False where c is known to be zero; ``None`` if that is nowhere known."""

    keep: np.ndarray[Any, Any] | None = None


@dataclass(slots=True, kw_only=True)
class Add(LinearMap):
    """out = a + b + ..."""


@dataclass(slots=True, kw_only=True)
class Mix(LinearMap):
    """out = C in along one axis, with known zeros of C; the base of reductions, contractions and lanes.

    ``into(operand)`` gives the elements as [K, N]: K along the mixed axis, N side by side. Row r of the boolean CSR
    pattern ``(indptr, indices)`` of shape [M, K] lists what out[r] reads; ``pattern=None`` is one row that reads all.
    ``out`` takes [M, N] to the shape of the result.
    """

    into: Move
    out: Move
    pattern: tuple[Ids, Ids] | None = None


@dataclass(slots=True, kw_only=True)
class Reduce(Mix):
    """Sums over axes, segments or windows, scatter-add with known indices, cumulative sums."""


@dataclass(slots=True, kw_only=True)
class Contract(Mix):
    """Matrix products, einsum and convolution with a coefficient; a constant coefficient keeps its zeros."""


@dataclass(slots=True, kw_only=True)
class Lanes(Mix):
    """Dense inside a lane, lanes side by side: fft, solves, unknown indices along an axis."""


@dataclass(slots=True, kw_only=True)
class Loop(LinearMap):
    """carry, y_t = body(consts, carry, x_t) for t = 0 ... length - 1.

    Attributes:
        body: a program of ``consts`` values, then ``carry`` values, then one slice of each scanned value; its outputs
            are the carry and one slice of each stacked result. Operands and results of the map are in this order.
        length: ``None`` if it is not known: any number of steps, none included.
        step: the body at step t, where what it reads depends on t; ``None`` if all steps are alike.
        reverse: from the last slice to the first.
    """

    body: TangentProgram
    consts: int
    carry: int
    length: int | None
    step: Callable[[int], TangentProgram] | None = None
    reverse: bool = False


@dataclass(slots=True, kw_only=True)
class Branch(LinearMap):
    """One of several programs of the same operands; which one depends on a coefficient."""

    bodies: tuple[TangentProgram, ...]


@dataclass(slots=True, kw_only=True)
class Opaque(LinearMap):
    """Not understood: every element of every result may read every element of every operand."""


@dataclass(slots=True)
class TangentProgram:
    """A list of linear maps from inputs to outputs.

    Attributes:
        types: the type of every value, by id.
        inputs: ids of the tangents that go in.
        outputs: ids of the tangents that come out; ``None`` for one that is always zero.
        output_types: types of the outputs, the zero ones included.
        maps: in an order in which they can be run.
        transposed: it was read from the vjp: inputs are cotangents of f's outputs, outputs those of its inputs.
        notes: what is conservative, and why.
        trusted: operations whose patterns were taken from rules of the user.
        inside: values that an operation has on the way to its results: unions of what its results read. They stand for
            more numbers than they have elements.
    """

    types: list[ArrayType] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int | None] = field(default_factory=list)
    output_types: list[ArrayType] = field(default_factory=list)
    maps: list[LinearMap] = field(default_factory=list)
    transposed: bool = False
    notes: list[str] = field(default_factory=list)
    trusted: list[str] = field(default_factory=list)
    inside: set[int] = field(default_factory=set)

    def value(self, type_: ArrayType) -> int:
        """A new value."""
        self.types.append(type_)
        return len(self.types) - 1

    def close(self, first: int, results: Iterable[tuple[int | None, ArrayType]]) -> None:
        """An operation that began when there were ``first`` values is done; these are its results, and of these types.

        Rules make them of their operands' dtypes; the other new values are inside of the operation.
        """
        new = {r: type_ for r, type_ in results if r is not None and r >= first}
        for value, type_ in new.items():
            self.types[value] = type_
        self.inside.update(set(range(first, len(self.types))).difference(new))

    def note(self, text: str) -> None:
        """Say something once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def columns(self) -> int:
        """Elements of all inputs."""
        return sum(self.types[i].size for i in self.inputs)

    @property
    def rows(self) -> int:
        """Elements of all outputs."""
        return sum(t.size for t in self.output_types)

    def cost(self) -> PassCost:
        """Price of one pass with one seed: flops, bytes moved, operations, and the largest sum of live values."""
        maps = live(self)
        held = {v: self.types[v].nbytes for v in self.inputs}
        peak = sum(held.values())
        for m, dying in zip(maps, last_uses(self, maps), strict=True):
            if not isinstance(m, Gather):  # moves are done by whoever reads them
                held.update((r, self.types[r].nbytes) for r in m.results if r is not None)
            inside = m.body.cost().peak_bytes if isinstance(m, Loop) else 0
            peak = max(peak, sum(held.values()) + int(inside))
            for v in dying:
                held.pop(v, None)
        return PassCost(
            flops=sum(m.flops for m in maps if not isinstance(m, Contract)),
            matmul_flops=sum(m.flops for m in maps if isinstance(m, Contract)),
            bytes=sum(m.bytes for m in maps),
            ops=sum(not isinstance(m, Gather) for m in maps),
            peak_bytes=peak,
        )

    @property
    def dependence(self) -> Dependence:
        """The strongest dependence of any map: CONSTANT means that f is linear (or affine)."""
        return max((m.dependence for m in live(self)), default=Dependence.CONSTANT)

    def __str__(self) -> str:
        from crelle.tangent.show import chain

        return chain(self)

    def _repr_html_(self) -> str:
        from crelle.tangent.show import html_table

        return html_table(self)

    def __repr__(self) -> str:
        size = bytes_text(int(sum(m.bytes for m in self.maps)))
        return f"TangentProgram({self.columns:,} -> {self.rows:,}, {len(self.maps)} maps, {size} moved)"


def live(program: TangentProgram) -> list[LinearMap]:
    """The maps that an output depends on."""
    wanted = {v for v in program.outputs if v is not None}
    kept: list[LinearMap] = []
    for m in reversed(program.maps):
        if any(r in wanted for r in m.results):
            kept.append(m)
            wanted.update(v for v in m.operands if v is not None)
    return kept[::-1]


def last_uses(program: TangentProgram, maps: Sequence[LinearMap]) -> list[list[int]]:
    """For every map the values that nothing after it reads, so that they can be freed."""
    last: dict[int, int] = {}
    for k, m in enumerate(maps):
        for v in (*m.operands, *m.results):
            if v is not None:
                last[v] = k
    for v in program.outputs:
        if v is not None:
            last.pop(v, None)
    dying: list[list[int]] = [[] for _ in maps]
    for v, k in last.items():
        dying[k].append(v)
    return dying
