"""Tracing a JAX function into something that can be priced, run, checked, and recognised when it is seen again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleShapeError, CrelleTypeError, describe
from crelle.backends._protocol import Call, CheckReport, Method, Runner
from crelle.backends.jax import check, cost, keys, run
from crelle.tangent.cost import PassCost

_UNITS = {
    "forward": ("JVP", 1),
    "reverse": ("VJP", 1),
    "forward-over-reverse": ("HVP", 1),
    "reverse-over-forward": ("HVP", 1),
    "reverse-over-reverse": ("HVP", 1),
    "forward-over-forward": ("second-order JVP", 1),
}
#: Beyond this size n (n + 1) / 2 forward passes never pay.
_TRIANGLE_LIMIT = 64

#: What f raises under tracing when it needs a value: it can then only be run, not traced.
_NEEDS_VALUES = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


def is_dynamic(leaf: Any) -> bool:
    """Whether a leaf becomes an input of the trace: JAX's arrays, tracers and shape structs."""
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))


@dataclass(slots=True)
class Result:
    """What one evaluation of f returned: trees, and which leaves of the aux tree are arrays."""

    out_tree: Any
    aux_tree: Any
    aux_static: list[Any]


class FlatFunction:
    """f of one call as a function of flat leaves: the active ones first, then the other arrays."""

    def __init__(self, call: Call, like: FlatFunction | None = None) -> None:
        self.call = call
        self.leaves, self.tree = call.leaves, call.tree
        self.result: Result | None = None
        if like is not None:  # same signature: the same places
            self.order, self.active, self.result = like.order, like.active, like.result
            return
        count = len(call.args)
        wanted = [i % count for i in call.request.argnums_tuple]
        sizes = [jax.tree.structure(arg).num_leaves for arg in call.args]
        starts = np.cumsum([0, *sizes])
        # argnums may name the arguments in any order: the active leaves follow it
        active = [i for k in wanted for i in range(starts[k], starts[k + 1])]
        taken = set(active)
        passive = [i for i, leaf in enumerate(self.leaves) if i not in taken and is_dynamic(leaf)]
        self.order, self.active = [*active, *passive], len(active)

    @property
    def dynamic(self) -> list[Any]:
        """The arrays of the call, in the order that :meth:`__call__` takes them."""
        return [self.leaves[i] for i in self.order]

    def __call__(self, *dynamic: Any) -> tuple[list[Any], list[Any]]:
        """Flat outputs and flat array leaves of aux."""
        leaves = list(self.leaves)
        for i, value in zip(self.order, dynamic, strict=True):
            leaves[i] = value
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        output = self.call.f(*args, **kwargs)
        aux: Any = None
        if self.call.request.has_aux:
            if not isinstance(output, tuple) or len(output) != 2:
                raise CrelleTypeError(
                    describe(
                        f"{self.call.text}: has_aux=True, and f returned {type(output).__name__}, not (output, aux)",
                        called=types_text(self.call.inputs, self.call.names),
                        try_="return a pair from f, or leave has_aux= out",
                    )
                )
            output, aux = output
        outputs, out_tree = jax.tree.flatten(output)
        _check_outputs(self.call, outputs)
        aux_leaves, aux_tree = jax.tree.flatten(aux)
        arrays = [leaf for leaf in aux_leaves if is_dynamic(leaf)]
        self.result = Result(out_tree, aux_tree, [None if is_dynamic(leaf) else leaf for leaf in aux_leaves])
        return [jnp.asarray(leaf) for leaf in outputs], arrays

    def assemble(self, blocks: Any, values: list[Any], aux: list[Any]) -> Any:
        """The user's answer from flat parts."""
        assert self.result is not None
        call, request = self.call, self.call.request
        answer = blocks[0] if request.kind == "gradient" else blocks
        if not request.flat:
            outer = (
                call.in_tree
                if request.kind == "hessian"
                else None
                if request.kind == "gradient"
                else self.result.out_tree
            )
            rows = [jax.tree.unflatten(call.in_tree, row) for row in blocks]
            answer = rows[0] if outer is None else jax.tree.unflatten(outer, rows)
        extra = []
        if request.value:
            extra.append(jax.tree.unflatten(self.result.out_tree, values))
        if request.has_aux:
            arrays = iter(aux)
            filled = [next(arrays) if static is None else static for static in self.result.aux_static]
            extra.append(jax.tree.unflatten(self.result.aux_tree, filled))
        if request.value:
            return (tuple(extra) if request.has_aux else extra[0]), answer
        return (answer, extra[0]) if request.has_aux else answer


def _check_outputs(call: Call, outputs: list[Any]) -> None:
    called = types_text(call.inputs, call.names)
    for leaf in outputs:
        try:
            kind = jnp.result_type(leaf)
        except TypeError:
            raise CrelleTypeError(
                describe(
                    f"{call.text}: f returned {leaf!r} of type {type(leaf).__name__}",
                    called=called,
                    expected="an array, or a tree of arrays",
                    try_="has_aux=True if f returns (output, aux)",
                )
            ) from None
        if not jnp.issubdtype(kind, jnp.inexact):
            raise CrelleTypeError(
                describe(
                    f"{call.text}: f returned {ArrayType(str(kind), np.shape(leaf))}, which has no derivative",
                    called=called,
                    expected="floating-point outputs",
                    try_="has_aux=True, with integer results in aux",
                )
            )
    if not outputs:
        raise CrelleTypeError(
            describe(f"{call.text}: f returned nothing", called=called, expected="an array, or a tree of arrays",
                     likely="a missing return statement")
        )  # fmt: skip
    if call.request.kind in ("hessian", "gradient") and (len(outputs) != 1 or np.shape(outputs[0]) != ()):
        returned = ", ".join(str(ArrayType(str(jnp.result_type(o)), np.shape(o))) for o in outputs)
        raise CrelleShapeError(
            describe(
                f"{call.text}: f must return a scalar, and returned {returned}",
                called=called,
                expected="one array of shape []",
                likely="a missing sum or mean, or an axis of length 1",
                try_="f(x).sum(), f(x)[0], or crelle.jacobian for a function with several outputs",
            )
        )


class JaxTrace:
    """A function traced to a jaxpr (``key`` set), or run anew at each call (``key`` is None)."""

    def __init__(self, call: Call, eager: str = "") -> None:
        self.request, self.inputs, self.names, self.text = call.request, call.inputs, call.names, call.text
        self.notes: list[str] = []
        self.unavailable: dict[str, str] = {}
        self.units, self.loop_modes = _UNITS, ()
        self.key: Hashable = None
        self._closed: jex.ClosedJaxpr | None = None
        flat = FlatFunction(call)
        if not eager:
            try:
                self._closed, self.key = self._trace(flat)
            except _NEEDS_VALUES as error:
                if call.abstract:
                    raise
                eager = f"f needs values of its arguments in Python ({type(error).__name__})"
            except keys.UnkeyableError as error:
                if call.abstract:  # it is used once, where it was traced: it need not be recognised
                    self._closed = jax.make_jaxpr(flat)(*flat.dynamic)
                else:
                    eager = f"the derivative rule of {error} is Python code that may change"
        # the arrays of this call are needed until it is answered, and must not be kept alive after that
        self._first: FlatFunction | None = flat
        self.eager = eager
        if eager:
            self.notes.append(f"not kept compiled: {eager}; jax.jit freezes it, or a called plan")
            values, _ = flat(*flat.dynamic)
            self.outputs = tuple(_type_of(v) for v in values)
        else:
            assert self._closed is not None and flat.result is not None
            count = flat.result.out_tree.num_leaves
            self.outputs = tuple(_type_of(v) for v in self._closed.out_avals[:count])
        self._active = flat.active
        self._jitted: dict[Any, Any] = {}
        self._verify_complex()
        self.costs: Mapping[str, PassCost] = self._costs(flat)

    @staticmethod
    def _trace(flat: FlatFunction) -> tuple[jex.ClosedJaxpr, Hashable]:
        closed = jax.make_jaxpr(flat)(*flat.dynamic)
        return closed, keys.jaxpr_key(closed)

    def _verify_complex(self) -> None:
        """Say which modes mean what for complex arrays; refuse what has no meaning."""
        request = self.request
        types = f"{types_text(self.inputs, self.names)} -> {types_text(self.outputs)}"
        complex_in = any(t.is_complex for t in self.inputs)
        complex_out = any(t.is_complex for t in self.outputs)
        if request.holomorphic and not (complex_in and complex_out):
            raise CrelleTypeError(
                describe(
                    f"{self.text}: holomorphic=True needs complex inputs and outputs",
                    called=types,
                    try_="leave holomorphic= out, or convert the input to complex",
                )
            )
        if not request.holomorphic and complex_in and (complex_out or request.kind == "hessian"):
            raise CrelleTypeError(
                describe(
                    f"{self.text}: a complex function has one complex derivative only if it is holomorphic",
                    called=types,
                    try_="holomorphic=True if it is; otherwise differentiate real and imaginary parts as real arrays",
                )
            )
        if complex_in and not request.holomorphic:
            self.unavailable["forward"] = "the input is complex and the output real: only a gradient (a VJP) is defined"
        if complex_out and not complex_in:
            self.unavailable["reverse"] = "the output is complex and the input real: only forward mode is defined"

    def _modes(self) -> list[str]:
        if self.request.kind == "hessian":
            modes = ["forward-over-reverse", "reverse-over-reverse", "reverse-over-forward"]
            n = sum(t.size for t in self.inputs)
            if n <= _TRIANGLE_LIMIT and not self.request.selection.partial:
                modes.append("forward-over-forward")
        else:
            modes = ["forward", "reverse"]
        return [mode for mode in modes if mode not in self.unavailable]

    def _costs(self, flat: FlatFunction) -> dict[str, PassCost]:
        costs: dict[str, PassCost] = {}
        primal = self._closed.jaxpr if self._closed is not None else None
        for mode in self._modes():
            found: list[jex.ClosedJaxpr] = []

            def probe(*values: Any, mode: str = mode, found: list[jex.ClosedJaxpr] = found) -> None:
                found.append(self._linear_program(mode, *self._function(flat, values, None)))

            try:
                if self.eager:
                    probe(*flat.dynamic)
                else:  # types are enough
                    jax.eval_shape(probe, *flat.dynamic)
            except Exception as error:  # a rule that is missing, or that only works in the other mode
                self.unavailable[mode] = _reason(error)
                continue
            costs[mode] = cost.pass_cost(found[0], primal)
        if not costs:
            raise CrelleTypeError(
                describe(
                    f"{self.text}: f has no derivative that JAX can compute",
                    called=types_text(self.inputs, self.names),
                    likely="\n".join(f"{mode}: {reason}" for mode, reason in self.unavailable.items()),
                    try_="jax.custom_jvp gives an operation a derivative rule",
                )
            )
        return costs

    def _linear_program(self, mode: str, g: run.Flat, active: list[Any]) -> jex.ClosedJaxpr:
        """The linear part of one pass of ``mode``, for its price."""
        if mode == "forward-over-forward":
            product = run.second_forward(g, active)
            unit = [jnp.zeros(t.shape, t.dtype) for t in self.inputs]
            return run.linear_program(lambda *w: [product(unit, list(w))], self.inputs)
        if self.request.kind == "hessian":
            _, _, linear = run.linearise_gradient(g, active, mode, self.request.holomorphic)
        else:
            _, _, linear = run.linearise(g, active, mode)
        return run.linear_program(linear, self.outputs if mode == "reverse" else self.inputs)

    def _function(self, flat: FlatFunction | None, dynamic: Any, consts: Any) -> tuple[run.Flat, list[Any]]:
        """(function of the active leaves, their values) at some arrays and captured constants."""
        active, passive = list(dynamic[: self._active]), list(dynamic[self._active :])
        if self._closed is None:
            assert flat is not None
            return (lambda *leaves: flat(*leaves, *passive)), active
        closed = self._closed if consts is None else jex.ClosedJaxpr(self._closed.jaxpr, list(consts))
        evaluate, outputs = jex.jaxpr_as_fun(closed), len(self.outputs)

        def g(*leaves: Any) -> tuple[list[Any], list[Any]]:
            results = evaluate(*leaves, *passive)
            return list(results[:outputs]), list(results[outputs:])

        return g, active

    def match(self, call: Call) -> Any | None:
        """(flat function, constants) if f still has the traced jaxpr. Un-jitted calls trace f again: it is cheap."""
        if self._first is not None and self._first.call is call:
            flat, self._first = self._first, None
            return flat, (self._closed.consts if self._closed is not None else ())
        flat = FlatFunction(call)
        if self.eager:
            return flat, ()
        try:
            closed, key = self._trace(flat)
        except (*_NEEDS_VALUES, keys.UnkeyableError):
            return None
        return (flat, closed.consts) if key == self.key else None

    def build(self, method: Method) -> Runner:
        """A runner: compiled once for concrete values, inlined under transformations."""

        compute, jitted = self._compute(method), self._compiled(method)

        def runner(call: Call, captured: Any) -> Any:
            flat, consts = captured
            if flat.call is not call:  # a frozen plan, called with other arrays
                flat = FlatFunction(call, like=flat)
            dynamic = flat.dynamic
            if self.eager or call.abstract or _any_traced(consts):
                return flat.assemble(*compute(flat, consts, dynamic))
            return flat.assemble(*jitted(consts, dynamic))

        return runner

    def _compute(self, method: Method) -> Callable[..., tuple[Any, Any, Any]]:
        """A method as a function of (flat function, captured constants, arrays)."""

        def compute(flat: FlatFunction | None, consts: Any, dynamic: Any) -> tuple[Any, Any, Any]:
            g, active = self._function(flat, dynamic, consts)
            blocks, values, aux = run.answer(
                g, active, self.inputs, self.outputs, method,
                flat=self.request.flat, hessian=self.request.kind == "hessian", holomorphic=self.request.holomorphic,
            )  # fmt: skip
            # a value that is returned is shared with the derivative, and XLA fuses worse: ask for it only where it is wanted
            return blocks, (values if self.request.value else []), aux

        return compute

    def _compiled(self, method: Method) -> Any:
        """The jitted computation of a method: one per mode and chunk."""
        key = (method.mode, method.chunk)
        if key not in self._jitted:
            compute = self._compute(method)
            self._jitted[key] = jax.jit(lambda consts, dynamic: compute(None, consts, dynamic))
        return self._jitted[key]

    def check(self, call: Call, captured: Any, answer: Any, method: Method) -> CheckReport:
        """One random product against an unbatched product of the other direction."""
        flat, consts = captured
        if _any_traced(consts):
            return CheckReport(0.0, 0.0, "nothing: f captures traced values")
        if not self.eager:
            again, key = self._trace(FlatFunction(call))
            same = key == self.key and all(map(_same_values, consts, again.consts))
            if not same:
                return CheckReport(0.0, 0.0, "", deterministic=False)
        return check.report(self, lambda dynamic: self._function(flat, dynamic, consts), flat, answer, method)

    def temporary_bytes(self, method: Method, call: Call, captured: Any) -> int | None:
        """XLA's own count of temporary buffers."""
        flat, consts = captured
        if self.eager or call.abstract or _any_traced(consts):
            return None
        analysis = self._compiled(method).lower(consts, flat.dynamic).compile().memory_analysis()
        return None if analysis is None else int(analysis.temp_size_in_bytes)


def _any_traced(consts: Any) -> bool:
    return any(isinstance(c, jax.core.Tracer) for c in consts)


def _same_values(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def _type_of(value: Any) -> ArrayType:
    return ArrayType(str(value.dtype), tuple(value.shape))


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip().split("\n")[0]
    return text if len(text) <= 100 else text[:97] + "..."

