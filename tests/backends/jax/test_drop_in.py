"""The same trees, shapes, dtypes and numbers as jax.jacrev, jacfwd, hessian and grad, on every kind of input."""

from __future__ import annotations

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import crelle
from tests.backends.jax.reference import assert_same

Pair = collections.namedtuple("Pair", "a b")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["name"])
@dataclasses.dataclass
class Layer:
    w: jax.Array
    b: jax.Array
    name: str


X = np.array([0.3, -1.2, 2.0])
A = np.arange(6.0).reshape(2, 3) / 7


def x3():
    return jnp.array(X)


def layer():
    return Layer(jnp.array(A), jnp.array([0.1, 0.2]), "first")


# name: (f, arguments, keywords)
CASES = {
    "vector": (lambda x: jnp.sin(A @ x), (X,), {}),
    "matrix": (lambda x: x.T @ x, (A,), {}),
    "weak scalar": (lambda x: x**2, (2.0,), {}),
    "scalar": (lambda x: x**2, (np.float64(2.0),), {}),
    "dict": (lambda p: {"out": p["w"] @ p["x"], "sum": jnp.sum(p["x"])}, ({"w": A, "x": X},), {}),
    "list and tuple": (lambda p: [p[0] * 2.0, (p[1].sum(), p[0] @ p[1][0])], ([X, A],), {}),
    "named tuple": (lambda p: Pair(p.a * 2.0, [p.b.sum(), None]), (Pair(A, X),), {}),
    "none inside": (lambda p: p[0] * 2, ((X, None),), {}),
    "dataclass": (lambda p, x: jnp.tanh(p.w @ x + p.b), (layer(), X), {}),
    "argnums (1, 0)": (lambda a, b: a @ b, (A, X), {"argnums": (1, 0)}),
    "argnums -1": (lambda a, b: a @ b, (A, X), {"argnums": -1}),
    "argnums (1,)": (lambda a, b: a @ b, (A, X), {"argnums": (1,)}),
    "unused": (lambda a, b: a * 2, (X, A), {"argnums": (0, 1)}),
    "unused output": (lambda a: jnp.ones(2), (X,), {}),
    "number out": (lambda a: 2.0, (X,), {}),
    "identity": (lambda a: a, (X,), {}),
    "twice": (lambda a: (a, a), (X,), {}),
    "float32": (lambda x: jnp.sin(x), (X.astype(np.float32),), {}),
    "float16": (lambda x: 2 * x, (X.astype(np.float16),), {}),
    "bfloat16": (lambda x: 2 * x, (jnp.array(X, jnp.bfloat16),), {}),
    "32 to 64": (lambda x: x.astype(jnp.float64) * 3, (X.astype(np.float32),), {}),
    "64 to 32": (lambda x: x.astype(jnp.float32) * 3, (X,), {}),
    "mixed inputs": (lambda a, b: a.astype(jnp.float64) * b, (X.astype(np.float32), X), {"argnums": (0, 1)}),
    "empty input": (lambda x: x * 2, (np.zeros((0, 3)),), {}),
    "empty output": (lambda x: x[:0], (X,), {}),
    "empty leaf": (lambda p: p["a"].sum() + p["b"] * 2, ({"a": np.zeros(0), "b": X},), {}),
    "static argument": (lambda x, n: x**n, (X, 3), {}),
    "text argument": (lambda x, name: getattr(jnp, name)(x), (X, "sin"), {}),
    "NumPy argument": (lambda x, y: x * y, (X, np.arange(3.0)), {}),
    "boolean argument": (lambda x, keep: jnp.where(keep, x, 0.0), (X, np.array([True, False, True])), {}),
    "scan": (lambda x: jax.lax.scan(lambda c, v: (c * v, c + v), 1.0, x), (X,), {}),
    "cond": (lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), (X,), {}),
    "stop_gradient": (lambda x: x * jax.lax.stop_gradient(x), (X,), {}),
    "scatter": (lambda x: jnp.zeros((2, 3)).at[1].set(x).at[0, 0].add(x[1]), (X,), {}),
    "inner jit": (jax.jit(lambda x: jnp.exp(x) / x.sum()), (X,), {}),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(jnp.cos(x))), (X,), {}),
    "inner vmap": (jax.vmap(lambda x: jnp.tanh(x) * x), (A,), {}),
    "inner grad": (jax.grad(lambda x: jnp.sum(x**3)), (X,), {}),
    "relu": (jax.nn.relu, (X,), {}),
    "cholesky": (lambda x: jnp.linalg.cholesky(jnp.eye(3) * 3 + jnp.outer(x, x)), (X,), {}),
}
NATIVE = {"reverse": jax.jacrev, "forward": jax.jacfwd}


def arrays(args):
    return jax.tree.map(lambda v: v if isinstance(v, (str, int)) or v.dtype == bool else jnp.asarray(v), args)


def case(name):
    f, args, keywords = CASES[name]
    if name in ("static argument", "text argument", "NumPy argument"):
        return f, (jnp.asarray(args[0]), args[1]), keywords
    if name == "weak scalar":
        return f, (jnp.asarray(args[0]),), keywords
    return f, arrays(args), keywords


def native(transform, f, args, keywords):
    """What JAX answers; compiled as one program, which takes less time than operation by operation."""
    return jax.jit(lambda: transform(f, **keywords)(*args))()


@pytest.mark.parametrize("name", CASES)
def test_jacobian(name):
    f, args, keywords = case(name)
    by_row, by_column = (native(transform, f, args, keywords) for transform in (jax.jacrev, jax.jacfwd))
    assert_same(crelle.jacobian(f, **keywords)(*args), by_row)
    for mode, expected in (("reverse", by_row), ("forward", by_column)):
        assert_same(crelle.jacobian(f, mode=mode, check=False, **keywords)(*args), expected)
        assert_same(crelle.jacobian(f, mode=mode, chunk=2, check=False, **keywords)(*args), expected)


def scalar(f):
    return lambda *args: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(f(*args)))


NESTINGS = ["forward-over-reverse", "reverse-over-forward", "reverse-over-reverse", "forward-over-forward"]
SINGLE = ("float32", "float16", "bfloat16", "32 to 64", "64 to 32", "mixed inputs")


@pytest.mark.parametrize("name", CASES)
def test_hessian_and_gradient(name):
    f, args, keywords = case(name)
    tolerance = 2e-2 if "16" in name else 1e-6 if name in SINGLE else 1e-12
    for ours, theirs in ((crelle.hessian, jax.hessian), (crelle.gradient, jax.grad)):
        assert_same(ours(scalar(f), **keywords)(*args), native(theirs, scalar(f), args, keywords), tolerance)


@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
@pytest.mark.parametrize("mode", NESTINGS)
@pytest.mark.parametrize("name", ["vector", "dict", "argnums (1, 0)", "mixed inputs", "weak scalar"])
def test_every_nesting_and_chunk_of_a_hessian(name, mode, chunk):
    f, args, keywords = case(name)
    tolerance = 1e-6 if name in SINGLE else 1e-12
    expected = native(jax.hessian, scalar(f), args, keywords)
    H = crelle.hessian(scalar(f), mode=mode, chunk=chunk, check=False, **keywords)
    assert_same(H(*args), expected, tolerance)


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_every_chunk_of_a_jacobian(mode, chunk):
    f, args, _ = case("dict")
    assert_same(crelle.jacobian(f, mode=mode, chunk=chunk)(*args), native(NATIVE[mode], f, args, {}))


@pytest.mark.parametrize("kind", ["jacobian", "hessian", "gradient"])
def test_numbers_and_numpy_arrays_as_arguments(kind):
    ours, theirs = {
        "jacobian": (crelle.jacobian, jax.jacrev),
        "hessian": (crelle.hessian, jax.hessian),
        "gradient": (crelle.gradient, jax.grad),
    }[kind]
    f = lambda x: jnp.sum(jnp.sin(x) * 2.0)
    assert_same(ours(f)(0.3), theirs(f)(0.3))
    assert_same(ours(f)(X), theirs(f)(X))
    assert_same(ours(jnp.tanh)(0.3), theirs(jnp.tanh)(0.3))


def test_a_number_beside_an_array():
    f = lambda t, x: jnp.sin(t * x)
    assert_same(crelle.jacobian(f)(2.0, x3()), jax.jacrev(f)(2.0, x3()))
    assert_same(crelle.jacobian(f, argnums=(0, 1))(2.0, x3()), jax.jacrev(f, argnums=(0, 1))(2.0, x3()))


def test_keyword_arguments():
    f = lambda x, *, scale, power=2: scale * x**power
    for keywords in ({"scale": 2.0}, {"scale": jnp.array([1.0, 2.0, 3.0]), "power": 3}):
        assert_same(crelle.jacobian(f)(x3(), **keywords), jax.jacrev(f)(x3(), **keywords))


def test_aux_of_every_kind():
    def f(x):
        return jnp.sin(x).sum(), {"name": "a", "none": None, "n": 3, "x": x * 2, "numpy": np.ones(2), "f": len}

    expected = jax.grad(f, has_aux=True)(x3())
    for _ in range(2):  # traced, and reused
        assert_same(crelle.gradient(f, has_aux=True)(x3()), expected)
    g = lambda x: (jnp.sin(x), (x.sum(), "text"))
    assert_same(crelle.jacobian(g, has_aux=True)(x3()), jax.jacrev(g, has_aux=True)(x3()))
    h = lambda x: (jnp.sin(x).sum(), x.max())
    assert_same(crelle.hessian(h, has_aux=True)(x3()), jax.hessian(h, has_aux=True)(x3()))


def test_aux_is_of_this_call():
    calls = []

    def f(x):
        calls.append(None)
        return x * 2, len(calls)

    J = crelle.jacobian(f, has_aux=True, check=False)
    assert [J(x3())[1] for _ in range(3)] == [1, 2, 3]


def test_value_nests_as_in_value_and_grad():
    f = lambda p: (p["w"] @ p["x"]).sum() ** 2
    p = {"w": jnp.array(A), "x": x3()}
    assert_same(crelle.gradient(f, value=True)(p), jax.value_and_grad(f)(p))
    g = lambda p: (f(p), {"w": p["w"]})
    assert_same(crelle.gradient(g, value=True, has_aux=True)(p), jax.value_and_grad(g, has_aux=True)(p))
    assert_same(crelle.jacobian(g, value=True, has_aux=True)(p), (g(p), jax.jacrev(g, has_aux=True)(p)[0]))
    assert_same(crelle.hessian(f, value=True)(p), (f(p), jax.hessian(f)(p)))
    out = lambda p: {"a": p["w"] @ p["x"], "b": 2.0}
    value, jacobian = crelle.jacobian(out, value=True)(p)
    assert_same(value, jax.tree.map(jnp.asarray, out(p)))
    assert_same(jacobian, jax.jacrev(out)(p))


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_flat_matrices(mode):
    f = lambda p: {"u": p["w"] @ p["x"], "v": jnp.sum(p["x"]) * p["w"]}
    p = {"w": jnp.array(A), "x": x3()}
    dense = jax.jacrev(f)(p)
    expected = np.block(
        [[np.asarray(block).reshape(-1, leaf.size) for block, leaf in zip(row.values(), p.values(), strict=True)]
         for row in dense.values()]
    )  # fmt: skip
    flat = crelle.jacobian(f, flatten=True, mode=mode)(p)
    assert flat.shape == (8, 9)
    np.testing.assert_allclose(flat, expected, rtol=1e-12)
    np.testing.assert_allclose(crelle.jacobian(f, flatten=True, mode=mode, chunk=3)(p), expected, rtol=1e-12)


@pytest.mark.parametrize("mode", ["auto", *NESTINGS])
@pytest.mark.parametrize("chunk", [None, 4])
def test_flat_hessians(mode, chunk):
    f = lambda p: jnp.sum(jnp.tanh(p["w"] @ p["x"])) * p["x"][0]
    p = {"w": jnp.array(A), "x": x3()}
    flat, unravel = ravel_pytree(p)
    expected = jax.hessian(lambda v: f(unravel(v)))(flat)
    assert_same(crelle.hessian(f, flatten=True, mode=mode, chunk=chunk)(p), expected)
    assert_same(crelle.gradient(f, flatten=True)(p), jax.grad(lambda v: f(unravel(v)))(flat))


@pytest.mark.parametrize("mode", NESTINGS)
def test_hessians_beside_an_empty_leaf(mode):
    p = {"a": jnp.zeros(0), "b": x3()}
    f = lambda p: p["a"].sum() + (p["b"] ** 3).sum()
    assert_same(crelle.hessian(f, mode=mode)(p), native(jax.hessian, f, (p,), {}))
    assert_same(crelle.hessian(f, mode=mode, chunk=2)(p), native(jax.hessian, f, (p,), {}))


def test_flat_and_empty():
    assert crelle.jacobian(lambda x: x[:0], flatten=True)(x3()).shape == (0, 3)
    assert crelle.jacobian(lambda x: x * 2, flatten=True)(jnp.zeros((0, 3))).shape == (0, 0)
    assert crelle.hessian(lambda x: x.sum(), flatten=True)(jnp.zeros((0, 3))).shape == (0, 0)
    assert crelle.hessian(lambda x: x.sum())(jnp.zeros((0, 3))).shape == (0, 3, 0, 3)
    assert crelle.gradient(lambda x: x.sum())(jnp.zeros((0, 3))).shape == (0, 3)


HOLOMORPHIC = lambda z: jnp.exp(z) * z[0]


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_holomorphic_jacobians(mode):
    z = x3() + 0.5j
    expected = jax.jacrev(HOLOMORPHIC, holomorphic=True)(z)
    for chunk in (None, 2):
        assert_same(crelle.jacobian(HOLOMORPHIC, holomorphic=True, mode=mode, chunk=chunk)(z), expected)


@pytest.mark.parametrize("mode", ["auto", *NESTINGS])
def test_holomorphic_hessians(mode):
    z = x3() + 0.5j
    f = lambda z: HOLOMORPHIC(z).sum()
    expected = jax.hessian(f, holomorphic=True)(z)
    assert_same(crelle.hessian(f, holomorphic=True, mode=mode)(z), expected)
    assert_same(crelle.gradient(f, holomorphic=True)(z), jax.grad(f, holomorphic=True)(z))


def test_real_functions_of_complex_arrays_have_gradients():
    z = x3() + 0.5j
    f = lambda z: jnp.sum(jnp.abs(z) ** 3)
    assert_same(crelle.gradient(f)(z), jax.grad(f)(z))
    g = lambda z: jnp.abs(z)
    assert_same(crelle.jacobian(g)(z), jax.jacrev(g)(z))


def test_complex_functions_of_real_arrays():
    f = lambda x: x * jnp.exp(1j * x)
    expected = jax.vmap(lambda v: jax.jvp(f, (x3(),), (v,))[1], out_axes=-1)(jnp.eye(3))
    assert_same(crelle.jacobian(f)(x3()), expected)


def test_results_stay_where_the_inputs_are():
    x = jax.device_put(x3(), jax.devices()[0])
    assert crelle.jacobian(jnp.sin)(x).devices() == x.devices()


def test_x64_is_followed():
    f = lambda x: jnp.sin(x)
    J = crelle.jacobian(f)
    assert J(x3()).dtype == jnp.float64
    with jax.enable_x64(False):
        x = jnp.ones(3)
        assert x.dtype == jnp.float32
        assert J(x).dtype == jnp.float32
    assert J(x3()).dtype == jnp.float64
