"""Sparse results of PyTorch functions against dense ones."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import crelle
from crelle.backends.torch import compressed
from crelle.backends.torch.lowering import unknown, windows
from crelle.tangent.program import Dependence
from tests.patterns.test_random_programs import ALL_TORCH

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
    found = crelle.jacobian(model, wrt="params", format="csr", flatten=True)(x)
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


# -- the part that is the same for every input


def brusselator(w):
    """Two fields on a periodic grid (Hairer & Wanner, Solving Ordinary Differential Equations II, 1996, IV.10)."""
    u, v = w
    around = lambda z: sum(torch.roll(z, k, a) for k in (1, -1) for a in (0, 1)) - 4 * z
    return torch.stack([1 + u * u * v - 4 * u + 0.3 * around(u), 3 * u - u * u * v + 0.3 * around(v)])


def grid(m=8):
    return torch.rand(2, m, m, dtype=F64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def passes(monkeypatch):
    """How many products each recorded program runs."""
    found = []
    before = compressed._seeds

    def seeds(colors, count, *rest):
        found.append(count)
        return before(colors, count, *rest)

    monkeypatch.setattr(compressed, "_seeds", seeds)
    return found


def test_only_what_varies_is_run(passes):
    J = crelle.jacobian(lambda w: brusselator(w), format="csr")
    for at in (grid(), 2 * grid()):
        dense = torch.func.jacrev(brusselator)(at).reshape(128, 128)
        np.testing.assert_allclose(J(at).toarray(), dense, rtol=1e-12, atol=1e-12)
    plan = J.plan(grid())
    assert plan.passes == 2
    (note,) = plan.notes
    assert note.startswith("67 % of the entries are the same for every input: computed once, with ")
    assert passes == [2, int(note.split()[-2])]


def test_all_of_it_is_run_where_that_takes_as_many():
    J = crelle.jacobian(lambda x: torch.sin(x) * torch.roll(x, 1) + torch.roll(x, 1), format="csr")
    plan = J.plan(point())
    assert plan.passes == 2 and not any("same for every input" in note for note in plan.notes)


@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
def test_a_linear_function_is_not_run_again(format, passes):
    A = torch.tril(torch.ones(N, N, dtype=F64), 1).triu(-1)
    J = crelle.jacobian(lambda x: A @ x + 2, format=format, value=True)
    for at in (point(), 3 * point()):
        value, found = J(at)
        np.testing.assert_array_equal(found.toarray(), A)
        torch.testing.assert_close(value, A @ at + 2)
        found.data[:] = 0  # what is kept is not what was handed out
    assert J.plan(point()).passes == 0
    assert passes == [3]


def test_what_varies_keeps_its_digits_beside_large_constants():
    """Both go through the one product that is run: J v - C v would be off by 1e-4."""
    J = crelle.jacobian(lambda x: x**2 + 1e12 * (torch.roll(x, 1) + torch.roll(x, -1)), format="csr")
    for at in (point(), 1e-3 * point()):
        np.testing.assert_allclose(J(at).diagonal(), 2 * at, rtol=1e-14)
        np.testing.assert_allclose(J(at).toarray()[0, [1, N - 1]], 1e12, rtol=1e-14)
    assert J.plan(point()).passes == 1


def test_hessians_by_parts():
    far = lambda x: sum((x * torch.roll(x, k)).sum() for k in (2, 5, 9))
    f = lambda x: (x**4).sum() + (x * torch.roll(x, 1)).square().sum() + far(x)
    H = crelle.hessian(f, format="csr")
    for at in (point(), 2 * point()):
        np.testing.assert_allclose(H(at).toarray(), torch.func.hessian(f)(at), rtol=1e-12, atol=1e-12)
    plan = H.plan(point())
    assert plan.passes == 3 and "are the same for every input" in plan.notes[0]


def test_a_part_that_is_not_symmetric_is_not_kept(monkeypatch):
    """An entry of a Hessian may be read from its mirror image; two parts of it then have to be, both or neither."""

    def by_image(low, node, rank):
        found = windows.by_image(low, node, rank)
        return low.scaled(found, Dependence.VARYING) if "backward" in str(node.target) else found

    monkeypatch.setattr(unknown, "by_image", by_image)

    def f(x):
        y = torch.nn.functional.avg_pool2d(x[None, None], (3, 1), 1, (1, 0))[0, 0]
        return (
            (y * torch.roll(x, 5, 0)).sum() + (x**3).sum() + sum((x * torch.roll(x, k, 0)).sum() for k in (12, 15, 18))
        )

    at = torch.rand(40, 2, dtype=F64)
    H = crelle.hessian(f, format="csr", check=False)
    assert "are the same for every input" in H.plan(at).notes[0]
    dense = torch.func.hessian(f)(at).reshape(80, 80)
    np.testing.assert_allclose(H(at).toarray(), dense, rtol=1e-12, atol=1e-12)
    assert H.plan(at).notes == ("what is the same for every input is run with the rest: it is not symmetric",)


def test_derivatives_of_what_varies():
    x = grid().requires_grad_()
    weights = torch.rand(2, 8, 8, 2, 8, 8, dtype=F64)
    found = crelle.jacobian(brusselator, format="sparse")(x).to_dense()
    (slope,) = torch.autograd.grad((found.reshape(weights.shape) * weights).sum(), x)
    y = grid().requires_grad_()
    (dense,) = torch.autograd.grad((torch.func.jacrev(brusselator)(y) * weights).sum(), y)
    torch.testing.assert_close(slope, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("late", [False, True])
def test_derivatives_by_what_f_captures(late):
    """What f captures is a constant of the pattern, and not of derivatives of the result."""
    k = torch.tensor(0.3, dtype=F64, requires_grad=not late)
    f = lambda x: x**2 + k * (torch.roll(x, 1) - 2 * x + torch.roll(x, -1))
    J = crelle.jacobian(f, format="triplets")
    assert J.plan(point()).passes == (1 if late else 3)
    J(point())
    k.requires_grad_()
    _, _, data = J(point())
    (slope,) = torch.autograd.grad((data**2).sum(), k)
    (dense,) = torch.autograd.grad((torch.func.jacrev(f)(point()) ** 2).sum(), k)
    torch.testing.assert_close(slope, dense, rtol=1e-10, atol=1e-10)


def test_what_f_captures_may_change():
    k = torch.tensor(0.3, dtype=F64)
    J = crelle.jacobian(lambda x: x**2 + k * (torch.roll(x, 1) + torch.roll(x, -1)), format="csr")
    for value in (0.3, 5.0):
        k.fill_(value)
        np.testing.assert_allclose(J(point()).toarray()[0, [1, N - 1]], value, rtol=1e-14)


def test_other_arguments_are_run_anew():
    J = crelle.jacobian(lambda x, c: c * torch.roll(x, 1) + 3 * torch.roll(x, 2) + x, format="csr")
    for c in (1.0, 4.0):
        dense = 3 * np.eye(N)[np.arange(N) - 2] + c * np.eye(N)[np.arange(N) - 1] + np.eye(N)
        np.testing.assert_allclose(J(point(), torch.tensor(c, dtype=F64)).toarray(), dense, rtol=1e-14)
    assert J.plan(point(), torch.tensor(1.0, dtype=F64)).passes == 1


def test_value_and_aux_come_along_with_parts():
    f = lambda w, c: (brusselator(w) * c, {"n": w.sum()})
    (value, aux), J = crelle.jacobian(f, has_aux=True, value=True, format="csr")(grid(), 2.0)
    torch.testing.assert_close(value, 2 * brusselator(grid()))
    torch.testing.assert_close(aux["n"], grid().sum())
    dense = 2 * torch.func.jacrev(brusselator)(grid()).reshape(128, 128)
    np.testing.assert_allclose(J.toarray(), dense, rtol=1e-12, atol=1e-12)


def test_a_part_of_the_matrix_by_parts():
    J = crelle.jacobian(brusselator, format="diagonal")
    dense = torch.func.jacrev(brusselator)(grid()).reshape(128, 128)
    torch.testing.assert_close(J(grid()), dense.diagonal(), rtol=1e-12, atol=1e-12)


def test_what_cannot_be_recorded_in_parts_is_run_whole(monkeypatch):
    before = compressed.run.batch

    def refuses(linear, seeds):
        if "_record_parts" in linear.__qualname__:
            raise NotImplementedError("no batching rule")
        return before(linear, seeds)

    monkeypatch.setattr(compressed.run, "batch", refuses)
    J = crelle.jacobian(lambda w: brusselator(w), format="csr")
    dense = torch.func.jacrev(brusselator)(grid()).reshape(128, 128)
    np.testing.assert_allclose(J(grid()).toarray(), dense, rtol=1e-12, atol=1e-12)
    said = "what is the same for every input is run with the rest: it could not be recorded (NotImplementedError)"
    assert J.plan(grid()).notes == (said,)
    assert J.plan(grid()).passes > 2


def test_what_cannot_be_split_is_run_whole():
    f = lambda x: torch.nn.functional.conv1d(x.reshape(1, 2, N // 2), x[:4].reshape(1, 2, 2), x[:1]).reshape(-1)
    dense = torch.func.jacrev(f)(point())
    np.testing.assert_allclose(crelle.jacobian(f, format="csr")(point()).toarray(), dense, rtol=1e-12, atol=1e-12)


@pytest.fixture
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_float64")
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_programs_that_vary_in_a_part(data):
    names = data.draw(st.lists(st.sampled_from(sorted(ALL_TORCH)), min_size=1, max_size=3))
    hessian, large = data.draw(st.booleans()), data.draw(st.sampled_from([1.0, 1e6]))
    torch.manual_seed(data.draw(st.integers(0, 10_000)))
    w, K = torch.randn(3, 3), large * torch.randn(3, 3)

    def program(x):
        y = x
        for name in names:
            y = ALL_TORCH[name](y, w)
        return torch.cat([(y * x).reshape(-1), (K @ x).reshape(-1)])

    f = (lambda x: (program(x)[:9] ** 2).sum() + (program(x) ** 2).sum()) if hessian else program
    J = (crelle.hessian if hessian else crelle.jacobian)(f, format="csr", check=False)
    for _ in range(2):
        x = torch.randn(3, 3)
        dense = (torch.func.hessian if hessian else torch.func.jacrev)(f)(x).reshape(-1, 9).detach().numpy()
        if np.isfinite(dense).all():
            np.testing.assert_allclose(
                J(x).toarray(), dense, rtol=1e-12, atol=1e-12 * np.abs(dense).max(), err_msg=str(names)
            )


def test_inference_tensors_and_bfloat16():
    f = lambda x: x**2 + torch.roll(x, 1)
    with torch.inference_mode():
        x = torch.linspace(0.5, 1.5, 6, dtype=torch.float64)
        found = crelle.jacobian(f, format="csr")(x).toarray()
    np.testing.assert_allclose(np.diag(found), 2 * x.numpy(), rtol=1e-12)
    short = crelle.jacobian(f, format="csr")(x.clone().to(torch.bfloat16))
    np.testing.assert_allclose(short.diagonal(), 2 * x.numpy(), rtol=1e-2)
