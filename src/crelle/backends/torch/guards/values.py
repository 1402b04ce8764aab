"""Where values of tensors turn into Python data: a trace would keep the value and not the tensor.

Two modes watch f while it is recorded. The one above the dispatcher sees ``tolist``, ``torch.tensor([...])`` and their
like with their arguments; the one below sees ``item``, ``bool(tensor)`` and results whose shape depends on values.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from crelle.backends.torch.guards.code import USER, file_kind

_NO, _VALUE, _SHAPE, _LIFT = range(4)
_READERS = frozenset(("tolist", "numpy", "__array__", "__dlpack__", "__repr__", "__format__"))
_STORAGE_READERS = frozenset(("data_ptr", "untyped_storage", "storage", "_typed_storage"))
_BUILT_IN = frozenset(
    (
        types.BuiltinFunctionType, types.MethodDescriptorType, types.MethodWrapperType, types.WrapperDescriptorType,
    )
)  # fmt: skip
#: Built-in functions that may call methods of objects given to them.
_CONVERTERS = frozenset(("tensor", "as_tensor", "asarray", "new_tensor", "__getitem__", "__setitem__"))
_INDEXERS = frozenset(("__getitem__", "__setitem__"))
#: Built-in functions that read values of tensors given in lists.
HIDDEN_READERS = frozenset(("tolist", "numpy", "tensor", "as_tensor", "asarray", "array", "new_tensor", "item"))
#: Built-in functions that make a tensor of an array or a buffer, which hold no tensors; the upper mode misses them.
ARRAY_READERS = frozenset(("from_numpy", "frombuffer"))
#: For operations with a shape that depends on values: which argument's values.
_SHAPE_ARGUMENT = {"aten::masked_select": 1, "aten::nonzero": 0, "aten::repeat_interleave": 0}


class ValueReads:
    """What was read while recording.

    Attributes:
        tensors: tensors whose values went into Python data, in order.
        lifted: tensors made from Python data (``torch.tensor([1.0, 2.0])``).
        problem: what was done that cannot be followed, or empty.
        hidden: whether the upper mode is off, as it is inside a call that it handles.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.lifted: list[Tensor] = []
        self.problem = ""
        self.call: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
        self._modes: tuple[Any, ...] = (_Below(self), _Above(self))

    @property
    def hidden(self) -> bool:
        """Whether calls are made where the upper mode does not see them."""
        return self.call is not None

    def __enter__(self) -> ValueReads:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)

    def refuse(self, reason: str) -> None:
        """Something was done that cannot be followed."""
        self.problem = self.problem or reason

    def enter_array_reader(self) -> None:
        """A function starts that makes a tensor of an array."""
        self.call = ("from_numpy", (), {})

    def leave_array_reader(self) -> None:
        """It has ended."""
        self.call = None

    def lift(self, tensor: Any) -> None:
        """A tensor has been made from Python data; the tensors among these data were read."""
        if isinstance(tensor, Tensor):
            self.lifted.append(tensor)
        if self.call is None:
            self.refuse("makes a tensor with a constructor that hides what it reads (use torch.tensor)")
            return
        name, args, kwargs = self.call
        self.tensors.extend(_listed((*args, *kwargs.values()), inside=False, tuples=name not in _INDEXERS))


def _listed(tree: Any, inside: bool, tuples: bool) -> Iterator[Tensor]:
    """Tensors inside lists; also inside tuples, which for an index would be no list of values."""
    for item in tree:
        if isinstance(item, Tensor):
            if inside:
                yield item
        elif isinstance(item, (list, tuple)):
            yield from _listed(item, inside or tuples or isinstance(item, list), tuples)


class _Below(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, reads: ValueReads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads
        self._kinds: dict[Any, int] = {}

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind_of(func)
        if kind:
            if kind == _LIFT:
                self._reads.lift(args[0])
            else:
                self._reads.tensors.extend(_read_by(func, args, kind))
        return func(*args, **(kwargs or {}))


def _kind_of(func: Any) -> int:
    if func in (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default):
        return _LIFT
    tags = func.tags
    if torch.Tag.data_dependent_output in tags:
        return _VALUE
    return _SHAPE if torch.Tag.dynamic_output_shape in tags else _NO


def _read_by(func: Any, args: Any, kind: int) -> list[Tensor]:
    tensors: list[Tensor] = []
    for item in args:
        if isinstance(item, (list, tuple)):
            tensors.extend(t for t in item if isinstance(t, Tensor))
        elif isinstance(item, Tensor):
            tensors.append(item)
    if kind == _VALUE:
        return tensors
    name = func._schema.name
    if name.startswith(("aten::index", "aten::_index", "aten::_unsafe_index")):
        return [t for t in tensors[1:] if t.dtype in (torch.bool, torch.uint8)]
    if name in _SHAPE_ARGUMENT:
        return [args[_SHAPE_ARGUMENT[name]]]
    return tensors


class _Above(TorchFunctionMode):
    def __init__(self, reads: ValueReads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads, kwargs = self._reads, kwargs or {}
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor):
            if name in _READERS:
                reads.tensors.append(args[0])
            elif name in _STORAGE_READERS and file_kind(sys._getframe(1).f_code.co_filename) == USER:
                reads.refuse(f"reads the memory of a tensor ({name})")
        outer, reads.call = reads.call, (name, args, kwargs)
        quiet = type(func) in _BUILT_IN and name not in _CONVERTERS
        profiler = sys.getprofile() if quiet else None
        if quiet:  # no code of the user runs inside: half of the profiler's work is saved
            sys.setprofile(None)
        try:
            return func(*args, **kwargs)
        finally:
            reads.call = outer
            if quiet:
                sys.setprofile(profiler)
