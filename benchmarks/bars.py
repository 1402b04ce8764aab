"""What Crelle must reach, as data, and what a run says about it. Timing is reported, never asserted."""

from __future__ import annotations

import fnmatch
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

TORCH_FUNC = ("func.jacrev", "func.jacfwd", "func.hessian")


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table.

    Attributes:
        what: the claim.
        groups: shell patterns for the groups of tasks that it covers.
        limit: largest value that meets it, in ``unit``.
        measure: from a record to its value; ``None`` where the record has no such value.
        mean: whether it is on the geometric mean of the tasks, not on the worst of them.
    """

    what: str
    groups: tuple[str, ...]
    limit: float
    unit: str
    measure: Callable[[Record], float | None]
    mean: bool = False

    def covers(self, record: Record) -> bool:
        """Whether a record counts for this bar."""
        return "failed" not in record and any(fnmatch.fnmatch(record["group"], pattern) for pattern in self.groups)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar with what was measured.

    Attributes:
        worst: the largest value, and ``where`` it was measured; their mean, for a bar on the mean.
        met: how many of ``count`` tasks meet the bar.
    """

    bar: Bar
    worst: float | None
    where: str
    met: int
    count: int

    @property
    def text(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        return "not measured" if not self.count else "met" if self.met == self.count else "missed"


def best_ratio(record: Record) -> float | None:
    """Median of our time over that of the best peer."""
    ratios: Mapping[str, Any] = record.get("ratios", {})
    return ratios[record["best_peer"]]["median"] if ratios else None


def against(*names: str) -> Callable[[Record], float | None]:
    """Median ratio to the best among the named peers: the largest of the ratios to them."""

    def measure(record: Record) -> float | None:
        found = [summary["median"] for name, summary in record.get("ratios", {}).items() if name in names]
        return max(found, default=None)

    return measure


def extra_microseconds(record: Record) -> float | None:
    """Median of our time minus the best peer's."""
    extra = record.get("extra_seconds")
    return extra["median"] * 1e6 if extra else None


def quantity(record: Record) -> float | None:
    """The value of a measurement that is no ratio of times."""
    found = record.get("quantity")
    return found["value"] if found else None


def regret(record: Record) -> float | None:
    """Our time over that of the best choice, which may have been ours: at least 1, so that no win pays for a loss."""
    ratio = best_ratio(record)
    return None if ratio is None else max(1.0, ratio)


def peer_ratio(record: Record) -> float | None:
    """Our time over that of a peer that need not be installed."""
    return record.get("ratio")


def in_gradients(record: Record) -> float | None:
    """Our time in gradients of the same framework: the median over the rounds."""
    contestants: Mapping[str, Any] = record.get("contestants", {})
    if not {"crelle", "gradient"} <= contestants.keys():
        return None
    pairs = zip(contestants["crelle"]["seconds"], contestants["gradient"]["seconds"], strict=True)
    return statistics.median(a / b for a, b in pairs)


BARS: tuple[Bar, ...] = (
    Bar("JAX, jitted, dense: better of jacfwd, jacrev", ("jax-dense", "jax-thin"), 1.05, "×", best_ratio),
    Bar("JAX, thin and element-wise: the right choice", ("jax-thin",), 1.15, "×", best_ratio),
    Bar(
        "PyTorch, small networks, Jacobian: better of torch.func",
        ("torch-small-jacobian",),
        0.5,
        "×",
        against(*TORCH_FUNC),
    ),
    Bar(
        "PyTorch, small networks, Hessian: torch.func.hessian",
        ("torch-small-hessian",),
        1 / 3,
        "×",
        against(*TORCH_FUNC),
    ),
    Bar("PyTorch, every task: best of all peers", ("torch", "torch-small-*"), 1.05, "×", best_ratio),
    Bar("memory=: peak beyond inputs and result", ("memory",), 1.2, "× budget", quantity),
    Bar("3 → 2 function under jax.jit: none", ("overhead-jax-jitted",), 1.05, "×", best_ratio),
    Bar("called plan above the native jitted call", ("overhead-jax-plan",), 30.0, "µs", extra_microseconds),
    Bar("un-jitted: jax.jacrev", ("overhead-jax-unjitted",), 1.2, "×", best_ratio),
    Bar("PyTorch call, guards included: torch.func.jacrev", ("overhead-torch-call",), 1.0, "×", best_ratio),
    Bar("100 training steps: torch.func", ("overhead-torch-train",), 1.05, "×", best_ratio),
    Bar("import crelle", ("import",), 0.25, "s", quantity),
    Bar("colouring up to 10⁶ columns", ("coloring",), 0.6, "s", quantity),
    Bar("passes: Brusselators of all lengths", ("colors-brusselator",), 8, "passes", quantity),
    Bar("passes: Brusselators, length divisible by six", ("colors-brusselator-6",), 6, "passes", quantity),
    Bar("passes: arrow of 2000", ("colors-arrow",), 3, "passes", quantity),
    Bar("passes beyond the size: 5, 9, 7, 27 points", ("colors-stencil-open",), 0, "passes", quantity),
    Bar("passes beyond the size: periodic, divisible", ("colors-stencil-divides",), 0, "passes", quantity),
    Bar("passes beyond size + 3 or counting: periodic, others", ("colors-stencil-other",), 0, "passes", quantity),
    Bar("passes of star beyond columns", ("colors-star",), 0, "passes", quantity),
    Bar("compiling the first large colouring", ("compiling",), 10.0, "s", quantity),
    Bar("pattern at n = 10⁶", ("pattern-seconds",), 1.5, "s", quantity),
    Bar("pattern at n = 10⁶, peak", ("pattern-memory",), 0.8, "GB", quantity),
    Bar("pattern at n = 10⁵: asdex", ("pattern-peer",), 1 / 15, "×", peer_ratio),
    Bar("pattern, cumsum of 3000", ("pattern-cumsum",), 0.2, "s", quantity),
    Bar("pattern, x − logsumexp(x), n = 1000", ("pattern-normalised",), 0.1, "s", quantity),
    Bar("pattern, tridiagonal stored dense, n = 3000", ("pattern-tridiagonal",), 0.5, "s", quantity),
    Bar("pattern, A @ sin(x), n = 500", ("pattern-dense",), 0.05, "s", quantity),
    Bar("pattern, graph of 10⁵ nodes and 3·10⁵ edges", ("pattern-graph",), 0.6, "s", quantity),
    Bar("pattern, 1000 heat steps, n = 200", ("pattern-heat",), 1.0, "s", quantity),
    Bar("pattern, scan of 10⁴ steps, 10 states", ("pattern-scan",), 0.5, "s", quantity),
    Bar("pattern, two 3×3 convolutions, 32×32×8", ("pattern-cnn",), 0.3, "s", quantity),
    Bar("pattern, n ≤ 1000, beyond the tracing", ("pattern-small-*",), 0.05, "s", quantity),
    Bar("PyTorch pattern beyond its tracing: JAX", ("pattern-torch",), 2.0, "×", quantity),
    Bar("Brusselator at 10⁵, jitted: asdex", ("sparse-brusselator-100000-jitted",), 1 / 2.5, "×", against("asdex")),
    Bar("Brusselator at 10⁵, called: asdex", ("sparse-brusselator-100000-called",), 1 / 2.5, "×", against("asdex")),
    Bar("Brusselator at 10⁶, jitted: asdex", ("sparse-brusselator-1000000-jitted",), 1 / 4, "×", against("asdex")),
    Bar("Brusselator at 10⁶, called: asdex", ("sparse-brusselator-1000000-called",), 1 / 4, "×", against("asdex")),
    Bar("Brusselator at 10⁶, jitted", ("sparse-milliseconds-jitted",), 40.0, "ms", quantity),
    Bar("Brusselator at 10⁶, called", ("sparse-milliseconds-called",), 40.0, "ms", quantity),
    Bar(
        "Burgers, Rosenbrock at 10⁶, jitted: asdex",
        ("sparse-tridiagonal-1000000-jitted",),
        1 / 1.5,
        "×",
        against("asdex"),
    ),
    Bar(
        "Burgers, Rosenbrock at 10⁶, called: asdex",
        ("sparse-tridiagonal-1000000-called",),
        1 / 1.5,
        "×",
        against("asdex"),
    ),
    Bar("Burgers, Rosenbrock at 10⁵: asdex", ("sparse-tridiagonal-100000-*",), 1.0, "×", against("asdex")),
    Bar("CSR on the host: jitted BCOO", ("sparse-csr",), 1.3, "×", quantity),
    Bar("first sparse result at 10⁶", ("sparse-first",), 5.0, "s", quantity),
    Bar("first sparse result at 10³, called: dense", ("sparse-first-small-called",), 1.5, "×", quantity),
    Bar("first sparse result at 10³, jitted: dense", ("sparse-first-small-jitted",), 1.5, "×", quantity),
    Bar("batch as blocks: vmap(jacrev) by hand", ("sparse-blocks",), 1.2, "×", best_ratio),
    Bar("batch as dense: jacrev", ("sparse-batch-dense",), 1 / 5, "×", best_ratio),
    Bar("sparse results: relative error", ("sparse-exact",), 1e-12, "", quantity),
    Bar("log-determinants of flows: relative error", ("determinant",), 1e-12, "", quantity),
    Bar("log-determinants of flows: linear growth", ("determinant-growth",), 1.5, "× linear", quantity),
    Bar("PyTorch, H v kept, MLP and CNN: gradients", ("operators-torch-product",), 1.5, "×", in_gradients),
    Bar("PyTorch, H v kept, transformer: gradients", ("operators-torch-product-transformer",), 2.0, "×", in_gradients),
    Bar(
        "PyTorch, H v kept: better of curvlinops, eigenthings",
        ("operators-torch-product*",),
        1 / 1.8,
        "×",
        against("curvlinops", "hessian-eigenthings"),
    ),
    Bar("PyTorch, H V kept: better of loop and vmap", ("operators-torch-block",), 1.15, "×", best_ratio),
    Bar("PyTorch, 32 probes, CNN, time: curvlinops", ("operators-torch-probes-time",), 1 / 4, "×", peer_ratio),
    Bar("PyTorch, 32 probes, CNN, memory: curvlinops", ("operators-torch-probes-memory",), 1 / 20, "×", peer_ratio),
    Bar("JAX, H v kept, MLP and CNN: gradients", ("operators-jax-product",), 1.5, "×", in_gradients),
    Bar("JAX, H v kept, transformer: gradients", ("operators-jax-product-transformer",), 2.0, "×", in_gradients),
    Bar("JAX, H v kept: jitted jvp(grad)", ("operators-jax-product*",), 1 / 1.4, "×", against("jit(jvp(grad))")),
    Bar("JAX, H V kept: better of loop and vmap", ("operators-jax-block",), 1.15, "×", best_ratio),
    Bar("JAX, J v of a small function: jitted linear function", ("operators-jax-small",), 3.0, "×", best_ratio),
    Bar("PyTorch, ten largest eigenvalues, time: curvlinops", ("spectra-torch-eigenvalues",), 0.6, "×", peer_ratio),
    Bar("PyTorch, ten largest eigenvalues, 20 seeds: error", ("spectra-torch-missed",), 1e-3, "", quantity),
    Bar("PyTorch, spectral density 10 × 30, time: curvlinops", ("spectra-torch-density",), 1 / 2.5, "×", peer_ratio),
    Bar("PyTorch, moments of the density: standard errors off", ("spectra-torch-moments",), 1.5, "", quantity),
    Bar("choice against the best of all: worst", ("choice-*",), 1.5, "×", regret),
    Bar("choice against the best of all: geometric mean", ("choice-*",), 1.1, "×", regret, mean=True),
)


def judge(records: Sequence[Record], bars: Sequence[Bar] = BARS) -> list[Verdict]:
    """Every bar, with the worst of the tasks that it covers."""
    verdicts = []
    for bar in bars:
        values = [
            (value, record["name"])
            for record in records
            if bar.covers(record) and (value := bar.measure(record)) is not None
        ]
        if bar.mean and values:
            together = math.exp(sum(math.log(value) for value, _ in values) / len(values))
            values = [(together, f"mean of {len(values)} tasks")]
        worst, where = max(values, default=(None, ""))
        verdicts.append(Verdict(bar, worst, where, sum(value <= bar.limit for value, _ in values), len(values)))
    return verdicts
