"""From the words of a command to a question: a target, its framework, and inputs in that framework's arrays."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crelle._call import describe_arguments
from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.backends import framework_of
from crelle.cli import frameworks, inputs
from crelle.cli.targets import Loader, Target


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a command says about inputs, as it was typed."""

    texts: list[str]
    framework: str = "auto"
    argnums: int | tuple[int, ...] = 0
    seed: int = 0
    dtype: str | None = None
    x64: bool | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A function and the arguments to ask about it."""

    targets: tuple[Target, ...]
    framework: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def target(self) -> Target:
        """The function that is differentiated; a second target is a derivative of it."""
        return self.targets[0]

    @property
    def described(self) -> str:
        """The arguments in words: ``f64[3], n=2``."""
        return describe_arguments(self.args, self.kwargs)


@contextmanager
def posed(target: str, given: Inputs, *more: str) -> Iterator[Question]:
    """Load the targets and read the inputs; while they are used, JAX has their precision.

    What the targets print goes to stderr: stdout belongs to the answer.

    Raises:
        CrelleError: a target, an input or an option that cannot be used.
    """
    read = inputs.read(given.texts, given.seed, given.options)
    arrays = [leaf for one in read for leaf in inputs.leaves(one.tree)]
    known = [str(leaf.dtype) for leaf in arrays if getattr(leaf, "dtype", None) is not None]
    known = [name.removeprefix("torch.") for name in known if "float" in name or "complex" in name]
    dtype = _dtype(given.dtype)
    default = dtype or next(iter(known), "float64")
    wide = bool({"float64", "complex128"} & {default, *known})
    x64 = given.x64 if given.x64 is not None else True if wide else None
    with contextlib.redirect_stdout(sys.stderr), frameworks.precision(x64):
        loader = Loader()
        targets = tuple(loader.load(text) for text in (target, *more))
        framework = given.framework
        if framework == "auto":
            framework = frameworks.detect(targets[0], arrays)
        elif framework not in frameworks.FRAMEWORKS:
            raise CrelleValueError(
                describe(f"there is no framework {framework!r}", expected=f"auto, {', '.join(frameworks.FRAMEWORKS)}")
            )
        frameworks.require(framework, f"{target} as a {framework} function")
        default = dtype or frameworks.parameter_dtype(targets[0].f) or default
        args, kwargs = _arguments(read, framework, default, given.argnums)
        check_arity(targets[0], args, kwargs)
        yield Question(targets, framework, args, kwargs)
        sys.stderr.flush()  # so that it comes before the answer


def _dtype(text: str | None) -> str | None:
    if text is None or text in inputs.DTYPES.values():
        return text
    if text not in inputs.DTYPES:
        raise CrelleValueError(describe(f"there is no dtype {text!r}", expected=", ".join(inputs.DTYPES)))
    return inputs.DTYPES[text]


def _arguments(
    read: list[inputs.Input], framework: str, dtype: str, argnums: int | tuple[int, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positional = [one for one in read if one.keyword is None]
    wanted = (
        {i % len(positional) for i in ((argnums,) if isinstance(argnums, int) else argnums)} if positional else set()
    )
    args = [inputs.make(one.tree, framework, dtype, i in wanted) for i, one in enumerate(positional)]
    kwargs = {one.keyword: inputs.make(one.tree, framework, dtype, False) for one in read if one.keyword is not None}
    return tuple(args), kwargs


def check_arity(target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise the error for inputs that are too few or too many, before it comes as one of Python's."""
    signature = target.signature
    if signature is None or framework_of(target.f) == "torch":  # forward of a module is *args, **kwargs to Python
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CrelleTypeError(
            describe(
                f"{target.text} cannot be called with these inputs: {error}",
                called=describe_arguments(args, kwargs),
                expected=f"inputs for {signature}",
            )
        ) from None


def parse_argnums(text: str) -> int | tuple[int, ...]:
    """``0`` is an integer, ``0,2`` and ``0,`` are tuples."""
    if re.fullmatch(r"\s*-?\d+\s*", text):
        return int(text)
    if re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)*,?\s*", text):
        return tuple(int(part) for part in text.split(",") if part.strip())
    raise CrelleValueError(describe(f"--argnums {text} does not name arguments", expected="0, or a list such as 0,2"))


def parse_selection(option: str, text: str | None) -> Any:
    """``3`` drops the axis, ``0,2`` and ``1:5`` keep it; as ``rows=`` of the API."""
    if text is None:
        return None
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"(-?\d+)?:(-?\d+)?(:(-?\d+)?)?", text):
        return slice(*(int(part) if part else None for part in text.split(":")))
    if re.fullmatch(r"-?\d+(,-?\d+)*,?", text):
        return [int(part) for part in text.split(",") if part]
    raise CrelleValueError(
        describe(f"{option} {text} does not select anything", expected="3, or 0,2,5, or 1:5, or ::2")
    )
