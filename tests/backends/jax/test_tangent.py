"""Patterns of JAX functions at the edges: directions, values, transformations, changes, several devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle

N = 5


def test_shapes_are_enough():
    shape = jax.ShapeDtypeStruct((N,), jnp.float32)
    assert crelle.jacobian(lambda x: x[1:] * x[:-1]).pattern(shape).nnz == 2 * (N - 1)


def test_local_patterns_need_values():
    J = crelle.jacobian(lambda x: jnp.maximum(x, 0.0))
    assert J.pattern(jnp.array([-1.0, 2.0, 3.0]), local=True).nnz == 2
    with pytest.raises(crelle.CrelleTypeError, match="local=True reads the values") as caught:
        J.pattern(jax.ShapeDtypeStruct((3,), jnp.float32), local=True)
    assert "pass arrays, outside of any transformation" in str(caught.value)


def test_a_function_that_needs_values_is_refused():
    with pytest.raises(crelle.CrelleTypeError, match="the pattern is read off the traced derivative") as caught:
        crelle.jacobian(lambda x: x if x[0] > 0 else -x).pattern(jnp.ones(N))
    assert "f needs values of its arguments in Python" in str(caught.value)


def test_functions_with_reverse_rules_only_are_read_in_reverse():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    J = crelle.jacobian(lambda x: square(x)[1:] * x[:-1])
    assert J.program(jnp.ones(N)).transposed
    dense = jax.jacrev(lambda x: square(x)[1:] * x[:-1])(jnp.arange(1.0, N + 1))
    assert np.array_equal(J.pattern(jnp.ones(N)).to_dense(), np.asarray(dense) != 0)


def test_straight_through_estimators_follow_their_rule():
    @jax.custom_jvp
    def rounded(x):
        return jnp.round(x)

    rounded.defjvp(lambda p, t: (jnp.round(p[0]), t[0]))
    assert crelle.jacobian(rounded).pattern(jnp.ones(N)).nnz == N
    assert crelle.jacobian(jnp.round).pattern(jnp.ones(N)).nnz == 0


def test_three_classes_of_entries():
    f = lambda x, c: c * x + 3 * jnp.roll(x, 1) + jnp.roll(x, 2) ** 2
    structure = crelle.jacobian(f).structure(jnp.ones(N), jnp.ones(N))
    assert structure.constant_share == pytest.approx(1 / 3)
    assert structure.passive_share == pytest.approx(1 / 3)
    # steps that depend on x make what they carry vary
    loop = lambda x: jax.lax.while_loop(lambda s: s[0].sum() < 9, lambda s: (2 * s[0], 3 * s[1]), (jnp.exp(x), x))[1]
    assert crelle.jacobian(loop).structure(jnp.ones(N)).constant_share == 0


def test_changes_of_captured_arrays_are_seen():
    mask, index = np.ones(N), np.arange(N)
    J = crelle.jacobian(lambda x: mask * x[index] ** 2)
    assert J.pattern(jnp.ones(N)).nnz == N
    mask[:2] = 0
    index[:] = 0
    assert J.pattern(jnp.ones(N)).rows.tolist() == [2, 3, 4]
    assert J.pattern(jnp.ones(N)).indices.tolist() == [0, 0, 0]


def test_patterns_are_found_inside_transformations():
    found = []

    def f(x):
        found.append(crelle.jacobian(lambda y: y[1:] * y[:-1]).pattern(x))
        return x

    jax.jit(f)(jnp.ones(N))
    jax.vmap(f)(jnp.ones((3, N)))
    assert [p.nnz for p in found] == [2 * (N - 1)] * 2


def test_a_loop_without_a_reverse_rule_has_a_hessian_pattern():
    f = lambda x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] + (x**2).sum()), (0, 0.0))[1]
    assert np.array_equal(crelle.hessian(f).pattern(jnp.ones(N)).to_dense(), np.eye(N, dtype=bool))


def test_several_devices():
    code = """
import jax, jax.numpy as jnp, numpy as np, crelle
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()), ("i",))
x = jax.device_put(jnp.arange(8.0) + 1, NamedSharding(mesh, P("i")))
f = lambda x: jax.lax.with_sharding_constraint(jnp.sin(x[1:]) * x[:-1], NamedSharding(mesh, P()))
assert len(jax.devices()) == 4
assert crelle.jacobian(f).pattern(x).nnz == 14
J = crelle.jacobian(lambda x: x * jnp.roll(x, 1), format="csr")(x)
np.testing.assert_allclose(J.toarray(), jax.jacfwd(lambda x: x * jnp.roll(x, 1))(x), rtol=1e-6)
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
