"""Coloring objects: what they check, say, draw, and keep in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import crelle
from crelle import Coloring, SparsityPattern, coloring
from tests.colorings.grids import CROSS, arrow, banded, grid


def test_it_prints_passes_against_the_dense_count_and_the_bound():
    made = coloring(arrow(100))
    assert repr(made) == "Coloring(100 × 100, both, 3 passes = 2 + 1, dense 100)"
    assert str(made) == (
        "Coloring(100 × 100, both, 3 passes = 2 + 1, dense 100)\n"
        "  pattern   100 × 100, 298 nonzeros\n"
        "  passes    3: 2 products J s and 1 product rᵀ J\n"
        "  dense     100\n"
        "  bound     3, reached\n"
        "  found by  1 dense line apart, rest by columns; natural, no choice\n"
        "  recovery  direct"
    )
    html = made._repr_html_()
    assert "<table>" in html and "1 product rᵀ J" in html


def test_it_says_when_fewer_cannot_be_excluded_and_what_is_wanted():
    pattern = grid((10, 10), CROSS)
    text = str(coloring(pattern, "symmetric", substitution=True))
    assert "Coloring(100 × 100, symmetric by substitution, " in text and "recovery  substitution" in text
    assert "bound     3, at most 1 pass could be saved" in text
    assert "wanted    100 of the nonzeros" in str(coloring(pattern, wanted=np.eye(100)))


@pytest.mark.parametrize("kind", ["columns", "rows", "both", "symmetric"])
@pytest.mark.parametrize("wish", [False, True])
def test_files_keep_everything(tmp_path: Path, kind: str, wish: bool):
    made = coloring(arrow(12), kind, wanted=np.eye(12) if wish else None)  # type: ignore[arg-type]
    made.save(tmp_path / "colours")
    back = Coloring.load(tmp_path / "colours")
    assert back == made and hash(back) == hash(made)
    assert (back.order, back.lower_bound) == (made.order, made.lower_bound)
    assert np.array_equal(back.gather, made.gather)


def test_files_that_are_something_else(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"nothing")
    with pytest.raises(crelle.CrelleValueError, match="is not a saved Coloring"):
        Coloring.load(path)
    arrow(3).save(path)
    with pytest.raises(crelle.CrelleValueError, match=r"holds 'crelle.SparsityPattern', not a Coloring"):
        Coloring.load(path)
    coloring(arrow(3)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(crelle.CrelleValueError, match="is not a saved Coloring"):
        Coloring.load(path)
    with pytest.raises(FileNotFoundError):
        Coloring.load(tmp_path / "none")


def test_files_with_wrong_colours_or_of_later_versions(tmp_path: Path):
    path = tmp_path / "file.npz"
    coloring(banded(6, 1, 1)).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **{**arrays, "column_colors": np.zeros(6, np.int32)})
    with pytest.raises(crelle.CrelleValueError, match=r"not valid: entry \(0, 0\) cannot be recovered"):
        Coloring.load(path)
    np.savez(path, **{**arrays, "version": np.array(2)})
    with pytest.raises(crelle.CrelleValueError, match="is a Coloring of format 2, and this version of Crelle reads"):
        Coloring.load(path)


def test_verify_says_what_is_in_the_way():
    pattern = SparsityPattern.from_dense([[1, 1, 0], [0, 1, 1]])
    with pytest.raises(crelle.CrelleValueError) as caught:
        Coloring(pattern, "columns", np.array([0, 1, 1]), None).verify()
    assert str(caught.value) == (
        "entry (1, 1) cannot be recovered\n"
        "  called  Coloring(2 × 3, columns, 2 passes, dense 3)\n"
        "  likely  columns 1 and 2 have colour 1 and meet in row 1\n"
        '  try     crelle.coloring(pattern, kind="columns")'
    )
    with pytest.raises(crelle.CrelleValueError, match="rows 0 and 1 have colour 0 and meet in column 1"):
        Coloring(pattern, "rows", None, np.array([0, 0])).verify()
    both = Coloring(pattern, "both", np.array([0, -1, 0]), np.array([0, 0]))
    with pytest.raises(crelle.CrelleValueError, match="column 1 has no colour; rows 0 and 1 have colour 0"):
        both.verify()
    with pytest.raises(crelle.CrelleValueError, match="cannot be recovered"):
        both.recover(np.ones((2, 1)), np.ones((1, 3)))
    path = banded(4, 1, 1)
    with pytest.raises(crelle.CrelleValueError, match="cannot be recovered"):
        Coloring(path, "symmetric", np.array([0, 1, 0, 1]), None).verify()
    assert Coloring(path, "symmetric", np.array([0, 1, 0, 1]), None, substitution=True).verify()


def test_colours_must_fit_the_pattern():
    pattern = SparsityPattern.from_dense(np.ones((2, 3)))
    with pytest.raises(crelle.CrelleShapeError, match=r"column_colors is int64\[2\]"):
        Coloring(pattern, "columns", np.array([0, 1]), None)
    with pytest.raises(crelle.CrelleShapeError, match="column_colors does not fit kind='rows'"):
        Coloring(pattern, "rows", np.array([0, 1, 2]), None)
    with pytest.raises(crelle.CrelleValueError, match="there is no kind 'auto'"):
        Coloring(pattern, "auto", None, None)  # type: ignore[arg-type]


def test_products_must_have_their_shapes():
    made = coloring(banded(5, 1, 1))
    with pytest.raises(crelle.CrelleShapeError) as caught:
        made.recover(np.ones((3, 5)))
    assert str(caught.value) == (
        "the products have shapes (3, 5)\n  called    Coloring(5 × 5, columns, 3 passes, dense 5)\n  expected  (5, 3)"
    )


def test_seeds_within_a_memory_limit():
    made = coloring(banded(1000, 1, 1))
    assert made.seeds(np.int8).nbytes == 3000
    with pytest.raises(crelle.CrelleMemoryError, match="the seeds would take 24 kB, and memory='10kB'"):
        made.seeds(memory="10kB")


def test_colours_and_places_are_read_only():
    made = coloring(arrow(5))
    for array in (made.column_colors, made.row_colors, made.gather):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize("n", [9, 400])
def test_spy_gives_each_entry_the_colour_of_its_product(n: int):
    made = coloring(arrow(n))
    axes = made.spy()
    drawn = axes.collections[0].get_array() if n == 9 else axes.images[0].get_array()
    assert set(np.unique(np.ma.masked_invalid(drawn).compressed()).tolist()) == {0, 1, 2}
    assert axes.get_title(loc="left") == repr(made)
    assert coloring(np.ones((20, 20))).spy(ax=axes) is axes
