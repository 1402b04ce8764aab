"""What an operator can be asked: its methods that estimate or solve. Each hands over to the module that knows how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crelle.operators._spectral_questions import SpectralQuestions

if TYPE_CHECKING:
    from crelle.estimators._diagonal import VectorEstimate
    from crelle.estimators._estimate import Estimate
    from crelle.estimators._logdet import LogDeterminant
    from crelle.operators.solve import InverseOperator, Solution


class Questions(SpectralQuestions):
    """The questions, as methods of :class:`crelle.operators.Operator`."""

    def slogdet(
        self: Any,
        method: str = "auto",
        *,
        probes: int | None = None,
        steps: int | None = None,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> LogDeterminant:
        """(s, l) with det A = s · exp(l), of a square A: exact where that is cheap, estimated with an error where not.

        Args:
            method: ``"auto"``: the first of these that takes few products.

                - ``"structure"``: of the Jacobian of a flow by :func:`crelle.slogdet`, of a large sparse Hessian by
                  sparse LU, of products, multiples and transposes of such from their parts.
                - ``"cholesky"``, ``"lu"``: of the dense matrix, n products. ``"exact"``: by structure, or one of these.
                - ``"lanczos"``: stochastic Lanczos quadrature of the logarithm, for large symmetric A. For an A that is
                  not symmetric, half of log det AᵀA, and the sign is ``None``.
                - ``"series"``: log det(I + G) for ‖G‖ < 1 without bias, as residual flows need it: a power series that
                  is ended at random.
            probes: random vectors; 10 (20 for the series), or as many as ``rtol`` takes.
            steps: Lanczos steps; as many as bring their error below that of sampling, at most 200, if left out.
            rtol: stop at this relative standard error.
            budget: products at most.
            seed, key, generator: of the random numbers; seed 0 if left out.

        Returns:
            A :class:`crelle.LogDeterminant`; ``sign, logabsdet = A.slogdet()`` unpacks it.

        Raises:
            CrelleShapeError: A is not square.
            CrelleTypeError, CrelleValueError: the method does not fit the matrix; a product is not finite.

        Source:
            Ubaru, Chen and Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, 2017; Chen, Behrmann,
            Duvenaud and Jacobsen, *Residual Flows for Invertible Generative Modeling*, 2019.

        >>> import numpy as np, crelle
        >>> sign, log = crelle.operator(np.array([[2.0, 1.0], [0.0, -3.0]])).slogdet()
        >>> print(sign, round(log, 6))
        -1.0 1.791759
        """
        from crelle.estimators._logdet import slogdet

        return slogdet(self, method, probes, steps, rtol, budget, seed, key, generator)

    def solve(
        self: Any,
        b: Any,
        method: str = "auto",
        *,
        rtol: float | None = None,
        budget: int | None = None,
        x0: Any = None,
        preconditioner: Any = None,
        damping: float = 0.0,
        throw: bool = True,
    ) -> Solution:
        """A x = b; for a rectangular A, or with damping λ: x that minimises ‖A x - b‖² + λ ‖x‖², the smallest of them.

        Args:
            b: flat ``[m]``, a block ``[m, k]`` of k right-hand sides, or a tree like the output; x has the same form.
            method: ``"auto"``: the first that fits of ``"dense"`` (up to 128 unknowns, or 2,048 of a matrix that is
                there: Cholesky, LU, singular values), ``"lsmr"`` (rectangular, or with damping), ``"cg"`` (known to be
                positive semidefinite), ``"minres"`` (symmetric), ``"gmres"`` (50 vectors kept between restarts).
            rtol: ‖b - A x‖ ≤ rtol ‖b‖, computed anew at the end; for least squares ‖Aᵀr - λ x‖ ≤ rtol ‖A‖ ‖r‖ will do.
                1e-8 if left out, 1e-5 below double precision.
            budget: products with A and Aᵀ, of all columns together; 10 for each unknown if left out, 10,000 at most.
            x0: where to start; zero if left out.
            preconditioner: M, about A⁻¹, for ``cg``, ``minres`` and ``gmres``: ``"jacobi"`` (one over
                ``A.diagonal()``, exact or estimated from 100 products), ``"block"`` (inverses of the blocks between
                each leaf and itself: n products, at most 1 GB), an array with the diagonal of A, or an operator.
            damping: λ of least squares. For (A + λI) x = b solve with ``A.shifted(λ)``.
            throw: raise if it fails; with ``False``, look at ``converged``.

        Returns:
            A :class:`crelle.Solution`. Its ``value`` is differentiable with respect to b, in reverse mode in PyTorch;
            inside ``jax.jit``, ``grad`` and ``vmap`` it is differentiable with respect to A, too, for square A.

        Raises:
            CrelleSolveError: no convergence; a matrix that is not what the method needs; NaN in a product.
            CrelleShapeError, CrelleTypeError, CrelleValueError: b is no vector of A; arguments that do not fit.

        Cost:
            A product a step and right-hand side (two for LSMR), and one for the final residual. Scalars stay on the
            device; numbers are looked at every 4 steps, on a CPU at every step.

        Source:
            Hestenes and Stiefel, *J. Res. Nat. Bur. Standards* 49, 1952 (CG); Paige and Saunders, *SIAM J. Numer.
            Anal.* 12, 1975 (MINRES); Saad and Schultz, *SIAM J. Sci. Stat. Comput.* 7, 1986 (GMRES); Fong and Saunders,
            *SIAM J. Sci. Comput.* 33, 2011 (LSMR).

        >>> import numpy as np, crelle
        >>> A = crelle.operator(np.array([[2.0, 1.0], [1.0, 3.0]]), psd=True)
        >>> found = A.solve(np.array([3.0, 4.0]), method="cg")
        >>> found.value.round(6), found.products
        (array([1., 1.]), 3)
        """
        from crelle.operators.solve import solve

        return solve(self, b, x0, method=method, rtol=rtol, budget=budget, preconditioner=preconditioner,
                     damping=damping, throw=throw)  # fmt: skip

    def inverse(
        self: Any,
        method: str = "auto",
        *,
        rtol: float | None = None,
        budget: int | None = None,
        preconditioner: Any = None,
        damping: float = 0.0,
        throw: bool = True,
    ) -> InverseOperator:
        """A⁻¹ as an operator: ``A.inverse() @ b`` solves A x = b, ``A.inverse().T @ u`` solves Aᵀ x = u.

        For a rectangular A it is the pseudoinverse, A⁺; with damping λ it is (AᵀA + λI)⁻¹ Aᵀ. It is symmetric, or
        positive semidefinite, where A is. Factors and preconditioners are made once. Arguments are those of
        :meth:`solve`; the budget is that of each product.

        Raises:
            CrelleSolveError: at a product that fails.

        >>> import numpy as np, crelle
        >>> A = crelle.operator(np.array([[2.0, 1.0], [1.0, 3.0]]))
        >>> A.inverse() @ np.array([3.0, 4.0])
        array([1., 1.])
        """
        from crelle.operators.solve import InverseOperator

        return InverseOperator(self, method=method, rtol=rtol, budget=budget, preconditioner=preconditioner,
                               damping=damping, throw=throw)  # fmt: skip

    def trace(
        self: Any,
        method: str = "auto",
        *,
        rtol: float | None = 0.01,
        budget: int | None = 100,
        control: Any = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> Estimate:
        """tr A = Σ_i A[i, i] of a square matrix, with its standard error; exact where that is cheap.

        Args:
            method: ``"exact"`` (n products); estimates from random vectors: ``"hutchinson"`` (signs: the least work,
                and no product is kept), ``"hutch++"``, ``"xtrace"``, ``"xnystrace"`` (positive semidefinite matrices):
                better where few directions hold most of the matrix, from about 200 products on for Hessians of
                networks. ``"auto"`` is exact where the structure of a Jacobian or Hessian, a Gauss-Newton matrix or
                the size allows it within the budget; else it begins with Hutchinson, and lets XTrace go on from the
                same products if they turn out to span most of ‖A‖².
            rtol: stop when the standard error is below this share of the value; looked at after 24 probes and then
                now and again. ``None``: use up the budget.
            budget: products at most; ``None``: n.
            control: a matrix G whose trace is known and that is close to A: ``crelle.ggn(model, loss).at(...)`` for
                the Hessian of the same loss, or ``(G, trace)``. Then tr G + E zᵀ(A - G)z is estimated, if four probes
                show that it varies less. For the Hessian of a ``crelle.objective`` it is found by ``"auto"``, which
                uses no samples at all where the model is affine in each parameter by itself (ReLU networks): then
                tr A = tr G, from one pass for each output. ``False``: do without.
            seed, key, generator: of the random numbers; seed 0 if left out. The same seed gives the same value.

        Returns:
            An :class:`crelle.Estimate`. An interrupted estimate is what was known by then.

        Raises:
            CrelleShapeError: A is not square.
            CrelleTypeError: A is complex; ``"xnystrace"`` of a matrix that is not known to be positive semidefinite.
            CrelleValueError: NaN in a product; no such method; a budget that is too small for it.

        Cost:
            Products up to the budget. Vectors of n numbers that are kept: none by Hutchinson; 3/2 of the budget by
            XTrace, two of XNysTrace for each product, 2/3 of the budget by Hutch++ (M. F. Hutchinson, *A stochastic
            estimator of the trace of the influence matrix*, Comm. Stat. Simul. 18, 1989; Meyer, Musco, Musco and
            Woodruff, *Hutch++*, SOSA 2021; Epperly, Tropp and Webber, *XTrace*, SIAM J. Matrix Anal. Appl. 45, 2024).

        >>> import numpy as np
        >>> import crelle
        >>> A = crelle.operator(np.diag(np.arange(1.0, 501.0)) + 0.1, symmetric=True)
        >>> float(A.trace("exact", budget=None).value)
        125300.0
        >>> print(A.trace("hutchinson", seed=1))
        125308 ± 15  (Hutchinson, 24 products)
        """
        from crelle.estimators._trace import trace

        return trace(self, method, rtol, budget, control, seed, key, generator)

    def diagonal(
        self: Any,
        method: str = "auto",
        *,
        rtol: float | None = 0.01,
        budget: int | None = 100,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> VectorEstimate:
        """d[i] = A[i, i] of a square matrix, each entry with its standard error; exact where that is cheap.

        Args:
            method: ``"exact"`` (by coloured products where the structure is known, else n products); estimates from
                random signs: ``"hutchinson"`` (the mean of z ∘ A z), ``"xdiag"`` (less what the products span; takes
                products with Aᵀ). ``"auto"`` is exact within the budget, else Hutchinson.
            rtol: stop when ‖stderr‖ is below this share of ‖value‖; ``None``: use up the budget.
            budget: products at most; ``None``: n.
            seed, key, generator: of the random numbers; seed 0 if left out.

        Returns:
            A :class:`crelle.VectorEstimate`: ``value`` [n], ``stderr`` [n], ``tree``.

        Raises:
            CrelleShapeError: A is not square.
            CrelleTypeError: A is complex.
            CrelleValueError: NaN in a product; no such method.

        Cost:
            Products up to the budget. Sources: C. Bekas, E. Kokiopoulou, Y. Saad, *An estimator for the diagonal of a
            matrix*, Appl. Numer. Math. 57, 2007; Epperly, Tropp and Webber 2024 (XDiag).

        >>> import numpy as np
        >>> import crelle
        >>> A = crelle.operator(np.array([[2.0, 1.0], [1.0, 3.0]]))
        >>> A.diagonal().value
        array([2., 3.])
        """
        from crelle.estimators._diagonal import diagonal

        return diagonal(self, method, rtol, budget, seed, key, generator)

    def frobenius_norm(
        self: Any,
        *,
        rtol: float | None = 0.01,
        budget: int | None = 100,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> Estimate:
        """‖A‖_F = (Σ_ij A[i, j]²)^½, from E‖A z‖² for random signs z; exact where that takes no more than the budget.

        Args:
            rtol: stop when the standard error is below this share of the value; ``None``: use up the budget.
            budget: products at most; ``None``: min(m, n), and exact.
            seed, key, generator: of the random numbers; seed 0 if left out.

        Raises:
            CrelleTypeError: A is complex.
            CrelleValueError: NaN in a product.

        Cost:
            Products up to the budget; no vectors are kept.

        >>> import numpy as np
        >>> import crelle
        >>> float(crelle.operator(np.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])).frobenius_norm())
        5.0
        """
        from crelle.estimators._frobenius import frobenius_norm

        return frobenius_norm(self, rtol, budget, seed, key, generator)

    def row_norms(
        self: Any,
        *,
        rtol: float | None = 0.01,
        budget: int | None = 100,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> VectorEstimate:
        """r[i] = ‖A[i, :]‖₂ for every row, from E (A z)_i² for random signs z; exact where that is cheap.

        Args:
            rtol: stop when ‖stderr‖ is below this share of ‖value‖; ``None``: use up the budget.
            budget: products at most; ``None``: n, and exact.
            seed, key, generator: of the random numbers; seed 0 if left out.

        Returns:
            A :class:`crelle.VectorEstimate`: ``value`` [m], ``stderr`` [m], ``tree`` like the outputs.

        Raises:
            CrelleTypeError: A is complex.
            CrelleValueError: NaN in a product.

        Cost:
            Products up to the budget. After k probes the relative error is about (2k)^-½: 7 % after 100.

        >>> import numpy as np
        >>> import crelle
        >>> crelle.operator(np.array([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])).row_norms().value
        array([5., 1., 0.])
        """
        from crelle.estimators._frobenius import line_norms

        return line_norms(self, "row_norms", rtol, budget, seed, key, generator)

    def col_norms(
        self: Any,
        *,
        rtol: float | None = 0.01,
        budget: int | None = 100,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> VectorEstimate:
        """c[j] = ‖A[:, j]‖₂ for every column: :meth:`row_norms` of Aᵀ."""
        from crelle.estimators._frobenius import line_norms

        return line_norms(self.T, "col_norms", rtol, budget, seed, key, generator)
