"""When two traces compute the same function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crelle.backends.jax import keys

X = np.array([0.3, 1.2, 2.0])


def key(f, *args):
    return keys.jaxpr_key(jax.make_jaxpr(lambda *a: f(*a))(*(args or (X,))))


M = np.eye(3) * 2 + 0.1

# everything that JAX itself differentiates by a rule, loops over, factorises or calls back
LIBRARY = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
    "softplus": jax.nn.softplus,
    "logsumexp": jax.scipy.special.logsumexp,
    "xlogy": lambda x: jax.scipy.special.xlogy(x, x),
    "entr": jax.scipy.special.entr,
    "digamma": jax.scipy.special.digamma,
    "betainc": lambda x: jax.scipy.special.betainc(1.0, 2.0, x / 3),
    "solve": lambda x: jnp.linalg.solve(M, x),
    "inverse": lambda x: jnp.linalg.inv(M * x),
    "cholesky": lambda x: jnp.linalg.cholesky(M * x[0]),
    "eigh": lambda x: jnp.linalg.eigh(M * x)[0],
    "svd": lambda x: jnp.linalg.svd(M * x)[1],
    "slogdet": lambda x: jnp.linalg.slogdet(M * x)[1],
    "pseudo-inverse": lambda x: jnp.linalg.pinv(M * x),
    "conjugate gradients": lambda x: jax.scipy.sparse.linalg.cg(lambda v: M @ v, x)[0],
    "root": lambda x: jax.lax.custom_root(lambda y: y - x, x, lambda f, x0: x0, lambda g, y: y),
    "scan": lambda x: jax.lax.scan(lambda c, a: (c * a, c + a), 1.0, x),
    "while": lambda x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 2), (0, x))[1],
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    "map": lambda x: jax.lax.map(jnp.sin, x),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(x)),
    "policy": jax.checkpoint(lambda x: jnp.sin(x), policy=jax.checkpoint_policies.dots_saveable),
    "inner jit": lambda x: jax.jit(lambda y: y * 3)(x),
    "inner grad": jax.grad(lambda x: jnp.sum(x**3)),
    "callback": lambda x: x * jax.pure_callback(lambda a: np.sum(a), jax.ShapeDtypeStruct((), x.dtype), x),
    "random": lambda x: x * jax.random.normal(jax.random.key(0), (3,)),
    "gamma": lambda x: jax.random.gamma(jax.random.key(0), x + 1),
    "fft": lambda x: jnp.abs(jnp.fft.fft(x)),
    "sort": jnp.sort,
    "convolve": lambda x: jnp.convolve(x, x),
    "interp": lambda x: jnp.interp(x, jnp.arange(3.0), x),
    "scatter": lambda x: x.at[1].set(2.0),
    "segment sum": lambda x: jax.ops.segment_sum(x, jnp.array([0, 1, 0]), 2),
    "NumPy": lambda x: x * np.arange(3.0),
    "debug print": lambda x: (jax.debug.print("{}", x[0]), x)[1],
}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_same_function_traced_twice_has_the_same_key(name):
    first, second = key(LIBRARY[name]), key(LIBRARY[name])
    assert first == second
    assert hash(first) == hash(second)
    assert not first.opaque


def test_ordinary_differential_equations():
    from jax.experimental.ode import odeint

    f = lambda x: odeint(lambda y, t: -y * x, x, jnp.linspace(0, 1, 3))
    assert key(f) == key(f)


DIFFERENT = [
    (lambda x: x + 1, lambda x: x - 1),
    (lambda x: x**2, lambda x: x**3),
    (lambda x: x[0], lambda x: x[1]),
    (lambda x: x * x[0], lambda x: x * x[1]),
    (lambda x: (x, 2 * x), lambda x: (2 * x, x)),
    (lambda x: jnp.float32(2) * x, lambda x: np.float64(2) * x.astype(jnp.float32)),
    (lambda x: jax.jit(lambda y: y * 2)(x), lambda x: jax.jit(lambda y: y * 3)(x)),
    (lambda x: jax.lax.scan(lambda c, a: (c * a, c), 1.0, x), lambda x: jax.lax.scan(lambda c, a: (c + a, c), 1.0, x)),
    (lambda x: jnp.where(x > 1, x, 0), lambda x: jnp.where(x >= 1, x, 0)),
    (lambda x: x.at[0].set(1), lambda x: x.at[0].add(1)),
    (lambda x: x.reshape(3, 1), lambda x: x.reshape(1, 3)),
    (lambda x: x.sum(), lambda x: x.max()),
    (jax.nn.relu, jax.nn.silu),
]


@pytest.mark.parametrize("pair", range(len(DIFFERENT)))
def test_different_functions_have_different_keys(pair):
    first, second = DIFFERENT[pair]
    assert key(first).structure != key(second).structure


def test_constants_count_by_type_only():
    assert key(lambda x: x * np.arange(3.0)) == key(lambda x: x * np.ones(3))
    assert key(lambda x: x * np.arange(3.0)) != key(lambda x: x * np.ones((1, 3)))


def test_inner_constants_count():
    holds = lambda w: lambda x: jax.jit(lambda y: y * w)(x)
    small = [jnp.arange(3.0), jnp.arange(3.0), jnp.ones(3)]
    assert key(holds(small[0])) == key(holds(small[1])) != key(holds(small[2]))
    large = [jnp.ones(1000), jnp.ones(1000)]
    y = np.ones(1000)
    assert key(holds(large[0]), y) == key(holds(large[0]), y) != key(holds(large[1]), y)


def test_numbers_are_told_apart_by_their_bits():
    for a, b in ((2.0, 3.0), (0.0, -0.0), (1.0, float(np.nextafter(1.0, 2.0)))):
        first, second = key(lambda x, a=a: a * x), key(lambda x, b=b: b * x)
        assert first.structure == second.structure
        assert first.literals != second.literals
        where = [key(lambda x, c=c: jnp.where(x > 0, x, c)) for c in (a, b)]
        assert where[0].structure == where[1].structure and where[0] != where[1]
    nan = key(lambda x: x * float("nan"))
    assert nan == key(lambda x: x * float("nan"))
    assert key(lambda x: x * 1.0) != key(lambda x: x * np.float64(1.0).astype(np.float32).astype(np.float64) * 1.0)


def test_lifted_numbers_give_the_same_values():
    f = lambda x: (jnp.where(x > 0.5, 2.5 * x, -1.0), x.astype(jnp.float32) * 3.0, 4.0, jnp.arctan2(x, -0.0), x + 2j)
    closed = jax.make_jaxpr(f)(X)
    lifted, numbers = keys.lift_literals(closed.jaxpr), keys.literals(closed.jaxpr)
    assert len(numbers) == len(lifted.constvars) - len(closed.jaxpr.constvars) >= 5
    assert not keys.literals(lifted)
    run = jax.jit(lambda numbers, x: jax.extend.core.jaxpr_as_fun(
        jax.extend.core.ClosedJaxpr(lifted, [*closed.consts, *numbers])
    )(x))  # fmt: skip
    for got, want in zip(run(numbers, X), jax.tree.leaves(f(jnp.asarray(X))), strict=True):
        assert got.dtype == jnp.asarray(want).dtype
        np.testing.assert_array_equal(got, want)


def test_rules_of_the_user_make_a_key_opaque():
    @jax.custom_jvp
    def sine(x):
        return jnp.sin(x)

    sine.defjvp(lambda p, t: (jnp.sin(p[0]), t[0]))
    found = key(lambda x: sine(x))
    assert found.opaque.endswith("test_rules_of_the_user_make_a_key_opaque.<locals>.<lambda>")
    assert key(lambda x: jax.lax.scan(lambda c, a: (c, sine(a)), 0.0, x)).opaque

    class Rule:
        def __call__(self, p, t):
            return jnp.sin(p[0]), t[0]

    sine.defjvp(Rule())
    assert key(lambda x: sine(x)).opaque.endswith("Rule")
    assert key(jax.custom_gradient(lambda x: (x**2, lambda g: (g * x,)))).opaque
