"""How patterns are shown: the line, the Braille picture, HTML, and Matplotlib's axes."""

from __future__ import annotations

import html.parser
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from crelle import CrelleImportError, SparsityPattern
from crelle.pattern import _picture


def tridiagonal(n):
    k = np.arange(n)
    rows, cols = np.concatenate([k, k[1:], k[:-1]]), np.concatenate([k, k[:-1], k[1:]])
    return SparsityPattern.from_triplets(rows, cols, (n, n))


def dots_of(text):
    """The dots of a Braille picture, as truth values."""
    lines = [[ord(c) - 0x2800 for c in line] for line in text.split("\n")]
    dots = np.zeros((4 * len(lines), 2 * len(lines[0])), bool)
    for bit, (r, c) in enumerate([(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]):
        dots[r::4, c::2] = np.array(lines) >> bit & 1
    return dots


def test_one_line():
    assert repr(tridiagonal(1000)) == "SparsityPattern(1,000 × 1,000, 2,998 nonzeros, 0.30 %, bandwidth 1+1)"
    assert repr(SparsityPattern.from_dense([[0, 1]])) == "SparsityPattern(1 × 2, 1 nonzero, 50 %, bandwidth 0+1)"
    assert repr(SparsityPattern((0, 3), [0], [])) == "SparsityPattern(0 × 3, 0 nonzeros, 0 %, bandwidth 0+0)"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (999_999, 10**6, "> 99 %"),
        (494, 500, "99 %"),
        (1, 3, "33 %"),
        (1, 25, "4.0 %"),
        (3, 10**5, "0.0030 %"),
        (3, 10**6, "3.0e-04 %"),
    ],
)
def test_shares(part, whole, text):
    assert _picture._percent(part, whole) == text


def test_a_small_picture_has_a_dot_for_each_entry():
    assert str(tridiagonal(8)) == "SparsityPattern(8 × 8, 22 nonzeros, 34 %, bandwidth 1+1)\n⠻⣦⡀⠀\n⠀⠈⠻⣦"
    assert str(SparsityPattern((0, 3), [0], [])) == "SparsityPattern(0 × 3, 0 nonzeros, 0 %, bandwidth 0+0)"


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.integers(0, 60), st.integers(0, 2**32))
@settings(max_examples=60)
def test_a_dot_is_there_if_and_only_if_its_cell_has_a_nonzero(shape, count, seed):
    rng = np.random.default_rng(seed)
    p = SparsityPattern.from_triplets(rng.integers(0, shape[0], count), rng.integers(0, shape[1], count), shape)
    head, _, picture = str(p).partition("\n")
    assert head == repr(p)
    lines = picture.split("\n")
    assert len(lines) <= 20 and {len(line) for line in lines} == {len(lines[0])} and len(lines[0]) <= 40
    dots = dots_of(picture)
    height, width = _picture.shrunk(p, 80, 80).shape
    assert height <= shape[0] and width <= shape[1]
    if max(shape) <= 80:
        assert (height, width) == shape
    expected = np.zeros(dots.shape, bool)
    for i, j in zip(p.rows.tolist(), p.cols.tolist(), strict=True):
        expected[i * height // shape[0], j * width // shape[1]] = True
    np.testing.assert_array_equal(dots, expected)
    assert _picture.counted(p, 80, 80).sum() == p.nnz


def test_proportions_are_kept_but_thin_ones_stay_visible():
    sizes = {s: _picture._cells(s, 80, 80) for s in [(100, 50), (10**6, 10**6), (10**6, 3), (10**6, 400), (2, 10**6)]}
    assert sizes == {
        (100, 50): (80, 40),
        (10**6, 10**6): (80, 80),
        (10**6, 3): (80, 3),
        (10**6, 400): (80, 16),
        (2, 10**6): (2, 80),
    }


def test_a_million_rows_are_reduced_to_a_picture_band_by_band():
    n = 10**6
    p = SparsityPattern._trusted((n, n), np.arange(n + 1), np.arange(n))
    np.testing.assert_array_equal(_picture.counted(p, 80, 80), np.diag(np.full(80, n // 80)))
    np.testing.assert_array_equal(_picture.shrunk(p.T, 40, 80), np.eye(40, dtype=bool))


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_a_small_drawing_with_a_caption():
    p = tridiagonal(4)
    tags = Tags()
    tags.feed(p._repr_html_())
    assert not tags.open
    attributes = dict(tags.seen)
    assert attributes["svg"]["aria-label"] == repr(p)
    assert attributes["svg"]["viewbox"] == "0 0 4 4"
    assert attributes["path"]["d"] == "M0 0h2v1h-2zM0 1h3v1h-3zM1 2h3v1h-3zM2 3h2v1h-2z"
    assert f"<code>{p!r}</code>" in p._repr_html_()
    assert len(tridiagonal(10**5)._repr_html_()) < 5000
    assert "&gt; 99 %" in SparsityPattern.from_dense(np.arange(400).reshape(20, 20))._repr_html_()
    assert "<svg" not in SparsityPattern((0, 3), [0], [])._repr_html_()


def rendered(ax):
    """The pixels of the figure; drawing raises where something does not fit."""
    ax.figure.canvas.draw()
    return ax.figure


def test_spy_marks_entries_where_they_are_few():
    p = SparsityPattern.from_dense(np.eye(5, 7, 2))
    ax = p.spy()
    (artist,) = ax.lines
    np.testing.assert_array_equal(artist.get_xydata(), [[i + 2, i] for i in range(5)])
    assert artist.get_color() == "#0072B2"
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("column", "row", repr(p))
    assert ax.get_xlim() == (-0.5, 6.5) and ax.get_ylim() == (4.5, -0.5)
    rendered(ax)


def test_spy_shows_shares_where_they_are_many():
    p = tridiagonal(3000)
    ax = p.spy()
    (image,) = ax.images
    shares = 10.0 ** np.ma.filled(image.get_array(), -np.inf)
    assert shares.shape == (300, 300)
    np.testing.assert_allclose(shares.sum() * 100, p.nnz, rtol=1e-12)  # cells of 10 × 10
    assert image.get_extent() == [-0.5, 2999.5, 2999.5, -0.5]
    figure = rendered(ax)
    assert ax.xaxis.get_major_formatter()(1000, None) == "1,000"
    assert "share of nonzeros in a pixel" in ax.child_axes[0].get_ylabel()
    assert figure.get_axes() == [ax]


def test_spy_draws_where_it_is_told_and_hands_keywords_on():
    first, second = Figure().subplots(1, 2)
    small, large = tridiagonal(5), tridiagonal(500)
    assert small.spy(first, color="red", marker="o") is first
    assert (first.lines[0].get_color(), first.lines[0].get_marker()) == ("red", "o")
    assert large.spy(ax=second, cmap="gray_r") is second
    assert second.images[0].get_cmap().name == "gray_r"
    rendered(first)


@pytest.mark.parametrize("shape", [(0, 0), (0, 300), (3, 0), (400, 300), (10**6, 1)])
def test_spy_of_nothing(shape):
    rendered(SparsityPattern(shape, np.zeros(shape[0] + 1, int), []).spy())


def test_spy_is_seen_by_pyplot_only_where_pyplot_is_in_use(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    assert tridiagonal(5).spy().figure.canvas.manager is None
    assert "matplotlib.pyplot" not in sys.modules
    from matplotlib import pyplot

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", pyplot)
    ax = tridiagonal(5).spy()
    assert pyplot.gcf() is ax.figure
    pyplot.close(ax.figure)


def test_spy_without_matplotlib(monkeypatch):
    for name in ("matplotlib", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CrelleImportError) as caught:
        tridiagonal(3).spy()
    assert str(caught.value) == (
        'SparsityPattern.spy needs matplotlib, which is not installed\n  try  pip install "crelle[plot]"'
    )
