"""Determinants in JAX: products with single factors of a linearisation, and what becomes of their entries."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from crelle._arrays import ArrayType
from crelle.backends._protocol import Call
from crelle.backends.jax import run
from crelle.backends.jax.flat import FlatFunction, Layout, assemble
from crelle.backends.jax.lower.control import constant
from crelle.backends.jax.lower.known import Known, bind, in_jax
from crelle.backends.jax.lower.walk import Arg, Entry, Lowering, NeedsReverse, Primal, Tangent
from crelle.backends.jax.trace import same_values, traced, type_of
from crelle.determinants import _sparse
from crelle.determinants._factors import Factor
from crelle.determinants._recipe import Recipe, SparseBlock
from crelle.determinants._result import CannotFactor, SlogdetResult
from crelle.tangent.program import Dependence, Gather, Scale, TangentProgram, live

Arrays = list[Any]
Values = dict[Any, Any]

#: Equations that are walked as if they stood in their place.
_INLINED = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")
#: What leaves numbers as they are.
_COPIES = ("copy", "copy_p", "convert_element_type")
#: Zeros of the result follow from zeros of the operands: evaluated at 0 for zero and 1 for anything else, it is 0.
_KEEPS_ZEROS = frozenset(
    "mul add add_any dot_general reduce_sum neg convert_element_type copy copy_p reshape transpose broadcast_in_dim "
    "squeeze expand_dims rev slice concatenate pad abs sign sqrt square".split()
)


def flattened(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr:
    """The same computation without calls: each variable is set once."""

    def walk(jaxpr: jex.Jaxpr, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        env: Values = {**dict(zip(jaxpr.constvars, consts, strict=True)), **dict(zip(jaxpr.invars, given, strict=True))}

        def read(v: Any) -> Any:
            return v.val if isinstance(v, jex.Literal) else env[v]

        for eqn in jaxpr.eqns:
            args = [read(v) for v in eqn.invars]
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if eqn.primitive.name == "optimization_barrier":
                found = args
            elif eqn.primitive.name in _INLINED and inner is not None:
                inside = isinstance(inner, jex.ClosedJaxpr)
                found = walk(inner.jaxpr if inside else inner, inner.consts if inside else [], args)
            else:
                found = bind(eqn, args)
            env.update(zip(eqn.outvars, found, strict=True))
        return [read(v) for v in jaxpr.outvars]

    return jax.make_jaxpr(lambda *given: walk(closed.jaxpr, closed.consts, given))(*_shapes(closed.jaxpr.invars))


def _shapes(variables: Sequence[Any]) -> Arrays:
    return [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in variables]


class Zeros(Lowering):
    """A lowering that remembers what every variable is, and follows zeros of values that are not known.

    A masked weight is zero where the mask is, whatever the weight: what is not known, but has zeros that are, stands as
    an array of 0 and 1, of which only the zeros are ever used.
    """

    def __init__(self, program: TangentProgram) -> None:
        super().__init__(program)
        self.entries: dict[Any, Entry] = {}
        self._stand_ins: dict[int, Known] = {}  # by id, and kept, so that ids stay theirs

    def equation(self, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
        """What the results of one equation are."""
        first = len(self.program.types)
        if any(isinstance(a.entry, Tangent) for a in args):
            found = [
                self._apart(eqn, v, e, first) for v, e in zip(eqn.outvars, super().equation(eqn, args), strict=True)
            ]
        elif not self._partly_known(args):
            found = list(super().equation(eqn, args))
        else:
            found = list(self._with_zeros(eqn, args))
        self.entries.update(zip(eqn.outvars, found, strict=True))
        return found

    def _apart(self, eqn: Any, v: Any, entry: Entry, first: int) -> Entry:
        """A value of its own for a result that has the pattern of an operand: c - x has that of x, not its numbers."""
        if not isinstance(entry, Tangent) or entry.value is None or entry.value >= first:
            return entry
        type_ = ArrayType(str(v.aval.dtype), tuple(v.aval.shape))
        self.operation = (eqn.primitive.name, 0.0, 0.0)
        if eqn.primitive.name in _COPIES:
            return Tangent(self.emit(Gather, [entry.value], type_, move=lambda a: a))
        return Tangent(self.emit(Scale, [entry.value], type_))

    def _partly_known(self, args: Sequence[Arg]) -> bool:
        """Whether some zeros are known, and not all values."""
        known = [a.entry.known for a in args if isinstance(a.entry, Primal)]
        some = any(k is not None for k in known)
        return some and any(k is None or id(k) in self._stand_ins for k in known)

    def _with_zeros(self, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
        name = eqn.primitive.name
        kinds = [a.entry.kind for a in args if isinstance(a.entry, Primal)]
        floats = all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars)
        marks: Arrays | None = None
        if floats and name in _KEEPS_ZEROS:
            marks = [self._marks(a) for a in args]
        elif floats and name == "div":
            marks = [self._marks(args[0]), np.ones(args[1].shape, args[1].dtype)]
        elif floats and name == "sub":  # of marks, it would cancel
            both = np.broadcast_to(np.maximum(*(self._marks(a) for a in args)), eqn.outvars[0].aval.shape)
            marks = [both, np.zeros_like(both)]
        elif floats and name == "select_n" and self._exact(args[0]):
            marks = [args[0].value(), *(self._marks(a) for a in args[1:])]
        if marks is None:
            plain = [Arg(a.shape, a.dtype, self._unknown(a.entry)) for a in args]
            return super().equation(eqn, plain)
        found = np.asarray(in_jax(eqn, tuple(marks))[0]) != 0
        entry = Known.of(found.astype(eqn.outvars[0].aval.dtype))
        self._stand_ins[id(entry)] = entry
        return [Primal(max(kinds), entry)]

    def _exact(self, a: Arg) -> bool:
        return isinstance(a.entry, Primal) and a.entry.known is not None and id(a.entry.known) not in self._stand_ins

    def _unknown(self, entry: Entry) -> Entry:
        if isinstance(entry, Primal) and entry.known is not None and id(entry.known) in self._stand_ins:
            return Primal(entry.kind)
        return entry

    def _marks(self, a: Arg) -> np.ndarray[Any, Any]:
        value = a.value()
        return np.ones(a.shape, a.dtype) if value is None else (value != 0).astype(a.dtype)


class JaxLinear:
    """The linearisation of one function at one signature, of which parts can be run. Holds no array of the call."""

    def __init__(self, call: Call) -> None:
        found = traced(call)
        if found.closed is None or found.layout.result is None:
            raise CannotFactor(f"f needs values of its arguments in Python ({found.why})")
        self.jaxpr, self.key, self.consts = found.closed.jaxpr, found.key, list(found.closed.consts)
        self.active = found.layout.active
        self.outputs = tuple(type_of(v) for v in found.closed.out_avals[: found.layout.result.out_tree.num_leaves])
        failure: Exception | None = None
        for mode in ("forward", "reverse"):
            try:
                self._lower(call, mode)
                return
            except (TypeError, ValueError, NotImplementedError, NeedsReverse) as error:  # no rule in this mode
                failure = failure or error
        raise CannotFactor(f"{type(failure).__name__}: {failure}".split("\n")[0])

    def _lower(self, call: Call, mode: str) -> None:
        """The jaxpr (captured, values, seeds) -> products, and what its variables are."""
        seeded, made = (self.outputs, call.inputs) if mode == "reverse" else (call.inputs, self.outputs)

        def derivative(consts: Arrays, values: Arrays, seeds: Arrays) -> Arrays:
            def g(*leaves: Any) -> tuple[Arrays, Arrays]:
                found = jax.core.eval_jaxpr(self.jaxpr, consts, *leaves, *values[self.active :])
                results = [jnp.asarray(r) for r in found]
                return results[: len(self.outputs)], results[len(self.outputs) :]

            return run.linearise(g, values[: self.active], mode)[2](*seeds)

        seeds = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in seeded]
        values = _shapes(self.jaxpr.invars)
        self.flat = flattened(jax.make_jaxpr(derivative)(_shapes(self.jaxpr.constvars), values, seeds))
        self.program = TangentProgram(transposed=mode == "reverse")
        lowering = Zeros(self.program)
        traced_value = [isinstance(c, jax.core.Tracer) for c in self.consts]
        entries: list[Entry] = [
            Primal(Dependence.PASSIVE) if t else constant(c) for c, t in zip(self.consts, traced_value, strict=True)
        ]
        entries += [Primal(Dependence.VARYING if i < self.active else Dependence.PASSIVE) for i in range(len(values))]
        for t in seeded:
            self.program.inputs.append(self.program.value(ArrayType(t.dtype, t.shape)))
            entries.append(Tangent(self.program.inputs[-1]))
        jaxpr = self.flat.jaxpr
        consts: list[Entry] = [constant(c) for c in self.flat.consts]
        results = lowering.run(jaxpr, consts, entries)
        self.entries = lowering.entries
        self.entries.update(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *entries), strict=True))
        self.program.outputs = [e.value if isinstance(e, Tangent) else None for e in results]
        self.program.output_types = [ArrayType(t.dtype, t.shape) for t in made]
        for eqn in jaxpr.eqns:
            if len({isinstance(self.entries[v], Tangent) for v in eqn.outvars}) > 1:
                raise CannotFactor(f"values and tangents go through {eqn.primitive.name} together")
        taken = [m.name for m in live(self.program) if m.name in ("real", "imag", "conj")]
        self.conjugates = f"its derivative goes through {taken[0]}" if taken else ""

    def match(self, call: Call) -> Layout | None:
        """The layout of a call, if f is what it was: zeros of what it captures decide about its structure."""
        found = traced(call)
        if found.closed is None:
            return None
        if found.closed.jaxpr is self.jaxpr:
            return found.layout
        if found.key is None or self.key is None or found.key.opaque:
            return None
        same = (found.key.structure, found.key.literals) == (self.key.structure, self.key.literals)
        consts = list(found.closed.consts)
        if not same or len(consts) != len(self.consts) or not all(map(same_values, consts, self.consts)):
            return None
        return found.layout

    def build(self, factors: Sequence[Factor], recipe: Recipe) -> Callable[[Call, Any], Any]:
        """What computes the answer of a call with this layout."""
        tables: dict[str, Any] = {name: jnp.asarray(a) for name, a in recipe.arrays.items()}
        for k, factor in enumerate(factors):
            if factor.coloring is not None:
                tables[f"colors {k}"] = jnp.asarray(factor.coloring.column_colors)
                tables[f"place {k}"] = jnp.asarray(factor.place)

        def compute(consts: Arrays, dynamic: Arrays, tables: dict[str, Any]) -> Any:
            env = self._primal(consts, dynamic)
            pieces = [
                self._products(env, factor, tables[f"colors {k}"])[tables[f"place {k}"]]
                for k, factor in enumerate(factors)
                if factor.coloring is not None
            ]
            dtype = self.program.output_types[0].dtype if self.program.output_types else float
            answer = total(jnp.concatenate(pieces) if pieces else jnp.zeros(0, dtype), recipe, tables)
            results = jax.core.eval_jaxpr(self.jaxpr, consts, *dynamic)
            return answer, results

        jitted = jax.jit(compute)

        def answered(call: Call, layout: Layout) -> Any:
            assert layout.result is not None
            dynamic = FlatFunction(call, layout).dynamic
            wanted = call.request.value or call.request.has_aux
            answer, results = (compute if call.abstract else jitted)(self.consts, dynamic, tables)
            count = layout.result.out_tree.num_leaves
            return assemble(call, layout, answer, results[:count], results[count:]) if wanted else answer

        return answered

    def _primal(self, consts: Arrays, dynamic: Arrays) -> Values:
        """Everything that does not depend on the tangents."""
        jaxpr = self.flat.jaxpr
        env: Values = dict(zip(jaxpr.constvars, self.flat.consts, strict=True))
        env.update(zip(jaxpr.invars, [*consts, *dynamic], strict=False))
        for eqn in jaxpr.eqns:
            if all(isinstance(self.entries[v], Primal) for v in eqn.outvars):
                found = bind(eqn, [v.val if isinstance(v, jex.Literal) else env[v] for v in eqn.invars])
                env.update(zip(eqn.outvars, found, strict=True))
        return env

    def _tangent(self, v: Any) -> int | None:
        entry = None if isinstance(v, jex.Literal) else self.entries[v]
        return entry.value if isinstance(entry, Tangent) else None

    def _push(self, env: Values, factor: Factor, seeds: Arrays) -> Arrays:
        """The product of one factor with a vector."""
        tangents: dict[int, Any] = dict(zip((v for v in factor.inputs if v is not None), seeds, strict=True))

        def read(v: Any) -> Any:
            if isinstance(v, jex.Literal) or isinstance(self.entries[v], Primal):
                return v.val if isinstance(v, jex.Literal) else env[v]
            t = self._tangent(v)
            if t is None or t not in tangents:
                return jnp.zeros(v.aval.shape, v.aval.dtype)
            return tangents[t].reshape(v.aval.shape).astype(v.aval.dtype)

        for eqn in self.flat.jaxpr.eqns:
            made = [self._tangent(v) for v in eqn.outvars]
            if any(t in factor.needed and t not in tangents for t in made):
                found = bind(eqn, [read(v) for v in eqn.invars])
                tangents.update((t, r) for t, r in zip(made, found, strict=True) if t is not None)
        types = self.program.types
        return [tangents[t].reshape(types[t].shape) for t in factor.outputs if t is not None]

    def _products(self, env: Values, factor: Factor, colors: Any) -> Any:
        """The products of one factor with the seeds of all its colours, raveled."""
        types = [self.program.types[v] for v in factor.inputs if v is not None]
        cuts = np.cumsum([t.size for t in types])[:-1]

        def product(color: Any) -> Any:
            hot = jnp.split(colors == color, cuts) if len(types) > 1 else [colors == color]
            seeds = [h.astype(t.dtype).reshape(t.shape) for h, t in zip(hot, types, strict=True)]
            results = [r.reshape(-1) for r in self._push(env, factor, seeds)]
            return results[0] if len(results) == 1 else jnp.concatenate(results)

        if factor.passes == 1:
            return product(0)
        if factor.passes > factor.chunk:
            numbers = jnp.arange(factor.passes, dtype=colors.dtype)
            return jax.lax.map(product, numbers, batch_size=factor.chunk).reshape(-1)
        return jax.vmap(product)(jnp.arange(factor.passes, dtype=colors.dtype)).reshape(-1)


def _finfo(dtype: Any) -> Any:
    return jnp.finfo(dtype)  # type: ignore[no-untyped-call]


def total(entries: Any, recipe: Recipe, tables: dict[str, Any]) -> SlogdetResult:
    """(signs, logarithms) of each sample, of one without an axis if there are no samples."""
    given = entries.dtype
    if _finfo(given).bits < 32:  # LAPACK has no factorisation of halves
        entries = entries.astype(jnp.float32)

    padded = jnp.append(entries, 0)  # place -1 is zero

    def placed(place: Any) -> Any:
        return padded[jnp.where(place < 0, len(entries), place)]

    ones = placed(tables["ones"])
    parts = [(jnp.sign(ones), jnp.log(jnp.abs(ones)))]
    parts += [jnp.linalg.slogdet(placed(tables[f"stack {k}"])) for k in range(len(recipe.stacks))]
    for block in recipe.sparse:
        sign, log = sparse_slogdet(entries[block.entries], block)
        parts.append((sign[None], log[None]))
    signs, logs = (jnp.concatenate(p) for p in zip(*parts, strict=True))
    table = tables["table"]
    picked = jnp.where(table >= 0, jnp.append(signs, 1)[table], 1)
    sign = (jnp.prod(picked, 1) * tables["signs"]).astype(given)
    log = jnp.where(table >= 0, jnp.append(logs, 0)[table], 0).sum(1).astype(_finfo(given).dtype)
    return SlogdetResult(sign, log) if recipe.batched else SlogdetResult(sign[0], log[0])


def of_matrices(matrices: Any) -> SlogdetResult:
    """Of a dense matrix, or of a stack of them."""
    given = matrices.dtype
    sign, log = jnp.linalg.slogdet(matrices.astype(jnp.promote_types(given, jnp.float32)))
    return SlogdetResult(sign.astype(given), log.astype(_finfo(given).dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def sparse_slogdet(entries: Any, block: SparseBlock) -> tuple[Any, Any]:
    """(sign, log|det|) of a large sparse block, by SuperLU on the host."""
    shapes = jax.ShapeDtypeStruct((), entries.dtype), jax.ShapeDtypeStruct((), _finfo(entries.dtype).dtype)
    sign, log = jax.pure_callback(lambda e: _sparse.slogdet(e, block), shapes, entries, vmap_method="sequential")
    return sign, log


@sparse_slogdet.defjvp
def _sparse_jvp(block: SparseBlock, primals: Any, tangents: Any) -> Any:
    """d log det = tr(J⁻¹ dJ), which reads J⁻¹ on the pattern only."""
    (entries,), (change,) = primals, tangents
    sign, log = sparse_slogdet(entries, block)
    shape = jax.ShapeDtypeStruct(entries.shape, entries.dtype)
    slope = jax.pure_callback(lambda e: _sparse.slope(e, block), shape, entries, vmap_method="sequential")
    trace = jnp.sum(slope * change)
    return (sign, log), (sign * 1j * trace.imag if jnp.iscomplexobj(trace) else jnp.zeros_like(sign), trace.real)


def prepare(call: Call) -> JaxLinear:
    """The linearisation of the function of a call."""
    return JaxLinear(call)
