"""A x = b: which method, how exact, and what is said when it fails."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle._errors import CrelleShapeError, CrelleSolveError, CrelleTypeError, CrelleValueError, describe
from crelle.estimators._estimate import verify_limits
from crelle.estimators._progress import Progress
from crelle.operators._matrix import MatrixOperator
from crelle.operators._operator import Operator
from crelle.operators._symmetry import verify_symmetry
from crelle.operators._vectors import vectors_of
from crelle.operators.solve._cg import ConjugateGradients
from crelle.operators.solve._dense import Factorised, Singular
from crelle.operators.solve._failure import failure
from crelle.operators.solve._gmres import GeneralMinimalResiduals
from crelle.operators.solve._lsmr import LeastSquares
from crelle.operators.solve._minres import MinimalResiduals
from crelle.operators.solve._precondition import Preconditioner, preconditioner_of, transposed_of
from crelle.operators.solve._rounds import Method, NonFinite, Outcome, Recurrence, Stepped, Watch, solved
from crelle.operators.solve._solution import Solution
from crelle.operators.solve._system import System, Traced

#: ``method="auto"`` forms the matrix up to this size; and up to the second one where it is there already.
SMALL, SMALL_MATRIX = 128, 2048
#: The default accuracy, and that for less than double precision.
RTOL, RTOL_SINGLE = 1e-8, 1e-5
#: The default budget: products per unknown, and at most, for each right-hand side.
_PER_UNKNOWN, _MOST = 10, 10_000
#: Steps between tests where a test waits for the device.
_EVERY = 4

RECURRENCES: dict[str, Callable[[], Recurrence]] = {
    "cg": ConjugateGradients,
    "minres": MinimalResiduals,
    "lsmr": LeastSquares,
}
METHODS = ("auto", "cg", "minres", "gmres", "lsmr", "dense")


class Solver:
    """Systems with one matrix.

    Attributes:
        operator: A.
        method: the one that was chosen.
        given: the preconditioner, as the user gave it.
        rtol: how exact.
        products: with A and Aᵀ, so far.
        what: how messages call it.
    """

    def __init__(
        self,
        operator: Operator,
        *,
        method: str,
        rtol: float | None,
        budget: int | None,
        preconditioner: Any,
        damping: float,
        throw: bool,
        what: str = "solve",
    ) -> None:
        self.operator, self.what, self.throw = operator, f"{operator!r}.{what}", throw
        verify_limits(operator, what, rtol, budget)
        self.damping = self._damping(damping, method)
        self.method = self._method(method)
        double = operator.dtype in ("float64", "complex128")
        self.rtol = rtol if rtol is not None else RTOL if double else RTOL_SINGLE
        self._budget, self.given = budget, preconditioner
        self._preconditioner: Preconditioner | None = None
        self._factors: Factorised | None = None
        self._is_prepared = False
        self.products = 0

    # -- choices

    def _damping(self, damping: float, method: str) -> float:
        if not damping >= 0:
            raise CrelleValueError(describe(f"{self.what}: damping={damping!r}", expected="0 or more"))
        if damping and method not in ("auto", "lsmr", "dense"):
            raise CrelleValueError(
                describe(
                    f"{self.what}: damping={damping!r} with method={method!r}",
                    expected="method='lsmr', which minimises ‖A x - b‖² + damping ‖x‖²",
                    try_=f"A.shifted({damping!r}).solve(b) for (A + {damping!r} I) x = b",
                )
            )
        return float(damping)

    def _method(self, method: str) -> str:
        a, (m, n) = self.operator, self.operator.shape
        if method not in METHODS:
            raise CrelleValueError(describe(f"{self.what}: method={method!r}", expected=", ".join(map(repr, METHODS))))
        is_complex = a.dtype.startswith("complex") or a.domain.dtype.startswith("complex")
        if is_complex and method not in ("auto", "dense"):
            raise CrelleTypeError(
                describe(f"{self.what}: method={method!r} is for real matrices, and this is complex",
                         try_="method='dense'")
            )  # fmt: skip
        if method == "auto":
            there = isinstance(a, MatrixOperator) or isinstance(getattr(a, "of", None), MatrixOperator)
            if max(m, n) <= (SMALL_MATRIX if there else SMALL) or is_complex:
                return "dense"
            if m != n or self.damping:
                return "lsmr"
            return "cg" if "psd" in a.tags else "minres" if a.is_symmetric else "gmres"
        if method in ("cg", "minres", "gmres") and m != n:
            raise CrelleShapeError(
                describe(f"{self.what}: method={method!r} needs a square matrix, and this is {m:,} × {n:,}",
                         try_="method='lsmr' for least squares")
            )  # fmt: skip
        if method in ("cg", "minres") and not a.is_symmetric:
            raise CrelleTypeError(
                describe(
                    f"{self.what}: method={method!r} needs a symmetric matrix, and this is not known to be one",
                    try_="method='gmres'; or crelle.operator(A, symmetric=True) if you know that it is",
                )
            )
        return method

    def _prepare(self) -> None:
        """The preconditioner and the factors, once."""
        if self._is_prepared:
            return
        if self.method == "dense":
            self._factors = Factorised(self.operator, self.damping)
            if not isinstance(self.operator, MatrixOperator):
                self.products += min(self.operator.shape)
        elif self.given is not None and self.method == "lsmr":
            raise CrelleValueError(
                describe(f"{self.what}: no preconditioner= for least squares",
                         try_="scale the unknowns; or A.gram().shifted(damping) with method='cg'")
            )  # fmt: skip
        else:
            if self.method in ("cg", "minres"):
                before = self.operator._symmetry_verified
                verify_symmetry(self.operator, self.what.rpartition(".")[2])
                self.products += 2 * (self.operator._symmetry_verified - before)
            self._preconditioner = preconditioner_of(self.operator, self.given, self.what, self.method)
            self.products += 0 if self._preconditioner is None else self._preconditioner.products
        self._is_prepared = True

    # -- solving

    def transposed(self) -> Solver:
        """The solver for Aᵀ."""
        a = self.operator
        if a.is_symmetric:
            return self
        made = transposed_of(a, self._preconditioner or self.given, self.what, self.method)
        return Solver(a.T, method=self.method, rtol=self.rtol, budget=self._budget, preconditioner=made,
                      damping=self.damping, throw=self.throw)  # fmt: skip

    def differentiable(self, b: Any, transposed: Callable[[], Solver]) -> Any:
        """The solutions alone, for each row of b."""
        return self.solve(b, None, transposed)[0]

    def solve(self, b: Any, x0: Any, transposed: Callable[[], Solver]) -> tuple[Any, dict[str, Any]]:
        """x for each row of b, differentiable with respect to b; and the other fields of :class:`Solution`.

        Raises:
            CrelleSolveError: it failed, and ``throw``.
        """
        vectors = vectors_of(self.operator.backend)
        try:
            if vectors.is_traced(b) or (x0 is not None and vectors.is_traced(x0)):
                raise Traced
            said: dict[str, Any] = {}

            def apply(block: Any) -> Any:
                x, fields = self._on_host(block, x0)
                said.update(fields)
                return x

            return vectors.linear(apply, lambda u: transposed().differentiable(u, lambda: self), b), said
        except Traced:
            return self._traced(b, x0)

    def _on_host(self, b: Any, x0: Any) -> tuple[Any, dict[str, Any]]:
        before = self.products
        if not np.isfinite(np.asarray(self.operator.backend.to_host(abs(b).sum(1)), float)).all():
            raise CrelleValueError(describe(f"{self.what}: b holds NaN or infinity", expected="finite numbers"))
        result = self._outcome(b, x0)
        shown = result.optimality[~np.isnan(result.optimality)]
        fields: dict[str, Any] = {
            "residual": float(np.max(result.residual, initial=0.0)),
            "residuals": result.residual,
            "optimality": float(np.max(shown)) if len(shown) else float("nan"),
            "products": self.products - before,
            "converged": bool(result.converged.all()) and not result.partial,
            "method": self.method,
            "partial": result.partial,
            "notes": (*result.notes, *(self._preconditioner.notes if self._preconditioner else ())),
        }
        if not fields["converged"] and not result.partial:
            text = failure(self, result, fields["products"])
            if self.throw:
                raise CrelleSolveError(text) from None
            fields["notes"] = (*fields["notes"], text.partition("\n")[0].rpartition(": ")[2])
        return result.x, fields

    def _outcome(self, b: Any, x0: Any) -> Outcome:
        backend, n = self.operator.backend, self.operator.shape[1]
        vectors = vectors_of(backend)
        k = len(b)
        like = vectors.empty(self.operator.domain)
        try:
            self._prepare()
        except NonFinite as error:
            none = np.full(k, np.nan)
            no = np.zeros(k, bool)
            self.products += error.products
            return Outcome(vectors.zeros(k, n, like), none, none, no, no, no, nonfinite=error.products)
        if self._factors is not None:
            return self._dense(self._factors, b, like)
        apply = None if self._preconditioner is None else self._preconditioner.apply
        system = System.of(self.operator, apply, self.damping)
        method: Method = GeneralMinimalResiduals() if self.method == "gmres" else Stepped(RECURRENCES[self.method]())
        budget = self.budget(k)
        with Progress(self.method, budget) as progress:
            watch = Watch(
                to_host=backend.to_host,
                every=1 if self.operator.device.partition(":")[0] in ("cpu", "") else _EVERY,
                budget=budget,
                epsilon=_epsilon(self.operator.dtype),
                dtype=self.operator.domain.dtype,
                show=lambda size: progress.to(system.products, f"‖r‖ {np.max(size):.1e}"),
            )
            x = vectors.zeros(k, n, like) if x0 is None else x0
            right = system.right_side(b, n)
            try:
                return solved(method, system, right, x, x0 is not None, self.rtol, watch)
            finally:
                self.products += system.products

    def budget(self, rows: int) -> int:
        """Products for this number of right-hand sides."""
        unknowns = min(self.operator.shape)
        return self._budget if self._budget is not None else rows * min(max(_PER_UNKNOWN * unknowns, 100), _MOST)

    def _dense(self, factors: Factorised, b: Any, like: Any) -> Outcome:
        host = np.asarray(self.operator.backend.to_host(b)).astype(factors.matrix.dtype)
        k, no = len(host), np.zeros(len(host), bool)
        size = np.linalg.norm(host, axis=1)
        try:
            x = factors.solve(host)
        except Singular:
            residual = np.where(size > 0, 1.0, 0.0)
            zeros = vectors_of(self.operator.backend).zeros(k, self.operator.shape[1], like)
            return Outcome(zeros, residual, np.full(k, np.nan), size == 0, no, ~no)
        r = factors.residual(x, host)
        residual = np.linalg.norm(r, axis=1) / np.where(size == 0, 1, size)
        optimality = np.full(k, np.nan)
        least = factors.how == "least squares"
        if least:
            optimality = factors.optimality(x, r)
        converged = residual <= self.rtol
        if least:
            small = optimality <= max(self.rtol, 100 * np.finfo(x.dtype).eps)
            converged = small if self.damping else converged | small
            optimality[(residual <= self.rtol) & (not self.damping)] = np.nan
        made = vectors_of(self.operator.backend).from_host(x, like)
        return Outcome(made, residual, optimality, converged, no, ~converged, notes=[factors.how])

    def _traced(self, b: Any, x0: Any) -> tuple[Any, dict[str, Any]]:
        module = importlib.import_module(f"crelle.backends.{self.operator.backend.name}.solve")
        if isinstance(self.given, str) or (self.given is not None and self.method == "lsmr"):
            raise CrelleTypeError(
                describe(f"{self.what}: preconditioner={self.given!r} looks at numbers, and there are none here",
                         likely="this is inside jax.jit, grad or vmap",
                         try_="an operator or an array as preconditioner=, made outside")
            )  # fmt: skip
        found: tuple[Any, dict[str, Any]] = module.traced_solve(self, b, x0)
        return found


def _epsilon(dtype: str) -> float:
    return {"float64": 2.3e-16, "float32": 1.2e-7, "float16": 1e-3, "bfloat16": 8e-3}.get(dtype, 2.3e-16)


def solve(operator: Operator, b: Any, x0: Any, **settings: Any) -> Solution:
    """See :meth:`crelle.operators.Operator.solve`."""
    solver = Solver(operator, **settings)
    form, leaves = operator.codomain.enter(b, lambda: f"{operator!r}.solve(b)")
    block = operator.codomain.block(form, leaves)
    start = None
    if x0 is not None:
        start = operator.domain.block(*operator.domain.enter(x0, lambda: f"{operator!r}.solve(x0=)"))
    if start is not None and len(start) != len(block):
        raise CrelleShapeError(
            describe(f"{operator!r}.solve: x0= holds {len(start)} vectors, and b holds {len(block)}",
                     expected=str(ArrayType(operator.domain.dtype, (operator.shape[1], len(block)))))
        )  # fmt: skip
    x, fields = solver.solve(block, start, solver.transposed)
    return Solution(value=operator.domain.formed(form, x), **fields)
