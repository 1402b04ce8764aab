"""Preconditioners: an approximate inverse M, from a diagonal, from dense blocks on the diagonal, or given."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from crelle._arrays import bytes_text
from crelle._errors import CrelleMemoryError, CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.operators._algebra import Transposed
from crelle.operators._matrix import MatrixOperator
from crelle.operators._operator import Operator
from crelle.operators._vectors import vectors_of

#: What all dense blocks may take together.
_BYTES = 2**30


class Preconditioner:
    """M r for each row r, with M about A⁻¹.

    Attributes:
        apply, adjoint: M r and Mᵀr.
        products: with A that it took to make it.
        notes: what was assumed.
    """

    def __init__(
        self, apply: Callable[[Any], Any], adjoint: Callable[[Any], Any], products: int, notes: tuple[str, ...] = ()
    ) -> None:
        self.apply, self.adjoint, self.products, self.notes = apply, adjoint, products, notes

    @property
    def T(self) -> Preconditioner:
        """Mᵀ."""
        return Preconditioner(self.adjoint, self.apply, 0, self.notes)


def preconditioner_of(operator: Operator, given: Any, what: str, method: str) -> Preconditioner | None:
    """What the user asked for.

    Raises:
        CrelleTypeError: none of what is known.
        CrelleShapeError: another size.
        CrelleValueError: a diagonal with zeros; signs that the method cannot use.
    """
    if given is None or isinstance(given, Preconditioner):
        return given
    operator._verify_square("solve with a preconditioner")
    if isinstance(given, Operator):
        if given.shape != operator.shape or given.backend.name != operator.backend.name:
            raise CrelleShapeError(
                describe(f"{what}: preconditioner={given!r}", expected=f"an operator like A⁻¹: {operator.T!r}")
            )
        return Preconditioner(given._products, given._adjoint_products, 0)
    if isinstance(given, str):
        if given == "jacobi":
            return _jacobi(operator, what, method)
        if given == "block":
            return _of_blocks(operator, what)
    else:
        block = operator.domain.block(*operator.domain.enter(given, lambda: f"{what}: preconditioner="))
        if len(block) == 1:
            return _of_diagonal(operator, block[0], 0, what, method)
    raise CrelleTypeError(
        describe(f"{what}: preconditioner={given!r}",
                 expected="'jacobi', 'block', an operator like A⁻¹, or the diagonal of A")
    )  # fmt: skip


def _jacobi(operator: Operator, what: str, method: str) -> Preconditioner:
    """Of the diagonal: exact where that takes few products, else of an estimate that is kept away from zero."""
    if isinstance(operator, MatrixOperator):
        return _of_diagonal(operator, operator.matrix.diagonal(), 0, what, method)
    found = operator.diagonal(rtol=None)
    if found.exact:
        return _of_diagonal(operator, found.value, found.products, what, method)
    to_host, like = operator.backend.to_host, vectors_of(operator.backend).empty(operator.domain)
    values, errors = (np.asarray(to_host(v), float) for v in (found.value, found.stderr))
    signs = np.where(values < 0, -1.0, 1.0) if method == "gmres" else 1.0
    values = np.maximum(np.abs(values) if method != "cg" else values, np.maximum(errors, np.finfo(np.float32).tiny))
    made = _of_diagonal(
        operator, vectors_of(operator.backend).from_host(signs * values, like), found.products, what, method
    )
    made.notes = (*made.notes, f"the diagonal is an estimate from {found.products:,} products")
    return made


def _of_diagonal(operator: Operator, diagonal: Any, products: int, what: str, method: str) -> Preconditioner:
    values = np.asarray(operator.backend.to_host(diagonal))
    zeros = int((~(np.abs(values) > 0)).sum())
    if zeros:
        raise CrelleValueError(
            describe(f"{what}: {zeros:,} of the {values.size:,} elements on the diagonal are zero or NaN",
                     expected="a diagonal without zeros", try_="A.shifted(c), or another preconditioner=")
        )  # fmt: skip
    notes: tuple[str, ...] = ()
    if method == "cg" and (values < 0).any():
        raise CrelleValueError(
            describe(
                f"{what}: {int((values < 0).sum()):,} of the {values.size:,} elements on the diagonal are negative",
                likely="A is not positive definite, and conjugate gradients need that",
                try_="method='minres', which takes absolute values of the diagonal; or A.shifted(c)",
            )
        )
    if method == "minres" and (values < 0).any():
        diagonal, notes = abs(diagonal), ("the preconditioner has absolute values of the diagonal",)
    inverse = 1 / diagonal

    def apply(block: Any) -> Any:
        return block * inverse

    return Preconditioner(apply, apply, products, notes)


def _of_blocks(operator: Operator, what: str) -> Preconditioner:
    """The inverse of each block between a leaf and itself."""
    from scipy import linalg

    sizes = [t.size for t in operator.domain.types]
    if sizes != [t.size for t in operator.codomain.types]:
        raise CrelleValueError(
            describe(f"{what}: preconditioner='block' needs the same leaves on both sides",
                     called=f"{operator.codomain} for {operator.domain}")
        )  # fmt: skip
    vectors, backend = vectors_of(operator.backend), operator.backend
    like = vectors.empty(operator.domain)
    itemsize = np.dtype(float).itemsize
    need = itemsize * sum(size**2 for size in sizes)
    if need > _BYTES:
        raise CrelleMemoryError(
            describe(
                f"{what}: the blocks on the diagonal take {bytes_text(need)}, of {bytes_text(_BYTES)}",
                likely=f"the largest leaf has {max(sizes):,} elements",
                try_="preconditioner='jacobi', or an operator of your own",
            )
        )
    inverses = []
    for i, (size, name) in enumerate(zip(sizes, operator.domain.names or [""] * len(sizes), strict=True)):
        dense = operator.block(i).todense() if len(sizes) > 1 else operator.todense()
        host = np.asarray(backend.to_host(dense), float)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", linalg.LinAlgWarning)
                inverses.append(vectors.from_host(linalg.inv(host) if size else host, like))
        except (linalg.LinAlgError, linalg.LinAlgWarning):
            raise CrelleValueError(
                describe(f"{what}: the block of {name or f'leaf {i}'} on the diagonal has no inverse",
                         try_="A.shifted(c), or another preconditioner=")
            ) from None  # fmt: skip
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()

    def apply(block: Any, transposed: bool = False) -> Any:
        parts = [
            block[:, a:b] @ (m if transposed else m.T) for m, a, b in zip(inverses, starts, starts[1:], strict=False)
        ]
        return vectors.join(parts, operator.domain.dtype)

    return Preconditioner(apply, lambda block: apply(block, True), sum(sizes))


def transposed_of(operator: Operator, given: Any, what: str, method: str) -> Any:
    """The preconditioner for Aᵀ of one that was given for A."""
    if isinstance(given, Operator):
        return given.T if given.is_symmetric else Transposed(given)
    made = preconditioner_of(operator, given, what, method)
    return None if made is None else made.T
