"""Products with a derivative: ``jvp``, ``vjp``, ``hvp``. Arguments are checked here; the framework does the rest.

Nothing is planned: a product has one obvious way, one pass, and the frameworks do it well.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from crelle._arrays import ArrayType, types_text
from crelle._call import argument_names, backend_of, describe_arguments, function_name
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle._request import Request
from crelle.backends._protocol import Backend

Function = Callable[..., Any]


class Products(Protocol):
    """What ``backends/<name>/products.py`` offers. Arguments are checked, and f checks its own result.

    Attributes:
        ZERO_DTYPE: dtype of the tangents of integers, ``None`` where integers have no tangents.
        CASTS: whether a cotangent of another dtype is converted, as the framework does.
    """

    ZERO_DTYPE: Any
    CASTS: bool

    def jvp(self, f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
        """(f(x), J v), and aux."""
        ...

    def vjp(self, f: Function, primals: tuple[Any, ...], has_aux: bool) -> tuple[Any, ...]:
        """(f(x), u ↦ tuple of cotangents), and aux."""
        ...

    def hvp(self, f: Function, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """(f(x), H v) for a scalar f; the product is a tuple with one item for each primal."""
        ...

    def compiled(self, function: Function) -> Function:
        """A function made as fast as it pays for one call."""
        ...

    def checked(self, pull: Function, check: Function) -> Function:
        """``pull`` with ``check`` called before it, in a form that the framework's transformations let through."""
        ...


def jvp(
    f: Function, primals: tuple[Any, ...] | list[Any], tangents: tuple[Any, ...] | list[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """J v = d/dt f(x + t v) at t = 0: the value of f and its derivative in one direction, as ``(f(x), J v)``.

    A drop-in for ``jax.jvp`` and ``torch.func.jvp``; where an operation has no forward rule, the transpose of the VJP
    is taken instead.

    Args:
        f: a function of JAX, PyTorch or NumPy arrays, or an ``nn.Module``.
        primals: the arguments of f, as a tuple; each an array or a tree of arrays.
        tangents: the direction: a tuple with the trees, shapes and dtypes of the primals.
        has_aux: f returns ``(output, aux)``; the result is then ``(output, tangent, aux)``.

    Returns:
        ``(f(x), J v)``, both of the shape and tree of f(x).

    Raises:
        CrelleTypeError: f is not a function, an argument is no floating-point array, the trees differ.
        CrelleShapeError: a tangent has another shape or dtype than its primal.

    Cost:
        One forward pass: about 1 to 3 evaluations of f (Griewank & Walther, *Evaluating Derivatives*, 2nd ed., SIAM
        2008, section 3.2). NumPy functions: a few evaluations of f.

    >>> import numpy as np
    >>> value, product = jvp(np.exp, (np.array([0.0, 1.0]),), (np.array([1.0, 2.0]),))
    >>> value.round(4), product.round(4)
    (array([1.    , 2.7183]), array([1.    , 5.4366]))
    """
    bound = _Bound("jvp", f, primals)
    direction = bound.direction(tangents)
    return bound.rules.jvp(bound.with_checked_result(has_aux), bound.primals, direction, has_aux)


def vjp(f: Function, *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """uᵀJ: the value of f, and a function from cotangents u to products, as ``(f(x), vjp_fn)``.

    A drop-in for ``jax.vjp`` and ``torch.func.vjp``, with their conventions: ``vjp_fn(u)`` returns a tuple with one
    item for each primal, and for complex arrays JAX gives uᵀJ, PyTorch Jᴴu.

    Args:
        f: a function of JAX, PyTorch or NumPy arrays, or an ``nn.Module``.
        *primals: the arguments of f; each an array or a tree of arrays.
        has_aux: f returns ``(output, aux)``; the result is then ``(output, vjp_fn, aux)``.

    Returns:
        ``(f(x), vjp_fn)``; ``vjp_fn`` takes the tree and shapes of f(x), and may be called many times.

    Raises:
        CrelleTypeError: f is not a function, an argument is no floating-point array, the trees differ.
        CrelleShapeError: a cotangent has another shape or dtype than the output.

    Cost:
        f with what the reverse pass needs kept in memory, then about 1 to 4 evaluations of f for each product, whatever
        the number of inputs (Griewank & Walther 2008, section 3.3). NumPy functions: evaluations in proportion to
        the number of inputs, once.

    >>> import numpy as np
    >>> value, vjp_fn = vjp(np.sin, np.array([0.0, 1.0]))
    >>> vjp_fn(np.array([1.0, 2.0]))[0].round(4)
    array([1.    , 1.0806])
    """
    bound = _Bound("vjp", f, primals)
    bound.refuse_integers()
    output, pull, *aux = bound.rules.vjp(bound.with_checked_result(has_aux), bound.primals, has_aux)
    return output, bound.rules.checked(pull, bound.cotangent_check(output)), *aux


def hvp(
    f: Function, primals: tuple[Any, ...] | list[Any], tangents: tuple[Any, ...] | list[Any], *, value: bool = False
) -> Any:
    """H v = d/dt ∇f(x + t v) at t = 0: the Hessian of a scalar function times a vector, without forming the Hessian.

    The same as ``jax.jvp(jax.grad(f), primals, tangents)[1]``; several primals give a tuple of products, for the
    Hessian with respect to all of them.

    Args:
        f: a function of JAX, PyTorch or NumPy arrays that returns a scalar, or an ``nn.Module``.
        primals: the arguments of f, as a tuple; each an array or a tree of arrays.
        tangents: the vector: a tuple with the trees, shapes and dtypes of the primals.
        value: also return f(x), as ``(f(x), H v)``, at no extra evaluation.

    Returns:
        H v, shaped like the one primal, or a tuple of such.

    Raises:
        CrelleTypeError: f is not a function, an argument is no real floating-point array, the trees differ.
        CrelleShapeError: f does not return a scalar, or a tangent has another shape or dtype than its primal.

    Cost:
        A forward pass over a reverse pass: about 2 to 3 gradients, whatever the number of inputs (B. A. Pearlmutter,
        *Fast exact multiplication by the Hessian*, Neural Computation 6, 1994). Where an operation has no forward rule,
        reverse over reverse. NumPy functions: evaluations in proportion to the number of inputs.

    >>> import numpy as np
    >>> x, v = np.array([1.0, 2.0]), np.array([1.0, 1.0])
    >>> hvp(lambda x: x[0] ** 2 * x[1] + x[1] ** 3, (x,), (v,)).round(3)
    array([ 6., 14.])
    """
    bound = _Bound("hvp", f, primals)
    direction = bound.direction(tangents)
    for t, name in zip(bound.types, bound.names, strict=True):
        if t.is_complex:
            raise CrelleTypeError(
                describe(
                    f"{bound.what}: {name} is {t}, and a function of complex numbers has no one Hessian",
                    called=bound.called,
                    try_="use real and imaginary parts; for holomorphic f, crelle.hessian(f, holomorphic=True)",
                )
            )
    scalar, product = bound.rules.hvp(bound.with_scalar_result(), bound.primals, direction)
    answer = product[0] if len(product) == 1 else product
    return (scalar, answer) if value else answer


def products_of(backend: Backend) -> Products:
    """The products of a backend; their module is imported when one is first asked for."""
    if backend.name not in _loaded:
        _loaded[backend.name] = cast(Products, importlib.import_module(f"crelle.backends.{backend.name}.products"))
    return _loaded[backend.name]


_loaded: dict[str, Products] = {}
_REQUESTS = {kind: Request(kind) for kind in ("jvp", "vjp", "hvp")}


@dataclass(frozen=True, slots=True)
class _Like:
    """Arrays that must be like others: the tangents like the primals, the cotangents like the outputs. Hashable."""

    what: str
    noun: str
    other: str
    backend: Backend
    tree: Any
    types: tuple[ArrayType, ...]
    names: tuple[str, ...]
    zero_dtype: Any
    casts: bool = False

    def __call__(self, given: Any) -> None:
        leaves, tree = self.backend.flatten(given)
        if tree != self.tree:
            raise CrelleTypeError(
                describe(
                    f"{self.what}: the {self.noun}s have another tree than the {self.other}s",
                    called=f"{self.noun}s: {describe_arguments(_as_tuple(given), {})}",
                    expected=types_text(self.types, self.names),
                    likely="an item is missing, or a list where a tuple is meant; None does not stand for zeros",
                )
            )
        for leaf, like, name in zip(leaves, self.types, self.names or [""] * len(leaves), strict=True):
            self._check_leaf(leaf, like, name)

    def _check_leaf(self, leaf: Any, like: ArrayType, name: str) -> None:
        of = f" ({name})" if name else ""
        if not (like.is_float or like.is_complex):
            if self.zero_dtype is not None and getattr(leaf, "dtype", None) == self.zero_dtype:
                return
            raise CrelleTypeError(
                describe(
                    f"{self.what}: {self.noun} for {self.other} {like}{of}, which is not floating point "
                    "and has no derivative",
                    likely="an integer or boolean array where a float was meant",
                    try_=f"convert the {self.other} to floating point, or close over it"
                    + (f"; a {self.noun} of dtype {self.zero_dtype.names[0]} is zero" if self.zero_dtype else ""),
                )
            )
        try:
            kind = self.backend.array_type(leaf)
        except TypeError:
            raise CrelleTypeError(
                describe(
                    f"{self.what}: {self.noun} {leaf!r} of type {type(leaf).__name__} for {self.other} {like}{of}",
                    expected=f"an array {like}",
                )
            ) from None
        same_kind = kind.dtype == like.dtype or (self.casts and (kind.is_float or like.is_complex))
        if kind.shape != like.shape or not same_kind:
            raise CrelleShapeError(
                describe(
                    f"{self.what}: {self.noun} {kind} for {self.other} {like}{of}",
                    expected=f"a {self.noun} {like}",
                    try_=_remedy(kind, like, self.noun),
                )
            )
        mine, theirs = (t.device.partition(" ")[0] for t in (kind, like))
        if mine and theirs and mine != theirs:
            raise CrelleValueError(
                describe(f"{self.what}: {self.noun} on {mine} for {self.other} on {theirs}{of}", expected="one device",
                         try_=f"move it with .to({theirs!r})")
            )  # fmt: skip


def _remedy(kind: ArrayType, like: ArrayType, noun: str) -> str | None:
    if kind.shape == like.shape:
        return f"convert the {noun} to {like.dtype}"
    return f"reshape the {noun} to {list(like.shape)}" if kind.size == like.size else None


def _as_tuple(tree: Any) -> tuple[Any, ...]:
    return tree if isinstance(tree, tuple) else (tree,)


class _Bound:
    """f and primals of one call, checked: backend, leaves and their types."""

    def __init__(self, kind: str, f: Any, primals: Any) -> None:
        name = function_name(f)
        self.what = f"crelle.{kind}({name})"
        if not callable(f):
            raise CrelleTypeError(
                describe(
                    f"crelle.{kind}(f, ...): f is not a function but of type {type(f).__name__}",
                    expected="a function of arrays, or an nn.Module",
                    try_="pass the function itself, f, not its result f(x)" if hasattr(f, "shape") else None,
                )
            )
        if not isinstance(primals, (tuple, list)):
            raise _not_a_tuple(self.what, kind, "primals", primals)
        self.kind, self.primals, self._named = kind, tuple(primals), f
        self.backend = backend_of(f, self.primals, {}, self.what)
        adapted = self.backend.adapt(f, self.primals, _REQUESTS[kind])
        self.f: Function = f if adapted is None else adapted.f
        self.rules = products_of(self.backend)
        leaves, self.tree = self.backend.flatten(self.primals)
        types = []
        for i, leaf in enumerate(leaves):
            try:
                types.append(self.backend.array_type(leaf))
            except TypeError:
                raise CrelleTypeError(
                    describe(
                        f"{self.what}: {self.names[i]} is {leaf!r} of type {type(leaf).__name__}, "
                        "which cannot be differentiated",
                        called=self.called,
                        expected="arrays, or trees of arrays",
                        try_=f"close over it: crelle.{kind}(lambda x: f(x, {leaf!r}), ...)",
                    )
                ) from None
        self.types = tuple(types)

    @functools.cached_property
    def called(self) -> str:
        """The primals in words, for errors."""
        return describe_arguments(self.primals, {})

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Paths of the leaves, such as ``params['w']``."""
        arguments = argument_names(self._named, tuple(range(len(self.primals))))
        return tuple(
            name + path for name, tree in zip(arguments, self.primals, strict=True) for path in self.backend.paths(tree)
        )

    def refuse_integers(self) -> None:
        """Refuse integers, unless the framework gives them zeros beside the derivatives of others."""
        inexact = [t.is_float or t.is_complex for t in self.types]
        if all(inexact) or (self.rules.ZERO_DTYPE is not None and any(inexact)):
            return
        index = inexact.index(False)
        raise CrelleTypeError(
            describe(
                f"{self.what}: {self.names[index]} is {self.types[index]}, "
                "and only floating-point arguments have a derivative",
                called=self.called,
                likely="an integer or boolean array where a float was meant",
                try_="convert it to floating point, or close over it",
            )
        )

    def direction(self, tangents: Any) -> tuple[Any, ...]:
        """The tangents, once they fit."""
        if not isinstance(tangents, (tuple, list)):
            raise _not_a_tuple(self.what, self.kind, "tangents", tangents)
        if len(tangents) != len(self.primals):
            raise CrelleTypeError(
                describe(
                    f"{self.what}: {len(self.primals)} primals and {len(tangents)} tangents",
                    called=f"primals:  {self.called}\ntangents: {describe_arguments(tuple(tangents), {})}",
                    expected="one tangent for each primal; zeros for an argument that stays",
                )
            )
        names = self.names if len(self.types) > 1 else ()
        zero_dtype = self.rules.ZERO_DTYPE if self.kind == "jvp" else None
        _Like(self.what, "tangent", "primal", self.backend, self.tree, self.types, names, zero_dtype)(tuple(tangents))
        return tuple(tangents)

    def cotangent_check(self, output: Any) -> _Like:
        """What the argument of ``vjp_fn`` must pass."""
        leaves, tree = self.backend.flatten(output)
        types = tuple(self.backend.array_type(leaf) for leaf in leaves)
        names = tuple(self.backend.paths(output)) if len(leaves) > 1 else ()
        return _Like(self.what, "cotangent", "output", self.backend, tree, types, names,
                     self.rules.ZERO_DTYPE, self.rules.CASTS)  # fmt: skip

    def with_checked_result(self, has_aux: bool) -> Function:
        """f, with complaints about what it returns."""

        @functools.wraps(self.f, updated=())
        def checked(*args: Any) -> Any:
            result = self.f(*args)
            output = result
            if has_aux:
                if not isinstance(result, tuple) or len(result) != 2:
                    raise CrelleTypeError(
                        describe(
                            f"{self.what}: has_aux=True, and f returned {type(result).__name__}, not (output, aux)",
                            called=self.called,
                            try_="return a pair from f, or leave has_aux= out",
                        )
                    )
                output = result[0]
            self._output_types(output)
            return result

        return checked

    def with_scalar_result(self) -> Function:
        """f, refused if it does not return one real number."""

        @functools.wraps(self.f, updated=())
        def scalar(*args: Any) -> Any:
            output = self.f(*args)
            types = self._output_types(output)
            real = len(types) == 1 and (types[0].is_float or self._any_complex(args))
            if len(types) != 1 or types[0].shape != () or not real:
                raise CrelleShapeError(
                    describe(
                        f"{self.what}: f must return a real scalar, and returned {types_text(types)}",
                        called=self.called,
                        expected="one floating-point array of shape []",
                        likely="a missing sum or mean, or an axis of length 1",
                        try_="f(x).sum(), f(x)[0], or crelle.jvp for a function with several outputs",
                    )
                )
            return self.backend.flatten(output)[0][0]

        return scalar

    def _any_complex(self, args: tuple[Any, ...]) -> bool:
        """Whether f is being probed with complex numbers, as a complex step does: then it may return one."""
        return any(self.backend.array_type(leaf).is_complex for leaf in self.backend.flatten(args)[0])

    def _output_types(self, output: Any) -> tuple[ArrayType, ...]:
        leaves = self.backend.flatten(output)[0]
        if not leaves or all(leaf is None for leaf in leaves):
            raise CrelleTypeError(
                describe(f"{self.what}: f returned nothing", called=self.called,
                         expected="an array, or a tree of arrays", likely="a missing return statement")
            )  # fmt: skip
        types = []
        for leaf in leaves:
            try:
                types.append(self.backend.array_type(leaf))
            except TypeError:
                raise CrelleTypeError(
                    describe(
                        f"{self.what}: f returned {leaf!r} of type {type(leaf).__name__}",
                        called=self.called,
                        expected="an array, or a tree of arrays",
                        likely="a value taken out of the framework (.item(), float()) has no derivative",
                        try_="return arrays; has_aux=True if f returns (output, aux)",
                    )
                ) from None
        return tuple(types)


def _not_a_tuple(what: str, kind: str, name: str, given: Any) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f"{what}: {name} is {describe_arguments((given,), {})}, not a tuple",
            expected="a tuple with one item for each argument of f",
            try_=f"crelle.{kind}(f, (x,), (v,))",
        )
    )
