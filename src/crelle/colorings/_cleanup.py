"""Neutral colours: lines whose products nobody needs get none, and colours without lines disappear."""

from __future__ import annotations

import numpy as np

from crelle.colorings._recovery import alone_in_row
from crelle.pattern._csr import Ints

#: Colours are taken away one by one while (colours) × (entries) is at most this.
_MOST_WORK = 1e9


def compact(colors: Ints) -> Ints:
    """The same classes, numbered from 0 without gaps; −1 stays."""
    used = np.zeros(int(colors.max(initial=-1)) + 2, np.int64)
    used[colors] = 1
    used[-1] = 0
    numbers = np.cumsum(used) - 1
    numbers[-1] = -1
    return numbers[colors].astype(np.int32)


def neutralise_both(rows: Ints, cols: Ints, wanted: Ints, column_colors: Ints, row_colors: Ints) -> tuple[Ints, Ints]:
    """Take colours away from columns and rows while every wanted entry can be read off one product or the other."""
    colors = [column_colors.copy(), row_colors.copy()]
    ends = [(rows, cols), (cols, rows)]

    def readable() -> list[Ints]:
        return [alone_in_row(*ends[side], colors[side]) for side in (0, 1)]

    alone = readable()
    classes = [(side, color) for side in (0, 1) for color in range(int(colors[side].max(initial=-1)) + 1)]
    if len(classes) * rows.size <= _MOST_WORK:
        sizes = [np.bincount(colors[side][colors[side] >= 0]) for side in (0, 1)]
        for side, color in sorted(classes, key=lambda item: (sizes[item[0]][item[1]], item)):
            only = wanted & alone[side] & ~alone[1 - side]
            if not (colors[side][ends[side][1][only]] == color).any():
                colors[side][colors[side] == color] = -1
                alone[side] &= colors[side][ends[side][1]] >= 0
    # Of entries that both sides give, the column product is read.
    by_row = wanted & ~alone[0]
    by_column = wanted & alone[0]
    row_needed = np.zeros(row_colors.size, bool)
    row_needed[rows[by_row]] = True
    spared = by_column & alone[1] & row_needed[rows]  # those whose row is there anyway
    column_needed = np.zeros(column_colors.size, bool)
    column_needed[cols[by_column & ~spared]] = True
    colors[0][~column_needed] = -1
    colors[1][~row_needed] = -1
    return compact(colors[0]), compact(colors[1])


def neutralise_symmetric(rows: Ints, cols: Ints, mirrored: Ints, wanted: Ints, colors: Ints) -> Ints:
    """The same for a symmetric matrix, where (i, j) can be read as (j, i); `mirrored` says where that is."""
    colors = colors.copy()
    alone = alone_in_row(rows, cols, colors)
    wanted = wanted | wanted[mirrored]
    size = int(colors.max(initial=-1)) + 1
    if size * rows.size <= _MOST_WORK:
        counts = np.bincount(colors[colors >= 0], minlength=size)
        for color in np.argsort(counts, kind="stable").tolist():
            only = wanted & alone & (~alone[mirrored] | (rows == cols))
            if not (colors[cols[only]] == color).any():
                # Both ends may have this colour, and then one of them is needed.
                inside = wanted & (colors[cols] == color) & (colors[rows] == color)
                if not inside.any():
                    colors[colors == color] = -1
                    alone &= colors[cols] >= 0
    needed = np.zeros(colors.size, bool)
    either = wanted & alone & alone[mirrored] & (rows != cols)
    needed[cols[wanted & alone & ~either]] = True
    open_ = either & ~needed[rows] & ~needed[cols]
    needed[np.maximum(rows, cols)[open_]] = True
    colors[~needed] = -1
    return compact(colors)
