"""The figures: axes come back, keywords reach the artist, hard inputs draw."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import crelle
from crelle.cli import pictures


@pytest.fixture
def ax():
    return Figure().subplots()


def test_heat_map_shows_magnitudes(ax):
    matrix = np.array([[100.0, 0.0, -1e-3], [1e-20, 1.0, 0.0]])
    assert pictures.heat_map(matrix, ax, cmap="gray") is ax
    image = ax.images[0]
    shown = np.ma.filled(image.get_array(), np.nan)
    np.testing.assert_allclose(shown, [[2, np.nan, -3], [-6, 0, np.nan]])  # eight decades, zeros blank
    assert image.get_cmap().name == "gray"
    labels = [axes.get_ylabel() for axes in ax.figure.axes]
    assert "log₁₀ of the entry's size; blank: zero (33%)" in labels


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.ones((1, 1)), np.full((3, 1), -2.0)])
def test_heat_map_of_plain_matrices(matrix):
    ax = pictures.heat_map(matrix)
    ax.figure.canvas.draw()


def test_eigenvalue_stems(ax):
    pictures.eigenvalue_stems(np.diag([3.0, -2.0, 0.0]), ax)
    up, down = (line for line in ax.lines if line.get_label() in ("curves upwards", "curves downwards"))
    np.testing.assert_array_equal(up.get_ydata(), [3.0, 0.0])
    np.testing.assert_array_equal(down.get_ydata(), [-2.0])
    np.testing.assert_array_equal(down.get_xdata(), [3])
    pictures.eigenvalue_stems(np.zeros((2, 2))).figure.canvas.draw()


def test_candidate_times(ax):
    import jax.numpy as jnp

    plan = crelle.jacobian(lambda x: jnp.sum(jnp.sin(x))).plan(jnp.ones(5))
    pictures.candidate_times(plan, ax)
    (estimated,) = (line for line in ax.lines if line.get_label() == "estimated")
    usable = [c for c in plan.candidates if c.passes >= 0]
    np.testing.assert_allclose(estimated.get_xdata(), [c.seconds * 1e3 for c in usable])
    assert [text.get_text().split("\n")[1] for text in ax.get_yticklabels()] == [c.work for c in usable]
    assert not any(line.get_label() == "measured" for line in ax.lines)
