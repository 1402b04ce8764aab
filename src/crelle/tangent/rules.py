"""What users say about their own operations: which elements of its operands each element of a result reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle._errors import CrelleShapeError, CrelleTypeError, describe

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
        operation: a JAX primitive or its name; a PyTorch operator (``torch.ops.my.op.default``) or its name.
        rule: the rule; left out, a decorator is returned.

    Raises:
        CrelleTypeError: the operation cannot be recognised.

    Cost:
        The rule is called once for each use of the operation in a trace.

    >>> @register_linear_rule("my_filter")
    ... def _(operands, shapes, params):
    ...     return ["pointwise"]
    """
    name = operation if isinstance(operation, str) else _name(operation)

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
    found = getattr(operation, "name", None)
    if isinstance(found, str):
        return found
    if type(operation).__name__ in ("OpOverload", "OpOverloadPacket"):
        return str(operation)
    raise CrelleTypeError(
        describe(
            f"crelle.register_linear_rule: a {type(operation).__name__} is no operation of a framework",
            expected="a JAX primitive, a PyTorch operator, or the name of one",
        )
    )


def find(name: str) -> UserRule | None:
    """The rule for an operation, if there is one."""
    return _RULES.get(name)


def patterns(
    name: str, rule: UserRule, operands: Sequence[LinearOperand], shapes: Sequence[tuple[int, ...]], params: Any
) -> list[list[Any]]:
    """For every result and operand the CSR pattern ``(indptr, indices)``; ``None`` where everything is read."""
    answer = rule(list(operands), list(shapes), params)
    answers = [answer] if len(shapes) == 1 else list(answer)
    linear = [k for k, o in enumerate(operands) if o.linear]
    found: list[list[Any]] = []
    for shape, each in zip(shapes, answers, strict=True):
        each = [each] if isinstance(each, str) or not isinstance(each, (list, tuple)) else each
        if len(each) != len(linear):
            raise CrelleTypeError(
                describe(
                    f"the linear rule of {name!r} returned {len(each)} answers",
                    called=f"operands {', '.join(map(str, linear))} are linear",
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

    pattern = SparsityPattern.from_(answer)
    if pattern.shape != (m, n):
        raise _wrong(name, f"a pattern of shape {pattern.shape}", m, n)
    return pattern.indptr, pattern.indices


def _wrong(name: str, got: str, m: int, n: int) -> CrelleShapeError:
    return CrelleShapeError(
        describe(
            f"the linear rule of {name!r} returned {got}",
            expected=f'"pointwise", "dense", or a pattern of shape ({m}, {n})',
            try_="rows are the elements of the result, columns those of the operand, both raveled in C order",
        )
    )
