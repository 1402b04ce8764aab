"""Batches: which sample every element belongs to, and a refusal of samples that read each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle._arrays import ArrayType, total_size, types_text
from crelle._errors import CrelleShapeError, CrelleValueError, describe
from crelle.backends._protocol import Call
from crelle.determinants._cuts import Cut
from crelle.determinants._labels import forward
from crelle.tangent.program import TangentProgram

Ints = np.ndarray[Any, Any]


def verify_square(call: Call, outputs: tuple[ArrayType, ...]) -> None:
    """Refuse what has no determinant.

    Raises:
        CrelleShapeError: there are not as many outputs as inputs.
    """
    m, n = total_size(outputs), total_size(call.inputs)
    if m != n:
        raise CrelleShapeError(
            describe(
                f"{call.text}: the Jacobian is {m:,} × {n:,}, and only square matrices have a determinant",
                called=f"{types_text(call.inputs, call.names)} -> {types_text(outputs)}",
                expected="as many outputs as inputs",
                likely="an output that is not part of the map: a log-density, an auxiliary value" if m > n else None,
                try_="has_aux=True for what f returns beside its output"
                if m > n
                else "argnums= without the arguments that are no coordinates",
            )
        )


def count_samples(call: Call, outputs: tuple[ArrayType, ...]) -> int:
    """How long the batch axis is: the first axis of every input and output.

    Raises:
        CrelleShapeError: there is no such axis, or a sample has not as many outputs as inputs.
    """
    lengths = {t.shape[0] if t.shape else None for t in (*call.inputs, *outputs)}
    if len(lengths) != 1 or None in lengths:
        raise CrelleShapeError(
            describe(
                f"{call.text}: batched=True needs one batch axis, the first of every input and output",
                called=f"{types_text(call.inputs, call.names)} -> {types_text(outputs)}",
                try_="batched=False for the determinant of the whole",
            )
        )
    return int(lengths.pop() or 0)


def samples_of(types: tuple[ArrayType, ...], count: int) -> Ints:
    """The sample of each raveled element."""
    parts = [np.repeat(np.arange(count), t.size // max(count, 1)) for t in types]
    return np.concatenate([np.zeros(0, np.int64), *parts])


class Samples:
    """The sample of each element of the values of a program.

    Raises:
        CrelleValueError: an output of one sample reads another.
    """

    def __init__(self, call: Call, program: TangentProgram, outputs: tuple[ArrayType, ...], count: int) -> None:
        self.program, self.count = program, count
        ins, outs = (outputs, call.inputs) if program.transposed else (call.inputs, outputs)
        self._ends = [samples_of(ins, count), samples_of(outs, count)]
        if count > 1:
            self._verify(call, ins, outs)
            self.labels = forward(program, _parts(self._ends[0] + 1, ins))

    def _verify(self, call: Call, ins: tuple[ArrayType, ...], outs: tuple[ArrayType, ...]) -> None:
        """The last column that each row reads, and the first, have to be of its own sample."""
        n = total_size(ins)
        by_sample = np.argsort(self._ends[0], kind="stable")
        place = np.empty(n, np.int64)
        place[by_sample] = np.arange(n)
        for turned in (False, True):
            found = forward(self.program, _parts(n - place if turned else place + 1, ins))
            read = np.concatenate([found[v].reshape(-1) if v is not None and v in found else np.zeros(t.size, np.int64)
                                   for v, t in zip(self.program.outputs, outs, strict=True)])  # fmt: skip
            rows = np.flatnonzero(read)
            column = np.zeros(len(read), np.int64)
            column[rows] = by_sample[n - read[rows] if turned else read[rows] - 1]
            refuse_coupling(call, rows, column, self._ends, self.program.transposed)

    def of(self, values: Cut) -> Ints:
        """The sample of each raveled element of some values."""
        if values == self.program.inputs:
            return self._ends[0]
        if values == self.program.outputs:
            return self._ends[1]
        if self.count <= 1:
            return np.zeros(self.program.columns, np.int64)
        return np.concatenate([self.labels[v].reshape(-1) for v in values if v is not None]) - 1


def refuse_coupling(call: Call, rows: Ints, column: Ints, ends: list[Ints], transposed: bool = False) -> None:
    """Rows that read a column, ``column[row]``, of another sample."""
    wrong = rows[ends[0][column[rows]] != ends[1][rows]]
    if not len(wrong):
        return
    i, j = int(wrong[0]), int(column[wrong[0]])
    mine, other = int(ends[1][i]), int(ends[0][j])
    if transposed:
        i, j, mine, other = j, i, other, mine
    raise CrelleValueError(
        describe(
            f"{call.text}: batched=True, and samples read each other",
            called=types_text(call.inputs, call.names),
            expected="each sample of the output to depend on the same sample of the input",
            found=f"entry ({i:,}, {j:,}) of the Jacobian may be nonzero: sample {mine:,} of the output reads "
            f"sample {other:,} of the input",
            likely="a mean, norm or softmax over the batch axis, or batch statistics",
            try_="batched=False for the determinant of the whole",
        )
    )


def _parts(labels: Ints, types: tuple[ArrayType, ...]) -> list[Ints]:
    cuts = np.cumsum([t.size for t in types])[:-1]
    return [part.reshape(t.shape) for part, t in zip(np.split(labels, cuts), types, strict=True)]
