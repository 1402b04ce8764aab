"""The two sides of an operator: trees of arrays, and the flat vectors that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crelle._arrays import ArrayType, total_size, types_text
from crelle._call import describe_arguments
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.backends._protocol import Backend
from crelle.operators._vectors import vectors_of


def common_dtype(types: tuple[ArrayType, ...]) -> str:
    """The dtype of a flat vector that holds all of them: the widest; float32 where half precisions differ.

    >>> common_dtype((ArrayType("float32", (2,)), ArrayType("complex64", (3,)), ArrayType("float64", ())))
    'complex128'
    """
    names = {t.dtype for t in types}
    if len(names) <= 1:
        return names.pop() if names else "float64"
    wide = any(name in ("float64", "complex128") for name in names)
    if any(t.is_complex for t in types):
        return "complex128" if wide else "complex64"
    return "float64" if wide else "float32"


@dataclass(frozen=True)
class Space:
    """One side of an operator: a tree of arrays, as the framework sees it.

    Attributes:
        backend: whose arrays they are.
        tree: tree of the arrays; a leaf alone for one array.
        types, names: of the leaves.
        dtype: of flat vectors.
    """

    backend: Backend
    tree: Any
    types: tuple[ArrayType, ...]
    names: tuple[str, ...]
    dtype: str

    @classmethod
    def of(cls, backend: Backend, tree: Any, types: tuple[ArrayType, ...], names: tuple[str, ...] = ()) -> Space:
        """The space of arrays of these types."""
        return cls(backend, tree, types, names, common_dtype(types))

    @property
    def size(self) -> int:
        """Number of elements of all leaves."""
        return total_size(self.types)

    @property
    def device(self) -> str:
        """Where the arrays are; empty if unknown."""
        return next((t.device for t in self.types if t.device), "")

    def __str__(self) -> str:
        return types_text(self.types, self.names)

    def enter(self, given: Any, what: str) -> tuple[Any, Callable[[Any, Space], Any]]:
        """A block [count, size] of what the user gave, and what gives a block of another space back in the same form.

        A tree of this space is one vector, and so is a flat array [size]; the columns of [size, k] are k vectors.

        Raises:
            CrelleTypeError: another tree, or no arrays of this framework.
            CrelleShapeError: another length, or shape.
            CrelleValueError: another device.
        """
        backend = self.backend
        leaves, tree = backend.flatten(given)
        types = []
        for leaf in leaves:
            try:
                types.append(backend.array_type(leaf))
            except TypeError:
                raise CrelleTypeError(
                    describe(
                        f"{what}: {leaf!r} of type {type(leaf).__name__} is no vector of {backend.name}",
                        expected=self._wanted,
                        try_="A.to_scipy() for NumPy arrays" if type(leaf).__module__ == "numpy" else None,
                    )
                ) from None
        self._verify_devices(types, what)
        vectors = vectors_of(backend)
        if tree == self.tree and [t.shape for t in types] == [t.shape for t in self.types]:
            return vectors.join([leaf[None] for leaf in map(_array, leaves)], self.dtype), _as_tree
        if len(leaves) == 1 and types[0].shape[:1] == (self.size,) and len(types[0].shape) <= 2:
            if len(types[0].shape) == 1:
                return vectors.join([leaves[0][None]], self.dtype), lambda block, space: block[0]
            return vectors.join([leaves[0].T], self.dtype), lambda block, space: block.T
        raise (CrelleShapeError if tree == self.tree or len(leaves) == 1 else CrelleTypeError)(
            describe(
                f"{what}: no vector of this operator",
                called=describe_arguments((given,), {}),
                expected=self._wanted,
                likely=self._cause(types),
            )
        )

    @property
    def _wanted(self) -> str:
        flat = ArrayType(self.dtype, (self.size,))
        return f"{flat}, or {str(flat)[:-1]},k] for k of them, or a tree like {self}"

    def _cause(self, types: list[ArrayType]) -> str | None:
        found = total_size(tuple(types))
        if found == self.size:
            return "the right number of elements in another shape or tree"
        return f"{found:,} elements in place of {self.size:,}"

    def _verify_devices(self, types: list[ArrayType], what: str) -> None:
        for t in types:
            if t.device and self.device and t.device.partition(" ")[0] != self.device.partition(" ")[0]:
                raise CrelleValueError(
                    describe(
                        f"{what}: a vector on {t.device} for an operator on {self.device}",
                        expected="one device",
                        try_=f"move it to {self.device}",
                    )
                )

    def leave(self, block: Any) -> list[Any]:
        """The vectors of a block as trees of arrays."""
        leaves = vectors_of(self.backend).cut(block, self.types)
        return [self.backend.unflatten(self.tree, [leaf[i] for leaf in leaves]) for i in range(len(block))]


def _array(leaf: Any) -> Any:
    if hasattr(leaf, "shape"):
        return leaf
    import numpy as np

    return np.asarray(leaf)


def _as_tree(block: Any, space: Space) -> Any:
    return space.leave(block)[0]
