"""Functions for callers that pass and expect NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def evaluated(f: Callable[..., Any]) -> Callable[..., Any]:
    """f of tensors, without a record for a reverse pass that nobody will run."""

    def run(*tensors: Any) -> Any:
        with torch.no_grad():
            return f(*tensors)

    return run


def placed(like: Any, values: Any) -> Any:
    """Values of NumPy with the dtype and device of a leaf. Tensors cannot share memory that may only be read."""
    values = values if values.flags.writeable else values.copy()
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)
