"""Index sets through loops: step by step, by doubling the number of steps, or up to a fixed point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crelle.tangent.program import Dependence, Ids, Loop, TangentProgram
from crelle.tangent.rows import FULL, Rows, Term, TooMany, Universe, as_table, ragged

Propagate = Callable[[TangentProgram, Sequence[Rows], list[str]], list[Rows]]
#: Steps that are followed one by one where they differ.
MAX_STEPS = 20_000
#: Work on differing steps: steps times maps.
MAX_STEP_WORK = 200_000
#: Products of boolean matrices are dense where a dense one is this many times cheaper by the operation.
_DENSE_GAIN = 50


def run_loop(
    universe: Universe, loop: Loop, operands: Sequence[Rows | None], notes: list[str], propagate: Propagate
) -> list[Rows]:
    """The sets of the results of a loop: carries, then stacked results."""
    body = loop.body
    given = [
        o if o is not None else universe.nothing(_shape(loop, k, body.types[i].shape))
        for k, (o, i) in enumerate(zip(operands, body.inputs, strict=True))
    ]
    if loop.length == 0:
        stacked = [universe.nothing((0, *t.shape)) for t in body.output_types[loop.carry :]]
        return [*given[loop.consts : loop.consts + loop.carry], *stacked]
    work = (loop.length or 0) * max(len(body.maps), 1)
    if loop.step is not None and loop.length is not None and (loop.length <= MAX_STEPS and work <= MAX_STEP_WORK):
        return _by_step(universe, loop, given, notes, propagate)
    if loop.step is not None:
        notes.append(f"{loop.name}: {loop.length or 'an unknown number of'} steps that differ are taken to be any step")
    return _alike(universe, loop, given, notes, propagate)


def _shape(loop: Loop, position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    if position < loop.consts + loop.carry:
        return shape
    return (loop.length or 0, *shape)


def _by_step(universe: Universe, loop: Loop, given: list[Rows], notes: list[str], propagate: Propagate) -> list[Rows]:
    """Every step with its own body."""
    assert loop.length is not None and loop.step is not None
    consts, carry = given[: loop.consts], given[loop.consts : loop.consts + loop.carry]
    scanned = given[loop.consts + loop.carry :]
    stacked: list[list[Rows]] = [[] for _ in loop.body.outputs[loop.carry :]]
    order = range(loop.length)
    for t in reversed(order) if loop.reverse else order:
        slices = [Rows(universe, s.shape[1:], [Term(a.ids[t], a.table, a.kind) for a in s.terms]) for s in scanned]
        results = propagate(loop.step(t), [*consts, *carry, *slices], notes)
        carry = results[: loop.carry]
        for into, r in zip(stacked, results[loop.carry :], strict=True):
            into.append(r)
    types = loop.body.output_types[loop.carry :]
    return [
        *carry,
        *(_stack(universe, t.shape, s[::-1] if loop.reverse else s) for t, s in zip(types, stacked, strict=True)),
    ]


def _stack(universe: Universe, shape: tuple[int, ...], slices: list[Rows]) -> Rows:
    """Slices along a new first axis. Tables of all terms become one."""
    slices = [s if len(s.terms) <= 1 else s.compact() for s in slices]
    terms: list[Term] = []
    for kind in Dependence:
        mine = [next((t for t in s.terms if t.kind == kind), None) for s in slices]
        if not any(m is not None for m in mine):
            continue
        tables = {id(m.table): m.table for m in mine if m is not None}
        ids = np.zeros((len(slices), *shape), np.int32)
        if len(tables) == 1:
            (table,) = tables.values()
            for t, m in enumerate(mine):
                if m is not None:
                    ids[t] = m.ids
            terms.append(Term(ids, table, kind))
            continue
        lengths, parts, full = [], [], []
        for m in mine:
            flat = np.zeros(int(np.prod(shape, dtype=np.int64)), np.int32) if m is None else m.ids.reshape(-1)
            full.append(flat == FULL)
            count, found = (universe.single if m is None else m.table).rows(np.where(flat == FULL, 0, flat))
            lengths.append(count)
            parts.append(found)
        new, table = as_table(universe, np.concatenate(lengths), np.concatenate(parts), np.concatenate(full))
        terms.append(Term(new.reshape(ids.shape), table, kind))
    return Rows(universe, (len(slices), *shape), terms)


# -- steps that are alike: the body as one boolean matrix


def _alike(universe: Universe, loop: Loop, given: list[Rows], notes: list[str], propagate: Propagate) -> list[Rows]:
    """All steps through powers of the body's own pattern.

    The state is the carry, once for every kind of entry: an entry of a weaker kind becomes one of the stronger where it
    passes a coefficient of that kind. So one boolean matrix carries sets and kinds; its powers are taken by squaring.
    """
    body = loop.body
    sizes = [body.types[i].size for i in body.inputs]
    outs = [t.size for t in body.output_types]
    start = np.cumsum([0, *sizes])
    c0, c1 = int(start[loop.consts]), int(start[loop.consts + loop.carry])
    state, total = c1 - c0, int(start[-1])
    local = _local(body, propagate, notes)  # per kind [outputs, inputs]
    seen = {t.kind for g in given for t in g.terms} | {k for k in Dependence if local[k].nnz}
    kinds = [k for k in Dependence if k == Dependence.CONSTANT or k in seen]
    lifted = _lift(local, kinds)
    many = sum(outs)
    rows_carry = np.concatenate([np.arange(state) + k * many for k in range(len(kinds))])
    rows_out = np.concatenate([np.arange(state, many) + k * many for k in range(len(kinds))])

    def columns(a: int, b: int) -> Ids:
        return np.concatenate([np.arange(a, b) + k * total for k in range(len(kinds))])

    step_c, step_x = lifted[rows_carry][:, columns(c0, c1)], lifted[rows_carry][:, columns(c1, total)]
    step_k = lifted[rows_carry][:, columns(0, c0)]
    out_c, out_x = lifted[rows_out][:, columns(c0, c1)], lifted[rows_out][:, columns(c1, total)]
    out_k = lifted[rows_out][:, columns(0, c0)]
    fixed = _matrices(universe, given[: loop.consts], kinds)
    const_sets, const_out = step_k @ fixed, out_k @ fixed
    first = _matrices(universe, given[loop.consts : loop.consts + loop.carry], kinds)
    scanned, widths = given[loop.consts + loop.carry :], sizes[loop.consts + loop.carry :]
    stacked = body.output_types[loop.carry :]
    if loop.length is None:
        last = _any_number(step_c, first, const_sets)
        before = None
    elif not scanned and not stacked:
        last, before = _power(step_c, first, const_sets, loop.length), None
    else:
        last, before = _through_time(
            universe, loop.length, step_c, step_x, first, const_sets, scanned, widths, loop.reverse, kinds
        )
    carry_types = body.output_types[: loop.carry]
    results = _unstack(universe, last, [t.shape for t in carry_types], kinds)
    if stacked:
        assert loop.length is not None
        length = loop.length
        xs = _time_matrix(universe, scanned, widths, length, loop.reverse, kinds)
        ys = _each_step(out_c, before, length) + _each_step(out_x, xs, length) + _repeat(const_out, length)
        results += _unstack_time(universe, ys, [t.shape for t in stacked], length, loop.reverse, kinds)
    return [r.of_kind(loop.dependence) for r in results] if loop.length is None else results


def _sp() -> Any:
    import scipy.sparse

    return scipy.sparse


def _local(body: TangentProgram, propagate: Propagate, notes: list[str]) -> list[Any]:
    """The body's own pattern [outputs, inputs], one matrix for each kind."""
    own = Universe(body.columns)
    start, given = 0, []
    for i in body.inputs:
        given.append(own.inputs(start, body.types[i].shape))
        start += body.types[i].size
    found = propagate(body, given, notes)
    return [_matrices(own, found, [kind]) for kind in Dependence]


def _matrices(universe: Universe, values: Sequence[Rows], kinds: Sequence[Dependence]) -> Any:
    """Sets of values one below the other, all of the first kind, then all of the next: [kinds * size, columns]."""
    sp = _sp()
    blocks = []
    for kind in kinds:
        for value in values:
            total = sp.csr_array((value.size, universe.columns), dtype=bool)
            for term in value.terms:
                if term.kind == kind:
                    ids = term.ids.reshape(-1)
                    full = ids == FULL
                    lengths, indices = term.table.rows(np.where(full, 0, ids))
                    if full.any():
                        at = np.where(full, len(indices), np.append(0, np.cumsum(lengths))[:-1])
                        lengths = np.where(full, universe.columns, lengths)
                        indices = np.append(indices, np.arange(universe.columns))[ragged(at, lengths)]
                    indptr = np.append(0, np.cumsum(lengths))
                    part = sp.csr_array((np.ones(len(indices), bool), indices, indptr), shape=total.shape)
                    total = total + part
            blocks.append(total)
    if not blocks:
        return sp.csr_array((0, universe.columns), dtype=bool)
    return sp.vstack(blocks, format="csr")


def _lift(local: list[Any], kinds: Sequence[Dependence]) -> Any:
    """The pattern on states of every kind: what comes in as kind i through an entry of kind j goes out as max(i, j)."""
    sp = _sp()
    grid = [[sp.csr_array(local[0].shape, dtype=bool) for _ in kinds] for _ in kinds]
    for i, before in enumerate(kinds):
        for j in kinds:
            k = kinds.index(max(before, j))
            grid[k][i] = grid[k][i] + local[j]
    return sp.block_array(grid, format="csr")


def _times(a: Any, b: Any) -> Any:
    """A boolean product, by dense matrices where the sparse ones are nearly full."""
    (m, k), n = a.shape, b.shape[1]
    work = a.nnz * (b.nnz / max(k, 1))
    if m * n < 20_000_000 and k * max(m, n) < 20_000_000 and work * _DENSE_GAIN > float(m) * k * n and work > 1e6:
        return _sp().csr_array(a.toarray().astype(np.float32) @ b.toarray().astype(np.float32) > 0)
    return a @ b


def _bound(matrix: Any) -> Any:
    if matrix.nnz > 50_000_000:
        raise TooMany(f"index sets of {matrix.nnz:,} entries in a loop")
    return matrix


def _power(step: Any, first: Any, more: Any, length: int) -> Any:
    """step^length first + the sum of step^i more over i < length, by squaring."""
    done, grown, power, bits = first, more, step, length  # grown: the sum over i < 2^k, power: step^(2^k)
    while bits:
        if bits & 1:
            done = _bound(_times(power, done) + grown)
        bits >>= 1
        if bits:
            grown = _bound(_times(power, grown) + grown)
            power = _bound(_times(power, power))
    return done


def _any_number(step: Any, first: Any, more: Any) -> Any:
    """The union over any number of steps: up to a fixed point, which is reached by squaring."""
    closure = step + _sp().eye_array(step.shape[0], dtype=bool, format="csr")
    total = first + more
    while True:
        grown = _bound(_times(closure, total) + total)
        if grown.nnz == total.nnz:
            return grown
        total, closure = grown, _bound(_times(closure, closure))


def _time_matrix(
    universe: Universe, scanned: Sequence[Rows], widths: Sequence[int], length: int, reverse: bool,
    kinds: Sequence[Dependence],
) -> Any:  # fmt: skip
    """Sets of the scanned values as [length * kinds * width, columns], in the order of the steps."""
    sp = _sp()
    width = sum(widths)
    if not width:
        return sp.csr_array((0, universe.columns), dtype=bool)
    whole = _matrices(universe, scanned, kinds)  # kinds x values x length x element
    order = np.zeros((length, len(kinds), width), np.int64)
    per_kind = sum(w * length for w in widths)
    base = at = 0
    times = np.arange(length)[::-1] if reverse else np.arange(length)
    for w in widths:
        for k in range(len(kinds)):
            order[:, k, at : at + w] = k * per_kind + base + times[:, None] * w + np.arange(w)
        base, at = base + w * length, at + w
    return whole[order.reshape(-1)]


def _each_step(matrix: Any, state: Any, length: int) -> Any:
    """The matrix applied to the state of every step."""
    sp = _sp()
    if not matrix.nnz or not state.nnz:
        return sp.csr_array((length * matrix.shape[0], state.shape[1]), dtype=bool)
    return _bound(_kron(length, matrix) @ state)


def _kron(length: int, matrix: Any) -> Any:
    """The block diagonal matrix of ``length`` copies."""
    rows, columns = matrix.shape
    indptr = np.append(0, np.cumsum(np.tile(np.diff(matrix.indptr), length)))
    indices = (matrix.indices.astype(np.int64) + np.arange(length)[:, None] * columns).reshape(-1)
    data = np.ones(len(indices), bool)
    return _sp().csr_array((data, indices, indptr), shape=(rows * length, columns * length))


def _repeat(matrix: Any, length: int) -> Any:
    rows = matrix.shape[0]
    return matrix[np.tile(np.arange(rows), length)]


def _through_time(
    universe: Universe, length: int, step_c: Any, step_x: Any, first: Any, more: Any,
    scanned: Sequence[Rows], widths: Sequence[int], reverse: bool, kinds: Sequence[Dependence],
) -> tuple[Any, Any]:  # fmt: skip
    """(the last state, the states before every step): all prefixes at once, by doubling.

    After k doublings ``total`` holds for each time what entered in the last 2^k steps.
    """
    state = step_c.shape[0]
    xs = _time_matrix(universe, scanned, widths, length, reverse, kinds)
    entered = _each_step(step_x, xs, length) + _repeat(more, length)
    total = _sp().vstack([first, entered], format="csr")  # time 0 ... length
    power, span = step_c, 1
    while span <= length and power.nnz:
        earlier = total[: (length + 1 - span) * state]
        grown = _kron(length + 1 - span, power) @ earlier
        shift = _sp().csr_array((span * state, total.shape[1]), dtype=bool)
        new = total + _sp().vstack([shift, grown], format="csr")
        _bound(new)
        if new.nnz == total.nnz:  # what is older adds nothing, and so nothing that is older still does
            break
        total, span = new, 2 * span
        power = _bound(_times(power, power))
    return total[length * state :], total[: length * state]


def _rows_of(universe: Universe, matrix: Any, shape: tuple[int, ...], kind: Dependence) -> list[Term]:
    if not matrix.nnz:
        return []
    matrix.sort_indices()
    ids, table = as_table(
        universe, np.diff(matrix.indptr), matrix.indices.astype(np.int32, copy=False), np.zeros(matrix.shape[0], bool)
    )
    return [Term(ids.reshape(shape), table, kind)]


def _unstack(
    universe: Universe, matrix: Any, shapes: Sequence[tuple[int, ...]], kinds: Sequence[Dependence]
) -> list[Rows]:
    sizes = [int(np.prod(s, dtype=np.int64)) for s in shapes]
    total, results, start = sum(sizes), [], 0
    for shape, size in zip(shapes, sizes, strict=True):
        terms: list[Term] = []
        for k, kind in enumerate(kinds):
            part = matrix[k * total + start : k * total + start + size]
            terms += _rows_of(universe, part, shape, kind)
        results.append(Rows(universe, shape, terms))
        start += size
    return results


def _unstack_time(
    universe: Universe, matrix: Any, shapes: Sequence[tuple[int, ...]], length: int, reverse: bool,
    kinds: Sequence[Dependence],
) -> list[Rows]:  # fmt: skip
    sizes = [int(np.prod(s, dtype=np.int64)) for s in shapes]
    total, results, start = sum(sizes), [], 0
    times = np.arange(length)[::-1] if reverse else np.arange(length)
    for shape, size in zip(shapes, sizes, strict=True):
        terms: list[Term] = []
        for k, kind in enumerate(kinds):
            base = times[:, None] * (len(kinds) * total) + k * total + start
            part = matrix[(base + np.arange(size)).reshape(-1)]
            terms += _rows_of(universe, part, (length, *shape), kind)
        results.append(Rows(universe, (length, *shape), terms))
        start += size
    return results
