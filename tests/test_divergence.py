"""Divergences against traces of dense Jacobians, and how many products they take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

RNG = np.random.default_rng(7)
A = RNG.normal(size=(6, 6))
X = RNG.normal(size=(5, 6))


def reaction(z):
    """Two fields that diffuse on a periodic grid, and react cell by cell."""
    u, v = z.reshape(2, 4, 4)

    def diffuse(w):
        return sum(jnp.roll(w, s, a) for s in (1, -1) for a in (0, 1)) - 4 * w

    return jnp.stack([1 + u**2 * v - 4.4 * u + 10 * diffuse(u), 3.4 * u - u**2 * v + 10 * diffuse(v)]).ravel()


def mlp(x):
    return jnp.tanh(jnp.tanh(x @ A) @ A.T)


def blocks(x):
    """Groups of three inputs, each mixed in itself."""
    return jnp.sin(x.reshape(-1, 3) @ A[:3, :3]).ravel()


FIELDS = {
    "reaction": (reaction, 32, 2),
    "mlp": (mlp, 6, 6),
    "linear plus local": (lambda x: A @ x + jnp.tanh(x), 6, 1),
    "linear": (lambda x: A @ x, 6, 0),
    "blocks": (blocks, 12, 3),
    "local": (lambda x: x**3, 8, 1),
    "rotation": (lambda x: jnp.roll(x, 1) ** 2, 5, 0),
    "reshaped": (lambda x: jnp.cumsum(x**2), 6, 6),
}


def dense(f, x, **options):
    return jnp.trace(jax.jacfwd(f, **options)(x).reshape(x.size, x.size))


@pytest.mark.parametrize("name", FIELDS)
def test_equals_the_trace_and_takes_few_products(name):
    f, n, passes = FIELDS[name]
    x = jnp.asarray(RNG.uniform(0.3, 1.5, n))
    div = crelle.divergence(f)
    for at in (x, 2 * x):
        np.testing.assert_allclose(div(at), dense(f, at), rtol=1e-12, atol=1e-12)
    assert div(x).shape == ()
    plan = div.plan(x)
    assert plan.passes == passes
    assert (plan.kind, plan.result) == ("divergence", "f64[]")


def test_under_transformations():
    x, div = jnp.asarray(X[0]), crelle.divergence(mlp)
    np.testing.assert_allclose(jax.jit(div)(x), dense(mlp, x), rtol=1e-12)
    each = jax.vmap(lambda x: dense(mlp, x))(jnp.asarray(X))
    np.testing.assert_allclose(jax.vmap(div)(jnp.asarray(X)), each, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(div)(x), jax.grad(lambda x: dense(mlp, x))(x), rtol=1e-11)


def test_a_batch_takes_the_products_of_one_sample():
    each = jax.vmap(lambda x: dense(mlp, x))(jnp.asarray(X))
    div = crelle.divergence(mlp, batched=True)
    np.testing.assert_allclose(div(jnp.asarray(X)), each, rtol=1e-12)
    plan = div.plan(jnp.asarray(X))
    assert (plan.passes, plan.result) == (6, "f64[5]")
    value, same = crelle.divergence(mlp, batched=True, value=True)(jnp.asarray(X))
    np.testing.assert_array_equal(same, div(jnp.asarray(X)))
    np.testing.assert_allclose(value, mlp(jnp.asarray(X)), rtol=1e-14)


def test_batches_of_trees_and_images():
    def f(z):
        return {"a": z["a"] * z["b"].sum((1, 2)), "b": jnp.sin(z["b"]) * z["a"][:, None, None]}

    z = {"a": jnp.asarray(RNG.normal(size=4)), "b": jnp.asarray(RNG.normal(size=(4, 2, 3)))}
    found = crelle.divergence(f, batched=True)(z)
    expected = z["b"].sum((1, 2)) + (jnp.cos(z["b"]) * z["a"][:, None, None]).sum((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(crelle.divergence(f)(z), expected.sum(), rtol=1e-12)


def test_scalars_nothing_and_aux():
    assert crelle.divergence(lambda x: x**2)(jnp.float64(3.0)) == 6
    assert crelle.divergence(lambda x: x**2)(jnp.zeros(0)) == 0
    div, aux = crelle.divergence(lambda x, y: (x * y, {"y": y}), argnums=1, has_aux=True)(jnp.ones(3), jnp.arange(3.0))
    assert div == 3
    np.testing.assert_array_equal(aux["y"], jnp.arange(3.0))


def test_holomorphic():
    z = jnp.asarray(X[0] + 1j * X[1])
    f = lambda z: jnp.sin(A @ z)
    found = crelle.divergence(f, holomorphic=True)(z)
    np.testing.assert_allclose(found, dense(f, z, holomorphic=True), rtol=1e-12)
    t = torch.tensor(np.asarray(z))
    other = crelle.divergence(lambda z: torch.sin(torch.tensor(A + 0j) @ z), holomorphic=True)(t)
    np.testing.assert_allclose(complex(other), complex(found), rtol=1e-12)


def test_torch():
    weights = torch.tensor(A)

    def field(x):
        return torch.tanh(torch.tanh(x @ weights) @ weights.T)

    x = torch.tensor(X, requires_grad=True)
    each = jax.vmap(lambda x: dense(mlp, x))(jnp.asarray(X))
    div = crelle.divergence(field, batched=True)(x)
    np.testing.assert_allclose(div.detach(), each, rtol=1e-12)
    (slope,) = torch.autograd.grad(div.sum(), x)
    np.testing.assert_allclose(slope, jax.grad(lambda X: jax.vmap(lambda x: dense(mlp, x))(X).sum())(X), rtol=1e-10)
    np.testing.assert_allclose(torch.func.vmap(crelle.divergence(field))(x.detach()), each, rtol=1e-12)
    assert crelle.divergence(field, batched=True).plan(x.detach()).passes == 6


def test_modules_of_torch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6)).double()
    x = torch.tensor(X)
    each = [torch.func.jacrev(net)(row).trace() for row in x]
    np.testing.assert_allclose(crelle.divergence(net, batched=True)(x).detach(), torch.stack(each).detach(), rtol=1e-12)


def test_functions_that_cannot_be_traced_take_the_dense_jacobian():
    def f(x):
        return torch.sin(torch.tensor(A) @ x) * (2.0 if x[0].item() > 100 else 1.0)

    x = torch.tensor(X[0])
    div = crelle.divergence(f)
    for _ in range(2):
        np.testing.assert_allclose(div(x), torch.func.jacrev(lambda x: torch.sin(torch.tensor(A) @ x))(x).trace())
    notes = " ".join(div.plan(x).notes)
    assert "the whole matrix is computed, and the answer taken out of it" in notes
    assert "Tensor.item" in notes
    numpy = crelle.divergence(lambda x: np.sin(A @ x))(X[0])
    np.testing.assert_allclose(numpy, np.trace(np.cos(A @ X[0])[:, None] * A), rtol=1e-8)
    batched = crelle.divergence(lambda X: np.sin(X @ A.T), batched=True)(X)
    np.testing.assert_allclose(batched[0], numpy, rtol=1e-6)


def test_pattern_of_the_user():
    x = jnp.asarray(RNG.uniform(0.3, 1.5, 12))
    pattern = np.kron(np.eye(4), np.ones((3, 3)))
    div = crelle.divergence(blocks, pattern=pattern)
    np.testing.assert_allclose(div(x), dense(blocks, x), rtol=1e-12)
    with pytest.raises(crelle.CrelleCheckError):
        crelle.divergence(lambda x: x[::-1] * x.sum(), pattern=np.eye(12))(x)


def test_matrices_that_are_not_square():
    with pytest.raises(crelle.CrelleShapeError) as error:
        crelle.divergence(lambda x: x[:4])(jnp.ones(6))
    assert str(error.value) == (
        "crelle.divergence(f): the Jacobian is 4 × 6, and only a square matrix has a trace\n"
        "  called    x: f64[6] -> f64[4]\n"
        "  expected  as many outputs as inputs, raveled\n"
        "  try       crelle.jacobian(f).diagonal(x), or other argnums="
    )
    with pytest.raises(crelle.CrelleShapeError, match="only a square matrix has a trace"):
        crelle.divergence(lambda x: np.zeros(2))(np.ones(3))


def test_batches_that_are_none():
    coupled = lambda X: X - X.mean(0)
    with pytest.raises(crelle.CrelleShapeError) as error:
        crelle.divergence(coupled, batched=True)(jnp.asarray(X))
    assert str(error.value) == (
        "crelle.divergence(f): batched=True, and samples are coupled: sample 0 of the output reads sample 1 of "
        "the input\n"
        "  called    X: f64[5,6] -> f64[5,6]\n"
        "  expected  sample b of the output to read sample b of the input alone\n"
        "  likely    entry (0, 6) of the flat Jacobian, and 119 more: a mean or a product over the batch, as in "
        "BatchNorm; or an operation that is not looked into\n"
        "  try       crelle.divergence of f for one sample, under vmap; or without batched= for the whole trace"
    )
    with pytest.raises(crelle.CrelleShapeError, match="sample 0 of the output reads sample 1 of the input"):
        crelle.divergence(coupled, batched=True)(X)  # NumPy: seen in the matrix
    with pytest.raises(crelle.CrelleShapeError, match="f does not map a batch to a batch"):
        crelle.divergence(lambda x: x**2, batched=True)(jnp.float64(1.0))
    with pytest.raises(crelle.CrelleShapeError, match="with the same B in front of every array"):
        crelle.divergence(lambda X: X.reshape(6, 5), batched=True)(jnp.asarray(X))


def test_text():
    assert repr(crelle.divergence(mlp)) == "crelle.divergence(mlp)"
    with pytest.raises(crelle.CrelleTypeError, match="f is not a function"):
        crelle.divergence(3)


def test_products_in_chunks_where_memory_is_short(monkeypatch):
    from crelle.backends.jax import BACKEND

    monkeypatch.setattr(type(BACKEND), "available_memory", lambda self, device: 2000)
    crelle.clear_caches()
    x = jnp.asarray(X)
    each = jax.vmap(lambda x: dense(mlp, x))(x)
    div = crelle.divergence(mlp, batched=True)
    np.testing.assert_allclose(div(x), each, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(div)(x), each, rtol=1e-12)
    assert any("products at a time; of each the diagonal is kept" in note for note in div.plan(x).notes)
    rowwise = lambda x: A[:3] @ jnp.sin(x)  # a diagonal by rows, of a matrix that is not square
    np.testing.assert_allclose(crelle.jacobian(rowwise).diagonal(x[0]), jnp.diagonal(jax.jacfwd(rowwise)(x[0])))
    plus = lambda x: A @ x + jnp.sin(x) * jnp.roll(x, 1)
    np.testing.assert_allclose(crelle.divergence(plus)(x[0]), dense(plus, x[0]), rtol=1e-12)
    hessian = crelle.hessian(lambda x: jnp.tanh(x @ A).prod())
    expected = jnp.diagonal(jax.hessian(lambda x: jnp.tanh(x @ A).prod())(x[0]))
    np.testing.assert_allclose(hessian.diagonal(x[0]), expected, rtol=1e-12)
    crelle.clear_caches()


def test_plans_can_be_called():
    x = jnp.asarray(X[0])
    np.testing.assert_allclose(crelle.divergence(mlp).plan(x)(2 * x), dense(mlp, 2 * x), rtol=1e-12)
    plan = crelle.laplacian(lambda x: mlp(x).sum(), value=True).plan(x)
    value, found = plan(2 * x)
    np.testing.assert_allclose(value, mlp(2 * x).sum(), rtol=1e-12)
    np.testing.assert_allclose(found, jnp.trace(jax.hessian(lambda x: mlp(x).sum())(2 * x)), rtol=1e-12)
    with pytest.raises(crelle.CrelleShapeError, match="this plan was made for other inputs"):
        plan(jnp.ones(7))
    eager = crelle.divergence(lambda x: torch.sin(x) * x[0].item()).plan(torch.ones(3, dtype=torch.float64))
    np.testing.assert_allclose(eager(torch.zeros(3, dtype=torch.float64)), 0)
