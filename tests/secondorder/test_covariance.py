"""J Σ Jᵀ against the dense product."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.secondorder import _covariance
from tests.operators.solve.systems import FRAMEWORKS, MAKE, host, positive


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("m", [0, 1, 4, 30])
def test_dense_reference(framework, m, rng, monkeypatch):
    monkeypatch.setattr(_covariance, "_CHUNK", 3 * 12 * 8)  # three rows at once
    make = MAKE[framework]
    J, spread, scale = rng.standard_normal((m, 12)), positive(rng, 12), rng.uniform(1, 2, 12)
    for given, dense in ((crelle.operator(make(spread), psd=True), spread), (make(scale), np.diag(scale))):
        expected = J @ dense @ J.T
        found = crelle.predictive_covariance(crelle.operator(make(J)), given)
        np.testing.assert_allclose(host(found), expected, atol=1e-11)
        assert (host(found) == host(found).T).all()
        variances = crelle.predictive_covariance(crelle.operator(make(J)), given, diagonal=True)
        np.testing.assert_allclose(host(variances), np.diag(expected), atol=1e-11)


def test_linearised_laplace_of_a_network(rng):
    """Σ = (G + λI)⁻¹ of the training data, J at test points, against matrices."""
    params = {"w": torch.tensor(rng.standard_normal((3, 4))), "v": torch.tensor(rng.standard_normal(4))}
    train, test = torch.tensor(rng.standard_normal((10, 3))), torch.tensor(rng.standard_normal((6, 3)))

    def model(p, x):
        return torch.tanh(x @ p["w"]) @ p["v"]

    J_train, J_test = (crelle.jacobian(model).at(params, x) for x in (train, test))
    Sigma = J_train.gram().shifted(0.5).inverse("cg", rtol=1e-12)
    found = crelle.predictive_covariance(J_test, Sigma)
    G, J = J_train.gram().todense().numpy(), J_test.todense().numpy()
    np.testing.assert_allclose(found, J @ np.linalg.inv(G + 0.5 * np.eye(16)) @ J.T, atol=1e-9)


def test_what_does_not_fit():
    J = crelle.operator(jnp.ones((2, 3)))
    with pytest.raises(crelle.CrelleTypeError, match="expected  an operator"):
        crelle.predictive_covariance(np.ones((2, 3)), np.ones(3))
    with pytest.raises(crelle.CrelleShapeError, match=r"expected  a covariance \[3, 3\] in jax"):
        crelle.predictive_covariance(J, crelle.operator(jnp.eye(2), psd=True))
    with pytest.raises(crelle.CrelleShapeError, match=r"expected  its diagonal \[3\], or an operator"):
        crelle.predictive_covariance(J, jnp.eye(3))


def test_a_covariance_that_is_too_large_is_refused():
    huge = crelle.operator(lambda v: jnp.zeros(10**7), (10**7, 3), adjoint=lambda u: jnp.zeros(3), like=jnp.zeros(1))
    with pytest.raises(crelle.CrelleMemoryError, match="diagonal=True for the variances"):
        crelle.predictive_covariance(huge, jnp.ones(3))
