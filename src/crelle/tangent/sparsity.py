"""Which entries of a Jacobian can be nonzero, and what they depend on: index sets pushed through a tangent program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle.tangent import rows as sets
from crelle.tangent.loops import run_loop
from crelle.tangent.program import (
    Add,
    Branch,
    Dependence,
    Gather,
    Ids,
    LinearMap,
    Loop,
    Mix,
    Opaque,
    Scale,
    TangentProgram,
    last_uses,
    live,
)
from crelle.tangent.rows import FULL, Rows, Term, TooMany, Universe, ragged


@dataclass(frozen=True, slots=True)
class Detected:
    """The pattern of a matrix, as CSR with sorted indices, and the kind of each entry.

    Attributes:
        kinds: :class:`Dependence` of every entry, in the order of ``indices``.
        notes: where the pattern may be larger than the truth, and why.
    """

    shape: tuple[int, int]
    indptr: Ids
    indices: Ids
    kinds: np.ndarray[Any, Any]
    notes: tuple[str, ...] = ()

    def transposed(self) -> Detected:
        """The pattern of the transposed matrix."""
        import scipy.sparse as sp

        m, n = self.shape
        there = sp.csr_array((self.kinds, self.indices, self.indptr), shape=self.shape).tocsc()
        return Detected((n, m), there.indptr, there.indices, there.data, self.notes)


class TooDense(Exception):
    """The matrix has more entries than were of interest."""


def detect(program: TangentProgram, most: float = math.inf, limit: int = 200_000_000) -> Detected:
    """The pattern and the kind of each entry of the matrix of a program. Exact up to cancellation, never too small.

    Args:
        limit: entries of index sets that one operation may have, before every entry is taken to be nonzero.

    Raises:
        TooDense: there are more than ``most`` entries; found out before they are written down.
    """
    universe = Universe(program.columns, limit)
    notes: list[str] = []
    outputs = propagate(program, inputs(universe, program), notes)
    if sum(map(at_least, outputs)) > most:
        raise TooDense
    found = assemble(universe, outputs, (*program.notes, *notes))
    return found.transposed() if program.transposed else found


def at_least(rows: Rows) -> int:
    """A lower bound on the number of entries: those of the largest term."""
    sizes = []
    for term in rows.terms:
        full, some, indptr = int(np.count_nonzero(term.ids == FULL)), term.ids[term.ids > 0], term.table.indptr
        entries = some.size if indptr is None else int(np.diff(indptr)[some - 1].sum())
        sizes.append(full * rows.universe.columns + entries)
    return max(sizes, default=0)


def inputs(universe: Universe, program: TangentProgram) -> list[Rows]:
    """Every input element depends on itself."""
    start, found = 0, []
    for i in program.inputs:
        found.append(universe.inputs(start, program.types[i].shape))
        start += program.types[i].size
    return found


def propagate(program: TangentProgram, given: Sequence[Rows], notes: list[str]) -> list[Rows]:
    """The index sets of the outputs from those of the inputs. Values are freed after their last use."""
    universe = given[0].universe if given else Universe(0)
    values: dict[int, Rows] = dict(zip(program.inputs, given, strict=True))
    maps = live(program)
    for m, dying in zip(maps, last_uses(program, maps), strict=True):
        results = _apply(universe, program, m, [None if v is None else values.get(v) for v in m.operands], notes)
        values.update((r, found) for r, found in zip(m.results, results, strict=True) if r is not None)
        for v in dying:
            values.pop(v, None)
    return [
        universe.nothing(t.shape) if v is None else values[v]
        for v, t in zip(program.outputs, program.output_types, strict=True)
    ]


def _apply(
    universe: Universe, program: TangentProgram, m: LinearMap, operands: list[Rows | None], notes: list[str]
) -> list[Rows]:
    """The sets of the results of one map."""
    some = [o for o in operands if o is not None]
    shapes = [program.types[r].shape if r is not None else None for r in m.results]
    if not any(o.terms and o.size for o in some):
        return [universe.nothing(s or ()) for s in shapes]
    try:
        if isinstance(m, Gather):
            given = [o if o is not None else m.shapes[k] for k, o in enumerate(operands)]
            return [r.of_kind(m.dependence) for r in sets.moved(universe, given, m.move)]
        if isinstance(m, Scale):
            (one,) = some
            return [(one if m.keep is None else one.kept(m.keep)).of_kind(m.dependence)]
        if isinstance(m, Add):
            return [sets.union(universe, some).of_kind(m.dependence)]
        if isinstance(m, Mix):
            (one,) = some
            return [sets.mixed(one, m.into, m.out, m.pattern, m.dependence)]
        if isinstance(m, Branch):
            return _branch(universe, m, operands, shapes, notes)
        if isinstance(m, Loop):
            return run_loop(universe, m, operands, notes, propagate)
    except TooMany as error:
        notes.append(f"{m.name}: {error}; every entry is taken to be nonzero")
        return [universe.full(s or (), Dependence.VARYING) for s in shapes]
    assert isinstance(m, Opaque)
    return opaque(universe, some, shapes, m.dependence)


def opaque(
    universe: Universe, operands: Sequence[Rows], shapes: Sequence[tuple[int, ...] | None], kind: Dependence
) -> list[Rows]:
    """Every result on all that any operand depends on."""
    together = [
        sets.mixed(o, lambda a: a.reshape(-1, 1), lambda a: a.reshape(()), None, kind) for o in operands if o.size
    ]
    if not together:
        return [universe.nothing(s or ()) for s in shapes]
    all_of_it = sets.union(universe, together)
    terms = all_of_it.terms
    return [
        Rows(universe, s or (), [Term(np.broadcast_to(t.ids, s or ()), t.table, t.kind) for t in terms]) for s in shapes
    ]


def _branch(
    universe: Universe,
    m: Branch,
    operands: Sequence[Rows | None],
    shapes: Sequence[tuple[int, ...] | None],
    notes: list[str],
) -> list[Rows]:
    found = [propagate(body, _present(universe, body, operands), notes) for body in m.bodies]
    kept = [list(r) for r in zip(*found, strict=True)]
    return [sets.union(universe, r).of_kind(m.dependence) for r, _ in zip(kept, shapes, strict=True)]


def _present(universe: Universe, body: TangentProgram, operands: Sequence[Rows | None]) -> list[Rows]:
    return [
        universe.nothing(body.types[i].shape) if o is None else o for i, o in zip(body.inputs, operands, strict=True)
    ]


def assemble(universe: Universe, outputs: Sequence[Rows], notes: Sequence[str] = ()) -> Detected:
    """The CSR pattern of outputs one below the other."""
    parts = [_csr(universe, o) for o in outputs]
    lengths = np.concatenate([np.zeros(1, np.int64), *(p[0] for p in parts)])
    indptr = np.cumsum(lengths)
    indices = np.concatenate([np.zeros(0, np.int32), *(p[1] for p in parts)])
    kinds = np.concatenate([np.zeros(0, np.uint8), *(p[2] for p in parts)])
    dtype = np.int32 if max(indptr[-1], universe.columns) < 2**31 else np.int64
    return Detected(
        (len(indptr) - 1, universe.columns), indptr.astype(dtype), indices.astype(dtype, copy=False), kinds,
        tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _csr(universe: Universe, rows: Rows) -> tuple[Ids, Ids, np.ndarray[Any, Any]]:
    """(row lengths, indices, kinds) of one value, rows in C order."""
    rows = rows if len(rows.terms) <= 2 * sets.MAX_TERMS else rows.compact()
    flat = [np.ascontiguousarray(t.ids).reshape(-1) for t in rows.terms]
    if not flat:
        return np.zeros(rows.size, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint8)
    singles = all(t.table.indptr is None for t in rows.terms) and not any((ids == FULL).any() for ids in flat)
    if singles and universe.columns < 2**28:
        if len(flat) == 1:
            some = flat[0] > 0
            kind = np.full(int(some.sum()), rows.terms[0].kind, np.uint8)
            return some.astype(np.int64), flat[0][some] - 1, kind
        # column and kind in one key: of equal columns the strongest kind comes last
        keys = np.stack([(ids << 2) + int(t.kind) * (ids > 0) for ids, t in zip(flat, rows.terms, strict=True)], 1)
        keys.sort(1)
        columns = keys >> 2
        last = columns > 0
        last[:, :-1] &= columns[:, 1:] != columns[:, :-1]
        return last.sum(1), columns[last] - 1, (keys[last] & 3).astype(np.uint8)
    return _csr_of_any(universe, rows, flat)


def _csr_of_any(universe: Universe, rows: Rows, flat: list[Ids]) -> tuple[Ids, Ids, np.ndarray[Any, Any]]:
    """The same for sets of any length."""
    strongest = max(t.kind for t in rows.terms)
    whole = np.zeros(rows.size, bool)  # complete, and nothing can be stronger
    for ids, term in zip(flat, rows.terms, strict=True):
        if term.kind == strongest:
            whole |= ids == FULL
    parts = [
        _with_full(universe, term.table, np.where(whole, 0, ids)) for ids, term in zip(flat, rows.terms, strict=True)
    ]
    kept = [(p, t.kind) for p, t in zip(parts, rows.terms, strict=True) if len(p[1])]
    if not kept:
        lengths, indices, kinds = np.zeros(rows.size, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint8)
    elif len(kept) == 1:
        (((lengths, indices), kind),) = kept
        kinds = np.full(len(indices), kind, np.uint8)
    else:
        lengths, indices, kinds = _merged((rows.size, universe.columns), kept)
    if not whole.any():
        return lengths, indices, kinds
    if whole.all():
        lengths = np.full(rows.size, universe.columns, np.int64)
        indices = np.tile(np.arange(universe.columns, dtype=np.int32), rows.size)
        return lengths, indices, np.full(len(indices), strongest, np.uint8)
    at = np.where(whole, len(indices), np.append(0, np.cumsum(lengths))[:-1])
    lengths = np.where(whole, universe.columns, lengths)
    pick = ragged(at, lengths)
    indices = np.append(indices, np.arange(universe.columns, dtype=np.int32))[pick]
    return lengths, indices, np.append(kinds, np.full(universe.columns, strongest, np.uint8))[pick]


def _with_full(universe: Universe, table: sets.Table, ids: Ids) -> tuple[Ids, Ids]:
    """The sets of some ids, one after the other, where some may be complete."""
    full = ids == FULL
    lengths, indices = table.rows(np.where(full, 0, ids))
    if full.any():
        at = np.where(full, len(indices), np.append(0, np.cumsum(lengths))[:-1])
        lengths = np.where(full, universe.columns, lengths)
        indices = np.append(indices, np.arange(universe.columns, dtype=np.int32))[ragged(at, lengths)]
    return lengths, indices


def _merged(shape: tuple[int, int], parts: Sequence[tuple[tuple[Ids, Ids], Dependence]]) -> tuple[Ids, Ids, Any]:
    """Union of sets of several kinds."""
    import scipy.sparse as sp

    total: Any = None
    for (lengths, indices), kind in parts:
        # a few bits for each kind: terms are at most a few dozen, so that sums of them do not overflow
        weight = np.full(len(indices), np.int64(1) << (20 * int(kind)))
        part = sp.csr_array((weight, indices, np.append(0, np.cumsum(lengths))), shape=shape)
        total = part if total is None else total + part
    total.sum_duplicates()
    kinds = np.where(total.data >= 1 << 40, 2, np.where(total.data >= 1 << 20, 1, 0)).astype(np.uint8)
    return np.diff(total.indptr), total.indices, kinds
