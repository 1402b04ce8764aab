"""Ratios on a log axis, one row a task. Legible at 600 pixels, in grey too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import Record

BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's palette
STYLES = {"f64": (BLUE, "o", -0.16), "f32": (ORANGE, "s", 0.16)}
#: Picture -> its title and suites.
PICTURES = {
    "jax": ("JAX, compiled", ("jax",)),
    "torch": ("PyTorch, eager", ("torch",)),
    "overhead": ("Calls and training steps", ("jax-overhead", "torch-overhead")),
}
#: Judged by a difference of times, not by a ratio.
NOT_RATIOS = ("overhead-jax-plan",)


def rows_of(records: Sequence[Record], suites: Sequence[str]) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Per task: (dtype, ratio to the best peer)."""
    rows: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for record in records:
        if record["suite"] not in suites or "ratios" not in record or record["group"] in NOT_RATIOS:
            continue
        name, _, dtype = record["name"].partition("/")
        if len(suites) > 1:
            name = f"{record['suite'].partition('-')[0]}: {name}"
        rows.setdefault(name, []).append((dtype or "f64", record["ratios"][record["best_peer"]]))
    return rows


def draw(records: Sequence[Record], picture: str, path: Path) -> bool:
    """Write one of ``PICTURES``; ``False`` if the run holds nothing for it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    title, suites = PICTURES[picture]
    rows = rows_of(records, suites)
    if not rows:
        return False
    with plt.rc_context({"font.size": 10}):
        figure, axes = plt.subplots(figsize=(6, 1.2 + 0.3 * len(rows)), layout="constrained")
        seen = set()
        values = [1.0]
        for y, entries in enumerate(rows.values()):
            for dtype, ratio in entries:
                colour, marker, shift = STYLES[dtype]
                label = None if dtype in seen else {"f64": "float64", "f32": "float32"}[dtype]
                seen.add(dtype)
                low, high = ratio["median"] - ratio["q1"], ratio["q3"] - ratio["median"]
                axes.errorbar(
                    ratio["median"], y + shift, xerr=[[max(low, 0)], [max(high, 0)]], fmt=marker, color=colour,
                    markersize=5, elinewidth=1.4, label=label,
                )  # fmt: skip
                values += [ratio["q1"], ratio["q3"]]
        axes.set_xscale("log")
        axes.set_xlim(min(0.9, min(values) / 1.15), max(1.3, max(values) * 1.15))
        wide = max(values) / min(values) > 8
        marks = (
            (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
            if wide
            else (0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3)
        )
        ticks = [t for t in marks if min(values) / 1.2 < t < max(values) * 1.2]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.axvline(1.0, color="black", linewidth=1)
        axes.axvline(1.05, color="black", linewidth=1, linestyle=":")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", color="0.88")
        axes.set_axisbelow(True)
        axes.set_xlabel("time of Crelle / time of the best peer\n(left of 1: Crelle is faster; dotted: 1.05)")
        figure.suptitle(f"{title}: median and quartiles", x=0.01, ha="left", fontsize=11)
        if len(seen) > 1:
            figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
        figure.savefig(path, dpi=100)
        plt.close(figure)
    return True
