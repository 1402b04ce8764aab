"""Derivative programs as kept graphs: traced by ``make_fx``, cleaned, compiled to Python, replayed on new tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from crelle._arrays import ArrayType, total_size
from crelle.backends._protocol import Method
from crelle.backends.torch import graph, run
from crelle.backends.torch.record import NeedsValue, record


class Untraceable(Exception):
    """f cannot be kept as a graph; the text says why."""


def needs_values(error: Exception) -> bool:
    """Whether make_fx gave up because a value was needed in Python."""
    return "value out of a tracing tensor" in str(error) or type(error).__name__ in (
        "DataDependentOutputException",
        "GuardOnDataDependentSymNode",
    )


def _scaled(x: Tensor, factor: Any) -> Any:
    """A zero without memory times a number (mse_loss does that): PyTorch 2.13 raises, or dies under ``make_fx``."""
    return torch.zeros_like(x) if x._is_zerotensor() and not isinstance(factor, complex) else NotImplemented


_REPAIRS = {torch.ops.aten.mul.Scalar: _scaled}


def traced(f: Callable[..., Any], arrays: Sequence[Tensor]) -> fx.GraphModule:
    """The aten graph of f, which reads captured tensors as attributes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        try:
            module = record(f, arrays, decompositions=_REPAIRS)
        except NeedsValue as error:
            raise Untraceable(str(error)) from None
        except NotImplementedError as error:
            if "rule registered for HOP" not in str(error) and "HigherOrder" not in str(error):
                raise
            module = make_fx(f, decomposition_table=_REPAIRS)(*arrays)
    if module.meta.get("values_read"):
        raise Untraceable("f reads the value of a captured tensor")
    return module


def constants(module: fx.GraphModule) -> list[Tensor]:
    """The tensors that the traced function captured: the very objects that it read."""
    found = {}
    for node in module.graph.find_nodes(op="get_attr"):
        if node.users and all(user.target is torch.ops.aten.lift_fresh_copy.default for user in node.users):
            continue  # made inside f from Python data, which the guards hold: torch.tensor([1.0, 2.0])
        tensor = _attribute(module, node.target)
        if isinstance(tensor, Tensor):
            found[id(tensor)] = tensor
    return list(found.values())


def _attribute(module: fx.GraphModule, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def lift(module: fx.GraphModule, lifted: Sequence[Tensor], before: int) -> fx.GraphModule:
    """Turn captured tensors into inputs, all of ``lifted`` in that order, after the first ``before`` placeholders."""
    index = {id(t): i for i, t in enumerate(lifted)}
    nodes = list(module.graph.nodes)
    placeholders = [n for n in nodes if n.op == "placeholder"]
    anchor = placeholders[before] if before < len(placeholders) else next(n for n in nodes if n.op != "placeholder")
    with module.graph.inserting_before(anchor):
        inputs = [module.graph.placeholder(f"captured_{i}") for i in range(len(lifted))]
    for node, tensor in zip(inputs, lifted, strict=True):
        node.meta["val"] = tensor.detach()
    for node in nodes:
        if node.op == "get_attr" and id(tensor := _attribute(module, node.target)) in index:
            node.replace_all_uses_with(inputs[index[id(tensor)]])
            module.graph.erase_node(node)
    module.recompile()
    return module


class Program:
    """A compiled derivative: called with the arrays of a call and the captured tensors."""

    def __init__(self, replay: Callable[..., Any], unpack: Callable[[Any], Any]) -> None:
        self._replay, self._unpack = replay, unpack

    def __call__(self, dynamic: Sequence[Tensor], lifted: Sequence[Tensor]) -> Any:
        """(blocks or flat answer, values, aux)."""
        return self._unpack(self._replay(*dynamic, *lifted))


Function = Callable[[Any], tuple[run.Flat, list[Any]]]


@dataclass(frozen=True, slots=True)
class Question:
    """What a program computes: the function of some arrays, and everything of the request that shapes its answer."""

    function: Function
    inputs: Sequence[ArrayType]
    outputs: Sequence[ArrayType]
    flat: bool
    hessian: bool
    tape: bool

    def answer(self, arrays: Sequence[Any], method: Method, seeds: Tensor | None = None) -> Any:
        """(blocks or flat answer, values, aux)."""
        g, active = self.function(arrays)
        return run.answer(
            g, active, self.inputs, self.outputs, method,
            flat=self.flat, hessian=self.hessian, tape=self.tape, seeds=seeds,
        )  # fmt: skip

    def entries(self, arrays: Sequence[Any], method: Method) -> Any:
        """(entries by coloured products, values, aux)."""
        g, active = self.function(arrays)
        return run.coloured_entries(g, active, self.inputs, self.outputs, method, hessian=self.hessian, tape=self.tape)

    def written(self, entries: Tensor, method: Method) -> Any:
        """The answer that holds these entries."""
        return run.written(entries, method, self.inputs, self.outputs, flat=self.flat, hessian=self.hessian)

    def seeds(self, method: Method) -> tuple[Sequence[ArrayType], Any, int]:
        """(types of the seeded leaves, flat indices or None, how many)."""
        seeded = self.outputs if method.mode == "reverse" else self.inputs
        total = total_size(tuple(seeded))
        ids = run.wanted_seeds(method, total, self.flat)
        return seeded, ids, total if ids is None else len(ids)


@dataclass(slots=True)
class Whole:
    """A traced program for all seeds at once, before it is cleaned and compiled."""

    module: fx.GraphModule
    shape: dict[str, Any]
    seed: fx.Node | None
    count: int


def trace_whole(question: Question, dynamic: Sequence[Tensor], method: Method) -> Whole:
    """Trace a method for all its seeds; the seeds are the last input, so that what depends on them can be priced."""
    shape: dict[str, Any] = {}
    places = len(dynamic)
    if method.mode == "forward-over-forward":
        module = traced(lambda *arrays: _pack(question.answer(arrays, method), shape), dynamic)
        return Whole(module, shape, None, 1)
    seeded, ids, count = question.seeds(method)
    seeds = run.unit_matrix(0, count, seeded, ids, dynamic[0].device)

    def whole(*arrays: Any) -> Any:
        return _pack(question.answer(arrays[:places], method, arrays[places]), shape)

    module = traced(whole, [*dynamic, seeds])
    node = list(module.graph.find_nodes(op="placeholder"))[places]
    node.meta["seeds"] = None if ids is None else seeds
    return Whole(module, shape, node, count)


def finish(whole: Whole, lifted: Sequence[Tensor], places: int, compiled: bool) -> Program:
    """Put the unit vectors in place of the seeds, lift what f captured, clean and compile."""
    module, node = whole.module, whole.seed
    if node is not None:
        given, like = node.meta["seeds"], node.meta.get("spec") or node.meta["val"]
        with module.graph.inserting_after(node):
            if given is None:  # made by operations that the rewriter understands: it can use that they are unit vectors
                made = _unit_nodes(module.graph, node, like)
            else:
                module.register_buffer("_unit_seeds", given)
                made = module.graph.get_attr("_unit_seeds")
                made.meta["val"] = given
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made and user.op != "placeholder")
        module.graph.erase_node(node)
    lift(module, lifted, places)
    shape = whole.shape
    return Program(_compile(module, compiled), lambda results: _unpack(results, shape))


def _unit_nodes(nodes: fx.Graph, after: fx.Node, like: Tensor) -> fx.Node:
    aten = torch.ops.aten
    options: dict[str, Any] = {"dtype": like.dtype, "layout": torch.strided, "device": like.device}
    zeros = nodes.call_function(aten.zeros.default, ([*like.shape],), options)
    with nodes.inserting_after(zeros):
        diagonal = nodes.call_function(aten.diagonal.default, (zeros,))
    with nodes.inserting_after(diagonal):
        nodes.call_function(aten.fill_.Scalar, (diagonal, 1))
    return zeros


def build(
    question: Question, dynamic: Sequence[Tensor], lifted: Sequence[Tensor], method: Method, compiled: bool
) -> Program:
    """Trace, lift, clean and compile one method. In chunks, the primal part is a graph of its own, run once."""
    if method.ways is not None:
        return _coloured(question, dynamic, lifted, method, compiled)
    if method.chunk is None or method.mode == "forward-over-forward":
        return finish(trace_whole(question, dynamic, method), lifted, len(dynamic), compiled)
    return _chunked(question, dynamic, lifted, method, compiled)


def _coloured(
    question: Question, dynamic: Sequence[Tensor], lifted: Sequence[Tensor], method: Method, compiled: bool
) -> Program:
    """The entries are a graph; the matrix of zeros that they are written into is not part of it, nor recorded."""
    shape: dict[str, Any] = {}
    module = lift(traced(lambda *arrays: _pack(question.entries(arrays, method), shape), dynamic), lifted, len(dynamic))

    def answer(results: Any) -> Any:
        entries, values, aux = _unpack(results, shape)
        return question.written(entries, method), values, aux

    return Program(_compile(module, compiled), answer)


def _pack(parts: tuple[Any, list[Any], list[Any]], shape: dict[str, Any]) -> list[Any]:
    blocks, values, aux = parts
    grid = [list(row) for row in blocks] if isinstance(blocks, list) else None
    shape["rows"] = [len(row) for row in grid] if grid is not None else None
    shape["values"] = len(values)
    return [*([b for row in grid for b in row] if grid is not None else [blocks]), *values, *aux]


def _unpack(results: Sequence[Any], shape: dict[str, Any]) -> tuple[Any, list[Any], list[Any]]:
    rows = shape["rows"]
    start = 1 if rows is None else sum(rows)
    blocks: Any = results[0]
    if rows is not None:
        flat = iter(results)
        blocks = [[next(flat) for _ in range(width)] for width in rows]
    end = start + shape["values"]
    return blocks, list(results[start:end]), list(results[end:])


def _compile(module: fx.GraphModule, compiled: bool) -> Callable[..., Any]:
    if compiled:
        return torch.compile(module)
    return graph.compile_graph(graph.optimise(module))


def _chunked(
    question: Question, dynamic: Sequence[Tensor], lifted: Sequence[Tensor], method: Method, compiled: bool
) -> Program:
    inputs, outputs, hessian = question.inputs, question.outputs, question.hessian
    seeded, ids, count = question.seeds(method)
    width = min(method.chunk or count, count)
    device = dynamic[0].device
    places = len(dynamic)
    shape: dict[str, int] = {}

    def one_batch(*arrays: Any) -> Any:
        g, active = question.function(arrays[:places])
        values, linear, _ = run.linear_map(g, active, inputs, outputs, method.mode, hessian=hessian, tape=question.tape)
        leaves = run.batch(linear, list(arrays[places:]))
        shape["values"] = len(values.outputs)
        return [*leaves, *values.outputs, *values.aux]

    seeds = run.unit_seeds(0, width, seeded, ids, device)
    module = lift(traced(one_batch, [*dynamic, *seeds]), lifted, places)
    parts = len(outputs) if method.mode == "forward" and not hessian else len(inputs)
    primal, linear = split(graph.optimise(module), places + len(lifted), parts)
    run_primal, run_linear = _compile_plain(primal, compiled), _compile_plain(linear, compiled)

    def replay(*arrays: Any) -> Any:
        (*results,) = run_primal(*arrays)
        kept = len(results) - shape["rest"]
        residuals, rest = results[:kept], results[kept:]

        def pieces() -> Iterator[list[Any]]:
            for start in range(0, count, width):
                first = min(start, count - width)  # the last batch overlaps: every batch has the traced size
                batch = run_linear(*residuals, *run.unit_seeds(first, first + width, seeded, ids, device))
                yield [b[start - first :] for b in batch]

        leaves = run.gather(pieces(), count, width)
        blocks = run.shape_answer(leaves, method, inputs, outputs, flat=question.flat, hessian=hessian)
        return blocks, rest[: shape["values"]], rest[shape["values"] :]

    results: Any = primal.graph.output_node().args[0]
    shape["rest"] = len(results) - len(_residuals(linear, len(seeds)))
    return Program(replay, lambda results: results)


def _compile_plain(module: fx.GraphModule, compiled: bool) -> Callable[..., Any]:
    return torch.compile(module) if compiled else graph.compile_graph(module)


def _residuals(linear: fx.GraphModule, seeds: int) -> list[fx.Node]:
    return list(linear.graph.find_nodes(op="placeholder"))[:-seeds]


def split(module: fx.GraphModule, fixed: int, parts: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a program into the part that does not depend on the seeds, run once, and the part that does, run per batch.

    Args:
        module: placeholders are ``fixed`` arrays, then seeds; results are ``parts`` products, then values and aux.

    Returns:
        primal: arrays -> (residuals, values, aux); linear: (residuals, seeds) -> products.
    """
    placeholders = list(module.graph.find_nodes(op="placeholder"))
    depends = set(placeholders[fixed:])
    for node in module.graph.nodes:
        if any(a in depends for a in node.all_input_nodes):
            depends.add(node)
    output = module.graph.output_node()
    depends.discard(output)
    everything: Any = output.args[0]
    results = list(everything)
    products, rest = results[:parts], results[parts:]
    used = [n for n in module.graph.nodes if n in depends]
    residuals: dict[fx.Node, None] = {}
    for node in used:
        for source in node.all_input_nodes:
            if source not in depends and source.op != "get_attr":
                residuals.setdefault(source)
    for node in products:
        if isinstance(node, fx.Node) and node not in depends and node.op != "get_attr":
            residuals.setdefault(node)

    primal_graph, linear_graph = fx.Graph(), fx.Graph()
    old: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node not in depends and node.op != "output":
            old[node] = primal_graph.node_copy(node, lambda n: old[n])
    primal_graph.output([*(old[n] for n in residuals), *(old[n] if isinstance(n, fx.Node) else n for n in rest)])
    new: dict[fx.Node, fx.Node] = {}
    for i, node in enumerate(residuals):
        new[node] = linear_graph.placeholder(f"residual_{i}")
        new[node].meta = dict(node.meta)
    for node in placeholders[fixed:]:
        new[node] = linear_graph.node_copy(node)

    def moved(n: fx.Node) -> fx.Node:
        if n not in new:  # a constant, copied where it is used
            new[n] = linear_graph.node_copy(n)
        return new[n]

    for node in used:
        if node.op != "placeholder":
            new[node] = linear_graph.node_copy(node, moved)
    linear_graph.output([moved(n) if isinstance(n, fx.Node) else n for n in products])
    primal_graph.eliminate_dead_code()
    return fx.GraphModule(module, primal_graph), fx.GraphModule(module, linear_graph)
