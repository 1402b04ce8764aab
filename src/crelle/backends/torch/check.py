"""The first-run check in PyTorch: one random product of the answer against an unbatched one by ``torch.autograd``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from crelle._arrays import ArrayType, total_size
from crelle.backends._protocol import CheckReport, Method
from crelle.backends.torch import run


def report(trace: Any, flat: Any, answer: Any, method: Method) -> CheckReport:
    """Compare uᵀJ, look for NaN and inf, and evaluate f twice."""
    request, inputs, outputs = trace.request, trace.inputs, trace.outputs
    outer = inputs if trace.hessian else outputs
    m, n = total_size(tuple(outer)), total_size(tuple(inputs))
    if m == 0 or n == 0:
        return CheckReport(0.0, 0.0, "nothing: the matrix is empty")
    derivative = answer
    if request.value:
        derivative = answer[1]
    elif request.has_aux:
        derivative = answer[0]
    parts = [
        p.clone() if p.is_inference() else p.detach()
        for p in ([derivative] if request.flat else pytree.tree_leaves(derivative))
    ]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        return _compare(trace, flat, parts, method, outer, m)


def _compare(
    trace: Any, flat: Any, parts: list[Tensor], method: Method, outer: Sequence[ArrayType], m: int
) -> CheckReport:
    selected = method.selected
    device = parts[0].device
    u = np.zeros(m)
    rows = np.arange(m) if selected.rows is None else selected.rows
    if selected.entries is not None:
        if not len(selected.entries[0]):
            return CheckReport(0.0, 0.0, "nothing: no entry was asked for")
        rows = selected.entries[0][:1]
    weights = np.random.default_rng(0).standard_normal(len(rows))
    if selected.entries is not None:
        weights = np.ones(1)
    np.add.at(u, rows, weights)
    seeds = _leaves(u, outer, device)
    dynamic = run.plain_leaves(flat.dynamic)
    active = [t.requires_grad_() for t in dynamic[: flat.active]]
    passive = dynamic[flat.active :]
    with torch.no_grad():
        values, _ = flat(*active, *passive)
        again, _ = flat(*active, *passive)
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(values, again, strict=True)):
        return CheckReport(0.0, 0.0, "", deterministic=False)
    try:
        expected, name = _reference(trace, flat, active, passive, seeds)
    except RuntimeError:  # autograd cannot: a captured inference tensor, or a missing rule
        try:
            expected, name = _functional_reference(trace, flat, active, passive, seeds)
        except RuntimeError as error:
            reason = str(error).split("\n")[0][:80]
            return CheckReport(0.0, 0.0, f"nothing: no product can be formed in another way ({reason})")
    got = _product(trace, parts, outer, u, weights, method)
    if selected.entries is not None:
        expected = expected[torch.as_tensor(selected.entries[1][selected.entries[0] == rows[0]], device=device)]
    elif selected.cols is not None:
        expected = expected[torch.as_tensor(selected.cols, device=device)]
    both = torch.isfinite(expected) & torch.isfinite(got)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    difference = torch.where(both, (got - expected).abs().double(), zero)
    magnitude = torch.where(both, expected.abs().double(), zero)
    largest = float(difference.max()) if difference.numel() else 0.0
    scale = float(magnitude.max()) if magnitude.numel() else 0.0
    return CheckReport(largest, scale, name, _nonfinite(values, parts))


def _functional_reference(
    trace: Any, flat: Any, active: list[Tensor], passive: list[Tensor], seeds: list[Tensor]
) -> tuple[Tensor, str]:
    """The same products by torch.func, without a batch."""
    mode = "reverse-over-reverse" if trace.hessian else "reverse"
    plain = [a.detach() for a in active]
    _, linear, _ = run.linear_map(
        lambda *a: flat(*a, *passive), plain, trace.inputs, trace.outputs, mode, hessian=trace.hessian, tape=False
    )
    return _ravel(linear(*seeds)), "unbatched HVP" if trace.hessian else "unbatched VJP"


def _reference(
    trace: Any, flat: Any, active: list[Tensor], passive: list[Tensor], seeds: list[Tensor]
) -> tuple[Tensor, str]:
    """Jᵀu by one plain backward pass, or Hu by two."""
    if not (trace.hessian and trace.request.holomorphic):
        values, _ = flat(*active, *passive)
    if trace.hessian and trace.request.holomorphic:  # reverse mode conjugates twice: compare with nested forward passes
        g = lambda *a: flat(*a, *passive)
        positions = tuple(range(len(active)))
        gradient: Any = torch.func.jacfwd(lambda *a: g(*a)[0][0], positions)  # type: ignore[no-untyped-call]
        _, tangents = run.jvp(lambda *a: tuple(gradient(*a)), tuple(active), tuple(seeds))
        return _ravel(tangents).detach(), "nested JVP"
    if trace.hessian:
        slopes = torch.autograd.grad(values[0], active, create_graph=True, allow_unused=True, materialize_grads=True)
        dot = sum(((s * v).sum() for s, v in zip(slopes, seeds, strict=True)), torch.zeros(()))
        if not dot.requires_grad:
            return torch.cat([torch.zeros_like(a).reshape(-1) for a in active]), "unbatched HVP"
        products = torch.autograd.grad(dot, active, allow_unused=True, materialize_grads=True)
        return _ravel(products).detach(), "unbatched HVP"
    used = [(v, s) for v, s in zip(values, seeds, strict=True) if v.requires_grad]
    if not used:
        return torch.cat([torch.zeros_like(a).reshape(-1) for a in active]).detach(), "VJP"
    if any(v.is_complex() for v, _ in used) and not trace.request.holomorphic:
        real = [
            torch.autograd.grad(
                [p(v) for v, _ in used], active, [s.real for _, s in used],
                retain_graph=True, allow_unused=True, materialize_grads=True,
            )
            for p in (torch.real, torch.imag)
        ]  # fmt: skip
        return torch.complex(_ravel(real[0]), _ravel(real[1])), "VJP"
    rows = torch.autograd.grad(
        [v for v, _ in used], active, [s for _, s in used], allow_unused=True, materialize_grads=True
    )
    row = _ravel(rows)
    return (row.conj() if trace.request.holomorphic else row).detach(), "VJP"


def _ravel(leaves: Sequence[Tensor]) -> Tensor:
    kind = leaves[0].dtype
    for leaf in leaves[1:]:
        kind = torch.promote_types(kind, leaf.dtype)
    return torch.cat([leaf.reshape(-1).to(kind) for leaf in leaves])


def _leaves(vector: np.ndarray[Any, Any], types: Sequence[ArrayType], device: Any) -> list[Tensor]:
    leaves, start = [], 0
    for t in types:
        part = torch.as_tensor(vector[start : start + t.size], device=device)
        leaves.append(part.to(run.dtype_of(t.dtype)).reshape(t.shape))
        start += t.size
    return leaves


def _product(
    trace: Any, parts: list[Tensor], outer: Sequence[ArrayType], u: np.ndarray[Any, Any], weights: Any, method: Method
) -> Tensor:
    """uᵀJ from the answer."""
    selected, inputs = method.selected, trace.inputs
    device = parts[0].device
    if trace.request.flat:
        matrix = parts[0]
        if selected.entries is not None:
            mine = np.flatnonzero(selected.entries[0] == selected.entries[0][0])
            return matrix.reshape(-1)[torch.as_tensor(mine, device=device)]
        if selected.drop_col:
            matrix = matrix[..., None]
        if selected.drop_row or (trace.request.kind == "gradient" and matrix.ndim == 1):
            matrix = matrix[None]
        return torch.as_tensor(weights, device=device).to(matrix.dtype) @ matrix
    total: Tensor | None = None
    for i, (t, w) in enumerate(zip(outer, _leaves(u, outer, device), strict=True)):
        row = parts[i * len(inputs) : (i + 1) * len(inputs)]
        piece = _ravel(
            [w.reshape(-1).to(b.dtype) @ b.reshape(t.size, s.size) for b, s in zip(row, inputs, strict=True)]
        )
        total = piece if total is None else total + piece
    assert total is not None
    return total


def _nonfinite(values: Sequence[Tensor], parts: Sequence[Tensor]) -> str:
    value_bad = not all(map(_finite, values))
    for part in parts:
        if not _finite(part):
            entry = [int(i) for i in (~torch.isfinite(part)).nonzero()[0]]
            where = f"entry {entry} of the derivative is {part[tuple(entry)].item()}"
            return f"the value of f is not finite (NaN or inf), and {where}" if value_bad else where
    return "the value of f is not finite (NaN or inf)" if value_bad else ""


def _finite(array: Tensor) -> bool:
    """Whether every entry is finite. A finite sum says so without a temporary: ``memory=`` bounds the check, too."""
    return bool(torch.isfinite(array.sum())) or bool(torch.isfinite(array).all())
