"""A run as text: one table of tasks a suite, then the bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.bars import Record, Verdict
from benchmarks.problem import OURS


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Aligned columns; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for k, row in enumerate(rows):
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
        if not k:
            lines.append("  ".join("-" * width for width in widths))
    return lines


def seconds(value: float) -> str:
    """Three figures, in the unit that keeps them readable."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def task_rows(records: Sequence[Record]) -> list[str]:
    """The timed tasks of one suite: our time, the best peer's, their ratio with its interval, first calls, choice."""
    rows = [("task", "crelle", "best peer", "", "ratio", "interval", "first", "chosen", "")]
    for record in records:
        if "ratios" not in record:
            continue
        best = record["best_peer"]
        ratio, timings = record["ratios"][best], record["contestants"]
        rows.append(
            (
                record["name"],
                seconds(timings[OURS]["median"]),
                seconds(timings[best]["median"]),
                best,
                f"{ratio['median']:.3f}",
                f"{ratio['low']:.2f}-{ratio['high']:.2f}",
                f"{record['first_ratio']:.2f}",
                record["plan"].get("method", ""),
                "" if record["agree"] else "WRONG RESULT",
            )
        )
    return table(rows, right=(1, 2, 4, 6)) if len(rows) > 1 else []


def quantity_rows(records: Sequence[Record]) -> list[str]:
    """Everything that is not a ratio of times."""
    lines = []
    for record in records:
        if "quantity" in record:
            value = record["quantity"]
            ratio = f", {record['ratio']:.3f} × the peer's" if "ratio" in record else ""
            lines.append(f"{record['name']}: {value['value']:.3g} {value['unit']}{ratio}")
            lines += [f"    {name}: {_part(part)}" for name, part in record["parts"].items()]
            if not record.get("agree", True):
                lines.append("    WRONG RESULT")
    return lines


def _part(part: Any) -> str:
    if not isinstance(part, Mapping):  # seconds, once or several times
        return ", ".join(seconds(value) for value in (part if isinstance(part, list) else [part]))
    shown = []
    for key, value in part.items():
        if key == "text":
            shown.append(value)
        elif key in ("peak", "first_peak", "estimate", "budget", "xla_temporary"):
            shown.append(f"{key.replace('_', ' ')} {value / 1e6:,.1f} MB")
        elif key == "method":
            shown.append(value)
        elif key == "seconds" and isinstance(value, float):
            shown.append(seconds(value))
        elif key == "median":
            shown.append(f"median {seconds(value)}")
    return ", ".join(shown)


def bar_rows(verdicts: Sequence[Verdict]) -> list[str]:
    """Bar, measured, met or missed."""
    rows = [("bar", "at most", "worst", "of tasks", "", "worst task")]
    for v in verdicts:
        worst = "" if v.worst is None else f"{v.worst:.3g} {v.bar.unit}"
        rows.append((v.bar.what, f"{v.bar.limit:.3g} {v.bar.unit}", worst, f"{v.met}/{v.count}", v.text, v.where))
    return table(rows, right=(1, 2, 3))


def text(run: Mapping[str, Any], verdicts: Sequence[Verdict]) -> str:
    """The whole report."""
    machine = run["machine"]
    lines = [
        f"Crelle {run['versions']['crelle']} against its peers, {run['date']}",
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']} before and "
        f"{machine['load_after']} after; Python {run['versions']['python']}, "
        + ", ".join(
            f"{name} {version}" for name, version in run["versions"].items() if name in ("jax", "torch", "numpy")
        ),
        f"{run['clock']} time, one thread a process; ratio: Crelle's time over the best peer's, median over rounds "
        "(below 1: Crelle is faster); interval: of that median; first: ratio of first calls, compilation included",
    ]
    suites = dict.fromkeys(record["suite"] for record in run["records"])
    for suite in suites:
        mine = [record for record in run["records"] if record["suite"] == suite]
        lines += ["", f"== {suite}", *task_rows(mine), *quantity_rows(mine)]
        lines += [f"{record['name']}: FAILED: {record['failed']}" for record in mine if "failed" in record]
    if run["smoke"]:
        lines += ["", "A smoke run: small sizes and two rounds. The times mean nothing; the results were compared."]
    else:
        lines += ["", "== bars", *bar_rows(verdicts)]
    return "\n".join(lines) + "\n"
