"""Jacobians over a data set: the rows of all batches, one batch below the other."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from crelle._arrays import ArrayType
from crelle._errors import CrelleShapeError, describe
from crelle.operators._data import Parts, over_title, summed, verify_finite
from crelle.operators._operator import Operator
from crelle.operators._spaces import Space
from crelle.operators._vectors import vectors_of


class StackedOperator(Operator):
    """J = [J_1; J_2; ...] for the Jacobians J_b [m_b, n] of the batches of a data set.

    What f returns has a leading axis of samples, as has what J v returns: that of the whole data set.

    Attributes:
        batches: how many.
        kept: how many of them are kept; the others are linearised anew in every pass over the data.

    Raises:
        CrelleShapeError: f returns something without a leading axis of samples.
    """

    def __init__(self, parts: Parts) -> None:
        counts = [int(count or 0) for count in parts.samples]
        for t in parts.codomain.types:
            if t.shape[:1] != (counts[0],):
                raise CrelleShapeError(
                    describe(
                        f"{parts.what} over a data set: f returns {parts.codomain} for a batch of {counts[0]} samples",
                        expected="outputs with a leading axis of samples, whose rows can be put below each other",
                        try_="crelle.hessian, whose batches are summed; or one batch at a time",
                    )
                )
        codomain = _of(parts.codomain, sum(counts))
        super().__init__(parts.domain, codomain)
        self._parts, self._ends = parts, list(accumulate(counts, initial=0))
        self.batches, self.kept = len(counts), len(parts.kept)

    def _products(self, block: Any) -> Any:
        vectors = vectors_of(self.backend)

        def product(number: int, operator: Operator) -> Any:
            self._verify_rows(number, operator)
            return operator._products(block)

        rows = [
            vectors.cut(found, _of(self._parts.codomain, self._count(number)).types)
            for number, found in enumerate(self._parts.over(product))
        ]
        result = vectors.join(
            [leaves[i] for i in range(len(self.codomain.types)) for leaves in rows], self.codomain.dtype
        )
        verify_finite(self, self._parts, result, product, block)
        return result

    def _adjoint_products(self, block: Any) -> Any:
        vectors = vectors_of(self.backend)
        leaves = vectors.cut(block, self.codomain.types)

        def product(number: int, operator: Operator) -> Any:
            self._verify_rows(number, operator)
            here = slice(self._ends[number], self._ends[number + 1])
            rows = vectors.join([leaf[:, here] for leaf in leaves], operator.codomain.dtype)
            return operator._adjoint_products(rows)

        return summed(self, self._parts, product, block)

    def _count(self, number: int) -> int:
        return self._ends[number + 1] - self._ends[number]

    def _verify_rows(self, number: int, operator: Operator) -> None:
        count = self._count(number)
        if operator.codomain.types != _of(self._parts.codomain, count).types:
            raise CrelleShapeError(
                describe(
                    f"{self._title}: batch {number} yields {operator.codomain}",
                    expected=f"{_of(self._parts.codomain, count)}, for its {count} samples",
                )
            )

    def gram(self) -> Operator:
        """JᵀJ = Σ_b J_bᵀJ_b, in one pass over the data for each product."""
        return StackedGram(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """As for one batch; and how many are kept."""
        return self._parts.notes

    @property
    def _title(self) -> str:
        return over_title(self._parts)


class StackedGram(Operator):
    """JᵀJ for the rows of all batches: no vector with a row for each sample is made."""

    def __init__(self, of: StackedOperator) -> None:
        super().__init__(of.domain, of.domain, frozenset({"symmetric", "psd"}))
        self.of = of

    def _products(self, block: Any) -> Any:
        return summed(self, self.of._parts, lambda _, j: j._adjoint_products(j._products(block)), block)

    _adjoint_products = _products

    @property
    def notes(self) -> tuple[str, ...]:
        """As for J."""
        return self.of.notes

    @property
    def _title(self) -> str:
        return f"{self.of._title}.gram()"


def _of(space: Space, count: int) -> Space:
    """Outputs for another number of samples."""
    types = tuple(ArrayType(t.dtype, (count, *t.shape[1:]), t.device) for t in space.types)
    return Space(space.backend, space.tree, types, space.names, space.dtype)
