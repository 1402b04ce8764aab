"""Diagonals, traces, sums and norms of derivatives against the dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle._norms import question

RNG = np.random.default_rng(11)
ASKED = ("diagonal", "row_sums", "col_sums", "row_norms", "col_norms", "frobenius_norm")


def answers(matrix):
    """What every question has for an answer, from the dense matrix."""
    return {
        "diagonal": np.diagonal(matrix),
        "row_sums": matrix.sum(1),
        "col_sums": matrix.sum(0),
        "row_norms": np.linalg.norm(matrix, axis=1),
        "col_norms": np.linalg.norm(matrix, axis=0),
        "frobenius_norm": np.linalg.norm(matrix),
    }


def tall(x):
    return jnp.concatenate([jnp.sin(x) * x[0], x[1:] * x[:-1], jnp.zeros(1)])


def wide(x):
    return jnp.cumsum(x)[2:5] ** 2


@pytest.mark.parametrize("f", [tall, wide, lambda x: jnp.tanh(x), lambda x: x.reshape(2, 3) ** 2])
def test_jacobians(f):
    x = jnp.asarray(RNG.uniform(0.5, 1.5, 6))
    out = jnp.shape(f(x))
    matrix = np.asarray(jax.jacfwd(f)(x)).reshape(-1, 6)
    J = crelle.jacobian(f)
    shapes = {"row_sums": out, "row_norms": out, "col_sums": (6,), "col_norms": (6,), "frobenius_norm": ()}
    for name, expected in answers(matrix).items():
        found = getattr(J, name)(x)
        assert found.shape == shapes.get(name, (min(matrix.shape),))
        np.testing.assert_allclose(np.ravel(found), np.ravel(expected), rtol=1e-12, atol=1e-14, err_msg=name)
        if f is tall:
            under = jax.jit(jax.vmap(getattr(J, name)))(x[None])[0]
            np.testing.assert_allclose(under, found, rtol=1e-12, atol=1e-14)


def test_shapes_are_those_of_inputs_and_outputs():
    def f(p):
        return {"u": p["w"] @ p["b"], "v": (p["b"].sum() ** 2, p["w"][0])}

    p = {"w": jnp.asarray(RNG.normal(size=(2, 3))), "b": jnp.asarray(RNG.normal(size=3))}
    J = crelle.jacobian(f)
    flat = np.asarray(crelle.jacobian(f, flatten=True)(p))
    for name, expected in answers(flat).items():
        found = getattr(J, name)(p)
        like = f(p) if name.startswith("row") else p if name.startswith("col") else jnp.zeros(())
        assert jax.tree.structure(found) == jax.tree.structure(like)
        if name != "diagonal":
            assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, like)
        np.testing.assert_allclose(np.concatenate([np.ravel(v) for v in jax.tree.leaves(found)]), np.ravel(expected),
                                   rtol=1e-12, atol=1e-14)  # fmt: skip


def test_several_arguments_value_and_aux():
    f = lambda x, y: ({"z": x * y[:2]}, "aux")
    x, y = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 4.0, 5.0])
    J = crelle.jacobian(f, argnums=(0, 1), has_aux=True, value=True)
    for name in ASKED:
        (value, aux), found = getattr(J, name)(x, y)
        np.testing.assert_array_equal(value["z"], [3, 8])
        assert aux == "aux"
        if name.startswith("col"):
            assert [v.shape for v in found] == [(2,), (3,)]
    sums, aux = crelle.jacobian(f, has_aux=True).row_norms(x, y)
    np.testing.assert_allclose(sums["z"], [3, 4])
    assert aux == "aux"
    (one,) = crelle.jacobian(lambda x, y: x * y, argnums=(0,)).col_sums(x, x)
    np.testing.assert_allclose(one, x)


def quartic(x):
    return jnp.sum(x**4) / 12 + jnp.sum(x[1:] ** 2 * x[:-1])


def test_hessians():
    x = jnp.asarray(RNG.uniform(0.5, 1.5, 6))
    matrix = np.asarray(jax.hessian(quartic)(x))
    H = crelle.hessian(quartic)
    for name, expected in answers(matrix).items():
        np.testing.assert_allclose(getattr(H, name)(x), expected, rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(H.trace(x), np.trace(matrix), rtol=1e-12)
    value, sums = crelle.hessian(quartic, value=True).row_sums(x)
    np.testing.assert_allclose(value, quartic(x))
    np.testing.assert_allclose(sums, matrix.sum(1), rtol=1e-12)
    tree = crelle.hessian(lambda p: quartic(jnp.concatenate([p["a"], p["b"]])))
    norms = tree.row_norms({"a": x[:2], "b": x[2:]})
    np.testing.assert_allclose(norms["b"], np.linalg.norm(matrix, axis=1)[2:], rtol=1e-12)
    sums, aux = crelle.hessian(lambda x: (quartic(x), 3), has_aux=True).col_sums(x)
    np.testing.assert_allclose(sums, matrix.sum(0), rtol=1e-12)
    assert aux == 3


def test_each_at_its_own_price():
    x = jnp.ones(50)
    A = jnp.asarray(RNG.normal(size=(50, 50)))

    def passes(name, f, kind="jacobian"):
        return question(name, f, getattr(crelle, kind)(f).request, None).plan(x).passes

    mixed = lambda x: jnp.tanh(x) + A @ x
    assert passes("diagonal", mixed) == passes("trace", mixed) == 1
    band = lambda x: x[1:-1] * (x[2:] - x[:-2])
    assert passes("row_norms", band) == passes("frobenius_norm", band) == 3
    assert passes("diagonal", quartic, "hessian") <= 3
    assert question("trace", mixed, crelle.jacobian(mixed).request, None).plan(x).result == "f64[]"


def test_sums_are_one_product():
    runs = []

    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    @f.defjvp
    def rule(primals, tangents):
        runs.append(1)
        return f(primals[0]), jnp.cos(primals[0]) * tangents[0]

    crelle.jacobian(f).row_sums(jnp.ones(100))
    assert len(runs) == 1


def test_slopes_are_zero_where_a_norm_is():
    f = lambda x: jnp.stack([x[0] ** 2, 0 * x[1], x[0] * x[1]])
    for name in ("row_norms", "col_norms", "frobenius_norm"):
        norm = getattr(crelle.jacobian(f), name)
        slope = jax.grad(lambda x, norm=norm: jnp.sum(norm(x)))(jnp.zeros(2))
        np.testing.assert_array_equal(np.isfinite(slope), True)
    x = jnp.asarray([1.0, 2.0])
    found = jax.grad(lambda x: crelle.jacobian(f).frobenius_norm(x))(x)
    expected = jax.grad(lambda x: jnp.linalg.norm(jax.jacfwd(f)(x)))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_torch():
    A = torch.tensor(RNG.normal(size=(4, 3)))
    f = lambda x: torch.sin(A @ x)
    x = torch.tensor(RNG.normal(size=3), requires_grad=True)
    matrix = torch.func.jacrev(f)(x).detach().numpy()
    for name, expected in answers(matrix).items():
        found = getattr(crelle.jacobian(f), name)(x)
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-12, err_msg=name)
        assert found.requires_grad, name
    zero = crelle.jacobian(lambda x: 0 * x**2).row_norms(torch.zeros(2, dtype=torch.float64, requires_grad=True))
    assert not zero.any()
    params = crelle.jacobian(torch.nn.Linear(3, 2).double(), wrt="params").col_norms(x.detach())
    assert {k: v.shape for k, v in params.items()} == {"weight": (2, 3), "bias": (2,)}


def test_functions_that_cannot_be_traced():
    def f(x):
        return torch.sin(x) * x[0].item()

    x = torch.tensor(RNG.uniform(0.5, 1.5, 3))
    matrix = np.diag(np.cos(x.numpy()) * x[0].item())
    for name, expected in answers(matrix).items():
        np.testing.assert_allclose(getattr(crelle.jacobian(f), name)(x), expected, rtol=1e-12, err_msg=name)
    y = RNG.uniform(0.5, 1.5, 3)
    matrix = np.diag(np.cos(y)) * y[0] + np.outer(np.sin(y), [1, 0, 0])
    for name, expected in answers(matrix).items():
        found = getattr(crelle.jacobian(lambda x: np.sin(x) * x[0]), name)(y)
        np.testing.assert_allclose(found, expected, rtol=1e-8, err_msg=name)
    np.testing.assert_allclose(crelle.jacobian(lambda x: np.sin(x) * x[0]).trace(y), np.trace(matrix), rtol=1e-8)


def test_complex_numbers():
    z = jnp.asarray(RNG.normal(size=4) + 1j * RNG.normal(size=4))
    f = lambda z: jnp.sin(z[1:] * z[:-1])
    matrix = np.asarray(jax.jacfwd(f, holomorphic=True)(z))
    t = torch.tensor(np.asarray(z))
    for name, expected in answers(matrix).items():
        found = getattr(crelle.jacobian(f, holomorphic=True), name)(z)
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=name)
        other = getattr(crelle.jacobian(lambda z: torch.sin(z[1:] * z[:-1]), holomorphic=True), name)(t)
        np.testing.assert_allclose(other, expected, rtol=1e-12, err_msg=name)
    x = jnp.asarray([0.5, 1.0])  # real to complex: columns have complex sums
    found = crelle.jacobian(lambda x: jnp.exp(1j * x) * x.sum()).col_sums(x)
    np.testing.assert_allclose(found, jax.jacfwd(lambda x: jnp.exp(1j * x) * x.sum())(x).sum(0), rtol=1e-12)


def test_nothing_and_scalars():
    nothing = crelle.jacobian(lambda x: x**2)
    for name in ASKED:
        assert not np.any(getattr(nothing, name)(jnp.zeros(0)))
        assert np.ravel(getattr(nothing, name)(jnp.float64(3.0))) == [6]
    assert nothing.row_norms(jnp.float64(3.0)).shape == ()


def test_refusals():
    J, x = crelle.jacobian(tall), jnp.ones(6)
    with pytest.raises(crelle.CrelleShapeError) as error:
        J.trace(x)
    assert str(error.value).startswith(
        "crelle.jacobian(tall).trace: the Jacobian is 12 × 6, and only a square matrix has a trace"
    )
    with pytest.raises(crelle.CrelleTypeError) as error:
        crelle.gradient(quartic).row_norms(x)
    assert str(error.value) == (
        "crelle.gradient(quartic).row_norms: a gradient is no matrix\n  try  crelle.jacobian or crelle.hessian"
    )
    with pytest.raises(crelle.CrelleTypeError, match="asked of the whole matrix, not with rows="):
        crelle.jacobian(tall, rows=[0]).col_norms(x)
    with pytest.raises(crelle.CrelleTypeError, match="part="):
        crelle.jacobian(tall, format="csr", part="lower").row_norms(x)
    with pytest.raises(crelle.CrelleTypeError, match="error=True"):
        crelle.jacobian(lambda x: np.sin(x), error=True).trace(np.ones(2))
    np.testing.assert_allclose(crelle.jacobian(jnp.sin, format="diagonal").trace(x), 6 * np.cos(1), rtol=1e-12)
