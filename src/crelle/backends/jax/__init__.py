"""The JAX backend: the functions that ``_protocol.Backend`` asks for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crelle._arrays import ArrayType
from crelle._reorder import Reorder
from crelle.backends._host import free_host_memory
from crelle.backends._protocol import Adapted, Call, Compressed
from crelle.backends.jax.flat import is_dynamic
from crelle.backends.jax.trace import JaxTrace
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import Rates
from crelle.tangent.program import TangentProgram

_DTYPE_NAMES: dict[Any, str] = {}


class JaxBackend:
    """JAX arrays, tracers and shape structs."""

    name = "jax"

    @property
    def version(self) -> str:
        """Version of JAX."""
        return jax.__version__

    def is_array(self, leaf: Any) -> bool:
        """Arrays, tracers and shape structs."""
        return is_dynamic(leaf)

    def flatten(self, tree: Any) -> tuple[list[Any], Any]:
        """By JAX's pytree rules."""
        return jax.tree.flatten(tree)

    def unflatten(self, tree_def: Any, leaves: Sequence[Any]) -> Any:
        """By JAX's pytree rules."""
        return jax.tree.unflatten(tree_def, leaves)

    def paths(self, tree: Any) -> list[str]:
        """``['w'][0]`` for each leaf."""
        return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]

    def array_type(self, leaf: Any) -> ArrayType:
        """Type of an array, or of a number as JAX would convert it."""
        if is_dynamic(leaf) or isinstance(leaf, (np.ndarray, np.generic)):
            dtype = _DTYPE_NAMES.get(leaf.dtype) or _DTYPE_NAMES.setdefault(leaf.dtype, str(leaf.dtype))
            return ArrayType(dtype, tuple(leaf.shape), _device(leaf))
        if isinstance(leaf, (bool, int, float, complex)):
            return ArrayType(str(jnp.result_type(leaf)), ())
        raise TypeError(type(leaf).__name__)

    def static_key(self, leaf: Any) -> Hashable:
        """Shape, dtype and weak type of arrays; the type of anything else, whose value the jaxpr shows."""
        if is_dynamic(leaf):
            return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
        if isinstance(leaf, np.ndarray):
            return leaf.shape, leaf.dtype
        return (type(leaf),)

    def is_abstract(self, leaves: Sequence[Any]) -> bool:
        """Whether a leaf is a tracer or a shape."""
        return any(isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct)) for leaf in leaves)

    def adapt(self, f: Callable[..., Any], args: tuple[Any, ...], request: Any) -> Adapted | None:
        """JAX functions are plain."""
        return None

    def ambient(self) -> Hashable:
        """The x64 flag; everything else is part of the jaxpr."""
        return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]

    def trace(self, call: Call) -> JaxTrace:
        """Trace to a jaxpr; eager where f needs values."""
        return JaxTrace(call)

    def eager(self, call: Call, reason: str) -> JaxTrace:
        """Run f anew each time."""
        return JaxTrace(call, eager=reason)

    def tangent_program(self, call: Call, known: bool = False) -> TangentProgram:
        """The derivative of f as linear maps."""
        from crelle.backends.jax.tangent import tangent_program

        return tangent_program(call, known)

    def compressed(self, call: Call, given: SparsityPattern | None) -> Compressed:
        """Coloured seeds through one linearisation, compiled."""
        from crelle.backends.jax.compressed import JaxCompressed

        return JaxCompressed(call, given)

    def sparse(self, pattern: SparsityPattern) -> Callable[[Any], Any]:
        """Makes BCOO arrays, sorted and without duplicates. They share their indices."""
        from jax.experimental.sparse import BCOO

        with jax.ensure_compile_time_eval():
            indices = jnp.asarray(np.stack([pattern.rows, pattern.indices], 1))
        known: Any = {"shape": pattern.shape, "indices_sorted": True, "unique_indices": True}
        return lambda data: BCOO((data, indices), **known)

    def placer(self, place: Any) -> Callable[[Any], Any]:
        """Makes ``data[place]``, zero where place is -1; by reshapes where they are enough."""
        reorder = Reorder.of(place)
        if reorder is not None:
            return jax.jit(lambda data: reorder(data).reshape(place.shape))
        with jax.ensure_compile_time_eval():
            table = jnp.asarray(place)
        take = jax.jit(lambda data, table: data.at[table].get(mode="fill", fill_value=0, wrap_negative_indices=False))
        return lambda data: take(data, table)

    def array_like(self, leaf: Any, values: Any) -> Any:
        """An array with the dtype of a leaf."""
        return jnp.asarray(values, jnp.result_type(leaf))

    def to_host(self, leaf: Any) -> Any:
        """The values as a NumPy array."""
        return np.asarray(leaf)

    def rates(self, device: str) -> Rates:
        """Orders of magnitude per kind of device, from the benchmarks of small and large problems."""
        device = device or jax.default_backend()  # tracers and shapes do not say
        if device.startswith(("gpu", "cuda", "rocm", "tpu")):
            return Rates(matmul=2e13, elementwise=2e12, bandwidth=1e12, launch=4e-6, call=2e-5)
        return Rates(matmul=3e10, elementwise=3e9, bandwidth=1e10, launch=2e-7, call=5e-6)

    def available_memory(self, device: str) -> int | None:
        """What the device reports, or the free memory of the host."""
        if (device or jax.default_backend()).startswith("cpu"):
            return free_host_memory()
        stats: dict[str, int] | None = jax.devices()[0].memory_stats()
        return stats["bytes_limit"] - stats["bytes_in_use"] if stats and "bytes_limit" in stats else None

    def block_until_ready(self, answer: Any) -> None:
        """Wait for the arrays of a tree."""
        jax.block_until_ready(answer)


@functools.lru_cache(maxsize=64)
def _platform(sharding: Any) -> str:
    devices = sharding.device_set
    platform = next(iter(devices)).platform
    return platform if len(devices) == 1 else f"{platform} × {len(devices)}"


def _device(leaf: Any) -> str:
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
        return ""
    return _platform(leaf.sharding)


BACKEND = JaxBackend()
