"""Questions that are reduced from entries; where f cannot be traced, from those of the dense matrix."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast
from weakref import WeakSet

import numpy as np

from crelle._arrays import ArrayType, total_size
from crelle._call import bind
from crelle._errors import CrelleTypeError
from crelle._plan import Plan
from crelle._prepare import Prepared, mismatch, prepared_for
from crelle._questions import Question
from crelle._request import Request
from crelle._sparse import Sparse, sparse_for
from crelle.backends._protocol import Backend, Call
from crelle.pattern import SparsityPattern


class Sums(Protocol):
    """What ``backends/<name>/sums.py`` offers."""

    def segment_sums(self, data: Any, ids: Any, count: int) -> Any:
        """s[i] = Σ data[k] over all k with ids[k] = i, for i < count."""
        ...

    def root(self, squares: Any) -> Any:
        """√s, with the derivative 0 where s is 0."""
        ...


def sums_of(backend: Backend) -> Sums:
    """The sums of a backend."""
    return cast(Sums, importlib.import_module(f"crelle.backends.{backend.name}.sums"))


Ints = np.ndarray[Any, Any]
Verify = Callable[[Call, tuple[ArrayType, ...]], None]
"""Refuses functions for which the question has no answer, from the call and the types that the rows belong to."""

Answer = Callable[[Call, tuple[ArrayType, ...]], str]
"""The type of the answer in words."""

#: What has been verified once, as long as it is kept.
_verified: WeakSet[Sparse | Prepared] = WeakSet()


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of a flat matrix: ``data[k]`` stands at ``(rows[k], cols[k])``; what is not listed is zero.

    Attributes:
        call: the call that they were computed for.
        outputs: the types whose raveled elements are the rows; those of the columns are ``call.inputs``.
        matrix: the dense matrix that they were taken from, where f could not be traced.
    """

    call: Call
    data: Any
    rows: Ints
    cols: Ints
    outputs: tuple[ArrayType, ...]
    matrix: Any = None


class Reduced(Question):
    """A question that is answered from the entries of a part, or of the dense matrix where f cannot be traced.

    Args:
        reduce: makes the answer of the entries, by operations that are the same in all frameworks.
        verify: looks at the types, and at the pattern, before anything is computed; once for each preparation.
        answer: the type of the answer, for the plan.
    """

    def __init__(
        self, name: str, f: Callable[..., Any], request: Request, reduce: Callable[[Entries], Any],
        given: SparsityPattern | None = None, verify: Verify | None = None, answer: Answer | None = None,
    ) -> None:  # fmt: skip
        def of_sparse(call: Call, sparse: Sparse, data: Any) -> Any:
            pattern = sparse.compressed.ways.pattern
            return reduce(Entries(call, data, pattern.rows, pattern.indices, sparse.compressed.outputs))

        super().__init__(name, f, request, of_sparse, given)
        self._reduce_entries, self._verify, self._answer = reduce, verify, answer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = bind(self.function, args, kwargs, self.request)
        return self._answered(call, self._prepare(call, args, kwargs))

    def _answered(self, call: Call, found: Any) -> Any:
        if isinstance(found[0], Sparse):
            data, finish = found[0].entries(call, found[1])
            return finish(self._reduce(call, found[0], data))
        prepared, captured, dense, _ = found
        return self._of_dense(dense, prepared, captured)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Which products are run at these inputs, and why; the plan can be called, with what f captures now."""
        call = bind(self.function, args, kwargs, self.request)
        found = self._prepare(call, args, kwargs)
        planned = replace(
            call, args=(), kwargs={}, active=[], leaves=[], memo=None
        )  # a plan keeps no array of its call
        made = self._planned(call, found)
        kept = found if isinstance(found[0], Sparse) else (*found[:2], None, found[3])

        def run(*args: Any, **kwargs: Any) -> Any:
            now = bind(self.function, args, kwargs, self.request)
            if now.signature != planned.signature:
                raise mismatch(planned, now)
            if isinstance(kept[0], Sparse):
                return self._answered(now, kept)
            return self._answered(now, (*kept[:2], self._dense(args, kwargs), kept[3]))

        return replace(made, _run=run)

    def _planned(self, call: Call, found: Any) -> Plan:
        if isinstance(found[0], Sparse):
            made, outputs = found[0].plan(call), found[0].compressed.outputs
            asked = f"; format={self.request.format!r} was asked for"
            candidates = tuple(replace(c, reason=c.reason.removesuffix(asked)) for c in made.candidates)
            made = replace(made, candidates=candidates)
        else:
            prepared, _, dense, why = found
            outputs = self._outputs(dense, prepared.trace.outputs)
            note = f"the whole matrix is computed, and the answer taken out of it: {why}"
            made = replace(prepared.plan, notes=(*prepared.plan.notes, note))
        result = made.result if self._answer is None else self._answer(call, outputs)
        return replace(made, kind=self.name, result=result)

    def _prepare(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """(sparse, captured), or (prepared, captured, call, why) of the dense matrix."""
        why: list[Any] = self._space.at(("dense", call.signature))
        if not why:
            try:
                sparse, captured = sparse_for(call, self._space, self.given)
            except CrelleTypeError as error:  # f cannot be traced; or cannot be differentiated, as will be said again
                reason = _cause(error)
                if not call.abstract:
                    why.append(reason)
            else:
                self._verify_once(call, sparse, sparse.compressed.outputs)
                return sparse, captured
        else:
            reason = why[0]
        dense = self._dense(args, kwargs)
        prepared, captured = prepared_for(dense, self._space)
        self._verify_once(dense, prepared, self._outputs(dense, prepared.trace.outputs))
        return prepared, captured, dense, reason

    def _dense(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The call for the whole matrix."""
        return bind(self.function, args, kwargs, replace(self.request, format="dense", part=None, flatten=True))

    def _verify_once(self, call: Call, prepared: Sparse | Prepared, outputs: tuple[ArrayType, ...]) -> None:
        if self._verify is not None and prepared not in _verified:
            self._verify(call, outputs)
            _verified.add(prepared)

    def _outputs(self, call: Call, outputs: tuple[ArrayType, ...]) -> tuple[ArrayType, ...]:
        return call.inputs if self.request.kind == "hessian" else outputs

    def _of_dense(self, call: Call, prepared: Prepared, captured: Any) -> Any:
        outputs = self._outputs(call, prepared.trace.outputs)
        m, n = total_size(outputs), total_size(call.inputs)
        if self.request.part == "diagonal":
            rows = cols = np.arange(min(m, n))
        else:
            rows, cols = (index.reshape(-1) for index in np.indices((m, n)))

        def reduce(matrix: Any) -> Any:
            matrix = matrix.reshape(m, n)
            return self._reduce_entries(Entries(call, matrix[rows, cols], rows, cols, outputs, matrix))

        answer = prepared.run(call, captured)
        return on_derivative(answer, self.request, reduce)


def on_derivative(answer: Any, request: Request, change: Callable[[Any], Any]) -> Any:
    """An answer with its derivative changed; value and aux, if they were asked for, stay."""
    if request.value:
        return answer[0], change(answer[1])
    if request.has_aux:
        return change(answer[0]), answer[1]
    return change(answer)


def _cause(error: CrelleTypeError) -> str:
    """The likely cause that an error names, or its headline."""
    lines = str(error).split("\n")
    likely = next((line for line in lines if line.startswith("  likely")), "")
    return likely.removeprefix("  likely").strip() or lines[0]
