"""Sample by sample: gradients of each sample's loss, and what is exact because samples do not see each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from crelle._arrays import parse_bytes
from crelle._call import describe_arguments
from crelle._errors import CrelleTypeError, describe
from crelle.operators._operator import Operator
from crelle.operators._pair import Bound, Pair
from crelle.operators._spaces import Space
from crelle.operators._vectors import vectors_of

if TYPE_CHECKING:
    from crelle.operators._ggn import GaussNewtonOperator

#: The share of free memory for gradients of samples.
_SHARE = 0.1
#: Copies of a sample's gradient that are there at once.
_COPIES = 3
#: Relative difference at which two ways to the same numbers are taken to be equal, in units of the machine epsilon.
_ROUNDING = 2e4


def per_sample_gradient(model: Any, loss: Any, *, reduction: str | None = None) -> Callable[..., Any]:
    """g[n] = ∂ loss(model(params, x[n:n+1]), y[n:n+1]) / ∂ params: the gradient of each sample's own loss.

    Args:
        model: a function ``model(params, x)`` of JAX or PyTorch, or an ``nn.Module``.
        loss: a function ``loss(outputs, target)`` that returns a scalar, or ``"cross_entropy"``, ``"mse"``, ``"bce"``.
        reduction: of a loss given by name: ``"mean"``, if left out, or ``"sum"``.

    Returns:
        A function ``(params, x, y)``, or ``(x, y)`` for a module, that returns a tree like the parameters (a dict for a
        module) with a leading axis of length B, the number of samples. Samples lie along the first axis of x and y.

    Raises:
        CrelleShapeError: x and y have different first axes.

    Cost:
        About one gradient of the batch, and the memory of B gradients. Jacobians of samples with respect to *inputs*
        are ``crelle.jacobian(f, format="blocks")``.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    >>> per_sample_gradient(model, "mse")(x, model(x) - 1.0)["weight"].round()
    tensor([[[2., 0.]],
    <BLANKLINE>
            [[2., 4.]]])
    """
    pair = Pair("per_sample_gradient", model, loss, reduction)

    def gradients(*args: Any) -> Any:
        bound = Bound(pair, args)
        _ = bound.size  # complains where first axes differ
        return bound.losses.each_gradient(bound.sample_loss, bound.params, [*bound.inputs, bound.target])

    gradients.__name__ = f"per_sample_gradient({pair.name})"
    gradients.__doc__ = f"Gradients of each sample's loss of {pair.name}: {pair.arguments} -> tree [B, ...]."
    return gradients


def exact_trace(operator: GaussNewtonOperator, bound: Bound, memory: int | str | None) -> float | None:
    """See :meth:`crelle.operators._ggn.GaussNewtonOperator.exact_trace`."""
    j = operator.jacobian
    if not _rows_are_samples(bound):
        return None
    count, space = bound.size, j.codomain
    columns = signed_columns(operator.curvature, bound)
    if columns is None:
        return None
    if count == 0 or not space.size or not j.domain.size:
        return 0.0
    f = bound.sample_outputs
    try:
        alone = bound.losses.each(lambda *inputs: f(bound.params, *inputs), bound.inputs)
    except Exception:  # a model that does not take a sample alone: BatchNorm over one, a fixed batch size
        return None
    if not close(joined(alone, space), joined(bound.outputs, space), space):
        return None
    total, norms, step = 0.0, None, count
    for sign, column in columns:
        seed = space.leave(column)[0]
        if norms is None:
            batched = space.backend.unflatten(space.tree, [leaf[:, None] for leaf in space.backend.flatten(seed)[0]])
            along = bound.losses.pulled(f, bound.params, bound.inputs, batched)
            if not close(joined(along, j.domain), j._adjoint_products(column), j.domain):
                return None
            first = [_cut(bound, tree, 0, None) for tree in (bound.inputs, seed)]
            norms = bound.losses.sample_norms(f, bound.params, *first)
            step = _chunk(operator, memory, norms.bytes)
        for start in range(0, count, step):
            found = norms(_cut(bound, bound.inputs, start, step), _cut(bound, seed, start, step))
            total += float((found if sign is None else found * sign[start : start + step]).sum())
    return total


def signed_columns(curvature: Operator, bound: Bound) -> Iterator[tuple[Any, Any]] | None:
    """(sign, column): blocks [1, m] with a vector s for each sample, such that H = Σ sign · s sᵀ in each of them.

    The sign is ``None`` where it is 1, and otherwise [B]. ``None`` if H is not known to be a sum over samples.
    """
    count = bound.size
    if hasattr(curvature, "columns"):
        return ((None, column) for column in curvature.columns(count)) if "psd" in curvature.tags else None
    if share(bound) is None:
        return None
    return _eigenvectors(curvature, count)


def _eigenvectors(curvature: Operator, count: int) -> Iterator[tuple[Any, Any]]:
    """By the eigenvalues of the blocks [B, d, d] on the diagonal of H, from d products."""
    space, vectors, backend = curvature.domain, vectors_of(curvature.backend), curvature.backend
    places = np.concatenate([np.arange(leaf.start, leaf.stop).reshape(count, -1) for leaf in space.slices], 1)
    rows = [backend.to_host(curvature._products(column))[0][places] for column in unit_columns(space, count)]
    blocks = np.stack(rows, 1)
    values, q = np.linalg.eigh((blocks + blocks.transpose(0, 2, 1)) / 2)
    like = vectors.empty(space)
    for k in range(values.shape[1]):
        column = np.zeros((1, space.size))
        column[0, places] = q[:, :, k] * np.abs(values[:, k, None]) ** 0.5
        yield vectors.from_host(np.sign(values[:, k]), like), vectors.from_host(column, like)


def unit_columns(space: Space, count: int) -> Iterator[Any]:
    """For each output of a sample, the block [1, m] that is 1 there in all samples; samples are the first axis."""
    vectors = vectors_of(space.backend)
    like = vectors.empty(space)
    ends = np.cumsum([t.size for t in space.types])
    for t, end in zip(space.types, ends, strict=True):
        for k in range(t.size // count):
            column = np.zeros((1, space.size))
            column[0, end - t.size + k : end : t.size // count] = 1.0
            yield vectors.from_host(column, like)


def share(bound: Bound) -> float | None:
    """c where loss = c Σ_n loss of sample n: 1 for a sum, 1/B for a mean, ``None`` for neither; told by gradients."""
    found = _shared(bound)
    return None if found is None else found[1]


def sample_gradients(bound: Bound) -> tuple[Any, float]:
    """([1, m]: the gradient of each sample's loss with respect to its outputs, c as in :func:`share`).

    Raises:
        CrelleTypeError: the loss is neither a sum nor a mean over samples.
    """
    found = _shared(bound)
    if found is None:
        arrays = (*bound.inputs, bound.target, bound.outputs)
        raise CrelleTypeError(
            describe(
                f"{bound.what}: the loss is neither the sum nor the mean of the losses of samples",
                called=describe_arguments(arrays, {}),
                expected="samples along the first axis of inputs, target and outputs, and a loss that adds them up",
                likely="a weighted mean (weight=, ignore_index=), a penalty, or batches of one that give NaN",
                try_="reduction='sum'; penalties apart from the loss",
            )
        )
    return found


def _shared(bound: Bound) -> tuple[Any, float] | None:
    space = bound.jacobian.codomain
    if not _rows_are_samples(bound):
        return None
    alone, whole = joined(bound.sample_slopes(), space), joined(bound.slope[1], space)
    return next(((alone, c) for c in (1 / bound.size, 1.0) if close(alone * c, whole, space)), None)


def _rows_are_samples(bound: Bound) -> bool:
    """Whether inputs, target and all outputs have the same first axis."""
    backend = bound.call.backend
    leaves = backend.flatten((bound.inputs, bound.target, bound.outputs))[0]
    lengths = {leaf.shape[0] if getattr(leaf, "shape", ()) else None for leaf in leaves}
    return len(lengths) == 1 and None not in lengths


def _chunk(operator: GaussNewtonOperator, memory: int | str | None, needed: int) -> int:
    """Samples whose gradients fit."""
    free = operator.backend.available_memory(operator.device)
    limit = parse_bytes(memory) or (2**30 if free is None else int(_SHARE * free))
    return max(1, min(operator.jacobian.shape[0], limit // max(1, _COPIES * needed)))


def _cut(bound: Bound, tree: Any, start: int, step: int | None) -> Any:
    """Samples of a tree; one without its axis where ``step`` is ``None``."""
    backend = bound.call.backend
    leaves, form = backend.flatten(tree)
    return backend.unflatten(form, [leaf[start] if step is None else leaf[start : start + step] for leaf in leaves])


def joined(tree: Any, space: Space) -> Any:
    """The one row of a tree."""
    leaves = zip(space.backend.flatten(tree)[0], space.types, strict=True)
    return vectors_of(space.backend).join([leaf.reshape((1, *t.shape)) for leaf, t in leaves], space.dtype)


def close(ours: Any, theirs: Any, space: Space) -> bool:
    """Whether two blocks [k, size] are equal up to rounding."""
    scale = float(abs(theirs).max()) if theirs.shape[0] * theirs.shape[1] else 0.0
    eps = max(t.epsilon for t in space.types)
    return bool(np.isfinite(scale)) and float(abs(ours - theirs).max() if scale else abs(ours).max()) <= (
        _ROUNDING * eps * scale
    )
