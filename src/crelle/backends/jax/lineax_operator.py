"""A lineax operator of one of ours."""

from __future__ import annotations

from typing import Any

import jax
import lineax as lx

from crelle.operators._operator import Operator


def lineax_operator(operator: Operator) -> Any:
    """``FunctionLinearOperator`` on trees like the input, with the tags that lineax knows."""
    space = operator.domain
    shapes = space.backend.unflatten(space.tree, [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in space.types])
    tags = []
    if operator.is_symmetric:
        tags.append(lx.symmetric_tag)
    if "psd" in operator.tags:
        tags.append(lx.positive_semidefinite_tag)
    return lx.FunctionLinearOperator(lambda v: operator @ v, shapes, tags)
