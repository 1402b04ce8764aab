"""What an operator can be asked about its eigenvalues and singular values. Each method hands over to who knows how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crelle.estimators._curvature import Curvature
    from crelle.estimators._density import SpectralDensity
    from crelle.estimators._eigenpairs import Eigenpairs
    from crelle.estimators._estimate import Estimate
    from crelle.estimators._inertia import Inertia
    from crelle.estimators._singular import SingularTriplets


class SpectralQuestions:
    """Questions about spectra, as methods of :class:`crelle.operators.Operator`."""

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
