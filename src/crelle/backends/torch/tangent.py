"""The tangent program of a call: f and its derivative recorded together, at types alone or at values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleError, CrelleTypeError, describe
from crelle.backends._protocol import Call
from crelle.backends.torch import run, watch
from crelle.backends.torch.flat import FlatFunction
from crelle.backends.torch.programs import needs_values
from crelle.backends.torch.record import NeedsValue, record
from crelle.backends.torch.run import type_of
from crelle.tangent.program import Dependence, TangentProgram


@torch.inference_mode(False)
def tangent_program(call: Call, known: bool = False) -> TangentProgram:
    """The derivative of f at the types of the call as linear maps; at its values if ``known``.

    Raises:
        CrelleTypeError: f cannot be recorded, or has no derivative in either mode.
    """
    from crelle.backends.torch.lower import lower

    flat = FlatFunction(call)
    if known and call.abstract:
        raise CrelleTypeError(
            describe(
                f"{call.text}: local=True reads the values of the arguments, and there are none",
                called=types_text(call.inputs, call.names),
                try_="pass tensors, outside of any transformation",
            )
        )
    dynamic = _stand_ins(flat.dynamic) if call.abstract else run.plain_leaves(flat.dynamic)
    active = flat.active
    kinds = [Dependence.VARYING] * active + [Dependence.PASSIVE] * (len(dynamic) - active)
    if known:
        kinds = [Dependence.CONSTANT] * len(dynamic)
    hessian = call.request.kind == "hessian"
    failure: Exception | None = None
    for mode, tape in _modes(call, hessian):
        try:
            with watch.tracing(), run.plain_kernels(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                module, made = _recorded(call, flat, dynamic, mode, tape, hessian)
        except CrelleError:
            raise
        except NeedsValue as error:
            raise _unrecorded(call, str(error)) from None
        except Exception as error:  # f has no rule for this mode: another one may do
            if needs_values(error):
                raise _unrecorded(call, type(error).__name__) from None
            failure = failure or error
            continue
        transposed = mode in ("reverse", "reverse-over-reverse")
        values: list[Any] = list(dynamic) if known else [None] * len(dynamic)
        program = lower(module, values, kinds, transposed)
        program.output_types = list(made)
        return program
    raise CrelleTypeError(
        describe(
            f"{call.text}: f has no derivative that PyTorch can record",
            called=types_text(call.inputs, call.names),
            likely=f"{type(failure).__name__}: {failure}".split("\n")[0],
        )
    ) from failure


def _recorded(
    call: Call, flat: FlatFunction, dynamic: list[Tensor], mode: str, tape: bool, hessian: bool
) -> tuple[fx.GraphModule, Sequence[ArrayType]]:
    """(graph of one unbatched product from values and seeds, types of its results)."""
    count, active = len(dynamic), flat.active
    inputs = tuple(type_of(a) for a in dynamic[:active])
    outputs: tuple[ArrayType, ...] = ()
    if not hessian:
        with torch.no_grad():
            outputs = tuple(type_of(o) for o in flat(*dynamic)[0])
    seeded = outputs if mode == "reverse" else inputs
    seeds = [torch.ones(t.shape, dtype=run.dtype_of(t.dtype), device=t.device) for t in seeded]

    def one_pass(*arrays: Any) -> Any:
        passive = arrays[active:count]

        def g(*leaves: Any) -> Any:
            return flat(*leaves, *passive)

        _, linear, _ = run.linear_map(g, list(arrays[:active]), inputs, outputs, mode, hessian=hessian, tape=tape)
        return list(linear(*arrays[count:]))

    module = record(one_pass, [*dynamic, *seeds])
    return module, inputs if hessian or mode == "reverse" else outputs


def _modes(call: Call, hessian: bool) -> list[tuple[str, bool]]:
    """Modes to try, each with whether autograd records f in place of ``torch.func``."""
    modes = ["forward-over-reverse", "reverse-over-reverse"] if hessian else ["forward", "reverse"]
    wanted = [m for m in modes if call.request.mode in ("auto", m)] or modes
    return [*((m, False) for m in wanted), (modes[-1], True)]


def _stand_ins(leaves: Sequence[Tensor]) -> list[Tensor]:
    """Some values for tensors that have none here."""
    return [
        torch.full(tuple(t.shape), 0.5, device="cpu" if t.device.type == "meta" else t.device).to(t.dtype)
        for t in leaves
    ]


def _unrecorded(call: Call, why: str) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f"{call.text}: the pattern is read off the recorded derivative, and f cannot be recorded",
            called=types_text(call.inputs, call.names),
            likely=f"f needs values of its arguments in Python ({why})",
            try_="torch.where in place of Python's if; local operations in place of .item() and masks",
        )
    )
