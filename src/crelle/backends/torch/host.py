"""Functions for callers that pass and expect NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch


def evaluated(f: Callable[..., Any]) -> Callable[..., Any]:
    """f of tensors, without a record for a reverse pass that nobody will run."""

    def run(*tensors: Any) -> Any:
        with torch.no_grad():
            return f(*tensors)

    return run


def placed(like: Any, values: Any) -> Any:
    """Values of NumPy with the dtype and device of a leaf.

    Tensors cannot share memory that may only be read, or that goes backwards; and traces rest on strides.
    """
    values = np.ascontiguousarray(values) if values.ndim else values
    values = values if values.flags.writeable else values.copy()
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def without_record() -> AbstractContextManager[Any]:
    """Where nobody will run a reverse pass through the results."""
    return torch.no_grad()
