"""What a wrong derivative looks like: a transpose, a sign, a factor, a missing row. A guess, and said as one."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Block = tuple[str, Array, Array, Array]
"""(path, yours, reference, what an entry may be off)"""

#: Rows or columns that are named one by one; more are counted.
NAMED = 3


def recognise(blocks: list[Block], kind: str) -> list[str]:
    """The likely causes, the most telling one for each array; one line each.

    >>> reference = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> recognise([("", 2 * reference, reference, 1e-9 + 0 * reference)], "jacobian")
    ['a factor: yours is 2 × the reference']
    """
    found = []
    for path, yours, reference, allowed in blocks:
        if not yours.size or not np.all(np.isfinite(reference)):
            continue
        finite = np.isfinite(yours)
        if not np.all(finite):
            found.append((path, "yours is not finite where the reference is: a division by 0, or an overflow"))
            continue
        if np.all(np.abs(yours - reference) <= allowed):
            continue
        guess = next(_guesses(_Pair(yours, reference, allowed, kind)), "")
        if guess:
            found.append((path, guess))
    if len(found) == len(blocks) > 1 and len({text for _, text in found}) == 1:
        return [f"everywhere {found[0][1]}"]
    return [f"{path}: {text}" if path else text for path, text in found]


class _Pair:
    """The two arrays, and whether one would be right if it were changed."""

    def __init__(self, yours: Array, reference: Array, allowed: Array, kind: str) -> None:
        self.yours, self.reference, self.allowed, self.kind = yours, reference, allowed, kind
        self.wrong = np.abs(yours - reference) > allowed

    def right(self, changed: Array, where: Any = ...) -> bool:
        """Whether the changed array agrees with the reference, there."""
        return bool(np.all(np.abs(changed - self.reference)[where] <= self.allowed[where]))


def _guesses(p: _Pair) -> Iterator[str]:
    """Likely causes, the surest first."""
    if not np.any(p.yours):
        yield "yours is 0 everywhere"
        return
    if p.wrong.size == 1:
        yield from _of_part(p, ..., "")
        return
    square = p.yours.ndim == 2 and p.yours.shape[0] == p.yours.shape[1]
    if square and p.right(p.yours.T):
        yield "yours is transposed"
    yield from _of_axes(p)
    if np.iscomplexobj(p.yours) and p.right(p.yours.conj()):
        yield "yours is conjugated"
    yield from _of_part(p, ..., "")
    if p.kind == "hessian" and square:
        yield from _of_triangles(p)
    if square:
        rest = p.yours - p.reference
        excess = np.trace(rest) / len(rest)
        if excess and p.right(p.yours - excess * np.eye(len(rest))):
            yield f"a multiple of the identity: yours is the reference {_signed(excess)} × I"
    yield from _of_slices(p)


def _of_axes(p: _Pair) -> Iterator[str]:
    """Axes of the input before those of the output, where there are more than two and the shapes allow it."""
    for k in range(1, p.yours.ndim if p.yours.ndim > 2 else 0):
        turned = np.moveaxis(p.yours, list(range(k)), list(range(-k, 0)))
        if turned.shape == p.reference.shape and p.right(turned):
            yield "the axes are in another order: the input's before the output's"


def _of_part(p: _Pair, where: Any, what: str) -> Iterator[str]:
    """A sign or a constant factor in a part of the array."""
    yours, reference = p.yours[where], p.reference[where]
    of = f" of {what}" if what else ""
    if not np.any(yours):
        yield f"0 in {what}: missing"
        return
    if p.right(-p.yours, where):
        yield f"the sign{of}"
        return
    size = np.sum(np.abs(reference) ** 2)
    if size == 0:
        return
    factor = np.sum(np.conj(reference) * yours) / size
    if factor == 0 or (np.size(reference) == 1 and not _simple(factor)):
        return
    if p.right(p.yours / factor, where):
        yield f"a factor: yours is {_plain(factor)} × the reference{f' in {what}' if what else ''}"


def _of_triangles(p: _Pair) -> Iterator[str]:
    lower, upper = np.tril(p.yours, -1), np.triu(p.yours, 1)
    diagonal = np.diag(np.diag(p.yours))
    for mine, other, name in ((lower, upper, "upper"), (upper, lower, "lower")):
        if not np.any(other) and np.any(mine) and p.right(mine + mine.T + diagonal):
            yield f"the {name} triangle is missing: a Hessian is symmetric"
    if not np.any(lower) and not np.any(upper):
        yield "yours is diagonal: the mixed derivatives are missing"
    off = ~np.eye(len(p.yours), dtype=bool)
    for where, name in ((off, "the mixed derivatives"), (~off, "the diagonal")):
        if not np.any(p.wrong[~where]):
            yield from _of_part(p, where, name)
    if not np.all(np.abs(p.yours - p.yours.T) <= p.allowed + p.allowed.T):
        yield "yours is not symmetric, as a Hessian is"


def _of_slices(p: _Pair) -> Iterator[str]:
    """Everything wrong lies in a few rows or columns, or entries; or rows are in another order."""
    index = np.argwhere(p.wrong)
    if len(index) == 1:
        one = tuple(int(k) for k in index[0])
        name = f"entry [{', '.join(map(str, one))}]"
        yield from _of_part(p, one, name)
        yield f"only {name} is wrong"
        return
    if p.yours.ndim == 2:
        yield from _permuted(p, 0, "row")
        yield from _permuted(p, 1, "column")
    hits = [(np.unique(index[:, axis]), axis) for axis in range(p.yours.ndim)]
    for hit, axis in sorted(hits, key=lambda some: len(some[0])):
        if len(hit) < p.yours.shape[axis] and (p.yours.ndim > 1 or len(hit) <= NAMED):
            yield from _named(p, axis, hit)


def _named(p: _Pair, axis: int, hit: Array) -> Iterator[str]:
    """A mistake in some rows, columns, entries or slices."""
    singular, plural = {1: [("entry", "entries")], 2: [("row", "rows"), ("column", "columns")]}.get(
        p.yours.ndim, [("slice", "slices")] * p.yours.ndim
    )[axis]
    numbers = ", ".join(map(str, hit[:NAMED])) + (f" and {len(hit) - NAMED} more" if len(hit) > NAMED else "")
    name = f"{singular if len(hit) == 1 else plural} {numbers}" + (f" of axis {axis}" if p.yours.ndim > 2 else "")
    where = (slice(None),) * axis + (hit,)
    yield from _of_part(p, where, name)
    yield f"only {name} {'is' if len(hit) == 1 else 'are'} wrong"


def _permuted(p: _Pair, axis: int, noun: str) -> Iterator[str]:
    """Rows that stand in each other's places."""
    yours, reference, allowed = (np.moveaxis(a, axis, 0) for a in (p.yours, p.reference, p.allowed))
    hit = np.flatnonzero(np.any(np.moveaxis(p.wrong, axis, 0), axis=1))
    if not 2 <= len(hit) <= 64:
        return
    close = np.all(np.abs(yours[hit][None] - reference[hit][:, None]) <= allowed[hit][:, None], axis=2)
    if np.all(close.sum(1) >= 1) and np.all(close.sum(0) >= 1):
        if len(hit) == 2:
            yield f"{noun}s {hit[0]} and {hit[1]} are swapped"
        else:
            yield f"the {noun}s are in another order"


def _simple(factor: complex) -> bool:
    """Whether a single wrong entry by this factor is more than a coincidence."""
    if abs(np.imag(factor)) > 1e-9 * abs(factor):
        return False
    fraction = Fraction(float(np.real(factor))).limit_denominator(12)
    return abs(fraction.numerator) <= 12 and abs(float(fraction) - np.real(factor)) <= 1e-6 * abs(factor)


def _signed(factor: complex) -> str:
    return f"− {_plain(-factor)}" if np.real(factor) < 0 else f"+ {_plain(factor)}"


def _plain(factor: complex) -> str:
    """2, 1/3, -0.5 as people write them."""
    if abs(np.imag(factor)) > 1e-9 * abs(factor):
        return f"({factor:.4g})"
    real = float(np.real(factor))
    fraction = Fraction(real).limit_denominator(100)
    if fraction and abs(float(fraction) - real) <= 1e-6 * abs(real):
        return str(fraction)
    return f"{real:.4g}"
