"""The forward Laplacian in PyTorch: f is recorded, walked with value, tangents and Laplacian, and that is replayed.

The rules are those of :mod:`crelle.backends.jax.laplacian`: first and second derivatives of each operation come from
PyTorch's own forward mode. What f does apart from its operations, ``detach`` or an ``autograd.Function``, is not in the
recorded operations: such functions are left to Hessian-vector products.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import vmap
from torch.utils import _pytree as pytree

from crelle.backends._protocol import Call
from crelle.backends.torch import cost, graph, programs, run, watch
from crelle.backends.torch.compressed import TorchCompressed
from crelle.backends.torch.flat import FlatFunction


class NoForwardLaplacian(Exception):
    """The recorded operations do not have the derivative that f has; the text says why."""


@dataclass(frozen=True, slots=True)
class Taylor:
    """A value, its tangents [k, ...], and its Laplacian: the sum of the second derivatives along all tangents."""

    value: Tensor
    tangents: Tensor
    laplacian: Tensor


class ForwardLaplacian:
    """Laplacians of a function that was compressed, in one recorded forward pass with all seeds.

    Args:
        colors: of the inputs; those of a colour, which have no second derivative in common, share a seed. -1 for none.
        sampled: whether the numbers are those that f returns as aux, and the scalar is their sum.
        memory: bytes that it may take.
    """

    chunk = None

    @torch.inference_mode(False)
    def __init__(
        self, call: Call, compressed: TorchCompressed, captured: Any, colors: Any, sampled: bool, memory: int | None
    ) -> None:
        self.colors, self.seeds, self.types = colors, int(colors.max(initial=-1)) + 1, call.inputs
        flat, lifted = captured
        dynamic = run.plain_leaves(flat.dynamic)
        _, seen = watch.evaluate(flat, [leaf.clone() for leaf in dynamic], call.text, call.names)
        if seen.stops_grad:
            raise NoForwardLaplacian("f stops gradients, or has derivative rules of its own")
        shape: dict[str, int] = {}

        def values(*arrays: Any) -> Any:
            outputs, aux = flat(*arrays)
            shape["outputs"] = len(outputs)
            return [*outputs, *aux]

        recorded = graph.optimise(programs.traced(values, dynamic))
        count, active = len(dynamic), flat.active

        def push(*arrays: Any) -> Any:
            given: list[Any] = list(arrays[:count])
            for i, seeds in enumerate(arrays[count:]):
                given[i] = Taylor(arrays[i], seeds, torch.zeros_like(arrays[i]))
            results = _walk(recorded, given)
            found = results[shape["outputs"] if sampled else 0]
            plain = [r.value if isinstance(r, Taylor) else r for r in results]
            return [found.laplacian if isinstance(found, Taylor) else torch.zeros_like(found), *plain]

        seeds = self._seeds(colors, dynamic[0].device)
        assert len(seeds) == active
        module = graph.optimise(programs.lift(programs.traced(push, [*dynamic, *seeds]), lifted, count))
        places = list(module.graph.find_nodes(op="placeholder"))
        self.price = cost.pass_cost(module.graph, places[len(places) - len(seeds) :])
        if memory is not None and self.price.peak_bytes > memory:
            raise NoForwardLaplacian("all tangents at once would not fit in memory")
        each = next(compressed.trace.costs[m] for m in _PRODUCTS if m in compressed.trace.costs)
        self.products = replace(
            each, flops=each.flops * compressed.ways.passes, matmul_flops=each.matmul_flops * compressed.ways.passes,
            bytes=each.bytes * compressed.ways.passes, peak_bytes=each.peak_bytes * compressed.ways.passes,
        )  # fmt: skip
        self._outputs = shape["outputs"]
        self._replay: Callable[..., Any] = graph.compile_graph(module)
        self._kept = seeds

    @torch.inference_mode(False)
    def values(self, call: Call, captured: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The Laplacian, and what puts it into the user's answer."""
        flat, lifted = captured
        if flat.call is not call:
            flat = FlatFunction(call, flat.layout)
        dynamic = run.plain_leaves(flat.dynamic) if torch.is_inference_mode_enabled() else flat.dynamic
        laplacian, *results = self._replay(*dynamic, *lifted, *self._kept)
        values, aux = results[: self._outputs], results[self._outputs :]
        return laplacian, lambda found: flat.assemble(found, values, aux)

    @torch.inference_mode(False)
    def along(self, call: Call, captured: Any, color: int) -> float:
        """The second derivative along the seed of one colour, of the sum over samples."""
        flat, lifted = captured
        seeds = [seed.clone() for seed in self._kept]
        for seed in seeds:
            seed[:color] = 0
            seed[color + 1 :] = 0
        return float(self._replay(*run.plain_leaves(flat.dynamic), *lifted, *seeds)[0].detach().sum())

    def _seeds(self, colors: Any, device: torch.device) -> list[Tensor]:
        hot = torch.from_numpy(colors).to(device) == torch.arange(self.seeds, device=device)[:, None]
        return run.seed_leaves(hot, self.types)


#: The products that the forward Laplacian is compared with, as far as they are priced.
_PRODUCTS = ("forward-over-reverse", "reverse-over-reverse", "reverse-over-forward", "forward-over-forward")


def _walk(module: fx.GraphModule, given: Sequence[Any]) -> list[Any]:
    """Run a recorded function on tensors and Taylor series."""
    env: dict[fx.Node, Any] = {}
    arrays = iter(given)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(arrays)
        elif node.op == "get_attr":
            env[node] = operator.attrgetter(node.target)(module)
        elif node.op == "call_function":
            env[node] = _operation(
                node.target, *(fx.node.map_arg(a, env.__getitem__) for a in (node.args, node.kwargs))
            )
        else:
            return list(fx.node.map_arg(node.args[0], env.__getitem__))
    raise AssertionError("a recorded function returns")


def _operation(target: Any, args: Any, kwargs: Any) -> Any:
    leaves, tree = pytree.tree_flatten((tuple(args), dict(kwargs)))
    seeded = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Taylor)]
    if target is operator.getitem or not seeded:
        return target(*args, **kwargs)
    if getattr(getattr(target, "_schema", None), "is_mutable", False):
        raise NoForwardLaplacian(f"{target} writes in place")
    name = _name(target)
    run_it = _COMPOSED.get(name, target)
    found: dict[str, Any] = {}

    def apply(*values: Tensor) -> tuple[Tensor, ...]:
        full = list(leaves)
        for i, value in zip(seeded, values, strict=True):
            full[i] = value
        some, options = pytree.tree_unflatten(full, tree)
        found["results"], found["tree"] = pytree.tree_flatten(run_it(*some, **options))
        return tuple(r for r in found["results"] if _is_inexact(r))

    taylors = [leaves[i] for i in seeded]
    primals = tuple(t.value for t in taylors)

    def push(*v: Tensor) -> Any:
        return run.jvp(apply, primals, v)[1]

    def second(*v: Tensor) -> Any:
        return run.jvp(lambda *a: run.jvp(apply, a, v)[1], primals, v)[1]

    values = apply(*primals)
    results, shape = found["results"], found["tree"]
    if not values:  # comparisons, indices
        return pytree.tree_unflatten(results, shape)
    curved = name not in _LINEAR and not (name in _BILINEAR and len(taylors) == 1)
    if curved and name not in _CURVED:
        raise NoForwardLaplacian(f"the second forward derivative of {name} is not known to be right")
    tangents = vmap(push)(*(t.tangents for t in taylors))
    laplacians = push(*(t.laplacian for t in taylors))
    forms = vmap(second)(*(t.tangents for t in taylors)) if curved else [None] * len(values)
    made = iter([
        Taylor(value, tangent, laplacian if form is None else laplacian + form.sum(0))
        for value, tangent, laplacian, form in zip(values, tangents, laplacians, forms, strict=True)
    ])  # fmt: skip
    return pytree.tree_unflatten([next(made) if _is_inexact(r) else r for r in results], shape)


def _name(target: Any) -> str:
    return target.name().split("::")[-1].split(".")[0] if hasattr(target, "name") else str(target)


def _layer_norm(x: Tensor, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """From operations that can be differentiated twice: the fused one takes its mean and deviation for fixed."""
    axes = tuple(range(-len(shape), 0))
    mean = x.mean(axes, keepdim=True)
    inverse = ((x - mean).square().mean(axes, keepdim=True) + eps).rsqrt()
    found = (x - mean) * inverse
    found = found if weight is None else found * weight
    return found if bias is None else found + bias, mean, inverse


_COMPOSED: dict[str, Callable[..., Any]] = {"native_layer_norm": _layer_norm}

#: Operations that are linear in all their tensors together, or in the only one that a tangent goes through; and those
#: that are so in pieces.
_LINEAR = frozenset(
    ("add", "sub", "rsub", "neg", "sum", "mean", "view", "_unsafe_view", "reshape", "permute", "transpose", "t",
     "expand", "unsqueeze", "squeeze", "select", "slice", "cat", "stack", "clone", "_to_copy", "split",
     "split_with_sizes", "unbind", "flip", "roll", "index", "index_select", "gather", "cumsum", "constant_pad_nd",
     "alias", "diagonal", "diag_embed", "tril", "triu", "repeat", "unfold", "as_strided", "where", "masked_fill",
     "lift_fresh_copy", "relu", "threshold", "abs", "clamp_min", "clamp_max", "max", "min", "amax", "amin", "maximum",
     "minimum", "sort", "topk", "copy", "contiguous", "clamp", "select_scatter", "slice_scatter", "leaky_relu",
     "hardtanh", "nll_loss_forward")
)  # fmt: skip
#: Operations that are linear in each of two tensors.
_BILINEAR = frozenset(("mul", "mm", "mv", "bmm", "dot", "addmm", "addmv", "baddbmm", "convolution"))
#: Others whose forward derivative PyTorch differentiates rightly a second time. Not all are: a rule that reads another
#: result of its operation (of ``_linalg_slogdet``, ``_linalg_solve_ex``) takes that for fixed (PyTorch 2.13).
_CURVED = _BILINEAR | {
    "div", "pow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p",
    "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid",
    "erf", "erfc", "gelu", "silu", "softplus", "elu", "mish", "log_sigmoid_forward", "_softmax", "_log_softmax",
    "logsumexp", "prod", "var", "std", "addcmul", "addcdiv", "_safe_softmax", "linalg_vector_norm", "native_layer_norm",
    "logaddexp", "hypot", "xlogy", "mse_loss",
}  # fmt: skip


def _is_inexact(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
