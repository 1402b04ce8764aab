"""Products of NumPy functions by differences: along one direction, from the whole Jacobian, of gradients.

The directional difference is Ridders' extrapolation, whose error is estimated entry by entry: C. J. F. Ridders,
*Accurate computation of F'(x) and F'(x)F''(x)*, Advances in Engineering Software 4(2), 75-76 (1982); Press et al.,
*Numerical Recipes*, 3rd ed., 5.7 (2007).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crelle import _trees
from crelle._call import bind
from crelle._errors import CrelleWarning, describe
from crelle._prepare import Prepared
from crelle._request import make_request
from crelle.backends._protocol import Call
from crelle.backends.numpy import steps

Function = Callable[..., Any]
Array = np.ndarray[Any, np.dtype[Any]]

ZERO_DTYPE = None
CASTS = True


def compiled(function: Function) -> Function:
    """As it is: there is no compiler that pays for one call."""
    return function


#: Estimated errors above eps to this power are warned of: four figures of sixteen.
POOR = 0.25


def jvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """Ridders' difference along the tangents."""
    result = f(*_fresh(primals))
    value, *aux = result if has_aux else (result,)
    leaves, tree = _trees.flatten(value)
    at = _Line(primals, tangents)

    def moved(s: float) -> Array:
        result = f(*at(s))
        return _raveled(result[0] if has_aux else result)

    start = _raveled(value)
    slope, error = along(moved, at, start)
    _warn_if_poor("jvp", slope, error, at, start)
    return value, _trees.unflatten(tree, _shaped(slope, leaves)), *aux


def vjp(f: Function, primals: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
    """uᵀJ with the whole Jacobian, which is formed at the first product: a black box has no reverse mode."""
    result = f(*_fresh(primals))
    value, *aux = result if has_aux else (result,)
    primals = _fresh(primals)  # what the caller does to the arrays later does not matter
    inputs, in_tree = _trees.flatten(primals)

    @functools.cache
    def matrix() -> Any:
        holomorphic = any(np.iscomplexobj(leaf) for leaf in inputs)
        return _Whole("jacobian", f, primals, has_aux=has_aux, holomorphic=holomorphic)(primals)

    def pull(cotangents: Any) -> tuple[Any, ...]:
        row = _raveled(cotangents) @ matrix()
        return _trees.unflatten(in_tree, _shaped(row, inputs))  # type: ignore[no-any-return]

    return value, pull, *aux


def hvp(f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Ridders' difference of gradients along the tangents."""
    inputs, in_tree = _trees.flatten(primals)
    gradient = _Whole("gradient", f, primals, value=True, error=True)
    at = _Line(primals, tangents)
    value, slope, noise = gradient(_fresh(primals))
    product, error = along(lambda s: gradient(at(s))[1], at, slope, noise)
    _warn_if_poor("hvp", product, error, at, slope)
    return value, _trees.unflatten(in_tree, _shaped(product, inputs))


def checked(pull: Function, check: Function) -> Function:
    """A closure."""

    def vjp_fn(cotangents: Any) -> Any:
        check(cotangents)
        return pull(cotangents)

    return vjp_fn


class _Whole:
    """A whole flat Jacobian or gradient with respect to all arguments, planned once for this very f."""

    def __init__(self, kind: str, f: Function, primals: tuple[Any, ...], **flags: bool) -> None:
        everything = tuple(range(len(primals)))
        self._request = make_request(kind, f, argnums=everything, memory=None, mode="auto", chunk=None, wrt="inputs",
                                     flatten=True, check=False, **flags)  # fmt: skip
        self._f = f
        call = self._call(primals)
        self._trace = call.backend.trace(call)
        self._prepared = Prepared(call, self._trace)

    def _call(self, primals: tuple[Any, ...]) -> Call:
        return bind(self._f, primals, {}, self._request)

    def __call__(self, primals: tuple[Any, ...]) -> Any:
        call = self._call(primals)
        found = self._prepared.run(call, self._trace.match(call))
        return found[0] if self._request.has_aux else found


class _Line:
    """s ↦ x + s v, as trees of fresh arrays.

    Attributes:
        unit: the largest s that changes no entry of x by more than its size; 0 where v is zero.
        epsilon: spacing of the least precise of the arrays.
    """

    def __init__(self, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> None:
        self._x, self._tree = _trees.flatten(primals)
        self._v = [np.asarray(v) for v in _trees.flatten(tangents)[0]]
        kinds = [np.asarray(x).dtype for x in self._x]
        self.epsilon = max((float(np.finfo(kind).eps) for kind in kinds), default=0.0)
        moved = np.abs(_raveled(self._v)) / steps.scales(_raveled(self._x))
        largest = float(moved.max(initial=0.0))
        # a power of two, so that products with it are exact
        self.unit = 2.0 ** -np.ceil(np.log2(largest)) if largest > 0 else 0.0

    def __call__(self, s: float) -> tuple[Any, ...]:
        moved = []
        for x, v in zip(self._x, self._v, strict=True):
            kind = np.asarray(x).dtype
            moved.append(np.asarray(x + s * v).astype(kind)[()])
        return _trees.unflatten(self._tree, moved)  # type: ignore[no-any-return]


def along(f: Callable[[float], Array], at: _Line, value: Array, noise: Array | float = 0.0) -> tuple[Array, Array]:
    """f'(0) of a vector function of one number, and the estimated error of each entry; about a dozen evaluations.

    Central differences with steps 2^-5, 2^-6, ... of the size of x (2^-2, 2^-3, ... in float32), extrapolated until
    nothing is gained beyond rounding. A difference with a step of eps^(1/3) guards against steps that overlook how f
    behaves close by.

    Args:
        f: the function of s, at x + s v.
        at: the line, which knows the size of its steps.
        value: f(0), flat.
        noise: what f is uncertain by, beyond rounding.
    """
    kind = np.result_type(value, np.float32)
    if not at.unit or not value.size:
        return np.zeros(value.shape, kind), np.zeros(value.shape)
    epsilon = max(at.epsilon, float(np.finfo(kind).eps))
    smallest = epsilon ** (1 / 3)

    def difference(share: float) -> tuple[Array, Array]:
        """The difference, and how far rounding may have moved it."""
        s = share * at.unit
        plus, minus = f(s), f(-s)
        return (plus - minus) / (2 * s), (epsilon * np.maximum(np.abs(plus), np.abs(minus)) + noise) / s

    with np.errstate(all="ignore"):  # a long step may leave the domain of f
        guard, guard_rounding = difference(smallest)
        best, error = guard, np.where(np.isfinite(guard), np.abs(guard) + 10 * guard_rounding, np.inf)
        before: list[Array] = []
        share = 2.0 ** -(-np.log2(epsilon) // 10)
        while share > smallest:
            try:
                first, rounding = difference(share)
            except (ArithmeticError, ValueError):  # outside of the domain, in pure Python
                before, share = [], share / 2
                continue
            row = [first]
            for j, previous in enumerate(before, 1):
                row.append(row[-1] + (row[-1] - previous) / (4.0**j - 1))
                spread = np.maximum(np.abs(row[j] - row[j - 1]), np.abs(row[j] - previous))
                # the error of a difference goes with the square of its step
                expected = 10 * guard_rounding + 10 * np.abs(row[0] - row[j]) * (smallest / share) ** 2
                away = np.abs(row[j] - guard)
                estimate = spread + rounding + np.where(away > expected, away, 0.0)
                better = estimate < error
                best, error = np.where(better, row[j], best), np.where(better, estimate, error)
            if bool(np.all(error <= 4 * (rounding + epsilon * np.abs(best)))):
                break
            before, share = row, share / 2
    return best, error


def _fresh(tree: Any) -> Any:
    """Copies of the arrays, which f or the caller may change."""
    leaves, definition = _trees.flatten(tree)
    return _trees.unflatten(definition, [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves])


def _raveled(tree: Any) -> Array:
    leaves = [np.asarray(leaf).reshape(-1) for leaf in _trees.flatten(tree)[0]]
    return np.concatenate(leaves) if leaves else np.zeros(0)


def _shaped(flat: Array, like: Sequence[Any]) -> list[Any]:
    """The vector cut into leaves of the shapes and kinds of others; integers become floats."""
    leaves, start = [], 0
    for leaf in map(np.asarray, like):
        part = flat[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
        kind = leaf.dtype if leaf.dtype.kind in "fc" else np.dtype(float)
        part = part.real if kind.kind == "f" else part
        leaves.append(part.astype(kind)[()])
    return leaves


def _warn_if_poor(name: str, product: Array, error: Array, at: _Line, value: Array) -> None:
    """Say so if the differences did not settle; NaN and inf speak for themselves."""
    finite = np.isfinite(product) & np.isfinite(value)
    if not at.unit or not finite.any():
        return
    worst, largest = float(error[finite].max()), float(np.abs(product[finite]).max())
    natural = float(np.abs(value[finite]).max()) / at.unit  # that of a function which changes by its size with x
    if worst > at.epsilon**POOR * max(largest, natural):
        warnings.warn(
            describe(
                f"crelle.{name}: the differences have not settled: estimated error {worst:.1g}, "
                f"largest entry {largest:.3g}",
                likely="f has a kink or a jump close by, or is noisy: an inner iteration, a table, random numbers",
                try_="a tighter tolerance inside f, another point, or JAX or PyTorch for f",
            ),
            CrelleWarning,
            stacklevel=4,
        )
