"""What is asked: the keywords of a transform, validated once when the transform is made."""

from __future__ import annotations

import operator
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from crelle._arrays import parse_bytes
from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle._parts import read_part
from crelle._select import Selection

#: What ``mode=`` accepts. The last two of a Jacobian, and the last of the others, are for NumPy functions.
MODES: dict[str, tuple[str, ...]] = {
    "jacobian": ("auto", "forward", "reverse", "coloured", "central", "complex-step"),
    "gradient": ("auto", "forward", "reverse", "central", "complex-step"),
    "hessian": (
        "auto",
        "forward-over-reverse",
        "reverse-over-forward",
        "reverse-over-reverse",
        "forward-over-forward",
        "coloured",
        "central",
    ),
}

WRT = ("inputs", "params")
#: What ``format=`` accepts; see :mod:`crelle._formats`.
FORMATS = ("dense", "sparse", "csr", "csc", "coo", "triplets", "blocks", "banded", "diagonal")


#: Formats that keep the blocks of trees, unless ``flatten`` is set.
TREES = ("dense", "sparse", "csr", "csc", "coo", "triplets")


@dataclass(frozen=True, slots=True)
class Request:
    """The keywords of ``jacobian``, ``hessian`` or ``gradient``. Hashable; holds no function and no array."""

    kind: str
    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    holomorphic: bool = False
    value: bool = False
    flatten: bool = False
    mode: str = "auto"
    chunk: int | None = None
    memory: int | None = None
    error: bool = False
    check: bool = True
    compile: bool = False
    wrt: str = "inputs"
    format: str = "dense"
    part: Hashable = None
    selection: Selection = field(default_factory=Selection, compare=False)

    @property
    def argnums_tuple(self) -> tuple[int, ...]:
        """``argnums`` as a tuple, also where one integer was given."""
        return (self.argnums,) if isinstance(self.argnums, int) else self.argnums

    @property
    def flat(self) -> bool:
        """Whether the answer is one flat matrix, or a part of it."""
        return self.flatten or self.selection.partial or self.format not in TREES


def make_request(
    kind: str,
    f: Any,
    *,
    argnums: Any,
    memory: Any,
    mode: Any,
    chunk: Any,
    wrt: Any,
    format: Any = "dense",
    part: Any = None,
    rows: Any = None,
    cols: Any = None,
    entries: Any = None,
    **flags: Any,
) -> Request:
    """Check every keyword and return the request, or raise an error that lists the valid values."""
    if not callable(f):
        hint = "pass the function itself, f, not its result f(x)" if hasattr(f, "shape") else None
        raise CrelleTypeError(
            describe(
                f"crelle.{kind}(f): f is not a function but {_a(type(f).__name__)}",
                expected="a function of arrays, or an nn.Module",
                try_=hint,
            )
        )
    positions = tuple(argnums) if isinstance(argnums, (tuple, list)) else (argnums,)
    if not positions or not all(hasattr(i, "__index__") and not isinstance(i, bool) for i in positions):
        raise CrelleTypeError(
            describe(f"argnums={argnums!r} does not name arguments", expected="an integer or a tuple of integers")
        )
    positions = tuple(map(operator.index, positions))
    for name, value, valid in (("mode", mode, MODES[kind]), ("wrt", wrt, WRT), ("format", format, FORMATS)):
        if value not in valid:
            raise CrelleValueError(
                describe(f"{name}={value!r} is not known to crelle.{kind}", expected=" | ".join(map(repr, valid)))
            )
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise CrelleValueError(
            describe(f"chunk={chunk!r} is not a number of seeds", expected="a positive integer: seeds per batch")
        )
    if entries is not None and (rows is not None or cols is not None):
        raise CrelleValueError(describe("entries= cannot be combined with rows= or cols=", try_="use one or the other"))
    if format != "dense" and (rows is not None or cols is not None or entries is not None or chunk is not None):
        raise CrelleValueError(
            describe(
                f"format={format!r} cannot be combined with rows=, cols=, entries= or chunk=", try_="leave one out"
            )
        )
    part = read_part("diagonal" if part is None and format == "diagonal" else part)
    if part is not None and format == "dense":
        raise CrelleValueError(
            describe(
                "part= goes with a sparse format",
                expected=f"format= {' | '.join(map(repr, FORMATS[1:]))}",
                try_="rows=, cols= or entries= for a part of the dense matrix",
            )
        )
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise CrelleTypeError(describe(f"{name}={value!r} is not a flag", expected="True or False"))
    return Request(
        kind=kind,
        argnums=positions if isinstance(argnums, (tuple, list)) else positions[0],
        memory=parse_bytes(memory),
        mode=mode,
        chunk=chunk,
        wrt=wrt,
        format=format,
        part=part,
        selection=Selection(rows, cols, entries),
        **flags,
    )


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
