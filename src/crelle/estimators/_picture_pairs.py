"""Pictures of eigenpairs and singular triplets: values with their residuals, and where eigenvectors have their mass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.estimators._eigenpairs import Eigenpairs
    from crelle.estimators._singular import SingularTriplets

# Okabe and Ito's colours, which differ in lightness too
_DONE, _LATE = "#0072B2", "#D55E00"
#: A logarithmic axis where sizes differ by more than this.
_WIDE = 30.0


def draw_values(pairs: Eigenpairs | SingularTriplets, ax: Axes | None, **kwargs: Any) -> Axes:
    """A marker for each value over its rank, its residual as an error bar; open markers have not converged."""
    singular = not hasattr(pairs, "which")
    ax = _axes("SingularTriplets.plot" if singular else "Eigenpairs.plot") if ax is None else ax
    values, ranks = np.asarray(pairs.values), np.arange(1, len(pairs) + 1)
    log = bool(len(values)) and bool(values.min() > 0) and values.max() > _WIDE * values.min()
    for chosen, color, fill, label in (
        (pairs.converged, _DONE, _DONE, "converged"),
        (~pairs.converged, _LATE, "none", "not converged"),
    ):
        if chosen.any():
            style = {
                "fmt": "o", "color": color, "markerfacecolor": fill, "markersize": 6, "capsize": 4, "linewidth": 1.4,
                "label": label, **kwargs,
            }  # fmt: skip
            residuals = pairs.residuals[chosen]
            below = np.minimum(residuals, 0.95 * values[chosen]) if log else residuals
            ax.errorbar(ranks[chosen], values[chosen], np.array([below, residuals]), **style)
    if log:
        ax.set_yscale("log")
    elif len(values):
        ax.axhline(0, color="0.35", linewidth=0.9, linestyle="--", zorder=0)
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("rank")
    ax.set_ylabel("singular value σ" if singular else "eigenvalue λ")
    largest = float(pairs.residuals.max(initial=0.0))
    ax.set_title(f"bars: residuals, at most {largest:.1e}; {pairs.products:,} products", fontsize=9, loc="left")
    if not pairs.converged.all():
        ax.legend(frameon=False)
    return ax


def draw_mass(pairs: Eigenpairs, ax: Axes | None, **kwargs: Any) -> Axes:
    """A row for each leaf of the input, a column for each eigenvector, and the share in each cell."""
    mass, names = pairs.mass_by_leaf()
    size = (1.9 + 0.5 * max(len(pairs), 8), 1.4 + 0.32 * max(len(names), 4))
    ax = _axes("Eigenpairs.plot_mass", size) if ax is None else ax
    style = {"cmap": "Blues", "vmin": 0.0, "vmax": 1.0, "aspect": "auto", "interpolation": "nearest", **kwargs}
    image = ax.imshow(mass.T, **style)
    if len(pairs) <= 20 and len(names) <= 40:
        for column, row in np.ndindex(mass.shape):
            share = float(mass[column, row])
            color = "white" if share > 0.55 else "0.15"
            ax.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color=color)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    step = max(1, -(-len(pairs) // 20))
    ax.set_xticks(
        range(0, len(pairs), step), [f"{value:.3g}" for value in pairs.values[::step]], fontsize=8, rotation=45
    )
    ax.set_xlabel("eigenvalue λ of the vector")
    ax.figure.colorbar(image, ax=ax, label="share of ‖v‖²")
    return ax


def _axes(what: str, size: tuple[float, float] = (6.4, 4.2667)) -> Axes:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plot", what) from None
    return Figure(figsize=size, layout="constrained").subplots()
