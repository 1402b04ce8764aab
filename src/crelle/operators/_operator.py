"""Linear operators: matrices that are known by their products. Everything is built on products with A and with Aᵀ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crelle._arrays import ArrayType, bytes_text
from crelle._errors import CrelleMemoryError, CrelleShapeError, CrelleTypeError, describe
from crelle.backends._protocol import Backend
from crelle.operators._questions import Questions
from crelle.operators._recording import asked_by_user
from crelle.operators._spaces import Space
from crelle.operators._vectors import vectors_of

#: The share of free memory that ``todense`` may fill without being told to.
_SHARE = 0.5
#: Characters that a repr takes for what an operator is called.
_TITLE = 80
#: Bytes of vectors that ``todense`` multiplies at a time.
_BATCH = 1 << 26


class Operator(Questions):
    """y = A v for a matrix A [m, n] that is never formed: ``A @ v``, ``A.T @ u``, and what can be built on them.

    ``v`` is a flat vector ``[n]``, a block of vectors ``[n, k]``, or a tree of arrays like the input; what comes back
    has the same form. Operators add up, are scaled, transposed, multiplied and shifted like matrices.

    A subclass has two methods, :meth:`_products` and :meth:`_adjoint_products`, for blocks with a vector in each row.

    Attributes:
        domain, codomain: the spaces of v and of A v.
        tags: what is known of A: ``"symmetric"``, ``"psd"`` (positive semidefinite), ``"diagonal"``, ``"identity"``.
    """

    #: Operators come before arrays: ``array @ A`` asks A.
    __array_ufunc__ = None
    __array_priority__ = 1000

    #: Whether :func:`crelle.operators._symmetry.verify_symmetry` has found it symmetric.
    _symmetry_verified = False

    def __init__(self, domain: Space, codomain: Space, tags: frozenset[str] = frozenset()) -> None:
        self.domain, self.codomain, self.tags = domain, codomain, tags

    # -- the two methods

    def _products(self, block: Any) -> Any:
        """[k, n] -> [k, m]: A v for each row v."""
        raise NotImplementedError

    def _adjoint_products(self, block: Any) -> Any:
        """[k, m] -> [k, n]: Aᵀ u for each row u."""
        raise NotImplementedError

    # -- what it is

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.codomain.size, self.domain.size

    @property
    def dtype(self) -> str:
        """Of flat products: ``"float32"``."""
        return self.codomain.dtype

    @property
    def device(self) -> str:
        """Where the vectors are; empty if unknown."""
        return self.domain.device or self.codomain.device

    @property
    def backend(self) -> Backend:
        """The framework of its arrays."""
        return self.domain.backend

    @property
    def is_symmetric(self) -> bool:
        """Whether A = Aᵀ by construction."""
        return "symmetric" in self.tags

    @property
    def _from_derivatives(self) -> bool:
        """Whether it is symmetric only if the second derivatives of some function are."""
        return False

    @property
    def kept_bytes(self) -> int:
        """About how many bytes its linearisations hold on to between products."""
        held = [part for value in vars(self).values() for part in (value if isinstance(value, tuple) else (value,))]
        return sum(int(getattr(part, "kept_bytes", 0)) for part in held)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of its products."""
        return ()

    @property
    def _title(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        m, n = self.shape
        kind = ArrayType(self.dtype, ()).__str__()[:-2]
        known = "".join(f", {tag}" for tag in ("symmetric", "psd", "diagonal", "identity") if tag in self.tags)
        where = f", {self.device}" if self.device else ""
        return f"{_shortened(self._title)}({kind}[{m:,}×{n:,}], {self.backend.name}{where}{known})"

    # -- products

    def __matmul__(self, v: Any) -> Any:
        """``A @ v`` for a vector [n], vectors [n, k], or a tree; ``A @ B`` for an operator."""
        if isinstance(v, Operator):
            from crelle.operators._algebra import composed

            return composed(self, v)
        form, leaves = self.domain.enter(v, lambda: f"{self!r} @ v")
        with asked_by_user():
            return self._answer(form, leaves)

    def __call__(self, v: Any) -> Any:
        """``A @ v``."""
        return self @ v

    def __rmatmul__(self, u: Any) -> Any:
        """``u @ A``, which is Aᵀu for one vector; of an array [k, m] each row is one."""
        form, leaves = self.codomain.enter(u, lambda: f"u @ {self!r}", rows=True)
        with asked_by_user():
            return self._adjoint_answer(form, leaves)

    def _answer(self, form: str, leaves: list[Any]) -> Any:
        """A v for what entered the domain, in the same form."""
        return self.codomain.formed(form, self._products(self.domain.block(form, leaves)))

    def _adjoint_answer(self, form: str, leaves: list[Any]) -> Any:
        """Aᵀ u for what entered the codomain, in the same form."""
        return self.domain.formed(form, self._adjoint_products(self.codomain.block(form, leaves)))

    @property
    def T(self) -> Operator:
        """Aᵀ."""
        if self.is_symmetric:
            return self
        from crelle.operators._algebra import Transposed

        return Transposed(self)

    # -- algebra

    def __add__(self, other: Any) -> Operator:
        from crelle.operators._algebra import Sum

        return Sum(self, _operator(other, self, "+"))

    def __sub__(self, other: Any) -> Operator:
        return self + -_operator(other, self, "-")

    def __mul__(self, factor: Any) -> Operator:
        from crelle.operators._algebra import Scaled

        return Scaled(self, factor)

    def __rmul__(self, factor: Any) -> Operator:
        return self.__mul__(factor)

    def __truediv__(self, factor: Any) -> Operator:
        return self.__mul__(1 / factor)

    def __neg__(self) -> Operator:
        return self.__mul__(-1.0)

    def shifted(self, shift: float) -> Operator:
        """A + σI, for a square A.

        Raises:
            CrelleShapeError: A is not square.
        """
        from crelle.operators._algebra import Identity

        self._verify_square("shifted")
        return self + Identity(self.domain) * shift

    def gram(self) -> Operator:
        """AᵀA, symmetric and positive semidefinite."""
        from crelle.operators._algebra import Gram

        return Gram(self)

    def block(self, rows: Any, cols: Any = None) -> Operator:
        """The part of A between some leaves of its trees: parameter groups, layers, named arrays.

        Vectors of the block are flat, arrays like the leaf, or a list of such where there are several leaves.

        Args:
            rows, cols: a leaf's path, or that of a branch (``"layer1"``, ``"layer1.weight"``, ``"['w']"``), its
                position, or a list of such; ``cols`` is ``rows`` if left out, for a block on the diagonal of a
                square A.

        Raises:
            CrelleValueError: no leaf has that name.
        """
        from crelle.operators._algebra import restricted

        return restricted(self, rows, rows if cols is None else cols)

    # -- handing over

    def todense(self, memory: int | str | None = None) -> Any:
        """The matrix [m, n], from min(m, n) products.

        Args:
            memory: how much it may take: bytes, or a text such as ``"2GB"``; half of what is free if left out.

        Raises:
            CrelleMemoryError: it would take more.
        """
        from crelle._arrays import parse_bytes

        m, n = self.shape
        need = ArrayType(self.dtype, (m, n)).nbytes
        free = self.backend.available_memory(self.device)
        limit = parse_bytes(memory) or (None if free is None else int(_SHARE * free))
        if limit is not None and need > limit:
            raise CrelleMemoryError(
                describe(
                    f"{self!r}.todense(): the matrix takes {bytes_text(need)}, of {bytes_text(limit)}",
                    try_="products alone (A @ v), A.diagonal(), or memory= if there is more",
                )
            )
        with asked_by_user():
            if m < n and not self._one_way:
                return self._all(self._adjoint_products, self.codomain)
            return self._all(self._products, self.domain).T

    def _all(self, product: Callable[[Any], Any], space: Space) -> Any:
        """The products with all unit vectors of a space, as rows; so many at a time that their memory is no matter."""
        vectors = vectors_of(self.backend)
        row = ArrayType(self.dtype, (sum(self.shape),)).nbytes
        chunk = max(1, min(space.size, _BATCH // max(1, row)))
        if chunk >= space.size:
            return product(vectors.identity(space, 0, space.size))
        starts = range(0, space.size, chunk)
        return vectors.concatenate(
            [product(vectors.identity(space, start, min(start + chunk, space.size))) for start in starts]
        )

    @property
    def _one_way(self) -> bool:
        """Whether there are no products with Aᵀ."""
        return False

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.linalg.LinearOperator`` with the same products, for NumPy arrays on the host."""
        from crelle.operators._scipy import to_scipy

        return to_scipy(self)

    def to_lineax(self) -> Any:
        """A ``lineax.FunctionLinearOperator`` with the same products and tags (JAX).

        Raises:
            CrelleTypeError: the operator is not one of JAX.
            CrelleImportError: lineax is not installed.
        """
        from crelle.operators._lineax import to_lineax

        return to_lineax(self)

    def _verify_square(self, what: str) -> None:
        m, n = self.shape
        if m != n:
            raise CrelleShapeError(
                describe(f"{self!r}.{what}: the matrix is {m:,} × {n:,}", expected="a square one",
                         try_="A.gram() for AᵀA")
            )  # fmt: skip

    def _verify_symmetric(self, what: str) -> None:
        self._verify_square(what)
        if not self.is_symmetric:
            raise CrelleTypeError(
                describe(f"{self!r}.{what} needs a symmetric matrix, and this is not known to be one",
                         try_="crelle.operator(A, symmetric=True) if you know it is; A.gram() for AᵀA")
            )  # fmt: skip


def _shortened(title: str) -> str:
    """One line of a terminal, its middle left out where it is longer."""
    return title if len(title) <= _TITLE else f"{title[: 2 * _TITLE // 3]} ... {title[-_TITLE // 4 :]}"


def _operator(other: Any, beside: Operator, sign: str) -> Operator:
    if isinstance(other, Operator):
        return other
    raise CrelleTypeError(
        describe(f"{beside!r} {sign} {type(other).__name__}", expected="another operator",
                 try_="A.shifted(c) for A + c·I; crelle.operator(matrix) for a matrix")
    )  # fmt: skip
