"""Pictures of patterns: one line, Braille dots, SVG, Matplotlib. A pattern comes in; nothing is changed or kept."""

from __future__ import annotations

import html as markup
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crelle._errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.pattern._pattern import SparsityPattern

# Okabe and Ito's blue, as in the figures of the tour.
_DARK = "#0072B2"
#: From few to many: light enough to differ, dark enough to be seen on white.
_SHADES = ("#8ec5e6", _DARK, "#00243d")
#: Up to this many rows and columns every entry has its own marker; larger patterns are drawn in this many pixels.
_MARKERS, _PIXELS = 200, 300
#: Long thin patterns keep at least this many cells across, so that there is something to see.
_THIN = 16


def line(pattern: SparsityPattern) -> str:
    """What ``repr`` shows."""
    (m, n), nnz, (lower, upper) = pattern.shape, pattern.nnz, pattern.bandwidth
    count = f"{nnz:,} nonzero{'' if nnz == 1 else 's'}"
    return f"SparsityPattern({m:,} × {n:,}, {count}, {_percent(nnz, m * n)}, bandwidth {lower:,}+{upper:,})"


def _percent(part: int, whole: int) -> str:
    """A share in two figures; what is not all and not nothing never reads like it."""
    share = 100 * part / (whole or 1)
    if share == 0 or part == whole:
        return f"{share:.0f} %"
    if share >= 99.5:
        return "> 99 %"
    if share < 1e-3:
        return f"{share:.1e} %"
    return f"{share:.{max(0, 1 - math.floor(math.log10(share)))}f} %"


def _cells(shape: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a picture that keeps the proportions of the matrix as far as it can."""
    scale = max(shape[0] / height, shape[1] / width, 1.0)
    rows, cols = (min(size, max(math.ceil(size / scale), _THIN)) for size in shape)
    return min(rows, height), min(cols, width)


def counted(pattern: SparsityPattern, height: int, width: int) -> npt.NDArray[np.int64]:
    """Number of nonzeros in each cell of a picture of at most this size."""
    (m, n), indptr, indices = pattern.shape, pattern.indptr, pattern.indices
    rows, cols = _cells((m, n), height, width)
    picture = np.zeros((rows, cols), np.int64)
    # One band of rows at a time: its entries lie side by side, and the work space stays small.
    starts = indptr[[-(-k * m // rows) for k in range(rows + 1)]] if rows else indptr[:1]
    for k in range(rows):
        band = indices[starts[k] : starts[k + 1]].astype(np.int64)
        if band.size and cols < n:
            band *= cols
            band //= n
        picture[k] = np.bincount(band, minlength=cols)
    return picture


def shrunk(pattern: SparsityPattern, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Whether a cell of a picture of at most this size has any nonzero."""
    return counted(pattern, height, width) > 0


def braille(dots: npt.NDArray[np.bool_]) -> str:
    """Dots as Braille characters of 4 × 2 dots each, one line for each four rows; nothing for nothing."""
    rows, cols = dots.shape
    if not dots.size:
        return ""
    padded = np.zeros((-(-rows // 4) * 4, -(-cols // 2) * 2), np.int64)
    padded[:rows, :cols] = dots
    bits = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    blocks = padded.reshape(padded.shape[0] // 4, 4, padded.shape[1] // 2, 2)
    codes = 0x2800 + np.einsum("abcd,bd->ac", blocks, bits)
    return "\n".join("".join(map(chr, row)) for row in codes.tolist())


def html(pattern: SparsityPattern) -> str:
    """The line and a drawing in SVG, a rectangle for each run of cells."""
    dots = shrunk(pattern, 80, 80)
    caption = f"<code>{markup.escape(line(pattern))}</code>"
    if not dots.size:
        return f"<div>{caption}</div>"
    rows, cols = dots.shape
    edges = np.diff(np.pad(dots, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (tops, lefts), (_, rights) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    runs = zip(tops.tolist(), lefts.tolist(), (rights - lefts).tolist(), strict=True)
    path = "".join(f"M{left} {top}h{width}v1h-{width}z" for top, left, width in runs)
    unit = 240 / max(rows, cols)
    return (
        f"<div>{caption}<br>"
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{markup.escape(line(pattern))}" '
        f'width="{cols * unit:.0f}" height="{rows * unit:.0f}" viewBox="0 0 {cols} {rows}" '
        f'preserveAspectRatio="none" shape-rendering="crispEdges" style="border:1px solid #888">'
        f'<path fill="{_DARK}" d="{path}"/></svg></div>'
    )


def spy(pattern: SparsityPattern, ax: Axes | None, **kwargs: Any) -> Axes:
    """Markers or an image, with axes that count rows and columns."""
    try:
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except ImportError:
        raise missing_extra("matplotlib", "plot", "SparsityPattern.spy") from None
    ax = _axes() if ax is None else ax
    m, n = pattern.shape
    ax.set_xlim(-0.5, max(n, 1) - 0.5)
    ax.set_ylim(max(m, 1) - 0.5, -0.5)
    ax.set_aspect("equal" if 0.5 <= m / max(n, 1) <= 2 else "auto")
    if max(m, n) <= _MARKERS or not pattern.nnz:
        _markers(pattern, ax, kwargs)
    else:
        _image(pattern, ax, kwargs)
    for axis, name in ((ax.xaxis, "column"), (ax.yaxis, "row")):
        axis.set_major_locator(MaxNLocator(6, integer=True))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_label_text(name)
    ax.set_title(line(pattern), fontsize=7.5, loc="left")
    return ax


def _axes() -> Axes:
    from matplotlib.figure import Figure

    pyplot = sys.modules.get("matplotlib.pyplot")
    make = Figure if pyplot is None else pyplot.figure
    figure: Figure = make(figsize=(6.4, 5.6), layout="compressed")
    return figure.subplots()


def _markers(pattern: SparsityPattern, ax: Axes, kwargs: dict[str, Any]) -> None:
    """A square for each entry, a little smaller than its cell."""
    ax.apply_aspect()
    box = ax.get_window_extent()
    points = 72 / ax.figure.dpi * min(box.width / max(pattern.shape[1], 1), box.height / max(pattern.shape[0], 1))
    style = {"marker": "s", "linestyle": "none", "color": _DARK, "markeredgewidth": 0, "markersize": 0.8 * points}
    ax.plot(pattern.cols, pattern.rows, **{**style, **kwargs})


def _image(pattern: SparsityPattern, ax: Axes, kwargs: dict[str, Any]) -> None:
    """The share of nonzeros in each pixel, on a logarithmic scale; pixels without any are blank."""
    from matplotlib.colors import LinearSegmentedColormap

    m, n = pattern.shape
    counts = counted(pattern, _PIXELS, _PIXELS)
    sizes = np.outer(
        *(
            np.diff([-(-k * size // cells) for k in range(cells + 1)])
            for size, cells in zip((m, n), counts.shape, strict=True)
        )
    )
    logs = np.log10(counts / sizes, where=counts > 0, out=np.full(counts.shape, np.nan))
    known = logs[counts > 0]
    top = float(known.max())
    low = min(float(known.min()), top - 1)
    shades = LinearSegmentedColormap.from_list("share", _SHADES)
    style = {"cmap": shades, "interpolation": "nearest", "aspect": ax.get_aspect(), "vmin": low, "vmax": top}
    image = ax.imshow(logs, **{**style, "extent": (-0.5, n - 0.5, m - 0.5, -0.5), **kwargs})
    # Beside the axes as they are drawn, which are narrower or lower than their place where the aspect is kept.
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.035, 1)))
    bar.set_label("log₁₀ of the share of nonzeros in a pixel; blank: none", fontsize="small")
