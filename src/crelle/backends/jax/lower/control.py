"""Equations that hold jaxprs of their own: calls are inlined; loops and branches become programs inside the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

from crelle._arrays import ArrayType
from crelle.backends.jax.lower import primal
from crelle.backends.jax.lower.known import Known
from crelle.backends.jax.lower.walk import Arg, Entry, Lowering, NeedsReverse, Primal, Tangent, aval_type
from crelle.tangent.program import Branch, Dependence, Loop, TangentProgram

Control = Callable[[Lowering, Any, list[Arg]], "Sequence[Entry]"]
CONTROL: dict[str, Control] = {}


def control(*names: str) -> Callable[[Control], Control]:
    """Declare what is done with equations of these primitives."""

    def declare(function: Control) -> Control:
        CONTROL.update(dict.fromkeys(names, function))
        return function

    return declare


def _closed(found: Any) -> tuple[jex.Jaxpr, list[Any]]:
    if isinstance(found, jex.ClosedJaxpr):
        return found.jaxpr, list(found.consts)
    return found, []


def inline(low: Lowering, found: Any, args: Sequence[Arg]) -> list[Entry]:
    """Walk an inner jaxpr as if it stood here."""
    jaxpr, consts = _closed(found)
    return low.run(jaxpr, [constant(c) for c in consts], [a.entry for a in args])


def constant(value: Any) -> Entry:
    """A value that is there."""
    return Primal(Dependence.CONSTANT, Known.of(value))


@control(
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "core_closed_call",
)  # fmt: skip
def _call(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in eqn.params:
            return inline(low, eqn.params[key], args)
    return _unreadable(low, eqn, args)


def _unreadable(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
    if any(a.linear for a in args):
        return [Tangent(v) for v in low.opaque(eqn, args, "its body could not be read")]
    return primal.results(eqn, args)


@control("custom_lin")
def _custom_lin(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
    if any(a.linear for a in args):
        raise NeedsReverse
    return [Tangent(None) for _ in eqn.outvars]


# -- branches


@control("cond")
def _cond(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
    which, *operands = args
    branches = eqn.params["branches"]
    bounds = which.bounds()
    if bounds is not None and int(bounds[0]) == int(bounds[1]):
        return inline(low, branches[int(np.clip(int(bounds[0]), 0, len(branches) - 1))], operands)
    places = [k for k, a in enumerate(operands) if a.linear]
    bodies, results = [], []
    for branch in branches:
        body, entries = _inner(branch, operands, places, low)
        bodies.append(body)
        results.append(entries)
    outs: list[Entry] = []
    linear: list[int] = []
    for k, v in enumerate(eqn.outvars):
        found = [r[k] for r in results]
        if any(isinstance(e, Tangent) for e in found):
            if any(isinstance(e, Tangent) and e.value is not None for e in found):
                linear.append(k)
                value = low.program.value(aval_type(v))
                outs.append(Tangent(value))
            else:
                outs.append(Tangent(None))
        else:
            kind = max([which.kind, *(e.kind for e in found if isinstance(e, Primal))])
            outs.append(Primal(kind))
    if linear:
        for body, entries in zip(bodies, results, strict=True):
            _set_outputs(body, [entries[k] for k in linear], [aval_type(eqn.outvars[k]) for k in linear])
            _keep_notes(low, body)
        low.program.maps.append(
            Branch(
                name="cond", operands=tuple(operands[k].tangent for k in places),
                results=tuple(_value(outs[k]) for k in linear), dependence=which.kind, bodies=tuple(bodies),
                detail=f"{len(branches)} branches",
            )
        )  # fmt: skip
    return outs


def _value(entry: Entry) -> int | None:
    return entry.value if isinstance(entry, Tangent) else None


def _keep_notes(low: Lowering, body: TangentProgram) -> None:
    for text in body.notes:
        low.program.note(text)
    low.program.trusted += body.trusted


def _inner(
    found: Any, operands: Sequence[Arg], places: Sequence[int], low: Lowering
) -> tuple[TangentProgram, list[Entry]]:
    """A body as a program of its own, whose inputs are the operands at ``places``."""
    body = TangentProgram()
    entries: list[Entry] = []
    for k, a in enumerate(operands):
        if k in places:
            value = body.value(ArrayType(str(a.dtype), a.shape))
            body.inputs.append(value)
            entries.append(Tangent(value))
        else:
            entries.append(a.entry)
    jaxpr, consts = _closed(found)
    results = Lowering(body).run(jaxpr, [constant(c) for c in consts], entries)
    return body, results


def _set_outputs(body: TangentProgram, entries: Sequence[Entry], types: Sequence[ArrayType]) -> None:
    body.outputs = [_value(e) for e in entries]
    body.output_types = list(types)


def linear_body(found: Any, consts: Sequence[Entry], types: Sequence[ArrayType]) -> TangentProgram:
    """A jaxpr that is linear in its last inputs, as a program."""
    body = TangentProgram()
    inputs = [body.value(t) for t in types]
    body.inputs = list(inputs)
    jaxpr, own = _closed(found)
    results = Lowering(body).run(jaxpr, [constant(c) for c in own], [*consts, *(Tangent(v) for v in inputs)])
    _set_outputs(body, results, [aval_type(v) for v in jaxpr.outvars])
    return body


# -- loops


@control("scan")
def _scan(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
    p = eqn.params
    n_consts, n_carry, length = p["num_consts"], p["num_carry"], p["length"]
    jaxpr, own = _closed(p["jaxpr"])
    if own:
        raise AssertionError("scan bodies hold no constants of their own")
    consts, carry, scanned = args[:n_consts], args[n_consts : n_consts + n_carry], args[n_consts + n_carry :]
    loop = _LoopKinds(jaxpr, consts, carry, scanned, None)
    if not any(loop.linear_out) and not any(a.linear for a in args):
        return _primal_scan(eqn, args, loop)
    entries = [*(a.entry for a in consts), *loop.carry_entries(), *(_slice_entry(a, None) for a in scanned)]
    body, results = loop.body(entries)

    def step(t: int) -> TangentProgram:
        count = length - 1 - t if p["reverse"] else t
        now = [*(a.entry for a in consts), *loop.carry_entries(count), *(_slice_entry(a, t) for a in scanned)]
        return loop.body(now, results)[0]

    differs = any(_steps_matter(a) for a in scanned) or loop.counts
    return _emit_loop(low, eqn, "scan", args, loop, body, results, length, step if differs else None, p["reverse"])


def _steps_matter(a: Arg) -> bool:
    """Whether what is known of a scanned value, or its zeros, differs from step to step."""
    if a.linear or isinstance(a.entry, Tangent):
        return False
    value = a.value()
    if value is None:
        bounds = a.bounds()
        if bounds is None:
            return False
        return not all(b.ndim and (b == b[:1]).all() for b in bounds)
    if not len(value):
        return False
    if value.dtype.kind in "biu":
        return not bool((value == value[:1]).all())
    if value.dtype.kind not in "fc":
        return False
    return bool((value == 0).any()) and not bool((value == value[:1]).all())


def _key(keys: Any, t: int) -> Any:
    with jax.ensure_compile_time_eval():
        return keys[t]


def _slice_entry(a: Arg, t: int | None) -> Entry:
    """A scanned coefficient at one step, or what is true of it at all steps."""
    if isinstance(a.entry, Tangent):
        return a.entry
    entry = a.entry
    if entry.known is not None:
        whole = entry.known
        if not isinstance(a.dtype, np.dtype):  # random keys
            return Primal(entry.kind, None if t is None else Known((whole,), lambda v, t=t: _key(v, t)))
        if t is not None:
            return Primal(entry.kind, Known((whole,), lambda v, t=t: np.asarray(v)[t]))
        value = np.asarray(whole.get())
        if len(value) and (value == value[:1]).all():
            return Primal(entry.kind, Known.of(value[0]))
        return Primal(entry.kind, None, lambda: _range(value))
    if entry.bounds is not None:
        find = entry.bounds

        def bounds() -> Any:
            found = find()
            if found is None:
                return None
            return (found[0][t], found[1][t]) if t is not None else (found[0].min(0), found[1].max(0))

        return Primal(entry.kind, None, bounds)
    return entry


def _range(value: Any) -> Any:
    return (value.min(0), value.max(0)) if value.dtype.kind in "biu" and len(value) else None


class _LoopKinds:
    """What each carried value of a loop is: found by walking the body until nothing changes."""

    def __init__(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Arg], carry: Sequence[Arg], scanned: Sequence[Arg],
        kind: Dependence | None,
    ) -> None:  # fmt: skip
        self.jaxpr, self.consts, self.carry, self.scanned = jaxpr, consts, carry, scanned
        self.linear = [a.linear for a in carry]
        self.tangent = [isinstance(a.entry, Tangent) for a in carry]
        self.kinds = [a.kind for a in carry]
        self.counters: list[tuple[int, int] | None] = [None] * len(carry)
        base = kind or Dependence.CONSTANT
        self.kinds = [max(k, base) for k in self.kinds]
        while True:
            _, results = self.body(
                [*(a.entry for a in consts), *self.carry_entries(), *(_slice_entry(a, None) for a in scanned)]
            )
            changed = False
            for k, entry in enumerate(results[: len(carry)]):
                if isinstance(entry, Tangent):
                    if entry.value is not None and not self.linear[k]:
                        self.linear[k] = self.tangent[k] = changed = True
                elif not self.tangent[k] and max(entry.kind, base) > self.kinds[k]:
                    self.kinds[k], changed = max(entry.kind, base), True
            if not changed:
                break
        self.results = results
        self.linear_out = [isinstance(e, Tangent) and e.value is not None for e in results]
        self._find_counters()

    def _find_counters(self) -> None:
        """Carried integers that only count: start known, a known number added at each step."""
        for k, a in enumerate(self.carry):
            if self.tangent[k] or a.shape or np.dtype(a.dtype).kind not in "iu":
                continue
            start = a.value()
            out: Any = self.jaxpr.outvars[k]
            source = self.jaxpr.invars[len(self.consts) + k]
            if start is None or isinstance(out, jex.Literal):
                continue
            if out is source:
                self.counters[k] = (int(start), 0)
                continue
            for eqn in self.jaxpr.eqns:
                if out in eqn.outvars and eqn.primitive.name == "add":
                    a0, a1 = eqn.invars
                    if a0 is source and isinstance(a1, jex.Literal):
                        self.counters[k] = (int(start), int(a1.val))
                    elif a1 is source and isinstance(a0, jex.Literal):
                        self.counters[k] = (int(start), int(a0.val))

    @property
    def counts(self) -> bool:
        """Whether a step can tell which one it is."""
        return any(c is not None and c[1] for c in self.counters)

    def carry_entries(self, t: int | None = None) -> list[Entry]:
        """What is carried into the t-th step that is taken, or into any."""
        found: list[Entry] = []
        for k in range(len(self.carry)):
            counter = self.counters[k]
            if self.tangent[k]:
                found.append(Tangent(-1) if self.linear[k] else Tangent(None))
            elif counter is not None and (t is not None or counter[1] == 0):
                dtype = self.carry[k].dtype
                found.append(Primal(self.kinds[k], Known.of(np.asarray(counter[0] + counter[1] * (t or 0), dtype))))
            else:
                found.append(Primal(self.kinds[k]))
        return found

    def body(
        self, entries: Sequence[Entry], general: Sequence[Entry] | None = None
    ) -> tuple[TangentProgram, list[Entry]]:
        """The body as a program whose inputs are all tangents that go in.

        Its outputs are those of ``general``, the results of any step, also where one is zero in this step.
        """
        program = TangentProgram()
        mine: list[Entry] = []
        for entry, v in zip(entries, self.jaxpr.invars, strict=True):
            if isinstance(entry, Tangent) and entry.value is not None:
                value = program.value(aval_type(v))
                program.inputs.append(value)
                mine.append(Tangent(value))
            else:
                mine.append(entry)
        results = Lowering(program).run(self.jaxpr, [], mine)
        count = len(self.carry)
        kept = [e for k, e in enumerate(results[:count]) if self.linear[k]]
        types = [aval_type(v) for k, v in enumerate(self.jaxpr.outvars[:count]) if self.linear[k]]
        outvars: Sequence[Any] = self.jaxpr.outvars[count:]
        for e, any_step, out in zip(results[count:], (general or results)[count:], outvars, strict=True):
            if isinstance(any_step, Tangent) and any_step.value is not None:
                kept.append(e)
                types.append(aval_type(out))
        _set_outputs(program, kept, types)
        return program, results


def _emit_loop(
    low: Lowering, eqn: Any, name: str, args: Sequence[Arg], loop: _LoopKinds, body: TangentProgram,
    results: Sequence[Entry], length: int | None, step: Callable[[int], TangentProgram] | None, reverse: bool,
) -> Sequence[Entry]:  # fmt: skip
    from crelle.backends.jax.cost import equation_cost

    count = len(loop.carry)
    linear_consts = [a.tangent for a in loop.consts if a.linear]
    carried = [a.tangent for a, linear in zip(loop.carry, loop.linear, strict=True) if linear]
    scanned = [a.tangent for a in loop.scanned if a.linear]
    outs: list[Entry] = []
    values: list[int | None] = []
    for k, v in enumerate(eqn.outvars):
        entry = results[k]
        if (k < count and loop.linear[k]) or (k >= count and isinstance(entry, Tangent) and entry.value is not None):
            value = low.program.value(aval_type(v))
            values.append(value)
            outs.append(Tangent(value))
        elif (k < count and loop.tangent[k]) or isinstance(entry, Tangent):
            outs.append(Tangent(None))
        elif k < count:
            outs.append(Primal(loop.kinds[k]))
        else:
            outs.append(Primal(entry.kind))
    _keep_notes(low, body)
    flops, moved = equation_cost(eqn)
    low.program.maps.append(
        Loop(
            name=name, operands=(*linear_consts, *carried, *scanned), results=tuple(values), body=body,
            consts=len(linear_consts), carry=len(carried), length=length, step=step, reverse=reverse,
            dependence=body.dependence, flops=flops, bytes=moved,
            detail="unknown number of steps" if length is None else f"{length:,} steps",
        )
    )  # fmt: skip
    return outs


def _primal_scan(eqn: Any, args: Sequence[Arg], loop: _LoopKinds) -> Sequence[Entry]:
    """A scan of coefficients: results that do not depend on x are computed without the rest."""
    kinds = [
        loop.kinds[k] if k < len(loop.carry) else (e.kind if isinstance(e, Primal) else Dependence.CONSTANT)
        for k, e in enumerate(loop.results)
    ]
    if any(isinstance(a.entry, Tangent) for a in args):
        return [Tangent(None) for _ in eqn.outvars]
    known_in = [isinstance(a.entry, Primal) and a.entry.known is not None for a in args]
    if all(known_in):
        return primal.results(eqn, args)
    wanted = _knowable(loop, known_in)
    found: list[Entry] = [Primal(k) for k in kinds]
    if any(wanted):
        _cut_scan(eqn, args, loop, wanted, found)
    return found


def _knowable(loop: _LoopKinds, known_in: Sequence[bool]) -> list[bool]:
    """Which results of a scan need only what is known."""
    c, n = len(loop.consts), len(loop.carry)
    carried = list(known_in[c : c + n])
    while True:
        live: dict[Any, bool] = dict(zip(loop.jaxpr.invars, [*known_in[:c], *carried, *known_in[c + n :]], strict=True))
        for eqn in loop.jaxpr.eqns:
            ok = not eqn.effects and all(isinstance(v, jex.Literal) or live[v] for v in eqn.invars)
            live.update(dict.fromkeys(eqn.outvars, ok))
        outs = [isinstance(v, jex.Literal) or live[v] for v in loop.jaxpr.outvars]
        after = [a and b for a, b in zip(carried, outs[:n], strict=True)]
        if after == carried:
            return [*carried, *outs[n:]]
        carried = after


def _cut_scan(eqn: Any, args: Sequence[Arg], loop: _LoopKinds, wanted: Sequence[bool], found: list[Entry]) -> None:
    """Compute the wanted results of a scan by one that holds nothing else."""
    c, n = len(loop.consts), len(loop.carry)
    p = eqn.params
    cut = primal.Cut(loop.jaxpr, wanted)
    read = cut.read
    carried = [k for k in range(n) if wanted[k]]
    if any(read[c + k] and not wanted[k] for k in range(n)):
        return
    consts = [k for k in range(c) if read[k]]
    scanned = [k for k in range(len(loop.scanned)) if read[c + n + k]]
    order = [*consts, *(c + k for k in carried), *(c + n + k for k in scanned)]
    inputs = tuple(e.known for e in (args[k].entry for k in order) if isinstance(e, Primal) and e.known is not None)
    if len(inputs) != len(order):
        return

    def compute(*values: Any) -> list[Any]:
        given = dict(zip(order, values, strict=True))
        fixed = {k: given[k] for k in consts}

        def body(state: Any, xs: Any) -> Any:
            held = {**fixed, **dict(zip((c + k for k in carried), state, strict=True)),
                    **dict(zip((c + n + k for k in scanned), xs, strict=True))}  # fmt: skip
            results = cut(held)
            return list(results[: len(carried)]), list(results[len(carried) :])

        with jax.ensure_compile_time_eval():
            last, stacked = jax.lax.scan(
                body, [jax.numpy.asarray(given[c + k]) for k in carried], [given[c + n + k] for k in scanned],
                length=p["length"], reverse=p["reverse"],
            )  # fmt: skip
        return [*last, *stacked]

    whole = Known(inputs, compute)
    place = 0
    for k, w in enumerate(wanted):
        if w:
            entry = found[k]
            assert isinstance(entry, Primal)
            found[k] = Primal(entry.kind, Known((whole,), lambda r, i=place: r[i]))
            place += 1


@control("while")
def _while(low: Lowering, eqn: Any, args: list[Arg]) -> Sequence[Entry]:
    p = eqn.params
    n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
    cond_consts, consts, carry = args[:n_cond], args[n_cond : n_cond + n_body], args[n_cond + n_body :]
    if not any(isinstance(a.entry, Tangent) for a in args):
        kinds = max((a.kind for a in args), default=Dependence.CONSTANT)
        if all(isinstance(a.entry, Primal) and a.entry.known is not None for a in args):
            return primal.results(eqn, args)
        return [Primal(kinds) for _ in eqn.outvars]
    jaxpr, own = _closed(p["body_jaxpr"])
    if own:
        raise AssertionError("while bodies hold no constants of their own")
    kind = Dependence.CONSTANT
    while True:  # how many steps there are depends on what the condition reads
        loop = _LoopKinds(jaxpr, consts, carry, (), kind)
        decided = _condition_kind(p["cond_jaxpr"], [*cond_consts], loop)
        if decided <= kind:
            break
        kind = decided
    for k in range(len(carry)):  # how often a counter has been counted is not known
        loop.counters[k] = None if (loop.counters[k] or (0, 1))[1] else loop.counters[k]
    body, results = loop.body([*(a.entry for a in consts), *loop.carry_entries()])
    outs = _emit_loop(low, eqn, "while", args, loop, body, results, None, None, False)
    made = low.program.maps[-1]
    made.dependence = max(made.dependence, kind)
    return outs


def _condition_kind(found: Any, consts: Sequence[Arg], loop: _LoopKinds) -> Dependence:
    jaxpr, own = _closed(found)
    entries = [*(a.entry for a in consts), *loop.carry_entries()]
    program = TangentProgram()
    mine: list[Entry] = []
    for entry, v in zip(entries, jaxpr.invars, strict=True):
        mine.append(_fresh(program, entry, v))
    (result,) = Lowering(program).run(jaxpr, [constant(c) for c in own], mine)
    return result.kind if isinstance(result, Primal) else Dependence.VARYING


def _fresh(program: TangentProgram, entry: Entry, v: Any) -> Entry:
    if isinstance(entry, Tangent) and entry.value is not None:
        return Tangent(program.value(aval_type(v)))
    return entry
