"""The first-run check in JAX: one random product of the answer against an unbatched JVP or VJP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crelle._arrays import ArrayType, total_size
from crelle.backends._protocol import CheckReport, Method
from crelle.backends.jax import run


def random_vector(size: int, seed: int) -> np.ndarray[Any, Any]:
    """A fixed random direction; the same in every session, so that a failed check can be repeated."""
    return np.random.default_rng(seed).standard_normal(size)


def _leaves(vector: Any, types: Sequence[ArrayType]) -> list[Any]:
    cut = np.cumsum([t.size for t in types])[:-1]
    parts = jnp.split(vector, cut) if len(types) > 1 else [vector]
    return [part.reshape(t.shape).astype(t.dtype) for part, t in zip(parts, types, strict=True)]


def _ravel(leaves: Sequence[Any]) -> Any:
    flat = [jnp.ravel(leaf) for leaf in leaves]
    return jnp.concatenate(flat) if len(flat) != 1 else flat[0]


def report(trace: Any, function: Callable[[Any], Any], flat: Any, answer: Any, method: Method) -> CheckReport:
    """Compare, look for NaN and inf, and say what was compared with what."""
    request, inputs = trace.request, trace.inputs
    outer = inputs if request.kind == "hessian" else trace.outputs
    m, n = total_size(tuple(outer)), total_size(tuple(inputs))
    if m == 0 or n == 0:
        return CheckReport(0.0, 0.0, "nothing: the matrix is empty")
    derivative = answer
    if request.value:
        derivative = answer[1]
    elif request.has_aux:
        derivative = answer[0]
    parts = [derivative] if request.flat else jax.tree.leaves(derivative)
    selected = method.selected
    u = np.zeros(m)
    weights: Any = None
    if selected.entries is not None:
        row = int(selected.entries[0][0]) if len(selected.entries[0]) else 0
        u[row] = 1.0
    else:
        rows = np.arange(m) if selected.rows is None else selected.rows
        weights = random_vector(len(rows), 0)
        np.add.at(u, rows, weights)

    def reference(dynamic: Any) -> tuple[Any, Any]:
        """(uᵀJ by one unbatched pass, value)."""
        g, active = function(dynamic)
        seed = _leaves(jnp.asarray(u), outer)
        if request.kind == "hessian":
            mode = "reverse-over-reverse" if method.mode != "reverse-over-reverse" else "forward-over-reverse"
            values, _, linear = run.linearise_gradient(g, active, mode, request.holomorphic)
            return _ravel(linear(*seed)), _ravel(values)
        values, _, pull = run.linearise(g, active, "reverse")
        return _ravel(pull(*seed)), _ravel(values)

    def product(parts: Sequence[Any]) -> Any:
        """uᵀJ from the answer."""
        if request.flat:
            matrix = parts[0]
            if selected.entries is not None:
                mine = np.flatnonzero(selected.entries[0] == np.flatnonzero(u)[0])
                return jnp.atleast_1d(matrix)[mine]
            if selected.drop_col:
                matrix = matrix[..., None]
            if selected.drop_row or request.kind == "gradient" and matrix.ndim == 1:
                matrix = matrix[None]
            return jnp.asarray(weights).astype(matrix.dtype) @ matrix
        cut, total = 0, []
        width = len(inputs)
        for i, t in enumerate(outer):
            w = jnp.asarray(u[cut : cut + t.size])
            cut += t.size
            row = parts[i * width : (i + 1) * width]
            total.append(_ravel([w.astype(b.dtype) @ b.reshape(t.size, s.size) for b, s in zip(row, inputs, strict=True)]))
        return sum(total[1:], total[0])

    def compare(dynamic: Any, parts: Sequence[Any]) -> tuple[Any, ...]:
        expected, values = reference(dynamic)
        if selected.entries is not None:
            mine = selected.entries[1][selected.entries[0] == np.flatnonzero(u)[0]]
            expected = expected[mine]
        elif selected.cols is not None:
            expected = expected[selected.cols]
        got = product(parts)
        both = jnp.isfinite(expected) & jnp.isfinite(got)
        error = jnp.max(jnp.where(both, jnp.abs(got - expected), 0.0), initial=0.0)
        scale = jnp.max(jnp.where(both, jnp.abs(expected), 0.0), initial=0.0)
        finite = jnp.stack([jnp.all(jnp.isfinite(p)) for p in parts])
        return error, scale, jnp.all(jnp.isfinite(values)), finite

    try:
        run_compare = compare if trace.eager else jax.jit(compare)
        error, scale, value_finite, finite = run_compare(flat.dynamic, parts)
        name = "VJP" if request.kind != "hessian" else "unbatched HVP"
    except Exception as failure:  # no reverse rule: there is nothing independent to compare with
        return CheckReport(0.0, 0.0, f"nothing: {type(failure).__name__} in the other mode")
    nonfinite = "" if bool(value_finite) else "the value of f is not finite (NaN or inf)"
    if not bool(jnp.all(finite)):
        nonfinite = _where(parts, finite, bool(value_finite))
    return CheckReport(float(error), float(scale), name, nonfinite)


def _where(parts: Sequence[Any], finite: Any, value_finite: bool) -> str:
    part = np.asarray(parts[int(np.argmin(np.asarray(finite)))])
    entry = np.unravel_index(int(np.argmin(np.isfinite(part))), part.shape)
    index = ", ".join(map(str, entry))
    where = f"entry [{index}] of the derivative is {part[entry]}"
    return where if value_finite else f"the value of f is not finite (NaN or inf), and {where}"
