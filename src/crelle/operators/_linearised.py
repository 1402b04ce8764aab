"""What operators need of a framework: f linearised at one point and kept, so that f is paid once for many products."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from crelle._arrays import ArrayType
from crelle._prepare import Space as Kept
from crelle.backends._protocol import Backend, Call


class Linearised(Protocol):
    """f at one point. ``backends/<name>/linearised.py`` makes it; blocks are [count, size], a vector in each row.

    A backend that compiles may also have ``one(form, vector, transposed)``, for one vector that is ``"flat"`` or a
    ``"tree"`` (a list of leaves), in one step.

    Attributes:
        value: f(x), as f returned it.
        inputs: types of the leaves of the vectors.
        outputs, out_tree: types of the leaves of the rows, and their tree: of f(x); of x for a Hessian.
        notes: what a user should know: plain kernels instead of fused ones, products one at a time.
        kept_bytes: about how many bytes are kept for products.
    """

    value: Any
    inputs: tuple[ArrayType, ...]
    outputs: tuple[ArrayType, ...]
    out_tree: Any
    notes: tuple[str, ...]

    @property
    def kept_bytes(self) -> int: ...

    def push(self, block: Any) -> Any:
        """J v for each row v; H v for a Hessian."""
        ...

    def pull(self, block: Any) -> Any:
        """Jᵀ u for each row u; H u for a Hessian."""
        ...


class _Module(Protocol):
    def linearised(self, call: Call, kept: Kept) -> Linearised: ...


def linearised(call: Call, backend: Backend, kept: Kept) -> Linearised:
    """f at the point of the call; what can be used again at other points is found in, or put into, ``kept``."""
    if backend.name not in _loaded:
        _loaded[backend.name] = cast(_Module, importlib.import_module(f"crelle.backends.{backend.name}.linearised"))
    return _loaded[backend.name].linearised(call, kept)


_loaded: dict[str, _Module] = {}
