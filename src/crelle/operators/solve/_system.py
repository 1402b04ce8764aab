"""The system that methods see: products that are counted, the preconditioner, and damping as rows below A."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from crelle.operators._operator import Operator
from crelle.operators._vectors import Vectors, vectors_of

Map = Callable[[Any], Any]


class Traced(Exception):
    """A product has no numbers: a transformation of the framework is running."""


class System:
    """A x = b, or [A; √λ I] x = [b; 0] with damping λ: ``push`` and ``pull`` multiply blocks, and count.

    Attributes:
        precondition: about A⁻¹ r for each row r; the identity if there is none.
        products: with one vector each, so far.

    Methods that look at numbers (``host``) are told by :class:`Traced` where there are none.
    """

    def __init__(
        self,
        vectors: Vectors,
        push: Map,
        pull: Map,
        precondition: Map | None = None,
        damping: float = 0.0,
        host: bool = True,
    ) -> None:
        self.vectors, self._push, self._pull = vectors, push, pull
        self.precondition: Map = precondition or (lambda block: block)
        self.is_preconditioned = precondition is not None
        self._root, self._host = math.sqrt(damping), host
        self.products, self._rows = 0, 0

    @classmethod
    def of(cls, operator: Operator, precondition: Map | None = None, damping: float = 0.0) -> System:
        """The system of an operator."""
        vectors = vectors_of(operator.backend)
        return cls(vectors, operator._products, operator._adjoint_products, precondition, damping)

    def push(self, block: Any) -> Any:
        """A v for each row v."""
        found = self._push(block)
        self.products += len(block)
        if self._host and self.vectors.is_traced(found):
            raise Traced
        return self._stacked(found, block * self._root) if self._root else found

    def pull(self, block: Any) -> Any:
        """Aᵀ u for each row u."""
        m = self._rows
        found = self._pull(block[:, :m]) + self._root * block[:, m:] if self._root else self._pull(block)
        self.products += len(block)
        return found

    def right_side(self, block: Any, size: int) -> Any:
        """b, with zeros below it if there is damping; ``size`` is that of x."""
        self._rows = block.shape[1]
        return self._stacked(block, self.vectors.zeros(len(block), size, block)) if self._root else block

    def undamped(self, block: Any) -> Any:
        """The rows that belong to A."""
        return block[:, : self._rows]

    def _stacked(self, above: Any, below: Any) -> Any:
        return self.vectors.concatenate([above.T, below.T]).T


def dot(a: Any, b: Any) -> Any:
    """[k, 1]: aᵀb row by row."""
    return (a * b).sum(1)[:, None]


def norm(a: Any) -> Any:
    """[k, 1]: ‖a‖ row by row."""
    return dot(a, a) ** 0.5


def safe(denominator: Any) -> Any:
    """The number, or 1 for 0: what is divided by it is 0 then."""
    return denominator + (denominator == 0)
