"""Callbacks for IPOPT and solvers like it: fixed structures, and values in that order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from crelle._transforms import gradient, hessian, jacobian
from crelle.interop._host import Arguments, Array, Entries, Evaluated, Prepared


class Callbacks:
    """min f(x) subject to bounds on g(x), by the names that ``cyipopt`` calls. See :func:`ipopt_callbacks`.

    Attributes:
        n, m: variables and constraints.
    """

    def __init__(self, f: Callable[..., Any], g: Callable[..., Any] | None, x0: Any) -> None:
        what = "crelle.interop.ipopt_callbacks"
        self._x = Arguments(what, f, (x0,), 0)
        self._f = Evaluated(self._x, f)
        self._f.demand(0, "f is the objective, and g the constraints: ipopt_callbacks(f, g, x0)")
        self._gradient = Prepared(self._x, gradient(f))
        self.n, self.m = self._x.size, 0
        self._g: Evaluated | None = None
        self._jacobian: Entries | None = None
        if g is not None:
            of_g = Arguments(what, g, (x0,), 0)
            self._g = Evaluated(of_g, g)
            self._g.demand(1, "g(x).reshape(1), or None if there are no constraints")
            self._jacobian = Entries(of_g, jacobian(g, format="triplets", flatten=True))
            self.m = self._jacobian.pattern.shape[0]

        def lagrangian(x: Any, multipliers: Any, factor: Any) -> Any:
            value = factor * f(x)
            return value if g is None else value + (multipliers * g(x)).sum()

        self._of_lagrangian = Arguments(what, lagrangian, (x0, np.ones(self.m), 1.0), 0)
        self._hessian = Entries(self._of_lagrangian, hessian(lagrangian, format="triplets", part="lower", flatten=True))

    def objective(self, x: Any) -> float:
        """f(x)."""
        return float(self._f(self._x.leaves((x,))))

    def gradient(self, x: Any) -> Array:
        """∇f(x), f64[n]."""
        return np.asarray(self._gradient.dense(self._x.leaves((x,))), np.float64)

    def constraints(self, x: Any) -> Array:
        """g(x), f64[m]."""
        if self._g is None:
            return np.zeros(0)
        return np.asarray(self._g(self._x.leaves((x,))), np.float64)

    def jacobianstructure(self) -> tuple[Array, Array]:
        """Rows and columns of the entries of ∂g/∂x."""
        return _places(self._jacobian)

    def jacobian(self, x: Any) -> Array:
        """The entries of ∂g/∂x at x, in the order of the structure."""
        if self._jacobian is None:
            return np.zeros(0)
        return np.asarray(self._jacobian(self._x.leaves((x,))), np.float64)

    def hessianstructure(self) -> tuple[Array, Array]:
        """Rows and columns of the entries of the lower triangle of the Hessian of the Lagrangian."""
        return _places(self._hessian)

    def hessian(self, x: Any, lagrange: Any, obj_factor: float) -> Array:
        """The entries of the lower triangle of ∇²(obj_factor·f + lagrange·g) at x, in the order of the structure."""
        leaves = self._of_lagrangian.leaves((x, lagrange, float(obj_factor)))
        return np.asarray(self._hessian(leaves), np.float64)

    def __repr__(self) -> str:
        entries = 0 if self._jacobian is None else self._jacobian.pattern.nnz
        return (
            f"{self._x.what}: {self.n:,} variables, {self.m:,} constraints, {entries:,} entries of the Jacobian, "
            f"{self._hessian.pattern.nnz:,} of the lower Hessian"
        )


def _places(entries: Entries | None) -> tuple[Array, Array]:
    if entries is None:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    return entries.pattern.rows, entries.pattern.cols


def ipopt_callbacks(f: Callable[..., Any], g: Callable[..., Any] | None, x0: Any) -> Callbacks:
    """min f(x) with bounds on x and g(x): what ``cyipopt.Problem(problem_obj=...)`` calls, with sparse derivatives.

    It has ``objective``, ``gradient``, ``constraints``, ``jacobianstructure``, ``jacobian``, ``hessianstructure`` (the
    lower triangle) and ``hessian(x, lagrange, obj_factor)``. Structures are the same at every point. What is returned
    may be memory that cannot be written to: IPOPT copies it.

    Args:
        f: the objective, a scalar function of a vector, in JAX or PyTorch.
        g: the constraints, a vector-valued function, or ``None``.
        x0: an example of x, [n].

    Raises:
        CrelleTypeError, CrelleShapeError: as :func:`scipy_jac`; f returns a vector or g a scalar.

    Cost:
        Each callback takes the products of its own coloured matrix; the Hessian of the Lagrangian is one matrix,
        coloured as a symmetric one.

    >>> import jax.numpy as jnp, numpy as np
    >>> nlp = ipopt_callbacks(lambda x: x[0] * x[2], lambda x: x[1:] * x[:-1], jnp.ones(3))
    >>> nlp.jacobianstructure()[1], nlp.jacobian(np.array([1.0, 2.0, 3.0]))
    (array([0, 1, 1, 2], dtype=int32), array([2., 1., 3., 2.]...))
    """
    return Callbacks(f, g, x0)
