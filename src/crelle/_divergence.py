"""Traces of derivatives, exact: ``divergence`` of a vector field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from crelle._arrays import ArrayType, total_size, types_text
from crelle._call import function_name
from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle._patterns import found_pattern
from crelle._reduced import Answer, Entries, Reduced, sums_of
from crelle._request import make_request
from crelle.backends._protocol import Call
from crelle.pattern import SparsityPattern


def divergence(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    batched: bool = False,
    value: bool = False,
    has_aux: bool = False,
    holomorphic: bool = False,
    check: bool = True,
    wrt: str = "inputs",
    pattern: Any = None,
) -> Reduced:
    """div f(x) = Σ_i ∂f(x)[i] / ∂x[i], exact: the trace of the Jacobian of a vector field f.

    Only the diagonal is computed, with as many products as a colouring of it needs: one for a field that mixes its
    inputs by a constant matrix alone, n where every output reads every input and all of it varies.

    Args:
        f: a function with outputs of the size of its inputs: ``[n] -> [n]``, or trees of arrays.
        argnums: which positional arguments to differentiate.
        batched: f maps ``[B, ...]`` to ``[B, ...]`` sample by sample; the answer is then one divergence a sample, [B],
            with products that serve all samples at once.
        value: also return f(x), as ``(f(x), divergence)``.
        has_aux: f returns ``(output, aux)``; the result is then ``(divergence, aux)``.
        holomorphic: f is a holomorphic function of complex arrays.
        check: compare with an independent product when a plan first runs.
        wrt: ``"inputs"``, or ``"params"`` for the parameters of an ``nn.Module``.
        pattern: where the Jacobian may be nonzero, if you know.

    Returns:
        A callable with ``.plan(x)``; its answer has shape [], or [B].

    Raises:
        CrelleShapeError: outputs and inputs differ in size; ``batched``, and they are not both ``[B, ...]``, or a
            sample of the output reads another sample of the input.

    Cost:
        One JVP for each colour of the diagonal (a partial colouring: Gebremedhin, Manne & Pothen, *What color is your
        Jacobian?*, SIAM Review 47, 2005, section 6). A function that cannot be traced: the dense Jacobian.

    >>> import numpy as np
    >>> print(divergence(lambda x: np.array([x[0] * x[1], x[1] ** 2]))(np.array([2.0, 3.0])).round(6))
    9.0
    """
    request = make_request(
        "jacobian", f, argnums=argnums, memory=None, mode="auto", chunk=None, wrt=wrt, format="triplets",
        part="diagonal", value=value, has_aux=has_aux, holomorphic=holomorphic, check=check,
    )  # fmt: skip
    text = f"crelle.divergence({function_name(f)})"
    given = None if pattern is None else SparsityPattern.from_(pattern)

    def verify(call: Call, outputs: tuple[ArrayType, ...]) -> None:
        verify_square(text, call, outputs)
        if batched:
            verify_batch(text, call, outputs, "[B, ...] to [B, ...]")
            verify_samples(text, call, outputs, given)

    reduce = by_sample(text) if batched else total
    return Reduced("divergence", f, request, reduce, given, verify, answer_of(batched))


def answer_of(batched: bool) -> Answer:
    """A number, or one for each sample."""

    def text(call: Call, outputs: tuple[ArrayType, ...]) -> str:
        return str(ArrayType(outputs[0].dtype, call.inputs[0].shape[:1] if batched else ()))

    return text


def total(entries: Entries) -> Any:
    """The sum of the entries."""
    return entries.data.sum()


def by_sample(text: str) -> Callable[[Entries], Any]:
    """The sum of the entries of each sample; of a dense matrix only after a look at what couples its samples."""

    def reduce(entries: Entries) -> Any:
        call = entries.call
        samples = samples_of(call.inputs)
        if entries.matrix is not None and not call.abstract:
            matrix = np.abs(call.backend.to_host(entries.matrix))
            rows, cols = np.nonzero(matrix > _ROUNDING * matrix.max(initial=0.0))
            _refuse_coupled(text, call, entries.outputs, rows, cols)
        batch = call.inputs[0].shape[0]
        if batch and len(call.inputs) == 1 and len(entries.rows) == len(samples):  # no zero among them
            return entries.data.reshape(batch, -1).sum(1)
        return sums_of(call.backend).segment_sums(entries.data, samples[entries.rows], batch)

    return reduce


#: An entry of a dense matrix that is this much smaller than the largest is rounding of differences.
_ROUNDING = 1e-6


def samples_of(types: tuple[ArrayType, ...]) -> np.ndarray[Any, Any]:
    """For every element of raveled arrays [B, ...] the sample that it belongs to."""
    parts = [np.repeat(np.arange(t.shape[0]), t.size // max(t.shape[0], 1)) for t in types]
    return np.concatenate(parts) if parts else np.zeros(0, int)


def verify_square(text: str, call: Call, outputs: tuple[ArrayType, ...]) -> None:
    """Refuse a matrix that has no trace.

    Raises:
        CrelleShapeError: it is not square.
    """
    m, n = total_size(outputs), total_size(call.inputs)
    if m != n:
        raise CrelleShapeError(
            describe(
                f"{text}: the Jacobian is {m:,} × {n:,}, and only a square matrix has a trace",
                called=f"{types_text(call.inputs, call.names)} -> {types_text(outputs)}",
                expected="as many outputs as inputs, raveled",
                try_="crelle.jacobian(f).diagonal(x), or other argnums=",
            )
        )


def verify_batch(text: str, call: Call, outputs: tuple[ArrayType, ...], expected: str) -> None:
    """Refuse arrays that are not batches of one size.

    Raises:
        CrelleShapeError: an array has no first axis, or another number of samples.
    """
    types = (*call.inputs, *outputs)
    if any(not t.shape for t in types) or len({t.shape[0] for t in types}) != 1:
        raise _not_batched(text, call, outputs, expected)


def _not_batched(text: str, call: Call, outputs: tuple[ArrayType, ...], expected: str) -> CrelleShapeError:
    return CrelleShapeError(
        describe(
            f"{text}: batched=True, and f does not map a batch to a batch",
            called=f"{types_text(call.inputs, call.names)} -> {types_text(outputs)}",
            expected=f"{expected}, with the same B in front of every array",
            try_="leave batched= out, or close over what is no batch",
        )
    )


def verify_samples(text: str, call: Call, outputs: tuple[ArrayType, ...], given: SparsityPattern | None = None) -> None:
    """Refuse a function that couples samples, as its pattern says.

    Raises:
        CrelleShapeError: a sample of the output reads another sample of the input.
    """
    try:
        pattern = found_pattern(call) if given is None else given
    except CrelleTypeError:  # it cannot be traced: the dense matrix will tell
        return
    _refuse_coupled(text, call, outputs, pattern.rows, pattern.indices)


def _refuse_coupled(text: str, call: Call, outputs: tuple[ArrayType, ...], rows: Any, cols: Any) -> None:
    reads, read = samples_of(outputs)[rows], samples_of(call.inputs)[cols]
    wrong = np.flatnonzero(reads != read)
    if len(wrong):
        k = int(wrong[0])
        raise CrelleShapeError(
            describe(
                f"{text}: batched=True, and samples are coupled: sample {reads[k]} of the output reads sample "
                f"{read[k]} of the input",
                called=f"{types_text(call.inputs, call.names)} -> {types_text(outputs)}",
                expected="sample b of the output to read sample b of the input alone",
                likely=f"entry ({rows[k]}, {cols[k]}) of the flat Jacobian, and {len(wrong) - 1:,} more: a mean or a "
                "product over the batch, as in BatchNorm; or an operation that is not looked into",
                try_=f"{text.split('(')[0]} of f for one sample, under vmap; or without batched= for the whole trace",
            )
        )
