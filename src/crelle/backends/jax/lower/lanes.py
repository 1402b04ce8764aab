"""Rules for operations that are dense inside a lane: transforms, solves, sorts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle.backends.jax.lower.walk import Arg, Lowering, aval_type, rule
from crelle.tangent.program import Dependence, Lanes
from crelle.tangent.rows import TooMany, Universe
from crelle.tangent.shapes import triangle

Results = Sequence[int | None]
#: Triangular patterns of lanes up to this length are written out.
_LONGEST_TRIANGLE = 4096


@rule("fft")
def _fft(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    (a,) = args
    count = len(eqn.params["fft_lengths"])
    axes = tuple(range(len(a.shape) - count, len(a.shape)))
    return [low.lanes(Lanes, a.source, axes, eqn.outvars[0].aval.shape, Dependence.CONSTANT)]


@rule("triangular_solve")
def _triangular_solve(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    a, b = args
    if a.linear or b.tangent is None:
        return low.opaque(eqn, args, "not linear in its operands")
    p = eqn.params
    axis = len(b.shape) - (2 if p["left_side"] else 1)
    size = b.shape[axis]
    # A lower with A x = b: x[i] reads b[0..i]; transposed, or x A = b, the other way round
    transposes = _transposes(p["transpose_a"]) != (not p["left_side"])
    upper = bool(p["lower"]) == transposes
    pattern = triangle(size, upper) if size <= _LONGEST_TRIANGLE else None
    kind = a.kind
    batch = len(b.shape) - 2
    keep = a.keep()
    if keep is not None and (batch == 0 or (keep == keep.reshape(-1, size, size)[0]).all()):
        matrix = keep.reshape(-1, size, size)[0]
        system = np.tril(matrix) if p["lower"] else np.triu(matrix)
        pattern = closure(system.T if transposes else system) or pattern
    return [low.mixed(Lanes, b.tangent, axis, pattern, size, kind, detail="triangular")]


def _transposes(value: Any) -> bool:
    return value not in (0, False, None) and str(value) != "Transpose.NO_TRANSPOSE"


def closure(pattern: Any) -> tuple[Any, Any] | None:
    """The CSR pattern of the inverse of a matrix with this pattern: what is reached through it (Cayley-Hamilton).

    ``None`` where that would be long to find, or everything.
    """
    import scipy.sparse as sp

    reached = sp.csr_array(pattern, dtype=bool) + sp.eye_array(pattern.shape[0], dtype=bool, format="csr")
    while True:
        grown = reached @ reached
        if grown.nnz > 20_000_000:
            return None
        if grown.nnz == reached.nnz:
            break
        reached = grown
    if reached.nnz == reached.shape[0] ** 2:
        return None
    reached.sort_indices()
    return reached.indptr, reached.indices


@rule("tridiagonal_solve")
def _tridiagonal_solve(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    *system, b = args
    if b.tangent is None or any(a.linear for a in system):
        return low.opaque(eqn, args, "not linear in its operands")
    axis = len(b.shape) - 2
    return [low.mixed(Lanes, b.tangent, axis, None, b.shape[axis], max(a.kind for a in system))]


@rule("sort")
def _sort(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    axis = eqn.params["dimension"]
    kind = max(a.kind for a in args)
    return [
        None if a.tangent is None else low.lanes(Lanes, a.tangent, (axis,), a.shape, max(kind, Dependence.VARYING))
        for a in args
    ]


@rule("custom_linear_solve")
def _linear_solve(low: Lowering, eqn: Any, args: list[Arg]) -> Results:
    """x = A⁻¹ b, where A is a program of its own: x[i] reads b[j] where A leads from i to j in any number of steps."""
    from crelle.backends.jax.lower.control import linear_body
    from crelle.tangent.sparsity import assemble, inputs, propagate

    sizes, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    matvec_consts = args[: sizes.matvec]
    b = args[sum(sizes) :] if not hasattr(sizes, "b") else args[-len(eqn.outvars) :]
    if any(a.linear for a in args[: len(args) - len(b)]):
        return low.opaque(eqn, args, "its matrix carries a tangent")
    body = linear_body(jaxprs.matvec, [a.entry for a in matvec_consts], [ArrayType(str(a.dtype), a.shape) for a in b])
    low.program.notes += [n for n in body.notes if n not in low.program.notes]
    universe = Universe(body.columns)
    pattern: Any = None
    try:
        found = assemble(universe, propagate(body, inputs(universe, body), []))
        import scipy.sparse as sp

        data = np.ones(len(found.indices), bool)
        pattern = closure(sp.csr_array((data, found.indices, found.indptr), shape=found.shape))
    except TooMany:
        pattern = None
    kind = max((a.kind for a in matvec_consts), default=Dependence.CONSTANT)
    kind = max(kind, body.dependence)
    return _solved(low, eqn, b, pattern, kind)


def _solved(low: Lowering, eqn: Any, b: Sequence[Arg], pattern: Any, kind: Dependence) -> Results:
    """All right-hand sides in one vector, mixed, and cut up again."""
    total = sum(int(np.prod(a.shape, dtype=np.int64)) for a in b)
    joined = low.joined(b, lambda *parts: np.concatenate([p.reshape(-1) for p in parts]), (total,))
    value = low.mixed(Lanes, joined, 0, pattern, total, kind)
    results: list[int | None] = []
    start = 0
    for v in eqn.outvars:
        type_ = aval_type(v)
        part = slice(start, start + type_.size)
        results.append(low.moved(value, lambda ids, p=part, s=type_.shape: ids[p].reshape(s), type_.shape))
        start += type_.size
    return results
