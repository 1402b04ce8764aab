"""Operators over a data set: the sum of the operators of its batches, kept where they fit and made anew where not."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

from crelle._arrays import bytes_text, parse_bytes
from crelle._errors import CrelleError, CrelleMemoryError, CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.backends._protocol import Backend
from crelle.estimators._progress import Progress
from crelle.operators._batches import Batch, Batches, Weight
from crelle.operators._determinism import verify_deterministic
from crelle.operators._operator import Operator
from crelle.operators._vectors import vectors_of

#: The share of free memory that kept batches may fill without being told to.
_SHARE = 0.5
#: ... and what they may fill where nobody knows how much is free.
_UNKNOWN = 10**9
#: What sums over batches keep of the tags that all of them have.
_KEPT_BY_SUMS = frozenset({"symmetric", "psd", "diagonal"})

Make = Callable[[Any], Operator]
Product = Callable[[int, Operator], Any]


class Parts:
    """The operators of all batches: the first ones kept, the others made anew in every pass.

    Attributes:
        kept: operators of the first batches.
        samples: how many each batch holds, ``None`` where nobody asked.
        kept_bytes: what the kept ones hold.
        outputs_per_sample: passes that their exact traces take, where they have them.
    """

    def __init__(
        self, make: Make, batches: Batches, what: str, memory: int | str | None, check: bool, counted: bool
    ) -> None:
        self._make, self._batches, self.what, self._counted = make, batches, what, counted
        self.kept: list[Operator] = []
        self.samples: list[float | None] = []
        self.outputs_per_sample: int | None = None
        self.notes: tuple[str, ...] = ()
        self._types = ""
        self.kept_bytes, self._per_sample, self._limit = 0, 0.0, parse_bytes(memory)
        keeping = True
        for batch in batches:
            samples = batches.samples(batch) if counted else None
            self.samples.append(samples)
            if not batch.number:
                keeping = self._begin(batch, samples, check)
            elif keeping:
                keeping = self._add(batch, samples)
        if not self.samples:
            raise CrelleValueError(
                describe(
                    f"{batches.what}: the data set yields no batch",
                    expected="one batch or more",
                    likely="an iterator that has been gone through already, or a loader that drops its only batch",
                    try_="list(...) of what yields them, or a DataLoader; drop_last=False",
                )
            )
        if not keeping:
            self.notes = (*self.notes, self._kept_text)

    def _begin(self, batch: Batch, samples: float | None, check: bool) -> bool:
        self._types = str(batch)
        operator = self._made(batch)
        self.domain, self.codomain, self.tags = operator.domain, operator.codomain, operator.tags
        self._from_derivatives, self.notes = operator._from_derivatives, operator.notes
        with contextlib.suppress(CrelleError):  # outputs that are no array of samples
            self.outputs_per_sample = getattr(operator, "outputs_per_sample", None)
        if check:
            verify_deterministic(self._made, self._batches, batch, operator)
        if self._limit is None:
            free = operator.backend.available_memory(operator.device)
            self._limit = _UNKNOWN if free is None else int(_SHARE * free)
        operator._products(vectors_of(operator.backend).zeros(1, operator.shape[1], _like(operator)))
        need = operator.kept_bytes  # after a product: the first one may keep more
        self._per_sample = need / max(samples or 1, 1)
        return self._keep(operator, need)

    def _add(self, batch: Batch, samples: float | None) -> bool:
        assert self._limit is not None
        need = int(self._per_sample * (samples or 1))
        if self.kept_bytes + need > self._limit:
            return False
        operator = self._made(batch)
        return self._keep(operator, max(need, operator.kept_bytes))

    def _keep(self, operator: Operator, need: int) -> bool:
        assert self._limit is not None
        if self.kept_bytes + need > self._limit:
            return False
        self.kept_bytes += need
        self.kept.append(operator)
        return True

    @property
    def _kept_text(self) -> str:
        kept, count = len(self.kept), len(self.samples)
        return (
            f"{kept} of {count} batches are kept ({bytes_text(self.kept_bytes)}), "
            f"{count - kept} are linearised anew at every product; memory= lets more be kept"
        )

    def _made(self, batch: Batch) -> Operator:
        """The operator of a batch; what goes wrong there is said with the batch's number."""
        where = f"{self._batches.what}: batch {batch.number}"
        try:
            operator = self._make(batch.given)
        except CrelleError as error:
            raise type(error)(f"{where}: {error}") from None
        except Exception as error:
            kind = CrelleMemoryError if "out of memory" in str(error) else CrelleValueError
            raise kind(
                describe(
                    f"{where} failed",
                    called=f"{batch} of {batch.frameworks}",
                    expected=f"a batch like batch 0: {self._types}" if batch.number else None,
                    likely=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}",
                    try_="smaller batches" if kind is CrelleMemoryError else None,
                )
            ) from error
        if batch.number and operator.domain.size != self.domain.size:
            raise CrelleShapeError(
                describe(f"{where}: an operator on {operator.domain}", expected=f"as for batch 0: {self.domain}")
            )
        return operator

    def over(self, product: Product) -> Iterator[Any]:
        """What ``product`` makes of each batch's operator; one that is not kept is freed before the next is made."""
        count = len(self.samples)
        with Progress(f"{self.what}: batches", count) as progress:
            for number, operator in enumerate(self.kept):
                yield product(number, operator)
                progress.to(number + 1)
            if len(self.kept) == count:
                return
            seen = 0
            for batch in self._batches:
                self._verify_same(batch)
                seen += 1
                if batch.number >= len(self.kept):
                    yield product(batch.number, self._made(batch))
                    progress.to(seen)
            if seen < count:
                raise self._changed(f"{seen} batches")

    def _verify_same(self, batch: Batch) -> None:
        if batch.number >= len(self.samples):
            raise self._changed(f"more than {len(self.samples)} batches")
        if self._counted and self._batches.samples(batch) != self.samples[batch.number]:
            raise self._changed(f"batch {batch.number} with {self._batches.samples(batch):g} samples")

    def _changed(self, found: str) -> CrelleValueError:
        first = "" if self.samples[0] is None else f", batch 0 with {self.samples[0]:g} samples"
        return CrelleValueError(
            describe(
                f"{self._batches.what}: the data set has changed since the operator was made",
                called=f"now {found}",
                expected=f"{len(self.samples)} batches{first}",
                likely="an iterator that can be gone through only once, or a loader that draws samples anew",
                try_="list(...) of what yields the batches",
            )
        )


def _like(operator: Operator) -> Any:
    return vectors_of(operator.backend).empty(operator.domain)


class DataOperator(Operator):
    """v ↦ Σ_b w_b A_b v over the batches b of a data set; made by :func:`over_data`.

    Attributes:
        batches: how many.
        kept: how many of them are kept; the others are linearised anew in every pass over the data.
    """

    def __init__(self, parts: Parts, weights: list[float]) -> None:
        super().__init__(parts.domain, parts.codomain, parts.tags & _KEPT_BY_SUMS)
        self._parts, self._weights = parts, weights
        self.batches, self.kept = len(parts.samples), len(parts.kept)

    def _products(self, block: Any) -> Any:
        return summed(self, self._parts, lambda _, of: of._products(block), block, self._weights)

    def _adjoint_products(self, block: Any) -> Any:
        return summed(self, self._parts, lambda _, of: of._adjoint_products(block), block, self._weights)

    @functools.cached_property
    def value(self) -> Any:
        """The loss over the data set: Σ_b w_b f_b, in one pass over the batches that are not kept."""
        found = self._parts.over(lambda _, of: cast(Any, of).value)
        return sum(one * weight for one, weight in zip(found, self._weights, strict=True))

    @property
    def notes(self) -> tuple[str, ...]:
        """As for one batch; and how many are kept."""
        return self._parts.notes

    @property
    def _from_derivatives(self) -> bool:
        return self._parts._from_derivatives

    @property
    def _title(self) -> str:
        return over_title(self._parts)


class TracedDataOperator(DataOperator):
    """A sum of matrices whose traces are known exactly: Gauss-Newton and Fisher matrices.

    Attributes:
        outputs_per_sample: the products that :meth:`exact_trace` takes.
    """

    def __init__(self, parts: Parts, weights: list[float], outputs_per_sample: int) -> None:
        super().__init__(parts, weights)
        self.outputs_per_sample = outputs_per_sample

    def exact_trace(self, memory: int | str | None = None) -> Any:
        """tr A = Σ_b w_b tr A_b, exact; shape []. ``None`` where that of a batch is not known.

        Args:
            memory: for each batch: see :meth:`crelle.operators._ggn.GaussNewtonOperator.exact_trace`.
        """

        def trace(_: int, of: Operator) -> Any:
            return cast(Any, of).exact_trace(memory)

        found = list(self._parts.over(trace))
        if any(one is None for one in found):
            return None
        return sum(one * weight for one, weight in zip(found, self._weights, strict=True))


def over_title(parts: Parts) -> str:
    """``Hessian of loss over 50 batches``."""
    count = len(parts.samples)
    return f"{parts.what} over {count} batch{'' if count == 1 else 'es'}"


def summed(operator: Operator, parts: Parts, product: Product, block: Any, weights: list[float] | None = None) -> Any:
    """Σ_b w_b ``product(b, operator of batch b)``, in one pass over the data.

    Raises:
        CrelleValueError: a batch yields NaN or inf.
    """
    scale = 1.0 if weights is None else weights[0]

    def weighted(number: int, of: Operator) -> Any:
        found = product(number, of)  # most batches weigh the same: they are multiplied all at once, in the end
        return found if weights is None or weights[number] == scale else found * (weights[number] / scale)

    total: Any = None
    for number, found in enumerate(parts.over(weighted)):
        if number < 2:
            total = found if total is None else total + found
        else:
            total += found  # a vector of our own by now: frameworks that can do it add in place
    if scale != 1.0:
        total = total * scale
    verify_finite(operator, parts, total, product, block)
    return total


def verify_finite(operator: Operator, parts: Parts, result: Any, product: Product, block: Any) -> None:
    """Say which batch made a result NaN or inf; not where the vectors were so before.

    Args:
        product: what is computed of each batch, to be computed once more if the result is not finite.

    Raises:
        CrelleValueError: a batch did.
    """
    backend = operator.backend
    if backend.is_abstract([result]) or _is_finite(result, backend) or not _is_finite(block, backend):
        return
    for number, found in enumerate(parts.over(product)):
        if not _is_finite(found, backend):
            raise CrelleValueError(
                describe(
                    f"{operator!r}: the product with batch {number} holds NaN or inf",
                    likely="the loss of this batch, or its derivative, is not finite: log(0), 0/0, sqrt at 0, overflow",
                    try_=f"look at next(itertools.islice(data, {number}, None))",
                )
            )


def _is_finite(values: Any, backend: Backend) -> bool:
    if math.isfinite(abs(complex(backend.to_host(values.sum())))):
        return True
    return math.isfinite(abs(complex(backend.to_host((values * 0).sum()))))  # the sum alone may overflow


def over_data(
    make: Make,
    data: Any,
    *,
    what: str,
    reduction: str = "mean",
    memory: int | str | None = None,
    batch_size: int | None = None,
    check: bool = True,
    weight: Weight | None = None,
) -> Operator:
    """A = Σ_b w_b A_b over the batches of a data set, for operators A_b of the same shape.

    Args:
        make: the operator of one batch, as the data set yields it.
        data: an iterable of batches that can be gone through again, such as a ``DataLoader`` or a list; or, with
            ``batch_size``, an array or a tuple, list or dict of arrays.
        what: what the operators are, for ``repr`` and messages: ``"Hessian of loss"``.
        reduction: ``"mean"``: w_b is the batch's share of all samples, so that A belongs to the mean over the data set
            where A_b belongs to the mean over its batch; ``"sum"``: w_b = 1.
        memory: how much the kept operators may take: bytes, or a text such as ``"2GB"``; half of what is free if left
            out. What does not fit is made anew in every pass.
        check: begin a second pass, and compare its first batch and one product with the first.
        weight: the weight of a batch (under ``"mean"``: its number of samples), where the leading axis of its first
            array is not that.

    Raises:
        CrelleTypeError, CrelleShapeError, CrelleValueError: see :class:`crelle.operators._batches.Batches`; a batch of
            another shape, an empty data set, one that is not the same twice.

    Cost:
        One linearisation for each batch, kept or made anew in each pass; all vectors of a block go through it in one
        pass.
    """
    if reduction not in ("mean", "sum"):
        raise CrelleValueError(describe(f"{what}: reduction={reduction!r}", expected='"mean" or "sum"'))
    if not callable(make):
        raise CrelleTypeError(describe(f"{what}: {make!r} makes no operator", expected="a function of a batch"))
    batches = Batches(data, batch_size, weight, what)
    parts = Parts(make, batches, what, memory, check, counted=reduction == "mean" or weight is not None)
    weights = [1.0 if samples is None else samples for samples in parts.samples]
    if reduction == "mean":
        total = sum(weights)
        weights = [w / total for w in weights]
    if parts.outputs_per_sample is not None:
        return TracedDataOperator(parts, weights, parts.outputs_per_sample)
    return DataOperator(parts, weights)
