"""The class SparsityPattern: what it holds and answers. Checks, conversions, files and pictures are beside it."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

from crelle._arrays import bytes_text, parse_bytes
from crelle._errors import CrelleMemoryError, CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.pattern import _convert, _file, _picture
from crelle.pattern._csr import Ints, Shape, check_csr, csr_of_triplets, index_dtype, read_ints, read_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@final
class SparsityPattern:
    """P ⊆ {0 … m−1} × {0 … n−1}: where a matrix of m rows and n columns may be nonzero.

    A pattern holds compressed sparse rows (CSR): row i has the columns ``indices[indptr[i]:indptr[i + 1]]``, which
    rise. It does not change, so it can be a key of a dictionary, and sharing it is safe.

    Args:
        shape: rows and columns, (m, n).
        indptr: where each row begins in ``indices``, and the number of entries at the end: m + 1 integers.
        indices: columns of the entries, row after row, rising within each row and without duplicates: nnz integers.

    The arrays are checked and copied. Where they are not in order, use :meth:`from_triplets`; where there is a matrix
    already, :meth:`from_`.

    Raises:
        CrelleShapeError: the lengths do not fit the shape.
        CrelleValueError: the offsets fall, or a column is out of range, out of order or twice in its row.
        CrelleTypeError: the arrays do not hold integers.

    Cost: O(m + nnz), and 4 bytes for each row and each entry (8 where 2³¹ − 1 is exceeded). Operations between
    patterns and transposition are O(m + n + nnz).

    >>> P = SparsityPattern((3, 4), indptr=[0, 2, 2, 3], indices=[0, 3, 1])
    >>> P
    SparsityPattern(3 × 4, 3 nonzeros, 25 %, bandwidth 1+3)
    >>> P.row(0), (2, 1) in P, (1, 1) in P
    (array([0, 3], dtype=int32), True, False)
    """

    __slots__ = ("_hash", "_indices", "_indptr", "_shape")

    _shape: Shape
    _indptr: Ints
    _indices: Ints
    _hash: int | None

    # Without it, `array | pattern` would be tried entry by entry.
    __array_ufunc__ = None

    def __init__(self, shape: tuple[int, int], indptr: npt.ArrayLike, indices: npt.ArrayLike) -> None:
        size = read_shape(shape)
        offsets, columns = read_ints(indptr, "indptr"), read_ints(indices, "indices")
        check_csr(size, offsets, columns)
        dtype = index_dtype(size, columns.size)
        self._hold(size, offsets.astype(dtype), columns.astype(dtype))

    @classmethod
    def _trusted(cls, shape: Shape, indptr: Ints, indices: Ints) -> SparsityPattern:
        """A pattern of arrays that are known to be valid, in order, and never written to again."""
        pattern = object.__new__(cls)
        dtype = index_dtype(shape, indices.size)
        pattern._hold(shape, indptr.astype(dtype, copy=False), indices.astype(dtype, copy=False))
        return pattern

    def _hold(self, shape: Shape, indptr: Ints, indices: Ints) -> None:
        # Views, because the flag would otherwise be set on an array that belongs to somebody else.
        indptr, indices = indptr.view(), indices.view()
        indptr.flags.writeable = indices.flags.writeable = False
        self._shape, self._indptr, self._indices, self._hash = shape, indptr, indices, None

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsityPattern._trusted, (self._shape, self._indptr, self._indices)

    # -- making one ------------------------------------------------------------------------------------------------

    @classmethod
    def from_(cls, thing: Any) -> SparsityPattern:
        """The pattern of a matrix of any kind.

        Args:
            thing: a matrix of m rows and n columns:

                - a pattern, which is returned as it is;
                - a SciPy sparse matrix or array of any format, a JAX ``BCOO`` or ``BCSR``, a PyTorch tensor in COO,
                  CSR or CSC layout. **Entries that are stored count, whatever their value**: explicit zeros are in the
                  pattern (call ``eliminate_zeros()`` first where they should not be), and whole blocks and
                  diagonals of the formats BSR and DIA; padding of a ``BCOO`` is not;
                - a dense array of NumPy, JAX or PyTorch, or a list of rows. What is not zero counts, NaN included.

        Returns:
            The pattern, with shape (m, n).

        Raises:
            CrelleTypeError: this is none of those.
            CrelleShapeError: it has not two dimensions.

        Cost: one copy of the indices; sorting where they are not in order.

        >>> import scipy.sparse
        >>> SparsityPattern.from_(scipy.sparse.eye_array(4, 5))
        SparsityPattern(4 × 5, 4 nonzeros, 20 %, bandwidth 0+0)
        >>> SparsityPattern.from_([[1.0, 0.0], [2.0, 3.0]])
        SparsityPattern(2 × 2, 3 nonzeros, 75 %, bandwidth 1+0)
        """
        if isinstance(thing, SparsityPattern):
            return thing
        return cls._trusted(*_convert.csr_of(thing))

    @classmethod
    def from_dense(cls, matrix: npt.ArrayLike) -> SparsityPattern:
        """{(i, j) : matrix[i, j] ≠ 0} of a dense matrix, m × n; NaN is not zero.

        Raises:
            CrelleTypeError: the entries are neither numbers nor truth values.
            CrelleShapeError: the matrix has not two dimensions.

        >>> SparsityPattern.from_dense([[0, 1, 0], [0, 0, 2]])
        SparsityPattern(2 × 3, 2 nonzeros, 33 %, bandwidth 0+1)
        """
        return cls._trusted(*_convert.csr_of_dense(matrix))

    @classmethod
    def from_triplets(cls, rows: npt.ArrayLike, cols: npt.ArrayLike, shape: tuple[int, int]) -> SparsityPattern:
        """{(rows[k], cols[k])}: entries in any order, repeated or not.

        Args:
            rows: row of each entry, k integers.
            cols: column of each entry, k integers.
            shape: rows and columns of the matrix, (m, n).

        Raises:
            CrelleShapeError: there are not as many rows as columns.
            CrelleValueError: an entry is outside the matrix.
            CrelleTypeError: the indices are not integers.

        >>> SparsityPattern.from_triplets([2, 0, 2], [1, 0, 1], (3, 3))
        SparsityPattern(3 × 3, 2 nonzeros, 22 %, bandwidth 1+0)
        """
        size = read_shape(shape)
        return cls._trusted(size, *csr_of_triplets(read_ints(rows, "rows"), read_ints(cols, "cols"), size))

    # -- what it holds ---------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (m, n)."""
        return self._shape

    @property
    def indptr(self) -> Ints:
        """Where each row begins in ``indices``; m + 1 integers, read-only."""
        return self._indptr

    @property
    def indices(self) -> Ints:
        """Columns of the entries, row after row; nnz integers, read-only."""
        return self._indices

    @property
    def nnz(self) -> int:
        """Number of entries that may be nonzero."""
        return int(self._indices.size)

    @property
    def density(self) -> float:
        """nnz / (m·n); 0 for a matrix without entries."""
        return self.nnz / (self._shape[0] * self._shape[1] or 1)

    @property
    def bandwidth(self) -> tuple[int, int]:
        """(max i − j, max j − i) over the entries (i, j), none below zero: diagonals below and above the main one.

        >>> SparsityPattern.from_dense([[1, 1, 0], [0, 1, 1], [1, 0, 1]]).bandwidth
        (2, 1)
        """
        # Columns rise, so the first and the last entry of each row are enough.
        rows = np.flatnonzero(np.diff(self._indptr))
        first, last = self._indices[self._indptr[rows]], self._indices[self._indptr[rows + 1] - 1]
        return max(0, int((rows - first).max(initial=0))), max(0, int((last - rows).max(initial=0)))

    @property
    def rows(self) -> Ints:
        """Row of each entry, in the order of ``indices``: with ``cols``, the entries as triplets.

        >>> P = SparsityPattern.from_dense([[0, 1], [1, 1]])
        >>> P.rows, P.cols
        (array([0, 1, 1], dtype=int32), array([1, 0, 1], dtype=int32))
        """
        return np.repeat(np.arange(self._shape[0], dtype=self._indptr.dtype), np.diff(self._indptr))

    @property
    def cols(self) -> Ints:
        """Column of each entry: ``indices`` under the name that goes with ``rows``."""
        return self._indices

    @property
    def row_counts(self) -> Ints:
        """Number of entries in each row, m integers."""
        return np.diff(self._indptr)

    @property
    def col_counts(self) -> Ints:
        """Number of entries in each column, n integers.

        >>> SparsityPattern.from_dense([[0, 1, 1], [0, 0, 1]]).col_counts
        array([0, 1, 2], dtype=int32)
        """
        return np.bincount(self._indices, minlength=self._shape[1]).astype(self._indices.dtype)

    def row(self, i: int) -> Ints:
        """Columns of row i that may be nonzero, rising; read-only.

        Raises:
            CrelleValueError: there is no row i.
        """
        place = _index(i, "row")
        if not 0 <= place < self._shape[0]:
            raise CrelleValueError(
                describe(
                    f"there is no row {place:,}",
                    called=repr(self),
                    expected=f"0 to {self._shape[0] - 1:,}" if self._shape[0] else "nothing: there are no rows",
                )
            )
        return self._indices[self._indptr[place] : self._indptr[place + 1]]

    def __contains__(self, entry: object) -> bool:
        """Whether entry (i, j) may be nonzero; entries outside the matrix may not."""
        if not isinstance(entry, tuple) or len(entry) != 2:
            raise CrelleTypeError(
                describe(f"{entry!r} is not an entry", expected="(i, j) in pattern", try_="pattern.contains(other)")
            )
        i, j = _index(entry[0], "row"), _index(entry[1], "column")
        if not (0 <= i < self._shape[0] and 0 <= j < self._shape[1]):
            return False
        columns = self._indices[self._indptr[i] : self._indptr[i + 1]]
        place = int(np.searchsorted(columns, j))
        return place < columns.size and int(columns[place]) == j

    # -- comparing and combining -----------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        """Same shape and same entries."""
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        return self is other or (
            self._shape == other._shape
            and self._indices.size == other._indices.size
            and bool((self._indptr == other._indptr).all() and (self._indices == other._indices).all())
        )

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self._shape, self._indptr.tobytes(), self._indices.tobytes()))
        return self._hash

    def contains(self, other: SparsityPattern) -> bool:
        """Whether every entry of the other pattern is in this one, ``other <= self``.

        Raises:
            CrelleShapeError: the shapes differ.

        >>> lower = SparsityPattern.from_dense([[1, 0], [1, 1]])
        >>> lower.contains(SparsityPattern.from_dense([[1, 0], [0, 1]])), lower.contains(lower.T)
        (True, False)
        """
        self._same_shape(other, "contains")
        return self is other or (other.nnz <= self.nnz and (self & other).nnz == other.nnz)

    def __le__(self, other: object) -> bool:
        return other.contains(self) if isinstance(other, SparsityPattern) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self.contains(other) if isinstance(other, SparsityPattern) else NotImplemented

    def __or__(self, other: SparsityPattern) -> SparsityPattern:
        """Entries that are in either pattern."""
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        self._same_shape(other, "|")
        return self if self is other else self._of_scipy(self._as_scipy() + other._as_scipy())

    def __and__(self, other: SparsityPattern) -> SparsityPattern:
        """Entries that are in both patterns."""
        if not isinstance(other, SparsityPattern):
            return NotImplemented
        self._same_shape(other, "&")
        return self if self is other else self._of_scipy(self._as_scipy().multiply(other._as_scipy()))

    def _same_shape(self, other: object, operation: str) -> None:
        if not isinstance(other, SparsityPattern):
            raise CrelleTypeError(
                describe(
                    f"{operation} needs two patterns and got {type(other).__name__}",
                    expected="a SparsityPattern",
                    try_="SparsityPattern.from_(it)",
                )
            )
        if self._shape != other._shape:
            turned = "transpose one of them with .T" if self._shape == other._shape[::-1] else None
            raise CrelleShapeError(
                describe(
                    f"{operation} needs patterns of one shape",
                    called=f"{self!r}\n{other!r}",
                    expected="the same rows and columns in both",
                    try_=turned,
                )
            )

    @property
    def T(self) -> SparsityPattern:
        """The pattern of the transposed matrix, n × m."""
        columns = self._as_scipy().tocsc()
        return SparsityPattern._trusted((self._shape[1], self._shape[0]), columns.indptr, columns.indices)

    # -- turning it into something else ----------------------------------------------------------------------------

    def _as_scipy(self) -> Any:
        """A ``csr_array`` that shares the index arrays; for reading."""
        from scipy.sparse import csr_array

        matrix = csr_array((np.ones(self.nnz, bool), self._indices, self._indptr), shape=self._shape)
        matrix.has_canonical_format = True
        return matrix

    @staticmethod
    def _of_scipy(matrix: Any) -> SparsityPattern:
        return SparsityPattern._trusted(matrix.shape, matrix.indptr, matrix.indices)

    def to_scipy(self) -> Any:
        """The pattern as a ``scipy.sparse.csr_array`` of truth values, m × n, with arrays of its own.

        >>> SparsityPattern.from_dense([[0, 1], [1, 0]]).to_scipy().toarray()
        array([[False,  True],
               [ True, False]])
        """
        matrix = self._as_scipy().copy()
        matrix.has_canonical_format = True
        return matrix

    def to_dense(self, *, memory: float | str = "1GB") -> npt.NDArray[np.bool_]:
        """The pattern as a dense matrix of truth values, m × n.

        Args:
            memory: the largest size that is allowed, in bytes or as text.

        Raises:
            CrelleMemoryError: the matrix would be larger than that.

        >>> SparsityPattern.from_triplets([0], [1], (2, 2)).to_dense()
        array([[False,  True],
               [False, False]])
        """
        limit, size = parse_bytes(memory), self._shape[0] * self._shape[1]
        if limit is not None and size > limit:
            raise CrelleMemoryError(
                describe(
                    f"the dense matrix would take {bytes_text(size)}, and memory={memory!r}",
                    called=repr(self),
                    try_="keep it sparse, with to_scipy()"
                    + (f', or allow it: to_dense(memory="{bytes_text(size * 1.01)}")' if size <= 10**12 else ""),
                )
            )
        dense = np.zeros(self._shape, bool)
        dense[self.rows, self._indices] = True
        return dense

    def save(self, path: str | Path) -> None:
        """Write the pattern to a ``.npz`` file, which NumPy can read too; it is uncompressed and holds no pickle.

        The file is written under exactly this name, whatever its suffix.
        """
        _file.write(path, self._shape, self._indptr, self._indices)

    @classmethod
    def load(cls, path: str | Path) -> SparsityPattern:
        """Read a pattern that :meth:`save` wrote, and check it.

        Raises:
            CrelleValueError: the file is truncated, of another version, or no pattern.
            OSError: there is no such file, or it cannot be read.
        """
        return _file.read(path, cls)

    # -- showing it ------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return _picture.line(self)

    def __str__(self) -> str:
        """The line of ``repr`` and a picture: one dot for each entry, or for each block of entries that has one."""
        picture = _picture.braille(_picture.shrunk(self, 80, 80))
        return f"{self!r}\n{picture}" if picture else repr(self)

    def _repr_html_(self) -> str:
        return _picture.html(self)

    def spy(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw the pattern with Matplotlib: a square for each entry, or an image of their density if it is large.

        Args:
            ax: where to draw; a new figure by default (one of pyplot's where pyplot has been imported, so that
                ``plt.show()`` shows it).
            **kwargs: for the artist: ``Axes.plot`` up to 200 rows and columns, ``Axes.imshow`` beyond.

        Returns:
            The axes.

        Raises:
            CrelleImportError: Matplotlib is not installed.

        Cost: O(m + nnz); the image has at most 300 × 300 pixels.
        """
        return _picture.spy(self, ax, **kwargs)


def _index(value: object, name: str) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise CrelleTypeError(describe(f"{value!r} is not the number of a {name}", expected="an integer")) from None
