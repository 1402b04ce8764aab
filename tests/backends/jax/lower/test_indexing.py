"""Gathers, scatters and dynamic slices with indices that are known, bounded, and not known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import crelle
from tests.backends.jax.lower.dense import check

OUT = jnp.array([0, 7, 2, -9, 5])
MODES = ["clip", "fill", "wrap"]


@pytest.mark.parametrize("mode", MODES)
def test_known_indices_out_of_range(mode):
    check(lambda x: x.at[OUT].get(mode=mode, fill_value=0.0) if mode == "fill" else jnp.take(x, OUT, mode=mode), (6,))


def test_promised_indices():
    check(lambda x: x.at[jnp.array([3, 0, 0])].get(mode="promise_in_bounds"), (6,))


@pytest.mark.parametrize("mode", ["clip", "drop"])
@pytest.mark.parametrize("method", ["set", "add", "subtract"])
def test_scatter_with_known_indices(method, mode):
    check(lambda x: getattr(x.at[jnp.array([0, 9, 2, 2])], method)(x[1:5] ** 2, mode=mode), (6,), exact=False)
    check(lambda x: getattr(x.at[jnp.array([0, 9, 3])], method)(x[3:6] ** 2, mode=mode), (6,))


def test_scatter_multiply():
    check(lambda x: x.at[jnp.array([0, 3])].mul(x[1:3], unique_indices=True), (6,))


CASES = {
    "rows": lambda x: x[jnp.array([2, 0])],
    "columns": lambda x: x[:, jnp.array([1, 1, 0])],
    "pairs": lambda x: x[jnp.array([2, 0]), jnp.array([1, 3])],
    "a grid": lambda x: x[jnp.array([[2], [0]]), jnp.array([1, 3])],
    "along an axis": lambda x: jnp.take_along_axis(x, jnp.array([[1, 0], [3, 3], [2, 0]]), 1),
    "a mask": lambda x: x[np.array([True, False, True])],
    "batched": lambda x: jax.vmap(lambda row, i: row[i])(x, jnp.array([0, 3, 1])),
    "batched slices": lambda x: jax.vmap(lambda row, i: lax.dynamic_slice(row, (i,), (2,)))(x, jnp.array([0, 9, 1])),
    "set rows": lambda x: x.at[jnp.array([2, 0])].set(x[:2] * 3),
    "add columns": lambda x: x.at[:, jnp.array([1, 1])].add(x[:, :2]),
    "batched updates": lambda x: jax.vmap(lambda row, i: row.at[i].add(row[0]))(x, jnp.array([1, 3, 2])),
    "a clamped slice": lambda x: lax.dynamic_slice(x, (9, -5), (2, 3)),
    "a clamped update": lambda x: lax.dynamic_update_slice(x, x[:2, :2] ** 2, (9, -5)),
    "nothing": lambda x: x[jnp.zeros((0,), int)],
}


@pytest.mark.parametrize("name", CASES)
def test_known(name):
    check(CASES[name], (3, 4))


UNKNOWN = {  # and entries that the pattern has, by hand
    "one element": (lambda x: x.ravel()[jnp.argmax(x)], 12),
    "one row": (lambda x: x[jnp.argmax(x[:, 0])], 12),
    "one of two": (lambda x: x.ravel()[jnp.where(x[0, 0] > 0, 3, 4)], 2),
    "a slice": (lambda x: lax.dynamic_slice(x, (jnp.argmax(x[0]), 1), (2, 2)), 8),
    "a bounded slice": (lambda x: lax.dynamic_slice(x, (0, jnp.clip(jnp.int64(x[0, 0]), 0, 1)), (1, 2)), 4),
    "batched": (lambda x: jax.vmap(lambda row: row[jnp.argmax(row)])(x), 12),
    "the last two, sorted by the first": (lambda x: x.ravel()[-2:][jnp.argsort(x[0, :2])], 4),
    "what is larger than zero": (lambda x: jnp.extract(x > 0, x, size=3, fill_value=0.0), 36),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown(name):
    f, entries = UNKNOWN[name]
    assert len(check(f, (3, 4), exact=False).indices) == entries


@pytest.mark.parametrize("method", ["set", "add"])
def test_update_at_an_unknown_place(method):
    parts = check(lambda x: getattr(x.at[jnp.argmax(x)], method)(x[0] * 2), (5,), exact=False)
    assert len(parts.indices) == 5 + 4


def test_bounds_of_sorted_indices_are_those_of_the_operand_that_is_taken():
    """The positions that go with sorted flags are no flags."""

    def f(x):
        _, order = lax.sort((x > 0, jnp.arange(5)), num_keys=1)
        return x[order]

    assert len(check(f, (5,), exact=False).indices) == 25


@pytest.mark.parametrize("factor", [6364136223846793005, 2**62])
def test_bounds_that_wrap_around_are_none(factor):
    """A product of 64-bit integers that overflows says nothing of its remainder."""

    def f(x):
        i = jnp.clip(jnp.int64(x[0] * 5), 0, 9)
        return x[jnp.mod(i * factor + i * factor, 5)]

    check(f, (5,), exact=False)
    assert crelle.jacobian(f).pattern(jnp.ones(5)).nnz == 5


def test_a_clamp_whose_limits_cross():
    check(lambda x: x[lax.clamp(4, jnp.int64(x[0]), 1)], (5,), exact=False)


def test_indices_from_numbers_that_are_none():
    """What becomes of NaN and infinity as integers is XLA's affair."""
    table = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 2.0])
    check(lambda x: x[jnp.clip(table.astype(jnp.int32), 0, 4)], (5,))


def test_bits_of_integers_reduced():
    check(lambda x: x[jnp.bitwise_and.reduce(jnp.array([7, 3, 6]))], (5,))
