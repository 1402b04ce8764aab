"""Parts and sums of a derivative, each at its own price: diagonal, trace, sums and norms of rows and columns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crelle._arrays import ArrayType, total_size
from crelle._call import bind, function_name
from crelle._divergence import answer_of, total, verify_square
from crelle._errors import CrelleTypeError, describe
from crelle._products import hvp, jvp, vjp
from crelle._reduced import Entries, Reduced, on_derivative, sums_of
from crelle._request import Request
from crelle.backends._protocol import Backend, Call
from crelle.pattern import SparsityPattern

#: What is asked for by name; these need the diagonal alone, the others all entries.
_OF_DIAGONAL = ("diagonal", "trace")


def ask(
    name: str,
    f: Callable[..., Any],
    request: Request,
    given: SparsityPattern | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Answer a question about the derivative that a transform stands for.

    Raises:
        CrelleTypeError: the transform stands for a gradient, or for a part of a matrix.
        CrelleShapeError: the trace of a matrix that is not square.
    """
    _refuse_parts(name, f, request)
    if name in ("row_sums", "col_sums"):
        call = bind(f, args, kwargs, request)
        found = None if any(t.is_complex for t in call.inputs) else _by_product(name, call)
        if found is not None:
            return found
    if (name != "row_norms" and name != "row_sums") or request.kind == "hessian":
        return question(name, f, request, given)(*args, **kwargs)
    answer = question(name, f, replace(request, value=True), given)(*args, **kwargs)  # the value has the tree of rows
    value = answer[0][0] if request.has_aux else answer[0]
    shaped = on_derivative(answer, replace(request, value=True), lambda rows: rows.like(value))
    if request.value:
        return shaped
    return (shaped[1], shaped[0][1]) if request.has_aux else shaped[1]


def question(name: str, f: Callable[..., Any], request: Request, given: SparsityPattern | None) -> Reduced:
    """What answers a question from entries; its plan says with which products."""
    text = f"crelle.{request.kind}({function_name(f)}).{name}"
    sparse = replace(
        request, format="triplets", part="diagonal" if name in _OF_DIAGONAL else None, flatten=False, chunk=None
    )
    verify = functools.partial(verify_square, text) if name == "trace" else None
    answer = answer_of(False) if name in ("trace", "frobenius_norm") else None
    return Reduced(name, f, sparse, _REDUCE[name], given, verify, answer)


def _refuse_parts(name: str, f: Callable[..., Any], request: Request) -> None:
    text = f"crelle.{request.kind}({function_name(f)}).{name}"
    if request.kind == "gradient":
        raise CrelleTypeError(describe(f"{text}: a gradient is no matrix", try_="crelle.jacobian or crelle.hessian"))
    part = request.selection.partial or (request.part is not None and not (
        request.part == "diagonal" and name in _OF_DIAGONAL
    ))  # fmt: skip
    if part or request.error:
        keyword = "error=True" if request.error else "rows=, cols=, entries= or part="
        raise CrelleTypeError(
            describe(f"{text}: it is asked of the whole matrix, not with {keyword}", try_=f"leave {keyword} out")
        )


# -- sums, by one product


def _by_product(name: str, call: Call) -> Any:
    """J·1 by one JVP, 1ᵀJ by one VJP; ``None`` where complex outputs of real inputs need another way."""
    backend, request = call.backend, call.request
    positions = request.argnums_tuple
    primals = tuple(call.args[i] for i in positions)

    @functools.wraps(call.f, updated=())
    def f(*given: Any) -> Any:
        args = list(call.args)
        for i, value in zip(positions, given, strict=True):
            args[i] = value
        return call.f(*args, **call.kwargs)

    def ones(tree: Any) -> Any:
        leaves, shape = backend.flatten(tree)
        types = map(backend.array_type, leaves)
        return backend.unflatten(
            shape, [backend.array_like(leaf, np.ones(t.shape)) for leaf, t in zip(leaves, types, strict=True)]
        )

    one = isinstance(request.argnums, int)
    aux: list[Any] = []
    if request.kind == "hessian":
        value, sums = hvp(lambda *a: f(*a)[0] if request.has_aux else f(*a), primals, ones(primals), value=True)
        sums = sums if one or len(positions) > 1 else (sums,)
        aux = [f(*primals)[1]] if request.has_aux else []
    elif name == "row_sums":
        value, sums, *aux = jvp(f, primals, ones(primals), request.has_aux)
    else:
        value, pull, *aux = vjp(f, *primals, has_aux=request.has_aux)
        if any(backend.array_type(leaf).is_complex for leaf in backend.flatten(value)[0]):
            return None  # a VJP has the dtype of the inputs
        sums = pull(ones(value))
        sums = sums[0] if one else sums
    if request.value:
        return ((value, *aux) if aux else value), sums
    return (sums, aux[0]) if aux else sums


# -- entries, reduced


@dataclass(frozen=True, slots=True)
class _Rows:
    """Numbers for the elements of the outputs, as leaves; their tree is that of the value of f."""

    backend: Backend
    leaves: list[Any]

    def like(self, value: Any) -> Any:
        """The same in the tree of the value."""
        return self.backend.unflatten(self.backend.flatten(value)[1], self.leaves)


def _by_row(entries: Entries, flat: Any) -> Any:
    rows = _Rows(entries.call.backend, _leaves(flat, entries.outputs))
    if entries.call.request.kind == "hessian":
        return rows.backend.unflatten(entries.call.in_tree, rows.leaves)
    return rows


def _by_col(entries: Entries, flat: Any) -> Any:
    return entries.call.backend.unflatten(entries.call.in_tree, _leaves(flat, entries.call.inputs))


def _leaves(flat: Any, types: tuple[ArrayType, ...]) -> list[Any]:
    ends = np.cumsum([t.size for t in types]).tolist()
    return [flat[end - t.size : end].reshape(t.shape) for t, end in zip(types, ends, strict=True)]


def _squares(entries: Entries) -> Any:
    return (entries.data * entries.data.conj()).real


def _sums(entries: Entries, data: Any, by_row: bool) -> Any:
    ids, types = (entries.rows, entries.outputs) if by_row else (entries.cols, entries.call.inputs)
    return sums_of(entries.call.backend).segment_sums(data, ids, total_size(types))


def _diagonal(entries: Entries) -> Any:
    shorter = min(total_size(entries.outputs), total_size(entries.call.inputs))
    return sums_of(entries.call.backend).segment_sums(entries.data, entries.rows, shorter)


def _row_norms(entries: Entries) -> Any:
    return _by_row(entries, sums_of(entries.call.backend).root(_sums(entries, _squares(entries), True)))


def _col_norms(entries: Entries) -> Any:
    return _by_col(entries, sums_of(entries.call.backend).root(_sums(entries, _squares(entries), False)))


def _frobenius(entries: Entries) -> Any:
    return sums_of(entries.call.backend).root(_squares(entries).sum())


_REDUCE: dict[str, Callable[[Entries], Any]] = {
    "diagonal": _diagonal,
    "trace": total,
    "row_sums": lambda entries: _by_row(entries, _sums(entries, entries.data, True)),
    "col_sums": lambda entries: _by_col(entries, _sums(entries, entries.data, False)),
    "row_norms": _row_norms,
    "col_norms": _col_norms,
    "frobenius_norm": _frobenius,
}
