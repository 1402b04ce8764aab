"""The figures of the tour. Quantities come in, axes go out; nothing is computed here but logarithms and eigenvalues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._arrays import seconds_text
from crelle._plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.cli.demo import Outcome

# Okabe and Ito's colours, which differ in lightness too.
_DARK, _WARN = "#0072B2", "#D55E00"
#: Pixels are SIZE * DPI: 960 × 640, legible at 600.
_SIZE, _DPI = (6.4, 4.2667), 150


def _axes(ax: Axes | None, size: tuple[float, float] = _SIZE) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots()


def heat_map(
    matrix: np.ndarray[Any, Any], ax: Axes | None = None, *, rows: str = "output", cols: str = "input", **kwargs: Any
) -> Axes:
    """Magnitudes of a matrix's entries on a logarithmic scale of at most eight decades; zeros are blank."""
    ax = _axes(ax)
    sizes = np.abs(matrix)
    logs = np.log10(sizes, where=sizes > 0, out=np.full(sizes.shape, np.nan))
    known = logs[sizes > 0]
    top = float(known.max()) if known.size else 0.0
    low = max(float(known.min()), top - 8) if known.size else -1.0
    tall = matrix.shape[0] / max(matrix.shape[1], 1)
    defaults = {"cmap": "cividis_r", "aspect": "equal" if 0.5 <= tall <= 2 else "auto", "interpolation": "nearest"}
    image = ax.imshow(np.maximum(logs, low), **{**defaults, "vmin": low, "vmax": top, **kwargs})
    blank = matrix.size - known.size
    share = f"; blank: zero ({blank / matrix.size:.0%})" if blank else ""
    ax.figure.colorbar(image, ax=ax).set_label(f"log₁₀ of the entry's size{share}")
    ax.set_xlabel(cols)
    ax.set_ylabel(rows)
    return ax


def candidate_times(plan: Plan, ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Estimated and measured times of a plan's candidates, the chosen one on top."""
    ax = _axes(ax)
    usable = [c for c in plan.candidates if c.passes >= 0]
    for place, c in enumerate(usable):
        ends = [c.seconds, c.seconds if c.measured is None else c.measured]
        ax.plot([t * 1e3 for t in ends], [place, place], color="0.6", linewidth=2, zorder=1)
        if c.measured is not None:
            note: dict[str, Any] = {"xytext": (0, 11), "textcoords": "offset points", "ha": "center", "fontsize": 10}
            ax.annotate(seconds_text(c.measured), (c.measured * 1e3, place), **note)
    style = {"markersize": 11, "linestyle": "none", "color": _DARK, **kwargs}
    places = range(len(usable))
    ax.plot([c.seconds * 1e3 for c in usable], places, "o", markerfacecolor="white", label="estimated", **style)
    measured = [(c.measured * 1e3, p) for p, c in zip(places, usable, strict=True) if c.measured is not None]
    if measured:
        ax.plot(*zip(*measured, strict=True), "D", label="measured", **{**style, "markersize": 9})
    ax.set_yticks(list(places), [f"{c.label.removeprefix('dense ')}\n{c.work}" for c in usable])
    ax.set_ylim(len(usable) - 0.5, -0.5)
    ax.set_xscale("log")
    _plain_log(ax)
    ax.margins(x=0.12)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.set_xlabel(f"time of one {plan.kind.capitalize()} in ms, log scale")
    ax.legend(loc="upper right", frameon=False)
    return ax


def eigenvalue_stems(matrix: np.ndarray[Any, Any], ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Eigenvalues of a symmetric matrix, largest first: curvature along each principal direction."""
    ax = _axes(ax)
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1]
    places = np.arange(1, len(values) + 1)
    ax.axhline(0, color="0.4", linewidth=0.8)
    for sign, colour, marker, label in (
        (values >= 0, _DARK, "o", "curves upwards"),
        (values < 0, _WARN, "v", "curves downwards"),
    ):
        if sign.any():
            ax.vlines(places[sign], 0, values[sign], color=colour, linewidth=1.2)
            ax.plot(places[sign], values[sign], marker, color=colour, markersize=4.5, label=label, **kwargs)
    largest = float(np.abs(values).max(initial=0)) or 1.0
    ax.set_yscale("symlog", linthresh=10.0 ** (np.floor(np.log10(largest)) - 3), linscale=0.8)
    ax.set_xlabel("principal direction, by eigenvalue")
    ax.set_ylabel("eigenvalue (log scale, linear at zero)")
    ax.legend(frameon=False)
    return ax


def ratio_bars(outcomes: Sequence[Outcome], ax: Axes | None = None, **kwargs: Any) -> Axes:
    """Time of each problem relative to the fastest native way, as bars that start at 1."""
    ax = _axes(ax, (6.4, 5.2))
    places = np.arange(len(outcomes))
    ratios = np.array([outcome.ratio for outcome in outcomes])
    ax.barh(
        places,
        ratios - 1,
        0.7,
        left=1,
        **{"color": [_DARK if r < 0.95 else _WARN if r > 1.05 else "0.5" for r in ratios], **kwargs},
    )
    ax.axvline(1, color="0.2", linewidth=1)
    for place, ratio in zip(places, ratios, strict=True):
        side = -1 if ratio <= 1 else 1
        note: dict[str, Any] = {
            "xytext": (4 * side, 0),
            "textcoords": "offset points",
            "ha": "left" if side > 0 else "right",
        }
        ax.annotate(f"{ratio:.2g}×", (ratio, place), va="center", fontsize=10, **note)
    ax.set_yticks(places, [f"{o.problem.name} ({o.problem.printed})" for o in outcomes])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set_xlim(min(0.5, ratios.min(initial=1)) / 1.8, max(2, ratios.max(initial=1)) * 1.8)
    _plain_log(ax)
    ax.set_xlabel("Crelle's time / fastest native time, log scale\n← Crelle faster · native faster →")
    return ax


def _plain_log(ax: Axes) -> None:
    """Label a logarithmic x axis with numbers as people write them: at powers of ten, or closer where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    subs = (1.0,) if high / low > 200 else (1.0, 2.0, 5.0)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def draw_all(folder: Path, outcomes: Sequence[Outcome]) -> list[Path]:
    """Draw the figures whose problems were solved; returns the files."""
    import matplotlib as mpl

    solved = [o for o in outcomes if o.plan is not None and o.matrix is not None]
    found = {o.problem.slug: o for o in solved}

    def reactions(o: Outcome) -> Axes:
        return heat_map(_of(o), rows="rate of species", cols="amount of species")

    def atoms(o: Outcome) -> Axes:
        return heat_map(_of(o), rows="coordinate", cols="coordinate")

    jobs: list[tuple[str, str, Callable[[Outcome], Axes]]] = [
        ("jax-stiff-reactions", "Jacobian of 150 chemical reactions", reactions),
        ("jax-thin-network", "Two ways to a 1000 × 4 Jacobian", lambda o: candidate_times(_plan(o))),
        ("jax-pair-energy", "Hessian of the energy of 20 atoms", atoms),
        (
            "torch-loss-of-a-module",
            "Curvature of a classifier's loss, all parameters",
            lambda o: eigenvalue_stems(_of(o)),
        ),
    ]
    files = []
    with mpl.rc_context({"font.size": 11, "axes.titlesize": 12, "axes.spines.top": False, "axes.spines.right": False}):
        for slug, title, draw in jobs:
            if slug in found:
                files.append(_save(draw(found[slug]), title, folder / f"{slug}.png"))
        if solved:
            files.append(
                _save(ratio_bars(solved), "Time against the framework's own (NumPy: SciPy's)", folder / "times.png")
            )
    return files


def _of(outcome: Outcome) -> np.ndarray[Any, Any]:
    assert outcome.matrix is not None
    return outcome.matrix


def _plan(outcome: Outcome) -> Plan:
    assert outcome.plan is not None
    return outcome.plan


def _save(ax: Axes, title: str, path: Path) -> Path:
    ax.set_title(title)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=_DPI)
    return path
