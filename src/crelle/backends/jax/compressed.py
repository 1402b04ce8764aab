"""Sparse derivatives in JAX: coloured seeds through one linearisation, and one gather.

Where a part of the matrix is the same for every x, it is computed once, and only the rest is run: with fewer colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex

from crelle._arrays import ArrayType, total_size
from crelle._compressed import Ways, choose, places
from crelle._patterns import given_pattern
from crelle._reorder import Reorder
from crelle.backends._protocol import Call
from crelle.backends.jax import run
from crelle.backends.jax.flat import FlatFunction, Layout, assemble
from crelle.backends.jax.seeds import Leaves, Linear, colored_diagonal, colored_products, small_ints
from crelle.backends.jax.split import CannotSplit, split
from crelle.backends.jax.tangent import parts_of
from crelle.backends.jax.trace import same_values, traced
from crelle.colorings import Coloring
from crelle.pattern import SparsityPattern
from crelle.tangent.program import Add, Gather, Scale

Arrays = list[Any]


#: The share of free memory that the products may take.
_SHARE = 0.5


#: Elements of seeds and entries up to which tables are constants of the compiled function.
FOLDED = 1_000_000


class JaxCompressed:
    """One function at one signature: its pattern, its colours, and what runs it. Holds no array of the call."""

    def __init__(self, call: Call, given: SparsityPattern | None = None) -> None:
        self.call_types = call.inputs
        found = traced(call)
        lifted = None
        if found.closed is not None and any(isinstance(c, jax.core.Tracer) for c in found.closed.consts):
            lifted = (found.closed.jaxpr, found.closed.consts)  # values of a transformation that is under way
        self.parts = parts_of(call, lifted=lifted)
        self.outputs, self.f_outputs = self.parts.outputs, self.parts.f_outputs
        self.price = self.parts.program.cost()
        self.notes: tuple[str, ...] = ()
        trusted = ", ".join(dict.fromkeys(self.parts.program.trusted))
        self.blame = (
            f"the linear rule registered for {trusted}" if trusted else "the pattern that was passed" * bool(given)
        )
        if given is not None:
            given_pattern(call, given, total_size(self.outputs))
        assert found.closed is not None
        self.jaxpr = found.closed.jaxpr
        self.key = found.key
        self.consts = [np.array(c) if isinstance(c, np.ndarray) else c for c in found.closed.consts]
        self.wants_value = call.request.value
        self.hessian, self.holomorphic = call.request.kind == "hessian", call.request.holomorphic
        self.ways: Ways = choose(call, self.parts.program, self._splits(), given)
        if self.hessian and self.ways.constant is not None and not self._constant_is_symmetric():
            self.ways = choose(call, self.parts.program, False, given)
        # stencils are read faster where the products of one element lie together; matrix products would be slower
        side_by_side = all(isinstance(m, (Gather, Scale, Add)) for m in self.parts.program.maps)
        whole = self.ways.coloring is not None and self.ways.constant is None
        self.last = whole and side_by_side
        self.reorder = Reorder.of(self.ways.place) if whole and not self.last else None
        self._jitted = jax.jit(lambda consts, dynamic, tables: self._compute(consts, dynamic, tables))
        self._constant: Any = None
        self.chunk = self._chunk(call)
        with jax.ensure_compile_time_eval():  # inside of jit, they would be computed anew at each call
            self.tables = self._tables()

    def _is_small(self) -> bool:
        """Whether XLA may fold what it can compute of the tables: runs are faster then, compilation is slower."""
        return self.ways.passes * total_size(self.call_types) + self.ways.pattern.nnz <= FOLDED

    def _chunk(self, call: Call) -> int | None:
        """How many products at a time, where a diagonal is wanted and all of them are too large for the memory."""
        coloring = self.ways.coloring
        if call.request.part != "diagonal" or coloring is None or coloring.kind == "both":
            return None
        available = call.backend.available_memory(call.inputs[0].device)
        line = max(t.itemsize for t in self.outputs) * max(total_size(self.outputs), total_size(call.inputs))
        each = self.price.peak_bytes + line
        if available is None or self.ways.passes * each <= _SHARE * available:
            return None
        chunk = max(1, int(_SHARE * available / each))
        self.notes += (f"{chunk:,} of {self.ways.passes:,} products at a time; of each the diagonal is kept",)
        return chunk

    # -- whether it still describes f

    def match(self, call: Call) -> tuple[Layout, Arrays] | None:
        """The values that f captured, if f is what it was: patterns depend on them, so they have to be the same."""
        found = traced(call)
        if found.closed is None:
            return None
        if found.closed.jaxpr is self.jaxpr:  # it was made of this very call
            return found.layout, list(found.closed.consts)
        if found.key is None or self.key is None or found.key.opaque:
            return None
        same = (found.key.structure, found.key.literals) == (self.key.structure, self.key.literals)
        consts = list(found.closed.consts)
        if not same or len(consts) != len(self.consts) or not all(map(same_values, consts, self.consts)):
            return None
        return found.layout, consts

    # -- what runs

    def _splits(self) -> bool:
        """Whether the constant part of a tangent can be told from the rest."""
        if self.parts.program.transposed:
            return False
        try:
            jax.eval_shape(lambda a, t: self._split(a, t), self._shapes(), self._seed_shapes())
        except CannotSplit:
            return False
        return True

    def _constant_is_symmetric(self) -> bool:
        """Whether C v = Cᵀ v for some random v, each element to the rounding of its row.

        A Hessian is symmetric, its two parts need not be: a rule of the user may hide what is constant on one side.
        Colours of a symmetric matrix would then mix them.
        """
        rng = np.random.default_rng(0)
        with jax.ensure_compile_time_eval():
            many = [jnp.asarray(rng.standard_normal((8, *t.shape)), t.dtype) for t in self.call_types]
            zeros = [jnp.zeros(s.shape, s.dtype) for s in self._shapes()]

            def push(*t: Any) -> Arrays:
                found: Arrays = self._split(zeros, list(t))[0]
                return found

            @jax.jit
            def products(many: Arrays) -> tuple[Any, ...]:
                pull: Any = jax.linear_transpose(push, *[leaf[0] for leaf in many])
                both = jax.vmap(lambda v: (push(*v), list(pull(list(v)))))(many)
                return tuple(jnp.concatenate([leaf.reshape(8, -1) for leaf in leaves], 1) for leaves in both)

            forward, back = (np.asarray(leaf) for leaf in products(many))
        scale = np.sqrt((np.abs(forward) ** 2 + np.abs(back) ** 2).mean(0))
        tolerance = 1e3 * max(t.epsilon for t in self.call_types)
        return bool((np.abs(forward - back) <= tolerance * scale).all())

    def _shapes(self) -> Arrays:
        return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in self.parts.jaxpr.jaxpr.invars[: self._values]]

    def _seed_shapes(self) -> Arrays:
        return [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in self.call_types]

    @property
    def _values(self) -> int:
        return len(self.parts.kinds)

    def _split(self, arrays: Arrays, tangents: Arrays) -> Any:
        return split(self.parts.jaxpr, self.parts.kinds)(arrays, tangents)

    def _tables(self) -> dict[str, Any]:
        """Colours and places as arguments of the computation: as constants they would be folded for a long time."""
        ways = self.ways
        tables: dict[str, Any] = {}
        if ways.coloring is not None:
            if self.reorder is None:
                tables["place"] = jnp.asarray(self._places(ways))
            for side, colors in (("cols", ways.coloring.column_colors), ("rows", ways.coloring.row_colors)):
                if colors is not None:
                    tables[side] = jnp.asarray(small_ints(colors))
        if ways.constant is not None:
            tables["constant"] = self._constant_part(ways.constant)
        return tables

    def _places(self, ways: Ways) -> Any:
        """Where entries are among the products as they are laid out here; what does not vary is beyond them."""
        assert ways.coloring is not None
        m, n = total_size(self.outputs), total_size(self.call_types)
        columns, rows = ways.coloring.column_passes, ways.coloring.row_passes
        place: Any = ways.place.astype(np.int64)
        first, beyond = m * columns, m * columns + n * rows
        if self.last:
            of_rows = first + (place - first) % max(n, 1) * rows + (place - first) // max(n, 1)
            place = np.where(place < first, place % max(m, 1) * columns + place // max(m, 1), of_rows)
        if ways.constant is not None:
            place = np.where(ways.varies, place, beyond)
        return place.astype(np.int32) if beyond < 2**31 - 1 else place

    def _constant_part(self, coloring: Coloring) -> Any:
        """The entries that went only through constant coefficients, in CSR order; computed once, at any point."""
        zeros = [jnp.zeros(s.shape, s.dtype) for s in self._shapes()]

        @jax.jit
        def compute(colors: Any, place: Any) -> Any:
            linear = lambda *t: self._split(zeros, list(t))[0]
            return colored_products(linear, colors, coloring.column_passes, self.call_types)[place]

        assert coloring.column_colors is not None
        place = places(coloring, total_size(self.parts.outputs))
        return compute(jnp.asarray(small_ints(coloring.column_colors)), jnp.asarray(place))

    def _compute(self, consts: Arrays, dynamic: Arrays, tables: dict[str, Any]) -> tuple[Any, Arrays, Arrays]:
        """(entries in CSR order, value, aux)."""
        active, passive = list(dynamic[: self.parts.active]), list(dynamic[self.parts.active :])
        evaluate, count = jex.jaxpr_as_fun(jex.ClosedJaxpr(self.jaxpr, list(consts))), len(self.parts.f_outputs)

        def g(*leaves: Any) -> tuple[Leaves, Leaves]:
            results = [jnp.asarray(r) for r in evaluate(*leaves, *passive)]
            return results[:count], results[count:]

        ways = self.ways
        if ways.coloring is None:  # nothing varies
            values, aux = g(*active)
            data = tables["constant"] if ways.constant is not None else jnp.zeros(0, self.parts.outputs[0].dtype)
            return data, values if self.wants_value else [], aux
        pieces = []
        values, aux = [], []
        if ways.coloring.column_colors is not None:
            linear: Linear
            if ways.constant is not None:
                values, aux = g(*active)
                values_of = [*dynamic, *(consts[i] for i in self.parts.loose)]
                linear = lambda *t: self._split(values_of, list(t))[1]
            else:
                values, aux, linear = self._linearised(g, active, "forward")
            pieces.append(self._pushed(linear, tables["cols"], ways.coloring.column_passes, self.call_types))
        if ways.coloring.row_colors is not None:
            values, aux, pull = self._linearised(g, active, "reverse")
            pieces.append(self._pushed(pull, tables["rows"], ways.coloring.row_passes, self.parts.outputs))
        flat = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)
        if self.chunk is not None:
            data = flat[ways.pattern.indices]
            if ways.constant is not None:
                data = jnp.where(ways.varies, data, 0)
        elif self.reorder is not None:
            data = self.reorder(flat)
        elif ways.constant is not None:
            data = flat.at[tables["place"]].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        else:
            data = flat.at[tables["place"]].get(mode="promise_in_bounds")
        if ways.constant is not None:
            data = tables["constant"] + data
        return data, values if self.wants_value else [], aux

    def _pushed(self, linear: Linear, colors: Any, count: int, types: Sequence[ArrayType]) -> Any:
        if self.chunk is None:
            return colored_products(linear, colors, count, types, self.last)
        return colored_diagonal(linear, colors, count, types, self.chunk)

    def _linearised(self, g: run.Flat, active: Leaves, mode: str) -> tuple[Leaves, Leaves, Linear]:
        if self.hessian:
            nested = "forward-over-reverse" if mode == "forward" else "reverse-over-reverse"
            return run.linearise_gradient(g, active, nested, self.holomorphic, looped=True)
        return run.linearise(g, active, mode)

    def values(self, call: Call, captured: tuple[Layout, Arrays]) -> tuple[Any, Callable[[Any], Any]]:
        """The entries in CSR order, and what puts the matrix into the user's answer."""
        layout, consts = captured
        dynamic = FlatFunction(call, layout).dynamic
        if call.abstract:
            tables = self.tables if self._is_small() else lax.optimization_barrier(self.tables)
            data, values, aux = self._compute(consts, dynamic, tables)
        else:
            data, values, aux = self._jitted(consts, dynamic, self.tables)
        return data, lambda matrix: assemble(call, layout, matrix, values, aux)
