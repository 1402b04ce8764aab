"""The class Coloring: colours of columns and rows, what they cost, and how entries are recovered from products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from crelle._arrays import bytes_text, parse_bytes
from crelle._errors import CrelleMemoryError, CrelleShapeError, CrelleValueError, describe
from crelle.colorings import _file, _picture
from crelle.colorings._recovery import Elimination, alone_in_row, eliminate, transposed_places
from crelle.colorings._symmetric import marks
from crelle.pattern import SparsityPattern
from crelle.pattern._csr import Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind: TypeAlias = Literal["columns", "rows", "both", "symmetric"]
KINDS: tuple[Kind, ...] = ("columns", "rows", "both", "symmetric")


@dataclass(frozen=True, eq=False, repr=False)
class Coloring:
    """J ↦ (J S, R J): seeds S, R that add up columns and rows of one colour, and the way back to the entries of J.

    Made by :func:`crelle.coloring`. Colours count from 0; −1 is the neutral colour of columns and rows that are in no
    product, because nothing that is wanted needs them.

    Args:
        pattern: where J may be nonzero, m × n.
        kind: ``"columns"`` (products J S), ``"rows"`` (R J), ``"both"``, or ``"symmetric"`` (H S, m = n).
        column_colors: colour of each column, n integers; None where the kind is ``"rows"``.
        row_colors: colour of each row, m integers; None unless the kind is ``"rows"`` or ``"both"``.
        lower_bound: as few products as this might do.
        order: how the colouring was found.
        wanted: the entries that are recovered; None for all.
        substitution: whether entries of a symmetric matrix may be found by subtracting others.

    Raises:
        CrelleShapeError: a vector of colours has not the length that the pattern asks for.
    """

    pattern: SparsityPattern
    kind: Kind
    column_colors: Ints | None
    row_colors: Ints | None
    lower_bound: int = 0
    order: str = "given"
    wanted: SparsityPattern | None = None
    substitution: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CrelleValueError(describe(f"there is no kind {self.kind!r}", expected=", ".join(KINDS)))
        needs = (self.kind != "rows", self.kind in ("rows", "both"))
        for name, need, size in zip(("column_colors", "row_colors"), needs, self.pattern.shape[::-1], strict=True):
            value = getattr(self, name)
            if (value is not None) != need:
                expected = f"{size:,} integers" if need else "None"
                raise CrelleShapeError(describe(f"{name} does not fit kind={self.kind!r}", expected=expected))
            if need:
                colors = np.asarray(value)
                if colors.shape != (size,) or colors.dtype.kind not in "iu":
                    raise CrelleShapeError(
                        describe(f"{name} is {colors.dtype}{list(colors.shape)}", expected=f"{size:,} integers")
                    )
                colors = colors.astype(np.int32).view()
                colors.flags.writeable = False
                object.__setattr__(self, name, colors)

    # -- what it costs ---------------------------------------------------------------------------------------------

    @property
    def colors(self) -> Any:
        """Colours of the columns, or of the rows; for ``"both"`` the two vectors."""
        if self.kind == "both":
            return self.column_colors, self.row_colors
        return self.row_colors if self.kind == "rows" else self.column_colors

    @property
    def column_passes(self) -> int:
        """Products J s: number of colours of the columns."""
        return 0 if self.column_colors is None else int(self.column_colors.max(initial=-1)) + 1

    @property
    def row_passes(self) -> int:
        """Products rᵀ J: number of colours of the rows."""
        return 0 if self.row_colors is None else int(self.row_colors.max(initial=-1)) + 1

    @property
    def passes(self) -> int:
        """Number of products altogether."""
        return self.column_passes + self.row_passes

    @property
    def dense_passes(self) -> int:
        """Number of products that a dense computation from the same side needs."""
        m, n = self.pattern.shape
        return {"columns": n, "rows": m, "both": min(m, n), "symmetric": n}[self.kind]

    @property
    def entries(self) -> SparsityPattern:
        """The entries that are recovered, in the order of :attr:`gather`: all, or the wanted ones."""
        return self.pattern if self.wanted is None else self.wanted

    # -- the way back ----------------------------------------------------------------------------------------------

    @cached_property
    def _plan(self) -> tuple[Ints, Elimination | None]:
        m, n = self.pattern.shape
        width = self.column_passes
        rows, cols = self.entries.rows.astype(np.int64), self.entries.cols
        if self.kind == "columns":
            assert self.column_colors is not None
            return rows * width + self.column_colors[cols], None
        if self.kind == "rows":
            assert self.row_colors is not None
            return self.row_colors[rows].astype(np.int64) * n + cols, None
        assert self.column_colors is not None
        keep = slice(None) if self.wanted is None else marks(self.pattern, self.wanted)
        if self.kind == "symmetric" and self.substitution:
            gather, steps = eliminate(self.pattern, self.column_colors)
            return gather[keep], steps
        every_row, every_col = self.pattern.rows, self.pattern.cols
        alone = alone_in_row(every_row, every_col, self.column_colors)
        here = rows * width + self.column_colors[cols]
        if self.kind == "symmetric":
            other = alone[transposed_places(self.pattern)][keep]
            there = cols.astype(np.int64) * width + self.column_colors[rows]
        else:
            assert self.row_colors is not None
            other = alone_in_row(every_col, every_row, self.row_colors)[keep]
            there = m * width + self.row_colors[rows].astype(np.int64) * n + cols
        return np.where(alone[keep], here, np.where(other, there, -1)), None

    @property
    def gather(self) -> npt.NDArray[np.int64]:
        """Place of each entry of :attr:`entries`, in CSR order, in the raveled products.

        Those are J S [m, column_passes] followed by R J [row_passes, n]; one after the other where there are both. With
        ``substitution``, :attr:`elimination` comes first.
        """
        gather = self._plan[0].view()
        gather.flags.writeable = False
        return gather

    @property
    def elimination(self) -> Elimination | None:
        """Steps to take on the raveled products before entries are gathered; None where there are none."""
        steps = self._plan[1]
        return steps if steps is not None and steps.source.size else None

    def places(self) -> tuple[Ints, Ints, Ints]:
        """Where each entry is read, in CSR order: side (0: J S, 1: R J), colour, and position in that product.

        >>> from crelle import SparsityPattern, coloring
        >>> coloring(SparsityPattern.from_dense([[1, 1, 0], [0, 1, 1]])).places()
        (array([0, 0, 0, 0], dtype=int8), array([0, 1, 1, 0], dtype=int32), array([0, 0, 1, 1]))
        """
        (m, n), width, gather = self.pattern.shape, self.column_passes, self.gather
        first = m * width
        side = (gather >= first).astype(np.int8)
        row_color, column = np.divmod(gather - first, max(n, 1))
        row, column_color = np.divmod(gather, max(width, 1))
        color = np.where(side == 1, row_color, column_color).astype(np.int32)
        return side, color, np.where(side == 1, column, row)

    def verify(self) -> bool:
        """True if every entry of :attr:`entries` can be recovered, whatever the values.

        Raises:
            CrelleValueError: one cannot; the message says which, and what is in its way.

        Cost: O(nnz), and O(m · passes) memory where that is not much more.
        """
        rows, cols = self.entries.rows, self.entries.cols
        if self.wanted is not None and not self.pattern.contains(self.wanted):
            raise CrelleValueError(describe("wanted has entries that the pattern has not", called=repr(self)))
        keep = slice(None) if self.wanted is None else marks(self.pattern, self.wanted)
        every_row, every_col = self.pattern.rows, self.pattern.cols
        if self.kind == "columns":
            assert self.column_colors is not None
            good = alone_in_row(every_row, every_col, self.column_colors)[keep]
        elif self.kind == "rows":
            assert self.row_colors is not None
            good = alone_in_row(every_col, every_row, self.row_colors)[keep]
        else:
            good = self.gather >= 0
        if good.all():
            return True
        place = int(good.argmin())
        i, j = int(rows[place]), int(cols[place])
        raise CrelleValueError(
            describe(
                f"entry ({i:,}, {j:,}) cannot be recovered",
                called=repr(self),
                likely="; ".join(self._in_the_way(i, j)) or None,
                try_=f'crelle.coloring(pattern, kind="{self.kind}")',
            )
        )

    def _in_the_way(self, i: int, j: int) -> list[str]:
        """What shares the places of an entry."""
        found = []
        symmetric = self.kind == "symmetric"
        # Entry (j, i) of a symmetric matrix stands in for (i, j).
        for line, other, colors, name, pattern in (
            (i, j, self.column_colors, "column", self.pattern),
            (j, i, self.column_colors if symmetric else self.row_colors, "column" if symmetric else "row", None),
        ):
            if colors is None:
                continue
            color = int(colors[other])
            if color < 0:
                found.append(f"{name} {other:,} has no colour")
                continue
            near = (self.pattern if pattern is not None or symmetric else self.pattern.T).row(line)
            same = [int(k) for k in near if colors[k] == color and k != other]
            if same:
                where = ("row" if name == "column" else "column") + f" {line:,}"
                found.append(f"{name}s {other:,} and {same[0]:,} have colour {color} and meet in {where}")
        return found

    # -- products --------------------------------------------------------------------------------------------------

    def seeds(self, dtype: npt.DTypeLike = np.float64, *, memory: float | str = "1GB") -> Any:
        """S [n, column_passes], or R [row_passes, m], or both: 1 where the line has the colour, else 0.

        Args:
            dtype: of the matrices.
            memory: the largest size that is allowed, in bytes or as text.

        Returns:
            S for ``"columns"`` and ``"symmetric"``, R for ``"rows"``, (S, R) for ``"both"``.

        Raises:
            CrelleMemoryError: they would be larger than that.

        >>> from crelle import SparsityPattern, coloring
        >>> coloring(SparsityPattern.from_dense([[1, 1, 0], [0, 1, 1]])).seeds(int)
        array([[1, 0],
               [0, 1],
               [1, 0]])
        """
        m, n = self.pattern.shape
        limit, size = parse_bytes(memory), np.dtype(dtype).itemsize * (n * self.column_passes + m * self.row_passes)
        if limit is not None and size > limit:
            raise CrelleMemoryError(
                describe(
                    f"the seeds would take {bytes_text(size)}, and memory={memory!r}",
                    called=repr(self),
                    try_="make them one colour at a time: column_colors == c, row_colors == c",
                )
            )
        made = []
        if self.column_colors is not None:
            made.append((self.column_colors[:, None] == np.arange(self.column_passes, dtype=np.int32)).astype(dtype))
        if self.row_colors is not None:
            made.append((np.arange(self.row_passes, dtype=np.int32)[:, None] == self.row_colors).astype(dtype))
        return tuple(made) if self.kind == "both" else made[0]

    def recover(self, *products: npt.ArrayLike) -> npt.NDArray[Any]:
        """The entries of J, from the products with :meth:`seeds`.

        Args:
            *products: J S, m × column_passes; or R J, row_passes × n; for ``"both"`` the one and the other.

        Returns:
            The values of :attr:`entries` in CSR order: ``csr_array((values, entries.indices, entries.indptr))``.

        Raises:
            CrelleShapeError: a product has another shape.
            CrelleValueError: the colouring does not recover every entry, see :meth:`verify`.

        Cost: one gather; with substitution, one subtraction for each entry at most before that.

        >>> import numpy as np
        >>> from crelle import SparsityPattern, coloring
        >>> J = np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]])
        >>> c = coloring(SparsityPattern.from_dense(J))
        >>> c.recover(J @ c.seeds())
        array([1., 2., 3., 4.])
        """
        m, n = self.pattern.shape
        shapes = []
        if self.column_colors is not None:
            shapes.append((m, self.column_passes))
        if self.row_colors is not None:
            shapes.append((self.row_passes, n))
        arrays = [np.asarray(product) for product in products]
        if [array.shape for array in arrays] != shapes:
            raise CrelleShapeError(
                describe(
                    f"the products have shapes {', '.join(str(array.shape) for array in arrays) or 'of none'}",
                    called=repr(self),
                    expected=" and ".join(map(str, shapes)),
                )
            )
        if (self.gather < 0).any():
            self.verify()
        flat = arrays[0].ravel() if len(arrays) == 1 else np.concatenate([array.ravel() for array in arrays])
        if self.elimination is not None:
            flat = flat.copy()
            self.elimination.run(flat)
        values: npt.NDArray[Any] = flat[self.gather]
        return values

    # -- keeping and showing it ------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        """Same pattern, wishes and colours."""
        if not isinstance(other, Coloring):
            return NotImplemented
        mine, its = (self.pattern, self.wanted, self.kind), (other.pattern, other.wanted, other.kind)
        return (
            mine == its
            and self.substitution == other.substitution
            and all(
                np.array_equal(a, b) if a is not None and b is not None else a is b
                for a, b in ((self.column_colors, other.column_colors), (self.row_colors, other.row_colors))
            )
        )

    def __hash__(self) -> int:
        return hash((self.pattern, self.kind, self.passes))

    def save(self, path: str | Path) -> None:
        """Write the colouring and its pattern to a ``.npz`` file, uncompressed and without pickle.

        The file is written under exactly this name, whatever its suffix.
        """
        arrays: dict[str, Any] = {
            "kind": np.array(self.kind),
            "order": np.array(self.order),
            "lower_bound": np.array(self.lower_bound),
            "substitution": np.array(self.substitution),
        }
        for name, pattern in (("pattern", self.pattern), ("wanted", self.wanted)):
            if pattern is not None:
                arrays |= {f"{name}_shape": np.array(pattern.shape, np.int64)}
                arrays |= {f"{name}_indptr": pattern.indptr, f"{name}_indices": pattern.indices}
        for name in ("column_colors", "row_colors"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        _file.write(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Coloring:
        """Read a colouring that :meth:`save` wrote, and verify it.

        Raises:
            CrelleValueError: the file is truncated, of another version, no colouring, or one that is not valid.
            OSError: there is no such file, or it cannot be read.
        """
        found = _file.read(path)

        def pattern(name: str) -> SparsityPattern:
            return SparsityPattern(
                tuple(found[f"{name}_shape"].tolist()), found[f"{name}_indptr"], found[f"{name}_indices"]
            )

        try:
            made = cls(
                pattern("pattern"),
                str(found["kind"]),  # type: ignore[arg-type]
                found.get("column_colors"),
                found.get("row_colors"),
                int(found["lower_bound"]),
                str(found["order"]),
                pattern("wanted") if "wanted_shape" in found else None,
                bool(found["substitution"]),
            )
            made.verify()
        except (KeyError, ValueError) as error:
            raise CrelleValueError(f"{path} holds a colouring that is not valid: {error}") from None
        return made

    def __repr__(self) -> str:
        return _picture.line(self)

    def __str__(self) -> str:
        """The passes against those of a dense computation and the lower bound, and how they were found."""
        return _picture.text(self)

    def _repr_html_(self) -> str:
        return _picture.html(self)

    def spy(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the pattern with Matplotlib, each entry in the colour of the product that it is read from.

        Args:
            ax: where to draw; a new figure by default.
            **kwargs: for the artist: ``Axes.scatter`` up to 200 rows and columns, ``Axes.imshow`` beyond.

        Returns:
            The axes.

        Raises:
            CrelleImportError: Matplotlib is not installed.
        """
        return _picture.spy(self, ax, **kwargs)
