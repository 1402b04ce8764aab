"""What Crelle says about arrays without holding them: dtype, shape, device; and sizes and times in words."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from crelle._errors import CrelleValueError, describe

_SHORT = {"float": "f", "int": "i", "uint": "u", "complex": "c", "bfloat": "bf"}
_ITEMSIZE = re.compile(r"(\d+)")


def short_dtype(dtype: str) -> str:
    """``float64`` -> ``f64``; names without a width (``bool``) stay.

    >>> short_dtype("float64"), short_dtype("bfloat16"), short_dtype("bool")
    ('f64', 'bf16', 'bool')
    """
    match = re.fullmatch(r"([a-z]+?)(\d+)", dtype)
    return _SHORT.get(match[1], match[1]) + match[2] if match else dtype


@dataclass(frozen=True, slots=True)
class ArrayType:
    """The type of an array: dtype name (``float64``), shape, and device (``cpu``, ``cuda:0``; empty if unknown).

    >>> str(ArrayType("float64", (3, 4)))
    'f64[3,4]'
    """

    dtype: str
    shape: tuple[int, ...]
    device: str = ""

    def __str__(self) -> str:
        return f"{short_dtype(self.dtype)}[{','.join(map(str, self.shape))}]"

    def fits(self, other: ArrayType) -> bool:
        """Same dtype and shape, and the same device where both are known."""
        same = self.dtype == other.dtype and self.shape == other.shape
        return same and (self.device == other.device or not (self.device and other.device))

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one entry."""
        bits = _ITEMSIZE.search(self.dtype)
        return max(1, int(bits[1]) // 8) if bits else 1

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self.size * self.itemsize

    @property
    def is_float(self) -> bool:
        """Real floating point, of any width."""
        return "float" in self.dtype

    @property
    def is_complex(self) -> bool:
        """Complex floating point."""
        return "complex" in self.dtype

    @property
    def epsilon(self) -> float:
        """Spacing of numbers at 1, of the real part where complex."""
        bits = {"float64": 52, "complex128": 52, "float32": 23, "complex64": 23, "float16": 10, "bfloat16": 7}
        return 2.0 ** -bits.get(self.dtype, 7)


def total_size(types: tuple[ArrayType, ...]) -> int:
    """Sum of the entries of all arrays."""
    return sum(t.size for t in types)


def types_text(types: tuple[ArrayType, ...], names: tuple[str, ...] = (), limit: int = 4) -> str:
    """Several types in one line; more than ``limit`` are counted, not listed.

    >>> types_text((ArrayType("float64", (3,)), ArrayType("float32", ())), ("x", "s"))
    'x: f64[3], s: f32[]'
    """
    names = names or ("",) * len(types)
    parts = [f"{name}: {t}" if name else str(t) for t, name in zip(types, names, strict=False)]
    if len(parts) > limit:
        parts = [*parts[:limit], f"... {len(parts) - limit} more ({total_size(types):,} entries in all)"]
    return ", ".join(parts) or "nothing"


_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "": 1}


def parse_bytes(value: Any, keyword: str = "memory") -> int | None:
    """A byte count from ``None``, a number or a text such as ``"500MB"`` or ``"1.5 GiB"``.

    >>> parse_bytes("500MB"), parse_bytes("1KiB"), parse_bytes(None)
    (500000000, 1024, None)
    """
    if value is None:
        return None
    count = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        count = value
    elif isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)(e\d+)?\s*([a-zA-Z]*)\s*", value)
        if match and match[3].lower() in _UNITS:
            count = float(match[1] + (match[2] or "")) * _UNITS[match[3].lower()]
    if 1 <= count < math.inf:
        return int(count)
    raise CrelleValueError(
        describe(
            f"{keyword}={value!r} is not an amount of memory",
            expected='a positive number of bytes, or a text such as "500MB" or "2GiB"',
        )
    )


def bytes_text(count: float) -> str:
    """A byte count in decimal units, two figures or three.

    >>> bytes_text(96), bytes_text(1000), bytes_text(163_840_000)
    ('96 B', '1 kB', '164 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def seconds_text(seconds: float) -> str:
    """A duration with the unit that keeps it readable.

    >>> seconds_text(2e-5), seconds_text(0.25), seconds_text(90)
    ('0.02 ms', '250 ms', '90 s')
    """
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"
