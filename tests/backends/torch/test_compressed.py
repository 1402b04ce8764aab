"""Sparse results of PyTorch functions against dense ones."""

import numpy as np
import pytest
import torch

import crelle

F64 = torch.float64
N = 24


def burgers(u):
    up = torch.cat([u.new_zeros(1), u, u.new_zeros(1)])
    return up[1:-1] * (up[2:] - up[:-2]) - 0.1 * (up[2:] - 2 * up[1:-1] + up[:-2])


def arrow(x):
    return torch.cat([x[:1] * x.sum(), x[1:] * x[0] + x[1:] ** 2])


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def point(n=N):
    return torch.rand(n, dtype=F64, generator=torch.Generator().manual_seed(0)) + 0.3


JACOBIANS = {
    "burgers": burgers, "arrow": arrow, "tall": lambda x: torch.cat([x**2, torch.sin(x[1:] * x[:-1])]),
    "linear": lambda x: 3 * torch.cumsum(x, 0), "zero": lambda x: x.detach()[:4] * 2,
    "dense": lambda x: torch.sin(torch.outer(x, x)).sum(0), "scalar": lambda x: x[0] * x[1],
}  # fmt: skip


@pytest.mark.parametrize("name", JACOBIANS)
@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
def test_jacobians_on_the_host(name, format):
    f = JACOBIANS[name]
    J = crelle.jacobian(f, format=format)
    for at in (point(), 2 * point()):
        found = J(at)
        assert found.format == format
        dense = torch.atleast_2d(torch.func.jacrev(f)(at)).detach().numpy()
        np.testing.assert_allclose(found.toarray(), dense, rtol=1e-12, atol=1e-12)


def test_passes_are_few():
    assert crelle.jacobian(burgers, format="csr").plan(point()).passes == 3
    assert crelle.jacobian(arrow, format="csr").plan(point(200)).passes == 3
    assert crelle.hessian(rosenbrock, format="csr").plan(point()).passes <= 3


def test_hessians_and_torchs_own_arrays():
    H = crelle.hessian(rosenbrock, format="sparse")(point())
    assert H.layout == torch.sparse_csr
    np.testing.assert_allclose(H.to_dense(), torch.func.hessian(rosenbrock)(point()), rtol=1e-12, atol=1e-12)


def test_results_are_differentiable():
    x = point().requires_grad_()
    _, _, data = crelle.jacobian(burgers, format="triplets")(x)
    (slope,) = torch.autograd.grad((data**2).sum(), x)
    y = point().requires_grad_()
    (dense,) = torch.autograd.grad((torch.func.jacrev(burgers)(y) ** 2).sum(), y)
    torch.testing.assert_close(slope, dense, rtol=1e-10, atol=1e-10)


def test_blocks_bands_and_diagonals():
    W = torch.rand(3, 4, dtype=F64)
    f = lambda x: torch.tanh(x @ W.T)
    X = point(20).reshape(5, 4)
    blocks = crelle.jacobian(f, format="blocks")(X)
    torch.testing.assert_close(blocks, torch.func.vmap(torch.func.jacrev(f))(X), rtol=1e-12, atol=1e-12)
    dense = torch.func.jacrev(burgers)(point())
    torch.testing.assert_close(crelle.jacobian(burgers, format="diagonal")(point()), dense.diagonal())
    bands = crelle.jacobian(burgers, format="banded")(point())
    torch.testing.assert_close(bands[0, 1:], dense.diagonal(1))
    torch.testing.assert_close(bands[2, :-1], dense.diagonal(-1))


def test_captured_tensors_that_change_are_seen():
    mask = torch.ones(N, dtype=F64)
    J = crelle.jacobian(lambda x: mask * x**2, format="csr")
    assert J(point()).nnz == N
    mask[:10] = 0
    assert J(point()).nnz == N - 10
    mask[:10] = 7
    np.testing.assert_allclose(J(point()).diagonal(), 2 * mask * point(), rtol=1e-13)


def test_modules_by_their_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).double()
    x = torch.rand(4, 3, dtype=F64)
    found = crelle.jacobian(model, wrt="params", format="csr")(x)
    dense = crelle.jacobian(model, wrt="params", flatten=True)(x).detach()
    np.testing.assert_allclose(found.toarray(), dense, rtol=1e-12, atol=1e-13)


def test_value_and_aux_come_along():
    f = lambda x, c: (burgers(x) * c, {"n": x.sum()})
    (value, aux), J = crelle.jacobian(f, has_aux=True, value=True, format="csr")(point(), 2.0)
    torch.testing.assert_close(value, 2 * burgers(point()))
    torch.testing.assert_close(aux["n"], point().sum())
    assert J.nnz == 3 * N - 2


def test_a_function_that_cannot_be_recorded_is_refused():
    with pytest.raises(crelle.CrelleTypeError, match="format='csr' needs a function that can be recorded"):
        crelle.jacobian(lambda x: x if x.sum() > 0 else -x, format="csr")(point())


def test_a_given_pattern_that_misses_entries_is_caught():
    with pytest.raises(crelle.CrelleCheckError, match="the sparse result is wrong"):
        crelle.jacobian(burgers, format="csr", pattern=np.eye(N))(point())
