"""Products with linear programs: forms of vectors, and how blocks of them go: loop, or chunks at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crelle._arrays import ArrayType
from crelle.backends.jax import linear_products
from crelle.backends.jax.linear_products import Products

GIVEN = (ArrayType("float64", (3,)), ArrayType("float32", ()))
MADE = (ArrayType("float64", (2, 2)),)
MATRIX = jnp.arange(16.0).reshape(4, 4) / 3


def apply(coefficients, leaves):
    wide, narrow = leaves
    assert narrow.dtype == jnp.float32
    row = jnp.append(wide, narrow)
    return [(coefficients[0] @ row).reshape(2, 2)]


def products(**keywords):
    return Products(apply, GIVEN, MADE, **keywords)


def block(count):
    """Numbers that float32 holds exactly."""
    return jnp.asarray(np.random.default_rng(3).integers(-8, 8, (count, 4)) / 4.0)


@pytest.mark.parametrize("compiled", [True, False])
def test_forms(compiled):
    made = products(compiled=compiled)
    (row,) = block(1)
    expected = np.asarray(MATRIX @ row)
    np.testing.assert_allclose(made.one("flat", [MATRIX], row), expected, rtol=1e-15)
    np.testing.assert_allclose(made.one("row", [MATRIX], row[None]), expected[None], rtol=1e-15)
    (leaf,) = made.one("tree", [MATRIX], [row[:3], float(row[3])])
    np.testing.assert_allclose(leaf, expected.reshape(2, 2), rtol=1e-15)


@pytest.mark.parametrize("chunk", [None, 1, 4, 16])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 9, 33])
def test_blocks(chunk, count):
    made = products()
    made.chunk = chunk
    rows = block(count)
    found = made.block([MATRIX], rows)
    assert found.shape == (count, 4) and found.dtype == jnp.float64
    np.testing.assert_allclose(found, np.asarray(rows) @ np.asarray(MATRIX).T, rtol=1e-14, atol=1e-14)


def test_a_short_block_is_not_measured():
    made = products()
    made.block([MATRIX], block(3))
    assert made.chunk is None


@pytest.mark.parametrize(("gain", "expected"), [(0.0, 64), (1e9, 1)])
def test_the_faster_way_is_kept(gain, expected, monkeypatch):
    monkeypatch.setattr(linear_products, "GAIN", gain)
    monkeypatch.setattr(linear_products, "PATIENCE", 0.0)
    monkeypatch.setattr(linear_products, "SMALL_CHUNK", 64)
    monkeypatch.setattr(linear_products, "CHUNK", 64)
    made = products()
    rows = block(70)
    found = made.block([MATRIX], rows)
    assert made.chunk == expected
    np.testing.assert_allclose(found, np.asarray(rows) @ np.asarray(MATRIX).T, rtol=1e-14, atol=1e-14)


def test_nothing_is_tried_before_it_can_pay(monkeypatch):
    monkeypatch.setattr(linear_products, "PATIENCE", 1e9)
    made = products()
    made.block([MATRIX], block(70))
    assert made.chunk is None


def test_several_at_once_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(linear_products, "PATIENCE", 0.0)
    monkeypatch.setattr(linear_products, "GAIN", 0.0)
    monkeypatch.setattr(linear_products, "free_host_memory", lambda: 1000)
    made = products()
    made.block([MATRIX], block(70))
    assert made.chunk == 1


@pytest.mark.parametrize("compiled", [True, False])
def test_an_operation_that_cannot_be_batched(compiled, monkeypatch):
    monkeypatch.setattr(linear_products, "PATIENCE", 0.0)

    def twice(coefficients, leaves):
        kind = jax.ShapeDtypeStruct((4,), jnp.float64)
        return [jax.pure_callback(lambda v: 2 * np.asarray(v), kind, leaves[0])]

    vector = (ArrayType("float64", (4,)),)
    made = Products(twice, vector, vector, compiled=compiled)
    rows = block(20)
    np.testing.assert_array_equal(made.block([], rows), 2 * rows)
    assert made.chunk == (1 if compiled else None)


def test_loops_compile_one_row():
    traced = []

    def counted(coefficients, leaves):
        traced.append(leaves[0].shape)
        return apply(coefficients, leaves)

    made = Products(counted, GIVEN, MADE)
    made.chunk = 1
    for count in (2, 5, 9):
        made.block([MATRIX], block(count))
    assert traced == [(3,)]
