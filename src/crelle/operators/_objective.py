"""What a model loses on a batch: a model and a loss, made one function."""

from __future__ import annotations

from typing import Any

from crelle._call import backend_of
from crelle.backends._protocol import Call
from crelle.operators._ggn import GaussNewton, GaussNewtonOperator
from crelle.operators._pair import Pair


def objective(model: Any, loss: Any, *, reduction: str | None = None) -> Any:
    """L(params, x, y) = loss(model(params, x), y): what a model loses on a batch, to be differentiated.

    ``crelle.hessian(crelle.objective(net, F.cross_entropy), wrt="params").at(x, y)`` is the Hessian of a network's loss
    in its parameters, by their names in ``net``; ``crelle.ggn(net, F.cross_entropy).at(x, y)`` goes with it.

    Args:
        model: a function ``model(params, x)`` of JAX or PyTorch, or an ``nn.Module``.
        loss: a function ``loss(outputs, target)`` that returns a scalar; or ``"cross_entropy"``, ``"mse"``, ``"bce"``,
            as for :func:`crelle.ggn`.
        reduction: of a loss given by name: ``"mean"``, if left out, or ``"sum"``.

    Returns:
        A function ``(params, x, y)``; for an ``nn.Module``, an ``nn.Module`` of ``(x, y)``. With several inputs, the
        target comes last. Both have the attributes ``model`` and ``loss``.

    Raises:
        CrelleTypeError, CrelleValueError: what is no model, no loss, or no name of one.

    >>> import numpy as np
    >>> import jax.numpy as jnp
    >>> L = objective(lambda w, x: x @ w, "mse")
    >>> float(L(jnp.ones(2), jnp.ones((3, 2)), jnp.zeros(3)))
    4.0
    """
    pair = Pair("objective", model, loss, reduction)
    if pair.is_module:
        from crelle.backends import get_backend
        from crelle.backends.torch.objective import Objective

        return Objective(model, loss, pair.loss_in(get_backend("torch")))

    def value(params: Any, *batch: Any) -> Any:
        pair.verify_count((params, *batch))
        *inputs, target = batch
        compute = pair.loss_in(backend_of(model, (params, *batch), {}, pair.what)) if isinstance(loss, str) else loss
        return compute(model(params, *inputs), target)

    value.__name__ = f"objective({pair.name})"
    value.__doc__ = f"What {pair.name} loses: (params, x, y) -> scalar."
    value.model, value.loss, value.pair = model, loss, pair  # type: ignore[attr-defined]
    return value


def gauss_newton_of(call: Call) -> GaussNewtonOperator | None:
    """The Gauss-Newton matrix that goes with the Hessian of a bound call; ``None`` if f is no objective."""
    pair = getattr(call.f, "pair", None)
    if not isinstance(pair, Pair) or call.request.argnums_tuple != (0,) or call.kwargs:
        return None
    return GaussNewton(pair)._one(*call.args)
