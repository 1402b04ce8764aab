"""One factor of a derivative: which of its values have to be run, with how many seeds, and where the entries are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crelle.colorings import Coloring, color_columns
from crelle.determinants._blocks import Form, form_of
from crelle.determinants._cuts import Cut
from crelle.determinants._labels import backward, forward, shapes_of
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import PassCost
from crelle.tangent.program import Add, Dependence, Gather, LinearMap, TangentProgram, live
from crelle.tangent.sparsity import detect

Ints = np.ndarray[Any, Any]
#: Working set of the products of one factor that are run side by side.
CHUNK_BYTES = 2**29
#: Operations that add what they read as it is; differences and scaled sums are sums in a program, too.
_SUMS = ("add", "add_any", "addcmul")


@dataclass(frozen=True, eq=False)
class Factor:
    """A square matrix of which only the diagonal blocks of its triangular form are computed.

    Attributes:
        inputs, outputs: the values between which it is.
        form: its blocks.
        needed: the values that take part in entries of the blocks.
        pattern: the entries of the blocks.
        coloring: the seeds that give them; ``None`` if each block is the number 1, as in a permutation.
        place: where each entry is in the raveled products [passes, n].
        price: of one product.
    """

    inputs: Cut
    outputs: Cut
    form: Form
    needed: frozenset[int]
    pattern: SparsityPattern
    coloring: Coloring | None
    place: Ints
    price: PassCost

    @property
    def passes(self) -> int:
        """Products at each point."""
        return 0 if self.coloring is None else self.coloring.passes

    @property
    def chunk(self) -> int:
        """Products that are run side by side, for the sake of memory."""
        return max(1, int(CHUNK_BYTES / max(self.price.peak_bytes, 1.0)))

    @property
    def words(self) -> str:
        """What is done about it, for the plan."""
        n, sizes = len(self.form.block), self.form.sizes
        if self.coloring is None:
            return "ones on the diagonal: the sign of a permutation only"
        products = f"{self.passes:,} product{'s' if self.passes > 1 else ''}"
        if len(sizes) == n:
            return f"triangular: diagonal only, {products}"
        if len(sizes) == 1:
            return f"one block of {n:,}×{n:,}: {products}"
        largest = int(sizes.max())
        return f"block triangular: {len(sizes):,} blocks, the largest {largest:,}×{largest:,}, {products}"


def factor_of(program: TangentProgram, notes: list[str]) -> Factor:
    """What to run for the determinant of one program from n to n numbers."""
    return factor_of_form(program, form_of(program, notes))


def factor_of_form(program: TangentProgram, form: Form) -> Factor:
    """The same where the form is known."""
    if form.missing.size:
        nothing = SparsityPattern.from_triplets([], [], (len(form.block),) * 2)
        return Factor(program.inputs, program.outputs, form, frozenset(), nothing, None, form.missing, PassCost())
    pruned = _pruned(program, form) if len(form.sizes) > 1 else program
    maps = live(pruned)
    needed = frozenset(r for m in maps for r in m.results if r is not None).union(program.inputs)
    found = detect(replace(pruned, transposed=False))
    pattern = SparsityPattern._trusted(found.shape, found.indptr, found.indices)
    inside = form.block[pattern.rows] == form.block_of_column[pattern.indices]
    target = pattern
    if not inside.all():
        target = SparsityPattern._trusted(
            pattern.shape, np.append(0, np.cumsum(inside))[pattern.indptr], pattern.indices[inside]
        )
    moved = all(isinstance(m, Gather) and m.dependence == Dependence.CONSTANT for m in maps)
    if moved and target.nnz == len(form.block) == len(form.sizes):
        return Factor(program.inputs, program.outputs, form, needed, target, None, np.zeros(0, np.int64), PassCost())
    coloring = color_columns(pattern, wanted=None if target is pattern else target)
    _, color, row = coloring.places()
    place = color.astype(np.int64) * pattern.shape[0] + row
    return Factor(program.inputs, program.outputs, form, needed, target, coloring, place, pruned.cost())


def without_empty(program: TangentProgram) -> TangentProgram:
    """Without values that have no elements: nothing reads of them, and no cut is to go through them."""

    def filled(v: int | None) -> bool:
        return v is not None and program.types[v].size > 0

    maps = [_with_zeros(program, m, filled) for m in program.maps]
    outputs = [v if filled(v) else None for v in program.outputs]
    return replace(program, maps=[m for m in maps if m is not None], outputs=outputs)


def _pruned(program: TangentProgram, form: Form) -> TangentProgram:
    """Without the values through which no entry of a diagonal block passes.

    An element reads columns of blocks up to c, and rows of blocks from r on read it. As these rows read these columns,
    c <= r in the order of the blocks; an entry of a diagonal block passes only if c = r.
    """
    count = len(form.sizes)
    highest = forward(program, _split(program, program.inputs, form.block_of_column + 1))
    lowest = backward(program, _split(program, program.outputs, count - form.block))

    def alive(v: int | None) -> bool:
        if v is None or v not in highest or v not in lowest:
            return False
        read, by = highest[v], lowest[v]
        return bool(((read > 0) & (by > 0) & (read + by > count)).any())

    passes: dict[int | None, bool] = {v: v in program.inputs or alive(v) for v in highest}
    kept = [_with_zeros(program, m, lambda v: passes.get(v, False)) for m in program.maps]
    return replace(program, maps=[m for m in kept if m is not None])


def _with_zeros(program: TangentProgram, m: LinearMap, passes: Callable[[int | None], bool]) -> LinearMap | None:
    """A map with zeros for what does not take part, ``None`` if nothing of it does."""
    results = tuple(r if passes(r) else None for r in m.results)
    operands = tuple(v if passes(v) else None for v in m.operands)
    if not any(r is not None for r in results) or not any(v is not None for v in operands):
        return None
    if isinstance(m, Gather):
        return replace(m, operands=operands, results=results, shapes=shapes_of(program, m))
    if isinstance(m, Add) and m.name in _SUMS and len(some := [v for v in operands if v is not None]) == 1:
        return Gather(name=m.name, operands=tuple(some), results=results, move=lambda a: a, bytes=m.bytes)
    return replace(m, operands=operands, results=results)


def _split(program: TangentProgram, values: Cut, labels: Ints) -> list[Ints]:
    """Labels of raveled values, value by value."""
    shapes = [program.types[v].shape for v in values if v is not None]
    cuts = np.cumsum([int(np.prod(s, dtype=np.int64)) for s in shapes])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(labels, cuts), shapes, strict=True)]
