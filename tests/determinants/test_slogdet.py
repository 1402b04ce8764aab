"""slogdet of functions of all kinds, against the dense Jacobian; what it refuses; how it explains itself."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.determinants._recipe import recipe_of
from tests.determinants.flows import dense, host

TOLERANCE = 1e-10


def agree(found, expected):
    found = host(found)
    np.testing.assert_allclose(found[0], expected[0], atol=TOLERANCE)
    np.testing.assert_allclose(found[1], expected[1], atol=TOLERANCE, rtol=TOLERANCE)


def tridiagonal(x):
    up = jnp.concatenate([jnp.zeros(1), x, jnp.zeros(1)])
    return 3 * x + x**2 + jnp.sin(up[2:]) - 0.5 * up[:-2] * x


def tridiagonal_torch(x):
    up = torch.nn.functional.pad(x, (1, 1))
    return 3 * x + x**2 + torch.sin(up[2:]) - 0.5 * up[:-2] * x


W = np.random.default_rng(5).standard_normal((6, 6))
FUNCTIONS = {
    "dense": lambda x: jnp.tanh(W @ x) + x[0] * x,
    "two dense layers": lambda x: W @ jnp.tanh(W.T @ x),
    "scalar": lambda x: x * jnp.exp(x) if x.shape == () else x[..., ::-1] ** 3,
    "tree": lambda x: {"b": x[:2] * x[2:4], "a": (jnp.cos(x[3:]), x[:1] + x[5])},
    "triangular by a scan": lambda x: jax.lax.scan(lambda c, v: (c + v, v * jnp.exp(c)), 0.0, x)[1],
    "cumulative": lambda x: jnp.cumsum(x**2),
    "sorted": lambda x: jnp.sort(x) * 2,
    "shuffled": lambda x: (x**3)[jnp.array([3, 0, 5, 1, 2, 4])],
    "reshaped": lambda x: (x.reshape(2, 3).T @ W[:2, :2] + x.reshape(3, 2) ** 2).ravel(),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda _, v: v + 0.1 * jnp.roll(v, 1) * v, x),
    "branch": lambda x: jax.lax.cond(x[0] > 0, lambda v: v**2, lambda v: W @ v, x),
    "custom rule": lambda x: jax.nn.silu(x) + jnp.roll(jax.nn.relu(x), 2) * x,
    "linear solve": lambda x: jnp.linalg.solve(W + 5 * jnp.eye(6), x) * x[0],
    "constant": lambda x: W @ x,
    "identity": lambda x: x,
    "differences": lambda x: jnp.concatenate([1 - x[:3], jnp.cos(x[:3]) - x[3:]]),
    "negated": lambda x: -x[::-1],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_jax(name, rng):
    f = FUNCTIONS[name]
    x = jnp.asarray(rng.standard_normal(6))
    S = crelle.slogdet(f)

    def flat(x):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(f(x))])

    for at in (x, 2 * x):
        agree(S(at), dense(flat, at))
    reference = jax.grad(lambda x: jnp.linalg.slogdet(jax.jacfwd(flat)(x))[1])(x)
    np.testing.assert_allclose(jax.grad(lambda x: S(x).logabsdet)(x), reference, atol=1e-9, rtol=1e-9)


TORCH = {
    "dense": lambda x: torch.tanh(torch.from_numpy(W) @ x) + x[0] * x,
    "two dense layers": lambda x: torch.from_numpy(W) @ torch.tanh(torch.from_numpy(W.T.copy()) @ x),
    "tree": lambda x: {"b": x[:2] * x[2:4], "a": (torch.cos(x[3:]), x[:1] + x[5])},
    "cumulative": lambda x: torch.cumsum(x**2, 0),
    "sorted": lambda x: torch.sort(x)[0] * 2,
    "shuffled": lambda x: (x**3)[torch.tensor([3, 0, 5, 1, 2, 4])],
    "written in place": lambda x: torch.stack([x[k] * x[:k].sum().exp() for k in range(6)]).mul_(2),
    "activation": lambda x: torch.nn.functional.silu(x) + torch.roll(torch.relu(x), 2) * x,
    "identity": lambda x: x.clone(),
    "differences": lambda x: torch.cat([1 - x[:3], torch.cos(x[:3]) - x[3:]]),
    "scaled sum": lambda x: torch.cat([x[:3] + 0, torch.add(torch.cos(x[:3]), x[3:], alpha=-2)]),
    "negated": lambda x: -x.flip(0) * 1,
}


@pytest.mark.parametrize("name", TORCH)
def test_functions_of_pytorch(name, rng):
    f = TORCH[name]
    x = torch.from_numpy(rng.standard_normal(6)).requires_grad_()
    S = crelle.slogdet(f)

    def flat(x):
        return torch.cat([leaf.ravel() for leaf in torch.utils._pytree.tree_leaves(f(x))])

    agree(S(x), dense(flat, x))
    reference, logarithm = torch.linalg.slogdet(torch.func.jacrev(flat)(x) + 0 * x).logabsdet, S(x).logabsdet
    reference = torch.autograd.grad(reference, x)[0]
    mine = torch.autograd.grad(logarithm, x)[0] if logarithm.requires_grad else torch.zeros_like(x)
    torch.testing.assert_close(mine, reference, atol=1e-9, rtol=1e-9)


def test_scalars_and_nothing():
    agree(crelle.slogdet(lambda x: x**3)(jnp.asarray(-2.0)), (1.0, np.log(12.0)))
    agree(crelle.slogdet(lambda x: -x)(torch.tensor(2.0).double()), (-1.0, 0.0))
    for empty in (jnp.zeros(0), torch.zeros(0).double(), np.zeros(0)):
        agree(crelle.slogdet(lambda x: x * 2)(empty), (1.0, 0.0))


def test_arguments_and_what_stands_beside(rng):
    x, y = (jnp.asarray(rng.standard_normal(3)) for _ in range(2))

    def f(x, y, *, scale):
        return {"out": jnp.concatenate([x * y, x + scale * y])}, {"n": 3, "sum": x.sum()}

    S = crelle.slogdet(f, argnums=(0, 1), has_aux=True, value=True)
    (out, aux), found = S(x, y, scale=2.0)
    agree(found, dense(lambda z: f(z[:3], z[3:], scale=2.0)[0]["out"], jnp.concatenate([x, y])))
    np.testing.assert_array_equal(out["out"], f(x, y, scale=2.0)[0]["out"])
    assert aux["n"] == 3
    assert aux["sum"] == x.sum()
    found, aux = crelle.slogdet(lambda x: (x * torch.ones(2), "kept"), has_aux=True)(torch.ones(2))
    assert aux == "kept"
    value, found = crelle.slogdet(lambda x: 3 * x, value=True)(np.ones(2))
    np.testing.assert_array_equal(value, [3.0, 3.0])
    assert isinstance(found, crelle.SlogdetResult)
    sign, logarithm = found
    assert (sign, round(float(logarithm), 6)) == (1.0, round(2 * np.log(3), 6))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype):
    for x, d in ((jnp.ones(3, dtype), jnp.dtype(dtype)), (torch.ones(3, dtype=getattr(torch, dtype)), None)):
        found = crelle.slogdet(lambda x: 2 * x)(x)
        assert {found.sign.dtype, found.logabsdet.dtype} == {d or x.dtype}
        assert abs(float(found.logabsdet) - 3 * np.log(2)) < 0.01


# -- large blocks


@pytest.mark.parametrize("n", [300, 1000])
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_banded_blocks_by_sparse_factors(framework, n, rng):
    values = rng.uniform(0.5, 1.5, n)
    f, x = (tridiagonal, jnp.asarray(values)) if framework == "jax" else (
        tridiagonal_torch, torch.from_numpy(values).requires_grad_())  # fmt: skip
    S = crelle.slogdet(f)
    agree(S(x), dense(f, x))
    plan = S.plan(x)
    assert plan.passes == 3
    assert f"sparse blocks by SuperLU on the host: {n:,}×{n:,}" in plan.notes
    if n == 1000:
        return
    if framework == "jax":
        mine = jax.grad(lambda x: S(x).logabsdet)(x)
        theirs = jax.grad(lambda x: jnp.linalg.slogdet(jax.jacfwd(f)(x))[1])(x)
        np.testing.assert_allclose(jax.jit(lambda x: S(x).logabsdet)(x), S(x).logabsdet, rtol=1e-13)
        X = jnp.stack([x, 2 * x])
        np.testing.assert_allclose(jax.vmap(lambda x: S(x).logabsdet)(X)[1], dense(f, 2 * x)[1], rtol=1e-12)
    else:
        mine = torch.autograd.grad(S(x).logabsdet, x)[0]
        theirs = torch.autograd.grad(torch.linalg.slogdet(torch.func.jacrev(f)(x)).logabsdet, x)[0]
    np.testing.assert_allclose(mine, theirs, atol=1e-10)


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_products_come_in_chunks_where_memory_is_short(framework, rng, monkeypatch):
    monkeypatch.setattr(crelle.determinants._factors, "CHUNK_BYTES", 1000)
    if framework == "jax":
        f, x = (lambda x: jnp.tanh(W @ x)), jnp.asarray(rng.standard_normal(6))
    else:
        f, x = (lambda x: torch.tanh(torch.from_numpy(W) @ x)), torch.from_numpy(rng.standard_normal(6))
    agree(crelle.slogdet(f)(x), dense(f, x))
    monkeypatch.setattr(crelle.determinants._factors, "CHUNK_BYTES", 200)
    S = crelle.slogdet(f, check=False)
    agree(S(2 * x), dense(f, 2 * x))


def test_inference_mode(rng):
    x, layer = torch.from_numpy(rng.standard_normal(6)), torch.nn.Linear(6, 6).double()
    S = crelle.slogdet(layer)
    expected = np.linalg.slogdet(layer.weight.detach().numpy())
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            agree(S(x), expected)
            agree(S(x * 1), expected)


def test_signs_of_sparse_factors(rng):
    n = 301
    order = rng.permutation(n)

    def f(x):
        return tridiagonal(x)[jnp.asarray(order)] - 4.5 * x[jnp.asarray(order)]

    for k in range(4):
        x = jnp.asarray(rng.standard_normal(n) + 0.1 * k)
        agree(crelle.slogdet(f)(x), dense(f, x))


# -- singular matrices


def test_singular_at_a_point():
    for x in (jnp.array([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, 2.0]).double(), np.array([1.0, 0.0, 2.0])):
        found = host(crelle.slogdet(lambda x: x**2)(x))
        assert found[0] == 0
        assert found[1] == -np.inf or isinstance(x, np.ndarray)


@pytest.mark.parametrize("at", [jnp.ones(4), torch.ones(4).double()])
def test_singular_whatever_the_point(at):
    twice = crelle.slogdet(lambda x: x[:2].repeat(2) * 1.0)
    missing = crelle.slogdet(lambda x: x * (x.shape[0] > 4))
    narrow = crelle.slogdet(
        lambda x: x.sum() * x.detach() if hasattr(x, "detach") else x.sum() * jax.lax.stop_gradient(x)
    )
    for S in (twice, missing, narrow):
        found = host(S(at))
        assert found == (0, -np.inf)
        plan = S.plan(at)
        assert plan.passes == 0
        assert "structurally singular" in plan.notes[0]
    agree(crelle.slogdet(lambda x: x * 0, batched=True)(at[:, None]), (np.zeros(4), np.full(4, -np.inf)))


def test_singular_large_sparse_blocks():
    S = crelle.slogdet(lambda x: jnp.sin(jnp.roll(x, 1) - x))  # the rows of the differences add up to zero
    x = jnp.arange(300.0)
    assert host(S(x)) == (0, -np.inf)
    assert "sparse blocks by SuperLU on the host: 300×300" in S.plan(x).notes


# -- complex


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_holomorphic_functions(framework, rng):
    M = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4))
    z = rng.standard_normal(4) + 1j * rng.standard_normal(4)
    J = M @ np.diag(np.exp(z)) * 2
    if framework == "jax":
        found = crelle.slogdet(lambda z: M @ jnp.exp(z) * 2)(jnp.asarray(z))
    else:
        found = crelle.slogdet(lambda z: torch.from_numpy(M) @ torch.exp(z) * 2)(torch.from_numpy(z))
    agree(found, np.linalg.slogdet(J))


def test_functions_that_are_not_holomorphic():
    z, w = jnp.ones(2) + 1j, torch.ones(2) + 1j
    for f, at in ((jnp.conj, z), (lambda z: jnp.conj(z) * z, z), (lambda z: abs(z) * z, z),
                  (torch.conj, w), (lambda z: torch.conj(z) * z, w)):  # fmt: skip
        with pytest.raises(crelle.CrelleTypeError, match="f is not holomorphic, and has no complex Jacobian"):
            crelle.slogdet(lambda z, f=f: f(z))(at)


def test_large_complex_blocks(rng):
    n = 300
    z = rng.standard_normal(n) + 1j * rng.standard_normal(n)
    agree(crelle.slogdet(tridiagonal)(jnp.asarray(z)),
          np.linalg.slogdet(np.asarray(jax.jacfwd(tridiagonal, holomorphic=True)(jnp.asarray(z)))))  # fmt: skip

    def phase(z):  # the sign of a complex determinant depends on z, too
        sign, log = crelle.slogdet(tridiagonal_torch)(z)
        return (sign * (1 + 2j)).real + log

    def reference(z):
        # the matrix by hand: torch.func does not take derivatives of complex functions
        J = torch.diag(3 + 2 * z - 0.5 * torch.nn.functional.pad(z, (1, 0))[:-1])
        J = J + torch.diag(torch.cos(z[1:]), 1) + torch.diag(-0.5 * z[1:], -1)
        sign, log = torch.linalg.slogdet(J)
        return (sign * (1 + 2j)).real + log

    at = torch.from_numpy(z).requires_grad_()
    mine, theirs = (torch.autograd.grad(f(at), at)[0] for f in (phase, reference))
    torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)


# -- other ways


def test_numpy_functions(rng):
    x = rng.standard_normal(3)
    f = lambda x: np.array([x[0] * x[1], x[1] ** 3, np.exp(x[2]) + x[0]])
    J = np.array([[x[1], x[0], 0], [0, 3 * x[1] ** 2, 0], [1, 0, np.exp(x[2])]])
    S = crelle.slogdet(f)
    found = S(x)
    np.testing.assert_allclose(host(found), np.linalg.slogdet(J), atol=1e-8)
    assert S.plan(x).kind == "slogdet"
    X = rng.standard_normal((4, 3))
    found = crelle.slogdet(lambda X: np.stack([f(x) for x in X]), batched=True)(X)
    assert found.sign.shape == (4,)
    np.testing.assert_allclose(found.logabsdet[0], host(S(X[0]))[1], atol=1e-8)


def test_patterns_of_numpy_functions(rng):
    def f(x):
        return 3 * x + x**2 + np.sin(np.append(x[1:], 0)) - 0.5 * np.append(0, x[:-1]) * x

    for n in (5, 300):
        x = rng.uniform(0.5, 1.5, n)
        S = crelle.slogdet(f, pattern=np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1)
        np.testing.assert_allclose(host(S(x)), dense(tridiagonal, jnp.asarray(x)), atol=1e-7)
        assert S.plan(x).passes < 2 * 3 * 3
    each = crelle.slogdet(lambda X: X**2, pattern=np.eye(4), batched=True)(np.array([[1.0, 2.0], [-3.0, 0.5]]))
    np.testing.assert_allclose(host(each), [[1, -1], np.log([8, 6])], atol=1e-7)
    assert host(crelle.slogdet(lambda x: x * 0, pattern=np.diag([1, 0]))(np.ones(2))) == (0, -np.inf)


def test_functions_that_cannot_be_traced(rng):
    def f(x):
        return x**2 if x[0] > 0 else -x

    for x in (jnp.asarray([2.0, 3.0]), torch.tensor([2.0, 3.0])):
        S = crelle.slogdet(f)
        agree(S(x), (1.0, np.log(24.0).astype(np.asarray(x).dtype)) if not isinstance(x, torch.Tensor) else
              (1.0, np.float32(np.log(24.0))))  # fmt: skip
        assert S.plan(x).notes[0].startswith("not factored: f ")


def test_patterns_of_the_user(rng):
    n = 40
    pattern = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1
    x = jnp.asarray(rng.uniform(0.5, 1.5, n))
    S = crelle.slogdet(tridiagonal, pattern=pattern)
    agree(S(x), dense(tridiagonal, x))
    assert S.plan(x).passes == 3
    t = torch.from_numpy(np.array(x))
    agree(crelle.slogdet(tridiagonal_torch, pattern=pattern)(t), dense(tridiagonal_torch, t))
    lower = crelle.slogdet(lambda x: x**2, pattern=np.eye(n), batched=True)
    agree(lower(x[:, None]), (np.ones(n), np.log(2 * x)))


def test_inside_of_transformations_of_pytorch(rng):
    X = torch.from_numpy(rng.standard_normal((3, 4)))
    f = lambda x: x**3 + x.flip(0)
    found = torch.vmap(lambda x: crelle.slogdet(f)(x).logabsdet)(X)
    np.testing.assert_allclose(found, [dense(f, x)[1] for x in X], atol=TOLERANCE)
    gradient = torch.func.grad(lambda x: crelle.slogdet(f)(x).logabsdet)(X[0])
    expected = torch.func.grad(lambda x: torch.linalg.slogdet(torch.func.jacfwd(f)(x)).logabsdet)(X[0])
    torch.testing.assert_close(gradient, expected)


def test_captured_values_are_never_stale(rng):
    scale = {"by": jnp.ones(3)}
    S = crelle.slogdet(lambda x: x * scale["by"])
    x = jnp.ones(3)
    agree(S(x), (1.0, 0.0))
    scale["by"] = jnp.array([2.0, 0.0, 1.0])
    agree(S(x), (0.0, -np.inf))
    scale["by"] = jnp.array([2.0, 3.0, 1.0])
    agree(S(x), (1.0, np.log(6.0)))
    buffer = torch.ones(3).double()
    S = crelle.slogdet(lambda x: x * buffer)
    agree(S(torch.ones(3).double()), (1.0, 0.0))
    buffer[1] = 0
    agree(S(torch.ones(3).double()), (0.0, -np.inf))
    buffer[1] = -3
    agree(S(torch.ones(3).double()), (-1.0, np.log(3.0)))


# -- refusals


def test_matrices_that_are_not_square():
    for x in (jnp.ones(3), torch.ones(3).double(), np.ones(3)):
        with pytest.raises(crelle.CrelleShapeError) as caught:
            crelle.slogdet(lambda x: x[:2])(x)
        text = str(caught.value)
        assert text.startswith("crelle.slogdet(f): the Jacobian is 2 × 3, and only square matrices have a determinant")
        assert ("called    x: f64[3] -> f64[2]" if not isinstance(x, np.ndarray) else "called") in text
    with pytest.raises(crelle.CrelleShapeError, match="has_aux=True for what f returns beside its output"):
        crelle.slogdet(lambda x: (x, x.sum()))(jnp.ones(3))


def test_batches_that_are_none():
    with pytest.raises(crelle.CrelleValueError) as caught:
        crelle.slogdet(lambda X: X - X.mean(0), batched=True)(jnp.ones((3, 2)))
    text = str(caught.value)
    assert text.startswith("crelle.slogdet(f): batched=True, and samples read each other")
    assert "entry (0, 4) of the Jacobian may be nonzero: sample 0 of the output reads sample 2 of the input" in text
    with pytest.raises(crelle.CrelleValueError, match="samples read each other"):
        crelle.slogdet(lambda X: torch.cat([X[1:], X[:1]]), batched=True)(torch.ones(3, 2))
    with pytest.raises(crelle.CrelleValueError, match="samples read each other"):
        crelle.slogdet(lambda X: X - X.mean(0), batched=True)(np.ones((3, 2)))
    with pytest.raises(crelle.CrelleShapeError, match="needs one batch axis"):
        crelle.slogdet(lambda X: X.ravel(), batched=True)(jnp.ones((3, 2)))
    with pytest.raises(crelle.CrelleTypeError, match="batched=1 is not a flag"):
        crelle.slogdet(lambda X: X, batched=1)


def test_wrong_answers_are_found(rng, monkeypatch):
    x = jnp.asarray(rng.uniform(1, 2, 8))
    with pytest.raises(crelle.CrelleCheckError, match="the sparse result is wrong"):
        crelle.slogdet(tridiagonal, pattern=np.eye(8))(x)
    monkeypatch.setattr(
        crelle.determinants._transform, "recipe_of", lambda *given: replace(recipe_of(*given), signs=np.array([-1]))
    )
    with pytest.raises(crelle.CrelleCheckError, match="the determinant by structure is wrong"):
        crelle.slogdet(lambda x: x**5)(x)
    assert crelle.slogdet(lambda x: x**5, check=False)(x).sign == -1


def test_plans_and_names(rng):
    def layer(x):
        return x[::-1] ** 3

    S = crelle.slogdet(layer)
    assert repr(S) == "crelle.slogdet(layer)"
    assert repr(crelle.slogdet(layer, batched=True)) == "crelle.slogdet(layer, batched=True)"
    x = jnp.asarray(rng.uniform(1, 2, 8))
    plan = S.plan(x)
    assert plan.checked == ""
    S(x)
    lines = str(S.plan(x)).splitlines()
    assert lines[0].startswith("Slogdet of layer: f64[8] -> f64[8]")
    assert lines[1].split()[:5] == ["chosen", "by", "structure", "1", "JVP"]
    assert any(line.startswith("  output    (sign, log|det|), each f64[]") for line in lines)
    assert any("against the dense Jacobian, log|det| differs by" in line for line in lines)
    assert S.plan(jax.ShapeDtypeStruct((8,), jnp.float64)).passes == 1
