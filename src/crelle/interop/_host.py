"""NumPy arrays in, NumPy arrays out: the arguments of a solver, and what JAX or PyTorch makes of them.

A function is bound and traced once, for one example of its arguments; each later call puts new values in their places.
"""

from __future__ import annotations

import importlib
import operator
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle._call import argument_names, backend_of, describe_arguments, function_name
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, CrelleWarning, describe
from crelle._prepare import prepared_for
from crelle._sparse import Sparse, sparse_for
from crelle._transforms import Transform
from crelle.backends import framework_of
from crelle.backends._protocol import Backend, Call
from crelle.pattern import SparsityPattern

Array = np.ndarray[Any, Any]


class Arguments:
    """What f was prepared for: one real vector that a solver changes, and what stands beside it.

    Floats and arrays of floats beside the vector may change from call to call; all else is what it was in the example.
    """

    def __init__(self, what: str, f: Any, example: tuple[Any, ...], argnums: Any) -> None:
        if not callable(f):
            raise CrelleTypeError(
                describe(f"{what}: f is not a function but {type(f).__name__}", expected="a function of arrays")
            )
        self.what = f"{what}({function_name(f)})"
        count = len(example)
        if not isinstance(argnums, int) or isinstance(argnums, bool) or not -count <= argnums < count:
            raise CrelleTypeError(
                describe(
                    f"{self.what}: argnums={argnums!r} names no argument of the example",
                    called=describe_arguments(example, {}),
                    expected=f"an integer, at least {-count} and less than {count}",
                    likely="an argument is missing: solve_ivp calls f(t, y), and y is argument 1",
                )
            )
        self.argnums = argnums % count
        self.name = argument_names(f, (self.argnums,))[0]
        self.backend = self._backend(f, example)
        #: What the framework offers to callers with NumPy arrays.
        self.host = importlib.import_module(f"crelle.backends.{self.backend.name}.host")
        leaves, self._tree = self.backend.flatten((example, {}))
        self._like = next((leaf for leaf in leaves if _is_float(self.backend, leaf)), example[self.argnums])
        vector = self._like = self._vector(example[self.argnums])
        self.size = int(vector.shape[0])
        self._leaves = [self._placed(leaf) for leaf in leaves]
        self._position = len(self.backend.flatten((example[: self.argnums], {}))[0])
        self._leaves[self._position] = vector
        self._varies = [_is_float(self.backend, leaf) for leaf in self._leaves]
        #: Whether each argument is one leaf.
        self._single = len(leaves) == count and all(map(operator.is_, leaves, example))
        self.example: tuple[Any, ...] = self.backend.unflatten(self._tree, self._leaves)[0]

    def _backend(self, f: Callable[..., Any], example: tuple[Any, ...]) -> Backend:
        found = backend_of(f, example, {}, self.what)
        if found.name == "numpy":
            raise CrelleTypeError(
                describe(
                    f"{self.what}: no argument says that f is written in JAX or PyTorch",
                    called=describe_arguments(example, {}),
                    expected="one array of JAX or PyTorch among the arguments",
                    try_="jnp.asarray(x0) or torch.as_tensor(x0); for a function of NumPy, which SciPy takes as it is, "
                    'jac=crelle.jacobian(f), with format="csr" and pattern= where it is sparse',
                )
            )
        return found

    def _vector(self, given: Any) -> Any:
        """The differentiated argument of the example, in the framework of f."""
        if isinstance(given, (list, tuple, dict)) or not hasattr(given, "shape"):
            raise CrelleTypeError(
                describe(f"{self.what}: {self.name} is {type(given).__name__}", expected="an array with one axis")
            )
        own = framework_of(given) == self.backend.name
        kind = _type(given) if not own else self.backend.array_type(given)
        if kind.is_complex or not kind.is_float:
            raise CrelleTypeError(
                describe(
                    f"{self.what}: {self.name} is {kind}, and solvers work with real vectors",
                    expected="an array of floats",
                    try_="put real and imaginary parts one after the other" if kind.is_complex else "x0 = 1.0 * x0",
                )
            )
        if len(kind.shape) != 1:
            raise CrelleShapeError(
                describe(
                    f"{self.what}: {self.name} is {kind}, and solvers work with vectors",
                    expected=f"{ArrayType(kind.dtype, (kind.size,))}",
                    try_="f = lambda x: g(x.reshape(shape)).ravel()",
                )
            )
        vector = given if own else self.backend.array_like(self._like, given)
        if self.backend.array_type(vector).itemsize < kind.itemsize:
            warnings.warn(
                describe(
                    f"{self.what}: {self.name} is {kind}, and {self.backend.name} computes with "
                    f"{self.backend.array_type(vector)}",
                    likely="solvers expect double precision: with their default tolerances they may stall",
                    try_='jax.config.update("jax_enable_x64", True)',
                ),
                CrelleWarning,
                stacklevel=5,
            )
        return vector

    def _placed(self, leaf: Any) -> Any:
        """A float or an array of NumPy beside the vector, as an array of the framework."""
        if isinstance(leaf, (float, np.floating)) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f"):
            return self.backend.array_like(self._like, leaf)
        return leaf

    def leaves(self, given: tuple[Any, ...]) -> list[Any]:
        """What a solver passes, in the framework, with the types of the example.

        Raises:
            CrelleShapeError: another number of arguments, or another shape.
            CrelleTypeError: complex numbers.
            CrelleValueError: another value of what does not vary.
        """
        if self._single and len(given) == len(self._leaves):
            leaves = given
        else:
            found, tree = self.backend.flatten((given, {}))
            leaves = tuple(found)
            if tree != self._tree:
                raise CrelleShapeError(
                    describe(
                        f"{self.what}: other arguments than in the example",
                        called=describe_arguments(given, {}),
                        expected=describe_arguments(self.example, {}),
                    )
                )
        return [self._taken(i, leaf) for i, leaf in enumerate(leaves)]

    def _taken(self, i: int, given: Any) -> Any:
        example = self._leaves[i]
        if not self._varies[i]:
            if given is not example and not np.array_equal(given, example):
                raise CrelleValueError(
                    describe(
                        f"{self.what}: an argument that is no float has changed",
                        called=f"{given!r}",
                        expected=f"{example!r}, as in the example: f was traced with it",
                        try_="prepare another callable for this value",
                    )
                )
            return example
        values = self.backend.to_host(given) if framework_of(given) == self.backend.name else np.asarray(given)
        if values.shape != example.shape or values.dtype == object:
            label = self.name if i == self._position else "an argument"
            raise CrelleShapeError(
                describe(
                    f"{self.what}: {label} is {_type(values)}",
                    expected=f"{self.backend.array_type(example)}, as in the example",
                    likely="x0 of the solver has another length than the x0 that this callable was made with"
                    if i == self._position
                    else None,
                )
            )
        if _type(values).is_complex:
            raise CrelleTypeError(
                describe(
                    f"{self.what}: an argument is {_type(values)}",
                    expected=f"{self.backend.array_type(example)}, real as in the example",
                    likely="a complex-step derivative, or complex initial values",
                )
            )
        return self.host.placed(example, values)

    def arguments(self, leaves: list[Any]) -> tuple[Any, ...]:
        """The arguments of f that these leaves belong to."""
        if self._single:
            return tuple(leaves)
        return self.backend.unflatten(self._tree, leaves)[0]  # type: ignore[no-any-return]

    def moving(self, leaves: list[Any]) -> list[Any]:
        """The leaves that may change."""
        return [leaf for leaf, varies in zip(leaves, self._varies, strict=True) if varies]

    def moved(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """f of the leaves that may change."""

        def of_moving(*moving: Any) -> Any:
            rest = iter(moving)
            leaves = [next(rest) if varies else leaf for leaf, varies in zip(self._leaves, self._varies, strict=True)]
            return f(*self.arguments(leaves))

        return of_moving


def _is_float(backend: Backend, leaf: Any) -> bool:
    return framework_of(leaf) == backend.name and backend.array_type(leaf).is_float


def _type(array: Any) -> ArrayType:
    return ArrayType(str(array.dtype).removeprefix("torch."), tuple(array.shape))


class Evaluated:
    """f at the arguments of a solver: compiled once in JAX, without gradients in PyTorch."""

    def __init__(self, arguments: Arguments, f: Callable[..., Any]) -> None:
        self.arguments, self.backend = arguments, arguments.backend
        self._run = arguments.host.evaluated(arguments.moved(f))
        self.ndim = self._look().ndim

    def __call__(self, leaves: list[Any]) -> Array:
        return self.backend.to_host(self._run(*self.arguments.moving(leaves)))  # type: ignore[no-any-return]

    def _look(self) -> Array:
        """The value at the example, which must be a real scalar or vector."""
        arguments = self.arguments
        found = self._run(*arguments.moving(arguments._leaves))
        called = describe_arguments(arguments.example, {})
        if framework_of(found) != self.backend.name:
            raise CrelleTypeError(
                describe(
                    f"{arguments.what}: f returned {type(found).__name__}",
                    called=called,
                    expected=f"one array of {self.backend.name}",
                    try_="join the parts into one vector",
                )
            )
        kind = self.backend.array_type(found)
        if not kind.is_float:
            raise CrelleTypeError(
                describe(f"{arguments.what}: f returned {kind}", called=called, expected="an array of real floats")
            )
        if len(kind.shape) > 1:
            raise CrelleShapeError(
                describe(
                    f"{arguments.what}: f returned {kind}",
                    called=called,
                    expected=f"a vector, {ArrayType(kind.dtype, (kind.size,))}, or a scalar",
                    try_="return y.ravel()",
                )
            )
        return self.backend.to_host(found)  # type: ignore[no-any-return]

    def demand(self, ndim: int, instead: str) -> None:
        """Refuse a scalar where a vector is needed, and a vector where a scalar is.

        Raises:
            CrelleShapeError: f returns the other kind.
        """
        if self.ndim != ndim:
            kinds = ("a scalar", "a vector")
            raise CrelleShapeError(
                describe(
                    f"{self.arguments.what}: f returned {kinds[self.ndim]}",
                    called=describe_arguments(self.arguments.example, {}),
                    expected=kinds[ndim],
                    try_=instead,
                )
            )


class Prepared:
    """A derivative at the arguments of a solver."""

    def __init__(self, arguments: Arguments, transform: Transform) -> None:
        self.arguments, self.transform = arguments, transform
        self._call: Call = transform._bind(arguments.example, {})

    def _now(self, leaves: list[Any]) -> Call:
        """The call that was bound, at other values."""
        arguments = self.arguments
        active = [leaves[arguments._position]]
        return replace(self._call, args=arguments.arguments(leaves), active=active, leaves=leaves)

    def dense(self, leaves: list[Any]) -> Array:
        """A dense derivative."""
        call = self._now(leaves)
        with self.arguments.host.without_record():
            prepared, captured = prepared_for(call, self.transform._space)
            return call.backend.to_host(prepared.run(call, captured))  # type: ignore[no-any-return]


class Entries(Prepared):
    """The entries of a sparse derivative, in CSR order, with the structure that they have at every point."""

    def __init__(self, arguments: Arguments, transform: Transform) -> None:
        super().__init__(arguments, transform)
        with arguments.host.without_record():
            self._sparse: Sparse = sparse_for(self._call, transform._space, transform.given)[0]
        self.pattern: SparsityPattern = self._sparse.compressed.ways.pattern

    def __call__(self, leaves: list[Any]) -> Array:
        """The entries, possibly in memory that may only be read.

        Raises:
            CrelleValueError: f has changed, so that its entries are in other places.
        """
        call = self._now(leaves)
        with self.arguments.host.without_record():
            sparse, captured = sparse_for(call, self.transform._space, self.transform.given)
        if sparse is not self._sparse:
            if sparse.compressed.ways.pattern != self.pattern:
                raise CrelleValueError(
                    describe(
                        f"{self.arguments.what}: f has changed, and its entries are in other places now",
                        called=repr(sparse.compressed.ways.pattern),
                        expected=repr(self.pattern),
                        try_="prepare another callable for the changed f",
                    )
                )
            self._sparse = sparse
        with self.arguments.host.without_record():
            return call.backend.to_host(sparse.entries(call, captured)[0])  # type: ignore[no-any-return]
