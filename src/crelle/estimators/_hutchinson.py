"""Random probes, and means over them that know their error: tr A = E zᵀAz for vectors z of random signs.

What estimators of traces, diagonals and norms share lives here: probes are drawn one by one, so that the answer does
not depend on how many go through the operator at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._arrays import ArrayType
from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.estimators._progress import Progress
from crelle.operators._vectors import Source, vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

Floats = np.ndarray[Any, np.dtype[np.float64]]

#: Probes before the accuracy is looked at for the first time: errors of fewer are too uncertain to stop on.
FIRST = 24
#: Bytes of probes that go through an operator at a time.
CHUNK_BYTES = 4_000_000
#: The share of a normal distribution within one standard error, as a quantile.
_ONE_SIGMA = 0.8413447460685429


class Probes:
    """Random signs for an operator, and its products with them, chunk by chunk.

    Attributes:
        count: products made so far.
    """

    def __init__(self, operator: Operator, what: str, source: Source) -> None:
        verify_real(operator, what)
        self.operator, self.what, self._source, self.count = operator, what, source, 0
        n = max(operator.domain.size, operator.codomain.size)
        self.chunk = max(1, CHUNK_BYTES // max(ArrayType(operator.dtype, (n,)).nbytes, 1))

    def draw(self, count: int) -> Any:
        """[count, n] random signs, the same for every size of chunks."""
        size = self.operator.domain.size
        rows = [self._source.rademacher(1, size) for _ in range(count)]
        return rows[0] if count == 1 else vectors_of(self.operator.backend).concatenate(rows)

    def sphere(self, count: int) -> Any:
        """[count, n] vectors that are uniform on the sphere of radius √n."""
        vectors, n = vectors_of(self.operator.backend), self.operator.domain.size
        block = vectors.concatenate([self._source.normal(1, n) for _ in range(count)])
        squares = to_host(self.operator, (block * block).sum(1))
        return block * vectors.from_host(np.sqrt(n / squares)[:, None], block)

    def chunks(self, count: int) -> Iterator[tuple[Any, Any]]:
        """(z, A z) for ``count`` further probes, a few rows at a time."""
        for size in pieces(count, self.chunk):
            block = self.draw(size)
            yield block, self.times(block)

    def times(self, block: Any, transposed: bool = False) -> Any:
        """A v (or Aᵀ v) for each row, counted; numbers alone: a graph would grow with every product."""
        found = self.operator._adjoint_products(block) if transposed else self.operator._products(block)
        self.count += len(block)
        return vectors_of(self.operator.backend).detached(found)

    def numbers(self, values: Any) -> Floats:
        """Numbers of the last products on the host, one for each.

        Raises:
            CrelleValueError: one is NaN or infinite.
            CrelleTypeError: they are traced.
        """
        if vectors_of(self.operator.backend).is_traced(values):
            raise CrelleTypeError(
                describe(
                    f"{self.operator!r}.{self.what}: no numbers to look at, inside of jit, vmap or grad",
                    expected="to be called outside of them: an estimate is a number with an error",
                    try_="z @ (A @ z) for a vector z of random signs: an estimate of the trace without bias",
                )
            )
        found = to_host(self.operator, values)
        bad = np.flatnonzero(~np.isfinite(found))
        if len(bad):
            raise nonfinite(self.operator, self.what, self.count - len(found) + int(bad[0]) + 1)
        return found


def pieces(count: int, chunk: int) -> Iterator[int]:
    """Sizes of chunks that make up a number."""
    while count > 0:
        size = min(chunk, count)
        yield size
        count -= size


def to_host(operator: Operator, values: Any) -> Floats:
    """As float64 on the host."""
    return np.asarray(operator.backend.to_host(values)).astype(np.float64)


def nonfinite(operator: Operator, what: str, product: int) -> CrelleValueError:
    """The error for NaN in a product; products count from 1."""
    return CrelleValueError(
        describe(
            f"{operator!r}.{what}: product {product} is NaN or infinite",
            likely="the function or its derivative is not finite at this point, or overflows in this dtype",
            try_="look at A.value, or at one product A @ v; use a wider dtype",
        )
    )


def verify_real(operator: Operator, what: str) -> None:
    """Refuse complex matrices.

    Raises:
        CrelleTypeError: the operator is complex.
    """
    if "complex" in operator.domain.dtype or "complex" in operator.codomain.dtype:
        raise CrelleTypeError(
            describe(f"{operator!r}.{what}: the matrix is complex", expected="a real one",
                     try_="np.trace(A.todense()) and the like, where it fits")
        )  # fmt: skip


def standard_error(samples: Floats) -> float:
    """Of the mean of independent samples: half the width of an interval that holds the truth in 68 of 100 cases.

    That is s/√k, widened by Student's factor for few samples (1.84 for two, 1.03 for sixteen); NaN for one sample.
    """
    k = len(samples)
    if k < 2:
        return math.nan
    return float(samples.std(ddof=1) / math.sqrt(k)) * student(k)


def leave_out_error(one: Floats, two: Floats) -> float:
    """Of the mean of leave-one-out estimates e_i, which are not independent, for i = 1 ... k.

    The geometric mean of two errors. That of independent numbers is too small: it finds 1/m of the variance of a term
    in which m vectors meet. The jackknife's (B. Efron, C. Stein, *The jackknife estimate of variance*, Ann. Statist. 9,
    1981) is too large: it finds m times that variance.

    Args:
        one: e_i, [k].
        two: [j, i] the estimate of i without vector j besides; the diagonal is not read.
    """
    k = len(one)
    if k < 2:
        return math.nan
    off = ~np.eye(k, dtype=bool)
    rest = two[off].reshape(k, k - 1)
    naive = float(one.var(ddof=1)) / k
    shrinks = (k - 1) / k  # from k - 1 vectors to k
    if k > 2:
        before = float(rest.var(axis=1, ddof=1).mean()) / (k - 1)
        shrinks = min(naive / before, 1.0) if before else 1.0
    jackknife = shrinks * k * float(rest.mean(1).var())
    return math.sqrt(math.sqrt(naive * jackknife)) * student(k)


def student(samples: int) -> float:
    """What a standard error from a few normal samples is to be multiplied by, to hold the truth as often as it should.

    >>> round(student(2), 2), round(student(16), 2)
    (1.84, 1.03)
    """
    from scipy.special import stdtrit

    return float(stdtrit(samples - 1, _ONE_SIGMA))


@dataclass
class Mean:
    """The mean of samples, taken until it is exact enough.

    Attributes:
        known: an exact number that the mean is added to; it counts for the relative error.
        samples: what was drawn so far.
        partial: drawing was interrupted.
    """

    known: float = 0.0
    samples: list[float] = field(default_factory=list)
    partial: bool = False

    @property
    def value(self) -> float:
        """The known part and the mean."""
        return self.known + (float(np.mean(self.samples)) if self.samples else 0.0)

    @property
    def stderr(self) -> float:
        """Of the value."""
        return standard_error(np.array(self.samples)) if self.samples else 0.0

    def is_within(self, rtol: float | None) -> bool:
        """Whether the standard error is at most ``rtol`` times the value."""
        return rtol is not None and self.stderr <= rtol * abs(self.value)

    def next_look(self, rtol: float | None, limit: int) -> int:
        """Samples at which the accuracy is looked at next.

        As many as should do, by the error so far, and at most twice as many as there are: a rule that looks after every
        sample stops where the error happens to look small, and its errors are too small.
        """
        done = len(self.samples)
        if rtol is None:
            return limit
        if done < FIRST:
            return min(FIRST, limit)
        aim = rtol * abs(self.value)
        need = math.inf if aim == 0 else done * (self.stderr / aim) ** 2
        return int(min(max(1.1 * need, 1.25 * done), 2 * done, limit))


def sample(mean: Mean, draw: Callable[[int], Iterator[Floats]], rtol: float | None, limit: int, what: str) -> Mean:
    """Draw samples into a mean until its error is small enough, or there are ``limit``.

    Interrupted, it keeps what was drawn, and raises only if that is nothing.
    """
    with Progress(what, limit) as progress:
        while len(mean.samples) < limit:
            if len(mean.samples) >= FIRST and mean.is_within(rtol):
                break
            try:
                for found in draw(mean.next_look(rtol, limit) - len(mean.samples)):
                    mean.samples.extend(found.tolist())
                    progress.to(len(mean.samples))
            except KeyboardInterrupt:
                if not mean.samples:
                    raise
                mean.partial = True
                break
    return mean


def quadratic_forms(probes: Probes, count: int) -> Iterator[Floats]:
    """zᵀAz for ``count`` further probes, chunk by chunk; no product is kept."""
    for block, found in probes.chunks(count):
        yield probes.numbers((block * found).sum(1))
