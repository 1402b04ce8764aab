"""Tracing a PyTorch function once: its derivative as an aten graph that is replayed while the guards hold."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from crelle._arrays import total_size
from crelle._compressed import Ways, of_dense
from crelle._errors import CrelleError
from crelle.backends._protocol import Call, CheckReport, Method, Runner
from crelle.backends.torch import check, cost, graph, guards, modules, programs, run, watch
from crelle.backends.torch.flat import FlatFunction, verify_complex
from crelle.backends.torch.guards import derivatives  # noqa: F401  (declares how a derivative inside f is guarded)
from crelle.backends.torch.programs import Untraceable
from crelle.backends.torch.run import type_of
from crelle.tangent.cost import PassCost
from crelle.tangent.program import Dependence

_UNITS = {
    "forward": ("JVP", 1),
    "reverse": ("VJP", 1),
    "forward-over-reverse": ("HVP", 1),
    "reverse-over-forward": ("HVP", 1),
    "reverse-over-reverse": ("HVP", 1),
    "forward-over-forward": ("second-order JVP", 1),
}
_TRIANGLE_LIMIT = 16
#: A mode that needs this many times more passes than the other is not traced only to be priced.
_OBVIOUS = 4
#: Below this many entries a trace for the price of forward mode costs more than it can save where m <= n.
_SMALL = 10_000
_PLAIN_NOTE = (
    "attention and recurrent layers run on their plain kernels: the fused ones lack a rule that this derivative needs"
)


class TorchTrace:
    """A function with a kept derivative graph, or one that is run anew at each call (``eager`` says why)."""

    def __init__(self, call: Call, eager: str = "") -> None:
        self.request, self.inputs, self.names, self.text = call.request, call.inputs, call.names, call.text
        self.hessian = call.request.kind == "hessian"
        self.units, self.loop_modes = _UNITS, ("reverse", "reverse-over-reverse")
        self.notes: list[str] = []
        self.unavailable: dict[str, str] = {}
        self.costs: dict[str, PassCost] = {}
        self.plain_kernels = self.tape = False
        self._stops_grad = False
        self._guards: Any = None
        self._lifted: list[Tensor] = []
        self._wholes: dict[str, programs.Whole] = {}
        self._passes: dict[str, torch.fx.GraphModule] = {}  # unbatched, until the plan is made
        self._relied: list[tuple[int, Tensor, int, Tensor]] = []
        flat = FlatFunction(call)
        self._first: FlatFunction | None = flat
        self._layout, self._active = flat.layout, flat.active
        self.eager = eager or ("inside a transformation" if call.abstract else modules.unsupported_tensor(flat.leaves))
        if not self.eager:
            try:
                with watch.tracing():
                    self._trace(flat)
            except Untraceable as reason:
                self.eager = str(reason)
        if self.eager:
            self.unavailable.clear()
            self._start_eager(flat)
            if not call.abstract:
                self.notes.append(f"not traced: {self.eager}; f is run anew at each call, as torch.func does")
        if self.plain_kernels:
            self.notes.append(_PLAIN_NOTE)

    @torch.inference_mode(False)
    def _trace(self, flat: FlatFunction) -> None:
        """Look at one plain evaluation, trace one unbatched pass of each mode for its price, and make the guards."""
        dynamic = run.plain_leaves(flat.dynamic)
        copies = [leaf.clone() for leaf in dynamic]
        recording = guards.record(flat.call.f, flat.call.args, flat.call.kwargs)
        with recording:
            outputs, seen = watch.evaluate(flat, copies, self.text, self.names)
        self.outputs = tuple(type_of(o) for o in outputs)
        self._verify_complex()
        if seen.reads_values:
            raise Untraceable(f"f takes a value out of a tensor ({seen.reads_values})")
        self._stops_grad = seen.stops_grad
        if seen.runs_backward_code:  # what f's own backward rules read is seen only while they run
            recording = guards.record(flat.call.f, flat.call.args, flat.call.kwargs)
            with recording:
                constants = self._price(flat, dynamic)
        else:
            constants = self._price(flat, dynamic)
        found = recording.guards(constants)
        if found.effect and not seen.runs_backward_code:  # a cache that was filled is settled the second time
            recording = guards.record(flat.call.f, flat.call.args, flat.call.kwargs)
            with recording:
                watch.evaluate(flat, copies, self.text, self.names)
            found = recording.guards(constants)
        if found.unguardable:
            raise Untraceable(found.unguardable)
        self._guards, self._lifted = found, constants

    def _start_eager(self, flat: FlatFunction) -> None:
        """Types from one evaluation; prices by the number of passes alone."""
        with torch.no_grad():
            outputs, _ = flat(*flat.dynamic)
        self.outputs = tuple(type_of(o) for o in outputs)
        self._verify_complex()
        moved = float(sum(t.nbytes for t in (*self.inputs, *self.outputs)))
        for mode in self._modes():
            self.costs[mode] = PassCost(flops=moved, bytes=moved, ops=60, peak_bytes=moved, primal_ops=30)

    def _price(self, flat: FlatFunction, dynamic: list[Any]) -> list[Tensor]:
        """The cost of one pass of every mode; returns the tensors that f captured."""
        captured: dict[int, Tensor] = {}
        n, m = sum(t.size for t in self.inputs), sum(t.size for t in self.outputs)
        order = self._modes()
        if not self.hessian and m > n:
            order.sort()  # forward first
        for mode in order:
            if self.costs and self.request.mode == "auto" and not self.hessian:
                few, many = sorted((m, n))
                if many > _OBVIOUS * few or (mode == "forward" and m * n < _SMALL):
                    mine, other = (n, m) if mode == "forward" else (m, n)
                    self.unavailable[mode] = f"not priced: {mine:,} passes, and the other mode needs {other:,}"
                    continue
            entries = n * n if self.hessian else m * n
            small = entries <= _SMALL and self.request.chunk is None and mode != "forward-over-forward"
            module = self._try_program(flat, dynamic, mode, small)
            for tensor in programs.constants(module) if module is not None else ():
                captured.setdefault(id(tensor), tensor)
        if not self.costs:
            raise Untraceable("; ".join(f"{mode}: {why}" for mode, why in self.unavailable.items()))
        return list(captured.values())

    def _try_program(
        self, flat: FlatFunction, dynamic: list[Any], mode: str, small: bool
    ) -> torch.fx.GraphModule | None:
        """Trace and price a mode; on plain kernels where the fused ones lack a rule; None where there is none."""
        trace = self._price_whole if small else self._price_one_pass
        try:
            return trace(flat, dynamic, mode)
        except (CrelleError, Untraceable):
            raise
        except Exception as error:
            if programs.needs_values(error):
                raise Untraceable(f"f has control flow that depends on values ({type(error).__name__})") from None
            if "setup_context" in str(error) and mode.startswith("reverse") and not self.tape:
                self.tape = True
                self.notes.append("an autograd.Function without setup_context: torch.autograd records it")
                return self._try_program(flat, dynamic, mode, small)
            if not self.plain_kernels:
                try:
                    with run.plain_kernels():
                        module = trace(flat, dynamic, mode)
                except Exception:
                    pass
                else:
                    self.plain_kernels = True
                    return module
            if small:  # perhaps only its batching rules are missing
                return self._try_program(flat, dynamic, mode, False)
            self.unavailable[mode] = _reason(error)
            return None

    def _price_whole(self, flat: FlatFunction, dynamic: list[Any], mode: str) -> torch.fx.GraphModule:
        """Trace all seeds at once, which is what will run, and price it by the seed."""
        outer, inner = total_size(self.inputs if self.hessian else self.outputs), total_size(self.inputs)
        selected = self.request.selection.resolve(outer, inner)
        method = Method(mode, selected.side(self.request.kind, mode, outer, inner), None, selected)
        whole = programs.trace_whole(self._question(flat), dynamic, method)
        assert whole.seed is not None
        total = cost.pass_cost(whole.module.graph, [whole.seed])
        count = max(whole.count, 1)
        self.costs[mode] = replace(
            total, flops=total.flops / count, matmul_flops=total.matmul_flops / count, bytes=total.bytes / count,
            peak_bytes=total.peak_bytes / count,
        )  # fmt: skip
        self._wholes[mode] = whole
        return whole.module

    def _price_one_pass(self, flat: FlatFunction, dynamic: list[Any], mode: str) -> torch.fx.GraphModule:
        """Trace one unbatched pass and price that."""
        program = self._program(flat, dynamic, mode)
        seeds = list(program.graph.find_nodes(op="placeholder"))[len(dynamic) :]
        self.costs[mode] = cost.pass_cost(program.graph, seeds)
        self._passes[mode] = program
        return program

    def _question(self, flat: FlatFunction) -> programs.Question:
        return programs.Question(
            lambda arrays: self._function(flat, arrays),
            self.inputs, self.outputs, self.request.flat, self.hessian, self.tape,
        )  # fmt: skip

    def _program(self, flat: FlatFunction, dynamic: list[Any], mode: str) -> torch.fx.GraphModule:
        """The unbatched pass (arrays, seed) -> (product, values) as a graph."""
        count = len(dynamic)
        seeded = self.outputs if mode == "reverse" else self.inputs
        device = dynamic[0].device
        seeds = [torch.ones(t.shape, dtype=run.dtype_of(t.dtype), device=device) for t in seeded]

        def one_pass(*arrays: Any) -> Any:
            g, active = self._function(flat, arrays[:count])
            if mode == "forward-over-forward":
                return run.second_forward(g, active)(list(arrays[count:]), list(arrays[count:]))
            values, linear, _ = run.linear_map(
                g, active, self.inputs, self.outputs, mode, hessian=self.hessian, tape=self.tape
            )
            return [*linear(*arrays[count:]), *values.outputs]

        return programs.traced(one_pass, [*dynamic, *seeds])

    def _modes(self) -> list[str]:
        if self.hessian:
            modes = ["forward-over-reverse", "reverse-over-reverse", "reverse-over-forward"]
            n = sum(t.size for t in self.inputs)
            if n <= _TRIANGLE_LIMIT and not self.request.selection.partial:
                modes.append("forward-over-forward")
        else:
            modes = ["reverse", "forward"]
        return [mode for mode in modes if mode not in self.unavailable]

    def _verify_complex(self) -> None:
        """Say which modes mean what for complex tensors; refuse what has no meaning."""
        request = self.request
        verify_complex(request, self.text, self.inputs, self.names, self.outputs)
        complex_in = any(t.is_complex for t in self.inputs)
        complex_out = any(t.is_complex for t in self.outputs)
        if self.hessian and complex_in:
            for mode in ("forward-over-reverse", "reverse-over-reverse", "reverse-over-forward"):
                self.unavailable[mode] = (
                    "PyTorch's reverse mode conjugates: only forward mode composes for complex tensors"
                )
        if complex_in and not request.holomorphic:
            self.unavailable["forward"] = "the input is complex and the output real: only a gradient (a VJP) is defined"
        if complex_out and not complex_in:
            self.unavailable["reverse"] = "the output is complex and the input real: only forward mode is defined"

    def _function(self, flat: FlatFunction, dynamic: Any) -> tuple[run.Flat, list[Any]]:
        """(function of the active leaves, their values)."""
        active, passive = list(dynamic[: self._active]), list(dynamic[self._active :])
        return (lambda *leaves: flat(*leaves, *passive)), active

    # -- what the protocol asks for

    def ways(self, call: Call) -> Ways | None:
        """Coloured products, read off a pass that was recorded for its price: where there is none, little can be saved.

        They hold for any numbers that f captures, and for these integers.
        """
        from crelle.backends.torch.linear import custom_operation
        from crelle.backends.torch.lowering import lower

        passes, self._passes = self._passes, {}
        for mode in sorted(passes):  # forward first
            reverse = mode.startswith("reverse") and mode != "reverse-over-forward"
            module = passes[mode]
            if mode == "forward-over-forward" or not (reverse or not custom_operation(module, self._active)):
                continue
            kinds = [Dependence.VARYING] * self._active + [Dependence.PASSIVE] * (
                len(self._layout.order) - self._active
            )
            loose = {id(t) for t in self._lifted if t.is_floating_point() or t.is_complex()}
            made = self.inputs if reverse or self.hessian else self.outputs
            try:
                found = lower(graph.optimise(module), [None] * len(kinds), kinds, made, reverse, loose)
                ways = of_dense(found.program, self.hessian)
            except Exception:  # whatever stands in the way of reading it: the dense modes need none of that
                return None
            integers = [(i, t) for i, t in enumerate(self._lifted) if id(t) not in loose]
            self._relied = [(i, t, t._version, t.detach().clone()) for i, t in integers]
            return ways
        return None

    def match(self, call: Call) -> Any | None:
        """(flat function, captured tensors as they are now), or None if a guard failed."""
        first, self._first = self._first, None
        fresh = first is not None and first.call is call
        flat = first if fresh and first is not None else FlatFunction(call, self._layout)
        if self.eager:
            return flat, ()
        captured = self._guards.match(call.f, call.args, call.kwargs)
        return None if captured is None else (flat, captured)

    def holds(self, call: Call, captured: Any) -> bool:
        """Whether the guards hold, and lead to the same tensors."""
        now = self.match(call)
        return now is not None and all(a is b for a, b in zip(now[1], captured[1], strict=True))

    def build(self, method: Method) -> Runner:
        """A runner: replays the kept graph, or runs f anew."""
        if self.eager:
            return self._run_eagerly(method)
        if sum(t.size for t in self.inputs) == 0 or sum(t.size for t in self.outputs) == 0:
            return self._run_eagerly(method)
        return self._replaying(method) if method.ways is None else self._build_coloured(method)

    def _replaying(self, method: Method) -> Runner:
        program: programs.Program | None = None
        if self._first is not None:  # f is still what it was: a plan that is called must not see later changes
            with contextlib.suppress(
                Exception
            ):  # what cannot be built says so when it is run, and another way is taken
                program = self._build_program(self._first, method, self._lifted)
        eagerly = self._run_eagerly(method)

        def runner(call: Call, captured: Any) -> Any:
            nonlocal program
            flat, lifted = captured
            if flat.call is not call:  # a frozen plan, called with other tensors
                flat = FlatFunction(call, flat.layout)
            dynamic = flat.dynamic
            if self._stops_grad and torch.is_grad_enabled() and any(t.requires_grad for t in (*dynamic, *lifted)):
                return eagerly(call, (flat, ()))
            if program is None:
                program = self._build_program(flat, method, lifted)
            if self._lifted or self._wholes:  # they hold what f captured, and would keep it alive
                self._wholes.clear()
                self._lifted.clear()
            return flat.assemble(*program(dynamic, lifted))

        return runner

    def _build_coloured(self, method: Method) -> Runner:
        """A runner of coloured products, while the integers that they rest on are what they were."""
        coloured, plain = self._replaying(method), None

        def runner(call: Call, captured: Any) -> Any:
            nonlocal plain
            for i, tensor, version, copy in self._relied:
                now = captured[1][i]
                if (now is not tensor or now._version != version) and not torch.equal(now, copy):
                    plain = plain or self.build(method.plain)  # other indices, another pattern
                    return plain(call, captured)
            return coloured(call, captured)

        return runner

    @torch.inference_mode(False)
    def _build_program(self, flat: FlatFunction, method: Method, lifted: list[Tensor]) -> programs.Program:
        dynamic = run.plain_leaves(flat.dynamic)
        whole = self._wholes.pop(method.mode, None) if method.chunk is None else None
        with self._kernels(), watch.tracing():
            if whole is not None:
                return programs.finish(whole, self._lifted, len(dynamic), self.request.compile)
            # traced anew: f reads what it captures now, which need not be what it was when it was priced
            return programs.build(self._question(flat), dynamic, lifted, method, self.request.compile)

    def _run_eagerly(self, method: Method) -> Runner:
        method = method.plain

        def runner(call: Call, captured: Any) -> Any:
            flat = captured[0]
            if flat.call is not call:
                flat = FlatFunction(call, flat.layout)
            dynamic = flat.dynamic
            leave: Any = contextlib.nullcontext()
            if torch.is_inference_mode_enabled():
                dynamic, leave = run.plain_leaves(dynamic), torch.inference_mode(False)
            with self._kernels(), leave:
                try:
                    parts = self._answer(flat, dynamic, method)
                except RuntimeError as error:
                    if self.tape or "setup_context" not in str(error):
                        raise
                    self.tape = True
                    parts = self._answer(flat, dynamic, method)
            return flat.assemble(*parts)

        return runner

    def _answer(self, flat: FlatFunction, dynamic: list[Any], method: Method) -> Any:
        g, active = self._function(flat, dynamic)
        return run.answer(
            g, active, self.inputs, self.outputs, method,
            flat=self.request.flat, hessian=self.hessian, tape=self.tape,
        )  # fmt: skip

    def _kernels(self) -> Any:
        return run.plain_kernels() if self.plain_kernels else contextlib.nullcontext()

    @torch.inference_mode(False)
    def check(self, call: Call, captured: Any, answer: Any, method: Method) -> CheckReport:
        """One random product against an unbatched product by ``torch.autograd``."""
        flat = captured[0]
        if flat.call is not call:
            flat = FlatFunction(call, flat.layout)
        with self._kernels(), watch.tracing():
            return check.report(self, flat, answer, method)

    def temporary_bytes(self, method: Method, call: Call, captured: Any) -> int | None:
        """PyTorch does not count its temporary memory on every device."""
        return None


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip().split("\n")[0]
    return text if len(text) <= 100 else text[:97] + "..."
