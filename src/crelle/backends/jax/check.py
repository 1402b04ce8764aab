"""The first-run check in JAX: one random product of the answer against an unbatched JVP or VJP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crelle._arrays import ArrayType, total_size
from crelle._select import Selected
from crelle.backends._protocol import CheckReport, Method
from crelle.backends.jax import run
from crelle.backends.jax.seeds import Linear

#: Ways to compute the product anew, for Hessians and for Jacobians. One that the answer did not take comes first.
_NESTINGS = ("reverse-over-reverse", "forward-over-reverse", "reverse-over-forward")
_DIRECTIONS = ("reverse", "forward")


def random_vector(size: int) -> np.ndarray[Any, Any]:
    """A fixed random direction; the same in every session, so that a failed check can be repeated."""
    return np.random.default_rng(0).standard_normal(size)


def report(
    trace: Any,
    method: Method,
    function: Callable[[Any, Any], tuple[run.Flat, list[Any]]],
    consts: list[Any],
    dynamic: list[Any],
    answer: Any,
) -> CheckReport:
    """Compare, look for NaN and inf, and say what was compared with what.

    Args:
        function: from captured constants and arrays to (f as a function of the differentiated leaves, their values).
        answer: what the user will get.
    """
    request, inputs = trace.request, trace.inputs
    if request.value or request.has_aux:
        answer = answer[1 if request.value else 0]
    parts = [answer] if request.flat else jax.tree.leaves(answer)
    outer = inputs if request.kind == "hessian" else trace.outputs
    if not sum(part.size for part in parts):
        return CheckReport(0.0, 0.0, "nothing: there are no entries")
    failure = ""
    ways = _NESTINGS if request.kind == "hessian" else _DIRECTIONS
    for way in sorted(ways, key=lambda way: way == method.mode):
        if way in trace.unavailable:
            continue
        product = _Product(parts, outer, inputs, method.selected, request.flat, "cols" if way == "forward" else "rows")

        def compare(consts: Any, dynamic: Any, parts: Any, way: str = way, product: _Product = product) -> Any:
            g, active = function(consts, dynamic)
            if request.kind == "hessian":
                values, _, linear = run.linearise_gradient(g, active, way, request.holomorphic)
            else:
                values, _, linear = run.linearise(g, active, way)
            expected, got = product.expected(linear), product.of(parts)
            both = jnp.isfinite(expected) & jnp.isfinite(got)
            error = jnp.max(jnp.where(both, jnp.abs(got - expected), 0.0), initial=0.0)
            scale = jnp.max(jnp.where(both, jnp.abs(expected), 0.0), initial=0.0)
            finite = jnp.stack([jnp.all(jnp.isfinite(part)) for part in parts])
            return error, scale, jnp.all(jnp.stack([jnp.all(jnp.isfinite(v)) for v in values])), finite

        try:
            found = (compare if trace.eager else jax.jit(compare))(consts, dynamic, parts)
            error, scale, value_finite, finite = jax.device_get(found)
        except Exception as problem:  # a rule is missing in this direction
            failure = failure or f"{type(problem).__name__} in {way}"
            continue
        nonfinite = "" if value_finite else "the value of f is not finite (NaN or inf)"
        if not finite.all():
            where = _where(parts, finite, trace.names, request.flat)
            nonfinite = f"{nonfinite}, and {where}" if nonfinite else where
        name = {"reverse": "VJP", "forward": "JVP"}.get(way, "unbatched HVP")
        return CheckReport(float(error), float(scale), name, nonfinite)
    return CheckReport(0.0, 0.0, f"nothing: no product can be formed in another way ({failure})")


class _Product:
    """A random combination of rows (``side="rows"``) or columns of the matrix, restricted to what was asked for.

    One class for both sides: the rows of J are the columns of its transpose.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        outer: Sequence[ArrayType],
        inner: Sequence[ArrayType],
        selected: Selected,
        flat: bool,
        side: str,
    ) -> None:
        self.outer, self.inner, self.flat, self.side = outer, inner, flat, side
        self.summed, self.kept = (outer, inner) if side == "rows" else (inner, outer)
        rows, cols = selected.rows, selected.cols
        self.shape = (
            total_size(tuple(outer)) if rows is None else len(rows),
            total_size(tuple(inner)) if cols is None else len(cols),
        )
        self.vector = np.zeros(total_size(tuple(self.summed)))
        self.entries: Any = None
        if selected.entries is not None:  # of the entries, those in the row or column of the first one
            mine, others = selected.entries if side == "rows" else selected.entries[::-1]
            self.entries = np.flatnonzero(mine == mine[0])
            self.vector[mine[0]] = 1.0
            self.wanted: Any = others[self.entries]
            return
        picked, self.wanted = (rows, cols) if side == "rows" else (cols, rows)
        picked = np.arange(len(self.vector)) if picked is None else picked
        self.weights = random_vector(len(picked))
        np.add.at(self.vector, picked, self.weights)

    def expected(self, linear: Linear) -> Any:
        """The product, from one unbatched pass."""
        cut = np.cumsum([t.size for t in self.summed])[:-1]
        pieces = [
            jnp.asarray(piece.reshape(t.shape)).astype(t.dtype)
            for piece, t in zip(np.split(self.vector, cut), self.summed, strict=True)
        ]
        product = _ravel(linear(*pieces))
        return product if self.wanted is None else product[self.wanted]

    def of(self, parts: Sequence[Any]) -> Any:
        """The product, from the answer."""
        if self.entries is not None:
            return jnp.ravel(parts[0])[self.entries]
        if self.flat:
            matrix = _precise(parts[0].reshape(self.shape))
            weights = jnp.asarray(self.weights).astype(matrix.dtype)
            return weights @ matrix if self.side == "rows" else matrix @ weights
        offsets = np.cumsum([0, *(t.size for t in self.summed)])
        width, sums = len(self.inner), []
        for k in range(len(self.kept)):
            terms = []
            for s in range(len(self.summed)):
                i, j = (s, k) if self.side == "rows" else (k, s)
                block = _precise(parts[i * width + j].reshape(self.outer[i].size, self.inner[j].size))
                weights = jnp.asarray(self.vector[offsets[s] : offsets[s + 1]]).astype(block.dtype)
                terms.append(weights @ block if self.side == "rows" else block @ weights)
            sums.append(sum(terms[1:], terms[0]))
        return _ravel(sums)


def _precise(array: Any) -> Any:
    """Sums of 16-bit numbers are taken in 32 bits."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _ravel(leaves: Sequence[Any]) -> Any:
    flat = [jnp.ravel(leaf) for leaf in leaves]
    return jnp.concatenate(flat) if len(flat) != 1 else flat[0]


def _where(parts: Sequence[Any], finite: Any, names: Sequence[str], flat: bool) -> str:
    """The first entry that is not finite."""
    which = int(np.argmin(finite))
    part = np.asarray(parts[which])
    entry = np.unravel_index(int(np.argmin(np.isfinite(part))), part.shape)
    index = f"entry [{', '.join(map(str, entry))}] of " if entry else ""
    name = "" if flat or len(names) == 1 else f" with respect to {names[which % len(names)]}"
    return f"{index}the derivative{name} is {part[entry]}"
