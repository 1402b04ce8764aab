"""Types, sizes and times in words."""

from __future__ import annotations

import pytest

import crelle
from crelle._arrays import ArrayType, bytes_text, parse_bytes, seconds_text, short_dtype, total_size, types_text


@pytest.mark.parametrize(
    ("dtype", "short", "itemsize", "is_float", "is_complex", "epsilon"),
    [
        ("float64", "f64", 8, True, False, 2.0**-52),
        ("float32", "f32", 4, True, False, 2.0**-23),
        ("float16", "f16", 2, True, False, 2.0**-10),
        ("bfloat16", "bf16", 2, True, False, 2.0**-7),
        ("complex128", "c128", 16, False, True, 2.0**-52),
        ("complex64", "c64", 8, False, True, 2.0**-23),
        ("int32", "i32", 4, False, False, None),
        ("uint8", "u8", 1, False, False, None),
        ("bool", "bool", 1, False, False, None),
    ],
)
def test_dtypes(dtype, short, itemsize, is_float, is_complex, epsilon):
    kind = ArrayType(dtype, (3, 4))
    assert short_dtype(dtype) == short
    assert str(kind) == f"{short}[3,4]"
    assert (kind.itemsize, kind.is_float, kind.is_complex) == (itemsize, is_float, is_complex)
    assert kind.nbytes == 12 * itemsize
    if epsilon is not None:
        assert kind.epsilon == epsilon


def test_sizes():
    assert (ArrayType("float64", ()).size, ArrayType("float64", (0, 5)).size) == (1, 0)
    assert total_size((ArrayType("float64", (2, 3)), ArrayType("float32", ()))) == 7
    assert total_size(()) == 0


def test_fits_ignores_a_device_that_is_not_known():
    on = lambda device: ArrayType("float64", (3,), device)
    assert on("cpu").fits(on("")) and on("").fits(on("cuda:0")) and on("cpu").fits(on("cpu"))
    assert not on("cpu").fits(on("cuda:0"))
    assert not on("cpu").fits(ArrayType("float32", (3,), "cpu"))
    assert not on("cpu").fits(ArrayType("float64", (3, 1), "cpu"))


def test_several_types_in_a_line():
    kinds = tuple(ArrayType("float64", (i,)) for i in range(6))
    assert types_text(()) == "nothing"
    assert types_text(kinds[:2], ("x", "")) == "x: f64[0], f64[1]"
    assert types_text(kinds) == "f64[0], f64[1], f64[2], f64[3], ... 2 more (15 entries in all)"


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (None, None),
        (1, 1),
        (2.5e6, 2_500_000),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        (" 1.5GiB ", 1_610_612_736),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("96 B", 96),
        ("2e3 kB", 2_000_000),
        ("7", 7),
        ("1TB", 10**12),
    ],
)
def test_amounts_of_memory(given, count):
    assert parse_bytes(given) == count


@pytest.mark.parametrize(
    "given",
    ["", "MB", "-1MB", "1 XB", "1.2.3MB", "0", 0, -5, True, [], "1e999", float("nan"), float("inf"), ".", 0.5, "0.2"],
)
def test_what_is_no_amount_of_memory(given):
    with pytest.raises(crelle.CrelleValueError) as caught:
        parse_bytes(given)
    assert str(caught.value) == (
        f"memory={given!r} is not an amount of memory\n"
        '  expected  a positive number of bytes, or a text such as "500MB" or "2GiB"'
    )


def test_bytes_in_words():
    texts = ["0 B", "96 B", "999 B", "1 kB", "1.02 kB", "164 MB", "2.5 GB", "3 TB", "3e+03 TB"]
    counts = [0, 96, 999, 1000, 1024, 163_840_000, 2.5e9, 3e12, 3e15]
    assert [bytes_text(c) for c in counts] == texts
    assert bytes_text(999.7) == "1 kB"


def test_seconds_in_words():
    assert [seconds_text(s) for s in (2e-8, 2e-5, 0.0123, 0.25, 1, 90, 4000)] == [
        "2e-05 ms",
        "0.02 ms",
        "12 ms",
        "250 ms",
        "1 s",
        "90 s",
        "4e+03 s",
    ]
