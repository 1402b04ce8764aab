"""The trace of an operator: which way to find it, and the change from one to another on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._errors import CrelleValueError, describe
from crelle.estimators import _control, _sketches
from crelle.estimators._coloured import coloured_products, count_of, diagonal_colors, pattern_of, unit_products
from crelle.estimators._estimate import Estimate, source_for, verify_limits
from crelle.estimators._hutchinson import FIRST, Floats, Mean, Probes, quadratic_forms, sample, to_host
from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from crelle.operators._operator import Operator

METHODS = ("auto", "exact", "hutchinson", "hutch++", "xtrace", "xnystrace")
#: The fewest products that a method can do something with.
_LEAST = {"hutch++": 3, "xtrace": 2}
#: Change to XTrace if its variance, as the products foretell it, is this share of Hutchinson's for the same products.
_GAIN = 0.8
#: Bytes of products that are kept so that they may serve as a sketch.
_KEPT_BYTES = 500_000_000


def trace(
    operator: Operator, method: str, rtol: float | None, budget: int | None, control: Any,
    seed: int | None, key: Any, generator: Any,
) -> Estimate:  # fmt: skip
    """See :meth:`crelle.operators.Operator.trace`."""
    operator._verify_square("trace")
    verify_limits(operator, "trace", rtol, budget)
    _verify_method(operator, method, budget)
    source = source_for(operator, "trace", seed, key, generator)
    probes = Probes(operator, "trace", source)
    n = operator.shape[0]
    if n == 0:
        return Estimate(0.0, 0.0, 0, "exact, empty")
    limit = n if budget is None else budget
    if method == "exact":
        return _exact(probes)
    known = None if control is None or control is False else _control.control_of(operator, control)
    if method == "auto":
        own = None if control is False else _control.gauss_newton(operator)
        found = None if own is None else _control.proved_equal(own, limit)
        found = found or _of_gauss_newton(operator, limit) or _by_structure(probes, limit)
        if found is not None:
            return found
        if n <= limit:
            return _exact(probes)
        if control is None and own is not None and own.passes <= _control.SHARE * limit:
            known = own.control()
    if known is not None and method in ("auto", "hutchinson"):
        return _control.hutchinson(probes, known, rtol, limit)
    if method == "hutchinson":
        mean = sample(Mean(), lambda count: quadratic_forms(probes, count), rtol, limit, "trace, Hutchinson")
        return _estimate(probes, mean)
    if method == "auto":
        return _auto(probes, rtol, limit)
    return _METHODS[method](probes, rtol, limit)


_METHODS: dict[str, Callable[[Probes, float | None, int], Estimate]] = {
    "hutch++": _sketches.hutch_plus_plus,
    "xtrace": _sketches.xtrace,
    "xnystrace": _sketches.xnystrace,
}


def _verify_method(operator: Operator, method: str, budget: int | None) -> None:
    if method not in METHODS:
        raise CrelleValueError(
            describe(f"{operator!r}.trace(method={method!r})", expected=" | ".join(f'"{m}"' for m in METHODS))
        )
    least = _LEAST.get(method, 1)
    if budget is not None and budget < least:
        raise CrelleValueError(
            describe(f"{operator!r}.trace(method={method!r}, budget={budget})", expected=f"at least {least} products",
                     try_="method='hutchinson'")
        )  # fmt: skip


def _estimate(probes: Probes, mean: Mean, notes: tuple[str, ...] = ()) -> Estimate:
    return Estimate(mean.value, mean.stderr, probes.count, "Hutchinson", mean.partial, notes)


def _exact(probes: Probes) -> Estimate:
    total = 0.0
    for seeds, found in unit_products(probes):
        total += float(probes.numbers((seeds * found).sum(1)).sum())
    return Estimate(total, 0.0, probes.count, "exact, all columns")


def _of_gauss_newton(operator: Any, limit: int) -> Estimate | None:
    """Of a Gauss-Newton matrix itself, if it is within the limit."""
    if not hasattr(operator, "exact_trace") or operator.outputs_per_sample > limit:
        return None
    value = operator.exact_trace()
    if value is None:  # a sample's outputs depend on other samples
        return None
    return Estimate(float(value), 0.0, operator.outputs_per_sample, "exact, output by output")


def _by_structure(probes: Probes, limit: int) -> Estimate | None:
    """By coloured products; ``None`` where the structure is not known, or does not help."""
    pattern = pattern_of(probes.operator)
    if pattern is None:
        return None
    colors = diagonal_colors(pattern)
    if count_of(colors) > min(limit, probes.operator.shape[0] - 1):
        return None
    total = 0.0
    for seeds, found in coloured_products(probes, colors):
        total += float(probes.numbers((seeds * found).sum(1)).sum())
    return Estimate(total, 0.0, probes.count, "exact, by structure")


def _auto(probes: Probes, rtol: float | None, limit: int) -> Estimate:
    """Hutchinson, until its own products show that they span most of the matrix: then they start XTrace."""
    operator, vectors = probes.operator, vectors_of(probes.operator.backend)
    kept: list[tuple[Any, Any]] = []
    row = max(operator.shape[0], 1) * 8
    most = min(limit // 2, _KEPT_BYTES // (2 * row))
    mean = Mean()

    def draw(count: int) -> Iterator[Floats]:
        for block, found in probes.chunks(count):
            yield probes.numbers((block * found).sum(1))
            if len(mean.samples) <= most:
                kept.append((block, found))

    share = 0.0
    for look in _looks(most):
        sample(mean, draw, rtol, look, "trace")
        if mean.partial or mean.is_within(rtol) or len(mean.samples) < look:
            return _estimate(probes, mean)
        w, y = (blocks[0] if len(blocks) == 1 else vectors.concatenate(blocks) for blocks in zip(*kept, strict=True))
        share, square = captured_share(operator, y)
        # XTrace after twice the products, against Hutchinson after as many
        if 2 * (1 - share) * square / look < _GAIN * np.var(mean.samples, ddof=1) / (2 * look):
            try:
                found = _sketches.xtrace(probes, rtol, limit, begun=(w, y))
            except KeyboardInterrupt:
                return replace(_estimate(probes, mean), partial=True)
            note = f"began with Hutchinson; {look // 2} products hold {share:.0%} of ‖A‖², so XTrace goes on"
            return replace(found, notes=(note, *found.notes))
        if rtol is not None and mean.next_look(rtol, limit) < 2 * look:
            break  # Hutchinson will be there before a sketch is
    kept.clear()
    most = 0
    sample(mean, draw, rtol, limit, "trace")
    note = f"the products hold {share:.0%} of ‖A‖²: too little for XTrace to pay" if share else ""
    return _estimate(probes, mean, (note,) if note else ())


def _looks(most: int) -> Iterator[int]:
    """Numbers of probes at which the captured share is measured."""
    look = FIRST
    while look < most:
        yield look
        look *= 2
    if most >= FIRST // 2:
        yield most


def captured_share(operator: Operator, products: Any) -> tuple[float, float]:
    """(E‖QᵀA z‖²/E‖A z‖², E‖A z‖²) for a Q that spans one half of the products, measured with the other half.

    That is ‖QᵀA‖²/‖A‖² and ‖A‖² in the Frobenius norm, without further products.
    """
    half = len(products) // 2
    q, _ = vectors_of(operator.backend).orthonormal(products[:half])
    rest = products[half:]
    inside = rest @ q.T
    square = float(to_host(operator, (rest * rest).sum(1)).mean())
    within = float(to_host(operator, (inside * inside).sum(1)).mean())
    return (within / square if square else 0.0), square
