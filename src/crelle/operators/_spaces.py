"""The two sides of an operator: trees of arrays, and the flat vectors that stand for them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from crelle._arrays import ArrayType, short_dtype, total_size, types_text
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

    @functools.cached_property
    def size(self) -> int:
        """Number of elements of all leaves."""
        return total_size(self.types)

    @functools.cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where the elements of each leaf are in a flat vector."""
        ends = itertools.accumulate(t.size for t in self.types)
        return tuple(slice(end - t.size, end) for t, end in zip(self.types, ends, strict=True))

    @functools.cached_property
    def device(self) -> str:
        """Where the arrays are; empty if unknown."""
        return next((t.device for t in self.types if t.device), "")

    def __str__(self) -> str:
        return types_text(self.types, self.names)

    def enter(self, given: Any, what: Callable[[], str], *, rows: bool = False) -> tuple[str, list[Any]]:
        """The form of a vector or of several, and the arrays: what :meth:`block` and :meth:`formed` take.

        A tree of this space is one vector (``"tree"``), and so is an array [size] (``"flat"``); [size, k] are k vectors
        (``"columns"``), and [k, size] are if ``rows`` (``"rows"``).

        Args:
            what: says what was called, if it must be said.

        Raises:
            CrelleTypeError: another tree, no arrays of this framework, or complex ones for a real matrix.
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
                        f"{what()}: {_shown(leaf)} of type {type(leaf).__name__} is no vector of {backend.name}",
                        expected=self._wanted(rows),
                        try_="A.to_scipy() for NumPy arrays" if type(leaf).__module__ == "numpy" else None,
                    )
                ) from None
        for t in types:
            if t.is_complex and "complex" not in self.dtype:
                raise CrelleTypeError(
                    describe(
                        f"{what()}: a complex vector for a real matrix",
                        called=types_text(tuple(types)),
                        expected=self._wanted(rows),
                        try_="its real and imaginary parts, one after the other",
                    )
                )
            if t.device != self.device:
                self._verify_device(t.device, what)
        if tree == self.tree and [t.shape for t in types] == self._shapes:
            return "tree", leaves
        if len(leaves) == 1:
            shape = types[0].shape
            if shape == (self.size,):
                return "flat", leaves
            if len(shape) == 2 and shape[1 if rows else 0] == self.size:
                return "rows" if rows else "columns", leaves
        raise (CrelleShapeError if tree == self.tree or len(leaves) == 1 else CrelleTypeError)(
            describe(
                f"{what()}: no vector of this operator",
                called=describe_arguments((given,), {}),
                expected=self._wanted(rows),
                likely=self._cause(types),
            )
        )

    def block(self, form: str, leaves: list[Any]) -> Any:
        """The vectors that entered, as the rows of a block [count, size]."""
        vectors = vectors_of(self.backend)
        if form == "tree":
            return vectors.join([_array(leaf)[None] for leaf in leaves], self.dtype)
        (leaf,) = leaves
        return vectors.join([leaf[None] if form == "flat" else leaf.T if form == "columns" else leaf], self.dtype)

    def formed(self, form: str, block: Any) -> Any:
        """A block of vectors of this space, in the form in which others entered."""
        if form == "tree":
            return self.leave(block)[0]
        return block[0] if form == "flat" else block.T if form == "columns" else block

    @functools.cached_property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [t.shape for t in self.types]

    def _wanted(self, rows: bool) -> str:
        kind = short_dtype(self.dtype)
        several = f"[k,{self.size}]" if rows else f"[{self.size},k]"
        text = f"{kind}[{self.size}], or {kind}{several} for k of them"
        if len(self.types) == 1 and self.types[0].shape == (self.size,) and self.backend.flatten(0)[1] == self.tree:
            return text
        return f"{text}, or a tree like {self}"

    def _cause(self, types: list[ArrayType]) -> str | None:
        found = total_size(tuple(types))
        if found == self.size:
            return "the right number of elements in another shape or tree"
        return f"{found:,} elements in place of {self.size:,}"

    def _verify_device(self, device: str, what: Callable[[], str]) -> None:
        if device and self.device and device.partition(" ")[0] != self.device.partition(" ")[0]:
            raise CrelleValueError(
                describe(
                    f"{what()}: a vector on {device} for an operator on {self.device}",
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


def _shown(leaf: Any) -> str:
    text = repr(leaf)
    return text if len(text) <= 40 and "\n" not in text else f"<{type(leaf).__name__}>"
