"""f linearised once in JAX: one compiled function computes the coefficients, others run products with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from crelle._prepare import Space as Kept
from crelle.backends._protocol import Call
from crelle.backends.jax import run
from crelle.backends.jax.flat import FlatFunction, Layout
from crelle.backends.jax.seeds import Linear
from crelle.backends.jax.trace import Traced, traced, type_of
from crelle.backends.jax.vectors import cut, join
from crelle.operators._spaces import common_dtype

Arrays = list[Any]

#: Programs kept for one function at one signature.
KEPT = 4


class JaxLinearised:
    """See :class:`crelle.operators._linearised.Linearised`."""

    def __init__(self, program: Program, call: Call, layout: Layout, consts: Arrays) -> None:
        values, self._coefficients = program.start(consts, FlatFunction(call, layout).dynamic)
        result = layout.result
        assert result is not None
        self.value = jax.tree.unflatten(result.out_tree, values)
        self.outputs = call.inputs if program.hessian else tuple(map(type_of, values))
        self.out_tree = call.in_tree if program.hessian else result.out_tree
        self.notes: tuple[str, ...] = ()
        self._program = program

    @property
    def kept_bytes(self) -> int:
        """The coefficients."""
        return sum(int(c.nbytes) for c in self._coefficients)

    def push(self, block: Any) -> Any:
        """v ↦ J v, row by row."""
        return self._each(self._program.push, block)

    def pull(self, block: Any) -> Any:
        """u ↦ Jᵀ u, row by row."""
        return self._each(self._program.pull, block)

    def _each(self, product: Callable[[Arrays, Any], Any], block: Any) -> Any:
        rows = [product(self._coefficients, block[i : i + 1]) for i in range(len(block))]
        if not rows:
            result = jax.eval_shape(product, self._coefficients, jax.ShapeDtypeStruct((1, block.shape[1]), block.dtype))
            return jnp.zeros((0, result.shape[1]), result.dtype)
        return rows[0] if len(rows) == 1 else jnp.concatenate(rows)


class Program:
    """What does not depend on the point: compiled once for one function at one signature. Holds no array of the call.

    Attributes:
        start: (captured values, arrays of the call) -> (value of f, coefficients of the derivative), compiled.
        push, pull: (coefficients, block [1, size]) -> block, compiled.
    """

    def __init__(self, call: Call, found: Traced) -> None:
        self.key, self.inputs = found.key, call.inputs
        self.hessian, self.holomorphic = call.request.kind == "hessian", call.request.holomorphic
        self._active = found.layout.active
        self._jaxpr = None if found.closed is None else found.closed.jaxpr
        self._flat = FlatFunction(call, found.layout) if found.closed is None else None
        self._count = 0 if found.layout.result is None else found.layout.result.out_tree.num_leaves
        self._outputs: list[Any] = []
        self._linear: jex.Jaxpr | None = None
        self._reverse = False
        plain = call.abstract or found.closed is None
        compiled: Callable[[Any], Any] = (lambda f: f) if plain else jax.jit
        self.start = compiled(self._start)
        self.push = compiled(lambda coefficients, block: self._product(coefficients, block, self._reverse))
        self.pull = (
            self.push
            if self.hessian
            else compiled(lambda coefficients, block: self._product(coefficients, block, not self._reverse))
        )

    def describes(self, found: Traced) -> bool:
        """Whether f still is what it was; what it captures may have changed, and is an argument."""
        ours, theirs = self.key, found.key
        if ours is None or theirs is None or theirs.opaque:
            return False
        return (ours.structure, ours.literals) == (theirs.structure, theirs.literals)

    def _start(self, consts: Arrays, dynamic: Arrays) -> tuple[Arrays, Arrays]:
        active, passive = list(dynamic[: self._active]), list(dynamic[self._active :])

        def g(*leaves: Any) -> tuple[Arrays, Arrays]:
            if self._flat is not None:
                return self._flat(*leaves, *passive)
            assert self._jaxpr is not None
            results = jex.jaxpr_as_fun(jex.ClosedJaxpr(self._jaxpr, list(consts)))(*leaves, *passive)
            return [jnp.asarray(r) for r in results[: self._count]], []

        values, linear = self._linearised(g, active)
        self._outputs = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
        seeds = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in self.inputs]
        closed = jax.make_jaxpr(linear)(*(self._outputs if self._reverse else seeds))
        self._linear = closed.jaxpr
        return values, list(closed.consts)

    def _linearised(self, g: run.Flat, active: Arrays) -> tuple[Arrays, Linear]:
        """Forward, or the transpose of the reverse pass where a function has a ``custom_vjp`` and no forward rule."""
        try:
            if self.hessian:
                values, _, linear = run.linearise_gradient(
                    g, active, "forward-over-reverse", self.holomorphic, looped=True
                )
            else:
                values, _, linear = run.linearise(g, active, "forward")
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            if self.hessian:
                values, _, linear = run.linearise_gradient(g, active, "reverse-over-reverse", self.holomorphic)
            else:
                values, _, linear = run.linearise(g, active, "reverse")
                self._reverse = True
        return list(values), linear

    def _product(self, coefficients: Arrays, block: Any, transposed: bool) -> Any:
        """The product with the one row of a block."""
        assert self._linear is not None
        evaluate = jex.jaxpr_as_fun(jex.ClosedJaxpr(self._linear, list(coefficients)))
        inputs = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in self.inputs]
        first, last = (self._outputs, inputs) if self._reverse else (inputs, self._outputs)
        if self.hessian:
            last = inputs
        given = last if transposed else first
        leaves = [leaf[0] for leaf in cut(block, tuple(map(type_of, given)))]
        transpose = jax.linear_transpose(lambda *v: list(evaluate(*v)), *first) if transposed else None
        found = evaluate(*leaves) if transpose is None else transpose(leaves)
        types = tuple(map(type_of, first if transposed else last))
        return join([jnp.asarray(leaf)[None] for leaf in found], common_dtype(types))


def linearised(call: Call, kept: Kept) -> JaxLinearised:
    """f at the point of the call; programs are kept for other points."""
    found = traced(call)
    if found.closed is None or call.abstract:
        consts = [] if found.closed is None else list(found.closed.consts)
        return JaxLinearised(Program(call, found), call, found.layout, consts)
    programs: list[Any] = kept.at(("operator", call.signature))
    program = next((p for p in programs if p.describes(found)), None)
    if program is None:
        program = Program(call, found)
        programs.insert(0, program)
        del programs[KEPT:]
    return JaxLinearised(program, call, found.layout, list(found.closed.consts))
