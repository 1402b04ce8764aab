"""Operators made of operators: transposed, sums, multiples, products, the identity, and parts."""

from __future__ import annotations

import functools
import numbers
from operator import add as _added
from typing import Any

from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle.operators._leaves import leaves_named
from crelle.operators._operator import Operator
from crelle.operators._spaces import Space
from crelle.operators._vectors import vectors_of

#: Of a sum, in one line.
_TERMS_SHOWN = 4

_KEPT_BY_SUMS = frozenset({"symmetric", "psd", "diagonal"})


def _grouped(operator: Operator) -> str:
    """What an operator is called inside of another."""
    compound = isinstance(operator, (Sum, Scaled, Composed)) or " of " in operator._title
    return f"({operator._title})" if compound else operator._title


def _is_number(value: Any) -> bool:
    if isinstance(value, numbers.Number):
        return True
    return not isinstance(value, Operator) and getattr(value, "shape", None) == ()


class _Of(Operator):
    """An operator made of one other, A."""

    of: Operator

    @property
    def _from_derivatives(self) -> bool:
        return self.of._from_derivatives

    @property
    def notes(self) -> tuple[str, ...]:
        """As for A."""
        return self.of.notes


class Transposed(_Of):
    """Aᵀ."""

    def __init__(self, of: Operator) -> None:
        super().__init__(of.codomain, of.domain, of.tags)
        self.of = of

    def _products(self, block: Any) -> Any:
        return self.of._adjoint_products(block)

    def _adjoint_products(self, block: Any) -> Any:
        return self.of._products(block)

    def _answer(self, form: str, leaves: list[Any]) -> Any:
        return self.of._adjoint_answer(form, leaves)

    def _adjoint_answer(self, form: str, leaves: list[Any]) -> Any:
        return self.of._answer(form, leaves)

    @property
    def T(self) -> Operator:
        """(Aᵀ)ᵀ = A."""
        return self.of

    @property
    def _title(self) -> str:
        return f"{_grouped(self.of)}.T"


class Sum(Operator):
    """A + B + ..., of operators of the same shape."""

    terms: tuple[Operator, ...]

    def __init__(self, *terms: Operator) -> None:
        terms = tuple(part for term in terms for part in (term.terms if isinstance(term, Sum) else (term,)))
        first, *rest = terms
        for other in rest:
            _verify_same(first, other)
        super().__init__(first.domain, first.codomain, _KEPT_BY_SUMS.intersection(*(t.tags for t in terms)))
        self.terms = terms

    def _products(self, block: Any) -> Any:
        return functools.reduce(_added, (t._products(block) for t in self.terms))

    def _adjoint_products(self, block: Any) -> Any:
        return functools.reduce(_added, (t._adjoint_products(block) for t in self.terms))

    @property
    def _from_derivatives(self) -> bool:
        return any(t._from_derivatives for t in self.terms)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of all terms."""
        return tuple(dict.fromkeys(note for t in self.terms for note in t.notes))

    @property
    def _title(self) -> str:
        titles = [t._title for t in self.terms]
        if len(titles) > _TERMS_SHOWN:
            titles = [*titles[: _TERMS_SHOWN - 1], f"({len(titles) - _TERMS_SHOWN + 1} more)"]
        return " + ".join(titles).replace("+ -", "- ")


class Scaled(_Of):
    """c A for a number c."""

    def __init__(self, of: Operator, factor: Any) -> None:
        if not _is_number(factor):
            raise CrelleTypeError(
                describe(f"{of!r} * {type(factor).__name__}", expected="a number",
                         try_="A @ B for a product of operators")
            )  # fmt: skip
        if isinstance(factor, complex) and "complex" not in of.dtype:
            raise CrelleTypeError(describe(f"{of!r} * {factor}", expected="a real number, for a real matrix"))
        tags = of.tags - {"identity"}
        if not (isinstance(factor, (int, float)) and factor >= 0):
            tags -= {"psd"}
        super().__init__(of.domain, of.codomain, tags)
        self.of, self.factor = of, factor

    def __mul__(self, factor: Any) -> Operator:
        return Scaled(self.of, self.factor * factor) if _is_number(factor) else super().__mul__(factor)

    def _products(self, block: Any) -> Any:
        return self.of._products(block) * self.factor

    def _adjoint_products(self, block: Any) -> Any:
        return self.of._adjoint_products(block) * self.factor

    @property
    def _title(self) -> str:
        title = _grouped(self.of)
        if not isinstance(self.factor, (int, float)):
            return f"c * {title}"
        return f"-{title}" if self.factor == -1 else f"{self.factor:g} * {title}"


class Composed(Operator):
    """A B: B first."""

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.backend.name != right.backend.name:
            raise CrelleTypeError(describe(f"{left!r} @ {right!r}", expected="operators of one framework"))
        if left.shape[1] != right.shape[0]:
            raise CrelleShapeError(
                describe(f"{left!r} @ {right!r}", expected=f"{left.shape[1]:,} rows on the right",
                         likely=f"the matrix on the right has {right.shape[0]:,}")
            )  # fmt: skip
        super().__init__(right.domain, left.codomain)
        self.left, self.right = left, right

    def _products(self, block: Any) -> Any:
        return self.left._products(self.right._products(block))

    def _adjoint_products(self, block: Any) -> Any:
        return self.right._adjoint_products(self.left._adjoint_products(block))

    @property
    def notes(self) -> tuple[str, ...]:
        """Of both."""
        return tuple(dict.fromkeys((*self.left.notes, *self.right.notes)))

    @property
    def _title(self) -> str:
        return " @ ".join(map(_grouped, (self.left, self.right)))


class Gram(_Of):
    """AᵀA."""

    def __init__(self, of: Operator) -> None:
        known = {"symmetric"} if "complex" in of.dtype else {"symmetric", "psd"}
        super().__init__(of.domain, of.domain, frozenset(known))
        self.of = of

    def _products(self, block: Any) -> Any:
        return self.of._adjoint_products(self.of._products(block))

    _adjoint_products = _products

    @property
    def _from_derivatives(self) -> bool:
        return False  # symmetric by construction

    @property
    def _title(self) -> str:
        return f"{_grouped(self.of)}.gram()"


def composed(left: Operator, right: Operator) -> Operator:
    """A B; AᵀA and AAᵀ are seen to be symmetric."""
    transposes = (isinstance(left, Transposed) and left.of is right) or (
        isinstance(right, Transposed) and right.of is left
    )
    return Gram(right) if transposes else Composed(left, right)


class Identity(Operator):
    """I on a space."""

    def __init__(self, space: Space) -> None:
        super().__init__(space, space, frozenset({"symmetric", "psd", "diagonal", "identity"}))

    def _products(self, block: Any) -> Any:
        return block

    _adjoint_products = _products


class Restricted(_Of):
    """The rows and columns of A that belong to some leaves."""

    def __init__(self, of: Operator, rows: list[int], cols: list[int]) -> None:
        same = of.tags & _KEPT_BY_SUMS if rows == cols else frozenset()
        super().__init__(_part(of.domain, cols), _part(of.codomain, rows), same)
        self.of, self.rows, self.cols = of, rows, cols

    def _products(self, block: Any) -> Any:
        return _taken(self.of._products(_put(block, self.of.domain, self.cols)), self.of.codomain, self.rows)

    def _adjoint_products(self, block: Any) -> Any:
        return _taken(self.of._adjoint_products(_put(block, self.of.codomain, self.rows)), self.of.domain, self.cols)

    @property
    def _title(self) -> str:
        rows, cols = _named(self.codomain), _named(self.domain)
        return f"{_grouped(self.of)}.block({rows if self.rows == self.cols else f'{rows}; {cols}'})"


def _named(space: Space) -> str:
    names = [name or str(t) for name, t in zip(space.names or space.types, space.types, strict=True)]
    return ", ".join(map(str, names[:3] + [f"{len(names) - 3} more"] * (len(names) > 3)))


def restricted(of: Operator, rows: Any, cols: Any) -> Restricted:
    """The block of A between leaves that are named."""
    what = f"{of!r}.block"
    return Restricted(of, leaves_named(of.codomain, rows, what), leaves_named(of.domain, cols, what))


def _part(space: Space, chosen: list[int]) -> Space:
    types = tuple(space.types[i] for i in chosen)
    names = tuple(space.names[i] for i in chosen) if space.names else ()
    tree = space.backend.flatten([0] * len(chosen))[1] if len(chosen) != 1 else space.backend.flatten(0)[1]
    return Space(space.backend, tree, types, names, space.dtype)


def _put(block: Any, space: Space, chosen: list[int]) -> Any:
    vectors = vectors_of(space.backend)
    ours, start, parts = set(chosen), 0, []
    for i, t in enumerate(space.types):
        if i in ours:
            parts.append(block[:, start : start + t.size])
            start += t.size
        else:
            parts.append(vectors.zeros(len(block), t.size, block))
    return vectors.join(parts, space.dtype)


def _taken(block: Any, space: Space, chosen: list[int]) -> Any:
    return vectors_of(space.backend).join([block[:, space.slices[i]] for i in chosen], space.dtype)


def _verify_same(a: Operator, b: Operator) -> None:
    if a.backend.name != b.backend.name:
        raise CrelleTypeError(describe(f"{a!r} + {b!r}", expected="operators of one framework"))
    if a.shape != b.shape:
        raise CrelleShapeError(describe(f"{a!r} + {b!r}", expected="matrices of the same shape"))


class Tagged(_Of):
    """A with more known of it."""

    def __init__(self, of: Operator, tags: frozenset[str]) -> None:
        super().__init__(of.domain, of.codomain, tags)
        self.of = of

    def _products(self, block: Any) -> Any:
        return self.of._products(block)

    def _adjoint_products(self, block: Any) -> Any:
        return self.of._adjoint_products(block)

    @property
    def _from_derivatives(self) -> bool:
        return False  # what is said of it is taken at the user's word

    @property
    def _title(self) -> str:
        return self.of._title
