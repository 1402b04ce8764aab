"""Products of kept linearisations against dense Jacobians and Hessians; what is compiled, kept and freed."""

from __future__ import annotations

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import crelle

RTOL = 1e-12


def flat_jacobian(f, x, **keywords):
    """The flat matrix [m, n], by jacfwd or jacrev of the raveled function."""
    vector, unravel = ravel_pytree(x)
    ways = {"reverse": jax.jacrev}
    way = ways.get(keywords.pop("by", ""), jax.jacfwd)
    return np.asarray(way(lambda v: ravel_pytree(f(unravel(v)))[0], **keywords)(vector))


def flat_hessian(f, x, **keywords):
    vector, unravel = ravel_pytree(x)
    matrix = jax.jacrev(jax.grad(lambda v: f(unravel(v)), **keywords), **keywords)(vector)
    return np.asarray(matrix).reshape(len(vector), len(vector))


def random_like(tree, seed):
    """Normal numbers, complex where the leaves are."""
    rng = np.random.default_rng(seed)
    leaves, tree_def = jax.tree.flatten(tree)
    made = [rng.standard_normal(jnp.shape(leaf)) for leaf in leaves]
    both = list(zip(made, leaves, strict=True))
    made = [a + 1j * rng.standard_normal(a.shape) if jnp.iscomplexobj(b) else a for a, b in both]
    return jax.tree.unflatten(tree_def, [jnp.asarray(a, jnp.result_type(b)) for a, b in zip(made, leaves, strict=True)])


def close(got, expected, rtol=RTOL):
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-300)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * scale)


def verify(A, matrix, rtol=RTOL, blocks=False):
    """Products with A and its transpose, of vectors and of blocks, and the adjoint test."""
    m, n = matrix.shape
    assert A.shape == (m, n)
    v = random_like(jnp.zeros((n, 3), A.domain.dtype), 1)
    u = random_like(jnp.zeros((m, 3), A.codomain.dtype), 2)
    product, adjoint = (ravel_pytree(one)[0] for one in (A @ v[:, 0], A.T @ u[:, 0]))
    close(product, matrix @ np.asarray(v[:, 0]), rtol)
    close(adjoint, matrix.T @ np.asarray(u[:, 0]), rtol)
    if blocks:
        close(A @ v, matrix @ np.asarray(v), rtol)
        close(A.T @ u, matrix.T @ np.asarray(u), rtol)
        close(A @ v[:, :1], matrix @ np.asarray(v[:, :1]), rtol)
        assert (A @ v[:, :0]).shape == (m, 0)
        close(A.todense(), matrix, rtol)
    left, right = jnp.sum(product * u[:, 0]), jnp.sum(v[:, 0] * adjoint)
    scale = float(jnp.abs(product).sum() * jnp.abs(u[:, 0]).max(initial=0.0)) + 1e-300
    assert abs(left - right) <= 10 * rtol * scale


@jax.custom_vjp
def only_reverse(x):
    return jnp.sin(x) * jnp.sum(x)


only_reverse.defvjp(
    lambda x: (only_reverse(x), x), lambda x, u: (u * jnp.cos(x) * jnp.sum(x) + jnp.sum(u * jnp.sin(x)),)
)


@jax.custom_jvp
def own_rule(x):
    return jnp.tanh(x)


@own_rule.defjvp
def _(primals, tangents):
    return own_rule(primals[0]), (2 - own_rule(primals[0]) ** 2) * tangents[0]


def needs_values(x):
    return x**2 * x[::-1] if jnp.max(x) > 0 else x


def looped(x):
    carry, kept = jax.lax.scan(lambda c, t: (jnp.sin(c) * t, c * t), jnp.sum(x), x)
    return jnp.append(kept, carry)


def branched(x):
    return jax.lax.cond(x[0] > 0, lambda x: jnp.sin(x) * x[1], lambda x: x**3, x)


def mixed(p):
    return {"wide": p["b"] * jnp.sum(p["a"].astype(jnp.float64)), "narrow": jnp.sin(p["a"])}


def layers(p):
    hidden = jnp.tanh(p["w"] @ p["x"] + p["b"][0])
    return {"h": hidden, "s": (jnp.sum(hidden**2),)}


VECTOR = jnp.asarray([0.3, -0.7, 1.1, 0.4])
LAYERS = {"w": jnp.arange(12.0).reshape(4, 3) / 7, "x": jnp.asarray([0.1, 0.2, -0.4]), "b": [jnp.ones(4)]}

JACOBIANS = {
    "vector": (lambda x: jnp.stack([x[0] * x[1], jnp.sin(x[2]), x[3]]), VECTOR),
    "tree": (layers, LAYERS),
    "scalar": (jnp.exp, jnp.asarray(0.3)),
    "scalar to vector": (lambda x: jnp.exp(x) * jnp.arange(3.0), jnp.asarray(0.3)),
    "matrix": (lambda x: x.T @ x, jnp.arange(6.0).reshape(2, 3) / 3),
    "no inputs": (lambda x: jnp.ones(2) * jnp.sum(x), jnp.zeros((0, 2))),
    "no outputs": (lambda x: x[:0], VECTOR),
    "constant": (lambda x: jnp.ones(3), VECTOR),
    "linear": (lambda x: 2 * x[::-1], VECTOR),
    "custom_vjp": (only_reverse, VECTOR),
    "custom_vjp inside": (lambda x: jnp.cos(only_reverse(2 * x)) * x, VECTOR),
    "custom_jvp": (lambda x: own_rule(x) * x[::-1], VECTOR),
    "scan": (looped, VECTOR),
    "cond": (branched, VECTOR),
    "values": (needs_values, VECTOR),
    "jitted": (jax.jit(lambda x: jnp.sin(x) * jnp.cumsum(x)), VECTOR),
    "remat": (jax.checkpoint(lambda x: jnp.sin(jnp.cos(x) * x[::-1])), VECTOR),
    "random": (lambda x: x * jax.random.normal(jax.random.key(3), x.shape), VECTOR),
    "real to complex": (lambda x: jnp.exp(1j * x) * x[::-1], VECTOR),
}


@pytest.mark.parametrize("case", JACOBIANS)
def test_jacobian(case):
    f, x = JACOBIANS[case]
    by = "reverse" if case.startswith("custom_vjp") else ""
    blocks = case in ("vector", "tree", "real to complex", "no inputs", "no outputs", "values")
    verify(crelle.jacobian(f).at(x), flat_jacobian(f, x, by=by), blocks=blocks)


HESSIANS = {
    "vector": (lambda x: jnp.sum(jnp.sin(x) * jnp.cumsum(x) ** 2), VECTOR),
    "tree": (lambda p: layers(p)["s"][0] ** 2, LAYERS),
    "scalar": (jnp.exp, jnp.asarray(0.3)),
    "linear": (lambda x: jnp.sum(x * jnp.arange(4.0)), VECTOR),
    "constant": (lambda x: jnp.asarray(2.0), VECTOR),
    "empty": (lambda x: jnp.sum(x), jnp.zeros((0, 2))),
    "custom_vjp": (lambda x: jnp.sum(only_reverse(x) ** 2), VECTOR),
    "custom_jvp": (lambda x: jnp.sum(own_rule(x)), VECTOR),
    "scan": (lambda x: jnp.sum(looped(x)), VECTOR),
    "cond": (lambda x: jnp.sum(branched(x)), VECTOR),
    "values": (lambda x: jnp.sum(needs_values(x)), VECTOR),
    "while": (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.sin(y) * y, x).sum(), VECTOR),
}


@pytest.mark.parametrize("case", HESSIANS)
def test_hessian(case):
    f, x = HESSIANS[case]
    H = crelle.hessian(f).at(x)
    verify(H, flat_hessian(f, x), blocks=case in ("vector", "empty"))
    assert H.is_symmetric and H.T is H


def test_holomorphic():
    z = random_like(jnp.zeros(3, complex), 5)
    f = lambda z: jnp.stack([z[0] ** 2 * z[1], jnp.exp(z[2]) * 1j])
    verify(crelle.jacobian(f, holomorphic=True).at(z), flat_jacobian(f, z, holomorphic=True))
    g = lambda z: jnp.sum(z**3) * z[0]
    verify(crelle.hessian(g, holomorphic=True).at(z), flat_hessian(g, z, holomorphic=True))


def test_complex_to_real_is_the_matrix_of_jacrev():
    z = random_like(jnp.zeros(3, complex), 5)
    f = lambda z: jnp.stack([jnp.abs(z[0]) ** 2, jnp.real(z[1] * z[2])])
    A = crelle.jacobian(f).at(z)
    verify(A, np.asarray(jax.jacrev(f)(z)))
    real = jnp.asarray([0.2, -0.3])
    close(A.T @ real, np.asarray(jax.vjp(f, z)[1](real)[0]))


def test_real_vectors_for_a_complex_matrix():
    f, x = JACOBIANS["real to complex"]
    close(crelle.jacobian(f).at(x) @ VECTOR, jax.jvp(f, (x,), (VECTOR,))[1])


def test_complex_functions_that_are_not_holomorphic_are_refused():
    with pytest.raises(crelle.CrelleTypeError, match="holomorphic"):
        crelle.jacobian(lambda z: z * jnp.conj(z)).at(jnp.ones(2, complex))
    with pytest.raises(crelle.CrelleTypeError, match="holomorphic"):
        crelle.hessian(lambda z: jnp.sum(jnp.abs(z) ** 2)).at(jnp.ones(2, complex))


def test_mixed_precisions():
    p = {"a": jnp.asarray([0.5, -1.0], jnp.float32), "b": jnp.asarray([1.0, 2.0, 3.0])}
    A = crelle.jacobian(mixed).at(p)
    assert (A.domain.dtype, A.codomain.dtype) == ("float64", "float64")
    verify(A, flat_jacobian(mixed, p), rtol=3e-7)
    found = A @ {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(3)}
    assert (found["narrow"].dtype, found["wide"].dtype) == (jnp.float32, jnp.float64)


def test_half_precision():
    x = jnp.asarray([0.5, -1.0, 2.0], jnp.bfloat16)
    A = crelle.jacobian(lambda x: x * x[::-1]).at(x)
    assert (A @ x).dtype == jnp.bfloat16
    wide = np.asarray(x, np.float64)
    close(np.asarray(A @ x, np.float64), 2 * wide * wide[::-1], 2e-2)


def test_further_arguments_and_aux():
    def f(x, n, scale, index):
        return scale * x[index] ** n, {"n": n}

    A = crelle.jacobian(f, has_aux=True).at(VECTOR, 3, scale=jnp.asarray(2.0), index=jnp.asarray([0, 2]))
    verify(A, np.asarray(jax.jacfwd(lambda x: f(x, 3, 2.0, jnp.asarray([0, 2]))[0])(VECTOR)))
    close(A.value, 2 * VECTOR[jnp.asarray([0, 2])] ** 3)


def test_several_arguments():
    f = lambda x, y, z: jnp.sum(jnp.sin(x) * z) * y
    x, y, z = jnp.ones(3), jnp.arange(2.0), jnp.asarray([0.1, 0.5, 2.0])
    A = crelle.jacobian(f, argnums=(2, 0)).at(x, y, z)
    blocks = jax.jacfwd(f, argnums=(2, 0))(x, y, z)
    verify(A, np.concatenate(blocks, 1))
    close(A @ (z, x), blocks[0] @ z + blocks[1] @ x)


# -- one compilation


class Compilations:
    """Counts what XLA compiles while it is in force."""

    def __init__(self):
        self.count, self.active = 0, False
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event, duration, **_):
        self.count += self.active and event.endswith("backend_compile_duration")

    def __enter__(self):
        self.count, self.active = 0, True
        return self

    def __exit__(self, *_):
        self.active = False


@pytest.fixture(scope="module")
def compilations():
    return Compilations()


def visit(A, v):
    return jax.block_until_ready((A @ v, A.T @ (A @ v)))


@pytest.mark.parametrize("case", ["vector", "custom_jvp", "custom_vjp", "values", "tree"])
def test_other_points_compile_nothing(case, compilations):
    f, x = JACOBIANS[case]
    moved = jax.tree.map(lambda leaf: leaf * 1.5, x)
    crelle.clear_caches()
    with compilations:
        visit(crelle.jacobian(f).at(x), x)
    assert compilations.count > 0
    with compilations:
        again = visit(crelle.jacobian(f).at(moved), x)
    assert compilations.count == 0 or case == "values"  # run eagerly: its operations are compiled one by one
    expected = flat_jacobian(f, moved, by="reverse" if case == "custom_vjp" else "") @ ravel_pytree(x)[0]
    close(ravel_pytree(again[0])[0], expected)


def test_captured_values_are_never_stale(compilations):
    def make(scale, power):
        return lambda x: scale * x**power

    first, second = (crelle.jacobian(make(jnp.asarray(s), 3.0)).at(VECTOR) for s in (2.0, 5.0))
    with compilations:
        third = crelle.jacobian(make(jnp.asarray(7.0), 3.0)).at(VECTOR)
        jax.block_until_ready(third._kept.value)
    assert compilations.count == 0
    for A, scale in ((first, 2.0), (second, 5.0), (third, 7.0)):
        close(A @ VECTOR, scale * 3 * VECTOR**3)


def test_numbers_that_vary_are_lifted(compilations):
    def at(c):
        return crelle.jacobian(lambda x: jnp.sin(c * x)).at(VECTOR)

    for c in (0.5, 1.5):
        at(c) @ VECTOR
    with compilations:
        A = at(2.5)
        found = jax.block_until_ready(A @ VECTOR)
    assert compilations.count == 0
    close(found, 2.5 * jnp.cos(2.5 * VECTOR) * VECTOR)


def test_a_rule_that_changes_is_seen():
    rules = {"factor": 2.0}

    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    f.defjvp(lambda primals, tangents: (f(primals[0]), rules["factor"] * tangents[0]))
    for factor in (2.0, 3.0, 2.0):
        rules["factor"] = factor
        close(crelle.jacobian(f).at(VECTOR) @ VECTOR, factor * VECTOR)


def test_a_tree_and_a_flat_vector_share_a_compilation_that_is_dear(compilations, monkeypatch):
    monkeypatch.setattr("crelle.backends.jax.linear_products.DEAR", 0.0)
    A = crelle.jacobian(layers).at(LAYERS)
    flat = ravel_pytree(LAYERS)[0]
    expected = flat_jacobian(layers, LAYERS) @ flat
    close(A @ flat, expected)
    close(ravel_pytree(A @ LAYERS)[0], expected)
    close(A._products(flat[None])[0], expected)
    assert len(A._kept._linear.push._forms) == 3


@pytest.mark.parametrize("kind", ["jacobian", "hessian"])
@pytest.mark.parametrize("case", ["traced", "values"])
def test_nothing_of_a_call_outlives_the_operator(kind, case):
    f = (lambda x: jnp.sum(jnp.sin(x) ** 2 * x)) if case == "traced" else lambda x: jnp.sum(needs_values(x))
    x = VECTOR * 1.1
    scale = jnp.asarray([1.0, 2.0, 3.0, 4.0]) * 1.1
    A = getattr(crelle, kind)(lambda x, scale=scale: f(x * scale)).at(x)
    A @ VECTOR
    A._products(jnp.ones((3, 4)))
    gone = [weakref.ref(x), *(weakref.ref(c) for c in A._kept._coefficients if c is not scale), weakref.ref(A.value)]
    if case == "traced":  # JAX itself holds on to what a trace that failed has captured
        gone.append(weakref.ref(scale))
    del A, x, scale
    gc.collect()
    assert [ref() is None for ref in gone] == [True] * len(gone)


# -- inside transformations


def quadratic(x, v):
    return crelle.hessian(lambda x: jnp.sum(jnp.sin(x) * jnp.cumsum(x) ** 2)).at(x) @ v


def dense_quadratic(x, v):
    return jax.hessian(lambda x: jnp.sum(jnp.sin(x) * jnp.cumsum(x) ** 2))(x) @ v


@pytest.mark.parametrize("argnum", [0, 1])
def test_inside_jit_vmap_and_grad(argnum):
    v = VECTOR[::-1]
    expected = dense_quadratic(VECTOR, v)
    close(jax.jit(quadratic)(VECTOR, v), expected)
    points = jnp.stack([VECTOR, 2 * VECTOR])
    close(jax.vmap(quadratic, (0, None))(points, v), jax.vmap(dense_quadratic, (0, None))(points, v))
    for wrap in (lambda f: f, jax.jit):
        found = wrap(jax.grad(lambda *a: jnp.sum(quadratic(*a) ** 2), argnum))(VECTOR, v)
        close(found, jax.grad(lambda *a: jnp.sum(dense_quadratic(*a) ** 2), argnum)(VECTOR, v), 1e-11)


def test_derivatives_of_transposed_products():
    f = lambda x: jnp.stack([x[0] * x[1], jnp.sin(x[2]), x[3] ** 2])
    u = jnp.asarray([0.2, -0.5, 1.5])
    found = jax.jacfwd(lambda x: crelle.jacobian(f).at(x).T @ u)(VECTOR)
    close(found, jax.jacfwd(lambda x: jax.jacrev(f)(x).T @ u)(VECTOR), 1e-11)


def test_a_concrete_operator_inside_a_transformation():
    f, x = JACOBIANS["vector"]
    A, J = crelle.jacobian(f).at(x), flat_jacobian(f, x)
    V = random_like(jnp.zeros((4, 5)), 3)
    close(jax.jit(lambda v: A @ v)(x), J @ x)
    close(jax.vmap(lambda v: A @ v, 1, 1)(V), J @ V)
    close(jax.jit(lambda V: A @ V)(V), J @ V)
    close(jax.grad(lambda v: jnp.sum((A @ v) ** 2))(x), 2 * J.T @ (J @ x))


def test_blocks_inside_jit():
    f, x = JACOBIANS["tree"]
    found = jax.jit(lambda p: crelle.jacobian(f).at(p).todense())(x)
    close(found, flat_jacobian(f, x))


# -- bad input


def test_while_has_no_transpose():
    f = lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 5, lambda y: y * 1.5, x)
    x = jnp.asarray([0.5, 0.2])
    A = crelle.jacobian(f).at(x)
    close(A.todense(), jax.jacfwd(f)(x))
    wide = crelle.jacobian(lambda x: f(x)[:1]).at(x)
    close(wide.todense(), jax.jacfwd(f)(x)[:1])
    with pytest.raises(crelle.CrelleTypeError) as caught:
        A.T @ x
    assert str(caught.value) == (
        "crelle.jacobian(f).at(...): there are no products with the transposed Jacobian\n"
        "  likely  a while_loop, or a fori_loop with bounds that are not fixed, has no reverse rule in JAX\n"
        "  try     lax.scan, or a fori_loop with a fixed number of steps; A.todense().T for a small matrix; A @ v works"
    )


def test_a_function_that_cannot_be_differentiated():
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.jacobian(lambda x: x * float(jnp.sum(x))).at(VECTOR)
    assert str(caught.value) == (
        "crelle.jacobian(f).at(...): f needs values of its arguments in Python (ConcretizationTypeError), "
        "and JAX cannot give them while it differentiates\n"
        "  called  x: f64[4]\n"
        "  try     where, cond or while_loop of JAX in place of Python's if and while; "
        "no float(x), int(x) or np.asarray(x)"
    )


def test_a_rule_that_cannot_be_transposed():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (jnp.cos(x) * jnp.abs(u),))
    A = crelle.jacobian(f).at(VECTOR)
    with pytest.raises(crelle.CrelleTypeError, match=r"backward rule cannot be transposed[\s\S]*not linear"):
        A @ VECTOR


def test_inputs_that_were_freed():
    x = VECTOR * 1.0
    A = crelle.jacobian(lambda x: x**2).at(x)
    for coefficient in A._kept._coefficients:
        coefficient.delete()
    with pytest.raises(crelle.CrelleValueError) as caught:
        A @ VECTOR
    assert str(caught.value) == (
        "crelle.jacobian(f).at(...): an array that this operator needs was freed\n"
        "  likely  it was donated (donate_argnums=) to a jitted function, or deleted\n"
        "  try     make the operator anew with .at(...) at the new values, or copy what is donated"
    )


def test_kept_bytes():
    A = crelle.jacobian(lambda x: jnp.sin(x)).at(VECTOR)
    assert A.kept_bytes == VECTOR.nbytes
