"""Cost of an aten graph: flops, bytes, launches and live memory, by operation. It ranks ways; it is no profiler."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from crelle.backends.torch.rewrite.values import Spec, aten, is_effect, packets, spec_of, tensors_in
from crelle.tangent.cost import PassCost

#: New descriptions of old memory: free.
VIEWS = packets(
    """
    view _unsafe_view reshape _reshape_alias unsqueeze squeeze flatten t transpose permute swapaxes swapdims
    expand select slice narrow diagonal split split_with_sizes chunk unbind alias detach as_strided unfold
    lift_fresh view_as_real view_as_complex real imag _conj _neg_view unsqueeze_ squeeze_ t_ transpose_ detach_
    contiguous resolve_conj resolve_neg
    """
)
#: Elements are copied and nothing is computed: bytes without flops.
DATA_MOVEMENT = VIEWS | packets(
    """
    clone copy copy_ _to_copy lift_fresh_copy cat stack flip roll rot90 repeat gather index index_select take
    embedding masked_select tril triu constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d diag_embed block_diag pixel_shuffle pixel_unshuffle
    channel_shuffle narrow_copy select_scatter slice_scatter diagonal_scatter as_strided_scatter select_backward
    slice_backward scatter index_copy where masked_fill masked_fill_ fill fill_ zero_ full full_like zeros
    zeros_like ones ones_like new_zeros new_ones new_full new_empty empty empty_like empty_strided eye arange
    scalar_tensor _efficientzerotensor im2col col2im upsample_nearest1d upsample_nearest2d upsample_nearest3d
    """
)
_TRANSCENDENTAL = packets(
    """
    sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh exp exp2 expm1 log log1p log2 log10
    logaddexp sigmoid log_sigmoid_forward softplus gelu gelu_backward silu silu_backward mish elu erf erfc
    erfinv lgamma digamma polygamma igamma igammac pow sqrt rsqrt xlogy _softmax _log_softmax logsumexp
    special_i0 special_ndtri sigmoid_ tanh_ exp_
    """
)
_TRANSCENDENTAL_FLOPS = 10
#: Dense work inside lanes of length k: about k flops for every element of the result.
_LANES = packets(
    """
    linalg_cholesky_ex cholesky_solve cholesky_inverse linalg_solve_triangular _linalg_solve_ex
    linalg_lu_factor_ex linalg_lu_solve linalg_lu linalg_inv_ex linalg_qr _linalg_eigh linalg_eig _linalg_svd
    linalg_matrix_exp triangular_solve _linalg_det _linalg_slogdet linalg_householder_product ormqr _fft_c2c
    _fft_r2c _fft_c2r
    """
)


def spec_of_node(node: fx.Node) -> Any:
    """Type of a node's value, or of each of its values; ``None`` where it has none."""
    if "spec" in node.meta:
        return node.meta["spec"]
    if node.op == "get_attr" and node.graph.owning_module is not None:
        return spec_of(getattr(node.graph.owning_module, str(node.target), None))
    return spec_of(node.meta.get("val"))


def _nbytes(node: fx.Node) -> int:
    spec = spec_of_node(node)
    if isinstance(spec, Spec):
        return spec.nbytes
    return sum(s.nbytes for s in spec or () if isinstance(s, Spec))


def is_view(node: fx.Node) -> bool:
    """Whether a node makes no new memory: a view, an item of a tuple, or a write to its first argument."""
    if node.op != "call_function":
        return False
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None:
        return True
    if packet in (aten.reshape, aten.contiguous):
        source = node.args[0]
        return not (isinstance(source, fx.Node) and source.target in (aten.permute.default, aten.expand.default))
    return packet in VIEWS


def is_data_movement(node: fx.Node) -> bool:
    """Whether a node moves or makes elements and computes nothing."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet is None or packet in DATA_MOVEMENT


def work(node: fx.Node) -> tuple[float, float]:
    """(flops in matrix products, other flops) of one node."""
    packet = getattr(node.target, "overloadpacket", None)
    spec = spec_of_node(node)
    specs = [spec] if isinstance(spec, Spec) else [s for s in spec or () if isinstance(s, Spec)]
    out = sum(s.size for s in specs)
    times = 4.0 if any(s.dtype.is_complex for s in specs) else 1.0
    if packet in DATA_MOVEMENT or packet is None:
        return 0.0, 0.0
    if packet in (aten.mv, aten.addmv, aten.dot, aten.vdot):
        matrix = node.args[1] if packet is aten.addmv else node.args[0]
        return times * 2.0 * math.prod(_shape(matrix)), 0.0
    if packet in flop_registry:
        shapes = [_shapes(a) for a in node.args]
        keywords = {k: _shapes(v) for k, v in node.kwargs.items()}
        result = specs[0].shape if isinstance(spec, Spec) else tuple(None if s is None else s.shape for s in spec or ())
        return times * float(flop_registry[packet](*shapes, **keywords, out_val=result)), 0.0
    if packet in _LANES:
        first = _shape(node.args[0])
        return times * float(out) * (first[-1] if first else 1), 0.0
    if packet in _TRANSCENDENTAL:
        return 0.0, times * float(_TRANSCENDENTAL_FLOPS * out)
    read = max((math.prod(_shape(n)) for n in tensors_in(node.args)), default=0)
    reduces = torch.Tag.reduction in getattr(node.target, "tags", ()) or packet in (aten.sum, aten.mean)
    terms = 2 if packet in (aten.addcmul, aten.addcdiv) else 1
    return 0.0, times * float(max(out, read) if reduces else terms * out)


def node_cost(node: fx.Node) -> tuple[float, float]:
    """(flops, bytes read and written) of one operation; views are free."""
    if is_view(node):
        return 0.0, 0.0
    return sum(work(node)), float(_nbytes(node) + sum(_nbytes(n) for n in node.all_input_nodes))


def _shape(value: Any) -> tuple[int, ...]:
    spec = spec_of_node(value) if isinstance(value, fx.Node) else None
    return spec.shape if isinstance(spec, Spec) else ()


def _shapes(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return torch.Size(_shape(value))
    if isinstance(value, (tuple, list)):
        return [_shapes(v) for v in value]
    return value


class _Memory:
    """Which node owns the memory that a node's value lives in."""

    def __init__(self) -> None:
        self._owner: dict[fx.Node, fx.Node] = {}

    def owner(self, node: fx.Node) -> fx.Node:
        """The first node with this memory."""
        if node not in self._owner:
            sources = node.all_input_nodes
            shares = sources and (is_view(node) or _writes_first(node))
            self._owner[node] = self.owner(sources[0]) if shares else node
        return self._owner[node]


def _writes_first(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.arguments:
        return False
    alias = schema.arguments[0].alias_info
    return alias is not None and alias.is_write


def _live(graph: fx.Graph) -> list[fx.Node]:
    """Operations that the output or an effect needs, in order."""
    needed: set[fx.Node] = set()
    memory = _Memory()
    written: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or node in needed or (_writes_first(node) and memory.owner(node) in written):
            needed.add(node)
            needed.update(node.all_input_nodes)
            written.update(memory.owner(n) for n in node.all_input_nodes)
        elif is_effect(node.target) and not _writes_first(node):
            needed.add(node)
            needed.update(node.all_input_nodes)
    return [n for n in graph.nodes if n in needed and n.op == "call_function"]


def _depends(nodes: Iterable[fx.Node], seeds: Iterable[fx.Node], memory: _Memory) -> set[fx.Node]:
    """Operations that read a seed, or memory that a seed was written to."""
    touched = {memory.owner(s) for s in seeds}
    found = set()
    for node in nodes:
        if any(memory.owner(a) in touched or a in found for a in node.all_input_nodes):
            found.add(node)
            touched.add(memory.owner(node))
    return found


def pass_cost(graph: fx.Graph, seeds: Iterable[fx.Node]) -> PassCost:
    """Cost of one pass of an unbatched derivative program; ``seeds`` are the placeholders of its (co)tangents.

    Dead operations are not counted. Views are free. Best called on an optimised graph: traces carry zero tangents,
    casts and copies that a replay does not run.
    """
    seeds = list(seeds)
    memory = _Memory()
    nodes = _live(graph)
    linear = _depends(nodes, seeds, memory)
    totals: dict[bool, list[float]] = {True: [0.0] * 4, False: [0.0] * 4}
    coefficients: dict[fx.Node, int] = {}
    for node in nodes:
        inside = node in linear
        if is_view(node):
            continue
        matmul, other = work(node)
        moved = _nbytes(node)
        for source in node.all_input_nodes:
            owner = memory.owner(source)
            if inside and source not in linear and owner not in seeds:
                coefficients[owner] = min(_nbytes(owner), max(coefficients.get(owner, 0), _nbytes(source)))
            else:
                moved += min(_nbytes(source), _nbytes(owner))
        for i, amount in enumerate((matmul, other, moved, 1)):
            totals[inside][i] += amount
    kept = sum(size for owner, size in coefficients.items() if owner.op == "call_function")
    matmul_flops, flops, total, ops = totals[True]
    return PassCost(
        flops=flops,
        matmul_flops=matmul_flops,
        bytes=total,
        coefficient_bytes=float(sum(coefficients.values())),
        ops=int(ops),
        peak_bytes=float(_peak(graph, linear, seeds, memory)),
        residual_bytes=float(kept),
        primal_flops=totals[False][1] + totals[False][0] / 4,  # products run about four times as fast per flop
        primal_bytes=totals[False][2],
        primal_ops=int(totals[False][3]),
    )


def _peak(graph: fx.Graph, linear: set[fx.Node], seeds: list[fx.Node], memory: _Memory) -> int:
    """Largest sum of live bytes that depend on the seeds."""
    order = [n for n in graph.nodes if n in linear or n.op == "output"]
    last: dict[fx.Node, int] = {}
    for i, node in enumerate(order):
        for source in (node, *node.all_input_nodes):
            last[memory.owner(source)] = i
    held = {s: _nbytes(s) for s in seeds if s in last}
    live = peak = sum(held.values())
    for i, node in enumerate(order):
        owner = memory.owner(node)
        if node.op != "output" and owner not in held and owner in linear:
            held[owner] = _nbytes(owner)
            live += held[owner]
        peak = max(peak, live)
        for source in {memory.owner(s) for s in (node, *node.all_input_nodes)}:
            if last[source] == i:
                live -= held.pop(source, 0)
    return peak
