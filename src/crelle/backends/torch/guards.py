"""Answers that are never stale: what f read while it was traced, and whether all of it is still the same.

``record`` wraps a trace. What comes out of it is a function, compiled from a list of checks, which at a later call gives
the tensors that f would read now, or says that the trace no longer describes f. The checks take nothing for granted
that could change: closure cells, globals, defaults, code, attributes, containers, modules with their hooks and modes.
What cannot be checked (iterators, clocks, random numbers, effects on the world) makes f unguardable, with a reason.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# TensorGuards checks type, dtype, device, shape, strides and requires_grad of many tensors in one call of 50 ns each;
# the same from Python takes eight times as long, which small functions would notice.
from torch._C._dynamo.guards import TensorGuards  # type: ignore[import-not-found, unused-ignore]

from crelle._arrays import ArrayType
from crelle.backends.torch.captures import Captures
from crelle.backends.torch.code_reads import IMPORTING, IMPURE, LAYER, LIBRARY, USER, code_kind, file_kind, impure_builtin
from crelle.backends.torch.value_reads import ARRAY_READERS, HIDDEN_READERS, ValueReads

#: A tensor whose values were read is compared by value up to this size.
_MAX_VALUES = 4096

_active: list[Recording] = []


def is_recording() -> bool:
    """Whether a trace is being recorded: what is replayed meanwhile, instead of run, would escape the record."""
    return bool(_active)


def record(f: Callable[..., Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Recording:
    """Record what f reads while it is run or traced inside of ``with record(...)``.

    Args:
        f: what will be given to :meth:`Guards.match`, or an earlier object with the same code.
        args, kwargs: arguments of the call. Objects among them that are neither tensors nor plain values are guarded too.
    """
    return Recording(f, tuple(args), dict(kwargs or {}))


class Guards:
    """Whether a trace still describes f.

    Attributes:
        unguardable: why this can never be known, or empty.
        match: ``match(f, args, kwargs)`` gives the present tensors in the order in which they were asked for,
            or None where anything else that f read has changed. Compiled; takes a few microseconds.
    """

    __slots__ = ("_search", "match", "unguardable")

    def __init__(
        self,
        match: Callable[..., list[Tensor] | None],
        search: Callable[[], Callable[..., str | None]],
        unguardable: str = "",
    ) -> None:
        self.match = match
        self._search = search
        self.unguardable = unguardable

    def changed(self, f: Callable[..., Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> str:
        """What the first failing check is about, empty if all hold."""
        return self._search()(f, args, kwargs or {}) or ""


def _called_by_user(frame: Any) -> bool:
    caller = frame.f_back
    if caller is None:
        return False
    return code_kind(caller.f_code, caller.f_globals.get("__name__")) in (USER, LAYER)


def _never(f: Any, args: Any = (), kwargs: Any = None) -> None:
    return None


class Recording:
    """Context in which f is traced; afterwards, :meth:`guards` gives the checks."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._f, self._args, self._kwargs = f, args, kwargs
        self._captures = Captures()
        self._values = ValueReads()
        self._kinds: dict[str, int] = {}
        self._libraries: set[str] = set()
        self._previous: Any = None
        self._collects = True
        self._outer: Recording | None = None
        self._importing: Any = None

    def __enter__(self) -> Recording:
        self._captures.start(self._f, self._args, self._kwargs)
        self._outer = _active[-1] if _active else None
        self._values.__enter__()
        _active.append(self)
        self._collects = gc.isenabled()
        gc.disable()  # a collection runs callbacks and finalizers, which are no code of f
        self._previous = sys.getprofile()
        sys.setprofile(self._quick_event())
        return self

    def __exit__(self, *exception: Any) -> None:
        sys.setprofile(None)
        if self._collects:
            gc.enable()
        _active.remove(self)
        self._values.__exit__(*exception)
        if self._previous is not None:
            # a profiler written in C is not a function that could be set again
            if callable(self._previous):
                sys.setprofile(self._previous)
            else:
                self._previous.enable()

    def _quick_event(self) -> Callable[[Any, str, Any], None]:
        """The profiler: nearly all of some hundred thousand events are the library's own, and are left at once."""
        libraries, handle, refuse = self._libraries, self._event, self._captures.refuse

        def event_of_any_code(frame: Any, event: str, arg: Any) -> None:
            if frame.f_code.co_filename not in libraries:
                try:
                    handle(frame, event, arg)
                except Exception as error:  # an object that cannot even be looked at; f itself must not notice
                    refuse(f"reads something that cannot be looked at ({type(error).__name__}: {error})")

        return event_of_any_code

    def _event(self, frame: Any, event: str, arg: Any) -> None:
        code = frame.f_code
        kind = self._kinds.get(code.co_filename)
        if kind is None:
            kind = self._kind_of(frame)
            if kind == LIBRARY:
                return
        if self._outer is not None:
            self._outer._event(frame, event, arg)
        if self._importing is not None:  # what a module does while it is imported, it does once
            if frame is self._importing and event == "return":
                self._importing = None
            return
        if event == "call":
            if kind == IMPORTING:
                self._importing = frame if code.co_name == "_find_and_load" else None
            elif code.co_name == "<module>":
                self._module_starts(frame)
            elif kind != IMPURE:
                # a function evaluated from a string among no globals of its own: an adapter of the library
                self._captures.ran(code, kind, adapter="__name__" not in frame.f_globals)
            elif _called_by_user(frame):
                self._captures.refuse(f"calls {frame.f_globals.get('__name__')}.{code.co_name}")
        elif kind not in (USER, LAYER):
            return
        elif event == "c_call":
            effect = impure_builtin(arg)
            if effect:
                self._captures.refuse(f"calls {effect}")
            elif self._values.hidden and getattr(arg, "__name__", "") in HIDDEN_READERS:
                self._captures.refuse(f"uses {arg.__name__} inside a backward pass or a call of PyTorch")
            elif getattr(arg, "__name__", "") in ARRAY_READERS:
                self._values.enter_array_reader()
        elif event in ("c_return", "c_exception") and getattr(arg, "__name__", "") in ARRAY_READERS:
            self._values.leave_array_reader()

    def _kind_of(self, frame: Any) -> int:
        file = frame.f_code.co_filename
        if file.startswith("<") and not file.startswith("<frozen"):  # generated code: its module tells whose it is
            return code_kind(frame.f_code, frame.f_globals.get("__name__"))
        kind = self._kinds[file] = file_kind(file)
        if kind == LIBRARY:
            self._libraries.add(file)
        return kind

    def _module_starts(self, frame: Any) -> None:
        if not frame.f_code.co_filename.startswith("<"):
            self._importing = frame
        elif _called_by_user(frame):
            self._captures.refuse("runs code from a string")

    def guards(self, tensors: Sequence[Tensor]) -> Guards:
        """The checks, once the trace is made.

        Args:
            tensors: constants of the traced graph that are to be replaced by what f would read now.
        """
        captures = self._captures
        captures.finish()
        reason = captures.problem or self._values.problem or self._compare_values()
        result = "" if reason else self._result(tensors)
        if not result:
            return self._refusal(reason or captures.problem)
        program = captures.program
        match = program.compile(result)
        if match(self._f, self._args, self._kwargs) is None:
            what = program.compile_search()(self._f, self._args, self._kwargs)
            return self._refusal(f"f changes {what}" if what else "f reads something that changes by itself")
        captures.forget()
        return Guards(match, program.compile_search)

    def _refusal(self, reason: str) -> Guards:
        self._captures.forget()
        return Guards(_never, lambda: lambda f, args, kwargs: reason, reason)

    def _compare_values(self) -> str:
        """Guards for tensors whose values became Python data; a reason where that is impossible."""
        captures = self._captures
        lifted = {id(t) for t in self._values.lifted}
        done: set[int] = set()
        for tensor in self._values.tensors:
            if id(tensor) in done or id(tensor) in lifted:
                continue
            done.add(id(tensor))
            found = captures.tensors.get(id(tensor))
            if found is None:
                return "uses the value of a tensor that it computes in Python code, or as a shape"
            if tensor.numel() > _MAX_VALUES:
                return f"uses the {tensor.numel():,} values of {found.label} in Python code"
            kept = tensor.detach().clone()
            program = captures.program
            label = f"the value of {found.label}"
            program.fail_if(f"not same_tensor({found.source}, {program.constant(kept)})", label)
        return ""

    def _result(self, tensors: Sequence[Tensor]) -> str:
        """Source of the list of present tensors, after a check of all captured ones; empty after a refusal."""
        captures, program = self._captures, self._captures.program
        lifted = {id(t) for t in self._values.lifted}
        sources = []
        for tensor in tensors:
            found = captures.tensors.get(id(tensor))
            if found is not None:
                sources.append(found.source)
            elif id(tensor) in lifted:
                sources.append(program.constant(tensor))
            else:
                kind = ArrayType(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
                captures.refuse(f"reads a tensor {kind} that cannot be found from f")
                return ""
        self._check_tensors()
        return f"[{', '.join(sources)}]"

    def _check_tensors(self) -> None:
        """Type, dtype, device, shape, strides, requires_grad of every captured tensor.

        What TensorGuards compares depends on whether inference mode is on, so there are two, one made under it.
        """
        program, found = self._captures.program, list(self._captures.tensors.values())
        if not found:
            return
        tensors = [captured.tensor for captured in found]
        sources = ", ".join(captured.source for captured in found)
        checks = []
        for inference in (torch.is_inference_mode_enabled(), not torch.is_inference_mode_enabled()):
            with torch.inference_mode(inference):
                guards = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
            checks.append(f"{program.constant(guards.check)}({sources})")
        labels = ", ".join(captured.label for captured in found[:8]) + (", ..." if len(found) > 8 else "")
        program.fail_if(f"not ({' or '.join(checks)})", f"type or shape of one of {labels}")
