"""log|det A| of an operator: by structure, by a factorisation, or estimated with an error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleError, CrelleTypeError, CrelleValueError, describe
from crelle.estimators._density import PROBES, verify_counts
from crelle.estimators._estimate import number_text, source_for, verify_limits
from crelle.estimators._inertia import DENSE, sparse_matrix, sparse_slogdet
from crelle.estimators._pairs import dense_matrix, verify_real
from crelle.estimators._quadrature import MAX_PROBES, Quadrature, quadrature

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

METHODS = ("auto", "exact", "structure", "cholesky", "lu", "lanczos", "series")
#: Exact answers that take no more products than this are preferred to estimates.
_FEW = 512
#: Lanczos steps: the first number tried, and the last.
_STEPS, _MOST_STEPS = 25, 200
#: What an extrapolated error is multiplied by, for where it falls more slowly than it seems.
_CAUTION = 2.5


@dataclass(frozen=True)
class LogDeterminant:
    """(s, l) with det A = s · exp(l).

    Attributes:
        sign: 1, -1, or 0 for a singular matrix; ``None`` where the method does not tell.
        logabsdet: log|det A|; -inf for a singular matrix.
        stderr: its standard error, with what too few Lanczos steps may do; 0 if it is exact to rounding.
        products: products with A and Aᵀ that it took.
        method: how it was found.
        partial: it was interrupted, and is what was known by then.
        notes: what was assumed, tried, or fell back.
    """

    sign: float | None
    logabsdet: float
    stderr: float
    products: int
    method: str
    partial: bool = False
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether there is no sampling error."""
        return self.stderr == 0

    def __iter__(self) -> Iterator[Any]:
        """``sign, logabsdet = A.slogdet()``."""
        return iter((self.sign, self.logabsdet))

    def __str__(self) -> str:
        sign = {None: "sign unknown", 0.0: "singular"}.get(self.sign, f"sign {self.sign:+g}" if self.sign else "")
        stopped = ", interrupted" if self.partial else ""
        number = number_text(self.logabsdet, self.stderr)
        work = f"{self.products:,} product{'' if self.products == 1 else 's'}"
        return f"log|det| {number}, {sign}  ({self.method}, {work}{stopped})"


def slogdet(
    operator: Operator,
    method: str,
    probes: int | None,
    steps: int | None,
    rtol: float | None,
    budget: int | None,
    seed: int | None,
    key: Any,
    generator: Any,
) -> LogDeterminant:
    """See :meth:`crelle.Operator.slogdet`."""
    what = "slogdet"
    operator._verify_square(what)
    verify_real(operator, what)
    if method not in METHODS:
        raise CrelleValueError(
            describe(f"{operator!r}.slogdet: method={method!r}", expected=" | ".join(map(repr, METHODS)))
        )
    verify_limits(operator, what, rtol, budget)
    if not operator.shape[0]:
        return LogDeterminant(1.0, 0.0, 0.0, 0, "empty")
    verify_counts(operator, what, probes, steps)
    source = source_for(operator, what, seed, key, generator)
    if method in ("lu", "cholesky"):
        return _dense(operator, method)
    if method in ("auto", "exact", "structure"):
        few = math.inf if method != "auto" else min(_FEW, budget or _FEW)
        found = _by_structure(operator, few)
        if found is not None:
            return found
        if method == "structure":
            raise CrelleTypeError(
                describe(f"{operator!r}.slogdet(method='structure'): nothing is known of how the matrix is made up",
                         expected="a Jacobian at a point, a sparse Hessian, or products and multiples of such",
                         try_="method='lu' for the dense matrix, method='lanczos' for an estimate")
            )  # fmt: skip
        if operator.shape[0] <= few:
            return _dense(operator, "cholesky" if "psd" in operator.tags else "lu")
    if method == "series":
        from crelle.estimators._series import log_series

        return log_series(operator, probes, rtol, budget, source)
    return _lanczos(operator, probes, steps, rtol, budget, source)


# -- exact


def _dense(operator: Operator, method: str) -> LogDeterminant:
    n = operator.shape[0]
    matrix = dense_matrix(operator, "slogdet")
    if method == "cholesky":
        try:
            factor = np.linalg.cholesky((matrix + matrix.T) / 2)
            return LogDeterminant(1.0, 2 * float(np.log(np.diag(factor)).sum()), 0.0, n, "Cholesky, dense")
        except np.linalg.LinAlgError:
            if "psd" not in operator.tags:
                raise CrelleValueError(
                    describe(f"{operator!r}.slogdet(method='cholesky'): the matrix is not positive definite",
                             try_="method='lu'")
                ) from None  # fmt: skip
    sign, log = np.linalg.slogdet(matrix)
    return LogDeterminant(float(sign), float(log), 0.0, n, "LU, dense")


def _by_structure(operator: Operator, few: float) -> LogDeterminant | None:
    """From what the operator is made of, with at most ``few`` products; ``None`` where that does not tell."""
    from crelle.operators import _algebra
    from crelle.operators._derivatives import JacobianOperator

    n = operator.shape[0]
    if isinstance(operator, JacobianOperator):
        return _jacobian(operator, few)
    if isinstance(operator, _algebra.Identity):
        return LogDeterminant(1.0, 0.0, 0.0, 0, "identity")
    if isinstance(operator, (_algebra.Tagged, _algebra.Transposed)):
        return _by_structure(operator.of, few)
    if isinstance(operator, _algebra.Scaled) and isinstance(operator.factor, (int, float)) and operator.factor:
        inner = _by_structure(operator.of, few)
        if inner is None or inner.sign is None:
            return inner
        sign = inner.sign * (-1.0 if operator.factor < 0 and n % 2 else 1.0)
        return replace(inner, sign=sign, logabsdet=inner.logabsdet + n * math.log(abs(operator.factor)))
    if isinstance(operator, _algebra.Gram) and operator.of.shape == (n, n):
        inner = _by_structure(operator.of, few)
        return inner and replace(inner, sign=abs(inner.sign or 0.0), logabsdet=2 * inner.logabsdet)
    if isinstance(operator, _algebra.Composed) and operator.left.shape == operator.right.shape:
        parts = [_by_structure(part, few) for part in (operator.left, operator.right)]
        left, right = parts
        if left is None or right is None:
            return None
        return LogDeterminant(
            (left.sign or 0.0) * (right.sign or 0.0), left.logabsdet + right.logabsdet, 0.0,
            left.products + right.products, f"{left.method}; {right.method}", notes=(*left.notes, *right.notes),
        )  # fmt: skip
    if n > DENSE and operator.is_symmetric:
        matrix = sparse_matrix(operator)
        found = None if matrix is None else sparse_slogdet(matrix)
        if found is not None:
            return LogDeterminant(*found, 0.0, 0, "sparse LU")
    return None


def _jacobian(operator: Any, few: float) -> LogDeterminant | None:
    from crelle.determinants import SlogdetResult
    from crelle.determinants import slogdet as of_function

    call = operator._call
    backend = call.backend
    transform = of_function(call.f, call.request.argnums, has_aux=call.request.has_aux, value=True)
    try:
        plan = transform.plan(*call.args, **call.kwargs)
        if plan.passes > few:
            return None
        answer = transform(*call.args, **call.kwargs)
    except CrelleError:  # it cannot be traced, or is too large: products are what there is
        return None
    values, expected = (backend.flatten(tree)[0] for tree in (answer[0], operator.value))
    for one, other in zip(values, expected, strict=True):
        if not np.allclose(backend.to_host(one), backend.to_host(other), 1e-4, 1e-6, equal_nan=True):
            return None  # the inputs, or what f captures, have changed since the operator was made
    found = next(part for part in answer if isinstance(part, SlogdetResult))
    sign, log = (float(backend.to_host(part).real) for part in found)
    return LogDeterminant(sign, log, 0.0, plan.passes, "exact, by structure", notes=plan.notes)


# -- estimated


def _lanczos(
    operator: Operator, probes: int | None, steps: int | None, rtol: float | None, budget: int | None, source: Any
) -> LogDeterminant:
    """tr log A by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017); ½ tr log AᵀA where A is not symmetric."""
    half = not operator.is_symmetric
    of = operator.gram() if half else operator
    each, scale = (2, 0.5) if half else (1, 1.0)
    limit = None if budget is None else max(budget // each, 1)
    wanted = probes or (PROBES if rtol is None else MAX_PROBES)
    spent = 0
    if steps is None:
        steps, spent = _enough(of, wanted, rtol, limit, source)
        limit = None if limit is None else max(limit - spent, 1)

    def done(found: Quadrature) -> bool:
        value, stderr, _ = _trace_log(found)
        return rtol is not None and stderr <= rtol * abs(value)

    found = quadrature(of, "slogdet", source, probes=wanted, steps=steps, budget=limit, done=done)
    value, stderr, cut = _trace_log(found)
    notes = list(found.notes)
    sign: float | None = None if half else 1.0
    lowest = min(float(rule.nodes[0]) for rule in found.rules)
    largest = max(float(np.abs(rule.nodes).max()) for rule in found.rules)
    least = min(float(np.abs(rule.nodes).min()) for rule in found.rules)
    floor = _floor(found)
    method = f"Lanczos quadrature of log, {len(found.rules)} × {found.steps}"
    products = each * (found.products + spent)
    if least <= floor:
        singular = found.exact or _is_null(found, floor)
        notes.append(f"singular to rounding: an eigenvalue of size {least:.1g} beside {largest:.1g}")
        if singular:
            return LogDeterminant(0.0, -math.inf, 0.0, products, method, found.partial, tuple(notes))
    if half:
        notes.append("the sign is unknown: log|det A| is half of log det AᵀA")
    elif "psd" not in of.tags:
        if lowest < -floor:
            sign = _sign_by_counting(operator, notes)
            notes.append(
                f"the matrix has negative eigenvalues ({lowest:.3g}): log|λ| has a pole among them, and its quadrature "
                "converges slowly there"
            )
        else:
            notes.append("taken as positive definite: no Ritz value is negative")
    if rtol is not None and not stderr <= rtol * abs(value):
        notes.append(f"rtol={rtol:g} was not reached")
    if cut > 0.5 * stderr:
        notes.append(f"{cut * scale:.2g} of the error is from {found.steps} Lanczos steps: take more steps=")
    return LogDeterminant(sign, scale * value, scale * stderr, products, method, found.partial, tuple(notes))


def _floor(found: Quadrature) -> float:
    """Eigenvalues smaller than this are rounding."""
    return found.rounding * max(float(np.abs(rule.nodes).max()) for rule in found.rules)


def _is_null(found: Quadrature, floor: float) -> bool:
    """Whether zero is an eigenvalue: each probe has found it."""
    return all(rule.residuals[np.abs(rule.nodes).argmin()] <= 2 * floor for rule in found.rules)


def _trace_log(found: Quadrature) -> tuple[float, float, float]:
    """(tr log|A|, its standard error, the part of that which is from too few steps).

    The last is extrapolated from the changes between a half, three quarters and all of the steps, as if the error fell
    geometrically, times 2.5: for spectra that reach zero it falls as a power of the steps, the first to the fourth.
    """
    floor = max(_floor(found), np.finfo(float).tiny)

    def log(values: Any) -> Any:
        return np.log(np.maximum(np.abs(values), floor))

    n, steps = found.size, found.steps
    value, stderr = found.mean(log)
    if found.exact or steps >= n:
        return n * value, n * stderr, 0.0
    half, more = (found.mean(log, max(1, k * steps // 4))[0] for k in (2, 3))
    last, before = abs(value - more), abs(more - half)
    ratio = min(last / before, 0.9) if before else 0.0
    cut = _CAUTION * last * ratio / (1 - ratio)
    return n * value, n * math.hypot(stderr, cut), n * cut


def _enough(of: Operator, probes: int, rtol: float | None, limit: int | None, source: Any) -> tuple[int, int]:
    """(Lanczos steps whose error is below that of sampling, products it took to find out), from one probe."""
    steps, spent = _STEPS, 0
    while True:
        most = min(_MOST_STEPS, of.shape[0])
        if steps >= most or (limit is not None and 4 * (spent + 2 * steps) > limit):
            return min(steps, most), spent
        found = quadrature(of, "slogdet", source, probes=1, steps=steps, budget=None)
        spent += found.products
        value, stderr, cut = _trace_log(found)
        sampling = math.sqrt(max(stderr**2 - cut**2, 0.0) / (probes if rtol is None else 1))
        aim = 0.3 * (sampling if rtol is None else rtol * abs(value))
        if cut <= aim or found.products < steps:
            return steps, spent
        steps *= 2


def _sign_by_counting(operator: Operator, notes: list[str]) -> float | None:
    from crelle.estimators._inertia import inertia

    try:
        counts = inertia(operator, None)
    except CrelleError:
        notes.append("the sign is unknown: the negative eigenvalues cannot be counted")
        return None
    return 0.0 if counts.zero else (-1.0) ** counts.negative
