"""What happens while f runs: the code that does, and effects that replaying a graph would not repeat."""

from __future__ import annotations

import gc
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# TensorGuards checks type, dtype, device, shape, strides and requires_grad of many tensors in one call of 50 ns each;
# the same from Python takes eight times as long, which small functions would notice.
from torch._C._dynamo.guards import TensorGuards  # type: ignore[import-not-found, unused-ignore]

from crelle._arrays import ArrayType
from crelle.backends.torch.guards.code import (
    IMPORTING,
    IMPURE,
    LAYER,
    LIBRARY,
    USER,
    code_kind,
    file_kind,
    impure_builtin,
)
from crelle.backends.torch.guards.functions import visit_imported
from crelle.backends.torch.guards.values import ARRAY_READERS, HIDDEN_READERS, ValueReads
from crelle.backends.torch.guards.visitors import Walk

#: A tensor whose values were read is compared by value up to this size.
_MAX_VALUES = 4096


class _Active(threading.local):
    """The recordings of a thread, outermost first: an inner one hands on what it sees."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []


_active = _Active()


def record(f: Callable[..., Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Recording:
    """Record what f reads while it is run or traced inside of ``with record(...)``.

    Args:
        f: what will be given to :meth:`Guards.match`, or an earlier object with the same code.
        args, kwargs: arguments of the call. What is neither a tensor nor a plain value among them is guarded too.
    """
    return Recording(f, tuple(args), dict(kwargs or {}))


class Guards:
    """Whether a trace still describes f.

    Attributes:
        match: ``match(f, args, kwargs)`` gives the present tensors in the order in which they were asked for,
            or None where anything else that f read has changed. Compiled; takes a few microseconds.
        unguardable: why this can never be known, or empty.
        effect: whether the reason is that f changed something. If that was to fill a cache, recording f once more
            finds it settled.
    """

    __slots__ = ("_search", "effect", "match", "unguardable")

    def __init__(
        self,
        match: Callable[..., list[Tensor] | None],
        search: Callable[[], Callable[..., str | None]],
        unguardable: str = "",
        effect: bool = False,
    ) -> None:
        self.match = match
        self._search = search
        self.unguardable = unguardable
        self.effect = effect

    def changed(self, f: Callable[..., Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> str:
        """What the first failing check is about, empty if all hold."""
        return self.unguardable or self._search()(f, args, kwargs or {}) or ""


def _never(f: Any, args: Any = (), kwargs: Any = None) -> None:
    return None


class Recording:
    """Context in which f is run or traced; afterwards, :meth:`guards` gives the checks."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._f, self._args, self._kwargs = f, args, kwargs
        self._walk = Walk()
        self._values = ValueReads()
        self._kinds: dict[str, int] = {}
        self._libraries: set[str] = set()
        self._previous: Any = None
        self._collects = True
        self._outer: Recording | None = None
        self._importing: Any = None

    def __enter__(self) -> Recording:
        self._walk.start(self._f, self._args, self._kwargs)
        self._outer = _active.recordings[-1] if _active.recordings else None
        self._values.__enter__()
        _active.recordings.append(self)
        self._collects = gc.isenabled()
        gc.disable()  # a collection runs callbacks and finalizers, which are no code of f
        self._previous = sys.getprofile()
        sys.setprofile(self._profiler())
        return self

    def __exit__(self, *exception: Any) -> None:
        sys.setprofile(None)
        if self._collects:
            gc.enable()
        _active.recordings.remove(self)
        self._values.__exit__(*exception)
        if self._previous is not None:
            # a profiler written in C is not a function that could be set again
            if callable(self._previous):
                sys.setprofile(self._previous)
            else:
                self._previous.enable()

    # -- events

    def _profiler(self) -> Callable[[Any, str, Any], None]:
        """Nearly all of some hundred thousand events of a trace are the library's own, and are left at once."""
        libraries, handle, refuse = self._libraries, self._event, self._walk.refuse

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
        elif event == "call":
            self._called(frame, code, kind)
        elif kind in (USER, LAYER):
            if event == "c_call":
                self._called_builtin(arg)
            elif event != "return" and getattr(arg, "__name__", "") in ARRAY_READERS:
                self._values.leave_array_reader()

    def _kind_of(self, frame: Any) -> int:
        file = frame.f_code.co_filename
        if file.startswith("<") and not file.startswith("<frozen"):  # generated code: its module tells whose it is
            return code_kind(frame.f_code, frame.f_globals.get("__name__"))
        kind = self._kinds[file] = file_kind(file)
        if kind == LIBRARY:
            self._libraries.add(file)
        return kind

    def _called(self, frame: Any, code: types.CodeType, kind: int) -> None:
        if kind == IMPORTING:
            self._importing = frame if code.co_name == "_find_and_load" else None
        elif code.co_name == "<module>":
            if not code.co_filename.startswith("<"):
                self._importing = frame
            elif _called_by_user(frame):
                self._walk.refuse("runs code from a string")
        elif kind != IMPURE:
            # a function evaluated from a string, without globals of its own, is an adapter of the library
            self._walk.ran(code, kind, adapter="__name__" not in frame.f_globals)
        elif _called_by_user(frame):
            self._walk.refuse(f"calls {frame.f_globals.get('__name__')}.{code.co_name}")

    def _called_builtin(self, function: Any) -> None:
        effect, name = impure_builtin(function), getattr(function, "__name__", "")
        if effect:
            self._walk.refuse(f"calls {effect}")
        elif self._values.hidden and name in HIDDEN_READERS:
            self._walk.refuse(f"uses {name} inside a backward pass or a call of PyTorch")
        elif name in ARRAY_READERS:
            self._values.enter_array_reader()

    # -- the checks

    def guards(self, tensors: Sequence[Tensor]) -> Guards:
        """The checks, once f has been run or traced.

        Args:
            tensors: constants of the traced graph that are to be replaced by what f would read now.
        """
        walk = self._walk
        late, walk.late_imports = walk.late_imports, []
        for name, wanted, dynamic in late:
            visit_imported(walk, name, wanted, dynamic)
        walk.finish()
        if self._values.problem:
            walk.refuse(self._values.problem)
        if not walk.problem:
            self._check_values()
        if walk.problem:
            return self._refusal(walk.problem)
        result, lost = self._result(tensors)
        match = walk.program.compile(result)
        if match(self._f, self._args, self._kwargs) is None:
            what = walk.program.compile_search()(self._f, self._args, self._kwargs)
            return self._refusal(f"f changes {what}" if what else "f reads something that changes by itself", True)
        if lost:
            return self._refusal(lost)
        walk.forget()
        return Guards(match, walk.program.compile_search)

    def _refusal(self, reason: str, effect: bool = False) -> Guards:
        self._walk.forget()
        return Guards(_never, lambda: lambda f, args, kwargs: reason, reason, effect)

    def _check_values(self) -> None:
        """Checks of tensors whose values became Python data."""
        walk = self._walk
        done = {id(t) for t in self._values.lifted}
        for tensor in self._values.tensors:
            if id(tensor) in done:
                continue
            done.add(id(tensor))
            found = walk.tensors.get(id(tensor))
            if found is None:
                walk.refuse("uses the value of a tensor that it computes in Python code, or as a shape")
                return
            if tensor.numel() > _MAX_VALUES:
                walk.refuse(f"uses the {tensor.numel():,} values of {found.label} in Python code")
                return
            kept = walk.program.constant(tensor.detach().clone())
            walk.program.fail_if(f"not same_tensor({found.source}, {kept})", f"the value of {found.label}")

    def _result(self, tensors: Sequence[Tensor]) -> tuple[str, str]:
        """Source of the list of present tensors, after a check of all captured ones; what is missing from it."""
        walk, sources, lost = self._walk, [], ""
        made = {id(t) for t in self._values.lifted}
        for tensor in tensors:
            found = walk.tensors.get(id(tensor))
            if found is not None:
                sources.append(found.source)
            elif id(tensor) in made:
                sources.append(walk.program.constant(tensor))
            else:
                kind = ArrayType(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
                lost = f"reads a tensor {kind} that cannot be found from f"
        self._check_tensors()
        return f"[{', '.join(sources)}]", lost

    def _check_tensors(self) -> None:
        """Type, dtype, device, shape, strides, requires_grad of every captured tensor.

        What TensorGuards compares depends on whether inference mode is on, so there are two, one made under it.
        """
        program, found = self._walk.program, list(self._walk.tensors.values())
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


def _called_by_user(frame: Any) -> bool:
    caller = frame.f_back
    return caller is not None and code_kind(caller.f_code, caller.f_globals.get("__name__")) in (USER, LAYER)
