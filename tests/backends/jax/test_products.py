"""jvp, vjp and hvp of JAX functions against ``jax.jvp``, ``jax.vjp`` and nested ``jax.grad``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle

RTOL = 1e-12


def same(got, expected):
    """Equal trees, shapes and dtypes, and values to 1e-12 of the largest entry."""
    got_leaves, got_tree = jax.tree.flatten(got)
    expected_leaves, expected_tree = jax.tree.flatten(expected)
    assert got_tree == expected_tree
    for a, b in zip(got_leaves, expected_leaves, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = max(float(np.abs(b).max(initial=0.0)), 1e-300)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=RTOL, atol=RTOL * scale)


def wide(x):
    return jnp.stack([jnp.sin(x[0]) * x[1], x[1] * x[2] ** 2])


def tree_function(params, x):
    hidden = jnp.tanh(params["w"] @ x + params["b"][0])
    return {"h": hidden, "s": (jnp.sum(hidden**2),)}


@pytest.fixture
def tree(rng):
    params = {"w": jnp.asarray(rng.standard_normal((4, 3))), "b": [jnp.asarray(rng.standard_normal(4))]}
    return params, jnp.asarray(rng.standard_normal(3))


def like(tree, rng):
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), tree)


CASES = {
    "vector": (wide, lambda rng: (jnp.asarray(rng.standard_normal(3)),)),
    "scalar": (jnp.exp, lambda rng: (jnp.asarray(0.3),)),
    "matrix": (lambda x: x.T @ x, lambda rng: (jnp.asarray(rng.standard_normal((2, 3))),)),
    "empty in": (lambda x: jnp.ones(2) * jnp.sum(x), lambda rng: (jnp.zeros((0, 3)),)),
    "empty out": (lambda x: x[:0], lambda rng: (jnp.ones(3),)),
    "two arguments": (lambda x, y: jnp.outer(x, y), lambda rng: (jnp.ones(2), jnp.arange(3.0))),
    "unused": (lambda x, y: 2 * x, lambda rng: (jnp.ones(2), jnp.arange(3.0))),
    "float32": (jnp.sin, lambda rng: (jnp.arange(3, dtype=jnp.float32),)),
    "complex": (lambda z: z**2 * 1j, lambda rng: (jnp.asarray(rng.standard_normal(3) + 1j),)),
    "complex out": (lambda x: x * (1 + 2j), lambda rng: (jnp.arange(3.0),)),
    "complex in": (lambda z: jnp.abs(z) ** 2, lambda rng: (jnp.asarray(rng.standard_normal(3) + 1j),)),
}


@pytest.mark.parametrize("case", CASES)
def test_jvp_is_that_of_jax(case, rng):
    f, make = CASES[case]
    primals = make(rng)
    tangents = like(primals, rng)
    same(crelle.jvp(f, primals, tangents), jax.jvp(f, primals, tangents))


@pytest.mark.parametrize("case", CASES)
def test_vjp_is_that_of_jax(case, rng):
    f, make = CASES[case]
    primals = make(rng)
    value, pull = crelle.vjp(f, *primals)
    expected, expected_pull = jax.vjp(f, *primals)
    cotangent = like(expected, rng)
    same(value, expected)
    same(pull(cotangent), expected_pull(cotangent))
    assert isinstance(pull(cotangent), tuple)


def test_trees(tree, rng):
    tangents = like(tree, rng)
    same(crelle.jvp(tree_function, tree, tangents), jax.jvp(tree_function, tree, tangents))
    value, pull = crelle.vjp(tree_function, *tree)
    cotangent = like(value, rng)
    same(pull(cotangent), jax.vjp(tree_function, *tree)[1](cotangent))


def test_lists_of_primals_are_taken_as_jax_takes_them():
    x = jnp.arange(3.0)
    same(crelle.jvp(jnp.sin, [x], [x]), jax.jvp(jnp.sin, [x], [x]))


def test_numbers_beside_arrays():
    x = jnp.arange(3.0)
    same(crelle.jvp(lambda x, s: x * s, (x, 2.0), (x, 1.0)), jax.jvp(lambda x, s: x * s, (x, 2.0), (x, 1.0)))


def test_aux_of_any_kind():
    x = jnp.arange(3.0)
    f = lambda x: (jnp.sum(x**2), {"x": x, "name": "norm"})
    value, product, aux = crelle.jvp(f, (x,), (x,), has_aux=True)
    assert (float(value), float(product), aux["name"]) == (5.0, 10.0, "norm")
    value, pull, aux = crelle.vjp(f, x, has_aux=True)
    same(pull(jnp.asarray(1.0)), (2 * x,))
    same(aux["x"], x)


def loss(x):
    return jnp.sum(jnp.sin(x) * jnp.roll(x, 1) ** 2)


def test_hvp_is_the_hessian_times_the_vector(rng):
    x, v = jnp.asarray(rng.standard_normal((2, 5)))
    same(crelle.hvp(loss, (x,), (v,)), jax.hessian(loss)(x) @ v)
    value, product = crelle.hvp(loss, (x,), (v,), value=True)
    same(value, loss(x))
    same(product, jax.jvp(jax.grad(loss), (x,), (v,))[1])


def test_hvp_of_trees_and_several_arguments(tree, rng):
    f = lambda params, x: tree_function(params, x)["s"][0]
    tangents = like(tree, rng)
    expected = jax.jvp(jax.grad(f, (0, 1)), tree, tangents)[1]
    same(crelle.hvp(f, tree, tangents), expected)


def test_hvp_of_a_scalar_and_of_nothing():
    same(crelle.hvp(jnp.sin, (jnp.asarray(0.5),), (jnp.asarray(2.0),)), -2 * jnp.sin(jnp.asarray(0.5)))
    empty = jnp.zeros((0, 2))
    same(crelle.hvp(lambda x: jnp.sum(x**2), (empty,), (empty,)), empty)


def test_under_transformations(rng):
    x, v = jnp.asarray(rng.standard_normal((2, 4, 3)))
    jvp = lambda f, x, v: f(wide, (x,), (v,))[1]
    expected = jax.vmap(lambda x, v: jvp(jax.jvp, x, v))(x, v)
    same(jax.jit(jax.vmap(lambda x, v: jvp(crelle.jvp, x, v)))(x, v), expected)
    same(
        jax.grad(lambda x: jnp.sum(jvp(crelle.jvp, x, v[0]) ** 2))(x[0]),
        jax.grad(lambda x: jnp.sum(jvp(jax.jvp, x, v[0]) ** 2))(x[0]),
    )
    pull = lambda f, x: f(wide, x)[1](jnp.ones(2))[0]
    same(jax.jit(jax.vmap(lambda x: pull(crelle.vjp, x)))(x), jax.vmap(lambda x: pull(jax.vjp, x))(x))
    same(jax.jacfwd(lambda x: pull(crelle.vjp, x))(x[0]), jax.jacfwd(lambda x: pull(jax.vjp, x))(x[0]))
    hvp = lambda x, v: crelle.hvp(loss, (x,), (v,))
    same(jax.jit(jax.vmap(hvp))(x, v), jax.vmap(lambda x, v: jax.hessian(loss)(x) @ v)(x, v))
    same(
        jax.grad(lambda x: hvp(x, v[0])[0])(x[0]),
        jax.grad(lambda x: (jax.hessian(loss)(x) @ v[0])[0])(x[0]),
    )


def test_vjp_function_leaves_a_jitted_function(rng):
    """As that of ``jax.vjp``: it is a pytree, and its trace is found again."""
    traces = []

    @jax.jit
    def linearised(x):
        traces.append(None)
        return crelle.vjp(wide, x)

    x = jnp.asarray(rng.standard_normal(3))
    for point in (x, 2 * x):
        value, pull = linearised(point)
        same(value, wide(point))
        same(jax.jit(lambda pull: pull(jnp.ones(2)))(pull), jax.vjp(wide, point)[1](jnp.ones(2)))
    assert len(traces) == 1


def test_of_our_own_transforms(rng):
    x, v = jnp.asarray(rng.standard_normal((2, 3)))
    same(crelle.jvp(crelle.gradient(loss), (x,), (v,))[1], crelle.hvp(loss, (x,), (v,)))
    same(
        crelle.jacobian(lambda x: crelle.jvp(wide, (x,), (v,))[1])(x), jax.jacfwd(lambda x: jax.jacfwd(wide)(x) @ v)(x)
    )


@jax.custom_vjp
def reverse_only(x):
    return jnp.sin(x)


# the rule calls the function again: a second derivative meets it a second time
reverse_only.defvjp(lambda x: (reverse_only(x), x), lambda x, u: (jnp.cos(x) * u,))


def one_branch(x):
    return jax.lax.cond(x[0] > 100, lambda x: x * jnp.tanh(x) @ x, lambda x: reverse_only(x)[0], x) * x


@pytest.mark.parametrize(
    ("f", "g"),
    [
        (lambda x: reverse_only(x) * x[::-1], lambda x: jnp.sin(x) * x[::-1]),
        (lambda x: jax.jit(reverse_only)(x) * x[::-1], lambda x: jnp.sin(x) * x[::-1]),
        (one_branch, lambda x: jnp.sin(x)[0] * x),
    ],
)
def test_a_function_with_a_reverse_rule_alone(f, g, rng):
    x, v = jnp.asarray(rng.standard_normal((2, 3)))
    total = lambda f: lambda x: jnp.sum(f(x) ** 2)
    aux = lambda x: (f(x), "aux")
    for wrap in (lambda call: call, jax.jit, lambda call: lambda x: jax.vmap(call)(x[None])[0]):
        same(wrap(lambda x: crelle.jvp(f, (x,), (v,))[1])(x), jax.jvp(g, (x,), (v,))[1])
        same(wrap(lambda x: crelle.jvp(aux, (x,), (v,), has_aux=True)[1])(x), jax.jvp(g, (x,), (v,))[1])
        same(wrap(lambda x: crelle.hvp(total(f), (x,), (v,)))(x), jax.hessian(total(g))(x) @ v)


def test_a_reverse_rule_that_is_not_linear():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), None), lambda _, u: (jnp.clip(u, -1, 1),))
    x = jnp.arange(3.0)
    with pytest.raises(crelle.CrelleTypeError, match="its backward rule cannot be transposed\n  likely  the back"):
        crelle.jvp(f, (x,), (x,))


def test_integers_beside_others_have_zeros_as_in_jax():
    x, i = jnp.arange(3.0), jnp.arange(3)
    f = lambda x, i: x * i
    zero = np.zeros(3, jax.dtypes.float0)
    same(crelle.jvp(f, (x, i), (x, zero)), jax.jvp(f, (x, i), (x, zero)))
    (slope, nothing) = crelle.vjp(f, x, i)[1](x)
    same(slope, x * i)
    assert nothing.dtype == jax.dtypes.float0


def test_integers_alone_are_refused():
    i = jnp.arange(3)
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.vjp(lambda i: 2.0 * i, i)
    assert str(caught.value) == (
        "crelle.vjp(f): i is i64[3], and only floating-point arguments have a derivative\n"
        "  called  i64[3]\n"
        "  likely  an integer or boolean array where a float was meant\n"
        "  try     convert it to floating point, or close over it"
    )
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.jvp(lambda i: 2.0 * i, (i,), (i,))
    assert str(caught.value) == (
        "crelle.jvp(f): tangent for primal i64[3], which is not floating point and has no derivative\n"
        "  likely  an integer or boolean array where a float was meant\n"
        "  try     convert the primal to floating point, or close over it; a tangent of dtype float0 is zero"
    )


def test_dtypes_must_agree_as_in_jax():
    x = jnp.arange(3.0)
    with pytest.raises(crelle.CrelleShapeError, match=r"tangent f32\[3\] for primal f64\[3\]"):
        crelle.jvp(jnp.sin, (x,), (x.astype(jnp.float32),))
    with pytest.raises(crelle.CrelleShapeError, match=r"cotangent f32\[3\] for output f64\[3\]"):
        crelle.vjp(jnp.sin, x)[1](x.astype(jnp.float32))


def test_errors_are_raised_under_jit():
    x = jnp.arange(3.0)
    with pytest.raises(crelle.CrelleShapeError, match=r"tangent f64\[2\] for primal f64\[3\]"):
        jax.jit(lambda x: crelle.jvp(jnp.sin, (x,), (x[:2],)))(x)
