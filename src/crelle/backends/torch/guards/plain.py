"""Values that cannot change and hold nothing that can: compared, and kept, by value."""

from __future__ import annotations

import datetime
import decimal
import fractions
import pathlib
import re
from typing import Any

import numpy as np
import torch

_PLAIN: frozenset[type] = frozenset(
    (
        int, float, complex, str, bytes, bool, type(None), type(...), type(NotImplemented), range,
        torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size,
        decimal.Decimal, fractions.Fraction, datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
        re.Pattern, pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath,
    )
)  # fmt: skip


def is_plain(value: Any) -> bool:
    """Whether a value can be compared and kept by value."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is tuple:
        return all(map(is_plain, value))
    if kind is slice:
        return is_plain((value.start, value.stop, value.step))
    return isinstance(value, (np.generic, np.dtype)) and not (isinstance(value, np.void) or kind is np.object_)
