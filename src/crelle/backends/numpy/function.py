"""A NumPy function as a map of flat vectors: evaluated at one point, or at a batch of points in one call.

Everything that can be wrong with what f is given or returns is said here. What f is *asked* (which points) is decided
in ``steps`` and ``second``; what f *can do* (batches, complex numbers) in ``survey``.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crelle import _trees
from crelle._arrays import ArrayType, types_text
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.backends._protocol import Call

Array = np.ndarray[Any, np.dtype[Any]]

#: Bytes of the points and values of one call with a batch: what stays in the cache is fastest.
BATCH_BYTES = 4 * 2**20
#: Bytes of the points that are made at a time where f takes them one by one.
LOOP_BYTES = 2**18


class ChangedError(Exception):
    """f is not what it was found to be: another shape, or a batch that is no longer a stack of single calls."""


@dataclass(slots=True)
class Result:
    """What one evaluation returned: the output as it was, its aux, its leaves as arrays, and their tree."""

    output: Any
    aux: Any
    leaves: list[Array]
    tree: _trees.TreeDef

    @property
    def kinds(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shapes and dtypes of the leaves."""
        return [(leaf.shape, leaf.dtype) for leaf in self.leaves]

    @property
    def types(self) -> tuple[ArrayType, ...]:
        """Types of the leaves."""
        return tuple(ArrayType(str(leaf.dtype), leaf.shape, "cpu") for leaf in self.leaves)


class BlackBox:
    """f with everything held but the differentiated leaves, which are raveled to one vector.

    Points are rows of float64 (or wider, or complex where the leaves are), rounded to the dtypes of the leaves when f
    is called, with fresh arrays each time. ``batched`` is set by whoever knows that f takes a leading axis of points;
    ``coarse`` is the precision of each output entry, where it was found to be less than that of its dtype.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: tuple[int, ...],
        inputs: tuple[ArrayType, ...],
        names: tuple[str, ...],
        text: str,
        has_aux: bool = False,
    ) -> None:
        self.f, self.args, self.kwargs, self.has_aux = f, args, kwargs, has_aux
        self.inputs, self.names, self.text = inputs, names, text
        self.argnums = tuple(i % len(args) for i in argnums)
        self._trees = [_trees.flatten(args[i]) for i in self.argnums]
        self._leaves = [leaf for leaves, _ in self._trees for leaf in leaves]
        self.dtypes = [np.dtype(t.dtype) for t in inputs]
        self.cuts = [0, *np.cumsum([t.size for t in inputs]).tolist()]
        self.n = self.cuts[-1]
        work = np.result_type(np.float64, *self.dtypes)
        parts = [np.asarray(leaf).reshape(-1).astype(work) for leaf in self._leaves]
        self.x: Array = np.concatenate(parts) if parts else np.zeros(0)
        self._whole = len(self._leaves) == 1 and isinstance(self._leaves[0], np.ndarray)
        self._only = self.argnums[0] if len(self.argnums) == 1 and self._trees[0][1] is _trees.LEAF else None
        self.base: Result | None = None
        self._value: Array = np.zeros(0)
        self.keep: Array | None = None
        self.batched = False
        self.coarse: Array | None = None
        self.scale: Array | None = None
        self.batch_bytes = BATCH_BYTES
        self._unproven = False

    @classmethod
    def of(cls, call: Call) -> BlackBox:
        """The black box of one call of a transform."""
        request = call.request
        return cls(
            call.f, call.args, call.kwargs, request.argnums_tuple, call.inputs, call.names, call.text, request.has_aux
        )

    @property
    def called(self) -> str:
        """The differentiated arrays, for messages."""
        return types_text(self.inputs, self.names)

    @property
    def m(self) -> int:
        """Number of output entries, of those that are kept."""
        return self.base_size if self.keep is None else len(self.keep)

    @property
    def base_size(self) -> int:
        """Number of output entries."""
        assert self.base is not None
        return sum(leaf.size for leaf in self.base.leaves)

    @property
    def out_dtype(self) -> np.dtype[Any]:
        """What values are held in: float64, or wider, or complex."""
        assert self.base is not None
        return np.result_type(np.float64, *[leaf.dtype for leaf in self.base.leaves])

    # -- one evaluation

    def evaluate_base(self, guard_inputs: bool = False) -> Result:
        """f(x). With ``guard_inputs``, f gets copies of all its arrays, and is refused if it writes to them."""
        args, kwargs = self.args, self.kwargs
        if guard_inputs:
            args, kwargs = _copied(args), _copied(kwargs)
        arguments = self._arguments(self._split(self.x), args)
        result = self._checked(self.f(*arguments, **kwargs))
        if guard_inputs:
            self._refuse_mutation(arguments, kwargs)
        self.base = result
        self._value = _ravel(result.leaves, 0)
        return result

    @property
    def value(self) -> Array:
        """f(x), flat; only the kept entries."""
        return self._kept(self._value)

    def single(self, point: Array, note: Callable[[int], str], which: int) -> Array:
        """f at one point near x, flat; what f raises gets a note that says where."""
        assert self.base is not None
        try:
            output = self.f(*self._arguments(self._split(point), self.args), **self.kwargs)
            plain = type(output) is np.ndarray and output.dtype.kind in "fc" and self.base.tree is _trees.LEAF
            if plain and output.shape == self.base.leaves[0].shape and not self.has_aux:
                return self._kept(output.reshape(-1))  # the way of most functions, without further questions
            result = self._checked(output, functools.partial(note, which))
        except Exception as error:
            error.add_note(f"{self.text}: raised when f was evaluated with {note(which)}")
            raise
        return self._kept(_ravel(result.leaves, 0))

    def _checked(self, output: Any, near: Callable[[], str] | None = None) -> Result:
        """The result taken apart; refused if it is no tree of floating-point arrays, or of other shapes than before."""
        aux = None
        if self.has_aux:
            if not isinstance(output, tuple) or len(output) != 2:
                raise CrelleTypeError(
                    describe(
                        f"{self.text}: has_aux=True, and f returned {type(output).__name__}, not (output, aux)",
                        called=self.called,
                        try_="return a pair from f, or leave has_aux= out",
                    )
                )
            output, aux = output
        leaves, tree = _trees.flatten(output)
        result = Result(output, aux, [self._array(leaf) for leaf in leaves], tree)
        if not leaves:
            raise CrelleTypeError(
                describe(f"{self.text}: f returned nothing", called=self.called,
                         expected="an array, or a tree of arrays", likely="a missing return statement")
            )  # fmt: skip
        if self.base is not None and [a.shape for a in result.leaves] != [a.shape for a in self.base.leaves]:
            raise CrelleShapeError(
                describe(
                    f"{self.text}: the shape of what f returns depends on the values of its input",
                    called=self.called,
                    expected=f"{types_text(self.base.types)}, as at x",
                    found=f"{types_text(result.types)}, with {near() if near else 'the same input'}",
                    try_="return arrays of a fixed shape",
                )
            )
        return result

    def _array(self, leaf: Any) -> Array:
        array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf) if _is_number(leaf) else None
        if array is None or array.dtype.kind not in "biufc":
            returned = f"{leaf!r} of type {type(leaf).__name__}" if array is None else f"an array of {array.dtype}"
            raise CrelleTypeError(
                describe(
                    f"{self.text}: f returned {returned}",
                    called=self.called,
                    expected="an array, a number, or a tree of them",
                    try_="has_aux=True if f returns (output, aux)",
                )
            )
        if array.dtype.kind in "biu":
            raise CrelleTypeError(
                describe(
                    f"{self.text}: f returned {ArrayType(str(array.dtype), array.shape)}, which has no derivative",
                    called=self.called,
                    expected="floating-point outputs",
                    likely="an array that was made for integers, such as np.array([1, 2]) or np.zeros(3, int)",
                    try_="make the result a float array; has_aux=True, with integer results in aux",
                )
            )
        return array

    def _refuse_mutation(self, arguments: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compare what f was given with what it left behind."""
        before = self._arguments(self._split(self.x), self.args), self.kwargs
        old, new = _trees.flatten(before)[0], _trees.flatten((arguments, kwargs))[0]
        paths = _trees.paths(before)
        for path, was, now in zip(paths, old, new, strict=True):
            if not isinstance(was, np.ndarray) or was.dtype.kind not in "biufc":
                continue
            if not np.array_equal(was, now, equal_nan=True):
                name = self._argument_name(path)
                raise CrelleValueError(
                    describe(
                        f"{self.text}: f changes its argument {name} in place",
                        called=self.called,
                        expected="a function that leaves its arguments as they are: it is evaluated at many points",
                        likely="an assignment such as x[0] = ..., or x += ..., inside f",
                        try_="work on a copy inside f: x = x.copy()",
                    )
                )

    def _argument_name(self, path: str) -> str:
        """``x['w']`` from the path ``[0][0]['w']`` in (args, kwargs)."""
        kind, rest = path[:3], path[3:]
        code = getattr(self.f, "__code__", None)
        head, _, tail = rest[1:].partition("]")
        if kind == "[1]":
            return head.strip("'\"") + tail
        index = int(head)
        positional = code.co_varnames[: code.co_argcount] if code else ()
        return (positional[index] if index < len(positional) else f"argument {index}") + tail

    def imaginary(self, point: Array) -> tuple[Array, bool]:
        """f at one complex point, and whether it returned real arrays only; discarded imaginary parts raise."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            result = self._checked(self.f(*self._arguments(self._split(point), self.args), **self.kwargs))
        return self._kept(_ravel(result.leaves, 0)), all(leaf.dtype.kind != "c" for leaf in result.leaves)

    # -- many evaluations

    def at(self, points: Array, note: Callable[[int], str]) -> Array:
        """f at dense points [k, n], as [k, m]."""
        return self._run(len(points), lambda some: points[some], points.dtype, note)

    def moved(self, index: Array, new: Array, origin: Array | None = None) -> Array:
        """f at points that differ from x in a few entries: ``index`` and ``new`` are [k, s]; values [k, m].

        Args:
            index, new: which entries change, and their new values.
            origin: the other entries, if they are not those of x.
        """
        dtype = np.result_type(self.x.dtype, new.dtype)
        start = self.x if origin is None else origin
        base = start.astype(dtype)

        def points(some: slice) -> Array:
            rows = np.repeat(base[None], len(index[some]), 0)
            np.put_along_axis(rows, index[some], new[some].astype(dtype), 1)
            return rows

        def note(i: int) -> str:
            changes = [
                f"{self.entry_name(int(j))} = {start[j]} changed to {value}"
                for j, value in zip(index[i], new[i], strict=True)
                if value != start[j]
            ]
            where = "" if origin is None else ", near x" if np.any(origin) else ", all else 0"
            return (" and ".join(changes) or "the input as it is") + where

        return self._run(len(index), points, dtype, note)

    def moved_together(self, point: Array, index: Array, new: Array, count: int, origin: Array | None = None) -> Array:
        """f at points that differ from x in many entries: entry ``index[k]`` of point ``point[k]`` is ``new[k]``.

        Args:
            point: ascending, below ``count``.
            origin: the other entries, if they are not those of x.

        Returns:
            Values, [count, m].
        """
        dtype = np.result_type(self.x.dtype, new.dtype)
        start = self.x if origin is None else origin
        base = start.astype(dtype)

        def points(some: slice) -> Array:
            rows = np.repeat(base[None], some.stop - some.start, 0)
            low, high = np.searchsorted(point, [some.start, some.stop])
            rows[point[low:high] - some.start, index[low:high]] = new[low:high]
            return rows

        def note(i: int) -> str:
            low, high = np.searchsorted(point, [i, i + 1])
            j = int(index[low])
            more = f", and {high - low - 1:,} more entries changed" if high > low + 1 else ""
            return f"{self.entry_name(j)} = {start[j]} changed to {new[low]}{more}" + (
                "" if origin is None else ", near x" if np.any(origin) else ", all else 0"
            )

        return self._run(count, points, dtype, note)

    def _run(
        self, count: int, points: Callable[[slice], Array], dtype: np.dtype[Any], note: Callable[[int], str]
    ) -> Array:
        out = np.empty((count, self.m), np.result_type(self.out_dtype, dtype))
        if not count:
            return out
        one = max(1, dtype.itemsize * self.n + out.itemsize * self.base_size)
        width = max(1, (self.batch_bytes if self.batched else min(self.batch_bytes, LOOP_BYTES)) // one)
        with np.errstate(all="ignore"):
            for start in range(0, count, width):
                some = slice(start, min(start + width, count))
                rows = points(some)
                if not self.batched:
                    for i, row in enumerate(rows, start):
                        out[i] = self.single(row, note, i)
                    continue
                out[some] = self.batch(rows)
                if self._unproven:
                    self._unproven = False
                    self._prove(rows[-1], out[some.stop - 1], note, some.stop - 1)
        return out

    def batch(self, rows: Array) -> Array:
        """f called once with a leading axis of points.

        Raises:
            ChangedError: the result has no such axis, or f raises.
        """
        assert self.base is not None
        leaves = self._split(rows, len(rows))
        try:
            output = self.f(*self._arguments(leaves, self.args), **self.kwargs)
            if self.has_aux:
                output = output[0]
            found, tree = _trees.flatten(output)
            arrays = [np.asarray(leaf) for leaf in found]
        except Exception as error:
            raise ChangedError(f"f raised {type(error).__name__} for a batch of points") from None
        if tree != self.base.tree or [a.shape for a in arrays] != [(len(rows), *a.shape) for a in self.base.leaves]:
            raise ChangedError("a batch of points does not give a batch of values")
        return self._kept(_ravel(arrays, 1))

    def begin_run(self, batched: bool) -> None:
        """Use batches or not; the first batch of a run is compared with one single evaluation."""
        self.batched = self._unproven = batched

    def _prove(self, point: Array, value: Array, note: Callable[[int], str], which: int) -> None:
        alone = self.single(point, note, which)
        if not same_values(value, alone, self.epsilon_out, self.n):
            raise ChangedError("a batch of points gives other values than its points one by one")

    # -- what the numbers are

    @functools.cached_property
    def epsilon(self) -> Array:
        """Spacing of numbers at 1, for the dtype of each entry of x."""
        return np.repeat([_epsilon(d) for d in self.dtypes], np.diff(self.cuts)) if self.n else np.zeros(0)

    @property
    def epsilon_out(self) -> Array:
        """The same for each kept output: never below that of the most precise input, as f can hardly do better."""
        assert self.base is not None
        least = min((_epsilon(d) for d in self.dtypes), default=0.0)
        each = [max(least, _epsilon(leaf.dtype)) for leaf in self.base.leaves]
        dtypes = np.repeat(each, [leaf.size for leaf in self.base.leaves])
        return self._kept(dtypes if self.coarse is None else np.maximum(dtypes, self.coarse))

    def epsilon_of(self, entries: Array) -> Array:
        """Spacing for f where it is computed from some entries of x, [entries, m]: of the lesser precision."""
        return np.maximum(self.epsilon[entries][:, None], self.epsilon_out[None])

    def entry_name(self, j: int) -> str:
        """``x[2]``, ``params['w'][0, 1]``: the name of an entry of the raveled input."""
        i = int(np.searchsorted(self.cuts, j, side="right")) - 1
        shape = self.inputs[i].shape
        index = np.unravel_index(j - self.cuts[i], shape)
        return self.names[i] + (f"[{', '.join(map(str, index))}]" if shape else "")

    def _kept(self, flat: Array) -> Array:
        return flat if self.keep is None else flat[..., self.keep]

    def _split(self, points: Array, count: int | None = None) -> list[Any]:
        """Fresh leaves from one flat point, or leaves with a leading axis from ``count`` of them."""
        if self._whole and points.dtype == self.dtypes[0]:
            return [points.reshape(points.shape[:-1] + self.inputs[0].shape).copy()]
        lead = () if count is None else (count,)
        fresh = []
        for leaf, kind, dtype, i in zip(self._leaves, self.inputs, self.dtypes, range(len(self.inputs)), strict=True):
            part = points[..., self.cuts[i] : self.cuts[i + 1]]
            wanted = complex_of(dtype) if points.dtype.kind == "c" and dtype.kind == "f" else dtype
            array = part.reshape(lead + kind.shape).astype(wanted, copy=True)
            fresh.append(array if lead or isinstance(leaf, np.ndarray) else array[()])
        return fresh

    def _arguments(self, leaves: Sequence[Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._only is not None:
            return (*args[: self._only], leaves[0], *args[self._only + 1 :])
        changed = list(args)
        rest: Iterator[Any] = iter(leaves)
        for i, (some, tree) in zip(self.argnums, self._trees, strict=True):
            changed[i] = _trees.unflatten(tree, [next(rest) for _ in some])
        return tuple(changed)


@functools.cache
def _epsilon(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps)


def complex_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The complex dtype of the same precision; at least complex64."""
    return np.result_type(dtype, np.complex64)


def same_values(a: Array, b: Array, epsilon: Array, n: int) -> bool:
    """Whether two ways to compute the same values agree to rounding; NaN agrees with NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.maximum(np.abs(a), np.abs(b))
        typical = np.max(size, initial=0.0, where=np.isfinite(size))
        close = np.abs(a - b) <= 16 * math.sqrt(n + 16) * epsilon * np.maximum(size, typical)
    return bool(np.all((close & np.isfinite(size)) | (a == b) | (np.isnan(a) & np.isnan(b))))


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (np.generic, bool, int, float, complex))


def _ravel(leaves: Sequence[Array], lead: int) -> Array:
    # spelled out, because -1 is ambiguous in an empty array
    flat = [leaf.reshape(*leaf.shape[:lead], math.prod(leaf.shape[lead:])) for leaf in leaves]
    out = flat[0] if len(flat) == 1 else np.concatenate(flat, -1)
    return out if out.dtype == np.float64 else out.astype(np.result_type(out.dtype, np.float64))


def _copied(tree: Any) -> Any:
    leaves, treedef = _trees.flatten(tree)
    return _trees.unflatten(treedef, [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves])
