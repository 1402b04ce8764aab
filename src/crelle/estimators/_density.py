"""The spectral density of a symmetric operator: how its eigenvalues are spread, with errors."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleValueError, describe
from crelle.estimators._estimate import Estimate, number_text, source_for, verify_limits
from crelle.estimators._pairs import verify_real
from crelle.estimators._quadrature import (
    MAX_PROBES,
    Flags,
    Floats,
    Function,
    Quadrature,
    converged,
    gaps,
    quadrature,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crelle.operators._operator import Operator

PROBES, STEPS = 10, 30
#: Eigenvalues count as near zero up to this share of the largest in size.
NEAR_ZERO = 1e-2
#: The narrowest Gaussian, as a share of the axis.
_NARROWEST = 1 / 250
#: Eigenvalues this many times smaller than the largest are where a logarithmic axis becomes linear.
_LINEAR = 1e-4
_DECADE = math.log(10)


@dataclass(frozen=True)
class Outlier:
    """An eigenvalue that was found, apart from all others.

    Attributes:
        value: the eigenvalue.
        residual: ‖A u - λ u‖ for its unit vector u: the eigenvalue is at most this far off.
        simple: whether it is known to be one eigenvalue, and not several that are equal.
    """

    value: float
    residual: float
    simple: bool


@dataclass(frozen=True, eq=False)
class Curve:
    """A density on a grid.

    Attributes:
        x: eigenvalues, [points].
        density: per unit of ``u``; its integral is 1.
        stderr: of the density, over the probes.
        u: what the axis is linear in: x itself, or asinh(x / ``linear``) / log(10) with ``log=True``: decades, of both
            signs.
        linear: the size of eigenvalues below which such an axis is linear; NaN without ``log``.
        unresolved: eigenvalues of a smaller size are not told from each other: the width of the Gaussian next to zero.
    """

    x: Floats
    density: Floats
    stderr: Floats
    u: Floats
    linear: float
    unresolved: float


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """φ(λ) = (1/n) Σ_i δ(λ - λ_i), the distribution of the eigenvalues of A; made by ``A.spectral_density()``.

    ``print`` shows a table, :meth:`plot` a picture.

    Attributes:
        title: of what.
        quadrature: nodes and weights of each probe, and the eigenvalues that are counted exactly.
        log: whether pictures have a logarithmic axis of eigenvalues.
    """

    title: str
    quadrature: Quadrature
    log: bool = False

    # -- what it took

    @property
    def size(self) -> int:
        """n, the number of eigenvalues."""
        return self.quadrature.size

    @property
    def probes(self) -> int:
        """Random vectors that were used."""
        return len(self.quadrature.rules)

    @property
    def steps(self) -> int:
        """Lanczos steps from each."""
        return self.quadrature.steps

    @property
    def products(self) -> int:
        """Products with A."""
        return self.quadrature.products

    @property
    def partial(self) -> bool:
        """Whether it was interrupted."""
        return self.quadrature.partial

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        return self.quadrature.notes

    @property
    def nodes(self) -> list[Floats]:
        """The Ritz values of each probe, rising."""
        return [rule.nodes for rule in self.quadrature.rules]

    @property
    def weights(self) -> list[Floats]:
        """The share of each Ritz value in its probe: squared first components, with the sum 1."""
        return [rule.weights for rule in self.quadrature.rules]

    # -- numbers

    def integrate(self, function: Function) -> Estimate:
        """∫ f(λ) φ(λ) dλ = (1/n) Σ_i f(λ_i), the mean of f over the eigenvalues.

        The error is that of sampling. For polynomials of degree < 2·steps there is no other; for functions that vary
        between the Ritz values take more steps and compare.

        Args:
            function: of an array of eigenvalues, element by element.

        Raises:
            CrelleValueError: it is not finite at some Ritz value.
        """
        return self.quadrature.estimate(lambda t: _finite(function, t))

    def trace(self, function: Function | None = None) -> Estimate:
        """tr f(A) = Σ_i f(λ_i); the trace of A itself without a function."""
        given = function or (lambda t: t)
        return self.quadrature.estimate(lambda t: _finite(given, t), self.size)

    def moment(self, power: int) -> Estimate:
        """(1/n) Σ_i λ_i^k = tr(A^k) / n.

        Raises:
            CrelleValueError: the power is negative, or too high for the quadrature to be exact.
        """
        if not 0 <= power < 2 * self.steps and not self.quadrature.exact:
            raise CrelleValueError(
                describe(f"moment({power!r}) of a density from {self.steps} Lanczos steps",
                         expected=f"a power from 0 to {2 * self.steps - 1}", try_="more steps=")
            )  # fmt: skip
        return self.integrate(lambda t: t**power)

    def moments(self, count: int = 4) -> list[Estimate]:
        """The first moments, from 1 to ``count``."""
        return [self.moment(k) for k in range(1, count + 1)]

    def share(self, low: float = -math.inf, high: float = math.inf) -> Estimate:
        """The share of eigenvalues with low ≤ λ < high.

        A Ritz value near a border stands for eigenvalues on both sides of it, so the error also holds what may be
        there: the share of a Ritz vector's own spectrum at a distance d is at most (residual / d)² (Chebyshev).
        """
        inside = self.quadrature.estimate(lambda t: ((t >= low) & (t < high)).astype(float))
        if self.quadrature.exact:
            return inside
        left = self.size - len(self.quadrature.simple)
        astray = left / self.size * float(np.mean([_astray(*rule, low, high) for rule in self.quadrature.rest]))
        return replace(inside, stderr=math.hypot(inside.stderr, astray if astray > 1e-12 else 0.0))

    @functools.cached_property
    def largest(self) -> float:
        """The largest eigenvalue in size that was found."""
        return max(float(np.abs(nodes).max()) for nodes in self.nodes)

    @functools.cached_property
    def outliers(self) -> list[Outlier]:
        """Eigenvalues that were found, apart from the rest, with bounds of their errors; by size, largest first."""
        simple = self.quadrature.simple
        found = [Outlier(float(v), float(e), True) for v, e in zip(simple, self.quadrature.errors, strict=True)]
        nodes, _, residuals = self.quadrature.rest[0]
        if len(nodes):
            apart = converged(nodes, residuals) & self._seen_by_all(nodes)
            found += [Outlier(float(v), float(r), False) for v, r in zip(nodes[apart], residuals[apart], strict=True)]
        return sorted(found, key=lambda o: -abs(o.value))

    def _seen_by_all(self, values: Floats) -> Flags:
        near = np.ones(len(values), bool)
        for nodes, _, residuals in self.quadrature.rest[1:]:
            if not len(nodes):
                return np.zeros(len(values), bool)
            place = np.abs(nodes[:, None] - values).argmin(0)
            near &= np.abs(nodes[place] - values) <= residuals[place] + 1e-3 * self.largest
            near &= converged(nodes, residuals)[place]
        return near

    # -- the curve

    def grid(self, points: int = 1000, log: bool = False, width: float | None = None) -> Curve:
        """φ smoothed: each Ritz value is a Gaussian, as wide as the gap to its neighbours in the same probe.

        So much is known of where its share of the eigenvalues lies: bulks are smooth, and outliers sharp. No Gaussian
        is narrower than 1/250 of the axis.

        Args:
            points: of the grid.
            log: per decade of λ, of both signs, on an axis that is linear for small |λ|.
            width: the standard deviation of all Gaussians instead, in units of λ.
        """
        linear = _LINEAR * self.largest or 1.0
        low, high = (float(f(np.concatenate([*self.nodes, [0.0]]))) for f in (np.min, np.max))
        ends = np.arcsinh(np.array([low, high]) / linear) / _DECADE if log else np.array([low, high])
        span = float(ends[1] - ends[0]) or 1.0
        u = np.linspace(ends[0] - 0.06 * span, ends[1] + 0.06 * span, points)
        x = linear * np.sinh(_DECADE * u) if log else u
        per_u = np.hypot(x, linear) * _DECADE if log else np.ones(points)

        def narrowest(nodes: Floats) -> Floats:
            return _NARROWEST * span * (np.hypot(nodes, linear) * _DECADE if log else np.ones(len(nodes)))

        rules = [(nodes, weights, self._widths(nodes, residuals)) for nodes, weights, residuals in self.quadrature.rest]
        each = np.array([_bells(x, nodes, w, width or np.maximum(r, narrowest(nodes))) for nodes, w, r in rules])
        each *= (self.size - len(self.quadrature.simple)) / self.size
        nearest = [reach[np.abs(nodes).argmin()] for nodes, _, reach in rules if len(nodes)]
        simple = self.quadrature.simple
        known = _bells(x, simple, np.full(len(simple), 1 / self.size), width or narrowest(simple))
        error = each.std(0, ddof=1) / math.sqrt(self.probes) if self.probes > 1 else np.full(points, math.nan)
        return Curve(
            x, (known + each.mean(0)) * per_u, error * per_u, u, linear if log else math.nan,
            float(np.median(nearest)) if nearest else 0.0,
        )  # fmt: skip

    def _widths(self, nodes: Floats, residuals: Floats) -> Floats:
        """The gap to the nearest neighbour; 0 where a Ritz pair has converged, and its eigenvalue is known better."""
        gap = gaps(nodes)
        return np.where(converged(nodes, residuals) | ~np.isfinite(gap), 0.0, gap)

    def plot(self, ax: Axes | None = None, *, log: bool | None = None, **kwargs: Any) -> Axes:
        """Draw the density with its error band, zero, and the outliers.

        Args:
            ax: where to draw; a new figure if left out.
            log: a logarithmic axis of eigenvalues, for both signs; as ``spectral_density(log=)`` if left out.
            **kwargs: for the curve.
        """
        from crelle.estimators._picture_density import draw

        return draw(self, ax, self.log if log is None else log, **kwargs)

    # -- words

    def __repr__(self) -> str:
        return f"SpectralDensity(of {self.title}, n={self.size:,}, {self.probes} probes × {self.steps} steps)"

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        stopped = ", interrupted" if self.partial else ""
        head = f"Spectral density of {self.title}: {self.size:,} eigenvalue{'' if self.size == 1 else 's'}"
        work = f"{self.products:,} products{stopped}"
        rows = [(f"{head}", f"{self.probes} × {self.steps} steps, {work}")]
        rows += [(f"  {name:<12}{text}", "") for name, text in self._rows()]
        rows += [(f"  {'note':<12}{note}", "") for note in self.notes]
        return [f"{left}   {right}".rstrip() for left, right in rows]

    def _rows(self) -> list[tuple[str, str]]:
        rows = [(name, self._extreme(last)) for name, last in (("largest", True), ("smallest", False))]
        apart = self.outliers
        some = ", ".join(f"{o.value:.4g}" for o in apart[:6]) + (", ..." if len(apart) > 6 else "")
        if apart:
            rows.append(("outliers", f"{len(apart)} found: {some}"))
        trace = self.trace()
        rows.append(("trace", number_text(trace.value, trace.stderr)))
        near = NEAR_ZERO * self.largest
        if near:
            for name, low, high in (("negative", -math.inf, -near), ("near zero", -near, near)):
                share = self.share(low, high)
                bound = f"λ < {-near:.2g}" if name == "negative" else f"|λ| ≤ {near:.2g}"
                rows.append((name, f"{_percent(share)}   {bound}"))
        return rows

    def _extreme(self, last: bool) -> str:
        """An end of the spectrum: the furthest Ritz value of all probes, with its residual."""
        rules = self.quadrature.rules
        at = -1 if last else 0
        rule = (max if last else min)(rules, key=lambda r: float(r.nodes[at]))
        return f"{rule.nodes[at]:.6g}   residual {rule.residuals[at]:.1g}"


def _percent(share: Estimate) -> str:
    return number_text(100 * share.value, 100 * share.stderr) + " %"


def _bells(x: Floats, centres: Floats, weights: Floats, width: Any) -> Floats:
    """A sum of Gaussians."""
    bells = np.exp(-0.5 * ((x[:, None] - centres) / width) ** 2) / (math.sqrt(2 * math.pi) * width)
    total: Floats = bells @ weights
    return total


def _astray(nodes: Floats, weights: Floats, residuals: Floats, low: float, high: float) -> float:
    """How far off the weight of the Ritz values from low to high may be: the standard deviation within its bounds.

    Only the Ritz values beside a border may stand for eigenvalues beyond it (Chebyshev, Markov, Stieltjes).
    """
    most = np.zeros(len(nodes))
    for border in (low, high):
        if math.isfinite(border):
            after = int(np.searchsorted(nodes, border))
            beside = np.arange(max(after - 1, 0), min(after + 1, len(nodes)))
            distance = np.maximum(np.abs(nodes[beside] - border), np.finfo(float).tiny)
            most[beside] += np.minimum(residuals[beside] / distance, 1.0) ** 2
    return float(np.sum(weights * np.minimum(most, 1.0))) / math.sqrt(12)


def _finite(function: Function, values: Floats) -> Floats:
    with np.errstate(all="ignore"):
        found = np.asarray(function(values), float)
    if not np.isfinite(found).all():
        at = values[~np.broadcast_to(np.isfinite(found), values.shape)][0]
        raise CrelleValueError(
            describe(
                f"integrate: the function is not finite at λ = {at:.6g}, a Ritz value",
                likely="it is not defined on the whole spectrum, such as log of negative numbers",
                try_="a function that is, or A.slogdet() for log|det A|",
            )
        )
    return found


def spectral_density(
    operator: Operator,
    probes: int | None,
    steps: int,
    log: bool,
    rtol: float | None,
    budget: int | None,
    seed: int | None,
    key: Any,
    generator: Any,
) -> SpectralDensity:
    """See :meth:`crelle.Operator.spectral_density`."""
    what = "spectral_density"
    operator._verify_symmetric(what)
    verify_real(operator, what)
    verify_limits(operator, what, rtol, budget)
    verify_counts(operator, what, probes, steps)
    source = source_for(operator, what, seed, key, generator)
    wanted = probes or (PROBES if rtol is None else MAX_PROBES)

    def done(found: Quadrature) -> bool:
        if rtol is None:
            return False
        return found.mean(lambda t: t)[1] <= rtol * math.sqrt(found.mean(np.square)[0])

    found = quadrature(
        operator, what, source, probes=wanted, steps=steps, budget=budget, done=None if rtol is None else done
    )
    if rtol is not None and not done(found):
        found = replace(found, notes=(*found.notes, f"rtol={rtol:g} was not reached"))
    return SpectralDensity(operator._title, found, log)


def verify_counts(operator: Operator, what: str, probes: Any, steps: Any) -> None:
    """Refuse an empty operator, and numbers of probes and steps below 1.

    Raises:
        CrelleValueError: one of these.
    """
    if not operator.shape[0]:
        raise CrelleValueError(describe(f"{operator!r}.{what}: the matrix is empty, and has no eigenvalues"))
    for name, count in (("probes", probes), ("steps", steps)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise CrelleValueError(describe(f"{operator!r}.{what}: {name}={count!r}", expected="a positive integer"))
