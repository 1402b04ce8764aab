"""Products with a linear program in JAX: one dispatch for one vector; loop, or chunks at once, for many.

Whether XLA computes several products at once faster than one by one depends on the program: matrix products with one
vector gain a lot, convolutions take two to four times as long for each, and thirty times the memory. So it is measured,
once the time that it might save is more than the time to compile it. Never a loop of XLA's own (``lax.map``): a
convolution inside one is 35 times slower on a CPU.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from crelle._arrays import ArrayType, total_size
from crelle.backends._host import free_host_memory
from crelle.backends.jax.vectors import cut, join
from crelle.operators._spaces import common_dtype

Leaves = list[Any]
Apply = Callable[[Leaves, Leaves], Leaves]

#: Seconds of compilation from which on a program is compiled for one form of vectors alone, and others are converted.
DEAR = 0.3
#: Several at once are tried when products took this many times as long as compiling one of them.
PATIENCE = 2.0
#: They must be this much faster for each vector, for they take more memory,
GAIN = 1.15
#: and at most this share of what is free.
SHARE = 0.25
#: Rows at once: of a product that takes less than a tenth of a millisecond, and of others.
SMALL_CHUNK, CHUNK = 256, 16


class Products:
    """v ↦ L v for one linear map L of trees, whose coefficients are arguments: compiled once, at any coefficients.

    One vector is a ``"tree"`` (list of leaves), ``"flat"`` ([size]) or a ``"row"`` ([1, size]); a block [count, size].

    Attributes:
        chunk: rows that are computed at once; 1 is a loop, and ``None`` not yet decided.
    """

    def __init__(
        self, apply: Apply, given: Sequence[ArrayType], made: Sequence[ArrayType], *, compiled: bool = True
    ) -> None:
        self._apply, self._given, self._made, self._compiled = apply, tuple(given), tuple(made), compiled
        self._dtype = common_dtype(self._made)
        self._forms: dict[str, Callable[[Leaves, Any], Any]] = {}
        self._seconds = self._spent = 0.0
        self._together = self._jitted(self._all)
        self.chunk: int | None = None

    def _jitted(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(f) if self._compiled else f

    # -- one vector

    def one(self, form: str, coefficients: Leaves, vector: Any) -> Any:
        """The product with one vector, in the form in which it came."""
        function = self._forms.get(form)
        if function is not None:
            return function(coefficients, vector)
        other = next(iter(self._forms), None)
        if other is not None and self._seconds > DEAR:
            inner, enter, leave = (
                self._forms[other], _conversion(form, other, self._given), _conversion(other, form, self._made),
            )  # fmt: skip
            self._forms[form] = function = lambda coefficients, v: leave(inner(coefficients, enter(v)))
            return function(coefficients, vector)
        self._forms[form] = function = self._jitted(functools.partial(self._formed, form))
        start = time.perf_counter()
        result = function(coefficients, vector)
        self._seconds = max(self._seconds, time.perf_counter() - start)
        return result

    def _formed(self, form: str, coefficients: Leaves, vector: Any) -> Any:
        leaves = _converted(form, "tree", self._given, vector)
        leaves = [cast(leaf, t.dtype) for leaf, t in zip(leaves, self._given, strict=True)]
        return _converted("tree", form, self._made, self._apply(coefficients, leaves))

    # -- blocks

    def block(self, coefficients: Leaves, block: Any) -> Any:
        """The product with each row."""
        count = len(block)
        if not count:
            return jnp.zeros((0, total_size(self._made)), self._dtype)
        if count == 1:
            return self.one("row", coefficients, block)
        if not self._compiled or isinstance(block, jax.core.Tracer):
            return self._together(coefficients, block)
        result, done = jnp.zeros((count, total_size(self._made)), self._dtype), 0
        if self.chunk is None:
            result, done = self._watched(coefficients, block, result)
        chunk = self.chunk or 1
        if chunk > 1 and done == 0 and chunk // 2 <= count < chunk:
            padded = jnp.concatenate([block, jnp.zeros((chunk - count, block.shape[1]), block.dtype)])
            return _take(self._together(coefficients, padded), 0, count)
        if count < chunk:
            chunk = 1
        while done < count:
            start = min(done, count - chunk)  # the last chunk may compute some rows again
            rows = _take(block, start, chunk)
            some = self.one("row", coefficients, rows) if chunk == 1 else self._together(coefficients, rows)
            result = _put(result, start, some)
            done = start + chunk
        return result

    def _all(self, coefficients: Leaves, block: Any) -> Any:
        """All rows at once; one by one where an operation cannot be batched."""
        leaves = cut(block, self._given)
        try:
            found = jax.vmap(lambda *row: self._apply(coefficients, list(row)))(*leaves)
        except Exception:  # a rule that is missing for batches shows itself in many ways
            if self._compiled:
                raise
            rows = [self._formed("row", coefficients, block[i : i + 1]) for i in range(len(block))]
            return jnp.concatenate(rows)
        return join(list(found), self._dtype)

    def _watched(self, coefficients: Leaves, block: Any, result: Any) -> tuple[Any, int]:
        """The first rows, one by one and timed; the way that the others go is decided if it is worth it."""
        count, done = len(block), 0
        for timed in (1, 3):  # the first may compile
            start, end = time.perf_counter(), min(count, done + timed)
            for i in range(done, end):
                result = _put(result, i, self.one("row", coefficients, _take(block, i, 1)))
            jax.block_until_ready(result)
            seconds = (time.perf_counter() - start) / max(1, end - done)
            done = end
        self._spent += count * seconds
        if count - done >= 4 and self._spent > PATIENCE * self._seconds:
            self.chunk = self._decided(coefficients, block, seconds)
        return result, done

    def _decided(self, coefficients: Leaves, block: Any, seconds: float) -> int:
        """How many rows at once: compiled, and run twice."""
        width = total_size(self._given) + total_size(self._made)
        free = free_host_memory() if jax.default_backend() == "cpu" else None
        limit = min(SMALL_CHUNK if seconds < 1e-4 else CHUNK, len(block))
        chunk = 1 << (limit.bit_length() - 1)
        rows = _take(block, 0, chunk)
        try:
            lowered = self._together.lower(coefficients, rows)  # type: ignore[attr-defined]
            analysis = lowered.compile().memory_analysis()
            need = chunk * width * 8 + (analysis.temp_size_in_bytes if analysis is not None else 0)
            if free is not None and need > SHARE * free:
                return 1
            jax.block_until_ready(self._together(coefficients, rows))
            start = time.perf_counter()
            jax.block_until_ready(self._together(coefficients, rows))
        except Exception:  # a rule that is missing for batches, or memory
            return 1
        return chunk if GAIN * (time.perf_counter() - start) < chunk * seconds else 1


def cast(leaf: Any, dtype: Any) -> Any:
    """A leaf with another dtype; the real part where that is real."""
    leaf = jnp.asarray(leaf)
    if jnp.iscomplexobj(leaf) and not jnp.issubdtype(dtype, jnp.complexfloating):
        leaf = leaf.real
    return leaf.astype(dtype)


def _converted(form: str, to: str, types: tuple[ArrayType, ...], vector: Any) -> Any:
    """A vector in another form."""
    if form == to:
        return vector
    if form == "tree":
        row = join([jnp.asarray(leaf)[None] for leaf in vector], common_dtype(types))
    else:
        row = vector[None] if form == "flat" else vector
    if to == "tree":
        return [leaf[0] for leaf in cut(row, types)]
    return row[0] if to == "flat" else row


@functools.lru_cache(maxsize=256)
def _conversion(form: str, to: str, types: tuple[ArrayType, ...]) -> Callable[[Any], Any]:
    return jax.jit(functools.partial(_converted, form, to, types))


@functools.partial(jax.jit, static_argnums=2)
def _take(block: Any, start: Any, count: int) -> Any:
    """Some rows; the same compiled function wherever they start."""
    return jax.lax.dynamic_slice_in_dim(block, start, count)


@functools.partial(jax.jit, donate_argnums=0)
def _put(block: Any, start: Any, rows: Any) -> Any:
    """In the memory of the old block."""
    return jax.lax.dynamic_update_slice_in_dim(block, rows, start, 0)
