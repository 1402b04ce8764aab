"""The picture of a spectral density. Quantities come in, axes go out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.estimators._density import SpectralDensity

# Okabe and Ito's colours, which differ in lightness too
_CURVE, _OUTLIER = "#0072B2", "#D55E00"
#: Densities this many times smaller than the largest are not shown.
_DECADES = 1e-6


def draw(density: SpectralDensity, ax: Axes | None, log: bool, **kwargs: Any) -> Axes:
    """Density with its error band, outliers as stems at the height of one eigenvalue, zero as a line."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(6.4, 4.2667), layout="constrained").subplots()
    curve = density.grid(log=log)
    top = float(curve.density.max())
    floor = max(top * _DECADES, 0.02 * _one(density, curve.u))
    heights = np.maximum(curve.density, 0.1 * floor)
    style = {"color": _CURVE, "linewidth": 1.4, "label": "density", **kwargs}
    ax.plot(curve.x, heights, **style)
    if density.probes > 1:
        low, high = (np.maximum(curve.density + sign * curve.stderr, 0.1 * floor) for sign in (-1, 1))
        ax.fill_between(
            curve.x, low, high, color=style["color"], alpha=0.25, linewidth=0,
            label=f"± standard error, {density.probes} probes",
        )  # fmt: skip
    values = np.array([o.value for o in density.outliers])
    if len(values):
        at = np.interp(values, curve.x, heights)
        ax.plot(values, at * 1.35, "v", color=_OUTLIER, markersize=6, label="found apart from the rest", zorder=3)
    ax.axvline(0, color="0.35", linewidth=0.9, linestyle="--", zorder=0)
    ax.set_yscale("log")
    ax.set_ylim(floor, top * 4)
    if log:
        ax.set_xscale(
            "function", functions=(lambda t: np.arcsinh(t / curve.linear), lambda u: curve.linear * np.sinh(u))
        )
        if curve.unresolved > curve.linear:
            ax.axvspan(
                -curve.unresolved, curve.unresolved, color="0.92", zorder=-1,
                label=f"not resolved by {density.steps} steps",
            )  # fmt: skip
        _label_decades(ax, curve.linear)
        ax.set_xlabel(f"eigenvalue λ (log scale, linear below {curve.linear:.1g})")
        ax.set_ylabel("share of eigenvalues per decade of λ")
    else:
        ax.set_xlabel("eigenvalue λ")
        ax.set_ylabel("share of eigenvalues per unit of λ")
    ax.set_xlim(curve.x[0], curve.x[-1])
    ax.legend(loc="best", framealpha=0.9, edgecolor="none")
    return ax


def _one(density: SpectralDensity, u: Any) -> float:
    """The height of one eigenvalue that is drawn as a narrow Gaussian."""
    return float(1 / (density.size * 0.01 * (u[-1] - u[0])))


def _label_decades(ax: Axes, linear: float) -> None:
    """Ticks at powers of ten of both signs, far enough apart to be read."""
    low, high = ax.get_xlim()
    first = int(np.ceil(np.log10(3 * linear)))
    last = int(np.floor(np.log10(max(abs(low), abs(high)))))
    powers = [10.0**k for k in range(first, last + 1, max(1, (last - first) // 4))]
    ticks = [-p for p in powers[::-1] if -p >= low] + [0.0] + [p for p in powers if p <= high]
    ax.set_xticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks])
    ax.minorticks_off()
