"""A NumPy function looked at from outside: does it take batches, complex numbers; is it linear? Then differences."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from crelle import _trees
from crelle._arrays import ArrayType, total_size, types_text
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle.backends._protocol import Call, CheckReport, Method, Runner
from crelle.backends.numpy import steps
from crelle.tangent.cost import PassCost

#: The price of one evaluation is a measured time; ``Rates`` turns flops back into it.
FLOPS_PER_SECOND = 1e9
_BATCH = 3


class FlatFunction:
    """f of one call, as a function of one flat vector: the differentiated leaves, raveled."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.shapes = [t.shape for t in call.inputs]
        self.dtypes = [np.dtype(t.dtype) for t in call.inputs]
        self.cuts = np.cumsum([t.size for t in call.inputs])[:-1]
        flat = [np.asarray(leaf).reshape(-1) for leaf in call.active]
        self.x = np.concatenate(flat) if len(flat) != 1 else flat[0].copy()
        self.out_tree: Any = None
        self.aux: Any = None

    def arguments(self, leaves: list[Any]) -> tuple[Any, ...]:
        """The positional arguments with the differentiated leaves replaced."""
        tree = self.call.in_tree
        wanted = _trees.unflatten(tree, leaves)
        args = list(self.call.args)
        chosen = wanted if isinstance(self.call.request.argnums, tuple) else (wanted,)
        for i, value in zip(self.call.request.argnums_tuple, chosen, strict=True):
            args[i] = value
        return tuple(args)

    def leaves(self, points: Any, lead: tuple[int, ...] = ()) -> list[Any]:
        """A flat vector, or rows of them, as fresh leaves."""
        parts = np.split(points, self.cuts, axis=-1) if len(self.shapes) > 1 else [points]
        kept = points.dtype.kind == "c"
        return [
            np.array(part.reshape(lead + shape), dtype=None if kept else dtype, copy=True)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]

    def outputs(self, leaves: list[Any]) -> list[Any]:
        """The leaves of f's result."""
        result = self.call.f(*self.arguments(leaves), **self.call.kwargs)
        aux = None
        if self.call.request.has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise CrelleTypeError(
                    describe(
                        f"{self.call.text}: has_aux=True, and f returned {type(result).__name__}, not (output, aux)",
                        called=types_text(self.call.inputs, self.call.names),
                        try_="return a pair from f, or leave has_aux= out",
                    )
                )
            result, aux = result
        found, tree = _trees.flatten(result)
        if self.out_tree is None:
            self.out_tree, self.aux = tree, aux
        return found

    def __call__(self, point: Any) -> Any:
        """Flat value at a flat point."""
        return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in self.outputs(self.leaves(point))])


class NumpyTrace:
    """What is known of f at one signature, and the runners made from it."""

    unavailable = {"forward": "NumPy has no derivative rules", "reverse": "NumPy has no derivative rules"}
    loop_modes: tuple[str, ...] = ()

    def __init__(self, call: Call) -> None:
        self.request, self.inputs, self.names, self.text = call.request, call.inputs, call.names, call.text
        self.hessian = call.request.kind == "hessian"
        if self.hessian:
            self.unavailable = {}
        self.notes: list[str] = []
        flat = FlatFunction(call)
        if len({t.dtype for t in self.inputs}) > 1:
            self.notes.append(f"inputs of several dtypes are raveled as {flat.x.dtype}")
        begin = time.perf_counter()
        value, kinds = self._evaluate(flat)
        seconds = time.perf_counter() - begin
        self.outputs = kinds
        self._first: tuple[FlatFunction, Any] | None = (flat, value)
        self._verify_complex()
        self.takes_batches = self.analytic = self.linear = False
        if value.size and flat.x.size:
            self._explore(flat, value)
        work = seconds * FLOPS_PER_SECOND / (8 if self.takes_batches else 1)
        per_point = float(flat.x.nbytes + value.nbytes)
        self.units = {
            "central": ("evaluation", (4 if self.analytic else 8) if self.hessian else 2 if self.linear else 4),
            "complex-step": ("evaluation", 1),
        }
        self.costs = {
            mode: PassCost(flops=count * work, ops=0, peak_bytes=count * per_point)
            for mode, (_, count) in self.units.items()
            if mode == "central" or (self.analytic and not self.linear and not self.hessian)
        }
        if self.request.mode == "complex-step" and "complex-step" not in self.costs and not self.hessian:
            self.unavailable = {**self.unavailable, "complex-step": self._why_not}

    _why_not = "f is linear: differences are exact already"

    def _evaluate(self, flat: FlatFunction) -> tuple[Any, tuple[ArrayType, ...]]:
        """One evaluation: types, and whether f changes its input."""
        leaves = flat.leaves(flat.x)
        before = [leaf.copy() for leaf in leaves]
        outputs = flat.outputs(leaves)
        for name, old, new in zip(self.names, before, leaves, strict=True):
            if not np.array_equal(old, new, equal_nan=True):
                raise CrelleValueError(
                    describe(
                        f"{self.text}: f changes its input {name} in place",
                        called=types_text(self.inputs, self.names),
                        expected="a function that leaves its inputs as they are",
                        likely="an assignment to a slice, or an operator such as +=, on the input itself",
                        try_=f"work on a copy: {name} = {name}.copy()",
                    )
                )
        called = types_text(self.inputs, self.names)
        if not outputs:
            raise CrelleTypeError(
                describe(f"{self.text}: f returned nothing", called=called,
                         expected="an array, or a tree of arrays", likely="a missing return statement")
            )  # fmt: skip
        kinds = []
        for leaf in outputs:
            array = np.asarray(leaf)
            kind = ArrayType(str(array.dtype), array.shape, "cpu")
            if array.dtype.kind not in "fc":
                raise CrelleTypeError(
                    describe(
                        f"{self.text}: f returned {kind if array.dtype.kind in 'iub' else type(leaf).__name__}, "
                        "which has no derivative",
                        called=called,
                        expected="floating-point arrays, or a tree of them",
                        try_="has_aux=True, with other results in aux; or make the result a float array",
                    )
                )
            kinds.append(kind)
        if self.request.kind in ("hessian", "gradient") and (len(kinds) != 1 or kinds[0].shape != ()):
            raise CrelleShapeError(
                describe(
                    f"{self.text}: f must return a scalar, and returned {', '.join(map(str, kinds))}",
                    called=called,
                    expected="one array of shape []",
                    likely="a missing sum or mean, or an axis of length 1",
                    try_="f(x).sum(), f(x)[0], or crelle.jacobian for a function with several outputs",
                )
            )
        flat_value = np.concatenate([np.asarray(leaf).reshape(-1) for leaf in outputs])
        return flat_value, tuple(kinds)

    def _verify_complex(self) -> None:
        complex_in = any(t.is_complex for t in self.inputs)
        if complex_in and not self.request.holomorphic:
            raise CrelleTypeError(
                describe(
                    f"{self.text}: a complex function has one complex derivative only if it is holomorphic",
                    called=f"{types_text(self.inputs, self.names)} -> {types_text(self.outputs)}",
                    try_="holomorphic=True if it is; otherwise differentiate real and imaginary parts as real arrays",
                )
            )
        if self.request.holomorphic and not (complex_in and any(t.is_complex for t in self.outputs)):
            raise CrelleTypeError(
                describe(
                    f"{self.text}: holomorphic=True needs complex inputs and outputs",
                    called=f"{types_text(self.inputs, self.names)} -> {types_text(self.outputs)}",
                    try_="leave holomorphic= out, or convert the input to complex",
                )
            )

    # -- looking at f

    def _explore(self, flat: FlatFunction, value: Any) -> None:
        """Batches, linearity, complex numbers: each tried, and used only where it was seen to work."""
        rng = np.random.default_rng(0)
        size = steps.scales(flat.x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # f may well complain about what it was not made for
            self.takes_batches = self._try_batches(flat, size, rng)
            probe = self.probe(flat)
            self.linear = not self.hessian and steps.is_linear(probe, flat.x, value, size, rng)
            self.analytic = self._try_complex(flat, value, size, rng)
        self.notes.append(
            "f takes a batch of points in one call" if self.takes_batches else "f takes one point at a time"
        )
        if self.linear:
            self.notes.append("f is linear at random points: its differences are exact to rounding")

    def _try_batches(self, flat: FlatFunction, size: Any, rng: np.random.Generator) -> bool:
        points = flat.x + (0.1 * size * rng.standard_normal((_BATCH, flat.x.size))).astype(flat.x.dtype)
        kinds = [t.shape for t in self.outputs]
        try:
            outputs = [np.asarray(leaf) for leaf in flat.outputs(flat.leaves(points, (_BATCH,)))]
            if [o.shape for o in outputs] != [(_BATCH, *shape) for shape in kinds]:
                return False
            together = np.concatenate([o.reshape(_BATCH, -1) for o in outputs], 1)
            apart = np.stack([flat(point) for point in points])
        except Exception:
            return False
        largest = float(np.abs(apart).max(initial=0.0))
        close = np.abs(together - apart) <= 16 * np.finfo(flat.x.dtype).eps * largest
        return bool(np.all(close | (np.isnan(together) & np.isnan(apart))))

    def _try_complex(self, flat: FlatFunction, value: Any, size: Any, rng: np.random.Generator) -> bool:
        """Whether complex steps agree with central differences, in two random directions."""
        x = flat.x
        if x.dtype.kind == "c" or any(t.is_complex for t in self.outputs) or x.dtype.itemsize not in steps.COMPLEX_STEP:
            self._why_not = "f is complex"
            return False
        epsilon = float(np.finfo(x.dtype).eps)
        tiny = steps.COMPLEX_STEP[x.dtype.itemsize]
        h = epsilon ** (1 / 3)
        for away in (0.0, 0.01):  # at x itself symmetry may hide a kink
            base = (x + away * size * rng.standard_normal(x.size)).astype(x.dtype)
            v = size * rng.choice([-1.0, 1.0], x.size) * rng.uniform(0.5, 1.0, x.size)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", np.exceptions.ComplexWarning)
                    slope = flat(base.astype(np.result_type(x.dtype, np.complex64)) + 1j * tiny * v).imag / tiny
                plus, minus = flat((base + h * v).astype(x.dtype)), flat((base - h * v).astype(x.dtype))
            except Exception as error:
                self._why_not = f"f does not take complex numbers ({type(error).__name__})"
                return False
            difference = (plus - minus) / (2 * h)
            largest = np.maximum(np.abs(difference), np.abs(slope))
            allowed = 1e3 * epsilon ** (2 / 3) * (np.abs(value) + largest) + 1e-300
            if not np.all(np.abs(slope - difference) <= allowed):
                self._why_not = "complex steps disagree with differences: f is not analytic, or drops imaginary parts"
                return False
        return True

    def probe(self, flat: FlatFunction, chunk: int | None = None) -> steps.Probe:
        """f at many points: in one call where it takes batches."""

        def one_call(points: Any) -> Any:
            outputs = flat.outputs(flat.leaves(points, (len(points),)))
            return np.concatenate([np.asarray(o).reshape(len(points), -1) for o in outputs], 1)

        def evaluate(points: Any) -> Any:
            if self.takes_batches and len(points):
                width = chunk or len(points)
                return np.concatenate([one_call(points[i : i + width]) for i in range(0, len(points), width)])
            if not len(points):
                return np.zeros((0, total_size(self.outputs)), flat.x.dtype)
            return np.stack([flat(point) for point in points])

        return evaluate

    # -- what the protocol asks for

    def match(self, call: Call) -> Any | None:
        """(flat function, value): f is looked at anew, its properties are kept."""
        first, self._first = self._first, None
        if first is not None and first[0].call is call:
            return first
        flat = FlatFunction(call)
        return flat, None

    def build(self, method: Method) -> Runner:
        """A runner by differences."""

        def runner(call: Call, captured: Any) -> Any:
            flat, value = captured
            if flat.call is not call:
                flat, value = FlatFunction(call), None
            if value is None:
                value = flat(flat.x)
                if value.size != total_size(self.outputs):
                    raise CrelleShapeError(
                        describe(
                            f"{self.text}: f returned {value.size} entries, and {total_size(self.outputs)} before",
                            called=types_text(self.inputs, self.names),
                            likely="the shape of the result depends on values, or on something that f reads",
                            try_="make a new transform",
                        )
                    )
            blocks, errors = self._differences(flat, method)
            return self._assemble(flat, value, blocks, errors)

        return runner

    def _differences(self, flat: FlatFunction, method: Method) -> tuple[Any, Any]:
        """The wanted part of the flat matrix, and its errors."""
        x = flat.x
        outer = total_size(self.inputs if self.hessian else self.outputs)
        chunk = None if method.chunk is None else method.chunk * self.units[method.mode][1]
        probe = self.probe(flat, chunk)
        seeds = method.selected.seeds(method.side, outer if method.side == "rows" else x.size)
        columns = np.arange(x.size) if seeds is None else seeds
        size = steps.scales(x)
        if self.hessian:
            found, error = self._second(probe, x, columns, size, whole=seeds is None)
            if method.side == "rows":
                found, error = found.T, error.T
        elif method.mode == "complex-step":
            found, error = steps.complex_step(probe, x, columns, size)
        elif self.linear:
            found, error = steps.linear(probe, x, columns, size)
        else:
            found, error = self._central(probe, x, columns, size)
        kind = np.result_type(*[np.dtype(t.dtype) for t in (*self.inputs, *self.outputs)]) if self.outputs else x.dtype
        parts = found.astype(kind), error.astype(float)
        if not self.request.flat:
            return parts
        count = outer if method.side == "rows" else x.size
        return method.selected.apply(parts[0], method.side, count), method.selected.apply(parts[1], method.side, count)

    def _central(self, probe: steps.Probe, x: Any, columns: Any, size: Any) -> tuple[Any, Any]:
        """Central differences; columns that come out poorly are tried again with a step for x of the size of 1."""
        direction = np.random.default_rng(1).choice([-1.0, 1.0], x.size)
        shrink = steps.shrinkage(probe, x, size, direction)
        found, error = steps.central(probe, x, columns, size, shrink)
        worst = error.max(axis=0, initial=0.0)
        poor = worst > steps.POOR * np.abs(found).max(axis=0, initial=0.0)
        other = np.maximum(size, max(1.0, float(size.max(initial=0.0))))
        poor &= other[columns] > 4 * size[columns]
        if poor.any():
            again, error2 = steps.central(probe, x, columns[poor], other, shrink)
            better = error2.max(axis=0, initial=0.0) < worst[poor]
            where = np.flatnonzero(poor)[better]
            found[:, where], error[:, where] = again[:, better], error2[:, better]
        return found, error

    def _second(self, probe: steps.Probe, x: Any, columns: Any, size: Any, whole: bool) -> tuple[Any, Any]:
        """Columns of the Hessian; of the whole one only the lower triangle is evaluated."""
        n = x.size
        if whole:
            i, j = np.tril_indices(n)
        else:
            i, j = np.tile(np.arange(n), len(columns)), np.repeat(columns, n)
        entries, errors = steps.second(probe, x, i, j, size, self.analytic)
        if not whole:
            return entries.reshape(len(columns), n).T, errors.reshape(len(columns), n).T
        found, error = np.zeros((n, n), entries.dtype), np.zeros((n, n))
        found[i, j] = found[j, i] = entries
        error[i, j] = error[j, i] = errors
        return found, error

    def _assemble(self, flat: FlatFunction, value: Any, matrix: Any, error: Any) -> Any:
        request = self.request
        answer, errors = self._shaped(flat, matrix), self._shaped(flat, error) if request.error else None
        derivative = (answer, errors) if request.error else (answer,)
        if request.value:
            cut = np.cumsum([t.size for t in self.outputs])[:-1]
            leaves = [
                part.reshape(t.shape).astype(t.dtype) if t.shape else part.reshape(()).astype(t.dtype)[()]
                for part, t in zip(np.split(value, cut), self.outputs, strict=True)
            ]
            values = _trees.unflatten(flat.out_tree or _trees.LEAF, leaves)
            return ((values, flat.aux) if request.has_aux else values), *derivative
        if request.has_aux:
            return *derivative, flat.aux
        return derivative if request.error else answer

    def _shaped(self, flat: FlatFunction, matrix: Any) -> Any:
        """The flat matrix in the user's shape: a tree of outputs of trees of inputs."""
        request, call = self.request, flat.call
        if request.flat:
            return matrix[0] if request.kind == "gradient" else matrix
        outer = self.inputs if self.hessian else self.outputs
        rows = np.split(matrix, np.cumsum([t.size for t in outer])[:-1], 0)
        grid = []
        for row, o in zip(rows, outer, strict=True):
            parts = np.split(row, flat.cuts, 1)
            shaped = [part.reshape(o.shape + i.shape) for part, i in zip(parts, self.inputs, strict=True)]
            grid.append(_trees.unflatten(call.in_tree, [np.ascontiguousarray(part) for part in shaped]))
        if request.kind == "gradient":
            return grid[0]
        return _trees.unflatten(call.in_tree if self.hessian else flat.out_tree, grid)

    def check(self, call: Call, captured: Any, answer: Any, method: Method) -> CheckReport:
        """One directional difference with other steps, against the product of the answer; f is evaluated twice."""
        flat = captured[0] if captured[0].call is call else FlatFunction(call)
        x = flat.x
        outer = total_size(self.inputs if self.hessian else self.outputs)
        if not x.size or not outer:
            return CheckReport(0.0, 0.0, "nothing: the matrix is empty")
        value, again = flat(x), flat(x)
        if not np.array_equal(value, again, equal_nan=True):
            return CheckReport(0.0, 0.0, "", deterministic=False)
        matrix, error = self._differences_whole(flat, method)
        bad = _nonfinite(value, matrix)
        if matrix.shape != (outer, x.size) or bad:
            return CheckReport(0.0, 0.0, "nothing: only a part was asked for" if not bad else "", bad)
        rng = np.random.default_rng(2)
        size = steps.scales(x)
        v = size * rng.choice([-1.0, 1.0], x.size) * rng.uniform(0.5, 1.0, x.size)
        epsilon = float(np.finfo(x.dtype).eps)
        if self.hessian:
            w = size * rng.choice([-1.0, 1.0], x.size) * rng.uniform(0.5, 1.0, x.size)
            h = epsilon**0.25
            values = [flat((x + h * (a * v + b * w)).astype(x.dtype))[0] for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
            expected = np.asarray([(values[0] - values[1] - values[2] + values[3]) / (4 * h * h)])
            got = np.asarray([v @ matrix @ w])
            allowed = np.abs(v) @ error @ np.abs(w) + 100 * epsilon**0.5 * (np.abs(values).max() + np.abs(got))
        else:
            h = 0.37 * epsilon ** (1 / 3)
            plus, minus = flat((x + h * v).astype(x.dtype)), flat((x - h * v).astype(x.dtype))
            expected, got = (plus - minus) / (2 * h), matrix @ v
            allowed = error @ np.abs(v) + 100 * epsilon ** (2 / 3) * (np.abs(plus) + np.abs(got))
        excess = np.maximum(np.abs(expected - got) - 3 * allowed, 0.0)
        return CheckReport(float(excess.max()), float(np.abs(expected).max()), "difference with other steps")

    def _differences_whole(self, flat: FlatFunction, method: Method) -> tuple[Any, Any]:
        matrix, error = self._differences(flat, method)
        return np.atleast_2d(matrix), np.atleast_2d(error)

    def temporary_bytes(self, method: Method, call: Call, captured: Any) -> int | None:
        """Not known for a black box."""
        return None


def _nonfinite(value: Any, matrix: Any) -> str:
    bad = ~np.isfinite(matrix)
    where = ""
    if bad.any():
        entry = np.unravel_index(int(np.argmax(bad)), matrix.shape)
        where = f"entry [{', '.join(map(str, entry))}] of the flat derivative is {matrix[entry]}"
    if not np.all(np.isfinite(value)):
        return "the value of f is not finite (NaN or inf)" + (f", and {where}" if where else "")
    return where
