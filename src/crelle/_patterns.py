"""The pattern of a transform: given by the user or found, and checked where somebody vouched for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle._arrays import total_size, types_text
from crelle._errors import CrelleCheckError, CrelleShapeError, describe
from crelle._products import products_of
from crelle.backends._protocol import Call
from crelle.pattern import SparsityPattern
from crelle.tangent.program import TangentProgram
from crelle.tangent.report import outputs_of, pattern_of
from crelle.tangent.sparsity import detect

#: A product this much smaller than the largest is rounding.
_ROUNDING = 1e-6
#: Random products that a pattern somebody vouched for has to agree with.
_TRIALS = 2


def found_pattern(call: Call, local: bool = False) -> SparsityPattern:
    """The pattern that the tangent program has; compared with products where it rests on a rule of the user.

    Raises:
        CrelleCheckError: a rule misses entries.
    """
    program = call.backend.tangent_program(call, local)
    pattern = pattern_of(detect(program))
    if program.trusted and call.request.check and not call.abstract:
        verify(call, pattern, program)
    return pattern


def given_pattern(call: Call, pattern: SparsityPattern, rows: int) -> SparsityPattern:
    """The pattern that the user passed, if it has the right shape."""
    shape = (rows, total_size(call.inputs))
    if pattern.shape != shape:
        raise CrelleShapeError(
            describe(
                f"{call.text}: the pattern that was passed is {pattern.shape[0]:,} × {pattern.shape[1]:,}",
                called=types_text(call.inputs, call.names),
                expected=f"{shape[0]:,} × {shape[1]:,}: raveled outputs by raveled inputs",
                try_="pattern.T" if pattern.shape == shape[::-1] and shape[0] != shape[1] else None,
            )
        )
    return pattern


def verify(call: Call, pattern: SparsityPattern, program: TangentProgram) -> None:
    """Compare a pattern with random products: what should be zero for the pattern's sake has to be zero.

    Each product takes a random part of the columns, so that about a third of the rows read none of them. What was read
    from the reverse pass is compared with it: PyTorch's forward mode takes operations without a forward rule for zero.

    Raises:
        CrelleCheckError: a row depends on columns that the pattern does not list.
    """
    rng = np.random.default_rng(0)
    for _ in range(_TRIALS):
        reverse = program.transposed
        try:
            sided = pattern.T if reverse else pattern
            vector = _part(rng, sided)
            found = product_of(call, vector, reverse, outputs_of(program))
        except Exception:
            if reverse:
                raise
            reverse, sided = True, pattern.T  # no forward rule: the transposed question
            vector = _part(rng, sided)
            found = product_of(call, vector, reverse, outputs_of(program))
        reached = sided.to_scipy().astype(np.float64) @ (vector != 0)
        wrong = np.flatnonzero((reached == 0) & (np.abs(found) > _ROUNDING * np.abs(found).max(initial=0.0)))
        if len(wrong):
            raise CrelleCheckError(_message(call, program, int(wrong[0]), len(wrong), reverse))


def _part(rng: np.random.Generator, pattern: SparsityPattern) -> Any:
    """Random values in some columns, zero in the others."""
    m, n = pattern.shape
    share = min(0.5, 1.0 / max(pattern.nnz / max(m, 1), 1.0))
    vector = rng.uniform(0.5, 1.5, n) * rng.choice((-1.0, 1.0), n)
    return np.where(rng.random(n) < share, vector, 0.0)


def product_of(call: Call, vector: Any, reverse: bool, outputs: Any = ()) -> Any:
    """J v, uᵀJ or H v for a flat vector, without anything that was traced before."""
    backend, products = call.backend, products_of(call.backend)
    positions = call.request.argnums_tuple
    primals = tuple(call.args[i] for i in positions)
    leaves, tree = backend.flatten(primals)
    types = outputs if reverse and call.request.kind != "hessian" else call.inputs
    cuts = np.cumsum([t.size for t in types])[:-1]
    parts = [p.reshape(t.shape) for p, t in zip(np.split(vector, cuts), types, strict=True)]

    def f(*given: Any) -> Any:
        args = list(call.args)
        for i, value in zip(positions, given, strict=True):
            args[i] = value
        found = call.f(*args, **call.kwargs)
        return found[0] if call.request.has_aux else found

    if call.request.kind == "hessian":
        arrays = [backend.array_like(leaf, p) for leaf, p in zip(leaves, parts, strict=True)]
        result = products.compiled(lambda x, v: products.hvp(f, x, v)[1])(primals, backend.unflatten(tree, arrays))
    elif reverse:

        def pulled(x: Any) -> Any:
            value, pull = products.vjp(f, x, False)[:2]
            outs, out_tree = backend.flatten(value)
            arrays = [backend.array_like(o, p) for o, p in zip(outs, parts, strict=True)]
            return pull(backend.unflatten(out_tree, arrays))

        result = products.compiled(pulled)(primals)
    else:
        arrays = [backend.array_like(leaf, p) for leaf, p in zip(leaves, parts, strict=True)]
        tangents = backend.unflatten(tree, arrays)
        result = products.compiled(lambda x, v: products.jvp(f, x, v, False)[1])(primals, tangents)
    flat = [np.asarray(backend.to_host(leaf)).reshape(-1) for leaf in backend.flatten(result)[0]]
    found = np.concatenate([np.zeros(0), *flat])
    # PyTorch's pullback is u ↦ Jᴴu
    return found.conj() if reverse and backend.name == "torch" and call.request.kind != "hessian" else found


def _message(call: Call, program: TangentProgram, row: int, count: int, reverse: bool) -> str:
    side, other = ("column", "rows") if reverse else ("row", "columns")
    names = ", ".join(repr(n) for n in dict.fromkeys(program.trusted))
    return describe(
        f"{call.text}: the pattern misses entries",
        called=types_text(call.inputs, call.names),
        expected=f"{side} {row} to be zero in a product with {other} that the pattern says it does not read; "
        f"it is not ({count:,} such {side}s)",
        likely=f"the linear rule registered for {names} misses entries",
        try_='return a larger pattern from the rule, "dense" if in doubt',
    )
