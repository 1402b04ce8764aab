"""Sparse derivatives in PyTorch: coloured seeds through one recorded linearisation, and one gather."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crelle._arrays import ArrayType, total_size, types_text
from crelle._compressed import choose
from crelle._errors import CrelleTypeError, describe
from crelle._patterns import given_pattern
from crelle.backends._protocol import Call
from crelle.backends.torch import graph, programs, run, watch
from crelle.backends.torch.flat import FlatFunction
from crelle.backends.torch.linear import tangent_program
from crelle.backends.torch.trace import TorchTrace
from crelle.pattern import SparsityPattern
from crelle.tangent.report import outputs_of


class TorchCompressed:
    """One function at one signature: its pattern, its colours, and the recorded products."""

    def __init__(self, call: Call, given: SparsityPattern | None = None) -> None:
        self.trace = TorchTrace(call)
        if self.trace.eager:
            raise CrelleTypeError(
                describe(
                    f"{call.text}: format={call.request.format!r} needs a function that can be recorded",
                    called=types_text(call.inputs, call.names),
                    likely=self.trace.eager,
                    try_='format="dense"',
                )
            )
        program = tangent_program(call)
        self.hessian = call.request.kind == "hessian"
        self.inputs, self.f_outputs = call.inputs, tuple(self.trace.outputs)
        self.outputs = call.inputs if self.hessian else outputs_of(program)
        self.price = program.cost()
        self.notes: tuple[str, ...] = tuple(self.trace.notes)
        trusted = ", ".join(dict.fromkeys(program.trusted))
        passed = "the pattern that was passed" if given is not None else ""
        self.blame = f"the linear rule registered for {trusted}" if trusted else passed
        if given is not None:
            given_pattern(call, given, total_size(self.outputs))
        self.ways = choose(call, program, False, given)
        self.seen: list[tuple[Tensor, int, Tensor]] | None = None
        self.program: Callable[..., Any] | None = None

    def match(self, call: Call) -> Any | None:
        """The tensors that f captures, if f is what it was: the pattern depends on their values, too."""
        found = self.trace.match(call)
        if found is None:
            return None
        lifted = found[1]
        if self.seen is None:
            self.seen = [(t, t._version, t.detach().clone()) for t in lifted]
            return found
        for i, (t, (known, version, copy)) in enumerate(zip(lifted, self.seen, strict=True)):
            if t is known and t._version == version:
                continue
            if t.shape != copy.shape or not torch.equal(t.detach(), copy):
                return None
            self.seen[i] = (t, t._version, copy)
        return found

    @torch.inference_mode(False)
    def values(self, call: Call, captured: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The entries in CSR order, and what puts the matrix into the user's answer."""
        flat, lifted = captured
        if flat.call is not call:
            flat = FlatFunction(call, flat.layout)
        dynamic = run.plain_leaves(flat.dynamic) if torch.is_inference_mode_enabled() else flat.dynamic
        if self.program is None:
            self.program = self._record(flat, lifted)
        data, values, aux = self.program(dynamic, lifted)
        return data, lambda matrix: flat.assemble(matrix, values, aux)

    def _record(self, flat: FlatFunction, lifted: list[Tensor]) -> Callable[..., Any]:
        """(arrays, captured) -> (entries, value, aux), replayed."""
        dynamic = run.plain_leaves(flat.dynamic)
        active, places = flat.active, len(dynamic)
        device = dynamic[0].device if dynamic else torch.device("cpu")
        coloring = self.ways.coloring
        place = torch.from_numpy(self.ways.place.astype(np.int64)).to(device)
        jobs: list[tuple[str, list[Tensor]]] = []
        if coloring is not None and coloring.column_colors is not None:
            mode = "forward-over-reverse" if self.hessian else "forward"
            jobs.append((mode, _seeds(coloring.column_colors, coloring.column_passes, self.inputs, device)))
        if coloring is not None and coloring.row_colors is not None:
            jobs.append(("reverse", _seeds(coloring.row_colors, coloring.row_passes, self.outputs, device)))
        replays = [self._replay(flat, dynamic, lifted, mode, seeds, active, places) for mode, seeds in jobs]
        seeds_of = [seeds for _, seeds in jobs]
        out = run.dtype_of(self.outputs[0].dtype) if self.outputs else torch.float64

        def program(arrays: Sequence[Tensor], captured: Sequence[Tensor]) -> Any:
            values, aux = [], []
            pieces = []
            for (replay, counts), seeds in zip(replays, seeds_of, strict=True):
                piece, *rest = replay(*arrays, *captured, *seeds)
                values, aux = list(rest[: counts["values"]]), list(rest[counts["values"] :])
                pieces.append(piece)
            if not pieces:
                outputs, aux = flat(*arrays)
                return torch.zeros(0, dtype=out, device=device), outputs, aux
            whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            return whole[place], values, aux

        return program

    def _replay(
        self, flat: FlatFunction, dynamic: list[Tensor], lifted: list[Tensor], mode: str, seeds: list[Tensor],
        active: int, places: int,
    ) -> tuple[Callable[..., Any], dict[str, int]]:  # fmt: skip
        counts: dict[str, int] = {}

        def products(*arrays: Any) -> Any:
            passive = arrays[active:places]
            values, linear, _ = run.linear_map(
                lambda *leaves: flat(*leaves, *passive), list(arrays[:active]), self.inputs, self.f_outputs, mode,
                hessian=self.hessian, tape=self.trace.tape,
            )  # fmt: skip
            leaves = run.batch(linear, list(arrays[places:]))
            counts["values"] = len(values.outputs)
            joined = torch.cat([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], 1).reshape(-1)
            return [joined, *values.outputs, *values.aux]

        kernels: Any = run.plain_kernels() if self.trace.plain_kernels else contextlib.nullcontext()
        with kernels, watch.tracing():
            module = programs.lift(programs.traced(products, [*dynamic, *seeds]), lifted, places)
        return graph.compile_graph(graph.optimise(module)), counts


def _seeds(colors: np.ndarray[Any, Any], count: int, types: Sequence[ArrayType], device: torch.device) -> list[Tensor]:
    """For every colour the sum of its unit vectors, as leaves [k, *shape]."""
    hot = torch.from_numpy(colors[None, :] == np.arange(count)[:, None]).to(device)
    parts = torch.split(hot, [t.size for t in types], 1)
    return [p.to(run.dtype_of(t.dtype)).reshape(count, *t.shape) for p, t in zip(parts, types, strict=True)]
