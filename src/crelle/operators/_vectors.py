"""What operators and estimators need of a framework's vectors: a dozen functions, and random numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from crelle._arrays import ArrayType
from crelle.backends._protocol import Backend

if TYPE_CHECKING:
    from crelle.operators._spaces import Space


#: Mixed into seeds: who draws data or weights from seed 0 must not meet the same numbers again in the probes of seed 0.
SALT = 0x4A61636F


class Source(Protocol):
    """Random vectors of one framework, reproducible from its seed: each call continues where the last one ended."""

    def normal(self, count: int, size: int) -> Any:
        """[count, size] independent standard normal numbers."""
        ...

    def rademacher(self, count: int, size: int) -> Any:
        """[count, size] independent signs, 1 or -1."""
        ...


class Vectors(Protocol):
    """What ``backends/<name>/vectors.py`` offers. A block is [count, size]: one vector in each row, on the device.

    Blocks add, multiply, slice, transpose and have ``@``, ``.sum`` and ``abs`` in every framework; what is here is what
    they do not share.
    """

    def join(self, leaves: Sequence[Any], dtype: str) -> Any:
        """A block of leaves with a leading axis: [count, *shape] each."""
        ...

    def cut(self, block: Any, types: Sequence[ArrayType]) -> list[Any]:
        """The inverse of :meth:`join`: leaves [count, *shape] with their own dtypes."""
        ...

    def stack(self, rows: Sequence[Any]) -> Any:
        """A block of vectors."""
        ...

    def concatenate(self, blocks: Sequence[Any]) -> Any:
        """The rows of several blocks, one block after the other."""
        ...

    def zeros(self, count: int, size: int, like: Any) -> Any:
        """A block of zeros with the dtype and device of an array."""
        ...

    def put(self, block: Any, row: int, vector: Any) -> Any:
        """The block with one row replaced; the old one may be overwritten, and must not be used again."""
        ...

    def project_out(self, basis: Any, count: int, vector: Any) -> tuple[Any, Any]:
        """(w - QᵀQ w, Q w) for the first ``count`` rows of Q, orthonormal; twice, so that rounding does not pile up."""
        ...

    def orthonormal(self, block: Any) -> tuple[Any, Any]:
        """(Q, R) with block = Rᵀ Q and orthonormal rows of Q: the QR factorisation of the transpose."""
        ...

    def empty(self, space: Space) -> Any:
        """A block without vectors of a space: it shows dtype and device."""
        ...

    def identity(self, space: Space, start: int = 0, stop: int | None = None) -> Any:
        """The unit vectors of a space, or those from ``start`` to ``stop``, as rows."""
        ...

    def from_host(self, values: Any, like: Any) -> Any:
        """An array of the framework, with the dtype and device of another, from the host."""
        ...

    def detached(self, block: Any) -> Any:
        """The numbers of a block, without the graph that PyTorch hangs on products of parameters that require grad."""
        ...

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of arrays, defined at the top of a module, compiled where the framework compiles."""
        ...

    def is_traced(self, like: Any) -> bool:
        """Whether an array has no numbers to look at, because a transformation of the framework is running."""
        ...

    def linear(self, apply: Callable[[Any], Any], transposed: Callable[[Any], Any], block: Any) -> Any:
        """``apply(block)`` for a linear map whose adjoint is known: differentiable with respect to the block."""
        ...

    def source(self, given: Any, like: Any) -> Source:
        """Random vectors with the dtype and device of an array, from a seed, a key or a generator.

        Raises:
            CrelleTypeError: what was given is none of these.
        """
        ...


def vectors_of(backend: Backend) -> Vectors:
    """The vectors of a backend; their module is imported when first asked for."""
    if backend.name not in _loaded:
        _loaded[backend.name] = cast(Vectors, importlib.import_module(f"crelle.backends.{backend.name}.vectors"))
    return _loaded[backend.name]


_loaded: dict[str, Vectors] = {}
