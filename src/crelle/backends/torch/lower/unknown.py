"""Finding a rule for an operation: the user's, ours, its decomposition into others, a probe, or everything."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crelle._errors import CrelleError
from crelle.backends.torch.lower.known import as_array
from crelle.backends.torch.lower.op import Op, Tangent, map_args
from crelle.backends.torch.lower.pointwise import is_pointwise, pointwise
from crelle.backends.torch.lower.walk import RULES, Lowering, Results, Rule
from crelle.backends.torch.record import record
from crelle.backends.torch.rewrite.values import is_random
from crelle.tangent.program import Lanes, Reduce
from crelle.tangent.rules import LinearOperand, find, patterns
from crelle.tangent.stencils import csr

#: Errors that are the user's to see.
USER_ERRORS = (CrelleError,)
#: Elements of the operand and of all operands up to which a linear map is run on every basis vector.
_PROBED, _PROBED_ALL = 256, 1 << 12
#: How deep decompositions may lie inside one another.
_DEPTH = 6


def find_rule(op: Op) -> Rule:
    """The rule of an operation."""
    return users(op) or RULES.get(op.name) or (pointwise if is_pointwise(op) else expand_or_probe)


def users(op: Op) -> Rule | None:
    """The rule that a user registered for an operation, by the name of its overload or of the operation."""
    names = [str(op.target), str(getattr(op.target, "overloadpacket", op.target))]
    declared = [(n, found) for n in names if (found := find(n)) is not None]
    if not declared:
        return None
    name, function = declared[0]

    def rule(low: Lowering, op: Op) -> Results:
        operands = [
            LinearOperand(a.shape, str(a.spec.dtype).removeprefix("torch."), a.linear, None if a.linear else a.array())
            for a in op.tensors
        ]
        specs = [s for s in op.specs if s is not None]
        params = dict(op.kwargs) | {"args": map_args(op.args, lambda a: None)}
        found = iter(patterns(name, function, operands, [s.shape for s in specs], params))
        low.program.trusted.append(name)
        results: list[int | None] = []
        for spec in op.specs:
            if spec is None:
                results.append(None)
                continue
            each = zip(op.tensors, next(found), strict=True)
            parts = [low.by_pattern(Lanes, a.value, p, spec.shape, op.kind()) for a, p in each if a.linear]
            results.append(low.added(parts))
        return results

    return rule


def expand_or_probe(low: Lowering, op: Op) -> Results:
    """An operation that we have no rule for."""
    found = expanded(low, op) or _probe(low, op)
    return found if found is not None else low.unknown(op, "no rule for this operation")


def expanded(low: Lowering, op: Op) -> Sequence[int | None] | None:
    """The operation in terms of others, as PyTorch decomposes it."""
    definition = _definition(op)
    if definition is None or low.depth >= _DEPTH:
        return None
    tensors = list({id(a): a for a in op.tensors}.values())

    def stand_in(a: Any) -> Tensor:
        value = a.tensor()
        return torch.zeros(a.shape, dtype=a.spec.dtype, device=a.spec.device) if value is None else value

    def body(*given: Tensor) -> Any:
        of = {id(a): t for a, t in zip(tensors, given, strict=True)}
        return definition(*map_args(op.args, lambda a: of[id(a)]), **map_args(op.kwargs, lambda a: of[id(a)]))

    low.depth += 1
    maps, notes = len(low.program.maps), len(low.program.notes)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module = record(body, [stand_in(a) for a in tensors], differentiable=False)
        if any(n.target is op.target for n in module.graph.nodes):
            return None
        found = low.run(module, [a.entry for a in tensors])
    except USER_ERRORS:
        raise
    except Exception:  # a decomposition that does not hold here
        del low.program.maps[maps:], low.program.notes[notes:]
        return None
    finally:
        low.depth -= 1
    results = list(found) if isinstance(found, (list, tuple)) else [found]
    if len(results) != len(op.specs):
        return None
    return [e.value if isinstance(e, Tangent) else None for e in results]


def _definition(op: Op) -> Any:
    direct = getattr(op.target, "impl_aten", None)  # a prim
    if direct is not None:
        return direct
    from torch._decomp import decomposition_table  # the only list of them; loading it takes long

    found = decomposition_table.get(op.target)
    if found is not None:
        return found
    try:
        composite = torch._C._dispatch_has_kernel_for_dispatch_key(op.target.name(), "CompositeImplicitAutograd")
    except (AttributeError, RuntimeError):
        return None
    return op.target.decompose if composite else None


def _probe(low: Lowering, op: Op) -> Sequence[int | None] | None:
    """Run a small linear map with known coefficients on basis vectors and read its matrix."""
    linear = list({id(a): a for a in op.linear}.values())
    others = [a for a in op.tensors if not a.linear]
    if len(linear) != 1 or is_random(op.target) or not str(op.target).startswith(("aten", "prims")):
        return None  # an operation of the user's may be anything but linear
    (arg,) = linear
    if arg.size > _PROBED or sum(a.size for a in op.tensors) > _PROBED_ALL:
        return None
    values = {id(a): a.tensor() for a in others}
    if any(v is None for v in values.values()):
        return None
    columns: list[list[Any]] = []
    for j in range(arg.size):
        basis = torch.zeros(arg.size, dtype=arg.spec.dtype, device=arg.spec.device)
        basis[j] = 1
        given = {**values, id(arg): basis.reshape(arg.shape)}
        found = op.run(lambda a, given=given: given[id(a)])  # type: ignore[misc]
        results = list(found) if isinstance(found, (list, tuple)) else [found]
        columns.append([as_array(r != 0).reshape(-1) if isinstance(r, Tensor) else None for r in results])
    out: list[int | None] = []
    for k, spec in enumerate(op.specs):
        if spec is None or not columns:
            out.append(None)
            continue
        pattern = csr(np.stack([c[k] for c in columns], 1))
        out.append(low.by_pattern(Reduce, arg.value, pattern, spec.shape, op.kind()))
    return out
