"""Random small programs: what Crelle answers is what jax.jacrev, jacfwd, hessian and grad answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import crelle
from tests.backends.jax.reference import assert_same

# A program is a list of steps. Each step maps a list of arrays to one more; what it cannot use it leaves alone.
UNARY = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "exp": lambda x: jnp.exp(jnp.clip(x, -2, 2)),
    "square": lambda x: x * x,
    "logistic": jax.nn.sigmoid,
    "relu": lambda x: jax.nn.relu(x - 0.1234),
    "softplus": jax.nn.softplus,
    "where": lambda x: jnp.where(x > 0.0317, x**2, 0.5 * x),
    "stop": lambda x: x * jax.lax.stop_gradient(x),
    "log": lambda x: jnp.log(2.0 + x * x),
    "reshape": lambda x: x.reshape(-1),
    "transpose": lambda x: x.T,
    "reverse": lambda x: jnp.flip(x),
    "slice": lambda x: x[: max(1, x.shape[0] // 2)] if x.ndim else x,
    "stride": lambda x: x[::2] if x.ndim else x,
    "gather": lambda x: x.ravel()[np.array([0, -1, 0]) % x.size] if x.size else x,
    "scatter": lambda x: jnp.zeros(x.size + 2).at[1 : x.size + 1].add(x.ravel()).at[0].set(1.0),
    "set": lambda x: x.at[0].set(0.25) if x.ndim and x.shape[0] else x,
    "sum": lambda x: x.sum(),
    "sum over an axis": lambda x: x.sum(-1) if x.ndim else x,
    "mean": lambda x: x.mean(0) if x.ndim and x.shape[0] else x,
    "max": lambda x: x.max() if x.size else x.sum(),
    "cumsum": lambda x: jnp.cumsum(x),
    "sort": lambda x: jnp.sort(x.ravel()),
    "softmax": lambda x: jax.nn.softmax(x) if x.ndim else x,
    "norm": lambda x: jnp.sqrt(1.0 + jnp.sum(x * x)),
    "broadcast": lambda x: jnp.broadcast_to(x, (2, *x.shape)) if x.size <= 12 else x,
    "pad": lambda x: jnp.pad(x, 1) if x.size <= 12 else x,
    "scan": lambda x: jax.lax.scan(lambda c, v: (jnp.tanh(c + v), c * v), jnp.zeros(()), x.ravel())[1],
    "cond": lambda x: jax.lax.cond(x.sum() > 0.0213, jnp.sin, lambda v: 2.0 * v, x),
    "inner jit": lambda x: jax.jit(lambda v: v * jnp.cos(v))(x),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(x) * x),
    "inner gradient": lambda x: jax.grad(lambda v: jnp.sum(jnp.tanh(v) ** 3))(x),
}


def matmul(a, b):
    k = min(a.size, b.size)
    return a.ravel()[:k] @ b.ravel()[:k]


def outer(a, b):
    return jnp.outer(a.ravel()[:4], b.ravel()[:3])


def add(a, b):
    k = min(a.size, b.size)
    return a.ravel()[:k] + 0.5 * b.ravel()[:k]


def multiply(a, b):
    return a * b.ravel()[0] if b.size else a


def join(a, b):
    return jnp.concatenate([a.ravel()[:6], b.ravel()[:6]])


def product(a, b):
    if a.ndim == 2 and a.shape[1]:
        return a @ jnp.resize(b.ravel(), (a.shape[1], 2)) if b.size else a
    return a


BINARY = {"matmul": matmul, "outer": outer, "add": add, "multiply": multiply, "join": join, "product": product}

STEP = st.one_of(
    st.tuples(st.sampled_from(sorted(UNARY)), st.integers(0, 7), st.just(0)),
    st.tuples(st.sampled_from(sorted(BINARY)), st.integers(0, 7), st.integers(0, 7)),
)
SHAPE = st.sampled_from([(), (1,), (3,), (4,), (2, 3), (1, 2), (0,), (2, 0)])
SEED = st.integers(0, 2**31 - 1)


def run(steps, leaves):
    values = list(leaves)
    for name, i, j in steps:
        a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
        values.append(UNARY[name](a) if name in UNARY else BINARY[name](a, b))
    return values


@st.composite
def problems(draw):
    """(function of a tree, tree, whether there is more than one output)."""
    shapes = draw(st.lists(SHAPE, min_size=1, max_size=3))
    steps = draw(st.lists(STEP, min_size=1, max_size=7))
    kind = draw(st.sampled_from(["leaf", "dict", "tuple", "nested"]))
    outputs = draw(st.sampled_from(["last", "two", "tree"]))
    rng = np.random.default_rng(draw(SEED))
    arrays = [jnp.asarray(rng.uniform(-1.5, 1.5, shape)) for shape in shapes]
    if kind == "leaf":
        arrays = arrays[:1]
        tree = arrays[0]
    elif kind == "dict":
        tree = {f"k{i}": a for i, a in enumerate(arrays)}
    elif kind == "tuple":
        tree = tuple(arrays)
    else:
        tree = [arrays[0], {"rest": tuple(arrays[1:]), "none": None}]

    def f(p):
        values = run(steps, jax.tree.leaves(p))
        if outputs == "last":
            return values[-1]
        if outputs == "two":
            return values[-1], values[len(values) // 2]
        return {"a": values[-1], "b": [values[0], values[-1].sum()]}

    return f, tree


def scalar(f):
    return lambda p: sum(jnp.sum(jnp.sin(leaf) * (k + 1.0)) for k, leaf in enumerate(jax.tree.leaves(f(p))))


CHUNK = st.sampled_from([None, 1, 2, 3, 5])
COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


def native(transform, f, p):
    return jax.jit(lambda p: transform(f)(p))(p)


def check_jacobian(problem, mode, chunk):
    f, p = problem
    expected = native(jax.jacfwd if mode == "forward" else jax.jacrev, f, p)
    assert_same(crelle.jacobian(f, mode=mode, chunk=chunk)(p), expected)


def check_flat_jacobian(problem, mode, chunk, cut, seed):
    f, p = problem
    dense = native(jax.jacrev, f, p)
    outputs, inputs = jax.tree.leaves(jax.eval_shape(f, p)), jax.tree.leaves(p)
    blocks = jax.tree.leaves(dense)
    rows = [
        np.concatenate([np.asarray(b).reshape(o.size, i.size) for b, i in zip(blocks[k:], inputs, strict=False)], 1)
        for k, o in zip(range(0, len(blocks), len(inputs)), outputs, strict=True)
    ]
    matrix = np.concatenate(rows, 0)
    rng = np.random.default_rng(seed)
    keywords = {}
    if cut in ("rows", "both") and matrix.shape[0]:
        keywords["rows"] = rng.integers(-matrix.shape[0], matrix.shape[0], size=rng.integers(0, 4))
        matrix = matrix[keywords["rows"]]
    if cut in ("cols", "both") and matrix.shape[1]:
        keywords["cols"] = rng.integers(-matrix.shape[1], matrix.shape[1], size=rng.integers(0, 4))
        matrix = matrix[:, keywords["cols"]]
    if cut == "entries" and matrix.size:
        keywords["entries"] = rng.integers(0, matrix.shape, size=(rng.integers(0, 5), 2))
        matrix = matrix[keywords["entries"][:, 0], keywords["entries"][:, 1]]
    got = crelle.jacobian(f, mode=mode, chunk=chunk, flatten=True, **keywords)(p)
    assert got.shape == matrix.shape
    np.testing.assert_allclose(got, matrix, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(matrix).max(initial=0.0)))


def check_hessian(problem, mode, chunk):
    f, p = problem
    expected = native(jax.hessian, scalar(f), p)
    assert_same(crelle.hessian(scalar(f), mode=mode, chunk=chunk)(p), expected)


def check_gradient(problem):
    f, p = problem
    value, gradient = crelle.gradient(scalar(f), value=True)(p)
    assert_same((value, gradient), native(jax.value_and_grad, scalar(f), p))


MODE = st.sampled_from(["auto", "forward", "reverse"])
NESTING = st.sampled_from(
    ["auto", "forward-over-reverse", "reverse-over-forward", "reverse-over-reverse", "forward-over-forward"]
)
CUT = st.sampled_from(["none", "rows", "cols", "both", "entries"])


@settings(max_examples=60, **COMMON)
@given(problems(), MODE, CHUNK)
def test_jacobians(problem, mode, chunk):
    check_jacobian(problem, mode, chunk)


@settings(max_examples=60, **COMMON)
@given(problems(), MODE, CHUNK, CUT, SEED)
def test_flat_jacobians_and_their_parts(problem, mode, chunk, cut, seed):
    check_flat_jacobian(problem, mode, chunk, cut, seed)


@settings(max_examples=50, **COMMON)
@given(problems(), NESTING, CHUNK)
def test_hessians(problem, mode, chunk):
    check_hessian(problem, mode, chunk)


@settings(max_examples=30, **COMMON)
@given(problems())
def test_gradients(problem):
    check_gradient(problem)


MANY = {**COMMON, "derandomize": False, "print_blob": True}


@pytest.mark.slow
@settings(max_examples=500, **MANY)
@given(problems(), MODE, CHUNK, CUT, SEED)
def test_many_jacobians(problem, mode, chunk, cut, seed):
    check_jacobian(problem, mode, chunk)
    check_flat_jacobian(problem, mode, chunk, cut, seed)


@pytest.mark.slow
@settings(max_examples=500, **MANY)
@given(problems(), NESTING, CHUNK)
def test_many_hessians(problem, mode, chunk):
    check_hessian(problem, mode, chunk)
    check_gradient(problem)
