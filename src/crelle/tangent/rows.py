"""Index sets of all elements of a value, held as arrays: which inputs each element may depend on.

A value's sets are a few *terms*, whose union is meant. A term is an array of row ids in the value's shape, into a table
of index sets that terms share. Reshapes and gathers touch ids only; a sum appends terms. Terms are united when they
become many. Id 0 is the empty set, id -1 the set of all inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from crelle.tangent.program import Dependence, Ids, Move

#: Terms of a value before they are united.
MAX_TERMS = 12
#: Up to this many elements are united as further terms, not as new sets.
MAX_SLOTS = 12
#: Cells of a boolean matrix up to which sets are united by marking them.
_FEW_CELLS = 4_000_000
#: Below this many groups a union goes by marking, one group after the other.
_FEW_GROUPS = 4
EMPTY, FULL = 0, -1


class TooMany(Exception):
    """The index sets would take more memory than they are worth."""


class Table:
    """Index sets as CSR. Row k - 1 belongs to id k. ``indptr=None`` is the table of single inputs."""

    __slots__ = ("indices", "indptr", "size")

    def __init__(self, size: int, indptr: Ids | None = None, indices: Ids | None = None) -> None:
        self.size, self.indptr, self.indices = size, indptr, indices

    def rows(self, ids: Ids) -> tuple[Ids, Ids]:
        """(lengths, concatenated indices) of the sets of flat ids >= 0."""
        if self.indptr is None or self.indices is None:
            some = ids > 0
            return some.astype(np.int64), (ids[some] - 1).astype(np.int32, copy=False)
        starts = np.append(self.indptr[0:1], self.indptr[:-1])
        lengths = np.append(0, np.diff(self.indptr))[ids]
        return lengths, self.indices[ragged(starts[ids], lengths)]


def ragged(starts: Ids, lengths: Ids) -> Ids:
    """The concatenation of ``arange(start, start + length)``."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    places: Ids = np.arange(total)
    return places + np.repeat(starts - (ends - lengths), lengths) if total else places


@dataclass(frozen=True, slots=True)
class Term:
    """Row ids into a table; all its entries are in one class."""

    ids: Ids
    table: Table
    kind: Dependence


class Universe:
    """What all values of one propagation share: the number of inputs, and a bound on memory.

    Args:
        columns: elements of all inputs together.
        limit: entries of index sets that a single union may have.
    """

    def __init__(self, columns: int, limit: int = 200_000_000) -> None:
        self.columns, self.limit = columns, limit
        self.single = Table(columns)

    def inputs(self, start: int, shape: tuple[int, ...]) -> Rows:
        """The sets of an input: each element depends on itself."""
        size = int(np.prod(shape, dtype=np.int64))
        ids = np.arange(start + 1, start + size + 1, dtype=np.int32).reshape(shape)
        return Rows(self, shape, (Term(ids, self.single, Dependence.CONSTANT),))

    def nothing(self, shape: tuple[int, ...]) -> Rows:
        """The sets of a zero."""
        return Rows(self, shape, ())

    def full(self, shape: tuple[int, ...], kind: Dependence) -> Rows:
        """Every element on every input."""
        ids = np.broadcast_to(np.int32(FULL), shape)
        return Rows(self, shape, (Term(ids, self.single, kind),))


class Rows:
    """The index sets of one value."""

    __slots__ = ("shape", "terms", "universe")

    def __init__(self, universe: Universe, shape: tuple[int, ...], terms: Sequence[Term]) -> None:
        self.universe, self.shape, self.terms = universe, shape, tuple(terms)

    @property
    def size(self) -> int:
        """Elements of the value."""
        return int(np.prod(self.shape, dtype=np.int64))

    def kept(self, keep: Any) -> Rows:
        """Empty where ``keep`` is False."""
        return self._with([Term(np.where(keep, t.ids, np.int32(EMPTY)), t.table, t.kind) for t in self.terms])

    def of_kind(self, kind: Dependence) -> Rows:
        """After a coefficient of this kind."""
        if not kind or all(t.kind >= kind for t in self.terms):
            return self
        return self._with(_distinct([Term(t.ids, t.table, max(t.kind, kind)) for t in self.terms]))

    def _with(self, terms: Sequence[Term]) -> Rows:
        return Rows(self.universe, self.shape, terms)

    def compact(self) -> Rows:
        """At most one term of each kind."""
        terms: list[Term] = []
        for kind in Dependence:
            mine = [t for t in self.terms if t.kind == kind]
            terms += [unite(self.universe, self.shape, mine)] if len(mine) > 1 else mine
        return self._with(terms)


def _distinct(terms: Sequence[Term]) -> list[Term]:
    """Without terms that others hold; a stronger kind holds a weaker one."""
    kept: list[Term] = []
    for term in sorted(terms, key=lambda t: -t.kind):
        for other in kept:
            if other.table is term.table and (other.ids is term.ids or _equal(other.ids, term.ids)):
                break
        else:
            kept.append(term)
    return kept


def _equal(a: Ids, b: Ids) -> bool:
    """Whether two arrays are equal; a few elements are looked at first."""
    if a.shape != b.shape:
        return False
    if a.size > 4096:
        some = tuple(np.linspace(0, s - 1, min(s, 7)).astype(int) for s in a.shape)
        grid = np.ix_(*some)
        if not np.array_equal(a[grid], b[grid]):
            return False
    return bool(np.array_equal(a, b))


def moved(universe: Universe, operands: Sequence[Rows | tuple[int, ...]], move: Move) -> list[Rows]:
    """The sets after elements were moved; an operand that is zero is given by its shape."""
    slots: dict[tuple[int, Dependence, int], list[Ids | None]] = {}
    tables: dict[int, Table] = {}
    for k, operand in enumerate(operands):
        seen: dict[tuple[int, Dependence], int] = {}
        for term in operand.terms if isinstance(operand, Rows) else ():
            key = (id(term.table), term.kind)
            slot = seen[key] = seen.get(key, -1) + 1
            tables[id(term.table)] = term.table
            slots.setdefault((*key, slot), [None] * len(operands))[k] = term.ids
    shapes = [o.shape if isinstance(o, Rows) else o for o in operands]
    terms: list[list[Term]] = []
    for (table, kind, _), ids in slots.items():
        given = [np.zeros(s, np.int32) if a is None else a for a, s in zip(ids, shapes, strict=True)]
        result = move(*given)
        results = result if isinstance(result, tuple) else (result,)
        terms = terms or [[] for _ in results]
        for r, into in zip(results, terms, strict=True):
            if r.any():
                into.append(Term(r, tables[table], kind))
            shapes_out = [r.shape for r in results]
    if not slots:
        result = move(*[np.zeros(s, np.int32) for s in shapes])
        results = result if isinstance(result, tuple) else (result,)
        return [universe.nothing(r.shape) for r in results]
    return [settled(universe, s, _distinct(t)) for s, t in zip(shapes_out, terms, strict=True)]


def settled(universe: Universe, shape: tuple[int, ...], terms: Sequence[Term]) -> Rows:
    """Rows of these terms, united if they are many."""
    rows = Rows(universe, shape, terms)
    return rows if len(terms) <= MAX_TERMS else rows.compact()


def union(universe: Universe, operands: Sequence[Rows]) -> Rows:
    """The sets of a sum."""
    return settled(universe, operands[0].shape, _distinct([t for o in operands for t in o.terms]))


def unite(universe: Universe, shape: tuple[int, ...], terms: Sequence[Term]) -> Term:
    """One term for the union of several of one kind, in a table of its own."""
    size = terms[0].ids.size
    flat = [t.ids.reshape(-1) for t in terms]
    which: Ids | None = None
    if all(t.table.indptr is not None or t.table.size * 4 < size for t in terms) and size > 64:
        # elements that share all their sets, as after a broadcast, are united once
        which, flat = _groups(flat)
    full = np.zeros(len(flat[0]), bool)
    for ids in flat:
        full |= ids == FULL
    flat = [np.where(full, EMPTY, ids) for ids in flat]
    if all(t.table.indptr is None for t in terms):
        lengths, indices = _unite_single(universe, flat)
    else:
        lengths, indices = _unite_rows(universe, flat, [t.table for t in terms])
    ids, table = as_table(universe, lengths, indices, full)
    if which is not None:
        ids = ids[which]
    return Term(ids.reshape(shape), table, terms[0].kind)


def _groups(flat: Sequence[Ids]) -> tuple[Ids, list[Ids]]:
    """(group of each element, the ids of one element of each group) for elements with equal ids."""
    key = np.zeros(len(flat[0]), np.int64)
    for ids in flat:
        _, key = np.unique(key * (int(ids.max(initial=0)) + 3) + ids + 1, return_inverse=True)
        key = key.astype(np.int64)
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return which, [ids[first] for ids in flat]


def _unite_single(universe: Universe, flat: Sequence[Ids]) -> tuple[Ids, Ids]:
    """Sets that are columns of single inputs: sort each row, drop what is twice."""
    _guard(universe, len(flat) * len(flat[0]))
    columns = np.stack(flat, 1)
    columns.sort(1)
    new = columns > 0
    new[:, 1:] &= columns[:, 1:] != columns[:, :-1]
    return new.sum(1), columns[new] - 1


def _unite_rows(universe: Universe, flat: Sequence[Ids], tables: Sequence[Table]) -> tuple[Ids, Ids]:
    """Sets of any length."""
    parts = [table.rows(ids) for ids, table in zip(flat, tables, strict=True)]
    _guard(universe, sum(len(indices) for _, indices in parts))
    shape = (len(flat[0]), universe.columns)
    if shape[0] * shape[1] <= _FEW_CELLS:
        owners = np.concatenate([np.repeat(np.arange(shape[0]), lengths) for lengths, _ in parts])
        return _marked(shape, owners, np.concatenate([indices for _, indices in parts]))
    sp = _scipy_sparse()
    total: Any = None
    for lengths, indices in parts:
        indptr = np.append(0, np.cumsum(lengths))
        part = sp.csr_array((np.ones(len(indices), bool), indices, indptr), shape=shape)
        total = part if total is None else total + part
    total.sum_duplicates()
    return np.diff(total.indptr), total.indices


def _guard(universe: Universe, entries: int) -> None:
    if entries > universe.limit:
        raise TooMany(f"index sets of {entries:,} entries")


def as_table(universe: Universe, lengths: Ids, indices: Ids, full: Ids) -> tuple[Ids, Table]:
    """Ids and a table for sets given one after the other; empty and complete sets have ids of their own."""
    indptr = np.append(0, np.cumsum(lengths))
    ids = np.arange(1, len(lengths) + 1, dtype=np.int32)
    ids[lengths == 0] = EMPTY
    if universe.columns > 1:
        complete = lengths == universe.columns
        if complete.all():
            indptr, indices = np.zeros_like(indptr), indices[:0]
        full = full | complete
    ids[full] = FULL
    return ids, Table(len(lengths), indptr, indices)


@dataclass(frozen=True)
class Groups:
    """Which elements along the mixed axis each result reads, as CSR of shape [M, K]; equal rows are kept once.

    Attributes:
        which: the kept row of each of the M, ``None`` if all are kept.
    """

    indptr: Ids
    indices: Ids
    which: Ids | None

    @staticmethod
    def of(indptr: Ids, indices: Ids) -> Groups:
        """Recognise equal rows where rows are long enough for that to pay."""
        count = len(indptr) - 1
        if len(indices) <= 4 * count or count < 2:
            return Groups(indptr, indices, None)
        if len(np.unique(np.diff(indptr))) > count // 2:
            return Groups(indptr, indices, None)
        first, which = equal_rows(indptr, indices)
        if len(first) > count // 2:
            return Groups(indptr, indices, None)
        lengths = np.diff(indptr)[first]
        return Groups(np.append(0, np.cumsum(lengths)), indices[ragged(indptr[first], lengths)], which)

    @property
    def count(self) -> int:
        """Rows that are kept."""
        return len(self.indptr) - 1

    @cached_property
    def longest(self) -> int:
        """Elements that a result reads at most."""
        return int(np.diff(self.indptr).max(initial=0))


def equal_rows(indptr: Ids, indices: Ids) -> tuple[Ids, Ids]:
    """(first row of each kind, kind of each row) for CSR rows with sorted indices. Exact: hashes are verified."""
    count, lengths = len(indptr) - 1, np.diff(indptr)
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 2**63, size=int(indices.max(initial=0)) + 1, dtype=np.uint64)
    sums = np.append(np.uint64(0), np.cumsum(weights[indices], dtype=np.uint64))
    marks = sums[indptr[1:]] - sums[indptr[:-1]] + lengths.astype(np.uint64)
    _, first, which = np.unique(marks, return_index=True, return_inverse=True)
    leaders = first[which]
    same = lengths == lengths[leaders]
    if same.all() and np.array_equal(indices, indices[ragged(indptr[leaders], lengths)]):
        return first, which
    return np.arange(count), np.arange(count)


def mixed(
    rows: Rows, into: Move, out: Move, pattern: tuple[Ids, Ids] | None, kind: Dependence, groups: Groups | None = None
) -> Rows:
    """The sets of C in, where C has the pattern [M, K]: see :class:`crelle.tangent.program.Mix`."""
    universe = rows.universe
    sides = into(rows.terms[0].ids if rows.terms else np.zeros(rows.shape, np.int32))
    wide = None if pattern is None else groups or Groups.of(*pattern)
    results: list[Term] = []
    terms = [Term(into(t.ids), t.table, max(t.kind, kind)) for t in rows.terms]
    for term in _distinct([t if pattern is not None else _one_for_all(t) for t in terms if t.ids.any()]):
        results += _mix_one(universe, term, wide)
    if not results:
        count = 1 if pattern is None else len(pattern[0]) - 1
        return universe.nothing(out(np.zeros((count, sides.shape[1]), np.int32)).shape)
    if len(results) > MAX_TERMS:
        results = list(Rows(universe, results[0].ids.shape, results).compact().terms)
    if wide is not None and wide.which is not None:
        results = [Term(t.ids[wide.which], t.table, t.kind) for t in results]
    final = [Term(out(t.ids), t.table, t.kind) for t in results]
    return settled(universe, final[0].ids.shape, _distinct(final))


def _one_for_all(term: Term) -> Term:
    """One element along the mixed axis where all have the same set."""
    ids = term.ids
    if len(ids) > 1 and np.array_equal(ids[0], ids[-1]) and (ids == ids[:1]).all():
        return Term(ids[:1], term.table, term.kind)
    return term


def _mix_one(universe: Universe, term: Term, groups: Groups | None) -> list[Term]:
    ids = term.ids  # [K, N]
    longest = len(ids) if groups is None else groups.longest
    if longest <= MAX_SLOTS:
        return [Term(a, term.table, term.kind) for a in _slots(ids, groups)]
    count = 1 if groups is None else groups.count
    if count * ids.shape[1] <= _FEW_GROUPS:
        return [_mark(universe, term, groups)]
    return [_multiply(universe, term, groups)]


def _slots(ids: Ids, groups: Groups | None) -> list[Ids]:
    """The s-th element of each group, for every s."""
    if groups is None:
        return [a[None] for a in ids]
    lengths = np.diff(groups.indptr)
    if len(groups.indices) == len(lengths) and (lengths == 1).all():
        return [ids[groups.indices]]
    slots = []
    padded = np.append(groups.indices, 0)
    for s in range(groups.longest):
        there = lengths > s
        picked = ids[padded[np.where(there, groups.indptr[:-1] + s, len(groups.indices))]]
        slots.append(np.where(there[:, None], picked, np.int32(EMPTY)))
    return slots


def _mark(universe: Universe, term: Term, groups: Groups | None) -> Term:
    """Unions of a few long groups."""
    count, columns = (1 if groups is None else groups.count), term.ids.shape[1]
    lengths, parts = [], []
    full = np.zeros(count * columns, bool)
    for r in range(count):
        mine = term.ids if groups is None else term.ids[groups.indices[groups.indptr[r] : groups.indptr[r + 1]]]
        for c in range(columns):
            ids = mine[:, c]
            if (ids == FULL).any():
                full[r * columns + c] = True
                lengths.append(0)
                continue
            seen = np.zeros(universe.columns, bool)
            if term.table.indptr is not None:
                ids = np.unique(ids)
            seen[term.table.rows(ids)[1]] = True
            found = np.flatnonzero(seen).astype(np.int32)
            lengths.append(len(found))
            parts.append(found)
    indices = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    ids, table = as_table(universe, np.array(lengths, np.int64), indices, full)
    return Term(ids.reshape(count, columns), table, term.kind)


def _multiply(universe: Universe, term: Term, groups: Groups | None) -> Term:
    """Unions of many groups, as a boolean matrix product."""

    ids, table = term.ids, term.table
    columns = ids.shape[1]
    if groups is None:
        count, entries = 1, ids
        members = np.zeros(len(ids), np.int64)
    else:
        count, entries = groups.count, ids[groups.indices]
        members = np.repeat(np.arange(count), np.diff(groups.indptr))
    _guard(universe, entries.size)
    if columns == 1:
        flat = entries[:, 0]
        indptr = np.append(0, len(flat)) if groups is None else groups.indptr
    else:  # group (r, c) reads entries[members == r, c]
        places = members[:, None] * columns + np.arange(columns)
        order = np.argsort(places.reshape(-1), kind="stable")
        flat = entries.reshape(-1)[order]
        indptr = np.append(0, np.cumsum(np.bincount(places.reshape(-1), minlength=count * columns)))
    total = count * columns
    full = np.zeros(total, bool)
    whole = flat == FULL
    if whole.any():
        full[np.searchsorted(indptr, np.flatnonzero(whole), side="right") - 1] = True
    drop = (flat <= 0) | np.repeat(full, np.diff(indptr))
    if drop.any():
        lengths = np.diff(indptr) - _count(drop, indptr)
        flat, indptr = flat[~drop], np.append(0, np.cumsum(lengths))
    if total * universe.columns <= _FEW_CELLS:
        found_lengths, indices = table.rows(flat)
        owners = np.repeat(np.repeat(np.arange(total), np.diff(indptr)), found_lengths)
        ids, new = as_table(universe, *_marked((total, universe.columns), owners, indices), full)
        return Term(ids.reshape(count, columns), new, term.kind)
    sp = _scipy_sparse()
    # SciPy works in place, and the row pointers may belong to a map
    picks = sp.csr_array((np.ones(len(flat), bool), flat - 1, indptr.copy()), shape=(total, max(table.size, 1)))
    picks.sum_duplicates()
    if table.indptr is None:
        product = picks
    else:
        _guard(universe, int(np.diff(table.indptr)[picks.indices].sum()))
        assert table.indices is not None
        sets = sp.csr_array(
            (np.ones(len(table.indices), bool), table.indices, table.indptr), shape=(table.size, universe.columns)
        )
        product = picks @ sets
        product.sort_indices()
    found, new = as_table(universe, np.diff(product.indptr), product.indices, full)
    return Term(found.reshape(count, columns), new, term.kind)


def _marked(shape: tuple[int, int], owners: Ids, indices: Ids) -> tuple[Ids, Ids]:
    """(lengths, indices) of small sets, by marking: SciPy takes longer to load than such a problem takes."""
    marks = np.zeros(shape, bool)
    marks[owners, indices] = True
    at = np.nonzero(marks)
    return np.bincount(at[0], minlength=shape[0]), at[1].astype(np.int32)


def _scipy_sparse() -> Any:
    import scipy.sparse

    return scipy.sparse


def _count(mask: Ids, indptr: Ids) -> Ids:
    sums: Ids = np.append(0, np.cumsum(mask))
    return sums[indptr[1:]] - sums[indptr[:-1]]
