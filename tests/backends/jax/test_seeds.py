"""Unit vectors in batches, and the parts of a matrix that are cut out of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from crelle._arrays import ArrayType
from crelle._select import Selection
from crelle.backends.jax import seeds


def test_unit_seeds():
    types = [
        ArrayType("float64", (2,)),
        ArrayType("float32", ()),
        ArrayType("float64", (0,)),
        ArrayType("float64", (1, 2)),
    ]
    leaves = seeds.unit_seeds(np.arange(5), types)
    assert [leaf.shape for leaf in leaves] == [(5, 2), (5,), (5, 0), (5, 1, 2)]
    assert [str(leaf.dtype) for leaf in leaves] == [t.dtype for t in types]
    flat = np.concatenate([np.asarray(leaf).reshape(5, -1) for leaf in leaves], 1)
    np.testing.assert_array_equal(flat, np.eye(5))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 7, 100])
def test_batches_cover_every_seed_once(chunk, axis):
    ids = np.array([1, 3, 4, 8, 9, 12, 20], np.int32)
    apply = lambda places: [jnp.moveaxis(jnp.asarray(ids)[places][:, None] * jnp.ones(2), 0, axis)]
    (out,) = seeds.in_batches(apply, len(ids), chunk, axis)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(out), axis, 0), ids[:, None] * np.ones(2))


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("side", ["rows", "cols"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"rows": [3, 1, 1]},
        {"cols": [2, 0], "rows": 3},
        {"rows": []},
        {"cols": 1},
        {"entries": [(3, 2), (0, 0), (3, 0), (3, 2)]},
        {"entries": np.zeros((0, 2), int)},
        {"entries": (1, 2)},
    ],
)
def test_parts(asked, side, chunk):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 3))
    selected = Selection(asked.get("rows"), asked.get("cols"), asked.get("entries")).resolve(4, 3)
    expected = selected.apply(
        matrix[selected.seeds("rows", 4)] if selected.seeds("rows", 4) is not None else matrix, "rows", 4
    )
    if side == "rows":
        types, linear = [ArrayType("float64", (4,))], lambda u: [u @ matrix[:, :1], u @ matrix[:, 1:]]
        part = seeds.Part(selected, side, 0, 4)
    else:
        types, linear = [ArrayType("float64", (2,)), ArrayType("float64", (1,))], None
        linear = lambda u, v: [matrix @ jnp.concatenate([u, v])]
        part = seeds.Part(selected, side, -1, 3)
    got = part.push(linear, types, chunk, lambda batch: batch)
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(got, expected, rtol=1e-15)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("side", ["rows", "cols"])
def test_parts_of_a_symmetric_matrix_in_either_layout(side, axis):
    matrix = np.arange(9.0).reshape(3, 3)
    matrix = matrix + matrix.T
    types, linear = [ArrayType("float64", (3,))], lambda u: [matrix @ u]
    for asked in ({"rows": [2, 0], "cols": [1]}, {"entries": [(0, 1), (2, 1)]}, {"rows": 1}, {}):
        selected = Selection(asked.get("rows"), asked.get("cols"), asked.get("entries")).resolve(3, 3)
        seeded = selected.seeds("rows", 3)
        expected = selected.apply(matrix if seeded is None else matrix[seeded], "rows", 3)
        got = seeds.Part(selected, side, axis, 3).push(linear, types, None, lambda batch: batch)
        np.testing.assert_array_equal(got, expected)
