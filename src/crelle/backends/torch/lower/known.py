"""Values that are known before f is run, computed when a rule first asks; and aten operations run on row ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Array = np.ndarray[Any, Any]


class Known:
    """A value that can be computed at planning time, or several values."""

    __slots__ = ("_make", "_value")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._value: Any = None

    @staticmethod
    def of(value: Any) -> Known:
        """A value that is there."""
        known = Known(lambda: value)
        known._make, known._value = None, value
        return known

    def get(self) -> Any:
        """The value. What raises once, raises again."""
        if self._make is not None:
            self._value, self._make = self._make(), None
        return self._value

    def item(self, k: int) -> Known:
        """One of several values."""
        return Known(lambda: self.get()[k])

    def try_get(self) -> Any:
        """The value, or ``None`` where the operation cannot be run."""
        try:
            return self.get()
        except Exception:  # any operation, any failure: it stays unknown
            self._make = None
            return None


def run(target: Any, args: Any, kwargs: Any) -> Any:
    """An operation outside of every mode and transform."""
    with _disable_current_modes(), torch.no_grad():
        return target(*args, **kwargs)


def as_tensor(ids: Array) -> Tensor:
    """A NumPy array as a tensor, shared where that is possible; nobody writes to it."""
    if not ids.flags.writeable or any(s < 0 for s in ids.strides):
        if ids.size and not any(ids.strides):
            return torch.from_numpy(ids.reshape(-1)[:1].copy()).reshape(()).expand(ids.shape)
        ids = ids.copy()
    return torch.from_numpy(ids)


def as_array(tensor: Tensor) -> Array:
    """A tensor as a NumPy array."""
    return tensor.detach().resolve_conj().resolve_neg().cpu().numpy()


def on_ids(function: Callable[..., Any], *ids: Array) -> Any:
    """Run ``function`` of tensors on arrays of ids; by way of float64, which holds them, where it takes no integers."""
    tensors = [as_tensor(a) for a in ids]
    with _disable_current_modes(), torch.no_grad():
        try:
            found = function(*tensors)
        except (NotImplementedError, RuntimeError):
            dtype = tensors[0].dtype
            found = function(*[t.double() for t in tensors])
            back = [f.to(dtype) for f in found] if isinstance(found, (tuple, list)) else found.to(dtype)
            found = back
    if isinstance(found, (tuple, list)):
        return tuple(as_array(f) for f in found)
    return as_array(found)
