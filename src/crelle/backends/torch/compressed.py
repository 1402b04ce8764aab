"""Sparse derivatives in PyTorch: coloured seeds through one recorded linearisation, and one gather.

Where a part of the matrix is the same for every x, it is computed once, and only the rest is run: with fewer colours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crelle._arrays import ArrayType, total_size, types_text
from crelle._compressed import Ways, choose, places
from crelle._errors import CrelleError, CrelleTypeError, describe
from crelle._patterns import given_pattern
from crelle.backends._protocol import Call
from crelle.backends.torch import graph, programs, run, watch
from crelle.backends.torch.flat import FlatFunction
from crelle.backends.torch.linear import lowered
from crelle.backends.torch.split import CannotSplit, Parts, split
from crelle.backends.torch.trace import TorchTrace
from crelle.colorings import Coloring
from crelle.pattern import SparsityPattern
from crelle.tangent.report import outputs_of

if TYPE_CHECKING:
    from crelle.backends.torch.lowering.walk import Lowering


Results = tuple[Tensor, list[Tensor], list[Tensor]]
#: (arrays, captured, seeds) -> (products, value, aux)
Replay = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Results]
#: (arrays, captured) -> (entries, value, aux)
Program = Callable[[Sequence[Tensor], Sequence[Tensor]], Results]


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
        low = lowered(call)
        program = low.program
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
        self.parts = self._split(call, low)
        self.ways: Ways = choose(call, program, self.parts is not None, given)
        if self.ways.constant is None:
            self.parts = None
        self.seen: list[tuple[Tensor, int, Tensor]] | None = None
        self.program: Program | None = None

    def _split(self, call: Call, low: Lowering) -> Parts | None:
        """The constant part of a tangent and the rest, if they can be told apart."""
        found = self.trace.match(call)
        if low.program.transposed or found is None or _followed(found[1]):
            return None
        try:
            return split(low)
        except CannotSplit:
            return None

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
        dynamic = flat.dynamic
        if any(leaf.is_inference() for leaf in dynamic):
            dynamic = run.plain_leaves(dynamic)
        if self.program is None:
            self.program = self._record(flat, lifted)
            self.parts = None
        data, values, aux = self.program(dynamic, lifted)
        return data, lambda matrix: flat.assemble(matrix, values, aux)

    def _record(self, flat: FlatFunction, lifted: list[Tensor]) -> Program:
        """(arrays, captured) -> (entries, value, aux), replayed."""
        kernels: Any = run.plain_kernels() if self.trace.plain_kernels else contextlib.nullcontext()
        with kernels:
            if self.parts is not None and self.ways.constant is not None:
                try:
                    return self._record_parts(flat, lifted, self.parts, self.ways.constant)
                except CannotSplit as why:
                    self._run_all(self.ways.constant, str(why))
            return self._record_whole(flat, lifted)

    def _run_all(self, coloring: Coloring, why: str) -> None:
        """From now on all of the matrix is run at each point, with the products that would have been run once."""
        place = places(coloring, total_size(self.outputs))
        every = np.ones_like(self.ways.varies)
        self.ways = replace(self.ways, coloring=coloring, place=place, constant=None, varies=every)
        self.notes = (*self.notes, f"what is the same for every input is run with the rest: {why}")

    def _record_whole(self, flat: FlatFunction, lifted: list[Tensor]) -> Program:
        dynamic = run.plain_leaves(flat.dynamic)
        device = _device(dynamic)
        coloring = self.ways.coloring
        place = torch.from_numpy(self.ways.place.astype(np.int64)).to(device)
        jobs: list[tuple[str, list[Tensor]]] = []
        if coloring is not None and coloring.column_colors is not None:
            mode = "forward-over-reverse" if self.hessian else "forward"
            jobs.append((mode, self._column_seeds(coloring, device)))
        if coloring is not None and coloring.row_colors is not None:
            jobs.append(("reverse", _seeds(coloring.row_colors, coloring.row_passes, self.outputs, device)))
        replays = [(self._products(flat, dynamic, lifted, mode, seeds), seeds) for mode, seeds in jobs]
        out = run.dtype_of(self.outputs[0].dtype) if self.outputs else torch.float64

        def program(arrays: Sequence[Tensor], captured: Sequence[Tensor]) -> Any:
            values: list[Tensor] = []
            aux: list[Tensor] = []
            pieces: list[Tensor] = []
            for replay, seeds in replays:
                piece, values, aux = replay(arrays, captured, seeds)
                pieces.append(piece)
            if not pieces:
                outputs, aux = flat(*arrays)
                return torch.zeros(0, dtype=out, device=device), outputs, aux
            whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            return whole.index_select(0, place), values, aux

        return program

    def _products(
        self, flat: FlatFunction, dynamic: list[Tensor], lifted: list[Tensor], mode: str, seeds: list[Tensor]
    ) -> Replay:
        """(arrays, captured, seeds) -> (products of all of the matrix, value, aux)."""
        active, places = flat.active, len(dynamic)

        def products(*arrays: Any) -> Any:
            passive = arrays[active:places]
            values, linear, _ = run.linear_map(
                lambda *leaves: flat(*leaves, *passive), list(arrays[:active]), self.inputs, self.f_outputs, mode,
                hessian=self.hessian, tape=self.trace.tape,
            )  # fmt: skip
            leaves = run.batch(linear, list(arrays[places:]))
            return _joined(leaves), values.outputs, values.aux

        return _replayed(products, dynamic, lifted, seeds)

    def _record_parts(self, flat: FlatFunction, lifted: list[Tensor], parts: Parts, once: Coloring) -> Program:
        """What is constant is computed here; the program adds what varies, at the entries where something does."""
        dynamic, ways = run.plain_leaves(flat.dynamic), self.ways
        device, count = _device(dynamic), len(dynamic)
        wanted = flat.call.request.value or flat.call.request.has_aux
        one_constant, one_varying = graph.compile_graph(parts.constant), graph.compile_graph(parts.varying)

        def constant(*arrays: Any) -> Any:
            linear = lambda *seeds: list(one_constant(*arrays[:count], *seeds))
            return _joined(run.batch(linear, list(arrays[count:]))), [], []

        def varying(*arrays: Any) -> Any:
            values, aux = flat(*arrays[:count]) if wanted else ([], [])
            if ways.coloring is None:
                return torch.zeros(0, device=device), values, aux
            linear = lambda *seeds: list(one_varying(*arrays[:count], *seeds))
            return _joined(run.batch(linear, list(arrays[count:]))), values, aux

        entries = torch.from_numpy(places(once, total_size(self.outputs)).astype(np.int64)).to(device)
        seeds = [] if ways.coloring is None else self._column_seeds(ways.coloring, device)
        seeds_once = self._column_seeds(once, device)
        try:
            symmetric = not self.hessian or _is_symmetric(lambda *s: one_constant(*dynamic, *s), self.inputs, device)
            run_constant = _replayed(constant, dynamic, lifted, seeds_once)
            run_varying = _replayed(varying, dynamic, lifted, seeds)
        except CrelleError:
            raise
        except Exception as error:  # any operation of torch may refuse to be batched, or transposed, once more
            raise CannotSplit(f"it could not be recorded ({type(error).__name__})") from None
        if not symmetric:  # an entry may be read from its mirror image: of both parts, or of none
            raise CannotSplit("it is not symmetric")
        varies = ways.varies if ways.coloring is not None else np.zeros(0, bool)
        at = torch.from_numpy(np.flatnonzero(varies)).to(device)
        place = torch.from_numpy(ways.place[varies].astype(np.int64)).to(device)
        with torch.no_grad():
            known = run_constant(dynamic, lifted, seeds_once)[0].index_select(0, entries)
            known_at = known[at]

        def program(arrays: Sequence[Tensor], captured: Sequence[Tensor]) -> Any:
            products, values, aux = run_varying(arrays, captured, seeds)
            data, data_at = known, known_at
            if _followed(captured):
                anew = self._column_seeds(once, device)  # too large to be kept
                data = run_constant(arrays, captured, anew)[0].index_select(0, entries)
                data_at = data[at]
            if not len(at):
                return data.clone(), values, aux
            return data.scatter(0, at, data_at + products.index_select(0, place)), values, aux

        return program

    def _column_seeds(self, coloring: Coloring, device: torch.device) -> list[Tensor]:
        assert coloring.column_colors is not None
        return _seeds(coloring.column_colors, coloring.column_passes, self.inputs, device)


def _replayed(
    f: Callable[..., Results], dynamic: list[Tensor], lifted: list[Tensor], seeds: list[Tensor],
) -> Replay:  # fmt: skip
    """Record (arrays, seeds) -> (products, value, aux) for seeds like these."""
    counts: dict[str, int] = {}

    def flattened(*arrays: Any) -> Any:
        products, values, aux = f(*arrays)
        counts["values"] = len(values)
        return [products, *values, *aux]

    with watch.tracing():
        module = programs.lift(programs.traced(flattened, [*dynamic, *seeds]), lifted, len(dynamic))
    replay = graph.compile_graph(graph.optimise(module))

    def replayed(arrays: Sequence[Tensor], captured: Sequence[Tensor], seeds: Sequence[Tensor]) -> Results:
        products, *rest = replay(*arrays, *captured, *seeds)
        return products, rest[: counts["values"]], rest[counts["values"] :]

    return replayed


def _is_symmetric(linear: Callable[..., Sequence[Tensor]], types: Sequence[ArrayType], device: torch.device) -> bool:
    """Whether C v = Cᵀ v for some random v, each element to the rounding of its row."""
    draw, dtypes = torch.Generator().manual_seed(0), [run.dtype_of(t.dtype) for t in types]
    many = [torch.randn(8, *t.shape, generator=draw).to(device, dtype) for t, dtype in zip(types, dtypes, strict=True)]
    zeros = [torch.zeros(t.shape, dtype=dtype, device=device) for t, dtype in zip(types, dtypes, strict=True)]
    _, pull = run.vjp(lambda *v: tuple(linear(*v)), *zeros)
    flat = [
        torch.cat([leaf.reshape(8, -1) for leaf in leaves], 1)
        for leaves in (run.batch(lambda *v: list(linear(*v)), many), run.batch(lambda *v: list(pull(v)), many))
    ]
    forward, back = flat[0], flat[1].conj()
    scale = (forward.abs().square() + back.abs().square()).mean(0).sqrt()
    tolerance = 1e3 * max(torch.finfo(dtype).eps for dtype in dtypes)
    return bool(((forward - back).abs() <= tolerance * scale).all())


def _joined(leaves: Sequence[Tensor]) -> Tensor:
    """Leaves [k, *shape] as one vector, product by product."""
    return torch.cat([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], 1).reshape(-1)


def _followed(captured: Sequence[Tensor]) -> bool:
    """Whether derivatives of the result may be taken by what f captures, so that it is no constant."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in captured)


def _device(arrays: Sequence[Tensor]) -> torch.device:
    return arrays[0].device if arrays else torch.device("cpu")


def _seeds(colors: np.ndarray[Any, Any], count: int, types: Sequence[ArrayType], device: torch.device) -> list[Tensor]:
    """For every colour the sum of its unit vectors, as leaves [k, *shape]."""
    hot = torch.from_numpy(colors[None, :] == np.arange(count)[:, None]).to(device)
    parts = torch.split(hot, [t.size for t in types], 1)
    return [p.to(run.dtype_of(t.dtype)).reshape(count, *t.shape) for p, t in zip(parts, types, strict=True)]
