"""Which entries are had along the lines, and how arrays of them are laid out: every output of each line, or a pattern.

What is done with the numbers of one entry is the same in both (``steps``). What depends on the layout is here: numbers
of lines and of outputs set beside those of entries, the worst entry of each line, the largest of each output, and where
the lines are columns of a Jacobian, the evaluations that all the entries come from.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from crelle.backends.numpy.function import BlackBox

Array = np.ndarray[Any, np.dtype[Any]]


class Layout(Protocol):
    """How arrays of entries are indexed. ``lines`` are numbers of some of the lines, ascending."""

    def some(self, lines: Array) -> Array:
        """What takes the entries of some lines out of an array of all entries."""
        ...

    def of_lines(self, lines: Array, each: Array) -> Array:
        """One number for each of some lines, beside their entries."""
        ...

    def of_outputs(self, each: Array, lines: Array) -> Array:
        """Numbers of all outputs, [m], beside the entries of some lines."""
        ...

    def worst(self, lines: Array, size: Array) -> tuple[Array, Array]:
        """(which of its entries, how large) is the largest of each line, of the entries of some lines."""
        ...

    def entry(self, lines: Array, which: Array) -> Any:
        """What takes one entry of each line out of an array of all entries."""
        ...

    def entry_among(self, lines: Array, which: Array) -> Any:
        """The same for an array of the entries of these lines alone."""
        ...

    def largest(self, size: Array) -> Array:
        """The largest number of each output, beside all entries."""
        ...


class Columns(Layout, Protocol):
    """A layout whose lines are columns of a Jacobian.

    Attributes:
        index: which columns.
    """

    index: Array

    def moved(self, lines: Array, new: Array, origin: Array | None = None) -> Array:
        """The entries of f where each of some lines moves its entry of x to new places, [s, lines]: [s, entries]."""
        ...


class Every:
    """Arrays [lines, m]."""

    def some(self, lines: Array) -> Array:
        """Rows of the array."""
        return lines

    def of_lines(self, lines: Array, each: Array) -> Array:
        """[lines, 1]."""
        return each[:, None]

    def of_outputs(self, each: Array, lines: Array) -> Array:
        """[m]."""
        return each

    def worst(self, lines: Array, size: Array) -> tuple[Array, Array]:
        """The output with the largest number."""
        return size.argmax(axis=1), size.max(axis=1)

    def entry(self, lines: Array, which: Array) -> Any:
        """(row, column) of the array."""
        return lines, which

    def entry_among(self, lines: Array, which: Array) -> Any:
        """(row, column) of the smaller array."""
        return np.arange(len(lines)), which

    def largest(self, size: Array) -> Array:
        """[m]."""
        return np.asarray(size.max(axis=0, initial=0.0))


class WholeColumns(Every):
    """Columns with all their entries: one is moved at a time."""

    def __init__(self, box: BlackBox, index: Array) -> None:
        self.box, self.index = box, index

    def moved(self, lines: Array, new: Array, origin: Array | None = None) -> Array:
        """[s, lines, m]: an evaluation for each line and each place."""
        count, box = len(new), self.box
        values = box.moved(np.tile(self.index[lines], count)[:, None], new.reshape(-1, 1), origin)
        return values.reshape(count, len(lines), box.m)


class ColoredColumns:
    """The entries of a pattern, column by column, [entries]: all columns of one colour are moved at a time.

    Columns of one colour share no row, so each entry is seen as if its column were moved alone, with its own step.

    Args:
        index: which columns; none without entries.
        colors: their colours, ascending.
        start: where the entries of each column begin, and their number at the end.
        rows: of the entries.
    """

    def __init__(self, box: BlackBox, index: Array, colors: Array, start: Array, rows: Array) -> None:
        self.box, self.index, self.rows = box, index, rows
        self._colors, self._start, self._counts = colors, start, np.diff(start)

    def some(self, lines: Array) -> Array:
        """Numbers of entries."""
        if len(lines) == len(self.index):
            return np.arange(len(self.rows))
        return np.arange(int(self._counts[lines].sum())) + self.of_lines(
            lines, self._start[lines] - self._starts_among(lines)
        )

    def of_lines(self, lines: Array, each: Array) -> Array:
        """Each number as often as its line has entries."""
        return np.repeat(each, self._counts[lines])

    def of_outputs(self, each: Array, lines: Array) -> Array:
        """The number of the row of each entry."""
        return np.asarray(each[self.rows[self.some(lines)]])

    def worst(self, lines: Array, size: Array) -> tuple[Array, Array]:
        """The first entry of the line that has the largest number."""
        starts = self._starts_among(lines)
        largest = np.maximum.reduceat(size, starts)
        hit = (size == self.of_lines(lines, largest)) | np.isnan(size)
        places = np.where(hit, np.arange(len(size)), len(size))
        return np.minimum.reduceat(places, starts) - starts, largest

    def entry(self, lines: Array, which: Array) -> Any:
        """Numbers of entries."""
        return self._start[lines] + which

    def entry_among(self, lines: Array, which: Array) -> Any:
        """Numbers of entries of these lines."""
        return self._starts_among(lines) + which

    def largest(self, size: Array) -> Array:
        """[entries]."""
        out = np.zeros(self.box.m)
        np.maximum.at(out, self.rows, size)
        return out[self.rows]

    def moved(self, lines: Array, new: Array, origin: Array | None = None) -> Array:
        """[s, entries]: an evaluation for each colour and each place."""
        count, box = len(new), self.box
        used, color = np.unique(self._colors[lines], return_inverse=True)
        point = (np.arange(count)[:, None] * len(used) + color).reshape(-1)
        index, places = np.tile(self.index[lines], count), new.reshape(-1)
        starts = np.append(0, np.cumsum(np.tile(self._counts[lines], count)))
        rows = np.tile(self.rows[self.some(lines)], count)
        out = np.empty(len(rows), np.result_type(box.out_dtype, box.x, new))
        # values of all outputs are kept no longer than until the entries are taken out of them
        width = max(1, 4 * box.batch_bytes // max(1, out.itemsize * box.m))
        for first in range(0, count * len(used), width):
            last = min(first + width, count * len(used))
            low, high = np.searchsorted(point, [first, last])
            values = box.moved_together(
                point[low:high] - first, index[low:high], places[low:high], last - first, origin
            )
            some = slice(starts[low], starts[high])
            out[some] = values[np.repeat(point[low:high] - first, np.diff(starts[low : high + 1])), rows[some]]
        return out.reshape(count, -1)

    def _starts_among(self, lines: Array) -> Array:
        counts = self._counts[lines]
        return np.asarray(np.cumsum(counts) - counts)
