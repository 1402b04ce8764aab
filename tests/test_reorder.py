"""Index tables that are transpositions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crelle._reorder import Reorder


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.randoms(use_true_random=False), st.integers(0, 5))
def test_every_transposition_is_recognised(shape, random, start):
    size = int(np.prod(shape))
    axes = random.sample(range(len(shape)), len(shape))
    index = start + np.arange(size).reshape(shape).transpose(axes).reshape(-1)
    found = Reorder.of(index)
    assert found is not None
    flat = np.random.default_rng(0).standard_normal(start + size + 2)
    np.testing.assert_array_equal(found(flat), flat[index])


@given(st.lists(st.integers(0, 20), max_size=24))
def test_what_is_recognised_is_right(index):
    index = np.array(index, np.int64)
    found = Reorder.of(index)
    if found is not None:
        flat = np.arange(21.0)
        np.testing.assert_array_equal(found(flat), flat[index])


@pytest.mark.parametrize("index", [[], [0, 2, 1], [0, 2, 4], [3, 2, 1], [0, 0], [0, 1, 3, 4]])
def test_other_tables_are_not(index):
    assert Reorder.of(np.array(index, np.int64)) is None
