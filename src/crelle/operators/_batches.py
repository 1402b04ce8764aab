"""A data set as batches that can be gone through again and again: what a batch is, and how many samples it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crelle._call import describe_arguments
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.backends import framework_of
from crelle.backends._protocol import Backend

Weight = Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch.

    Attributes:
        number: its place in the data set, from 0.
        given: as the data set yielded it.
    """

    number: int
    given: Any

    def __str__(self) -> str:
        return describe_arguments((self.given,), {})

    @property
    def frameworks(self) -> str:
        """``torch``, or ``numpy, torch`` for a mixture."""
        return ", ".join(sorted({name for leaf in leaves_of(self.given) if (name := framework_of(leaf))})) or "no array"


class Batches:
    """The batches of a data set, as often as they are asked for.

    Args:
        data: an iterable of batches; or, with ``batch_size``, an array or a tuple, list or dict of arrays.
        weight: the number of samples of a batch, where its first array does not say.
        what: the call, for messages: ``"Hessian of loss"``.

    Raises:
        CrelleTypeError: no iterable, an iterator that can be gone through only once, arrays without ``batch_size``.
        CrelleShapeError: arrays with different numbers of samples.
        CrelleValueError: ``batch_size`` is no positive integer.
    """

    def __init__(self, data: Any, batch_size: int | None, weight: Weight | None, what: str) -> None:
        self.data, self.what, self._weight = data, what, weight
        if batch_size is not None:
            self.data = _Slices(data, batch_size, what)
            return
        if framework_of(data) or (isinstance(data, (tuple, dict)) and _all_arrays(data)):
            raise CrelleTypeError(
                describe(
                    f"{what}: data={describe_arguments((data,), {})} are arrays, without a batch size",
                    expected="batch_size=, or an iterable of batches",
                    try_="batch_size=1000 if this is the whole data set; [data] if it is one batch",
                )
            )
        if not hasattr(data, "__iter__"):
            dataset = hasattr(data, "__getitem__")
            raise CrelleTypeError(
                describe(
                    f"{what}: data= of type {type(data).__name__} cannot be gone through in batches",
                    expected="an iterable of batches; or arrays with batch_size=",
                    likely="a data set of single samples, as a DataLoader takes it" if dataset else None,
                    try_="DataLoader(data, batch_size=...)" if dataset else None,
                )
            )
        if hasattr(data, "__next__"):
            raise CrelleTypeError(
                describe(
                    f"{what}: data= of type {type(data).__name__} can be gone through only once",
                    expected="batches that can be had again for every product",
                    try_="list(data) if they fit in memory; a DataLoader, or an object whose __iter__ starts anew",
                )
            )

    def __iter__(self) -> Iterator[Batch]:
        for number, given in enumerate(self.data):
            yield Batch(number, given)

    def samples(self, batch: Batch) -> float:
        """How many samples a batch holds.

        Raises:
            CrelleTypeError: its first array has no leading axis, and there is no ``weight``.
        """
        if self._weight is not None:
            return float(self._weight(batch.given))
        first = next((leaf for leaf in leaves_of(batch.given) if framework_of(leaf)), None)
        shape = getattr(first, "shape", ())
        if not shape:
            raise CrelleTypeError(
                describe(
                    f"{self.what}: batch {batch.number} does not say how many samples it holds",
                    called=str(batch),
                    expected="a first array whose leading axis counts the samples",
                    try_="reduction='sum' if batches count alike; the array with the samples first",
                )
            )
        return float(shape[0])


def arguments_of(batch: Any, what: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a batch stands for: a tuple or list for positional ones, a mapping for keywords, or one array.

    Args:
        what: the batch in words, for the message: ``"batch 3"``.

    Raises:
        CrelleTypeError: it is none of these.
    """
    if isinstance(batch, (tuple, list)):
        return tuple(batch), {}
    if isinstance(batch, Mapping):
        return (), {str(key): value for key, value in batch.items()}
    if framework_of(batch):
        return (batch,), {}
    raise CrelleTypeError(
        describe(
            f"{what} is {describe_arguments((batch,), {})} of type {type(batch).__name__}",
            expected="a tuple or list of arguments, a dict of keywords, or one array",
            likely="the data set yields single samples or keys" if isinstance(batch, (str, int, float)) else None,
            try_="[(x, y), ...] for f(params, x, y); data.items() if batches are the values of a dict"
            if isinstance(batch, (str, int, float))
            else "a tuple of its fields",
        )
    )


class _Slices:
    """Arrays, cut along their leading axes."""

    def __init__(self, data: Any, batch_size: Any, what: str) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise CrelleValueError(describe(f"{what}: batch_size={batch_size!r}", expected="a positive integer"))
        held = getattr(data, "tensors", data)  # of a torch TensorDataset
        self._single = bool(framework_of(held))
        if not self._single and not (isinstance(held, (tuple, list, dict)) and _all_arrays(held)):
            raise CrelleTypeError(
                describe(
                    f"{what}: batch_size= is for arrays, and data= is of type {type(data).__name__}",
                    expected="an array, or a tuple, list or dict of arrays",
                    likely="it yields batches by itself" if hasattr(data, "__iter__") else None,
                    try_="leave batch_size= out"
                    if hasattr(data, "__iter__")
                    else "DataLoader(data, batch_size=...) without batch_size= here",
                )
            )
        self._arrays, self._size = held, batch_size
        lengths = {len(a) for a in _arrays(held) if a.shape}
        if len(lengths) != 1 or not all(a.shape for a in _arrays(held)):
            raise CrelleShapeError(
                describe(f"{what}: arrays with different numbers of samples", called=describe_arguments((held,), {}),
                         expected="leading axes of one length")
            )  # fmt: skip
        self._samples = lengths.pop()

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self._samples, self._size):
            here = slice(start, start + self._size)
            if self._single:
                yield self._arrays[here]
            elif isinstance(self._arrays, dict):
                yield {key: value[here] for key, value in self._arrays.items()}
            else:
                yield tuple(value[here] for value in self._arrays)


def _arrays(data: Any) -> list[Any]:
    if isinstance(data, dict):
        return list(data.values())
    return list(data) if isinstance(data, (tuple, list)) else [data]


def _all_arrays(data: Any) -> bool:
    found = _arrays(data)
    return bool(found) and all(framework_of(a) for a in found)


def leaves_of(tree: Any) -> Iterator[Any]:
    """What dicts, lists and tuples hold, one inside another."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves_of(item)
    else:
        yield tree


def copied(tree: Any, backend: Backend) -> Any:
    """A tree with copies of its arrays, apart from autograd graphs; arrays that cannot change stay.

    The arguments that all batches share are copied: they may be changed in place while the operator is in use, and
    batches that are linearised anew must not see it.
    """
    leaves, structure = backend.flatten(tree)
    return backend.unflatten(structure, [_copy(leaf) for leaf in leaves])


def _copy(leaf: Any) -> Any:
    framework = framework_of(leaf)
    if framework == "torch":
        return leaf.detach().clone()
    return leaf.copy() if framework == "numpy" else leaf
