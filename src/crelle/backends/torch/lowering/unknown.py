"""What is done about an operation without a rule: the user's rule, what torch says of it, a probe, or everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from crelle.backends.torch.cost import spec_of_node
from crelle.backends.torch.lowering.pointwise import arguments, each_element, is_pointwise
from crelle.backends.torch.lowering.walk import Lowering, Rule, name_of, type_of
from crelle.backends.torch.lowering.windows import by_image, image_rank
from crelle.backends.torch.rewrite.values import Spec, map_nodes
from crelle.tangent.rules import LinearOperand, find, patterns
from crelle.tangent.shapes import csr

#: Elements of operand and result up to which a linear map is run on every unit vector.
_PROBE = 1 << 12
#: Derivatives of activations and element-wise losses: linear in the gradient, element by element.
_BACKWARDS = ("_backward", "_jvp")
_NOT_EACH = ("norm", "pool", "conv", "dist", "softmax", "embedding", "grid", "upsample", "attention", "loss2d", "ctc",
             "multilabel", "multi_margin", "segment", "nll", "glu", "im2col", "col2im", "cholesky", "linalg",
             "fold", "max", "min", "prod", "norm", "index", "scatter", "lstm", "gru", "rnn", "histc")  # fmt: skip


def users(node: fx.Node) -> Rule | None:
    """The rule that a user registered for an operation."""
    declared = find(str(node.target)) or find(name_of(node))
    if declared is None:
        return None
    name = name_of(node)

    def rule(low: Lowering, node: fx.Node) -> Any:
        tensors = [a for a in arguments(node) if isinstance(a, fx.Node)]
        spec = spec_of_node(node)
        specs = [spec] if isinstance(spec, Spec) else list(spec or ())
        operands = []
        for a in tensors:
            value = None if low.tangent(a) is not None else low.known(a)
            array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else None
            dtype = str(low.spec(a).dtype).removeprefix("torch.")
            operands.append(LinearOperand(low.shape(a), dtype, low.tangent(a) is not None, array))
        plain = {f"arg{k}": a for k, a in enumerate(node.args) if not isinstance(a, fx.Node)} | dict(node.kwargs)
        found = patterns(name, declared, operands, [s.shape for s in specs], plain)
        low.program.trusted.append(name)
        kind = low.kind(*tensors)
        results = [
            low.added([
                low.by_matrix(v, type_of(s), pattern, kind)
                for a, pattern in zip(tensors, row, strict=True) if (v := low.tangent(a)) is not None
            ])
            for s, row in zip(specs, found, strict=True)
        ]  # fmt: skip
        return results[0] if isinstance(spec, Spec) else results

    return rule


def fallback(node: fx.Node) -> Rule:
    """What is done about an operation that we have no rule for."""
    rank = image_rank(node)
    if rank is not None:
        return lambda low, node: by_image(low, node, rank)
    name = name_of(node)
    if is_pointwise(node):
        return each_element
    if name.endswith(_BACKWARDS) and not any(part in name for part in _NOT_EACH):
        return _backward
    return _probe_or_give_up


def _backward(low: Lowering, node: fx.Node) -> Any:
    """``gelu_backward`` and the like, if all that comes in has the shape of what comes out."""
    spec = spec_of_node(node)
    shapes = [low.shape(n) for n in node.all_input_nodes]
    if not isinstance(spec, Spec) or any(s not in (spec.shape, ()) for s in shapes):
        return _probe_or_give_up(low, node)
    return each_element(low, node)


def _probe_or_give_up(low: Lowering, node: fx.Node) -> Any:
    tangents = [n for n in dict.fromkeys(node.all_input_nodes) if low.tangent(n) is not None]
    spec = spec_of_node(node)
    others = [n for n in node.all_input_nodes if n not in tangents]
    if len(tangents) != 1 or not isinstance(spec, Spec) or any(low.known(n) is None for n in others):
        return low.opaque(node, "no rule")
    source, shape = tangents[0], low.shape(tangents[0])
    size = int(np.prod(shape, dtype=np.int64))
    if size > 256 or size + spec.size > _PROBE:
        return low.opaque(node, "no rule, and too large to be probed")
    target: Any = node.target
    images: list[torch.Tensor] = []
    try:
        for j in range(size):
            unit = torch.zeros(size, dtype=low.spec(source).dtype)
            unit[j] = 1

            def given(n: fx.Node, unit: torch.Tensor = unit) -> Any:
                return unit.reshape(shape) if n is source else low.known(n)

            with torch.no_grad():
                found = target(*map_nodes(node.args, given), **map_nodes(node.kwargs, given))
            images.append(found.reshape(-1).to(torch.complex128))
        if not _is_linear(low, node, source, images):
            return low.opaque(node, "no rule, and not linear")
    except Exception as error:  # any operation, any failure: it stays unknown
        return low.opaque(node, f"no rule, and it cannot be probed ({type(error).__name__})")
    matrix = torch.stack(images, 1).ne(0).numpy() if images else np.zeros((spec.size, 0), bool)
    value = low.tangent(source)
    assert value is not None
    return low.by_matrix(value, type_of(spec), csr(matrix), low.kind(*others))


def _is_linear(low: Lowering, node: fx.Node, source: fx.Node, images: list[torch.Tensor]) -> bool:
    """Whether a random combination of unit vectors goes to that combination of their images."""
    weights = torch.rand(len(images), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    spec = low.spec(source)

    def given(n: fx.Node) -> Any:
        return weights.to(spec.dtype).reshape(spec.shape) if n is source else low.known(n)

    target: Any = node.target
    with torch.no_grad():
        found = target(*map_nodes(node.args, given), **map_nodes(node.kwargs, given)).reshape(-1).to(torch.complex128)
    expected = torch.stack(images, 1) @ weights.to(torch.complex128) if images else found
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-6)
