"""The tangent program of a call: the derivative of f recorded once, without batches, and lowered."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleError, CrelleTypeError, describe
from crelle.backends._protocol import Call
from crelle.backends.torch import graph, modules, programs, run, watch
from crelle.backends.torch.flat import FlatFunction
from crelle.backends.torch.run import type_of
from crelle.tangent.program import Dependence, TangentProgram

if TYPE_CHECKING:
    from crelle.backends.torch.lowering.walk import Lowering


def tangent_program(call: Call, known: bool = False) -> TangentProgram:
    """The derivative of f at the types of the call as linear maps; at its values if ``known``.

    Raises:
        CrelleTypeError: f cannot be recorded in any mode.
    """
    return lowered(call, known).program


@torch.inference_mode(False)
def lowered(call: Call, known: bool = False) -> Lowering:
    """:func:`tangent_program` with the graph that it was read from."""
    from crelle.backends.torch.lowering import lower
    from crelle.backends.torch.lowering.walk import Unreadable

    flat = FlatFunction(call)
    shapes_only = any(map(is_shape, flat.dynamic))
    if known and shapes_only:
        raise CrelleTypeError(
            describe(
                f"{call.text}: local=True reads the values of the arguments, and there are none",
                called=types_text(call.inputs, call.names),
                try_="pass tensors with values",
            )
        )
    if shapes_only:
        dynamic = [_filled(leaf) if is_shape(leaf) else leaf for leaf in flat.dynamic]
    else:
        why = "inside a transformation" if call.abstract else modules.unsupported_tensor(flat.leaves)
        if why:
            raise _untraceable(call, why)
        dynamic = run.plain_leaves(flat.dynamic)
    with torch.no_grad(), watch.tracing():
        outputs = tuple(type_of(o) for o in flat(*[leaf.clone() for leaf in dynamic])[0])
    hessian = call.request.kind == "hessian"
    active = flat.active
    kinds = [Dependence.VARYING] * active + [Dependence.PASSIVE] * (len(dynamic) - active)
    if known:
        kinds = [Dependence.CONSTANT] * len(dynamic)
    failure: Exception | None = None
    modes = ["forward-over-reverse", "reverse-over-reverse"] if hessian else ["forward", "reverse"]
    for mode in [m for m in modes if call.request.mode in ("auto", m)] or modes:
        # fused kernels tell less of what they read; the tape is for functions that functorch refuses
        for plain, tape in ((False, False), (True, False), (False, True)):
            if tape and mode == "forward":
                continue
            try:
                with run.plain_kernels() if plain else contextlib.nullcontext():
                    module = _record(call, flat, dynamic, outputs, mode, tape)
            except CrelleError:
                raise
            except programs.Untraceable as error:
                raise _untraceable(call, str(error)) from None
            except Exception as error:
                if programs.needs_values(error):
                    raise _untraceable(call, f"control flow that depends on values ({type(error).__name__})") from None
                failure = failure or error
                continue
            if not mode.startswith("reverse") and (name := custom_operation(module, active)):
                failure = failure or RuntimeError(f"{name} may have no forward rule, and would silently give zeros")
                break
            module = graph.optimise(module)
            values = [leaf if known else None for leaf in dynamic]
            turned = mode in ("reverse", "reverse-over-reverse")
            made = call.inputs if turned or hessian else outputs
            try:
                return lower(module, values, kinds, made, transposed=turned)
            except Unreadable as error:
                raise _untraceable(call, str(error)) from None
    raise _untraceable(call, f"{type(failure).__name__}: {failure}".split("\n")[0])


def is_shape(leaf: Any) -> bool:
    """Whether a tensor has a shape and no values: it is fake, or on the meta device."""
    return type(leaf).__name__ == "FakeTensor" or bool(getattr(leaf, "is_meta", False))


def _filled(leaf: Any) -> torch.Tensor:
    """A tensor like one that has no values: what f records of it cannot depend on them."""
    return torch.full(tuple(leaf.shape), 0.5 if leaf.is_floating_point() else 0, dtype=leaf.dtype)


def _record(
    call: Call, flat: FlatFunction, dynamic: list[Any], outputs: tuple[ArrayType, ...], mode: str,
    tape: bool,
) -> fx.GraphModule:  # fmt: skip
    """(arrays, seeds) -> products, as an aten graph."""
    hessian, active, count = call.request.kind == "hessian", flat.active, len(dynamic)
    seeded = outputs if mode == "reverse" else call.inputs
    device = dynamic[0].device if dynamic else None
    seeds = [torch.ones(t.shape, dtype=run.dtype_of(t.dtype), device=device) for t in seeded]

    def one_pass(*arrays: Any) -> Any:
        passive = arrays[active:count]
        _, linear, _ = run.linear_map(
            lambda *leaves: flat(*leaves, *passive), list(arrays[:active]), call.inputs, outputs, mode,
            hessian=hessian, tape=tape,
        )  # fmt: skip
        return list(linear(*arrays[count:]))

    with watch.tracing():
        return programs.traced(one_pass, [*dynamic, *seeds])


def custom_operation(module: fx.GraphModule, active: int) -> str:
    """An operation that reads what is differentiated and that ``torch.func.jvp`` silently takes for a constant.

    Those are operations that are not torch's own, and products of scattered elements.
    """
    depends: set[fx.Node] = set(list(module.graph.find_nodes(op="placeholder"))[:active])
    for node in module.graph.nodes:
        if any(n in depends for n in node.all_input_nodes):
            depends.add(node)
            namespace = getattr(node.target, "namespace", "aten")
            foreign = node.op == "call_function" and namespace not in ("aten", "prims", "prim")
            if foreign or ("scatter_reduce" in str(node.target) and "prod" in node.args):
                return str(node.target)
    return ""


def _untraceable(call: Call, why: str) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f"{call.text}: the pattern is read off the recorded derivative, and f cannot be recorded",
            called=types_text(call.inputs, call.names),
            likely=why,
            try_="torch.where in place of Python's if, or pattern= if you know it",
        )
    )
