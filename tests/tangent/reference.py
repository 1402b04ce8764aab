"""Tangent programs made at random, and what they depend on by dense arithmetic, one input at a time.

A value is an integer array [*shape, columns]: 0 where an element does not depend on an input, else 1 + the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from crelle._arrays import ArrayType
from crelle.tangent.program import (
    Add,
    Branch,
    Contract,
    Dependence,
    Gather,
    Lanes,
    LinearMap,
    Loop,
    Mix,
    Opaque,
    Reduce,
    Scale,
    TangentProgram,
)  # fmt: skip

Array = np.ndarray[Any, Any]
SHAPES = [(3,), (2, 3), (5,), (), (2, 2, 2), (1,), (14,), (3, 1), (6,), (4, 2), (70,), (2, 0, 3), (0,)]


def after(value: Array, kind: int) -> Array:
    """A value after a coefficient of a kind."""
    return np.where(value > 0, np.maximum(value, kind + 1), 0).astype(np.int8)


def dense(program: TangentProgram) -> Array:
    """[rows, columns] of 0 or 1 + kind."""
    columns = program.columns
    start, given = 0, []
    for i in program.inputs:
        size = program.types[i].size
        own = np.zeros((size, columns), np.int8)
        own[np.arange(size), start + np.arange(size)] = 1
        given.append(own.reshape(*program.types[i].shape, columns))
        start += size
    outputs = run(program, given, columns)
    parts = [o.reshape(-1, columns) if o.size else np.zeros((int(np.prod(o.shape[:-1])), columns)) for o in outputs]
    whole = np.concatenate([np.zeros((0, columns)), *parts]).astype(np.int8)
    return whole.T if program.transposed else whole


def run(program: TangentProgram, given: Sequence[Array], columns: int) -> list[Array]:
    """All maps, one after the other."""
    values = dict(zip(program.inputs, given, strict=True))
    for m in program.maps:
        operands = [None if v is None else values[v] for v in m.operands]
        results = apply(program, m, operands, columns)
        values.update((r, x) for r, x in zip(m.results, results, strict=True) if r is not None)
    return [
        np.zeros((*t.shape, columns), np.int8) if v is None else values[v]
        for v, t in zip(program.outputs, program.output_types, strict=True)
    ]


def each_column(function: Any, arrays: Sequence[Array], columns: int) -> list[Array]:
    """A function of arrays, applied to every column on its own."""
    padded = [a if columns else np.zeros((*a.shape[:-1], 1), a.dtype) for a in arrays]
    found = [function(*[a[..., c].copy() for a in padded]) for c in range(max(columns, 1))]
    found = [f if isinstance(f, tuple) else (f,) for f in found]
    return [np.stack(parts, -1)[..., :columns] for parts in zip(*found, strict=True)]


def apply(program: TangentProgram, m: LinearMap, operands: list[Array | None], columns: int) -> list[Array]:
    """One map."""
    types = [program.types[r] if r is not None else None for r in m.results]
    some = [o for o in operands if o is not None]
    if isinstance(m, Gather):
        shapes = m.shapes or [()] * len(operands)
        arrays = [np.zeros((*s, columns), np.int8) if o is None else o for o, s in zip(operands, shapes, strict=True)]
        found = each_column(m.move, arrays, columns)
        return [after(f, m.dependence) for f in found]
    if isinstance(m, Scale):
        keep = np.ones((), bool) if m.keep is None else m.keep
        return [after(np.where(keep[..., None], some[0], 0), m.dependence)]
    if isinstance(m, Add):
        return [after(np.maximum.reduce(some), m.dependence)]
    if isinstance(m, Mix):
        return [after(each_column(lambda a: mix(m, a), some, columns)[0], m.dependence)]
    if isinstance(m, Branch):
        found = []
        for body in m.bodies:
            inner = [
                np.zeros((*body.types[i].shape, columns), np.int8) if o is None else o
                for i, o in zip(body.inputs, operands, strict=True)
            ]
            found.append(run(body, inner, columns))
        return [after(np.maximum.reduce(r), m.dependence) for r in zip(*found, strict=True)]
    if isinstance(m, Loop):
        return loop(m, operands, columns)
    assert isinstance(m, Opaque)
    reach = np.maximum.reduce([o.reshape(int(np.prod(o.shape[:-1])), columns).max(0, initial=0) for o in some])
    return [
        np.zeros((columns,), np.int8) if t is None else after(np.broadcast_to(reach, (*t.shape, columns)), m.dependence)
        for t in types
    ]


def mix(m: Mix, a: Array) -> Array:
    """One column of a mix."""
    sides = m.into(a)
    if m.pattern is None:
        rows = sides.max(0, initial=0)[None]
    else:
        indptr, indices = m.pattern
        rows = np.stack(
            [sides[indices[indptr[r] : indptr[r + 1]]].max(0, initial=0) for r in range(len(indptr) - 1)]
            or [np.zeros(sides.shape[1:], sides.dtype)]
        )[: len(indptr) - 1]
    return m.out(rows)


def loop(m: Loop, operands: list[Array | None], columns: int) -> list[Array]:
    """All steps, or as many as change anything."""
    body = m.body
    given = []
    for k, (o, i) in enumerate(zip(operands, body.inputs, strict=True)):
        shape = body.types[i].shape
        if k >= m.consts + m.carry:
            shape = (m.length or 0, *shape)
        given.append(np.zeros((*shape, columns), np.int8) if o is None else o)
    consts, carry = given[: m.consts], given[m.consts : m.consts + m.carry]
    scanned = given[m.consts + m.carry :]
    if m.length is None:
        total = carry
        while True:
            stepped = run(body, [*consts, *total], columns)
            grown = [np.maximum(a, b) for a, b in zip(total, stepped, strict=True)]
            if all(np.array_equal(a, b) for a, b in zip(grown, total, strict=True)):
                return [after(a, m.dependence) for a in total]
            total = grown
    stacked = [np.zeros((m.length, *t.shape, columns), np.int8) for t in body.output_types[m.carry :]]
    for t in reversed(range(m.length)) if m.reverse else range(m.length):
        now = body if m.step is None else m.step(t)
        results = run(now, [*consts, *carry, *(s[t] for s in scanned)], columns)
        carry = results[: m.carry]
        for into, r in zip(stacked, results[m.carry :], strict=True):
            into[t] = r
    return [*carry, *stacked]


# -- programs at random


class _Maker:
    """Appends random maps to a program."""

    def __init__(self, draw: Any, rng: np.random.Generator, depth: int) -> None:
        self.draw, self.rng, self.depth = draw, rng, depth
        self.program = TangentProgram()
        self.values: list[int] = []

    def new(self, shape: Sequence[int]) -> int:
        value = self.program.value(ArrayType("float64", tuple(int(s) for s in shape)))
        self.values.append(value)
        return value

    def kind(self) -> Dependence:
        return Dependence(int(self.rng.choice([0, 0, 1, 2])))

    def pick(self) -> int:
        return self.values[-1] if self.rng.random() < 0.4 else self.draw(st.sampled_from(self.values))

    def shape(self, v: int) -> tuple[int, ...]:
        return self.program.types[v].shape

    def put(self, make: type[LinearMap], operands: Sequence[int | None], shape: Sequence[int], **fields: Any) -> int:
        value = self.new(shape)
        fields = {"dependence": self.kind(), **fields}
        self.program.maps.append(make(name=make.__name__, operands=tuple(operands), results=(value,), **fields))
        return value

    # each makes one map

    def gather(self) -> None:
        a, b = self.pick(), self.pick()
        shapes, shape = (self.shape(a), self.shape(b)), self.draw(st.sampled_from(SHAPES))
        sizes = [int(np.prod(s)) for s in shapes]
        if not sum(sizes):
            shape = (0, *shape)
        index = self.rng.integers(-1, max(sum(sizes), 1), shape)

        def move(x: Array, y: Array) -> Array:
            flat = np.concatenate([x.reshape(-1), y.reshape(-1), np.zeros(1, x.dtype)])
            return np.asarray(flat[index])

        operands: list[int | None] = [a, b]
        if self.rng.random() < 0.2:
            operands[int(self.rng.integers(2))] = None
        self.put(Gather, operands, shape, move=move, shapes=shapes)

    def halves(self) -> None:
        """A move with two results, one of which may not be needed."""
        a = self.pick()
        size = int(np.prod(self.shape(a)))
        first, second = self.new((size,)), self.new(self.shape(a)[::-1])
        results: tuple[int | None, int | None] = (first, second)
        if self.rng.random() < 0.3:
            self.values.remove(first)
            results = (None, second)
        self.program.maps.append(
            Gather(
                name="halves", operands=(a,), results=results, dependence=self.kind(),
                move=lambda x: (x.reshape(-1)[::-1], x.T),
            )
        )  # fmt: skip

    def scale(self) -> None:
        a = self.pick()
        keep = None if self.rng.random() < 0.4 else self.rng.random(self.shape(a)) < 0.6
        self.put(Scale, [a], self.shape(a), keep=keep)

    def add(self) -> None:
        """A sum of many values of one shape: moved copies, so that terms must be united."""
        a = self.pick()
        shape, size = self.shape(a), int(np.prod(self.shape(a)))
        terms = [a]
        for _ in range(self.draw(st.sampled_from([1, 2, 3, 15]))):
            order = self.rng.integers(0, max(size, 1), size)
            move = lambda x, o=order: x.reshape(-1)[o].reshape(x.shape)
            terms.append(self.put(Gather, [a], shape, move=move))
        self.put(Add, terms, shape)

    def mix(self) -> None:
        a = self.pick()
        shape = self.shape(a)
        make = [Reduce, Contract, Lanes][int(self.rng.integers(3))]
        if not shape:
            into, length, rest = (lambda x: x.reshape(1, 1)), 1, ()
            axis = 0
        else:
            axis = int(self.rng.integers(len(shape)))
            length, rest = shape[axis], shape[:axis] + shape[axis + 1 :]
            into = lambda x: np.moveaxis(x, axis, 0).reshape(length, int(np.prod(rest)))
        if self.rng.random() < 0.3:
            width = int(self.rng.integers(0, 4))
            out = lambda x: np.broadcast_to(x, (width, x.shape[1])).reshape(width, *rest)
            self.put(make, [a], (width, *rest), into=into, out=out, pattern=None)
            return
        count = self.draw(st.sampled_from([0, 1, 2, 3, 5, 17]))
        density = float(self.rng.choice([0.0, 0.1, 0.5, 1.0]))
        matrix = self.rng.random((count, length)) < density
        if self.rng.random() < 0.5 and count:
            matrix = matrix[self.rng.integers(0, max(count // 4, 1), count)]  # equal rows
        indptr, indices = np.append(0, np.cumsum(matrix.sum(1))), np.nonzero(matrix)[1].astype(np.int32)
        self.put(make, [a], (count, *rest), into=into, out=lambda x: x.reshape(count, *rest), pattern=(indptr, indices))

    def opaque(self) -> None:
        a, b = self.pick(), self.pick()
        first, second = self.new(self.draw(st.sampled_from(SHAPES))), self.new((2,))
        self.program.maps.append(
            Opaque(name="opaque", operands=(a, None, b), results=(first, second), dependence=self.kind())
        )

    def branch(self) -> None:
        operands = [self.pick() for _ in range(int(self.rng.integers(1, 3)))]
        shapes = [self.shape(v) for v in operands]
        outs = [self.draw(st.sampled_from(SHAPES[:10])) for _ in range(int(self.rng.integers(1, 3)))]
        bodies = tuple(
            made(self.draw, self.rng, shapes, outs, self.depth - 1) for _ in range(int(self.rng.integers(1, 4)))
        )
        results = tuple(self.new(s) for s in outs)
        given: list[int | None] = list(operands)
        if self.rng.random() < 0.2:
            given[0] = None
        self.program.maps.append(
            Branch(name="cond", operands=tuple(given), results=results, dependence=self.kind(), bodies=bodies)
        )

    def loop(self) -> None:
        length = self.draw(st.sampled_from([0, 1, 2, 3, 5, 9, None]))
        consts = [self.pick() for _ in range(int(self.rng.integers(0, 2)))]
        carry = [self.pick() for _ in range(int(self.rng.integers(0, 3)))]
        stacked, scanned, slices = [], [], []
        if length is not None:
            stacked = [self.draw(st.sampled_from(SHAPES[:10])) for _ in range(int(self.rng.integers(0, 3)))]
            slices = [self.draw(st.sampled_from(SHAPES[:10])) for _ in range(int(self.rng.integers(0, 2)))]
            for s in slices:
                a = self.pick()
                size = int(np.prod(self.shape(a)))
                index = self.rng.integers(-1, max(size, 0) or 0, (length, *s)) if size else np.full((length, *s), -1)
                move = lambda x, i=index: np.asarray(np.append(x.reshape(-1), x.dtype.type(0))[i])
                scanned.append(self.put(Gather, [a], (length, *s), move=move))
        if not carry and not stacked:
            return
        inner = [*(self.shape(v) for v in (*consts, *carry)), *slices]
        outs = [*(self.shape(v) for v in carry), *stacked]
        bodies = [
            made(self.draw, self.rng, inner, outs, self.depth - 1)
            for _ in range(3 if length and self.rng.random() < 0.4 else 1)
        ]
        step = (lambda t: bodies[t % 3]) if len(bodies) > 1 else None
        results = tuple(self.new(s) for s in (*(self.shape(v) for v in carry), *((length, *s) for s in stacked)))
        operands: list[int | None] = [*consts, *carry, *scanned]
        if operands and self.rng.random() < 0.3:
            operands[int(self.rng.integers(len(operands)))] = None
        self.program.maps.append(
            Loop(
                name="loop", operands=tuple(operands), results=results, body=bodies[0], consts=len(consts),
                carry=len(carry), length=length, step=step, reverse=bool(self.rng.random() < 0.4),
                dependence=self.kind(),
            )
        )  # fmt: skip


def made(draw: Any, rng: np.random.Generator, shapes: Any, outs: Any, depth: int) -> TangentProgram:
    """A random program with inputs and outputs of given shapes."""
    maker = _Maker(draw, rng, depth)
    for s in shapes:
        maker.program.inputs.append(maker.new(s))
    makers = [maker.gather, maker.halves, maker.scale, maker.add, maker.mix, maker.mix]
    makers += [maker.opaque]
    if depth > 0:
        makers += [maker.branch, maker.loop, maker.loop]
    if maker.values:
        for _ in range(draw(st.integers(0, 3 if depth == 1 else 8))):
            draw(st.sampled_from(makers))()
    for s in outs:
        if not maker.values or rng.random() < 0.05:
            maker.program.outputs.append(None)
        else:
            a = maker.values[-1] if rng.random() < 0.6 else maker.pick()
            size = int(np.prod(maker.shape(a)))
            index = rng.integers(-1, size, s) if size else np.full(s, -1)
            move = lambda x, i=index: np.asarray(np.append(x.reshape(-1), x.dtype.type(0))[i])
            maker.program.outputs.append(maker.put(Gather, [a], s, move=move))
        maker.program.output_types.append(ArrayType("float64", tuple(s)))
    return maker.program


@st.composite
def programs(draw: Any, depth: int = 2) -> TangentProgram:
    """Programs of a few maps, with loops and branches inside one another."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    outs = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    program = made(draw, rng, shapes, outs, depth)
    program.transposed = draw(st.booleans())
    return program
