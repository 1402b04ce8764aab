"""Questions whose answer is made of some entries of a derivative: they are computed as a sparse part, then reduced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from crelle._call import bind, function_name
from crelle._plan import Plan
from crelle._prepare import space_for
from crelle._request import Request
from crelle._sparse import Sparse, sparse_for
from crelle.backends._protocol import Call
from crelle.pattern import SparsityPattern

Reduce = Callable[[Call, Sparse, Any], Any]
"""(call, sparse, entries in CSR order of ``sparse.compressed.ways.pattern``) -> the answer, in the framework."""


class Question:
    """An answer that is made of some entries of a derivative: call it for the answer, ask ``.plan`` how it is found.

    Args:
        name: what is asked, for messages: ``divergence``.
        request: for which derivative; its ``part`` says which entries are needed.
        reduce: makes the answer of the entries, by operations of the framework: differentiable, and jitted with it.
        given: the pattern of the derivative, if the user knows it.
    """

    def __init__(
        self, name: str, f: Callable[..., Any], request: Request, reduce: Reduce, given: SparsityPattern | None = None
    ) -> None:
        request = replace(request, flatten=True)
        self.name, self.function, self.request, self.given = name, f, request, given
        self._reduce = reduce
        self._space = space_for(f, request)
        self.__name__ = f"{name}({function_name(f)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = bind(self.function, args, kwargs, self.request)
        sparse, captured = sparse_for(call, self._space, self.given)
        data, finish = sparse.entries(call, captured)
        return finish(self._reduce(call, sparse, data))

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Which products are run at these inputs, and why."""
        call = bind(self.function, args, kwargs, self.request)
        return sparse_for(call, self._space, self.given)[0].plan(call)

    def __repr__(self) -> str:
        return f"crelle.{self.name}({function_name(self.function)})"
