"""A derivative that f takes itself: its function and what was asked matter, not what it keeps between calls."""

from __future__ import annotations

from crelle._transforms import Transform
from crelle.backends.torch.guards.walk import Walk, visits


@visits(Transform)
def visit_transform(walk: Walk, value: Transform, source: str, label: str, everything: bool) -> None:
    """The function below, and the request."""
    program = walk.program
    variable = walk.name(value, source, label)
    asked = value.request, value.request.selection.key, value.preferred
    now = f"({variable}.request, {variable}.request.selection.key, {variable}.preferred)"
    program.fail_if(f"{variable}.__class__ is not {program.constant(Transform)}", label)
    program.fail_if(f"{now} != {program.constant(asked)}", label)
    walk.visit(value.function, f"{variable}.function", label, everything)
