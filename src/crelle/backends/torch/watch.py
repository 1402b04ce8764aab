"""One plain evaluation of f under observation: what a kept graph could not repeat is noticed here."""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crelle._arrays import ArrayType
from crelle._errors import CrelleValueError, describe

#: Methods that move a value from a tensor into Python, where a graph would freeze it.
_READS = frozenset(
    [
        "item",
        "tolist",
        "numpy",
        "__bool__",
        "__int__",
        "__float__",
        "__complex__",
        "__index__",
        "__array__",
        "__contains__",
        "is_nonzero",
        "equal",
        "allclose",
        "nonzero",
        "argwhere",
        "masked_select",
        "unique",
        "unique_consecutive",
        "bincount",
    ]
)
_STOPS = frozenset(["detach", "detach_"])
_AUTOGRAD_FUNCTION = "torch/autograd/function.py"


class _Tracing(threading.local):
    depth = 0


_tracing = _Tracing()


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """While f is looked at or traced: a derivative inside f is then computed in place, without a trace of its own."""
    _tracing.depth += 1
    try:
        yield
    finally:
        _tracing.depth -= 1


def is_tracing() -> bool:
    """Whether an outer derivative is being traced in this thread."""
    return _tracing.depth > 0


@dataclass(slots=True)
class Seen:
    """What f did: ``reads_values`` names the first call that took a value out of a tensor.

    ``runs_backward_code``: f has Python code of its own that runs in the backward pass (a custom rule, or a hook).
    """

    reads_values: str = ""
    stops_grad: bool = False
    runs_backward_code: bool = False


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS and not self.seen.reads_values:
            self.seen.reads_values = f"Tensor.{name}"
        elif (
            (name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") == "data")
            or name in _STOPS
            or (func is torch._C._set_grad_enabled and args[:1] == (False,))
        ):
            self.seen.stops_grad = True
        elif name == "register_hook":
            self.seen.runs_backward_code = True
        elif name in ("__getitem__", "__setitem__") and _has_mask(args[1]) and not self.seen.reads_values:
            self.seen.reads_values = "indexing with a mask"
        elif (
            name == "repeat_interleave" and not self.seen.reads_values and any(isinstance(a, Tensor) for a in args[1:])
        ):
            self.seen.reads_values = "repeat_interleave by a tensor"
        return func(*args, **(kwargs or {}))


def _has_mask(key: Any) -> bool:
    keys = key if isinstance(key, tuple) else (key,)
    return any(isinstance(k, Tensor) and k.dtype in (torch.bool, torch.uint8) for k in keys)


def evaluate(
    f: Callable[..., Any], copies: list[Tensor], what: str, names: tuple[str, ...]
) -> tuple[list[Tensor], Seen]:
    """Run f on copies of its tensors.

    Raises:
        CrelleValueError: f changed an input in place.
    """
    watch = _Watch()
    versions = [t._version for t in copies]

    before = sys.getprofile()
    chained = before if callable(before) else None

    def profile(frame: types.FrameType, event: Any, arg: Any) -> None:
        if chained is not None:  # what f reads is recorded in the same run
            chained(frame, event, arg)
        if (
            event == "call"
            and frame.f_code.co_name == "apply"
            and frame.f_code.co_filename.endswith(_AUTOGRAD_FUNCTION)
        ):
            # the outer derivative of a custom rule is not the derivative of the operations that it ran
            watch.seen.stops_grad = watch.seen.runs_backward_code = True

    observed = before is None or callable(before)
    with torch.no_grad(), watch:
        if observed:
            sys.setprofile(profile)
        else:  # a C profiler has the place, and could not be put back: assume what is safe
            watch.seen.stops_grad = watch.seen.runs_backward_code = True
        try:
            outputs, _ = f(*copies)
        finally:
            if observed:
                sys.setprofile(before)
    for i, (copy, version) in enumerate(zip(copies, versions, strict=True)):
        if copy._version != version:
            name = names[i] if i < len(names) else f"argument {i}"
            kind = ArrayType(str(copy.dtype).removeprefix("torch."), tuple(copy.shape))
            raise CrelleValueError(
                describe(
                    f"{what}: f changes its input {name} in place",
                    called=f"{name}: {kind}",
                    expected="a function that leaves its inputs as they are",
                    likely="an operation that ends in an underscore, or an assignment to a slice, on the input itself",
                    try_=f"work on a copy: {name} = {name}.clone()",
                )
            )
    return outputs, watch.seen
