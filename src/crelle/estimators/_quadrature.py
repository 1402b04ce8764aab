"""Stochastic Lanczos quadrature: the mean of f over the eigenvalues of A, from a few random vectors. No plots here."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle.estimators._estimate import Estimate
from crelle.estimators._krylov import precision
from crelle.estimators._lanczos import lanczos
from crelle.estimators._progress import Progress
from crelle.operators._vectors import Source

if TYPE_CHECKING:
    from crelle.estimators._basis import Basis
    from crelle.operators._operator import Operator

Floats = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
Function = Callable[[Floats], Any]

#: A Ritz pair has converged where its residual is this much smaller than the gap to the next Ritz value.
_CONVERGED = 1e-2
#: An eigenvalue is simple where its weights differ from the squared overlaps with one vector by less than this share.
_SIMPLE = 1e-3
#: Probes, where only an accuracy is given.
MAX_PROBES = 200


@dataclass(frozen=True, eq=False)
class Rule:
    """The Gauss quadrature of one probe v: vᵀf(A)v / vᵀv ≈ Σ_j w_j f(θ_j), exact for polynomials of degree < 2·steps.

    Attributes:
        alphas, betas: the tridiagonal matrix of Lanczos, [steps] each; the last of ``betas`` couples to what was not
            run, and is 0 where an invariant subspace was found.
        nodes: θ, the Ritz values, rising.
        weights: w, the squared first components of the eigenvectors of the tridiagonal matrix; their sum is 1.
        residuals: ‖A u - θ u‖ of each Ritz vector u: there is an eigenvalue of A at most this far from θ.
    """

    alphas: Floats
    betas: Floats
    nodes: Floats
    weights: Floats
    residuals: Floats

    @classmethod
    def of(cls, alphas: Floats, betas: Floats, rounding: float) -> Rule:
        """The rule of a tridiagonal matrix; ``rounding`` is the relative error of its numbers."""
        return cls(alphas, betas, *_gauss(alphas, betas, rounding)[:3])

    def shorter(self, steps: int) -> Rule:
        """What fewer steps would have given."""
        return self if steps >= len(self.alphas) else Rule.of(self.alphas[:steps], self.betas[:steps], 0.0)


def _merged(
    nodes: Floats, weights: Floats, residuals: Floats, vectors: Floats, width: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """One node for those that differ by rounding: steps beyond an invariant subspace split its eigenvalues."""
    first = np.flatnonzero(np.append(True, np.diff(nodes) > width))
    if len(first) == len(nodes):
        return nodes, weights, residuals, vectors
    total = np.add.reduceat(weights, first)
    middle = np.add.reduceat(weights * nodes, first) / np.where(total > 0, total, 1)
    joined = np.add.reduceat(vectors * vectors[0], first, axis=1)  # the part of the probe: Σ_j (e_1·s_j) s_j
    length = np.linalg.norm(joined, axis=0)
    found = np.where(total > 0, middle, nodes[first]), total, np.maximum.reduceat(residuals, first)
    return *found, joined / np.where(length > 0, length, 1)


def _gauss(alphas: Floats, betas: Floats, rounding: float) -> tuple[Floats, Floats, Floats, Floats]:
    """(nodes, weights, residuals, a vector of each in columns) of a tridiagonal matrix (Golub and Welsch 1969)."""
    from scipy.linalg import eigh_tridiagonal

    nodes, vectors = eigh_tridiagonal(alphas, betas[:-1])
    floor = rounding * float(np.abs(nodes).max(initial=0.0))
    residuals = np.maximum(np.abs(betas[-1] * vectors[-1]), floor)
    return _merged(nodes, vectors[0] ** 2, residuals, vectors, 16 * floor)


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Means over the eigenvalues of A, from several probes.

    An eigenvalue that every probe has found, and that is simple, is counted once, exactly, in place of its random
    weights; these leave only the rest of the spectrum to be sampled. Probes are normal, so that what is left of one is
    uniform on the sphere of the rest, and its weights are scaled to the number of eigenvalues there, without bias.

    Attributes:
        size: n, the number of eigenvalues.
        rules: one for each probe.
        simple: eigenvalues that are counted once each, and ``errors``, how far off they may be.
        rounding: smaller eigenvalues than this share of the largest are rounding.
        products, steps, partial, notes: what it took, and what happened.
    """

    size: int
    rules: tuple[Rule, ...]
    simple: Floats
    errors: Floats
    rounding: float
    products: int
    steps: int
    partial: bool = False
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def rest(self) -> list[tuple[Floats, Floats, Floats]]:
        """For each probe (nodes, weights, residuals) without the simple eigenvalues; the weights have the sum 1."""
        return [_rest(rule, self.simple) for rule in self.rules]

    @property
    def exact(self) -> bool:
        """Whether nothing is left to chance: the rest is empty, or one eigenvalue that was found, as often as it is."""
        if self.size == len(self.simple):
            return True
        largest = max(float(np.abs(rule.nodes).max()) for rule in self.rules)
        return all(
            len(nodes) == 1 and residuals[0] <= 64 * self.rounding * largest for nodes, _, residuals in self.rest
        )

    def mean(self, function: Function, steps: int | None = None) -> tuple[float, float]:
        """((1/n) Σ_i f(λ_i), its standard error); with fewer ``steps`` of each probe if given.

        The error is not taken from the scatter of a few probes but from the variance of vᵀBv for v uniform on the
        sphere, 2 (mean f² - (mean f)²) / (n + 2), whose means the quadrature knows, too: one probe has an error.
        """
        kept = len(self.simple)
        left = self.size - kept
        rest = self.rest if steps is None else [_rest(r.shorter(steps), self.simple) for r in self.rules]
        known = float(np.sum(function(self.simple))) if kept else 0.0
        values = [(np.broadcast_to(function(nodes), nodes.shape), weights) for nodes, weights, _ in rest]
        first, second = (float(np.mean([np.sum(w * f**k) for f, w in values])) for k in (1, 2))
        value = (known + left * first) / self.size
        if self.exact:
            return value, 0.0
        variance = 2 * max(second - first**2, 0.0) / (left + 2) / len(self.rules)
        return value, left / self.size * math.sqrt(variance)

    def estimate(self, function: Function, scale: float = 1.0) -> Estimate:
        """``scale`` times the mean of f over the eigenvalues."""
        value, stderr = self.mean(function)
        method = f"Lanczos quadrature, {len(self.rules)} × {self.steps}"
        return Estimate(scale * value, abs(scale) * stderr, self.products, method, self.partial, self.notes)


def _rest(rule: Rule, simple: Floats) -> tuple[Floats, Floats, Floats]:
    """The rule without the nodes nearest to some eigenvalues."""
    left = np.ones(len(rule.nodes), bool)
    for value in simple[: len(left)]:
        left[np.argmin(np.where(left, np.abs(rule.nodes - value), np.inf))] = False
    weights = rule.weights[left]
    total = weights.sum()
    return rule.nodes[left], weights / total if total > 0 else weights, rule.residuals[left]


def quadrature(
    operator: Operator,
    what: str,
    source: Source,
    *,
    probes: int,
    steps: int,
    budget: int | None,
    done: Callable[[Quadrature], bool] | None = None,
) -> Quadrature:
    """Run probes until there are enough of them, ``done`` is true, or the budget is spent.

    An interrupt ends it with the probes that are finished.

    Raises:
        KeyboardInterrupt: interrupted before the first probe was finished.
    """
    n = operator.shape[0]
    wanted = min(steps, n, steps if budget is None else budget)
    notes = () if wanted == min(steps, n) else (f"{wanted} steps in place of {steps}: the budget allows no more",)
    work = _Work(operator, what, wanted, source)
    partial, look = False, 1
    with Progress(what, probes) as progress:
        while len(work.rules) < probes:
            if work.rules and budget is not None and work.products + wanted > budget:
                break
            try:
                work.probe()
            except KeyboardInterrupt:
                if not work.rules:
                    raise
                partial = True
                break
            progress.to(len(work.rules))
            if done is not None and len(work.rules) >= look:
                if done(work.result(partial, notes)):
                    break
                look = 1 + len(work.rules) * 5 // 4
    return work.result(partial, notes)


class _Work:
    """Probes one after the other, in one basis [steps, n]; and the vectors that tell which eigenvalues are simple."""

    def __init__(self, operator: Operator, what: str, steps: int, source: Source) -> None:
        self._operator, self._what, self._steps, self._source = operator, what, steps, source
        self._basis: Basis | None = None
        self._candidates: Any = None
        self._values: Floats = np.zeros(0)
        self._overlaps: list[Floats] = []
        self._rounding = 4 * precision(operator)
        self.rules: list[Rule] = []
        self.products = 0

    def probe(self) -> None:
        start = self._source.normal(1, self._operator.shape[0])[0]
        run = lanczos(self._operator, start, self._steps, what=self._what, basis=self._basis)
        self._basis = run.basis
        self.products += run.steps
        nodes, weights, residuals, ritz = _gauss(run.alphas, run.betas, self._rounding)
        if not self.rules:
            chosen = np.flatnonzero(converged(nodes, residuals))
            self._values = nodes[chosen]
            if len(chosen):
                self._candidates = run.basis.combine(ritz[:, chosen].T)
        if self._candidates is not None:
            overlaps = self._operator.backend.to_host(self._candidates @ start).astype(float)
            self._overlaps.append(overlaps**2 / float((start * start).sum()))
        self.rules.append(Rule(run.alphas, run.betas, nodes, weights, residuals))

    def result(self, partial: bool, notes: tuple[str, ...]) -> Quadrature:
        simple = self._simple()
        errors = np.array([min(r.residuals[_nearest(r, v)] for r in self.rules) for v in simple])
        return Quadrature(
            self._operator.shape[0],
            tuple(self.rules),
            simple,
            errors,
            self._rounding,
            self.products,
            self._steps,
            partial,
            notes,
        )

    def _simple(self) -> Floats:
        """Candidates that all probes agree on: found by each, and with the weight that one vector explains."""
        if len(self._values) == 0:
            return self._values
        if len(self.rules) < 2:
            return self._values if self._operator.shape[0] == len(self._values) else np.zeros(0)
        found = np.ones(len(self._values), bool)
        places = np.array([[_nearest(rule, v) for v in self._values] for rule in self.rules])
        weights = np.array([r.weights[p] for r, p in zip(self.rules, places, strict=True)])
        for rule, place in zip(self.rules, places, strict=True):
            near = np.abs(rule.nodes[place] - self._values) <= 2 * rule.residuals[place] + self._tolerance
            found &= near & converged(rule.nodes, rule.residuals)[place]
        found &= np.abs(weights - np.array(self._overlaps)).sum(0) <= _SIMPLE * weights.sum(0)
        return self._values[found]

    @property
    def _tolerance(self) -> float:
        scale = max(float(np.abs(r.nodes).max()) for r in self.rules)
        return math.sqrt(self._rounding) * scale


def _nearest(rule: Rule, value: float) -> int:
    return int(np.argmin(np.abs(rule.nodes - value)))


def gaps(nodes: Floats) -> Floats:
    """For each of some rising numbers, how far the nearest other one is; infinity for one alone."""
    between = np.diff(nodes)
    nearest: Floats = np.minimum(np.append(between, np.inf), np.append(np.inf, between))
    return nearest[: len(nodes)]


def converged(nodes: Floats, residuals: Floats) -> Flags:
    """Which Ritz pairs are eigenpairs, apart from all others: a residual well below the gap to the next Ritz value."""
    apart: Flags = residuals <= _CONVERGED * (np.abs(nodes) if len(nodes) == 1 else gaps(nodes))
    return apart
