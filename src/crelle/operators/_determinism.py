"""Whether a data set yields the same batches twice, and a function the same products: looked at on the first batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np

from crelle._errors import CrelleValueError, describe
from crelle.backends import framework_of, get_backend
from crelle.operators._batches import Batch, Batches, leaves_of
from crelle.operators._operator import Operator
from crelle.operators._vectors import vectors_of


def verify_deterministic(made: Callable[[Batch], Operator], batches: Batches, first: Batch, operator: Operator) -> None:
    """Begin another pass over the data set, and compare its first batch, and one product with it.

    Args:
        made: what makes the operator of a batch.
        first, operator: the first batch of one pass, and its operator.

    Raises:
        CrelleValueError: they differ: the loader shuffles, samples are augmented, or a layer is random.
    """
    again = next(iter(batches), None)
    if again is None or not same_batches(first.given, again.given):
        raise _other_batches(batches)
    vectors = vectors_of(operator.backend)
    signs = vectors.source(1857, vectors.empty(operator.domain)).rademacher(1, operator.shape[1])
    one, other = operator._products(signs), made(again)._products(signs)
    gap, scale = abs(one - other), abs(one)
    if operator.backend.is_abstract([gap]) or not gap.shape[1]:
        return
    allowed = max(t.epsilon for t in operator.domain.types) ** 0.5
    if float(gap.max()) > allowed * float(scale.max()):  # never for NaN: the product says which batch holds it
        raise CrelleValueError(
            describe(
                f"{batches.what}: f is not deterministic: two products with batch 0 differ by "
                f"{float(gap.max()) / max(float(scale.max()), 1e-300):.2g}",
                expected="the same derivative at the same batch, at every product",
                likely="dropout in train mode, or random numbers drawn inside f",
                try_="model.eval(), or a fixed generator or key; check=False to accept it",
            )
        )


def captured_modules(f: Any) -> list[Any]:
    """The ``nn.Module``s that a function reaches by its closure, its globals, ``self`` or ``partial``.

    >>> captured_modules(lambda x: x)
    []
    """
    if isinstance(f, functools.partial):
        return [module for held in (f.func, *f.args, *f.keywords.values()) for module in captured_modules(held)]
    if inspect.ismethod(f):
        owner = f.__self__
        held = [owner, *getattr(owner, "__dict__", {}).values()]
        return [*filter(_is_module, held), *captured_modules(f.__func__)]
    if not inspect.isfunction(f):
        return [f] if _is_module(f) else []
    cells = [_content(cell) for cell in f.__closure__ or ()]
    named = [f.__globals__[name] for name in f.__code__.co_names if name in f.__globals__]
    found = {id(value): value for value in (*cells, *named) if _is_module(value)}
    return list(found.values())


def _is_module(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "named_modules") and hasattr(value, "training")


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def same_batches(one: Any, other: Any) -> bool:
    """Whether two batches hold the same values."""
    if one is other:
        return True
    for a, b in zip_longest(leaves_of(one), leaves_of(other)):
        if a is b:
            continue
        framework = framework_of(a)
        if framework != framework_of(b):
            return False
        if framework is None:
            if a != b:
                return False
            continue
        backend = get_backend(framework)
        x, y = backend.to_host(a), backend.to_host(b)
        if x.shape != y.shape or x.dtype != y.dtype or not np.array_equal(x, y, equal_nan=x.dtype.kind in "fc"):
            return False
    return True


def _other_batches(batches: Batches) -> CrelleValueError:
    sampler = type(getattr(batches.data, "sampler", None)).__name__
    shuffles = "Random" in sampler
    return CrelleValueError(
        describe(
            f"{batches.what}: the data set yields another first batch when it is gone through again",
            expected="the same batches at every product",
            likely=f"the loader shuffles ({sampler})" if shuffles else "shuffling, or random augmentation of samples",
            try_="shuffle=False; or list(loader), which holds one order and one augmentation; check=False to accept it"
            if shuffles
            else "a fixed order and no augmentation; or list(data), which holds one of each; check=False to accept it",
        )
    )
