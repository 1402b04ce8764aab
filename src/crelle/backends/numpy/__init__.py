"""The NumPy backend: functions without derivative rules, by differences whose error is estimated."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from crelle import _trees
from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleTypeError, describe
from crelle._request import Request
from crelle.backends._host import free_host_memory
from crelle.backends._protocol import Adapted, Call, Compressed
from crelle.backends.numpy.trace import FLOPS_PER_SECOND, NumpyTrace
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import Rates
from crelle.tangent.program import TangentProgram


class NumpyBackend:
    """NumPy arrays and scalars."""

    name = "numpy"

    @property
    def version(self) -> str:
        """Version of NumPy."""
        return np.__version__

    def is_array(self, leaf: Any) -> bool:
        """Arrays and NumPy scalars."""
        return isinstance(leaf, (np.ndarray, np.generic))

    def flatten(self, tree: Any) -> tuple[list[Any], Any]:
        """Dicts, lists, tuples, named tuples, None."""
        return _trees.flatten(tree)

    def unflatten(self, tree_def: Any, leaves: Sequence[Any]) -> Any:
        """Inverse of :meth:`flatten`."""
        return _trees.unflatten(tree_def, leaves)

    def paths(self, tree: Any) -> list[str]:
        """``['w'][0]`` for each leaf."""
        return _trees.paths(tree)

    def array_type(self, leaf: Any) -> ArrayType:
        """Type of an array, or of a Python number."""
        if isinstance(leaf, (np.ndarray, np.generic)):
            if leaf.dtype.kind not in "biufc":
                raise TypeError(str(leaf.dtype))
            return ArrayType(str(leaf.dtype), leaf.shape, "cpu")
        if isinstance(leaf, (bool, int, float, complex)):
            return ArrayType(str(np.result_type(leaf)), (), "cpu")
        raise TypeError(type(leaf).__name__)

    def static_key(self, leaf: Any) -> Hashable:
        """Shape and dtype of arrays and floats, whose values f sees anew each time; the value of anything else."""
        if isinstance(leaf, (np.ndarray, np.generic)):
            return type(leaf), leaf.shape, leaf.dtype.str
        if isinstance(leaf, (float, complex)):
            return type(leaf).__name__
        try:
            hash(leaf)
        except TypeError:
            return id(leaf)
        return type(leaf), leaf

    def is_abstract(self, leaves: Sequence[Any]) -> bool:
        """Never: NumPy has values only."""
        return False

    def adapt(self, f: Callable[..., Any], args: tuple[Any, ...], request: Request) -> Adapted | None:
        """NumPy functions are plain."""
        return None

    def ambient(self) -> Hashable:
        """No global setting matters."""
        return None

    def trace(self, call: Call) -> NumpyTrace:
        """Evaluate f about ten times, and see what it can do."""
        return NumpyTrace(call)

    def eager(self, call: Call, reason: str) -> NumpyTrace:
        """f changes too often to be looked at each time: central differences, one point at a time."""
        return NumpyTrace(call, cautious=reason)

    def tangent_program(self, call: Call, known: bool = False) -> TangentProgram:
        """A NumPy function is a black box."""
        raise CrelleTypeError(
            describe(
                f"{call.text}: a NumPy function cannot be traced, so its pattern is not known",
                called=types_text(call.inputs, call.names),
                try_="pattern= if you know it, or write f in JAX or PyTorch",
            )
        )

    def compressed(self, call: Call, given: SparsityPattern | None) -> Compressed:
        """Differences of columns that share no row, of the entries that the user lists."""
        from crelle.backends.numpy.compressed import NumpyCompressed

        return NumpyCompressed(call, given)

    def sparse(self, pattern: SparsityPattern) -> Callable[[Any], Any]:
        """Makes SciPy ``csr_array``."""
        import scipy.sparse as sp

        return lambda data: sp.csr_array((data, pattern.indices, pattern.indptr), shape=pattern.shape)

    def placer(self, place: Any) -> Callable[[Any], Any]:
        """Makes ``data[place]``, zero where place is -1."""
        return lambda data: np.where(place >= 0, np.append(data, 0)[place], 0)

    def array_like(self, leaf: Any, values: Any) -> Any:
        """An array with the dtype of a leaf."""
        return np.asarray(values, np.asarray(leaf).dtype)

    def to_host(self, leaf: Any) -> Any:
        """The values themselves."""
        return np.asarray(leaf)

    def rates(self, device: str) -> Rates:
        """One evaluation of f costs what it was measured to cost."""
        return Rates(matmul=1e10, elementwise=FLOPS_PER_SECOND, bandwidth=1e10, launch=0.0, call=0.0)

    def available_memory(self, device: str) -> int | None:
        """Free memory of the host."""
        return free_host_memory()

    def block_until_ready(self, answer: Any) -> None:
        """NumPy is never behind."""


BACKEND = NumpyBackend()
