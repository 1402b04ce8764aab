"""Tracing a JAX function into something that can be priced, run, checked, and recognised when it is seen again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from crelle._arrays import ArrayType, total_size, types_text
from crelle._compressed import Ways, of_dense
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle._request import Request
from crelle.backends._protocol import Call, CheckReport, Method, Runner
from crelle.backends.jax import check, cost, fusion, keys, run
from crelle.backends.jax.flat import FlatFunction, Layout, assemble
from crelle.backends.jax.opaque import OpaquePrograms
from crelle.tangent.cost import PassCost

_UNITS = {
    "forward": ("JVP", 1),
    "reverse": ("VJP", 1),
    "forward-over-reverse": ("HVP", 1),
    "reverse-over-forward": ("HVP", 1),
    "reverse-over-reverse": ("HVP", 1),
    "forward-over-forward": ("second-order JVP", 1),
}
#: Beyond this size n (n + 1) / 2 forward passes never pay: they are for functions that have no reverse rule.
_TRIANGLE_LIMIT = 64

#: What f raises under tracing when it needs a value: it can then only be run, not traced.
NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


@dataclass(slots=True)
class Traced:
    """What was learnt of f in one call. Belongs to the call, and dies with it.

    Attributes:
        closed: the jaxpr of f, ``None`` if f needs values; then ``why`` names the error.
        key: its key, ``None`` under transformations.
        varies: f has been seen with the same structure and other numbers.
        owner: the trace that was made from it.
    """

    layout: Layout
    closed: jex.ClosedJaxpr | None
    key: keys.Key | None
    why: str = ""
    varies: bool = False
    owner: JaxTrace | None = None


@dataclass(frozen=True, slots=True)
class Captured:
    """What f holds at one call besides its arrays.

    Attributes:
        layout: where the arrays of the call are, and what f returned.
        consts: the values that f captured.
        jaxpr: f itself, where a derivative rule in it may have changed.
        frozen: what was made of such a function, for a plan that is called again.
    """

    layout: Layout
    consts: list[Any]
    jaxpr: jex.Jaxpr | None = None
    frozen: dict[tuple[str, int | None], Any] = field(default_factory=dict)


def traced(call: Call) -> Traced:
    """f of this call, traced once however often it is asked for."""
    if call.memo is None:
        call.memo = _traced(call)
    return call.memo  # type: ignore[no-any-return]


def _traced(call: Call) -> Traced:
    flat = FlatFunction(call)
    dynamic = flat.dynamic
    _verify_devices(call, dynamic)
    try:
        closed = jax.make_jaxpr(flat)(*dynamic)
    except NEEDS_VALUES as error:
        if call.abstract:
            raise
        return Traced(flat.layout, None, None, type(error).__name__)
    inside = _any_traced(closed.consts)
    if inside:  # f captures values of a transformation that is under way
        call.abstract = True
    inside = inside or (call.abstract and _any_traced(dynamic))
    return Traced(flat.layout, closed, None if inside else keys.jaxpr_key(closed))


class JaxTrace:
    """A function traced to a jaxpr, or run anew at each call (``eager`` says why). Holds no array of the call."""

    def __init__(self, call: Call, eager: str = "") -> None:
        self.request, self.inputs, self.names, self.text = call.request, call.inputs, call.names, call.text
        self.notes: list[str] = []
        self.unavailable: dict[str, str] = {}
        self.units, self.loop_modes = _UNITS, ()
        self._jaxpr: jex.Jaxpr | None = None
        found = Traced(FlatFunction(call).layout, None, None) if eager else traced(call)
        call.memo, found.owner = found, self
        if not eager and found.closed is None:
            eager = f"f needs values of its arguments in Python ({found.why})"
            self.notes.append("where, cond or while_loop of JAX in place of Python's if and while let it be compiled")
        self.eager = eager
        self.lifted = found.varies
        if found.closed is None:
            self.notes.insert(0, f"run anew at each call, not compiled: {eager}")
            flat = FlatFunction(call, found.layout)
            self.outputs = tuple(type_of(v) for v in flat(*flat.dynamic)[0])
        else:
            assert found.layout.result is not None
            self._jaxpr = keys.lift_literals(found.closed.jaxpr) if self.lifted else found.closed.jaxpr
            count = found.layout.result.out_tree.num_leaves
            self.outputs = tuple(type_of(v) for v in found.closed.out_avals[:count])
        self._key = self._recognise(found)
        self._opaque: OpaquePrograms | None = None
        if found.key is not None and found.key.opaque:
            self._opaque = OpaquePrograms()
            rule = found.key.opaque
            self.notes.append(f"traced anew at each call: {rule}, a derivative rule, is code that may change")
        self._active = found.layout.active
        self._jitted: dict[Any, Any] = {}
        self._relied: list[tuple[int, Any]] = []
        self.unavailable |= verify_complex(call.request, call.text, call.inputs, call.names, self.outputs)
        self.costs: Mapping[str, PassCost] = self._costs(call, found)

    def _recognise(self, found: Traced) -> Hashable:
        """Equal for calls that this trace describes."""
        if found.key is None or found.layout.result is None:
            return None
        numbers = None if self.lifted else found.key.literals
        return found.key.structure, numbers, found.layout.result.out_tree.num_leaves

    def _modes(self) -> list[str]:
        if self.request.kind == "hessian":
            modes = ["forward-over-reverse", "reverse-over-reverse", "reverse-over-forward"]
            if not self.request.selection.partial:
                modes.append("forward-over-forward")
        else:
            modes = ["forward", "reverse"]
        return [mode for mode in modes if mode not in self.unavailable]

    def _costs(self, call: Call, found: Traced) -> dict[str, PassCost]:
        """The price of a pass in every mode that can be used.

        Inside a transformation nobody reads the plan: a mode that was asked for, and for Hessians the one that nearly
        always wins, is not compared with others. That halves the time that ``jax.jit`` needs to trace.
        """
        costs: dict[str, PassCost] = {}
        modes = self._modes()
        hurried = found.closed is not None and found.key is None
        modes.sort(key=lambda mode: mode != self.request.mode)
        flat = FlatFunction(call, found.layout)
        consts, dynamic = self._consts(found), flat.dynamic
        for mode in modes:
            if costs and mode == "forward-over-forward" and total_size(self.inputs) > _TRIANGLE_LIMIT:
                continue
            found_costs: list[PassCost] = []

            def probe(consts: Any, dynamic: Any, mode: str = mode, into: list[PassCost] = found_costs) -> None:
                program = self._linear_program(mode, *self._function(flat, dynamic, consts, self._jaxpr))
                if lacks_forward(program.jaxpr):
                    raise TypeError("a custom_vjp has no forward rule")
                price = cost.pass_cost(program, self._jaxpr, (*consts, *dynamic))
                into.append(price.scaled(fusion.column_factor(program.jaxpr)) if mode == "forward" else price)

            try:
                if self.eager:
                    probe(consts, dynamic)
                else:  # types are enough
                    jax.eval_shape(probe, consts, dynamic)
            except Exception as error:  # a rule that is missing, or that only works in the other mode
                self.unavailable[mode] = _reason(error)
                continue
            costs[mode] = found_costs[0]
            if hurried and (self.request.kind == "hessian" or mode == self.request.mode):
                break
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

    def _function(
        self, flat: FlatFunction | None, dynamic: Any, consts: Any, jaxpr: jex.Jaxpr | None
    ) -> tuple[run.Flat, list[Any]]:
        """(function of the active leaves, their values) at some arrays and captured constants."""
        active, passive = list(dynamic[: self._active]), list(dynamic[self._active :])
        if jaxpr is None:
            assert flat is not None
            return (lambda *leaves: flat(*leaves, *passive)), active
        evaluate, outputs = jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, list(consts))), len(self.outputs)

        def g(*leaves: Any) -> tuple[list[Any], list[Any]]:
            results = [jnp.asarray(r) for r in evaluate(*leaves, *passive)]  # a literal comes back as a number
            return list(results[:outputs]), list(results[outputs:])

        return g, active

    def _consts(self, found: Traced) -> list[Any]:
        """The values that go with the jaxpr of this trace: what f captured, and its numbers where they vary."""
        if found.closed is None:
            return []
        return [*found.closed.consts, *(keys.literals(found.closed.jaxpr) if self.lifted else ())]

    def ways(self, call: Call) -> Ways | None:
        """Coloured products, if f can be read; they hold for any numbers that f captures, and for these integers."""
        from crelle.backends.jax.tangent import is_loose, parts_of

        found = traced(call)
        if self.eager or self._opaque is not None or self._jaxpr is None or self.request.holomorphic:
            return None
        consts = self._consts(found)
        try:
            program = parts_of(call, lifted=(self._jaxpr, consts)).program
        except Exception:  # whatever stands in the way of reading it: the dense modes need none of that
            return None
        self._relied = [(i, c) for i, c in enumerate(consts) if not is_loose(c)]
        return of_dense(program, self.request.kind == "hessian")

    def match(self, call: Call) -> Captured | None:
        """What f captured, if f still has the traced jaxpr. Un-jitted calls trace f again: it is cheap."""
        if self.eager:
            if call.memo is None:
                call.memo = Traced(FlatFunction(call).layout, None, None)
            return Captured(call.memo.layout, [])
        found = traced(call)
        if found.closed is None:
            return None
        if found.owner is not self and (found.key is None or self._recognise(found) != self._key):
            known = self._key[0] if isinstance(self._key, tuple) else None
            found.varies |= found.key is not None and found.key.structure == known and self._opaque is None
            return None
        return Captured(found.layout, self._consts(found), found.closed.jaxpr if self._opaque is not None else None)

    def holds(self, call: Call, captured: Captured) -> bool:
        """Whether f has the traced jaxpr, and captures the same values."""
        now, call.memo = self.match(call), None  # the call stays that of a plan
        return (
            now is not None
            and len(now.consts) == len(captured.consts)
            and all(map(same_values, now.consts, captured.consts))
        )

    def build(self, method: Method) -> Runner:
        """A runner: compiled once for concrete values, inlined under transformations."""
        compute, jitted = self._compute(method), self._compiled(method)
        plain: Runner | None = None

        def runner(call: Call, captured: Captured) -> Any:
            nonlocal plain
            layout, consts = captured.layout, captured.consts
            if method.ways is not None and not all(same_values(consts[i], c) for i, c in self._relied):
                plain = plain or self.build(method.plain)  # other indices, another pattern
                return plain(call, captured)
            if call.memo is None and not self.eager:  # a plan that is called: f was not traced again
                _verify_static(call, layout)
            dynamic = [call.leaves[i] for i in layout.order]
            if call.abstract or self.eager:
                _verify_values(call, dynamic)
                parts = compute(FlatFunction(call, layout), consts, dynamic, captured.jaxpr)
            elif self._opaque is not None:
                parts = self._opaque.run(method, compute, consts, dynamic, captured.jaxpr, captured.frozen)
            else:
                parts = jitted(consts, dynamic)
            return assemble(call, layout, *parts)

        return runner

    def _compute(self, method: Method) -> Callable[..., tuple[Any, Any, Any]]:
        """A method as a function of (flat function, captured constants, arrays, jaxpr if it is not this trace's)."""
        # as jacfwd where forward mode was asked for or nothing else is defined, as jacrev otherwise
        by_output = self.request.mode == "forward" or "reverse" in self.unavailable
        keep = fusion.recomputes(self._jaxpr)

        def compute(
            flat: FlatFunction | None, consts: Any, dynamic: Any, jaxpr: jex.Jaxpr | None
        ) -> tuple[Any, Any, Any]:
            g, active = self._function(flat, dynamic, consts, jaxpr or self._jaxpr)
            way = run.answer if method.ways is None else run.coloured_answer
            blocks, values, aux = way(g, active, self.inputs, self.outputs, method, self.request, by_output, keep)
            # returned only where it is wanted: XLA fuses worse where a value is shared with the derivative
            # (25 times slower, element-wise, n = 1000, CPU)
            return blocks, (values if self.request.value else []), aux

        return compute

    def _compiled(self, method: Method) -> Any:
        """The jitted computation of a method: one per mode and chunk."""
        key = (method.mode, method.chunk)
        if key not in self._jitted:
            compute = self._compute(method)
            self._jitted[key] = jax.jit(lambda consts, dynamic: compute(None, consts, dynamic, None))
        return self._jitted[key]

    def check(self, call: Call, captured: Captured, answer: Any, method: Method) -> CheckReport:
        """One random product against an unbatched product of the other direction."""
        flat = FlatFunction(call, captured.layout)
        if not self._deterministic(flat, captured):
            return CheckReport(0.0, 0.0, "", deterministic=False)
        jaxpr = captured.jaxpr or self._jaxpr
        return check.report(
            self, method, lambda consts, dynamic: self._function(flat, dynamic, consts, jaxpr), captured.consts,
            flat.dynamic, answer,
        )  # fmt: skip

    def _deterministic(self, flat: FlatFunction, captured: Captured) -> bool:
        """Whether f is the same function when it is looked at again."""
        result = flat.layout.result
        try:
            if self.eager:
                first, second = (flat(*flat.dynamic)[0] for _ in range(2))
                return len(first) == len(second) and all(map(_close, first, second))
            closed = jax.make_jaxpr(flat)(*flat.dynamic)
            again = Traced(flat.layout, closed, keys.jaxpr_key(closed))
            if self._recognise(again) == self._key and all(map(same_values, captured.consts, self._consts(again))):
                return True
            # another function, perhaps of the same values: something in it may be made anew each time
            known = captured.jaxpr or self._jaxpr
            assert known is not None
            first = jex.jaxpr_as_fun(jex.ClosedJaxpr(known, captured.consts))(*flat.dynamic)
            second = jex.jaxpr_as_fun(closed)(*flat.dynamic)
            return len(first) == len(second) and all(map(_close, first, second))
        finally:
            flat.layout.result = result

    def temporary_bytes(self, method: Method, call: Call, captured: Captured) -> int | None:
        """XLA's own count of temporary buffers."""
        if self.eager or call.abstract or self._opaque is not None:
            return None
        dynamic = [call.leaves[i] for i in captured.layout.order]
        analysis = self._compiled(method).lower(captured.consts, dynamic).compile().memory_analysis()
        return None if analysis is None else int(analysis.temp_size_in_bytes)


def verify_complex(
    request: Request,
    text: str,
    inputs: tuple[ArrayType, ...],
    names: tuple[str, ...],
    outputs: tuple[ArrayType, ...],
) -> dict[str, str]:
    """Refuse what has no meaning for complex arrays; the modes that cannot be used, with the reason.

    Raises:
        CrelleTypeError: ``holomorphic=`` is missing, or is said of a function that is not complex.
    """
    unavailable: dict[str, str] = {}
    types = f"{types_text(inputs, names)} -> {types_text(outputs)}"
    complex_in = any(t.is_complex for t in inputs)
    complex_out = any(t.is_complex for t in outputs)
    if request.holomorphic and not all(t.is_complex for t in (*inputs, *outputs)):
        raise CrelleTypeError(
            describe(
                f"{text}: holomorphic=True needs complex inputs and outputs",
                called=types,
                try_="leave holomorphic= out, or convert the input to complex",
            )
        )
    if not request.holomorphic and complex_in and (complex_out or request.kind == "hessian"):
        raise CrelleTypeError(
            describe(
                f"{text}: a complex function has one complex derivative only if it is holomorphic",
                called=types,
                try_="holomorphic=True if it is; otherwise differentiate real and imaginary parts as real arrays",
            )
        )
    if complex_out and not complex_in and request.kind != "jacobian":
        raise CrelleTypeError(
            describe(
                f"{text}: f must return a real number, and returned {types_text(outputs)}",
                called=types,
                try_="the real or imaginary part of the output, or crelle.jacobian",
            )
        )
    if complex_in and not request.holomorphic:
        unavailable["forward"] = "the input is complex and the output real: only a gradient (a VJP) is defined"
    if complex_out and not complex_in:
        unavailable["reverse"] = "the output is complex and the input real: only forward mode is defined"
    return unavailable


def type_of(value: Any) -> ArrayType:
    """The type of an array or an abstract value."""
    return ArrayType(str(value.dtype), tuple(value.shape))


def _any_traced(values: Any) -> bool:
    return any(isinstance(v, jax.core.Tracer) for v in values)


def same_values(a: Any, b: Any) -> bool:
    """Whether two captured values are equal, NaN included."""
    if a is b:
        return True
    if jnp.issubdtype(getattr(a, "dtype", np.float64), jax.dtypes.extended):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def _close(a: Any, b: Any) -> bool:
    """The same up to rounding: some devices do not add in the same order twice."""
    a, b = (np.asarray(v).astype(np.promote_types(np.asarray(v).dtype, np.float64)) for v in (a, b))
    rounding = 1e-3 * float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0.0, atol=rounding, equal_nan=True))


def _verify_devices(call: Call, dynamic: list[Any]) -> None:
    """Refuse arrays that were put on different devices; JAX moves the others by itself."""
    if len(dynamic) < 2:
        return
    arrays = [v for v in dynamic if isinstance(v, jax.Array) and not isinstance(v, jax.core.Tracer)]
    if len({frozenset(v.sharding.device_set) for v in arrays if v.committed}) > 1:
        where = "\n".join(f"{type_of(v)} on {_places(v)}" for v in arrays)
        raise CrelleValueError(
            describe(
                f"{call.text}: the arrays are on different devices",
                called=where,
                expected="one device, or one mesh of devices",
                try_="move them with jax.device_put(x, device)",
            )
        )


def _places(array: jax.Array) -> str:
    return ", ".join(sorted(f"{device.platform}:{device.id}" for device in array.devices()))


def _verify_values(call: Call, dynamic: list[Any]) -> None:
    if any(isinstance(v, jax.ShapeDtypeStruct) for v in dynamic):
        raise CrelleTypeError(
            describe(
                f"{call.text}: a shape has no values to compute with",
                called=types_text(call.inputs, call.names),
                try_=f"crelle.{call.request.kind}(f).plan(...) for the plan, jax.eval_shape for the answer's shape",
            )
        )


def _verify_static(call: Call, layout: Layout) -> None:
    """Refuse to run a frozen plan with other values of what it was traced with."""
    for i, planned in layout.static:
        now = call.leaves[i]
        if not _equal(planned, now):
            path = jax.tree_util.tree_flatten_with_path((call.args, call.kwargs))[0][i][0]
            raise CrelleShapeError(
                describe(
                    f"{call.text}: this plan was made for another value of an argument that is no JAX array",
                    called=f"argument {jax.tree_util.keystr(path[1:])}: planned {_shown(planned)}, got {_shown(now)}",
                    likely="a plan that is called is frozen, and numbers, texts and NumPy arrays are part of it",
                    try_="pass jnp.asarray(...), or make a plan for this value",
                )
            )


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and same_values(a, b)
    return bool(a == b) or (isinstance(a, (float, np.floating)) and a != a and b != b)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{type(value).__name__} {text[:30]}..."


def lacks_forward(linear: jex.Jaxpr) -> bool:
    """Whether a linear program holds a function with a custom_vjp, which can only be transposed."""
    return any(
        eqn.primitive.name == "custom_lin" or any(lacks_forward(sub) for sub, _ in cost.sub_jaxprs(eqn))
        for eqn in linear.eqns
    )


def _reason(error: Exception) -> str:
    """Why JAX refuses a direction, in a line."""
    if "lax.while_loop" in str(error) and "Reverse-mode" in str(error):
        return "a while_loop, or a fori_loop with bounds that are not fixed, has no reverse rule"
    if "custom_vjp" in str(error):
        return "a custom_vjp has no forward rule"
    text = f"{type(error).__name__}: {error}".strip().split("\n")[0]
    return text if len(text) <= 100 else text[:97] + "..."
