"""Laplacians against traces of dense Hessians and closed forms, forward and by Hessian-vector products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle

RNG = np.random.default_rng(5)
A = jnp.asarray(RNG.normal(size=(6, 6)))
X = jnp.asarray(RNG.normal(size=(5, 6)))


def dense(f):
    return lambda x: jnp.trace(jax.hessian(f)(x).reshape(x.size, x.size))


def net(x):
    return jnp.tanh(jnp.tanh(x @ A) @ A.T).sum(-1)


def attention(x):
    q = x.reshape(3, 2)
    return (jax.nn.softmax(q @ q.T) @ q).sum()


def slater(x):
    orbitals = jnp.stack([jnp.exp(-(k + 1) * x**2) * x**k for k in range(6)])
    return jnp.linalg.slogdet(orbitals + jnp.eye(6))[1]


def branches(x):
    return jax.lax.cond(x.sum() > 0, lambda x: jnp.sum(x**4), lambda x: jnp.sum(x**3), x * A[0])


FUNCTIONS = {
    "net": net,
    "attention": attention,
    "slater": slater,
    "branches": branches,
    "scan": lambda x: jax.lax.scan(lambda c, a: (jnp.tanh(c + A @ c * a), a**2), x, x)[0].sum(),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c + A @ c), x).sum(),
    "sorted": lambda x: (jnp.sort(x**2)[:3] ** 2).sum() + jax.nn.silu(x).sum(),
    "rounded": lambda x: jnp.sum(x**3 * jnp.argsort(x)) + jnp.floor(x[0]),
    "jitted": lambda x: jax.jit(net)(x) * jax.checkpoint(jax.jit(lambda x: jnp.sin(x @ A).sum()))(x),
    "nowhere": lambda x: jnp.where(x > 0, x**2, jnp.exp(x)).prod(),
    "rosenbrock": lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_ways_equal_the_trace(name):
    f, x = FUNCTIONS[name], jnp.asarray(RNG.uniform(0.3, 1.5, 6))
    for mode in ("coloured", "forward"):
        lap = crelle.laplacian(f, mode=mode)
        for at in (x, 1 - x):
            found = lap(at)
            assert found.shape == ()
            np.testing.assert_allclose(found, dense(f)(at), rtol=1e-12, atol=1e-12, err_msg=mode)
    np.testing.assert_allclose(jax.jit(lap)(x), dense(f)(x), rtol=1e-12, atol=1e-12)


def test_closed_forms():
    x = jnp.asarray(RNG.uniform(0.3, 1.5, 20))
    n = x.size
    gauss = jnp.exp(-x @ x)
    for f, expected, passes in (
        (lambda x: jnp.cos(x).sum(), -jnp.cos(x).sum(), 1),
        (lambda x: x @ x, 2 * n, 0),
        (lambda x: x.sum(), 0, 0),
        (lambda x: x[0] ** 2 - x[1] ** 2 + x[2] * x[3], 0, 0),
        (lambda x: jnp.exp(x[0]) * jnp.sin(x[1]), 0, 2),
        (lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, 0, 2),
        (lambda x: jnp.exp(-x @ x), (4 * x @ x - 2 * n) * gauss, n),
        (lambda x: jnp.log(jnp.linalg.norm(x[:2])), 0, 2),
        (lambda x: 1 / jnp.linalg.norm(x[:3]), 0, 3),
    ):
        for mode in ("auto", "forward") if passes else ("auto",):
            lap = crelle.laplacian(f, mode=mode)
            np.testing.assert_allclose(lap(x), expected, rtol=1e-12, atol=1e-12)
            assert lap.plan(x).passes == passes


def test_under_transformations():
    for mode in ("forward", "coloured"):
        lap = crelle.laplacian(net, mode=mode)
        np.testing.assert_allclose(jax.vmap(lap)(X), jax.vmap(dense(net))(X), rtol=1e-12)
        np.testing.assert_allclose(jax.grad(lap)(X[0]), jax.grad(dense(net))(X[0]), rtol=1e-10)


def test_batches():
    each = jax.vmap(dense(net))(X)
    for mode in ("auto", "forward", "coloured"):
        lap = crelle.laplacian(net, batched=True, mode=mode)
        np.testing.assert_allclose(lap(X), each, rtol=1e-12)
        plan = lap.plan(X)
        assert (plan.passes, plan.result) == (6, "f64[5]")
        value, same = crelle.laplacian(net, batched=True, mode=mode, value=True)(X)
        np.testing.assert_allclose(value, net(X), rtol=1e-13)
        np.testing.assert_allclose(same, each, rtol=1e-12)
    np.testing.assert_allclose(crelle.laplacian(lambda X: (X**2).sum(1), batched=True)(X), np.full(5, 12.0))


def test_value_trees_and_arguments():
    f = lambda p, y: jnp.sum(jnp.sin(p["a"]) * y) * p["b"] ** 3
    p, y = {"a": X[0], "b": jnp.float64(0.7)}, X[1]
    expected = -jnp.sum(jnp.sin(p["a"]) * y) * p["b"] ** 3 + 6 * p["b"] * jnp.sum(jnp.sin(p["a"]) * y)
    for mode in ("forward", "coloured"):
        value, found = crelle.laplacian(f, value=True, mode=mode)(p, y)
        np.testing.assert_allclose(value, f(p, y), rtol=1e-14)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        both = crelle.laplacian(lambda x, y: jnp.prod(x**2 + y**2), argnums=(0, 1), mode=mode)
        joined = dense(lambda z: jnp.prod(z[:6] ** 2 + z[6:] ** 2))(jnp.concatenate([X[0], y]))
        np.testing.assert_allclose(both(X[0], y), joined, rtol=1e-12)


def test_nothing_and_scalars():
    assert crelle.laplacian(lambda x: x**3)(jnp.float64(2.0)) == 12
    assert crelle.laplacian(lambda x: jnp.sum(x**2))(jnp.zeros(0)) == 0
    assert crelle.laplacian(lambda x: 3.0 + 0 * x.sum())(jnp.ones(3)) == 0


def test_seeds_in_chunks_where_memory_is_short(monkeypatch):
    from crelle.backends.jax import BACKEND

    monkeypatch.setattr(type(BACKEND), "available_memory", lambda self, device: 3000)
    crelle.clear_caches()
    lap = crelle.laplacian(net, mode="forward")
    np.testing.assert_allclose(lap(X[0]), dense(net)(X[0]), rtol=1e-12)
    plan = lap.plan(X[0])
    assert plan.chunk is not None and plan.chunk < plan.passes == 6
    value, found = crelle.laplacian(net, batched=True, value=True, mode="forward")(X)
    np.testing.assert_allclose(found, jax.vmap(dense(net))(X), rtol=1e-12)
    np.testing.assert_allclose(value, net(X), rtol=1e-13)
    crelle.clear_caches()


def mlp(d, width=64):
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = zip((d, width, width), (width, width, width), strict=True)
    weights = [jax.random.normal(k, s) / np.sqrt(s[0]) for k, s in zip(keys, sizes, strict=False)]

    def f(x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x.sum()

    return f


def test_the_plan_says_which_way_and_why():
    x = jnp.ones(32)
    plan = crelle.laplacian(mlp(32)).plan(x)
    assert (plan.mode, plan.passes, plan.unit) == ("forward Laplacian", 32, "second-order JVP")
    coloured = plan.rejected[0]
    assert (coloured.mode, coloured.passes, coloured.unit) == ("coloured symmetric", 32, "HVP")
    assert float(coloured.reason.removesuffix("×")) > 1.1
    text = str(plan)
    assert text.startswith("Laplacian of f: f64[32] -> f64[]")
    assert "chosen    forward Laplacian" in text
    assert "output    f64[]" in text
    lap = crelle.laplacian(lambda x: jnp.sum(jnp.exp(-((x[:, None] - x) ** 2))))
    lap(x)
    plan = lap.plan(x)  # XLA fuses products as well where there is no matrix product
    assert plan.mode == "coloured symmetric"
    assert plan.checked.startswith("1 row against an independent HVP")
    forced = crelle.laplacian(mlp(32), mode="coloured").plan(x)
    assert forced.rejected[0].reason.endswith("; mode='coloured' was asked for")


def test_the_first_run_is_checked():
    lap = crelle.laplacian(net, mode="forward")
    lap(X[0])
    assert lap.plan(X[0]).checked.startswith("1 second derivative against an independent HVP, relative error")
    unchecked = crelle.laplacian(net, mode="forward", check=False)
    unchecked(X[0])
    assert unchecked.plan(X[0]).checked == ""
    coupled = lambda x: jnp.sin(x.sum()) + jnp.sum(x**4)
    with pytest.raises(crelle.CrelleCheckError, match="the forward Laplacian is wrong"):
        crelle.laplacian(coupled, pattern=np.eye(6), mode="forward")(X[0])
    with pytest.raises(crelle.CrelleCheckError):
        crelle.laplacian(coupled, pattern=np.eye(6), mode="coloured")(X[0])
    np.testing.assert_allclose(
        crelle.laplacian(lambda x: jnp.sum(x**4), pattern=np.eye(6), mode="forward")(X[0]), 12 * jnp.sum(X[0] ** 2)
    )


def test_rules_of_the_user_are_followed():
    @jax.custom_jvp
    def straight(x):
        return jnp.round(x)

    straight.defjvp(lambda primals, tangents: (straight(primals[0]), tangents[0]))
    f = lambda x: jnp.sum(straight(x @ A) ** 3)
    expected = 6 * jnp.sum(A**2 @ jnp.round(X[0] @ A))
    np.testing.assert_allclose(crelle.laplacian(f, mode="forward")(X[0]), expected, rtol=1e-12)


def test_functions_without_a_forward_rule_take_products():
    @jax.custom_vjp
    def f(x):
        return jnp.sum(x**3)

    f.defvjp(lambda x: (jnp.sum(x**3), x), lambda x, g: (3 * x**2 * g,))
    lap = crelle.laplacian(f)
    np.testing.assert_allclose(lap(X[0]), 6 * X[0].sum(), rtol=1e-12)
    with pytest.raises(crelle.CrelleValueError, match="mode='forward' cannot be used here"):
        crelle.laplacian(f, mode="forward")(X[0])


def test_torch():
    weights = torch.tensor(np.asarray(A))
    f = lambda x: torch.tanh(torch.tanh(x @ weights) @ weights.T).sum(-1)
    x = torch.tensor(np.asarray(X), requires_grad=True)
    each = jax.vmap(dense(net))(X)
    lap = crelle.laplacian(f, batched=True)
    found = lap(x)
    np.testing.assert_allclose(found.detach(), each, rtol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), x)
    np.testing.assert_allclose(slope, jax.grad(lambda X: jax.vmap(dense(net))(X).sum())(X), rtol=1e-10)
    assert lap.plan(x).passes == 6
    value, one = crelle.laplacian(f, value=True)(x[0].detach())
    np.testing.assert_allclose(one, each[0], rtol=1e-12)
    np.testing.assert_allclose(value, net(X[0]), rtol=1e-12)
    assert crelle.laplacian(lambda x: torch.cos(x).sum()).plan(x[0].detach()).passes == 1


def test_modules_of_torch():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.tensor(np.asarray(X))
    each = [torch.func.hessian(lambda x: module(x)[0])(row).trace().detach() for row in x]
    found = crelle.laplacian(lambda x: module(x)[:, 0], batched=True)(x)
    np.testing.assert_allclose(found.detach(), torch.stack(each), rtol=1e-12)
    scalar = torch.nn.Sequential(module, torch.nn.Flatten(0)).double()
    np.testing.assert_allclose(crelle.laplacian(scalar, batched=True)(x).detach(), torch.stack(each), rtol=1e-12)


def test_functions_that_cannot_be_traced():
    x = torch.tensor(np.asarray(X[0]))
    lap = crelle.laplacian(lambda x: torch.cos(x).sum() * x[0].item())
    np.testing.assert_allclose(lap(x), -torch.cos(x).sum() * x[0].item(), rtol=1e-12)
    assert any("the whole matrix is computed" in note for note in lap.plan(x).notes)
    assert lap.plan(x).candidates[-1].reason == "f cannot be traced"
    np.testing.assert_allclose(crelle.laplacian(lambda x: np.cos(x).sum())(X_HOST), -np.cos(X_HOST).sum(), rtol=1e-8)
    with pytest.raises(crelle.CrelleValueError, match="f cannot be traced"):
        crelle.laplacian(lambda x: np.cos(x).sum(), mode="forward")(X_HOST)


X_HOST = np.asarray(X[0])


def test_refusals():
    with pytest.raises(crelle.CrelleShapeError, match="f must return a scalar, and returned f64"):
        crelle.laplacian(lambda x: x)(X[0])
    with pytest.raises(crelle.CrelleShapeError) as error:
        crelle.laplacian(lambda X: (X - X.mean(0)).sum(1) ** 2, batched=True)(X)
    assert str(error.value).startswith(
        "crelle.laplacian(f): batched=True, and samples are coupled: sample 0 of the output reads sample 1 of the input"
    )
    with pytest.raises(crelle.CrelleShapeError) as error:
        crelle.laplacian(lambda X: X.sum(), batched=True)(X)
    assert str(error.value) == (
        "crelle.laplacian(f): batched=True, and f returned an array of shape []\n"
        "  expected  one number for each sample: an array of shape [B]\n"
        "  try       leave batched= out if f returns a scalar, or f(x)[:, 0]"
    )
    with pytest.raises(crelle.CrelleShapeError, match="f does not map a batch to a batch"):
        crelle.laplacian(lambda X: X.sum(0), batched=True)(X)
    with pytest.raises(crelle.CrelleValueError) as error:
        crelle.laplacian(net, mode="fast")
    assert str(error.value) == (
        "mode='fast' is not known to crelle.laplacian\n  expected  'auto' | 'coloured' | 'forward'"
    )
    with pytest.raises(crelle.CrelleTypeError, match="f is not a function"):
        crelle.laplacian(3)
    with pytest.raises(crelle.CrelleValueError) as error:
        crelle.laplacian(lambda x: x @ x, mode="forward")(X[0])
    assert str(error.value) == (
        "crelle.laplacian(f): mode='forward' cannot be used here\n"
        "  called  x: f64[6]\n"
        "  likely  the diagonal is the same for every input: nothing is run\n"
        "  try     mode='coloured', or leave mode= out"
    )
