"""Finite commutative groups, in which colours of lattices are added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from crelle.pattern._csr import Ints


@dataclass(frozen=True)
class Group:
    """Z_{K1} × Z_{K2} × …, its elements numbered."""

    factors: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        return math.prod(self.factors)

    @cached_property
    def add(self) -> Ints:
        """add[a, b] = a + b."""
        digits = np.array(np.unravel_index(np.arange(self.size), self.factors))
        total = (digits[:, :, None] + digits[:, None, :]) % np.array(self.factors)[:, None, None]
        table: Ints = np.ravel_multi_index(tuple(total), self.factors)
        return table

    def multiple(self, count: int | Ints, element: Ints) -> Any:
        """An element added this often."""
        digits = np.unravel_index(element, self.factors)
        return np.ravel_multi_index(
            tuple((count * digit) % factor for digit, factor in zip(digits, self.factors, strict=True)), self.factors
        )


@lru_cache(maxsize=128)
def groups_of(size: int) -> tuple[Group, ...]:
    """All commutative groups of this size, as far as three factors tell them apart; the cyclic one first."""
    found: list[tuple[int, ...]] = [(size,)]
    for a in range(2, size + 1):
        if size % a == 0:
            rest = size // a
            if rest > 1 and rest % a == 0:
                found.append((a, rest))
            found += [
                (a, b, rest // b) for b in range(a, rest) if b % a == 0 and rest % b == 0 and (rest // b) % b == 0
            ]
    return tuple(Group(factors) for factors in found)
