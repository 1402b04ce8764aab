"""f linearised once in JAX: one compiled function computes the coefficients, others run products with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle._prepare import Space as Kept
from crelle.backends._protocol import Call
from crelle.backends.jax import cost, keys, run
from crelle.backends.jax.flat import FlatFunction, Layout
from crelle.backends.jax.linear_products import Products, cast
from crelle.backends.jax.seeds import Linear
from crelle.backends.jax.trace import NEEDS_VALUES, Traced, lacks_forward, traced, type_of, verify_complex

Leaves = list[Any]

#: Programs kept for one function at one signature.
KEPT = 4


class JaxLinearised:
    """See :class:`crelle.operators._linearised.Linearised`.

    Attributes:
        one_way: there are no products with the transposed matrix.
        again: see :func:`_again`.
    """

    def __init__(self, linear: LinearMap, values: Leaves, coefficients: Leaves, call: Call, out_tree: Any) -> None:
        self.value = jax.tree.unflatten(out_tree, values)
        self.inputs, self.outputs = linear.inputs, linear.outputs
        self.out_tree = call.in_tree if call.request.kind == "hessian" else out_tree
        self.notes: tuple[str, ...] = ()
        self.one_way = linear.one_way
        self.again: Callable[[Call], JaxLinearised | None] = _never
        self._linear, self._coefficients, self._text = linear, coefficients, call.text

    @property
    def kept_bytes(self) -> int:
        """Of the coefficients."""
        return sum(int(getattr(c, "nbytes", 0)) for c in self._coefficients)

    def push(self, block: Any) -> Any:
        """v ↦ J v, row by row."""
        return self._run(self._linear.push.block, block)

    def pull(self, block: Any) -> Any:
        """u ↦ Jᵀ u, row by row."""
        return self._run(self._linear.pull.block, block)

    def one(self, form: str, vector: Any, transposed: bool) -> Any:
        """The product with one vector, ``"flat"`` or a ``"tree"`` (a list of leaves), in the same form."""
        products = self._linear.pull if transposed else self._linear.push
        return self._run(products.one, form, vector)

    def _run(self, product: Callable[..., Any], *given: Any) -> Any:
        try:
            *form, vector = given
            return product(*form, self._coefficients, vector)
        except (RuntimeError, ValueError) as error:
            text = str(error)
            if "has been deleted" in text:
                raise CrelleValueError(
                    describe(
                        f"{self._text}.at(...): an array that this operator needs was freed",
                        likely="it was donated (donate_argnums=) to a jitted function, or deleted",
                        try_="make the operator anew with .at(...) at the new values, or copy what is donated",
                    )
                ) from None
            if "incompatible devices" in text:
                raise CrelleValueError(
                    describe(
                        f"{self._text}.at(...): the vector and the operator are on different devices",
                        likely=text.splitlines()[0][:200],
                        try_="jax.device_put the vector to where the inputs of the function are",
                    )
                ) from None
            raise


class LinearMap:
    """A linear jaxpr, and its products; its coefficients are arguments. Holds no array of a call.

    Attributes:
        inputs, outputs: types of the leaves of the vectors. Where inputs or outputs of f are complex, all are: the
            matrix is complex then, and multiplies complex vectors.
        push, pull: products with the matrix, and with its transpose (not conjugated).
        one_way: there is no pull.
    """

    def __init__(
        self,
        jaxpr: jex.Jaxpr,
        inputs: tuple[ArrayType, ...],
        outputs: tuple[ArrayType, ...],
        reverse: bool,
        hessian: bool,
        text: str,
        compiled: bool = True,
    ) -> None:
        self.jaxpr, self.reverse, self._text = jaxpr, reverse, text
        self._seeds = [[jax.ShapeDtypeStruct(t.shape, t.dtype) for t in types] for types in (inputs, outputs)]
        self._complex = [any(t.is_complex for t in types) for types in (inputs, outputs)]
        every = any(self._complex)
        self.inputs, self.outputs = (tuple(map(_complex, types)) if every else types for types in (inputs, outputs))
        self.one_way = not hessian and not reverse and _holds(jaxpr, "while")
        self.push = Products(lambda c, v: self._product(c, v, False), self.inputs, self.outputs, compiled=compiled)
        self.pull = (
            self.push
            if hessian
            else Products(lambda c, u: self._product(c, u, True), self.outputs, self.inputs, compiled=compiled)
        )

    def _product(self, coefficients: Leaves, vector: Leaves, transposed: bool) -> Leaves:
        ours, theirs = self._complex if not transposed else self._complex[::-1]
        if ours == theirs:
            return self._real_product(coefficients, vector, transposed)
        # real -> complex gives J v or the real part of Jᵀu; complex -> real the other way round: twice for all of it
        turned = [-1j * leaf for leaf in vector]
        second = turned if transposed == self._complex[1] else [jnp.imag(leaf) for leaf in vector]
        parts = [self._real_product(coefficients, v, transposed) for v in (vector, second)]
        return [a + 1j * b for a, b in zip(*parts, strict=True)]

    def _real_product(self, coefficients: Leaves, vector: Leaves, transposed: bool) -> Leaves:
        evaluate = jex.jaxpr_as_fun(jex.ClosedJaxpr(self.jaxpr, list(coefficients)))
        given = self._seeds[transposed]
        leaves = [cast(leaf, t.dtype) for leaf, t in zip(vector, given, strict=True)]
        if transposed == self.reverse:
            return list(evaluate(*leaves))
        if self.one_way:
            raise CrelleTypeError(
                describe(
                    f"{self._text}.at(...): there are no products with the transposed Jacobian",
                    likely="a while_loop, or a fori_loop with bounds that are not fixed, has no reverse rule in JAX",
                    try_="lax.scan, or a fori_loop with a fixed number of steps; "
                    "A.todense().T for a small matrix; A @ v works",
                )
            )
        first = self._seeds[not transposed]
        try:
            return list(jax.linear_transpose(lambda *v: list(evaluate(*v)), *first)(leaves))
        except Exception as error:  # whatever a rule does that is not linear raises in its own way
            if not self.reverse:
                raise
            raise CrelleTypeError(
                describe(
                    f"{self._text}.at(...): f has a custom_vjp, so no forward derivative, and its backward rule cannot "
                    "be transposed",
                    likely=f"the backward rule is not linear in the cotangent ({type(error).__name__}: "
                    f"{str(error).splitlines()[0][:120]})",
                    try_="products with the transposed matrix (A.T @ u), or jax.custom_jvp in place of jax.custom_vjp",
                )
            ) from None

    @property
    def key(self) -> Hashable:
        """Equal for maps that are the same up to coefficients; ``None`` where that cannot be told."""
        found = keys.jaxpr_key(jex.ClosedJaxpr(self.jaxpr, [None] * len(self.jaxpr.constvars)))
        return None if found.opaque else (found.structure, found.literals, self.reverse)


class Start:
    """(captured values, arrays of the call) -> (values of f, coefficients of its derivative). Holds no array of a call.

    Attributes:
        linear: the linear map that goes with the coefficients, once it has run.
    """

    def __init__(self, call: Call, found: Traced, *, lifted: bool = False, compiled: bool = True) -> None:
        self.key, self.lifted = found.key, lifted
        self._compiled, self._request, self._text = compiled, call.request, call.text
        self._inputs, self._names, self._active = call.inputs, call.names, found.layout.active
        self._jaxpr = self._flat = None
        if found.closed is None:
            self._flat = FlatFunction(call, found.layout)
        else:
            self._jaxpr = keys.lift_literals(found.closed.jaxpr) if lifted else found.closed.jaxpr
        self.count = 0 if found.layout.result is None else found.layout.result.out_tree.num_leaves
        self.linear: LinearMap | None = None

    def describes(self, found: Traced) -> bool:
        """Whether f still is what it was; what it captures may have changed, and is an argument."""
        ours, theirs, result = self.key, found.key, found.layout.result
        if ours is None or theirs is None or result is None or result.out_tree.num_leaves != self.count:
            return False
        return ours.structure == theirs.structure and (self.lifted or ours.literals == theirs.literals)

    def __call__(self, consts: Leaves, dynamic: Leaves) -> tuple[Leaves, Leaves]:
        active, passive = list(dynamic[: self._active]), list(dynamic[self._active :])

        def g(*leaves: Any) -> tuple[Leaves, Leaves]:
            if self._flat is not None:
                return self._flat(*leaves, *passive)
            assert self._jaxpr is not None
            results = jex.jaxpr_as_fun(jex.ClosedJaxpr(self._jaxpr, list(consts)))(*leaves, *passive)
            return [jnp.asarray(r) for r in results[: self.count]], []

        hessian, reverse = self._request.kind == "hessian", False
        if self._jaxpr is not None:
            made = tuple(type_of(v.aval) for v in self._jaxpr.outvars[: self.count])
            verify_complex(self._request, self._text, self._inputs, self._names, made)
        try:
            values, closed = self._linearised(g, active, False)
            backward = lacks_forward(closed.jaxpr)
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            backward = True
        if backward:  # a custom_vjp has no forward rule: the reverse pass is linear, too, and can be transposed
            reverse = not hessian
            values, closed = self._linearised(g, active, True)
        if self._jaxpr is None:
            verify_complex(self._request, self._text, self._inputs, self._names, tuple(map(type_of, values)))
        outputs = self._inputs if hessian else tuple(map(type_of, values))
        self.linear = LinearMap(closed.jaxpr, self._inputs, outputs, reverse, hessian, self._text, self._compiled)
        return values, list(closed.consts)

    def _linearised(self, g: run.Flat, active: Leaves, backward: bool) -> tuple[Leaves, jex.ClosedJaxpr]:
        hessian, holomorphic = self._request.kind == "hessian", self._request.holomorphic
        linear: Linear
        if hessian:
            mode = "reverse-over-reverse" if backward else "forward-over-reverse"
            values, _, linear = run.linearise_gradient(g, active, mode, holomorphic, looped=True)
        else:
            values, _, linear = run.linearise(g, active, "reverse" if backward else "forward")
        outputs = tuple(map(type_of, values))
        return list(values), run.linear_program(linear, outputs if backward and not hessian else self._inputs)


def _complex(t: ArrayType) -> ArrayType:
    wide = "complex128" if t.dtype in ("float64", "complex128") else "complex64"
    return ArrayType(wide, t.shape, t.device)


def _holds(jaxpr: jex.Jaxpr, name: str) -> bool:
    return any(
        eqn.primitive.name == name or any(_holds(sub, name) for sub, _ in cost.sub_jaxprs(eqn)) for eqn in jaxpr.eqns
    )


class Program:
    """A compiled start, for one function at one signature."""

    def __init__(self, start: Start) -> None:
        self.start, self.compiled = start, jax.jit(start)

    def run(self, consts: Leaves, dynamic: Leaves) -> tuple[LinearMap, Leaves, Leaves]:
        """The linear map, the values of f, and the coefficients."""
        values, coefficients = self.compiled(consts, dynamic)
        assert self.start.linear is not None
        return self.start.linear, values, coefficients


class OpaqueProgram:
    """A compiled start with derivative rules of the user's: recognised by the derivative that they yield."""

    def __init__(self, key: Hashable, closed: jex.ClosedJaxpr, linear: LinearMap) -> None:
        jaxpr = closed.jaxpr
        self.key, self.linear = key, linear
        self.run = jax.jit(lambda consts, given: jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, consts))(*given))


def linearised(call: Call, kept: Kept) -> JaxLinearised:
    """f at the point of the call; programs are kept for other points."""
    found = traced(call)
    dynamic = FlatFunction(call, found.layout).dynamic
    consts = [] if found.closed is None else list(found.closed.consts)
    programs: list[Any] = kept.at(("operator", call.signature))
    again: Callable[[Call], JaxLinearised | None] = _never
    if call.abstract:
        start = Start(call, found, compiled=False)
        values, coefficients = start(consts, dynamic)
        linear = start.linear
        assert linear is not None
    elif found.closed is None:
        start = Start(call, found)
        try:
            values, coefficients = start(consts, dynamic)
        except NEEDS_VALUES as error:
            raise CrelleTypeError(
                describe(
                    f"{call.text}.at(...): f needs values of its arguments in Python ({type(error).__name__}), "
                    "and JAX cannot give them while it differentiates",
                    called=types_text(call.inputs, call.names),
                    try_="where, cond or while_loop of JAX in place of Python's if and while; "
                    "no float(x), int(x) or np.asarray(x)",
                )
            ) from None
        assert start.linear is not None
        linear = _shared(programs, start.linear)
    elif found.key is not None and found.key.opaque:
        linear, values, coefficients = _opaque(Start(call, found), programs, consts, dynamic)
    else:
        ours = [p for p in programs if isinstance(p, Program)]
        program = next((p for p in ours if p.start.describes(found)), None)
        if program is None:
            assert found.key is not None
            varies = any(p.start.key is not None and p.start.key.structure == found.key.structure for p in ours)
            program = Program(Start(call, found, lifted=varies))
            _keep(programs, program)
        if program.start.lifted:
            consts += keys.literals(found.closed.jaxpr)
        linear, values, coefficients = program.run(consts, dynamic)
        again = functools.partial(_again, program, consts, found.layout, call.signature)
    assert found.layout.result is not None
    made = JaxLinearised(linear, values, coefficients, call, found.layout.result.out_tree)
    made.again = again
    return made


def _again(program: Program, consts: Leaves, layout: Layout, signature: Hashable, call: Call) -> JaxLinearised | None:
    """f at other arrays of the same types, without tracing it anew: what it captures stays as it was.

    A data set is gone through with it, batch by batch; ``None`` for other types.
    """
    if call.signature != signature or layout.result is None:
        return None
    linear, values, coefficients = program.run(consts, FlatFunction(call, layout).dynamic)
    return JaxLinearised(linear, values, coefficients, call, layout.result.out_tree)


def _never(call: Call) -> None:
    """Traced each time: rules of the user's own, values that Python needs."""


def _opaque(start: Start, programs: list[Any], consts: Leaves, dynamic: Leaves) -> tuple[LinearMap, Leaves, Leaves]:
    """The derivative is traced at each call; what was compiled for an equal one is run."""
    closed = jax.make_jaxpr(start)(consts, dynamic)
    linear, found = start.linear, keys.jaxpr_key(closed, rules=False)
    assert linear is not None
    if linear.key is None:  # a rule is left whose meaning cannot be told
        return linear, *start(consts, dynamic)
    key = found.structure, found.literals, linear.key
    program = next((p for p in programs if isinstance(p, OpaqueProgram) and p.key == key), None)
    if program is None:
        program = OpaqueProgram(key, closed, linear)
        _keep(programs, program)
    results = program.run(closed.consts, [*consts, *dynamic])
    return program.linear, results[: start.count], results[start.count :]


def _shared(programs: list[Any], linear: LinearMap) -> LinearMap:
    """The map, or an equal one that was kept with its compiled products."""
    key = linear.key
    known = next((p for p in programs if isinstance(p, LinearMap) and p.key == key), None)
    if known is None and key is not None:
        _keep(programs, linear)
    return known if known is not None else linear


def _keep(programs: list[Any], program: Any) -> None:
    programs.insert(0, program)
    del programs[KEPT:]
