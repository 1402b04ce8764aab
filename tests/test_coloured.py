"""Dense results by coloured products: chosen where they cost less, equal to the dense ones, never stale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

N = 120


def stencil(x):
    return jnp.sin(x) * jnp.roll(x, 1) + x**2


def batch(X, W):
    return jnp.tanh(jnp.tanh(X @ W[0]) @ W[1])


def arrow(x):
    return jnp.concatenate([jnp.sum(x**2)[None], x[0] * x[1:] + jnp.sin(x[1:])])


W = [jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), jnp.linspace(0.5, -1.0, 8).reshape(4, 2)]
JACOBIANS = {
    "stencil": (stencil, jnp.linspace(0.1, 2.0, N), "coloured columns", 2),
    "batch": (lambda X: batch(X, W), jnp.linspace(-1.0, 1.0, 150).reshape(50, 3), "coloured rows", 2),
    "arrow": (arrow, jnp.linspace(0.1, 2.0, N), "coloured columns and rows", 3),
    "wide": (lambda x: x.reshape(60, 5).prod(1), jnp.linspace(0.5, 1.5, 300), "coloured rows", 1),
    "zero": (lambda x: jnp.round(x), jnp.linspace(0.1, 2.0, N), "zero", 0),
}


@pytest.mark.parametrize("name", JACOBIANS)
def test_a_jacobian_with_zeros_takes_as_many_products_as_it_has_colours(name):
    f, x, mode, passes = JACOBIANS[name]
    J = crelle.jacobian(f)
    found, expected = J(x), jax.jacfwd(f)(x)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    plan = J.plan(x)
    assert (plan.mode, plan.passes) == (mode, passes)
    assert name == "zero" or "1 random product against an independent" in plan.checked


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_a_hessian_is_read_from_both_sides_of_its_diagonal():
    x = jnp.linspace(0.5, 1.5, N)
    H = crelle.hessian(rosenbrock)
    np.testing.assert_allclose(H(x), jax.hessian(rosenbrock)(x), rtol=1e-12, atol=1e-11)
    assert (H.plan(x).mode, H.plan(x).passes) == ("coloured symmetric", 3)


def torch_stencil(x):
    return torch.sin(x) * torch.roll(x, 1) + x**2


def test_pytorch_colours_too():
    torch.manual_seed(0)
    V = [torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)]
    x = torch.linspace(0.1, 2.0, N, dtype=torch.float64)
    X = torch.linspace(-1.0, 1.0, 150, dtype=torch.float64).reshape(50, 3)
    cases = [
        (torch_stencil, x, "coloured columns", 2),
        (lambda X: torch.tanh(torch.tanh(X @ V[0]) @ V[1]), X, "coloured rows", 2),
        (lambda x: x.reshape(-1, 5).prod(1), torch.linspace(0.5, 1.5, 300, dtype=torch.float64), "coloured rows", 1),
    ]
    for f, at, mode, passes in cases:
        J = crelle.jacobian(f)
        torch.testing.assert_close(J(at), torch.func.jacrev(f)(at), rtol=1e-12, atol=1e-13)
        assert (J.plan(at).mode, J.plan(at).passes) == (mode, passes)
    f = lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    H = crelle.hessian(f)
    torch.testing.assert_close(H(x), torch.func.hessian(f)(x), rtol=1e-12, atol=1e-11)
    assert (H.plan(x).mode, H.plan(x).passes) == ("coloured symmetric", 3)


def test_trees_keep_their_blocks():
    f = lambda p: {"a": p["u"] * jnp.roll(p["v"], 1), "b": (p["v"] ** 2).reshape(10, 6)}
    p = {"u": jnp.linspace(0.1, 1.0, 60), "v": jnp.linspace(-1.0, 2.0, 60)}
    J = crelle.jacobian(f)
    found, expected = J(p), jax.jacfwd(f)(p)
    assert J.plan(p).mode.startswith("coloured")
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    flat = crelle.jacobian(f, flatten=True)(p)
    assert flat.shape == (120, 120)


def test_value_and_aux_come_along():
    f = lambda x: (stencil(x), x.sum())
    x = jnp.linspace(0.1, 2.0, N)
    (value, aux), J = crelle.jacobian(f, value=True, has_aux=True)(x)
    np.testing.assert_allclose(value, stencil(x))
    np.testing.assert_allclose(aux, x.sum())
    np.testing.assert_allclose(J, jax.jacfwd(stencil)(x), rtol=1e-12)


def test_numbers_that_f_captures_may_change_and_indices_too():
    x = jnp.linspace(0.1, 2.0, N)

    def shifted(scale, index):
        return lambda x: scale * x * x[index]

    J = lambda scale, index: crelle.jacobian(shifted(scale, index))
    near, far = jnp.roll(jnp.arange(N), 1), jnp.roll(jnp.arange(N), 7)
    for scale, index in ((jnp.ones(N), near), (jnp.zeros(N).at[3].set(2.0), near), (jnp.ones(N), far)):
        np.testing.assert_allclose(J(scale, index)(x), jax.jacfwd(shifted(scale, index))(x), rtol=1e-12)


def test_pytorch_numbers_and_indices_may_change():
    x = torch.linspace(0.1, 2.0, N, dtype=torch.float64)
    scale, index = torch.zeros(N, dtype=torch.float64), torch.roll(torch.arange(N), 1)
    f = lambda x: scale * x * x[index]
    J = crelle.jacobian(f)
    for change in (lambda: scale.fill_(0.0), lambda: scale.fill_(2.0), lambda: index.copy_(torch.arange(N).flip(0))):
        change()
        torch.testing.assert_close(J(x), torch.func.jacrev(f)(x), rtol=1e-12, atol=0.0)
    assert J.plan(x).mode == "coloured columns"


def test_inside_of_transformations():
    x = jnp.linspace(0.1, 2.0, N)
    J = crelle.jacobian(stencil)
    expected = jax.jacfwd(stencil)
    np.testing.assert_allclose(jax.jit(J)(x), expected(x), rtol=1e-12)
    xs = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(jax.vmap(J)(xs), jax.vmap(expected)(xs), rtol=1e-12)
    slope = lambda J: jax.grad(lambda x: jnp.sum(J(x) ** 2))(x)
    np.testing.assert_allclose(slope(J), slope(expected), rtol=1e-12)
    scale = lambda J: jax.jit(jax.grad(lambda a: jnp.sum(J(lambda x: a * stencil(x))(x) ** 2)))(2.0)
    np.testing.assert_allclose(scale(crelle.jacobian), scale(jax.jacfwd), rtol=1e-12)


def test_pytorch_results_stay_differentiable():
    x = torch.linspace(0.1, 2.0, N, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((crelle.jacobian(torch_stencil)(x) ** 2).sum(), x)
    (expected,) = torch.autograd.grad((torch.func.jacrev(torch_stencil)(x) ** 2).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)


def test_a_mode_can_be_asked_for():
    x = jnp.linspace(0.1, 2.0, N)
    assert crelle.jacobian(stencil, mode="forward").plan(x).mode == "forward"
    small = jnp.linspace(0.1, 2.0, 10)
    assert crelle.jacobian(stencil).plan(small).mode in ("forward", "reverse")
    coloured = crelle.jacobian(stencil, mode="coloured")
    assert coloured.plan(small).mode == "coloured columns"
    np.testing.assert_allclose(coloured(small), jax.jacfwd(stencil)(small), rtol=1e-12)
    with pytest.raises(crelle.CrelleValueError, match="mode='coloured' cannot be used here"):
        crelle.jacobian(lambda x: jnp.outer(x, x).sum(0) * x.sum(), mode="coloured")(x)


def test_a_dense_matrix_is_not_coloured():
    x = jnp.linspace(0.1, 2.0, N)
    plan = crelle.jacobian(lambda x: jnp.tanh(x) * x.sum()).plan(x)
    assert plan.mode in ("forward", "reverse")
    assert not any(c.mode.startswith("coloured") for c in plan.candidates)


def test_a_plan_is_measured_bounded_saved_and_used_again(tmp_path):
    x = jnp.linspace(0.1, 2.0, N)
    plan = crelle.jacobian(stencil).plan(x, analyze=True)
    assert all(c.measured is not None for c in plan.candidates)
    np.testing.assert_allclose(plan(2 * x), jax.jacfwd(stencil)(2 * x), rtol=1e-12)
    plan.save(tmp_path / "plan.json")
    again = crelle.jacobian(stencil, plan=crelle.Plan.load(tmp_path / "plan.json"))
    assert again.plan(x).mode == "coloured columns"
    bounded = crelle.jacobian(stencil, memory="1MB")
    np.testing.assert_allclose(bounded(x), jax.jacfwd(stencil)(x), rtol=1e-12)


def test_a_wrong_colouring_would_be_found(monkeypatch):
    import crelle._compressed as compressed

    real = compressed.places
    monkeypatch.setattr(compressed, "places", lambda coloring, rows: real(coloring, rows)[::-1].copy())
    x = jnp.linspace(0.1, 2.0, N)
    f = lambda x: stencil(x) + x  # not seen before
    J = crelle.jacobian(f)
    np.testing.assert_allclose(J(x), jax.jacfwd(f)(x), rtol=1e-12)
    plan = J.plan(x)
    assert plan.mode in ("forward", "reverse")
    assert any("failed the check and was dropped" in note for note in plan.notes)


@pytest.mark.parametrize("f", [stencil, torch_stencil])
def test_a_result_that_does_not_fit_is_refused_before_anything_runs(f):
    x = jnp.ones(3_000_000) if f is stencil else torch.ones(3_000_000)
    with pytest.raises(crelle.CrelleMemoryError) as caught:
        crelle.jacobian(f)(x)
    text = str(caught.value)
    assert "the dense result takes" in text
    assert "3,000,000 × 3,000,000" in text
    assert 'format="sparse" if most of it is zero' in text
