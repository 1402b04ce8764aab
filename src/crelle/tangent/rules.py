"""What users say about their own operations: which elements of its operands each element of a result reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle._errors import CrelleError, CrelleShapeError, CrelleTypeError, describe

UserRule = Callable[..., Any]
_RULES: dict[str, UserRule] = {}


@dataclass(frozen=True, slots=True)
class LinearOperand:
    """An operand of an operation, as a rule sees it.

    Attributes:
        linear: whether the operation is to be read as linear in it; the others are coefficients.
        value: of a coefficient that is known before f is run, else ``None``.
    """

    shape: tuple[int, ...]
    dtype: str
    linear: bool
    value: np.ndarray[Any, Any] | None = None


def register_linear_rule(operation: Any, rule: UserRule | None = None) -> Any:
    """Say which elements of its linear operands each element of an operation's result reads.

    ``rule(operands, shapes, params)`` returns one answer for each linear operand, in their order: ``"pointwise"``
    (element i of the result reads element i), ``"dense"`` (everything), or the pattern of the matrix of shape
    (elements of the result, elements of the operand): a :class:`crelle.SparsityPattern`, a SciPy sparse matrix or a
    boolean array. For several results it returns a list of such answers, one for each. It may be larger than the truth,
    never smaller.

    Args:
        operation: a JAX primitive or its name; a PyTorch operator (``torch.ops.my.op.default``, or what
            ``torch.library.custom_op`` returns) or its name (``my.op``, ``my::op``).
        rule: the rule; left out, a decorator is returned.

    Raises:
        CrelleTypeError: the operation cannot be recognised.

    Cost:
        The rule is called once for each use of the operation in a trace.

    >>> @register_linear_rule("my_filter")
    ... def _(operands, shapes, params):
    ...     return ["pointwise"]
    """
    name = operation.replace("::", ".") if isinstance(operation, str) else _name(operation)

    def declare(function: UserRule) -> UserRule:
        if not callable(function):
            raise CrelleTypeError(
                describe(
                    f"crelle.register_linear_rule({name!r}, rule): the rule is a {type(function).__name__}",
                    expected="a function rule(operands, shapes, params)",
                )
            )
        _RULES[name] = function
        return function

    return declare if rule is None else declare(rule)


def _name(operation: Any) -> str:
    if isinstance(operation, type):  # an autograd.Function has a name, and is no operator
        raise _no_operation(f"the class {operation.__name__}")
    found = getattr(operation, "name", None)
    if isinstance(found, str):
        return found
    operation = getattr(operation, "_opoverload", operation)
    if type(operation).__name__ in ("OpOverload", "OpOverloadPacket"):
        return str(operation)
    raise _no_operation(f"a {type(operation).__name__}")


def _no_operation(what: str) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f"crelle.register_linear_rule: {what} is no operation of a framework",
            expected="a JAX primitive, a PyTorch operator, or the name of one",
            try_="functions need no rule: they are looked into; hide one in a primitive or a torch.library.custom_op",
        )
    )


def find(name: str) -> UserRule | None:
    """The rule for an operation, if there is one."""
    return _RULES.get(name)


def patterns(
    name: str, rule: UserRule, operands: Sequence[LinearOperand], shapes: Sequence[tuple[int, ...]], params: Any
) -> list[list[Any]]:
    """For every result and operand the CSR pattern ``(indptr, indices)``; ``None`` where everything is read.

    Raises:
        CrelleTypeError, CrelleShapeError: the rule does not answer for the operands and results that there are.
    """
    answer = rule(list(operands), list(shapes), params)
    answers = [answer] if len(shapes) == 1 else answer
    linear = [k for k, o in enumerate(operands) if o.linear]
    if not isinstance(answers, (list, tuple)) or len(answers) != len(shapes):
        got = f"{len(answers)} answers" if isinstance(answers, (list, tuple)) else _kind(answers)
        raise CrelleTypeError(
            describe(
                f"the linear rule of {name!r} returned {got}",
                called=f"the operation has {len(shapes)} results, of shapes {', '.join(map(str, shapes))}",
                expected=f"a list of {len(shapes)}: for each result a list with one answer for each linear operand",
            )
        )
    found: list[list[Any]] = []
    for shape, each in zip(shapes, answers, strict=True):
        each = [each] if isinstance(each, str) or not isinstance(each, (list, tuple)) else each
        if len(each) != len(linear):
            raise CrelleTypeError(
                describe(
                    f"the linear rule of {name!r} returned {len(each)} answer{'' if len(each) == 1 else 's'}",
                    called=_linear_text(operands),
                    expected=f"{len(linear)}: one for each linear operand",
                )
            )
        row: list[Any] = [None] * len(operands)
        for k, one in zip(linear, each, strict=True):
            row[k] = _pattern(name, one, shape, operands[k].shape)
        found.append(row)
    return found


def _pattern(name: str, answer: Any, out: tuple[int, ...], into: tuple[int, ...]) -> Any:
    m, n = (int(np.prod(s, dtype=np.int64)) for s in (out, into))
    if isinstance(answer, str) and answer == "dense":
        return None
    if isinstance(answer, str) and answer == "pointwise":
        if m != n:
            raise _wrong(name, f'"pointwise" for a result of shape {out} and an operand of shape {into}', m, n)
        return np.arange(n + 1), np.arange(n, dtype=np.int32)
    if isinstance(answer, str):
        raise _wrong(name, repr(answer), m, n)
    from crelle.pattern import SparsityPattern

    try:
        pattern = SparsityPattern.from_(answer)
    except CrelleError as error:
        raise _wrong(name, _kind(answer), m, n, likely=str(error).partition("\n")[0]) from None
    if pattern.shape != (m, n):
        turned = pattern.shape == (n, m)
        likely = "rows and columns were exchanged" if turned else None
        raise _wrong(name, f"a pattern of shape {pattern.shape}", m, n, likely)
    return pattern.indptr, pattern.indices


def _kind(answer: Any) -> str:
    return "None" if answer is None else repr(answer) if isinstance(answer, str) else f"a {type(answer).__name__}"


def _linear_text(operands: Sequence[LinearOperand]) -> str:
    """``operands 0 of shape (4, 3), 2 of shape (3,) are linear``."""
    texts = [f"{k} of shape {o.shape}" for k, o in enumerate(operands) if o.linear]
    return f"operand{'s' * (len(texts) > 1)} {', '.join(texts)} {'are' if len(texts) > 1 else 'is'} linear"


def _wrong(name: str, got: str, m: int, n: int, likely: str | None = None) -> CrelleShapeError:
    return CrelleShapeError(
        describe(
            f"the linear rule of {name!r} returned {got}",
            expected=f'"pointwise", "dense", or a pattern of shape ({m}, {n})',
            likely=likely,
            try_="rows are the elements of the result, columns those of the operand, both raveled in C order",
        )
    )
