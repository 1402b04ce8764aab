"""Values that can be computed before f is run: evaluated when asked for, in NumPy where that is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

Array = np.ndarray[Any, Any]


class Known:
    """A value that is computed when it is first asked for, from others that are known."""

    __slots__ = ("_compute", "_inputs", "_value")

    def __init__(self, inputs: tuple[Known, ...], compute: Callable[..., Any] | None, value: Any = None) -> None:
        self._inputs, self._compute, self._value = inputs, compute, value

    @staticmethod
    def of(value: Any) -> Known:
        """A value that is there."""
        return Known((), None, value)

    def get(self) -> Any:
        """The value. Long chains are computed in order, without recursion."""
        stack = [self]
        while stack:
            top = stack[-1]
            if top._compute is None:
                stack.pop()
                continue
            missing = [i for i in top._inputs if i._compute is not None]
            if missing:
                stack += missing
                continue
            top._value = top._compute(*[i._value for i in top._inputs])
            top._compute, top._inputs = None, ()
            stack.pop()
        return self._value


def results(eqn: Any, inputs: tuple[Known, ...]) -> list[Known]:
    """The results of an equation all of whose inputs are known."""
    name = eqn.primitive.name
    if name in EXACT and len(eqn.outvars) == 1 and _exact(name, eqn):
        return [Known(inputs, lambda *values: in_numpy(eqn, values))]
    whole = Known(inputs, lambda *values: in_jax(eqn, values))
    return [Known((whole,), lambda found, k=k: found[k]) for k in range(len(eqn.outvars))]


def _exact(name: str, eqn: Any) -> bool:
    """Whether NumPy does what XLA does with these dtypes."""
    dtypes = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars)]
    if not all(isinstance(d, np.dtype) for d in dtypes):  # random keys
        return False
    if name == "convert_element_type":  # NaN and what is out of range become other integers
        return dtypes[0].kind in "biu" or dtypes[-1].kind not in "iu"
    return name not in _ROUNDS or dtypes[-1].kind in "biu"


def in_numpy(eqn: Any, values: tuple[Any, ...]) -> Array:
    """One equation in NumPy."""
    out = eqn.outvars[0].aval
    if eqn.primitive.name.startswith("reduce_") and not np.size(values[0]):  # NumPy has no largest of nothing
        return np.asarray(in_jax(eqn, values)[0])
    with np.errstate(all="ignore"):
        found = EXACT[eqn.primitive.name](eqn, *[np.asarray(v) for v in values])
    return np.asarray(found).astype(out.dtype, copy=False).reshape(out.shape)


def in_jax(eqn: Any, values: tuple[Any, ...]) -> list[Any]:
    """One equation in JAX, whatever the primitive, also while something else is being traced."""
    with jax.ensure_compile_time_eval():
        return bind(eqn, values)


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
    """Apply the primitive of an equation to other values."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions: Sequence[Any] = ()
    if isinstance(params, tuple):  # before JAX 0.7
        functions, params = params
    found = eqn.primitive.bind(*functions, *values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def _divide(eqn: Any, a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        quotient = np.where(b == 0, -1, a // np.where(b == 0, 1, b))
        remainder = a - quotient * b
        return np.where((b != 0) & (remainder != 0) & ((a < 0) != (b < 0)), quotient + 1, quotient)
    return a / b


def _remainder(eqn: Any, a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        return np.where(b == 0, a, np.fmod(a, np.where(b == 0, 1, b)))
    return np.fmod(a, b)


def _select(eqn: Any, which: Array, *cases: Array) -> Array:
    return np.choose(which.astype(np.intp), cases) if len(cases) <= 2 else _select_many(which, cases)


def _select_many(which: Array, cases: tuple[Array, ...]) -> Array:
    found = cases[0]
    for k, case in enumerate(cases[1:], 1):
        found = np.where(which == k, case, found)
    return found


def broadcast_in_dim(eqn: Any, a: Array, *dynamic: Array) -> Array:
    """``lax.broadcast_in_dim``."""
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    inner = [1] * len(shape)
    for axis, place in enumerate(places):
        inner[place] = a.shape[axis]
    return np.broadcast_to(a.reshape(inner), shape)


def pad(config: Any, a: Array, fill: Any = 0) -> Array:
    """``lax.pad``, with negative and interior padding."""
    for axis, (low, high, interior) in enumerate(config):
        size = a.shape[axis]
        length = max(0, low + high + size + max(size - 1, 0) * interior)
        new = np.full((*a.shape[:axis], length, *a.shape[axis + 1 :]), fill, a.dtype)
        places = low + np.arange(size) * (interior + 1)
        inside = (places >= 0) & (places < length)
        lead = (slice(None),) * axis
        new[(*lead, places[inside])] = a[(*lead, inside)]
        a = new
    return a


def reshaped(eqn: Any, a: Array, *dynamic: Array) -> Array:
    """``lax.reshape``, which may permute the axes first."""
    order = eqn.params.get("dimensions")
    return (a if order is None else a.transpose(order)).reshape(eqn.params["new_sizes"])


def sliced(eqn: Any, a: Array) -> Array:
    """``lax.slice``."""
    p = eqn.params
    strides = p["strides"] or (1,) * a.ndim
    return a[tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]


def _squeezed(eqn: Any, a: Array) -> Array:
    return a.reshape(eqn.outvars[0].aval.shape)


def _iota(eqn: Any, *dynamic: Array) -> Array:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    inner = [1] * len(shape)
    inner[axis] = shape[axis]
    return np.broadcast_to(np.arange(shape[axis]).reshape(inner), shape)


def _clamp(eqn: Any, low: Array, a: Array, high: Array) -> Array:
    return np.minimum(np.maximum(a, low), high)


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda eqn, a: function(a, axis=tuple(eqn.params["axes"]))


def _convert(eqn: Any, a: Array) -> Array:
    dtype = eqn.outvars[0].aval.dtype
    return a != 0 if dtype.kind == "b" else a.astype(dtype)


def _cumulative(eqn: Any, a: Array) -> Array:
    axis = eqn.params["axis"]
    return np.flip(np.cumsum(np.flip(a, axis), axis), axis) if eqn.params["reverse"] else np.cumsum(a, axis)


def _dynamic_slice(eqn: Any, a: Array, *starts: Array) -> Array:
    sizes = eqn.params["slice_sizes"]
    places = [int(np.clip(s, 0, n - w)) for s, n, w in zip(starts, a.shape, sizes, strict=True)]
    return a[tuple(slice(p, p + w) for p, w in zip(places, sizes, strict=True))]


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda eqn, *values: function(*values)


def _gather(eqn: Any, a: Array, indices: Array) -> Array:
    from crelle.backends.jax.lower.indexing import GatherPlan

    where = GatherPlan(eqn, a.shape, indices.shape).places(indices)
    flat = a.reshape(-1)
    picked = flat[np.maximum(where, 0)] if flat.size else np.zeros(where.shape, a.dtype)
    if "fill_or_drop" not in str(eqn.params["mode"]).lower():
        return picked
    return np.where(where >= 0, picked, np.asarray(_fill(eqn.params.get("fill_value"), a.dtype), a.dtype))


def _fill(value: Any, dtype: Any) -> Any:
    """What ``lax.gather`` gives outside of its operand."""
    if value is not None:
        return value
    if dtype.kind in "iu":
        return np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max
    return np.nan if dtype.kind in "fc" else True


#: The order of the sum matters for floating-point numbers.
_ROUNDS = frozenset(("reduce_sum", "cumsum"))
#: What NumPy computes exactly as XLA does: integers, comparisons, movement, correctly rounded arithmetic.
EXACT: dict[str, Callable[..., Any]] = {
    "add": _plain(np.add), "add_any": _plain(np.add), "sub": _plain(np.subtract), "mul": _plain(np.multiply),
    "neg": _plain(np.negative), "div": _divide, "rem": _remainder, "max": _plain(np.maximum), "min": _plain(np.minimum),
    "lt": _plain(np.less), "le": _plain(np.less_equal), "gt": _plain(np.greater), "ge": _plain(np.greater_equal),
    "eq": _plain(np.equal), "ne": _plain(np.not_equal), "and": _plain(np.bitwise_and), "or": _plain(np.bitwise_or),
    "xor": _plain(np.bitwise_xor), "not": _plain(np.invert), "select_n": _select, "clamp": _clamp,
    "abs": _plain(np.abs),
    "sign": _plain(np.sign), "floor": _plain(np.floor), "ceil": _plain(np.ceil), "sqrt": _plain(np.sqrt),
    "square": _plain(np.square), "is_finite": _plain(np.isfinite), "real": _plain(np.real), "imag": _plain(np.imag),
    "conj": _plain(np.conj), "stop_gradient": _plain(np.asarray), "copy": _plain(np.asarray),
    "copy_p": _plain(np.asarray), "convert_element_type": _convert,
    "broadcast_in_dim": broadcast_in_dim, "iota": _iota,
    "pad": lambda eqn, a, fill: pad(eqn.params["padding_config"], a, fill),
    "reshape": reshaped, "squeeze": _squeezed, "expand_dims": _squeezed,
    "transpose": lambda eqn, a: a.transpose(eqn.params["permutation"]),
    "rev": lambda eqn, a: np.flip(a, eqn.params["dimensions"]), "slice": sliced,
    "concatenate": lambda eqn, *parts: np.concatenate(parts, eqn.params["dimension"]),
    "reduce_sum": _reduce(np.sum), "reduce_max": _reduce(np.max), "reduce_min": _reduce(np.min),
    "reduce_and": _reduce(np.bitwise_and.reduce), "reduce_or": _reduce(np.bitwise_or.reduce), "cumsum": _cumulative,
    "dynamic_slice": _dynamic_slice, "gather": _gather,
}  # fmt: skip
