"""Fisher information matrices of a model: exact, with labels drawn from the model, or with the true labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.operators._ggn import GaussNewtonOperator, LossHessian, OfModel
from crelle.operators._operator import Operator
from crelle.operators._pair import Bound, Pair
from crelle.operators._samples import sample_gradients
from crelle.operators._spaces import Space
from crelle.operators._vectors import vectors_of

KINDS = ("exact", "sampled", "empirical")


class OuterProducts(Operator):
    """v ↦ Σ_s r_s (r_s · v) in each sample, for vectors r [B, S, d] on the d outputs of a sample."""

    def __init__(self, space: Space, rows: Any) -> None:
        super().__init__(space, space, frozenset({"symmetric", "psd"}))
        self.rows = rows

    def _products(self, block: Any) -> Any:
        v = by_sample(block, self.domain, self.rows.shape[0])
        return from_samples((v @ self.rows.swapaxes(1, 2)) @ self.rows, self.domain)

    _adjoint_products = _products

    def columns(self, count: int) -> Iterator[Any]:
        """Blocks [1, m] that hold a vector r for each of ``count`` samples."""
        for s in range(self.rows.shape[1]):
            yield from_samples(self.rows[:, s : s + 1], self.domain)


def by_sample(block: Any, space: Space, count: int) -> Any:
    """[k, m] -> [B, k, d]: the outputs of a sample side by side."""
    vectors = vectors_of(space.backend)
    k = block.shape[0]
    leaves = [leaf.reshape((k * count, -1)) for leaf in vectors.cut(block, space.types)]
    return vectors.join(leaves, space.dtype).reshape((k, count, -1)).swapaxes(0, 1)


def from_samples(values: Any, space: Space) -> Any:
    """[B, k, d] -> [k, m]: the inverse of :func:`by_sample`."""
    count, k, start, parts = values.shape[0], values.shape[1], 0, []
    for t in space.types:
        width = t.size // count
        parts.append(values[:, :, start : start + width].swapaxes(0, 1).reshape((k, t.size)))
        start += width
    return vectors_of(space.backend).join(parts, space.dtype)


class Fisher(OfModel):
    """See :func:`crelle.fisher`."""

    def __init__(self, pair: Pair, kind: str, samples: int, given: Any) -> None:
        super().__init__(pair)
        self.kind, self._samples, self._given = kind, samples, given
        self.title = f"Fisher ({kind})"

    def _one(self, *args: Any) -> GaussNewtonOperator:
        bound = Bound(self._pair, args)
        return GaussNewtonOperator(bound, self._curvature(bound), self.title)

    def _curvature(self, bound: Bound) -> Operator:
        space = bound.jacobian.codomain
        if self.kind == "empirical":
            gradients, share = sample_gradients(bound)
            count = bound.size
            return OuterProducts(space, by_sample(gradients * share**0.5, space, count))
        form = bound.form
        if form is None or form.unlikely:
            raise CrelleTypeError(
                describe(
                    f"{bound.what}: kind={self.kind!r} needs the distribution whose -log-likelihood the loss is",
                    expected="F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits, their modules or "
                    'functools.partial of them; or "cross_entropy", "mse", "bce"',
                    likely=form.unlikely if form is not None else "a loss of your own says nothing of labels",
                    try_="kind='empirical', or crelle.ggn, which is the same for losses that are likelihoods",
                )
            )
        if self.kind == "exact":
            return LossHessian(space, form)
        vectors_of(space.backend).source(self._given, vectors_of(space.backend).empty(space))  # complains if it is none
        draws = bound.losses.draw(form, self._samples, self._given) * (form.scale / self._samples) ** 0.5
        shape = form.outputs.shape
        single = len(shape) <= (1 if form.kind == "categorical" else 0)
        count = 1 if single else shape[0]
        return OuterProducts(space, draws.reshape((self._samples, count, -1)).swapaxes(0, 1))


def fisher(
    model: Any,
    loss: Any,
    kind: str = "exact",
    *,
    reduction: str | None = None,
    samples: int = 1,
    seed: int | None = None,
    key: Any = None,
    generator: Any = None,
) -> Fisher:
    """F = c Σ_n E[∇ℓ_n ∇ℓ_nᵀ] for a loss c Σ_n ℓ_n with ℓ_n = -log p(y_n | x_n, params): the Fisher information matrix.

    - ``"exact"``: the mean over labels y that the model itself predicts, in closed form; the same as the generalised
      Gauss-Newton matrix of these losses.
    - ``"sampled"``: over ``samples`` labels drawn from the model for each x_n. Its mean is the exact one.
    - ``"empirical"``: ∇ℓ_n at the labels that are given: Σ_n g_n g_nᵀ, or the mean of it if the loss is a mean over the
      samples, where g_n is the gradient of the loss of sample n alone (:func:`crelle.per_sample_gradient`). It is no
      approximation of the Fisher matrix away from a perfect fit (F. Kunstner, L. Balles, P. Hennig, *Limitations of
      the empirical Fisher approximation*, NeurIPS 2019). It takes any loss that is a sum or mean over samples.

    Args:
        model, loss, reduction: as for :func:`crelle.ggn`. Cross-entropy belongs to a categorical distribution,
            ``"bce"`` to a Bernoulli, and squared error (z - y)² to a normal one with mean z and variance 1/2.
        kind: one of these three.
        samples: labels for each x_n, where they are drawn.
        seed, key, generator: what draws them: an integer, a key of ``jax.random``, a ``torch.Generator``; seed 0 if
            left out. They are drawn when ``.at`` is called.

    Returns:
        An object with ``.at(params, x, y)``, or ``.at(x, y)`` for a module, which gives the operator.

    Raises:
        CrelleTypeError: now, what is no model or no loss; at ``.at``, a loss that is no log-likelihood, or, for
            ``"empirical"``, no sum or mean over samples.
        CrelleValueError: an unknown kind; ``samples`` that is not positive; several sources of random numbers.

    Cost:
        As :func:`crelle.ggn`: about one gradient for each product, whatever the kind.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> x, y = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
    >>> fisher(model, "mse").at(x, y).todense()
    tensor([[10.]])
    """
    pair = Pair("fisher", model, loss, reduction)
    if kind not in KINDS:
        raise CrelleValueError(describe(f"kind={kind!r} is not known to crelle.fisher",
                                        expected=" | ".join(map(repr, KINDS))))  # fmt: skip
    if not (type(samples) is int and samples >= 1):
        raise CrelleValueError(describe(f"{pair.what}: samples={samples!r}", expected="a positive integer"))
    given = [value for value in (seed, key, generator) if value is not None]
    if len(given) > 1:
        raise CrelleValueError(
            describe(f"{pair.what}: several sources of random numbers", expected="one of seed=, key=, generator=")
        )
    if kind != "sampled" and (given or samples != 1):
        raise CrelleValueError(
            describe(f"{pair.what}: kind={kind!r} draws no labels", expected="no samples=, seed=, key=, generator=",
                     try_="kind='sampled'")
        )  # fmt: skip
    return Fisher(pair, kind, samples, given[0] if given else 0)
