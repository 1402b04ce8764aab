"""From a pattern to its structure: which analyses are made, in which order, and what the matrix is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle._arrays import ArrayType, total_size, types_text
from crelle._errors import CrelleShapeError, CrelleValueError, describe
from crelle.tangent.structure.batch import BatchAxis, batch_blocks, find_batch_axes
from crelle.tangent.structure.blocks import Blocks, connected_blocks
from crelle.tangent.structure.matching import maximum_matching
from crelle.tangent.structure.pattern import Entries, Ints, Pattern, band_area, band_name, dense_lines
from crelle.tangent.structure.result import Structure
from crelle.tangent.structure.triangular import BlockTriangular, block_triangular

#: A batch of blocks is described by the union of their patterns where that is no larger than this many positions.
UNION = 10**7


def find_structure(
    pattern: Pattern,
    inputs: Sequence[ArrayType] = (),
    outputs: Sequence[ArrayType] = (),
    *,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    entry_class: np.ndarray[Any, Any] | None = None,
    rank_bound: int | None = None,
    symmetric: bool = False,
    linear: bool = False,
    constant_diagonal: float | None = None,
) -> Structure:
    """The structure of an m × n matrix whose entries outside of ``pattern`` are zero.

    Args:
        pattern: ``shape``, ``indptr`` and ``indices`` of the pattern in compressed rows, sorted within each row.
        inputs, outputs: the arrays whose raveled entries, one after the other, are the columns and the rows; a vector
            if not given.
        input_names, output_names: what to call them.
        entry_class: of each entry, uint8[nnz]: 0 constant, 1 dependent on arguments that are not differentiated
            only, 2 varying; ``None`` if that is not known.
        rank_bound: a bound on the rank from elsewhere, as the narrowest cut of the program.
        symmetric: the matrix equals its transpose, as a Hessian does.
        linear: the matrix is known not to depend on the differentiated arguments.
        constant_diagonal: the value of all diagonal entries, if that is known.

    Raises:
        CrelleShapeError: if the arrays do not add up to the shape of the pattern, or classes to its entries.
        CrelleValueError: if an entry's class is not 0, 1 or 2.

    Cost: some passes over the entries. The search for a block triangular form, made only where nothing plainer
    is found, is bounded to about sixty.

    >>> from scipy.sparse import block_diag
    >>> x, y = ArrayType("float64", (4, 3)), ArrayType("float64", (4, 2))
    >>> find_structure(block_diag([np.ones((2, 3))] * 4, format="csr"), [x], [y], input_names=["x"])
    <Structure: block-diagonal: 4 blocks of 2×3 over axis 0 of x>
    """
    entries = Entries(pattern.shape, pattern.indptr, pattern.indices)
    m, n = entries.shape
    inputs = tuple(inputs) or (ArrayType("float64", (n,)),)
    outputs = tuple(outputs) or (ArrayType("float64", (m,)),)
    _check(entries, inputs, outputs, entry_class)
    shapes = tuple(t.shape for t in inputs), tuple(t.shape for t in outputs)

    batches, blocks = _independent(entries, *shapes)
    kind = _plain_kind(entries, constant_diagonal)
    if kind is None and any(b.complete and b.plain for b in batches):
        kind = "block-diagonal"
    rank = min(entries.shape)
    matching: Ints | None = None
    if not entries.full:
        rank = min(rank, int(np.count_nonzero(entries.row_counts)), int(np.count_nonzero(entries.col_counts)))
        matching = maximum_matching(entries)
        rank = rank if matching is None else min(rank, int(np.count_nonzero(matching >= 0)))
    form: BlockTriangular | None = None
    if kind is None:
        kind = _ordered_kind(entries, blocks)
    if kind is None:
        form = None if entries.full else block_triangular(entries, matching)
        if form is not None and 4 * form.largest <= 3 * n:
            kind = "block triangular"
        else:
            kind = "dense" if 2 * entries.nnz >= m * n else "sparse"
    of_all = total = None
    if entry_class is not None:
        counts = np.bincount(entry_class, minlength=3)
        total = max(entries.nnz, 1)
        of_all = (1.0 if not entries.nnz else int(counts[0]) / total, int(counts[1]) / total)
        linear = linear or not counts[2]
    linear = linear or not entries.nnz
    return Structure(
        kind=kind,
        shape=entries.shape,
        nnz=entries.nnz,
        bandwidths=entries.bandwidths,
        blocks=blocks,
        batch_axes=batches,
        within=_within(entries, blocks) if kind == "block-diagonal" else "",
        dense_rows=np.zeros(0, np.int64) if kind == "dense" else dense_lines(entries.row_counts, n),
        dense_cols=np.zeros(0, np.int64) if kind == "dense" else dense_lines(entries.col_counts, m),
        constant_share=None if of_all is None else of_all[0],
        passive_share=None if of_all is None else of_all[1],
        constant=not entries.nnz or (of_all is not None and of_all[0] == 1.0),
        linear=linear,
        rank_bound=rank if rank_bound is None else min(rank, rank_bound),
        structural_rank=None if matching is None and not entries.full else rank,
        symmetric=symmetric,
        diagonal=constant_diagonal if kind == "scaled identity" else None,
        inputs=inputs,
        outputs=outputs,
        input_names=_names(input_names, inputs, "the input", "input"),
        output_names=_names(output_names, outputs, "the output", "output"),
        _entries=entries,
        _matching=matching,
        _form=form,
        _classes=entry_class,
    )


def _names(given: Sequence[str], types: tuple[ArrayType, ...], single: str, several: str) -> tuple[str, ...]:
    if len(given) == len(types) and all(given):
        return tuple(given)
    return (single,) if len(types) == 1 else tuple(f"{several} {k}" for k in range(len(types)))


def _check(
    entries: Entries,
    inputs: tuple[ArrayType, ...],
    outputs: tuple[ArrayType, ...],
    entry_class: np.ndarray[Any, Any] | None,
) -> None:
    m, n = entries.shape
    if (total_size(outputs), total_size(inputs)) != (m, n):
        raise CrelleShapeError(
            describe(
                f"a pattern of shape {m}×{n} does not fit the arrays that it is said to belong to",
                called=f"inputs {types_text(inputs)}, outputs {types_text(outputs)}",
                expected=f"{total_size(outputs)} rows and {total_size(inputs)} columns",
            )
        )
    if entry_class is None:
        return
    if entry_class.shape != (entries.nnz,):
        raise CrelleShapeError(
            describe(
                f"classes of shape {list(entry_class.shape)} for a pattern with {entries.nnz} entries",
                expected="one class for each entry, in the order of the pattern",
            )
        )
    if entry_class.dtype.kind not in "ui" or (entries.nnz and not 0 <= entry_class.min() <= entry_class.max() <= 2):
        raise CrelleValueError(
            describe(
                "the class of an entry is not known",
                expected="integers: 0 constant, 1 dependent on arguments that are not differentiated, 2 varying",
            )
        )


def _plain_kind(entries: Entries, constant_diagonal: float | None) -> str | None:
    """Kinds that are seen before any blocks are."""
    m, n = entries.shape
    if not entries.nnz:
        return "zero"
    if entries.offsets == (0, 0):
        return "scaled identity" if constant_diagonal is not None and m == n == entries.nnz else "diagonal"
    return "dense" if entries.full else None


def _ordered_kind(entries: Entries, blocks: Blocks) -> str | None:
    """Bands, triangles and blocks, whichever leaves the fewest positions."""
    m, n = entries.shape
    lower, upper = entries.bandwidths
    area = band_area(entries.shape, lower, upper)
    banded = 2 * (lower + upper + 1) <= min(m, n) + 3 and 3 * entries.nnz >= area
    apart = 2 * blocks.area <= m * n
    if banded and not (apart and blocks.area < area):
        return "banded"
    low, high = entries.offsets
    if m == n and (high <= 0 or low >= 0) and not (apart and 4 * blocks.area < m * n):
        return ("strictly " if high < 0 or low > 0 else "") + ("lower" if high <= 0 else "upper") + " triangular"
    return "block-diagonal" if apart else None


def _independent(
    entries: Entries, inputs: tuple[tuple[int, ...], ...], outputs: tuple[tuple[int, ...], ...]
) -> tuple[tuple[BatchAxis, ...], Blocks]:
    """Batch axes, and the blocks that they or, where they do not reach all arrays, connected components leave."""
    batches = find_batch_axes(entries, inputs, outputs)
    complete = [b for b in batches if b.complete]
    if complete:
        return batches, batch_blocks(complete, inputs, outputs)
    blocks = connected_blocks(entries)
    if blocks.shape is None or len(blocks) == 1:
        return batches, blocks
    # Blocks of one shape whose number is no axis: an axis may still be the batch with something else.
    again = find_batch_axes(entries, inputs, outputs, extra=(len(blocks),))
    complete = [b for b in again if b.complete]
    return (again, batch_blocks(complete, inputs, outputs)) if complete else (batches, blocks)


def _within(entries: Entries, blocks: Blocks) -> str:
    """What the union of the patterns of equal blocks is, in their own rows and columns; empty where not telling."""
    if blocks.shape is None or len(blocks) < 2 or blocks.area == entries.nnz:
        return ""
    high, wide = blocks.shape
    if min(high, wide) < 2 or high * wide > UNION:
        return ""
    row, col = np.zeros(entries.shape[0], np.int64), np.zeros(entries.shape[1], np.int64)
    row[blocks.row_order] = np.tile(np.arange(high), len(blocks))
    col[blocks.col_order] = np.tile(np.arange(wide), len(blocks))
    union = np.zeros((high, wide), bool)
    union[np.repeat(row, entries.row_counts), col[entries.indices]] = True
    indices = np.nonzero(union)[1]
    one = Entries((high, wide), np.concatenate([[0], np.cumsum(union.sum(axis=1))]), indices)
    kind = _plain_kind(one, None) or _ordered_kind(one, connected_blocks(one)) or ""
    if kind == "banded":
        return band_name(*one.bandwidths)
    return "" if kind == "dense" else kind
