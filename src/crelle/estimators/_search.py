"""Grow a space until the pairs that are wanted have converged in it, then look for others. No linear algebra here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from crelle._arrays import ArrayType, bytes_text
from crelle._errors import CrelleMemoryError, describe
from crelle.estimators._krylov import Floats
from crelle.estimators._progress import Progress
from crelle.operators._vectors import Source

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

Indices = np.ndarray[Any, np.dtype[np.intp]]
#: Positions of the k most wanted of some values, the most wanted first.
Wanted = Callable[[Floats, int], Indices]

#: Steps between two looks at the Ritz values.
BATCH = 3
#: Steps with a new random vector, after all that is wanted has converged.
GUARD = 8
#: Residuals do not fall below this many units of the largest singular value: about what products are off.
FLOOR = 32.0
#: Rows of a space before it is restarted: this many, or so many for each pair.
ROWS, ROWS_EACH = 120, 4
#: Products where no budget is given: this many, or so many for each pair.
PRODUCTS, PRODUCTS_EACH = 2_000, 100
#: The share of free memory that a space may fill.
_SHARE = 0.5


class Spanned(Protocol):
    """A space that grows: see :class:`crelle.estimators._krylov.Krylov`, whose names these are."""

    products: int
    cost: int
    epsilon: float

    @property
    def size(self) -> int: ...
    @property
    def open(self) -> int: ...
    @property
    def scale(self) -> float: ...
    def seed(self, vector: Any) -> bool: ...
    def extend(self, steps: int, chain: int = -1) -> bool: ...
    def ritz(self) -> tuple[Floats, Floats, Any]: ...
    def leading(self, index: int) -> int: ...
    def restart(self, kept: Indices) -> None: ...


@dataclass(frozen=True, eq=False)
class Found:
    """Pairs, the most wanted first.

    Attributes:
        places: their positions among the Ritz values of the space.
        values, residuals: of the pairs.
        converged: which are as exact as was asked for.
        complete: the space is the whole of R^n: nothing can be missing.
        partial: interrupted.
        notes: restarts, what the guard found, limits of precision.
    """

    places: Indices
    values: Floats
    residuals: Floats
    converged: np.ndarray[Any, np.dtype[np.bool_]]
    complete: bool
    partial: bool
    notes: tuple[str, ...]


def rows_allowed(operator: Operator, what: str, k: int, size: int) -> int:
    """How many vectors of a size a space for k pairs may hold.

    Raises:
        CrelleMemoryError: not even the least number fits.
    """
    row = max(ArrayType(operator.dtype, (size,)).nbytes, 1)
    free = operator.backend.available_memory(operator.device)
    most = max(ROWS, ROWS_EACH * k)
    least = k + GUARD + 2 * BATCH
    fits = most if free is None else int(_SHARE * free) // row
    if fits < min(least, operator.shape[1]):
        raise CrelleMemoryError(
            describe(
                f"{operator!r}.{what}: {least} vectors of {bytes_text(row)} do not fit in half of the free memory",
                try_="fewer pairs (k=)",
            )
        )
    return min(most, fits)


class Search:
    """k pairs of a space: the state of one search, so that an interrupt loses nothing."""

    def __init__(
        self, space: Spanned, source: Source, size: int, wanted: Wanted, k: int, rtol: float,
        key: Callable[[Floats], Floats] = np.asarray,
    ) -> None:  # fmt: skip
        """``key``: what ``wanted`` orders by, so that 1 and -1 are no different where size counts."""
        self._key = key
        self._space, self._source, self._n, self._wanted, self._k, self._rtol = space, source, size, wanted, k, rtol
        self._restarts, self._hits, self._guarded, self._complete = 0, 0, 0, False

    def run(self, what: str, rows: int, budget: int | None) -> Found:
        """Until the k pairs have converged and a new vector finds no other, or the budget is spent.

        Raises:
            KeyboardInterrupt: interrupted before the first products were done.
        """
        self._rows = rows
        self._budget = max(PRODUCTS, PRODUCTS_EACH * self._k) if budget is None else budget
        partial = False
        with Progress(what, self._budget) as self._progress:
            try:
                while self._converge() and self._guard():
                    self._hits += 1
            except KeyboardInterrupt:
                if not self._space.size:
                    raise
                partial = True
        return self._found(partial)

    # -- the two phases

    def _converge(self) -> bool:
        """Whether all k have converged; otherwise the budget is spent."""
        space = self._space
        while True:
            self._make_room(1)
            values, residuals, _ = space.ritz()
            places = self._wanted(values, self._k)
            late = places[residuals[places] > self._allowed(values[places])]
            if len(places) == self._k and not len(late):
                return True
            if self._left < 1:
                return False
            if not space.open and not self._seed():
                self._complete = True
                return True
            chain = space.leading(int(late[0])) if len(late) else -1
            space.extend(min(BATCH, self._left, self._rows - space.size), chain)
            self._progress.to(space.products, f"{len(places) - len(late)} of {self._k} converged")

    def _guard(self) -> bool:
        """Whether a new random vector, orthogonal to all that is there, finds a pair that was missed."""
        space = self._space
        self._make_room(min(GUARD, self._left))
        values, residuals, _ = space.ritz()
        places = self._wanted(values, self._k)
        known, sure = self._key(values[places]), residuals[places] + self._floor

        def hit() -> bool:
            values = space.ritz()[0]
            return bool((np.abs(self._key(values[self._wanted(values, self._k)]) - known) > sure).any())

        # once something was missed, what else is may hide in the directions of earlier looks
        for chain in range(space.open - 1, -1, -1) if self._hits else ():
            if self._left > 0:
                self._make_room(min(GUARD, self._left))
                space.extend(min(GUARD, self._left), chain)
        self._make_room(min(GUARD, self._left))
        if hit():
            return True
        if not self._seed():
            self._complete = True
            return False
        self._guarded = 0
        while self._guarded < GUARD and self._left > 0:
            before = space.size
            alive = space.extend(min(2, self._left))
            self._guarded += space.size - before
            if hit():
                return True
            if not alive:
                break
        return False

    # -- what they need

    @property
    def _left(self) -> int:
        return (self._budget - self._space.products) // self._space.cost

    @property
    def _floor(self) -> float:
        return FLOOR * self._space.epsilon * self._space.scale

    def _allowed(self, values: Floats) -> Floats:
        near_zero = self._space.epsilon ** (2 / 3) * self._space.scale  # as ARPACK does: relative to nothing is nothing
        allowed: Floats = np.maximum(self._rtol * np.maximum(np.abs(values), near_zero), self._floor)
        return allowed

    def _seed(self) -> bool:
        return self._space.seed(self._source.normal(1, self._n)[0])

    def _make_room(self, steps: int) -> None:
        """Restart with the wanted Ritz vectors and some more, if so many steps do not fit."""
        space = self._space
        if space.size + steps <= self._rows:
            return
        keep = min(self._k + (self._rows - self._k) // 3, self._rows - max(steps, BATCH))
        space.restart(self._wanted(space.ritz()[0], keep))
        self._restarts += 1

    def _found(self, partial: bool) -> Found:
        values, residuals, _ = self._space.ritz()
        places = self._wanted(values, self._k)
        values, residuals = values[places], residuals[places]
        converged = residuals <= self._allowed(values)
        notes = []
        if self._restarts:
            notes.append(f"restarted {times(self._restarts)}, at {self._rows} vectors")
        if self._hits:
            notes.append(f"missed at first, found by a new random vector: {times(self._hits)}")
        if self._complete:
            notes.append("the space is complete: nothing is missing")
        elif self._guarded and converged.all() and not partial:
            notes.append(f"a new random vector found no other, in {self._guarded} step{'s'[: self._guarded != 1]}")
        elif not partial:
            notes.append("not looked for others: the budget is spent")
        if self._rtol < FLOOR * self._space.epsilon:
            notes.append(f"rtol={self._rtol:g} is more than the precision gives: residuals end at {self._floor:.1g}")
        residuals = np.hypot(residuals, self._floor)
        return Found(places, values, residuals, converged, self._complete, partial, tuple(notes))


def times(count: int) -> str:
    """How often.

    >>> times(1), times(3)
    ('once', '3 times')
    """
    return "once" if count == 1 else f"{count} times"
