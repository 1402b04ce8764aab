"""What is known of a loss: its Hessian with respect to a model's outputs, in closed form where it has one we know."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle.backends._protocol import Backend
from crelle.operators._linearised import Linearised

#: Losses that can be asked for by name.
NAMES = ("cross_entropy", "mse", "bce")
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Form:
    """A loss Σ scale · ℓ over independent terms, with the Hessian of each term ℓ in closed form.

    ``"categorical"``: ℓ = -log softmax(z)[y] over ``axis``; its Hessian is diag(p) - p pᵀ. ``"bernoulli"``:
    ℓ = log(1 + eᶻ) - y z; p (1 - p). ``"gaussian"``: ℓ = (z - y)²; 2.

    Attributes:
        kind: one of these three.
        outputs: z.
        mean: p, or z for ``"gaussian"``.
        scale: weight of each term, with the shape of z, but of length 1 along ``axis``.
        axis: of the classes, counted from the end.
        unlikely: why ℓ is not -log of a probability, if it is not.
        convex: whether no scale is negative.
    """

    kind: str
    outputs: Any
    mean: Any
    scale: Any
    axis: int = -1
    unlikely: str = ""
    convex: bool = True

    def curvature(self, block: Any) -> Any:
        """H v for vectors v [k, *shape of z]."""
        if self.kind == "categorical":
            weighted = self.mean * block
            return self.scale * (weighted - self.mean * weighted.sum(self.axis, keepdims=True))
        if self.kind == "bernoulli":
            return self.scale * self.mean * (1 - self.mean) * block
        return 2 * self.scale * block

    def factor(self, block: Any) -> Any:
        """S v with S Sᵀ = H, for vectors v [k, *shape of z]: diag(√p) - p √pᵀ for ``"categorical"``."""
        if self.kind == "categorical":
            root = self.mean**0.5
            return self.scale**0.5 * (root * block - self.mean * (root * block).sum(self.axis, keepdims=True))
        if self.kind == "bernoulli":
            return (self.scale * self.mean * (1 - self.mean)) ** 0.5 * block
        return (2 * self.scale) ** 0.5 * block


class Losses(Protocol):
    """What ``backends/<name>/losses.py`` offers."""

    def named(self, name: str, reduction: str) -> Callable[[Any, Any], Any]:
        """A loss (outputs, target) -> scalar of :data:`NAMES`."""
        ...

    def form(self, loss: Callable[[Any, Any], Any], outputs: Any, target: Any) -> Form | None:
        """The closed form of a loss that is known, with options that are covered."""
        ...

    def gauss_newton(self, kept: Any, form: Form) -> Linearised | None:
        """v ↦ Jᵀ H J v in one step, if that is quicker than three; ``kept`` is the linearisation that J keeps."""
        ...

    def draw(self, form: Form, count: int, given: Any) -> Any:
        """[count, *shape of z]: gradients of the terms ℓ with respect to z, for labels drawn from the model."""
        ...

    def slope(self, loss: Callable[[Any, Any], Any], outputs: Any, target: Any) -> tuple[Any, Any]:
        """(loss, its gradient with respect to the outputs, a tree)."""
        ...

    def each_gradient(self, f: Callable[..., Any], point: Any, batch: Sequence[Any]) -> Any:
        """The gradient of f(point, *sample) with respect to the point for each sample: a tree with a leading axis.

        ``batch``: trees of arrays; a sample is an index of their first axis.
        """
        ...

    def each_slope(self, f: Callable[..., Any], batch: Sequence[Any]) -> Any:
        """The gradient of f(*sample) with respect to the first item, for each sample."""
        ...

    def each(self, f: Callable[..., Any], batch: Sequence[Any]) -> Any:
        """f(*sample) for each sample, with a leading axis."""
        ...

    def pulled(self, f: Callable[..., Any], point: Any, batch: Sequence[Any], seed: Any) -> Any:
        """Σ_n J_nᵀ seed[n] for f(point, *sample): a tree like the point."""
        ...

    def sample_norms(self, f: Callable[..., Any], point: Any, sample: Sequence[Any], seed: Any) -> SampleNorms:
        """‖J_nᵀ seed[n]‖² for f(point, *sample), a batch of one; ``sample`` and ``seed`` are an example."""
        ...


class SampleNorms(Protocol):
    """What computes the norms.

    Attributes:
        bytes: what the gradients of one sample hold.
    """

    bytes: int

    def __call__(self, batch: Sequence[Any], seed: Any) -> Any:
        """[B]: of the samples of a batch."""
        ...


def losses_of(backend: Backend, what: str) -> Losses:
    """The losses of a backend; their module is imported when first asked for.

    Raises:
        CrelleTypeError: a backend without reverse mode.
    """
    if backend.name == "numpy":
        raise CrelleTypeError(
            describe(f"{what}: the arrays are NumPy's, and NumPy functions have no reverse mode",
                     expected="a model written in JAX or PyTorch")
        )  # fmt: skip
    if backend.name not in _loaded:
        _loaded[backend.name] = cast(Losses, importlib.import_module(f"crelle.backends.{backend.name}.losses"))
    return _loaded[backend.name]


_loaded: dict[str, Losses] = {}


def verify_loss(loss: Any, reduction: Any, what: str) -> None:
    """Refuse what is no loss.

    Raises:
        CrelleTypeError: neither a function nor a name.
        CrelleValueError: a name that is not known, or ``reduction`` for a function.
    """
    if not callable(loss) and not isinstance(loss, str):
        raise CrelleTypeError(
            describe(
                f"{what}: loss is of type {type(loss).__name__}",
                expected=f"a function (outputs, target) -> scalar, or one of {', '.join(map(repr, NAMES))}",
                try_="pass the function itself, loss, not its result" if hasattr(loss, "shape") else None,
            )
        )
    if isinstance(loss, str) and loss not in NAMES:
        raise CrelleValueError(describe(f"{what}: loss={loss!r} is not known", expected=" | ".join(map(repr, NAMES))))
    if reduction is None:
        return
    if reduction not in REDUCTIONS:
        raise CrelleValueError(
            describe(f"{what}: reduction={reduction!r} is not known", expected=" | ".join(map(repr, REDUCTIONS)))
        )
    if not isinstance(loss, str):
        raise CrelleValueError(
            describe(
                f"{what}: reduction={reduction!r} goes with a loss given by name",
                try_="let the function reduce: functools.partial(F.cross_entropy, reduction='sum')",
            )
        )
