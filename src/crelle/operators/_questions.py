"""What an operator can be asked: its methods that estimate or solve. Each hands over to the module that knows how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crelle.estimators._curvature import Curvature
    from crelle.estimators._density import SpectralDensity
    from crelle.estimators._diagonal import VectorEstimate
    from crelle.estimators._eigenpairs import Eigenpairs
    from crelle.estimators._estimate import Estimate
    from crelle.estimators._inertia import Inertia
    from crelle.estimators._logdet import LogDeterminant
    from crelle.estimators._singular import SingularTriplets
    from crelle.operators.solve import InverseOperator, Solution


class Questions:
    """The questions, as methods of :class:`crelle.operators.Operator`."""

    def eigsh(
        self: Any,
        k: int = 6,
        which: str = "LM",
        *,
        rtol: float | None = None,
        budget: int | None = None,
        vectors: bool = True,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> Eigenpairs:
        """A v = λ v: k eigenvalues of a symmetric A with their vectors, each with its residual.

        Lanczos with full reorthogonalisation, restarted thickly where memory ends. When all k have converged, a few
        products with a new random vector, orthogonal to all that was found, look for eigenvalues that were missed:
        those whose vectors the first one hardly met, and further vectors of a multiple eigenvalue. What they find is
        pursued, and the look repeated. Up to 200 rows, or 3 k, the matrix is made dense, and everything is exact.

        Args:
            k: how many; 0 to n.
            which: ``"LM"`` the largest in size, ``"LA"`` the largest, ``"SA"`` the smallest, ``"BE"`` half from each
                end, ``"SM"`` the smallest in size, of a small or a positive semidefinite A.
            rtol: stop when ‖A v - λ v‖ ≤ rtol·|λ| for each pair; 3e-4 if left out. The error of λ is at most the
                residual, and about its square divided by the gap to the next eigenvalue. A smaller one also makes it
                less likely that an eigenvalue is missed among close neighbours (1 of 40 seeds where they lie evenly).
            budget: products at most; 2,000 or 100 k if left out. ``converged`` says which pairs are done by then.
            vectors: whether to keep the eigenvectors.
            seed, key, generator: of the random vectors; seed 0 if left out.

        Returns:
            :class:`crelle.Eigenpairs`: ``print`` it; ``.values``, ``.residuals``, ``.vectors`` as trees, ``.matrix``
            [n, k], ``.plot()``, ``.mass_by_leaf()``, ``.plot_mass()``.

        Raises:
            CrelleTypeError: A is not known to be symmetric, or ``"SM"`` is out of reach.
            CrelleCheckError: A is said to be symmetric, and is not.
            CrelleValueError: a product is not finite; k or which mean nothing.

        Cost:
            About 3 k to 5 k products for networks, 8 of them to look for others; memory for as many vectors.

        Source:
            Lanczos, 1950; Wu and Simon, *Thick-restart Lanczos method*, SIAM J. Matrix Anal. 22, 2000.

        >>> import numpy as np, crelle
        >>> A = crelle.operator(np.diag([4.0, -5.0, 0.0, 1.0]), symmetric=True)
        >>> print(A.eigsh(2))
        2 eigenvalues, largest in size  (dense, 4 products)
          #  eigenvalue  residual
          1          -5   0.0e+00
          2           4   0.0e+00
        """
        from crelle.estimators._eigenpairs import eigsh

        return eigsh(self, k, which, rtol, budget, seed, key, generator, vectors)

    def svds(
        self: Any,
        k: int = 6,
        *,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> SingularTriplets:
        """A v = σ u, Aᵀ u = σ v: the k largest singular values of A [m, n] with their vectors, each with its residual.

        Golub-Kahan-Lanczos bidiagonalisation with full reorthogonalisation, restarted thickly where memory ends, and
        a look for what was missed, as in :meth:`eigsh`. AᵀA is not formed, so that values keep the precision of A. Up
        to 200 rows or columns, or 3 k, the matrix is made dense, and everything is exact.

        Args:
            k: how many; 0 to min(m, n).
            rtol: stop when the residual of each is at most rtol·σ; 3e-4 if left out.
            budget: products with A and Aᵀ at most; 2,000 or 100 k if left out.
            seed, key, generator: of the random vectors; seed 0 if left out.

        Returns:
            :class:`crelle.SingularTriplets`: ``print`` it; ``.values``, ``.residuals``, ``.left_vectors`` and
            ``.right_vectors`` as trees, ``.left`` [m, k], ``.right`` [n, k], ``.plot()``.

        Raises:
            CrelleValueError: a product is not finite; k means nothing.

        Source:
            Golub and Kahan, 1965; Baglama and Reichel, *Augmented implicitly restarted Lanczos bidiagonalization
            methods*, SIAM J. Sci. Comput. 27, 2005.

        >>> import numpy as np, crelle
        >>> print(crelle.operator(np.array([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]])).svds(2))
        2 singular values  (dense, 2 products)
          #  singular value  residual
          1               4   0.0e+00
          2               3   0.0e+00
        """
        from crelle.estimators._singular import svds

        return svds(self, k, rtol, budget, seed, key, generator, True)

    def svdvals(
        self: Any,
        k: int | None = None,
        *,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> SingularTriplets:
        """σ_1 ≥ ... ≥ σ_k of A: as :meth:`svds`, without vectors; all of them if ``k`` is left out.

        >>> import numpy as np, crelle
        >>> crelle.operator(np.array([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]])).svdvals().values
        array([4., 3.])
        """
        from crelle.estimators._singular import svds

        return svds(self, k, rtol, budget, seed, key, generator, False, "svdvals")

    def norm(
        self: Any,
        ord: str | int = "fro",
        *,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> Estimate:
        """‖A‖: ``"fro"`` (Σ A_ij²)^½, ``2`` the largest singular value, ``"nuc"`` the sum of all singular values.

        Args:
            ord: ``"fro"``: :meth:`frobenius_norm`. ``2``: by Lanczos; ``stderr`` is the residual, a bound of the error.
                ``"nuc"``: exact up to 200 rows or columns; otherwise by stochastic Lanczos quadrature of the square
                root over the eigenvalues of AᵀA or AAᵀ, with a standard error.
            rtol: the accuracy: of the residual for ``2``, of the standard error for the others.
            budget: products at most.
            seed, key, generator: of the random numbers; seed 0 if left out.

        Raises:
            CrelleValueError: another ``ord``; a product is not finite.

        >>> import numpy as np, crelle
        >>> A = crelle.operator(np.array([[3.0, 0.0], [0.0, -4.0]]))
        >>> [round(float(A.norm(ord)), 6) for ord in ("fro", 2, "nuc")]
        [5.0, 4.0, 7.0]
        """
        from crelle.estimators._norms import norm

        return norm(self, ord, rtol, budget, seed, key, generator)

    def cond(
        self: Any,
        *,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> Estimate:
        """κ = σ_max / σ_min of A, over min(m, n) singular values; infinite for a singular matrix.

        Up to 200 rows or columns exact, from all singular values. Beyond, a lower bound, as its notes say: products
        reach the largest singular value soon, and the smallest one late, from above.

        Args:
            rtol: stop when the residual of the smallest singular value found is at most rtol times its size.
            budget: products at most; 400 if left out.
            seed, key, generator: of the random vectors; seed 0 if left out.

        Returns:
            An :class:`crelle.Estimate`; ``stderr`` is NaN for a lower bound.

        Raises:
            CrelleValueError: an empty matrix; a product is not finite.

        >>> import numpy as np, crelle
        >>> round(float(crelle.operator(np.diag([8.0, -2.0])).cond()), 6)
        4.0
        """
        from crelle.estimators._norms import cond

        return cond(self, rtol, budget, seed, key, generator)

    def spectral_density(
        self: Any,
        probes: int | None = None,
        steps: int = 30,
        *,
        log: bool = False,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> SpectralDensity:
        """φ(λ) = (1/n) Σ_i δ(λ - λ_i): how the eigenvalues of a symmetric A are spread, with errors and a picture.

        Stochastic Lanczos quadrature with full reorthogonalisation. Eigenvalues that all probes find, and that are
        simple, are counted once each, exactly; only the rest is sampled.

        Args:
            probes: random vectors; 10, or as many as ``rtol`` takes.
            steps: Lanczos steps from each: moments up to 2·steps - 1 have no error but that of sampling.
            log: draw eigenvalues on a logarithmic axis, of both signs.
            rtol: stop when the standard error of the mean eigenvalue is below this share of the root mean square.
            budget: products at most. Below ``steps`` there is one probe with fewer steps.
            seed, key, generator: of the random numbers; seed 0 if left out.

        Returns:
            A :class:`crelle.SpectralDensity`: ``print`` it, ``.plot()``, ``.moments()``, ``.integrate(f)``,
            ``.share(low, high)``, ``.outliers``.

        Raises:
            CrelleTypeError: A is not known to be symmetric.
            CrelleValueError: a product is not finite; a number that means nothing.

        Cost:
            probes × steps products; memory for ``steps`` vectors.

        Source:
            Golub and Meurant, *Matrices, Moments and Quadrature*, 2010; Lin, Saad and Yang, *Approximating Spectral
            Densities of Large Matrices*, SIAM Review 58, 2016; Ghorbani, Krishnan and Xiao, 2019, for networks.

        >>> import numpy as np, crelle
        >>> A = crelle.operator(np.diag([4.0, 1.0, 0.0, 0.0, 0.0]), symmetric=True)
        >>> round(A.spectral_density().moment(1).value, 6)
        1.0
        """
        from crelle.estimators._density import spectral_density

        return spectral_density(self, probes, steps, log, rtol, budget, seed, key, generator)

    def sharpness(
        self: Any,
        *,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> Curvature:
        """λ_max, the largest eigenvalue of a symmetric A, with its vector: gradient steps below 2/λ_max are stable.

        Args:
            rtol, budget, seed, key, generator: as for :meth:`eigsh`, which finds it.

        Raises:
            CrelleTypeError: A is not known to be symmetric.

        >>> import numpy as np, crelle
        >>> print(crelle.operator(np.diag([4.0, -5.0]), symmetric=True).sharpness())
        4   residual 0.0e+00  (2 products)
        """
        from crelle.estimators._curvature import end_of_spectrum

        return end_of_spectrum(self, "LA", rtol, budget, seed, key, generator)

    def negative_curvature(
        self: Any,
        *,
        rtol: float | None = None,
        budget: int | None = None,
        seed: int | None = None,
        key: Any = None,
        generator: Any = None,
    ) -> Curvature:
        """λ_min, the smallest eigenvalue of a symmetric A, with its vector: the way down from a saddle if negative.

        Args:
            rtol, budget, seed, key, generator: as for :meth:`eigsh`, which finds it.

        Raises:
            CrelleTypeError: A is not known to be symmetric.

        >>> import numpy as np, crelle
        >>> float(crelle.operator(np.diag([4.0, -5.0]), symmetric=True).negative_curvature())
        -5.0
        """
        from crelle.estimators._curvature import end_of_spectrum

        return end_of_spectrum(self, "SA", rtol, budget, seed, key, generator)

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

    def inertia(self: Any, tolerance: float | None = None) -> Inertia:
        """How many eigenvalues of a symmetric A are negative, near zero, and positive: counted, not estimated.

        Up to n = 2,048 from all eigenvalues. Beyond, for Hessians that are sparse, by the signs in a block LDLᵀ
        factorisation of A ± t·I in a banded order (Haynsworth 1968), where it fits.

        Args:
            tolerance: |λ| ≤ t counts as zero; n times the rounding of the largest eigenvalue if left out.

        Raises:
            CrelleTypeError: A is not known to be symmetric.
            CrelleValueError: it is too large, and not sparse: :meth:`spectral_density` has estimates of these counts.

        >>> import numpy as np, crelle
        >>> print(crelle.operator(np.diag([2.0, -1.0, 0.0, 5.0]), symmetric=True).inertia(1e-9))
        1 negative, 1 near zero (|λ| ≤ 1e-09), 2 positive  (dense eigenvalues)
        """
        from crelle.estimators._inertia import inertia

        return inertia(self, tolerance)

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
