"""Callables for ``scipy.optimize`` and ``scipy.integrate``: they take and return NumPy and SciPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from crelle._call import function_name
from crelle._errors import CrelleValueError, describe
from crelle._plan import Plan
from crelle._transforms import Transform, gradient, hessian, jacobian
from crelle.interop._host import Arguments, Array, Entries, Evaluated, Prepared
from crelle.pattern import SparsityPattern

FORMATS = ("auto", "csr", "csc", "dense")
#: A matrix is dense where it has no more rows and columns than this, or a larger share of entries than that: a dense
#: factorisation then takes less time than what a sparse one takes to begin with.
SMALL, SHARE = 32, 0.25


class Function:
    """x ↦ f(x) for NumPy arrays. See :func:`scipy_fun`."""

    def __init__(self, arguments: Arguments, f: Callable[..., Any]) -> None:
        self._arguments, self.evaluated = arguments, Evaluated(arguments, f)

    def __call__(self, *args: Any) -> Any:
        found = self.evaluated(self._arguments.leaves(args))
        return float(found) if found.ndim == 0 else np.array(found, np.float64)

    def __repr__(self) -> str:
        return self._arguments.what


class Gradient:
    """x ↦ ∇f(x) for NumPy arrays. See :func:`scipy_grad`."""

    def __init__(self, arguments: Arguments, f: Callable[..., Any]) -> None:
        self._arguments = arguments
        self.fun = Function(arguments, f)
        self.fun.evaluated.demand(0, "crelle.interop.scipy_jac for a function with several outputs")
        self._prepared = Prepared(arguments, gradient(f, arguments.argnums))

    def __call__(self, *args: Any) -> Array:
        return np.array(self._prepared.dense(self._arguments.leaves(args)), np.float64)

    def __repr__(self) -> str:
        return self._arguments.what


class Matrix:
    """x ↦ the Jacobian or Hessian of f at x. See :func:`scipy_jac` and :func:`scipy_hess`.

    Attributes:
        format: ``"csr"``, ``"csc"`` or ``"dense"``.
        pattern: where the matrix may be nonzero, as a :class:`crelle.SparsityPattern`.
        fun: f itself for NumPy arrays, as :func:`scipy_fun` makes it.
    """

    def __init__(
        self, kind: str, arguments: Arguments, f: Callable[..., Any], format: str, pattern: Any = None,
        fun: Function | None = None,
    ) -> None:  # fmt: skip
        if format not in FORMATS:
            raise CrelleValueError(
                describe(f"{arguments.what}: format={format!r} is not known", expected=" | ".join(map(repr, FORMATS)))
            )
        self._arguments = arguments
        self.fun = Function(arguments, f) if fun is None else fun
        ask = jacobian if kind == "jacobian" else hessian
        if kind == "jacobian":
            self.fun.evaluated.demand(1, "crelle.interop.scipy_grad for a scalar: SciPy wants its gradient")
        else:
            self.fun.evaluated.demand(0, "scipy_constraint, whose Hessian is that of v·f(x)")
        if format in ("auto", "dense"):
            dense = ask(f, arguments.argnums, pattern=pattern)
            self.pattern: SparsityPattern = dense.pattern(*arguments.example)
            format = "dense" if format == "dense" or _dense_is_cheaper(self.pattern) else "csr"
        self.format = format
        self._transform: Transform
        if format == "dense":
            self._transform = dense
            self._dense = Prepared(arguments, dense)
        else:
            self._transform = ask(f, arguments.argnums, format="triplets", pattern=pattern, flatten=True)
            self._entries = Entries(arguments, self._transform)
            self.pattern = self._entries.pattern

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pattern.shape

    @cached_property
    def sparsity(self) -> Any:
        """Ones where the matrix may be nonzero, a ``scipy.sparse.csr_array``: what ``jac_sparsity=`` takes."""
        return self.pattern.to_scipy().astype(np.int8)

    @property
    def plan(self) -> Plan:
        """How the matrix is computed."""
        return self._transform.plan(*self._arguments.example)

    def __call__(self, *args: Any) -> Any:
        leaves = self._arguments.leaves(args)
        if self.format == "dense":
            return np.array(self._dense.dense(leaves), np.float64)
        return self._matrix(self._entries(leaves))

    def _matrix(self, entries: Array) -> Any:
        """A SciPy array with entries of its own; all share the indices, which cannot be written to."""
        import scipy.sparse as sp

        made: Any
        if self.format == "csr":
            indptr, indices = self.pattern.indptr, self.pattern.indices
            made = sp.csr_array((np.array(entries, np.float64), indices, indptr), shape=self.shape)
        else:
            order, indptr, rows = self._columns
            made = sp.csc_array((entries[order].astype(np.float64, copy=False), rows, indptr), shape=self.shape)
        made.has_canonical_format = True
        return made

    @cached_property
    def _columns(self) -> tuple[Array, Array, Array]:
        """(where the entries are in CSR order, column pointers, rows), column by column."""
        order = np.argsort(self.pattern.indices, kind="stable")
        transposed = self.pattern.T
        return order, transposed.indptr, transposed.indices

    def __repr__(self) -> str:
        return f"{self._arguments.what}: {self.format}, {self.pattern!r}"


def _dense_is_cheaper(pattern: SparsityPattern) -> bool:
    m, n = pattern.shape
    return max(m, n) <= SMALL or pattern.nnz > SHARE * m * n


def scipy_fun(f: Callable[..., Any], *example: Any, argnums: int = 0) -> Function:
    """x ↦ f(x) with NumPy arrays: x is f64[n], the result f64[m], or a float where f returns a scalar.

    Args:
        f: a function of JAX or PyTorch arrays that takes a vector and returns a vector or a scalar.
        *example: the arguments that the solver will pass, at any values: ``x0``, or ``t0, y0``. Floats and arrays of
            floats may change later; whatever else there is, such as a number of steps, may not.
        argnums: which of them is the vector.

    Raises:
        CrelleTypeError: no argument belongs to JAX or PyTorch; x or f(x) is complex.
        CrelleShapeError: x or f(x) has more than one axis; later, an x of another length.

    Cost:
        In JAX f is compiled once, and keeps the values that it captured. In PyTorch it runs without gradients.

    >>> import jax.numpy as jnp, numpy as np
    >>> fun = scipy_fun(lambda x: x[1:] * x[:-1], jnp.ones(3))
    >>> fun(np.array([1.0, 2.0, 3.0]))
    array([2., 6.])
    """
    return Function(Arguments("crelle.interop.scipy_fun", f, example, argnums), f)


def scipy_grad(f: Callable[..., Any], *example: Any, argnums: int = 0) -> Gradient:
    """g[j] = ∂f(x)/∂x[j] as a NumPy array f64[n]: ``jac=`` of ``scipy.optimize.minimize``.

    Args:
        f: a scalar function of a vector.
        *example, argnums: as for :func:`scipy_fun`.

    Raises:
        CrelleShapeError: f returns a vector.

    >>> import jax.numpy as jnp, numpy as np
    >>> grad = scipy_grad(lambda x: jnp.sum(x**2), jnp.ones(2))
    >>> grad(np.array([1.0, 3.0])), grad.fun(np.array([1.0, 3.0]))
    (array([2., 6.]), 10.0)
    """
    return Gradient(Arguments("crelle.interop.scipy_grad", f, example, argnums), f)


def scipy_jac(
    f: Callable[..., Any], *example: Any, argnums: int = 0, format: str = "auto", pattern: Any = None
) -> Matrix:
    """J[i, j] = ∂f(x)[i]/∂x[j] as a SciPy array: ``jac=`` of ``solve_ivp``, ``least_squares`` and ``root``.

    The arrays share their indices, which cannot be written to; each has entries of its own.

    Args:
        f: a vector-valued function of a vector. For ``solve_ivp`` f(t, y), with ``argnums=1``.
        *example, argnums: as for :func:`scipy_fun`.
        format: ``"csr"``, ``"csc"``, ``"dense"``; ``"auto"`` is ``"dense"`` for small or full matrices, else
            ``"csr"``. ``solve_ivp`` works with ``"csc"``; ``root`` and ``least_squares(method="lm")`` need ``"dense"``.
        pattern: where J may be nonzero, if you know.

    Returns:
        A callable with ``.fun`` (f for NumPy arrays), ``.sparsity`` (for ``jac_sparsity=``), ``.pattern``, ``.plan``.

    Raises:
        CrelleTypeError, CrelleShapeError: as :func:`scipy_fun`; and f returns a scalar.

    Cost:
        The products that ``.plan`` counts, and one copy to the host.

    >>> import jax.numpy as jnp, numpy as np
    >>> jac = scipy_jac(lambda x: x[1:] * x[:-1], jnp.ones(3), format="csr")
    >>> jac(np.array([1.0, 2.0, 3.0])).toarray()
    array([[2., 1., 0.],
           [0., 3., 2.]])
    """
    return Matrix("jacobian", Arguments("crelle.interop.scipy_jac", f, example, argnums), f, format, pattern)


def scipy_hess(
    f: Callable[..., Any], *example: Any, argnums: int = 0, format: str = "auto", pattern: Any = None
) -> Matrix:
    """H[i, j] = ∂²f(x)/∂x[i]∂x[j] as a SciPy array, both triangles: ``hess=`` of ``scipy.optimize.minimize``.

    Args:
        f: a scalar function of a vector.
        *example, argnums, format, pattern: as for :func:`scipy_jac`.

    Raises:
        CrelleShapeError: f returns a vector.

    >>> import jax.numpy as jnp, numpy as np
    >>> hess = scipy_hess(lambda x: jnp.sum(x[1:] * x[:-1] ** 2), jnp.ones(3), format="csr")
    >>> hess(np.array([1.0, 2.0, 3.0])).toarray()
    array([[4., 2., 0.],
           [2., 6., 4.],
           [0., 4., 0.]])
    """
    return Matrix("hessian", Arguments("crelle.interop.scipy_hess", f, example, argnums), f, format, pattern)


def scipy_constraint(
    c: Callable[..., Any], x0: Any, lb: Any, ub: Any, *, keep_feasible: Any = False, format: str = "auto"
) -> Any:
    """lb ≤ c(x) ≤ ub as a ``scipy.optimize.NonlinearConstraint``, with J and the Hessian of v·c(x).

    Args:
        c: a vector-valued function of a vector.
        x0: an example of x.
        lb, ub, keep_feasible: as for ``NonlinearConstraint``.
        format: of both matrices, as for :func:`scipy_jac`.

    Raises:
        CrelleTypeError, CrelleShapeError: as :func:`scipy_jac`.

    >>> import jax.numpy as jnp, numpy as np
    >>> ball = scipy_constraint(lambda x: jnp.sum(x**2, keepdims=True), jnp.ones(2), 0, 1)
    >>> ball.jac(np.array([1.0, 2.0])), ball.hess(np.array([1.0, 2.0]), np.array([3.0]))
    (array([[2., 4.]]), array([[6., 0.],
           [0., 6.]]))
    """
    from scipy.optimize import NonlinearConstraint

    jac = Matrix("jacobian", Arguments("crelle.interop.scipy_constraint", c, (x0,), 0), c, format)
    weighted = weighted_sum(c)
    arguments = Arguments("crelle.interop.scipy_constraint", weighted, (x0, np.ones(jac.shape[0])), 0)
    hess = Matrix("hessian", arguments, weighted, format)
    return NonlinearConstraint(jac.fun, lb, ub, jac=jac, hess=hess, keep_feasible=keep_feasible)


def weighted_sum(c: Callable[..., Any]) -> Callable[..., Any]:
    """(x, v) ↦ v·c(x)."""

    def product(x: Any, v: Any) -> Any:
        return (v * c(x)).sum()

    product.__name__ = f"v·{function_name(c)}"
    return product
