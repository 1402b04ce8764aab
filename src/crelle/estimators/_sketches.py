"""Traces from the products with random vectors and with what they span: Hutch++, XTrace and XNysTrace.

n-sized vectors stay on the device, in rows; matrices of k × k are computed on the host in double precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.estimators._estimate import Estimate
from crelle.estimators._hutchinson import FIRST, Floats, Mean, Probes, leave_out_error, pieces, sample, to_host
from crelle.estimators._progress import Progress
from crelle.operators._vectors import vectors_of

_TINY = 1e-300
_SPANNED = ("the products span the range of the matrix: exact to rounding",)


class Sketch:
    """Test vectors W, an orthonormal basis Q of their products A W = Q R, and the products of A (or Aᵀ) with Q.

    It grows: what was computed stays. Vectors are rows, so ``w`` is [k, n].

    Attributes:
        w, q, z: blocks on the device; ``z`` are the products with ``q``. ``None`` as long as they are empty.
        r: upper triangular [k, k] on the host, with A w_i = Σ_l r[l, i] q_l.
        spans: q spans the range of A: the products added nothing new.
    """

    def __init__(self, probes: Probes, transposed: bool = False) -> None:
        self.probes, self._transposed = probes, transposed
        self._vectors = vectors_of(probes.operator.backend)
        self.w: Any = None
        self.q: Any = None
        self.z: Any = None
        self.r: Floats = np.zeros((0, 0))
        self.spans = False

    @property
    def size(self) -> int:
        """Test vectors so far."""
        return 0 if self.w is None else len(self.w)

    def grow(self, w: Any, y: Any) -> None:
        """Take up test vectors and their products with A; their part outside of the basis costs one product each."""
        new = self._extend(y)
        if new is not None:
            z = products_of(self.probes, new, self._transposed)
            self.q, self.z = self._join([self.q, new]), self._join([self.z, z])
        if not self.spans:
            self.w = self._join([self.w, w])

    def _extend(self, y: Any) -> Any:
        """Basis vectors that y adds; R grows, unless y adds fewer than it has rows: then the range of A is spanned."""
        host, k = self.probes.operator, self.size
        scale = math.sqrt(float(to_host(host, (y * y).sum(1)).max(initial=0.0)))
        tail = y
        above = np.zeros((k, len(y)))
        if self.q is not None:
            for _ in range(2):
                inside = tail @ self.q.T
                tail = tail - inside @ self.q
                above += to_host(host, inside).T
        q, r = self._vectors.orthonormal(tail)
        corner = to_host(host, r)
        size = min(corner.shape)
        epsilon = precision(host.dtype)
        good = np.abs(np.diagonal(corner)) > 10 * (k + len(y)) * epsilon * max(scale, np.abs(self.r).max(initial=0.0))
        count = size if good.all() else int(np.argmin(good))
        if count < len(y):
            self.spans = True
            return q[:count] if count else None
        self.r = np.block([[self.r, above], [np.zeros((len(y), k)), corner]])
        return q

    def _join(self, blocks: list[Any]) -> Any:
        some = [b for b in blocks if b is not None]
        return some[0] if len(some) == 1 else self._vectors.concatenate(some)

    def left_out(self) -> tuple[Floats, Floats]:
        """(S, c): the basis without test vector i is Q (I - s_i s_iᵀ), and what that test vector adds is c_i Q s_i."""
        inverse = np.linalg.inv(self.r).T  # S is orthogonal to the other columns of R
        lengths = np.linalg.norm(inverse, axis=0)
        return inverse / lengths, 1 / lengths


def precision(dtype: str) -> float:
    """The machine epsilon of a floating-point type."""
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def xtrace(probes: Probes, rtol: float | None, budget: int, begun: tuple[Any, Any] | None = None) -> Estimate:
    """The trace by XTrace.

    For each test vector, the trace inside the range of the products of all others, and a Hutchinson sample outside
    (E. N. Epperly, J. A. Tropp, R. J. Webber, *XTrace: making the most of every sample in stochastic trace
    estimation*, SIAM J. Matrix Anal. Appl. 45, 2024).

    Args:
        begun: test vectors of random signs and their products, which were made before.
    """
    sketch = Sketch(probes)
    n, spheres = probes.operator.domain.size, begun is None
    result, partial = (math.nan, math.nan), False
    with Progress(f"{probes.what}, XTrace", budget) as progress:
        try:
            if begun is not None:
                sketch.grow(*begun)
                result = _xtrace_of(sketch, n, spheres)
            while not sketch.spans and not is_done(result, rtol):
                left = min((budget - probes.count) // 2, n - sketch.size)
                count = min(stage(sketch.size), left)
                if count < 1:
                    break
                w = probes.sphere(count) if spheres else probes.draw(count)
                sketch.grow(w, products_of(probes, w))
                result = _xtrace_of(sketch, n, spheres)
                progress.to(probes.count)
        except KeyboardInterrupt:
            if math.isnan(result[0]):
                raise
            partial = True
    return Estimate(*result, probes.count, "XTrace", partial, _SPANNED if sketch.spans else ())


def is_done(result: tuple[float, float], rtol: float | None) -> bool:
    return rtol is not None and result[1] <= rtol * abs(result[0])


def stage(size: int) -> int:
    """Test vectors that are added at a time: the accuracy is looked at after 8, 16, 32, ..."""
    return max(FIRST // 2, size)


def products_of(probes: Probes, block: Any, transposed: bool = False) -> Any:
    """A v (or Aᵀ v) for all rows, a few at a time.

    Raises:
        CrelleValueError: NaN in a product.
    """
    rows, start = [], 0
    for size in pieces(len(block), probes.chunk):
        found = probes.times(block[start : start + size], transposed)
        probes.numbers((found * found).sum(1))
        rows.append(found)
        start += size
    return rows[0] if len(rows) == 1 else vectors_of(probes.operator.backend).concatenate(rows)


def _xtrace_of(sketch: Sketch, n: int, spheres: bool) -> tuple[float, float]:
    """Mean and error of the leave-one-out estimates."""
    host = sketch.probes.operator
    if sketch.q is None:
        return 0.0, 0.0
    inside = to_host(host, sketch.q @ sketch.z.T)  # QᵀAQ
    if sketch.spans:
        return float(np.trace(inside)), 0.0
    small = Small(
        s=sketch.left_out()[0], r=sketch.r, inside=inside, qw=to_host(host, sketch.q @ sketch.w.T),
        zw=to_host(host, sketch.z @ sketch.w.T), size=n if spheres else None,
    )  # fmt: skip
    one = small.leave_one_out()
    return float(one.mean()), leave_out_error(one, small.leave_two_out())


@dataclass(frozen=True)
class Small:
    """What XTrace needs of a sketch, k × k on the host.

    For a set T of test vectors, Q_T spans the products of all others, and P_T = Q_T Q_Tᵀ. A test vector i in T has the
    estimate tr(Q_Tᵀ A Q_T) + w_iᵀ (I - P_T) A (I - P_T) w_i. Without i, Q loses the direction Q s_i; without j besides,
    Q t with t = (s_j - ρ s_i)/c, ρ = s_i·s_j, c² = 1 - ρ².

    Attributes:
        s: the directions s_i as columns.
        r: A W = Q R. ``inside``: Qᵀ A Q. ``qw``: Qᵀ W. ``zw``: (A Q)ᵀ W.
        size: n if test vectors are uniform on a sphere: samples are then scaled to the length that (I - P_T) w_i has in
            the mean, which takes the spread of lengths out of them.
    """

    s: Floats
    r: Floats
    inside: Floats
    qw: Floats
    zw: Floats
    size: int | None

    def leave_one_out(self) -> Floats:
        """The estimate of each test vector from all others."""
        s, qw = self.s, self.qw
        sw = (s * qw).sum(0)
        p = qw - s * sw  # P_i w_i = Q p
        own = sw * (s * self.r).sum(0)  # w_iᵀ (I - P_i) A w_i
        cross = ((self.zw - self.inside @ p) * p).sum(0)  # w_iᵀ (I - P_i) A P_i w_i
        traced = np.trace(self.inside) - (s * (self.inside @ s)).sum(0)
        found: Floats = traced + (own - cross) * self._scale((p**2).sum(0), len(s) - 1)
        return found

    def leave_two_out(self) -> Floats:
        """[j, i] the estimate of test vector i without j besides; the diagonal means nothing."""
        s, k = self.s, len(self.s)
        sw, sr = (s * self.qw).sum(0), (s * self.r).sum(0)
        p = self.qw - s * sw
        hp = self.inside @ p
        rho = s.T @ s
        np.fill_diagonal(rho, 0.0)
        c = np.sqrt(np.maximum(1 - rho**2, _TINY))

        def along_t(of: Floats) -> Floats:
            """t · v_i at [j, i], for vectors v_i as columns."""
            mine = s.T @ of
            found: Floats = (mine - rho * np.diagonal(mine)) / c
            return found

        tau = along_t(self.qw)  # P_ij w_i = Q (p - t τ)
        b = s.T @ self.inside @ s
        own_b = np.diagonal(b)
        tbt = (own_b[:, None] - rho * (b + b.T) + rho**2 * own_b) / c**2
        own = sw * sr - tau * rho / c * sr
        cross = (self.zw * p).sum(0) - (p * hp).sum(0)
        cross = cross - tau * (along_t(self.zw) - along_t(hp) - along_t(self.inside.T @ p)) - tau**2 * tbt
        traced = np.trace(self.inside) - own_b - tbt
        found: Floats = traced + (own - cross) * self._scale((p**2).sum(0) - tau**2, k - 2)
        return found

    def _scale(self, squares: Floats, others: int) -> Any:
        if self.size is None:
            return 1.0
        return (self.size - others) / np.maximum(self.size - squares, _TINY)


def hutch_plus_plus(probes: Probes, rtol: float | None, budget: int) -> Estimate:
    """The trace by Hutch++: exact in the range of a third of the products, Hutchinson outside.

    tr A = tr(QᵀAQ) + tr((I - QQᵀ) A (I - QQᵀ)) (R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, *Hutch++: Optimal
    stochastic trace estimation*, SOSA 2021).
    """
    sketch = Sketch(probes)
    w = probes.draw(max(1, budget // 3))
    sketch.grow(w, products_of(probes, w))
    if sketch.q is None:
        return Estimate(0.0, 0.0, probes.count, "Hutch++", notes=_SPANNED)
    known = float((to_host(probes.operator, (sketch.q * sketch.z).sum(1))).sum())
    if sketch.spans:
        return Estimate(known, 0.0, probes.count, "Hutch++", notes=_SPANNED)
    q = sketch.q

    def draw(count: int) -> Any:
        for size in pieces(count, probes.chunk):
            block = probes.draw(size)
            block = block - (block @ q.T) @ q
            yield probes.numbers((block * probes.times(block)).sum(1))

    mean = sample(Mean(known), draw, rtol, budget - probes.count, f"{probes.what}, Hutch++")
    return Estimate(mean.value, mean.stderr, probes.count, "Hutch++", mean.partial)


def xnystrace(probes: Probes, rtol: float | None, budget: int) -> Estimate:
    """The trace of a positive semidefinite matrix by XNysTrace: one product for each test vector.

    Nyström approximations that leave out one test vector each (Epperly, Tropp, Webber 2024).

    Raises:
        CrelleTypeError: the matrix is not known to be positive semidefinite.
        CrelleValueError: it is not.
    """
    operator = probes.operator
    if "psd" not in operator.tags:
        raise CrelleTypeError(
            describe(
                f"{operator!r}.{probes.what}(method='xnystrace'): the matrix is not known to be positive semidefinite",
                try_="crelle.operator(A, psd=True) if you know it is; method='xtrace' if it is not",
            )
        )
    n = operator.domain.size
    w = y = None
    result, partial = (math.nan, math.nan), False
    vectors = vectors_of(operator.backend)
    with Progress(f"{probes.what}, XNysTrace", budget) as progress:
        try:
            while not is_done(result, rtol):
                size = 0 if w is None else len(w)
                count = min(stage(size), budget - probes.count, n - size)
                if count < 1:
                    break
                more = probes.sphere(count)
                found = products_of(probes, more)
                w = more if w is None else vectors.concatenate([w, more])
                y = found if y is None else vectors.concatenate([y, found])
                result = _xnystrace_of(probes, w, y, n)
                progress.to(probes.count)
        except KeyboardInterrupt:
            if math.isnan(result[0]):
                raise
            partial = True
    return Estimate(*result, probes.count, "XNysTrace", partial)


def _xnystrace_of(probes: Probes, w: Any, y: Any, n: int) -> tuple[float, float]:
    operator, vectors = probes.operator, vectors_of(probes.operator.backend)
    total = math.sqrt(float(to_host(operator, (y * y).sum(1)).sum()))
    if total == 0:
        return 0.0, 0.0
    shift = precision(operator.dtype) * total  # A + νI, so that the factorisation does not break down
    y = y + w * shift
    _, r = vectors.orthonormal(y)
    gram = to_host(operator, w @ y.T)
    gram = (gram + gram.T) / 2
    values, basis = np.linalg.eigh(gram)
    if values[0] < -10 * math.sqrt(precision(operator.dtype)) * max(values[-1], total):
        raise CrelleValueError(
            describe(
                f"{operator!r}.{probes.what}(method='xnystrace'): the matrix is not positive semidefinite",
                called=f"the smallest eigenvalue of WᵀAW is {values[0]:.2g}, the largest {values[-1]:.2g}",
                try_="method='xtrace', which takes any matrix",
            )
        )
    values = np.maximum(values, np.finfo(np.float64).eps * values[-1])
    # A + νI ≈ Q R K Rᵀ Qᵀ with K = (WᵀAW)⁻¹, the approximation of Nyström
    inverse = np.linalg.inv(to_host(operator, w @ w.T)).astype(np.float64)
    small = Nystrom(to_host(operator, r), basis / np.sqrt(values), inverse, n)
    one = small.leave_one_out()
    return float(one.mean()) - shift * n, leave_out_error(one, small.leave_two_out())


class Nystrom:
    """What XNysTrace needs, k × k on the host: R of A W = Q R, half with half · halfᵀ = K, gram = (WᵀW)⁻¹, and n.

    Without the test vectors of a set T the approximation loses tr((K_TT)⁻¹ D_TT) of its trace, where D = K RᵀR K, and
    what it leaves of w_iᵀ A w_i for an i in T is ((K_TT)⁻¹)_ii.
    """

    def __init__(self, r: Floats, half: Floats, gram: Floats, size: int) -> None:
        rh = r @ half  # of the approximation Q rh rhᵀ Qᵀ; r @ k would cancel where A has nothing
        self.k, self.gram, self.size = half @ half.T, gram, size
        self.d = half @ (rh.T @ rh) @ half.T
        self.trace = float((rh**2).sum())

    def leave_one_out(self) -> Floats:
        """The estimate of each test vector from all others."""
        k, d, gram = map(np.diagonal, (self.k, self.d, self.gram))
        found: Floats = self.trace - d / k + (self.size - len(k) + 1) * gram / k
        return found

    def leave_two_out(self) -> Floats:
        """[j, i] the estimate of test vector i without j besides; the diagonal means nothing."""
        count = len(self.k)
        k, d, gram = map(np.diagonal, (self.k, self.d, self.gram))
        determinant = np.outer(k, k) - self.k**2
        outside = np.outer(gram, gram) - self.gram**2
        np.fill_diagonal(determinant, 1.0)
        lost = (np.outer(k, d) + np.outer(d, k) - 2 * self.k * self.d) / determinant  # [j, i]
        scale = (self.size - count + 2) * outside / gram[:, None]
        found: Floats = self.trace - lost + scale * k[:, None] / determinant
        return found
