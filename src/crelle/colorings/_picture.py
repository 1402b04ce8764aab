"""Pictures of colourings: one line, a few lines, a table, Matplotlib. A colouring comes in; nothing is changed."""

from __future__ import annotations

import html as markup
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import missing_extra
from crelle.pattern import _picture as pattern_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.colorings._coloring import Coloring

#: Okabe and Ito's colours, which differ for everybody and, in this order, in grey; more colours come from a scale.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
#: Up to this many rows and columns every entry has its own marker; larger patterns are drawn in this many pixels.
_MARKERS, _PIXELS = 200, 300


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


def line(coloring: Coloring) -> str:
    """What ``repr`` shows."""
    m, n = coloring.pattern.shape
    split = f" = {coloring.column_passes:,} + {coloring.row_passes:,}" if coloring.kind == "both" else ""
    kind = coloring.kind + (" by substitution" if coloring.substitution else "")
    passes = _count(coloring.passes, "pass")
    return f"Coloring({m:,} × {n:,}, {kind}, {passes}{split}, dense {coloring.dense_passes:,})"


def rows(coloring: Coloring) -> list[tuple[str, str]]:
    """Names and facts."""
    pattern = coloring.pattern
    m, n = pattern.shape
    products = {
        "columns": _count(coloring.column_passes, "product") + " J s",
        "rows": _count(coloring.row_passes, "product") + " rᵀ J",
        "symmetric": _count(coloring.column_passes, "product") + " H s",
        "both": f"{_count(coloring.column_passes, 'product')} J s and {_count(coloring.row_passes, 'product')} rᵀ J",
    }[coloring.kind]
    bound = coloring.lower_bound
    spare = coloring.passes - bound
    reached = "reached" if not spare else f"at most {_count(spare, 'pass')} could be saved"
    facts = [
        ("pattern", f"{m:,} × {n:,}, {_count(pattern.nnz, 'nonzero')}"),
        ("passes", f"{coloring.passes:,}: {products}"),
        ("dense", f"{coloring.dense_passes:,}"),
        ("bound", f"{bound:,}, {reached}"),
        ("found by", coloring.order),
        ("recovery", "substitution" if coloring.substitution else "direct"),
    ]
    if coloring.wanted is not None:
        facts.insert(1, ("wanted", f"{coloring.wanted.nnz:,} of the nonzeros"))
    return facts


def text(coloring: Coloring) -> str:
    """What ``print`` shows."""
    return "\n".join([repr(coloring)] + [f"  {name:<9} {fact}" for name, fact in rows(coloring)])


def html(coloring: Coloring) -> str:
    """The same as a table."""
    body = "".join(
        f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{markup.escape(fact)}</td></tr>"
        for name, fact in rows(coloring)
    )
    return f"<div><code>{markup.escape(line(coloring))}</code><table>{body}</table></div>"


def spy(coloring: Coloring, ax: Axes | None, **kwargs: Any) -> Axes:
    """Markers or an image; rows' colours follow those of the columns."""
    try:
        from matplotlib.colors import ListedColormap
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except ImportError:
        raise missing_extra("matplotlib", "plot", "Coloring.spy") from None
    ax = pattern_picture._axes() if ax is None else ax
    m, n = coloring.pattern.shape
    side, color, _ = coloring.places()
    number = color + side * coloring.column_passes
    shades = ListedColormap(_shades(coloring.passes))
    ax.set_xlim(-0.5, max(n, 1) - 0.5)
    ax.set_ylim(max(m, 1) - 0.5, -0.5)
    ax.set_aspect("equal" if 0.5 <= m / max(n, 1) <= 2 else "auto")
    limits = {"cmap": shades, "vmin": -0.5, "vmax": max(coloring.passes, 1) - 0.5}
    entries = coloring.entries
    if max(m, n) <= _MARKERS or not entries.nnz:
        ax.apply_aspect()
        box = ax.get_window_extent()
        points = 72 / ax.figure.dpi * min(box.width / max(n, 1), box.height / max(m, 1))
        style = {"c": number, "marker": "s", "linewidths": 0, "s": (0.8 * points) ** 2}
        ax.scatter(entries.cols, entries.rows, **{**style, **limits, **kwargs})
    else:
        height, width = min(m, _PIXELS), min(n, _PIXELS)
        image = np.full((height, width), np.nan)
        image[entries.rows.astype(np.int64) * height // m, entries.cols.astype(np.int64) * width // n] = number
        style = {"interpolation": "nearest", "aspect": ax.get_aspect(), "extent": (-0.5, n - 0.5, m - 0.5, -0.5)}
        ax.imshow(image, **{**style, **limits, **kwargs})
    for axis, name in ((ax.xaxis, "column"), (ax.yaxis, "row")):
        axis.set_major_locator(MaxNLocator(6, integer=True))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_label_text(name)
    ax.set_title(line(coloring), fontsize=7.5, loc="left")
    return ax


def _shades(count: int) -> list[Any]:
    """As many colours as there are passes."""
    if count <= len(_COLORS):
        return list(_COLORS[: max(count, 1)])
    from matplotlib import colormaps

    return [colormaps["viridis"](k / (count - 1)) for k in range(count)]
