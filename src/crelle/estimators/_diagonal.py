"""The diagonal of an operator: exact by structure where that is cheap, else estimated, with an error for each entry."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleValueError, describe
from crelle.estimators._coloured import coloured_products, count_of, diagonal_colors, pattern_of
from crelle.estimators._estimate import source_for, verify_limits
from crelle.estimators._hutchinson import FIRST, Probes, student
from crelle.estimators._progress import Progress
from crelle.estimators._sketches import Sketch, is_done, products_of, stage
from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator
    from crelle.operators._spaces import Space

METHODS = ("auto", "exact", "hutchinson", "xdiag")
_TINY = 1e-300


@dataclass(frozen=True)
class VectorEstimate:
    """Numbers for the entries of a vector, each with how far off it may be: a diagonal, or norms of rows.

    Attributes:
        value: the estimates, a flat array [n] of the framework.
        stderr: their standard errors [n]; zero where the value is exact, NaN where one sample is no measure.
        products: products with the operator that it took.
        method: how it was found.
        partial: it was interrupted, and is what was known by then.
        notes: what was assumed, tried, or fell back.
        space: the inputs or outputs that the entries belong to.
    """

    value: Any
    stderr: Any
    products: int
    method: str
    partial: bool = False
    notes: tuple[str, ...] = ()
    space: Space | None = field(default=None, repr=False)

    @property
    def tree(self) -> Any:
        """The values in the tree of the inputs (or outputs) that they belong to."""
        assert self.space is not None
        return self.space.leave(self.value[None])[0]

    @property
    def exact(self) -> bool:
        """Whether there is no sampling error."""
        return not bool((self.stderr != 0).any())

    def __str__(self) -> str:
        host = np.asarray(self.space.backend.to_host(self.value) if self.space else self.value)
        size = "" if not host.size else f" from {host.min():.4g} to {host.max():.4g}"
        stopped = ", interrupted" if self.partial else ""
        work = f"{self.products:,} product{'' if self.products == 1 else 's'}"
        error = "" if self.exact else f", relative error {_relative(self.value, self.stderr):.1%}"
        return f"{host.size:,} entries{size}  ({self.method}, {work}{error}{stopped})"


def _relative(value: Any, stderr: Any) -> float:
    """‖stderr‖/‖value‖."""
    squares, errors = (float((v * v).sum()) for v in (value, stderr))
    return math.sqrt(errors / squares) if squares else (0.0 if errors == 0 else math.inf)


class Moments:
    """Mean and variance of vectors, entry by entry, on the device; chunks are merged, so that nothing cancels.

    (T. F. Chan, G. H. Golub, R. J. LeVeque, *Updating formulae and a pairwise algorithm for computing sample
    variances*, COMPSTAT 1982.)
    """

    def __init__(self) -> None:
        self.count, self.mean, self._spread = 0, 0.0, 0.0
        self.partial = False

    def add(self, block: Any) -> None:
        """Further vectors, as rows."""
        k = len(block)
        mean = block.sum(0) / k
        spread = ((block - mean) ** 2).sum(0)
        step = mean - self.mean
        total = self.count + k
        self._spread = self._spread + spread + step * step * (self.count * k / total)
        self.mean = self.mean + step * (k / total)
        self.count = total

    @property
    def stderr(self) -> Any:
        """Of the mean, widened by Student's factor for few samples; NaN for one."""
        if self.count < 2:
            return self._spread + math.nan
        scale = student(self.count) ** 2 / (self.count * (self.count - 1))
        return (self._spread * scale) ** 0.5

    def relative(self) -> float:
        """‖stderr‖/‖mean‖."""
        mean: Any = self.mean
        return _relative(mean, self.stderr)


def averaged(probes: Probes, draw: Any, rtol: float | None, limit: int, what: str, errors: float = 1.0) -> Moments:
    """The mean of vectors, until its relative error is at most ``rtol``, or there are ``limit`` of them.

    Args:
        draw: count -> an iterator over blocks of that many vectors altogether.
        errors: relative error of the answer per relative error of the mean.
    """
    moments = Moments()
    with Progress(what, limit) as progress:
        while moments.count < limit:
            done = moments.count
            found = errors * moments.relative() if rtol is not None and done >= FIRST else math.inf
            if rtol is not None and found <= rtol:
                break
            need = limit if rtol is None else max(FIRST, min(2 * done, math.ceil(1.1 * done * (found / rtol) ** 2)
                                                             if math.isfinite(found) else 2 * done, limit))  # fmt: skip
            try:
                for block in draw(min(max(need, math.ceil(1.25 * done)), limit) - done):
                    moments.add(block)
                    progress.to(moments.count)
            except KeyboardInterrupt:
                if not moments.count:
                    raise
                moments.partial = True
                break
    return moments


def verify_finite(probes: Probes, found: Any) -> None:
    """Refuse NaN in the last products.

    Raises:
        CrelleValueError: there is one.
    """
    probes.numbers((found * found).sum(1) if found.shape[1] else found.sum(1))


def diagonal(
    operator: Operator, method: str, rtol: float | None, budget: int | None,
    seed: int | None, key: Any, generator: Any,
) -> VectorEstimate:  # fmt: skip
    """See :meth:`crelle.operators.Operator.diagonal`."""
    operator._verify_square("diagonal")
    verify_limits(operator, "diagonal", rtol, budget)
    if method not in METHODS or (method == "xdiag" and budget == 1):
        expected = " | ".join(f'"{m}"' for m in METHODS) if method not in METHODS else "at least 2 products"
        raise CrelleValueError(
            describe(f"{operator!r}.diagonal(method={method!r}, budget={budget})", expected=expected)
        )
    probes = Probes(operator, "diagonal", source_for(operator, "diagonal", seed, key, generator))
    n = operator.shape[0]
    limit = n if budget is None else budget
    if method in ("auto", "exact"):
        found = _exact(probes, None if method == "exact" else limit)
        if found is not None:
            return found
    if method == "xdiag":
        return _xdiag(probes, rtol, limit)

    def draw(count: int) -> Iterator[Any]:
        for block, products in probes.chunks(count):
            verify_finite(probes, products)
            yield block * products

    moments = averaged(probes, draw, rtol, limit, "diagonal, Hutchinson")
    return VectorEstimate(
        moments.mean, moments.stderr, probes.count, "Hutchinson", moments.partial, space=operator.domain
    )


def _exact(probes: Probes, limit: int | None) -> VectorEstimate | None:
    """By coloured products, or by all columns; ``None`` where both take more than ``limit``."""
    operator = probes.operator
    n = operator.shape[0]
    vectors = vectors_of(operator.backend)
    zeros = vectors.zeros(1, n, vectors.empty(operator.domain))[0]
    colors, method = np.arange(n), "exact, all columns"
    pattern = pattern_of(operator) if n else None
    if pattern is not None:
        found = diagonal_colors(pattern)
        if count_of(found) < n:
            colors, method = found, "exact, by structure"
    if limit is not None and count_of(colors) > limit:
        return None
    value = zeros
    for seeds, products in coloured_products(probes, colors):
        verify_finite(probes, products)
        value = value + (seeds * products).sum(0)
    return VectorEstimate(value, zeros, probes.count, method, space=operator.domain)


def _xdiag(probes: Probes, rtol: float | None, limit: int) -> VectorEstimate:
    """XDiag: for each test vector w_i, the diagonal of Q_iQ_iᵀA and a Hutchinson sample of the rest.

    Q_i spans the products of all other test vectors. With Q_iQ_iᵀ = Q (I - s_i s_iᵀ) Qᵀ and (I - Q_iQ_iᵀ) A w_i =
    c_i Q s_i the i-th estimate is diag(QQᵀA) + (Q s_i) ∘ (c_i w_i - Aᵀ Q s_i).
    """
    operator = probes.operator
    n = operator.shape[0]
    sketch = Sketch(probes, transposed=True)
    vectors = vectors_of(operator.backend)
    like = vectors.empty(operator.domain)
    zeros = vectors.zeros(1, n, like)[0]
    value: Any = None
    stderr, partial = zeros, False
    with Progress("diagonal, XDiag", limit) as progress:
        try:
            while not sketch.spans:
                if value is not None and is_done((1.0, _relative(value, stderr)), rtol):
                    break
                count = min(stage(sketch.size), (limit - probes.count) // 2, n - sketch.size)
                if count < 1:
                    break
                w = probes.draw(count)
                sketch.grow(w, products_of(probes, w))
                if not sketch.spans:
                    value, stderr = _leave_one_out(sketch)
                progress.to(probes.count)
        except KeyboardInterrupt:
            if value is None:
                raise
            partial = True
    if sketch.spans:
        value = zeros if sketch.q is None else (sketch.q * sketch.z).sum(0)
        note = "the products span the range of the matrix: exact to rounding"
        return VectorEstimate(value, zeros, probes.count, "XDiag", partial, (note,), operator.domain)
    return VectorEstimate(value, stderr, probes.count, "XDiag", partial, space=operator.domain)


def _leave_one_out(sketch: Sketch) -> tuple[Any, Any]:
    """(mean of the estimates, its standard error as in ``leave_out_error``): sums over pairs as products of matrices.

    Without test vectors i and j, Q loses Q s_i and Q t, t = (s_j - ρ s_i)/(1 - ρ²)^½ with ρ = s_i·s_j.
    """
    probes, k = sketch.probes, sketch.size
    vectors = vectors_of(probes.operator.backend)
    s, c = sketch.left_out()
    rho = s.T @ s
    np.fill_diagonal(rho, 0.0)
    alpha = rho / np.maximum(1 - rho**2, _TINY)
    beta = rho * alpha

    def device(values: Any) -> Any:
        return vectors.from_host(values, sketch.w)

    turn, inside = device(s.T), (sketch.q * sketch.z).sum(0)
    q, z = turn @ sketch.q, turn @ sketch.z
    rest = q * (device(c[:, None]) * sketch.w - z)
    value = inside + rest.sum(0) / k
    if k < 2:
        return value, value + math.nan
    mixed = device(alpha) @ (z - device(c[:, None]) * sketch.w)
    share = device(1 + beta - np.eye(k)) @ rest
    both = device((1 / np.maximum(1 - rho**2, _TINY)).sum(1)[:, None] - 1) * (q * z)
    without = inside + (share - both + q * mixed + z * (device(alpha) @ q)) / (k - 1)
    naive = ((rest - rest.sum(0) / k) ** 2).sum(0)
    jackknife = ((without - without.sum(0) / k) ** 2).sum(0)
    return value, (naive**0.5 * jackknife**0.5) ** 0.5 * (student(k) / k**0.5)
