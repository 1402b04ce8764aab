"""Parts of a matrix, transformations around ours, sharded arrays, memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from tests.backends.jax.reference import assert_same

X = np.array([0.3, -1.2, 2.0])
A = np.arange(6.0).reshape(2, 3) / 7


def x3():
    return jnp.array(X)


def tall(x):
    return jnp.sin(jnp.outer(jnp.arange(1.0, 6.0), x)).sum(1) * x[0]


def energy(x):
    return jnp.sum(jnp.sin(x) * jnp.roll(x, 1)) * x[0]


DENSE = jax.jit(jax.jacrev(tall))(X)

# what is asked, what of the dense matrix that is, and how many passes each direction needs for a 5 × 3 matrix
PARTS = [
    ({"rows": 2}, lambda J: J[2], 1, 3),
    ({"rows": -1}, lambda J: J[-1], 1, 3),
    ({"rows": [4, 0, 0]}, lambda J: J[[4, 0, 0]], 2, 3),
    ({"rows": slice(1, 4)}, lambda J: J[1:4], 3, 3),
    ({"rows": slice(None, None, -2)}, lambda J: J[::-2], 3, 3),
    ({"rows": [False, True, False, False, True]}, lambda J: J[[1, 4]], 2, 3),
    ({"cols": 1}, lambda J: J[:, 1], 5, 1),
    ({"cols": [2, 0]}, lambda J: J[:, [2, 0]], 5, 2),
    ({"cols": []}, lambda J: J[:, []], 5, 0),
    ({"rows": 2, "cols": 1}, lambda J: J[2, 1], 1, 1),
    ({"rows": [3, 1], "cols": 1}, lambda J: J[[3, 1], 1], 2, 1),
    ({"rows": 3, "cols": [0, 2]}, lambda J: J[3, [0, 2]], 1, 2),
    ({"rows": [3, 1], "cols": [0, 2]}, lambda J: J[np.ix_([3, 1], [0, 2])], 2, 2),
    ({"entries": (4, 2)}, lambda J: J[4, 2], 1, 1),
    ({"entries": (-1, -1)}, lambda J: J[-1, -1], 1, 1),
    ({"entries": [(4, 2), (0, 2), (4, 2), (1, 0)]}, lambda J: J[[4, 0, 4, 1], [2, 2, 2, 0]], 3, 2),
    ({"entries": np.zeros((0, 2), int)}, lambda J: J[[], []], 0, 0),
]


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("part", range(len(PARTS)))
def test_parts_of_a_jacobian_cost_their_passes(part, mode, chunk):
    keywords, cut, by_row, by_column = PARTS[part]
    J = crelle.jacobian(tall, mode=mode, chunk=chunk, **keywords)
    assert J.plan(x3()).passes == (by_row if mode == "reverse" else by_column)
    expected = cut(np.asarray(DENSE))
    assert J(x3()).shape == expected.shape
    np.testing.assert_allclose(J(x3()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_the_cheaper_direction_is_taken(part):
    keywords, _, by_row, by_column = PARTS[part]
    plan = crelle.jacobian(tall, **keywords).plan(x3())
    assert {c.mode: c.passes for c in plan.candidates} == {"reverse": by_row, "forward": by_column}
    assert plan.seconds == min(c.seconds for c in plan.candidates)


HESSIAN_PARTS = [
    ({"rows": 2}, lambda H: H[2], 1),
    ({"cols": [2, 0]}, lambda H: H[:, [2, 0]], 2),
    ({"rows": [0, 1], "cols": 2}, lambda H: H[[0, 1], 2], 1),
    ({"rows": 1, "cols": [2, 0, 1]}, lambda H: H[1, [2, 0, 1]], 1),
    ({"entries": (1, 0)}, lambda H: H[1, 0], 1),
    ({"entries": [(0, 1), (2, 1), (1, 1)]}, lambda H: H[[0, 2, 1], 1], 1),
    ({"entries": [(i, i) for i in range(3)]}, lambda H: np.diagonal(H), 3),
]


@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("part", range(len(HESSIAN_PARTS)))
def test_parts_of_a_hessian_use_its_symmetry(part, chunk):
    keywords, cut, passes = HESSIAN_PARTS[part]
    H = crelle.hessian(energy, chunk=chunk, **keywords)
    assert H.plan(x3()).passes == passes
    expected = cut(np.asarray(jax.jit(jax.hessian(energy))(x3())))
    assert H(x3()).shape == expected.shape
    np.testing.assert_allclose(H(x3()), expected, rtol=1e-12, atol=1e-12)


def test_parts_of_trees_index_the_raveled_trees():
    f = lambda p: {"u": p["w"] @ p["x"], "v": p["x"] ** 2}
    p = {"w": jnp.array(A), "x": x3()}
    flat = np.asarray(crelle.jacobian(f, flatten=True)(p))
    np.testing.assert_array_equal(crelle.jacobian(f, rows=[0, 4], cols=[1, 7])(p), flat[np.ix_([0, 4], [1, 7])])
    np.testing.assert_array_equal(crelle.jacobian(f, entries=(3, 7), mode="forward")(p), flat[3, 7])
    value, row = crelle.jacobian(f, rows=1, value=True)(p)
    assert_same(value, f(p))
    np.testing.assert_array_equal(row, flat[1])


# transformations around ours

MODES = [("forward", None), ("forward", 2), ("reverse", None), ("reverse", 2)]


def loss(jacobian):
    return lambda x: jnp.sum(jacobian(tall)(x) ** 2)


def test_under_jit():
    assert_same(jax.jit(crelle.jacobian(tall))(x3()), jax.jit(jax.jacrev(tall))(x3()))
    assert_same(jax.jit(crelle.hessian(energy))(x3()), jax.jit(jax.hessian(energy))(x3()))
    static = jax.jit(crelle.jacobian(lambda x, n: x**n), static_argnums=1)
    assert_same(static(x3(), 3), jax.jacrev(lambda x: x**3)(x3()))


@pytest.mark.parametrize(("mode", "chunk"), MODES)
def test_under_vmap(mode, chunk):
    batch = jnp.stack([x3(), 2 * x3(), x3() - 1, x3() + 1])
    J = crelle.jacobian(tall, mode=mode, chunk=chunk)
    assert_same(jax.jit(jax.vmap(J))(batch), jax.jit(jax.vmap(jax.jacrev(tall)))(batch))
    assert_same(jax.vmap(J, in_axes=1)(batch.T), jax.jit(jax.vmap(jax.jacrev(tall)))(batch))


@pytest.mark.parametrize(("mode", "chunk"), MODES)
def test_ours_is_differentiable(mode, chunk):
    ours = loss(lambda f: crelle.jacobian(f, mode=mode, chunk=chunk))
    expected = jax.jit(jax.grad(loss(jax.jacrev)))(x3())
    assert_same(jax.jit(jax.grad(ours))(x3()), expected)
    assert_same(jax.jit(jax.jacfwd(ours))(x3()), expected)


@pytest.mark.parametrize("chunk", [None, 2])
def test_hessians_are_differentiable(chunk):
    for mode in ("forward-over-reverse", "reverse-over-reverse", "reverse-over-forward", "forward-over-forward"):
        ours = jax.jit(jax.jacfwd(crelle.hessian(energy, mode=mode, chunk=chunk)))(x3())
        assert_same(ours, jax.jit(jax.jacfwd(jax.hessian(energy)))(x3()))


def test_ours_of_ours():
    assert_same(crelle.jacobian(crelle.gradient(energy))(x3()), jax.jit(jax.hessian(energy))(x3()))
    assert_same(crelle.jacobian(crelle.hessian(energy))(x3()), jax.jit(jax.jacfwd(jax.hessian(energy)))(x3()))
    assert_same(crelle.hessian(loss(crelle.jacobian))(x3()), jax.jit(jax.hessian(loss(jax.jacrev)))(x3()))
    assert_same(crelle.jacobian(jax.grad(energy))(x3()), jax.jit(jax.hessian(energy))(x3()))


def test_inside_scan_and_while():
    def newton(hessian, gradient):
        def step(x, _):
            return x - 0.1 * jnp.linalg.solve(hessian(bowl)(x), gradient(bowl)(x)), None

        return jax.lax.scan(step, x3(), length=4)[0]

    bowl = lambda x: jnp.sum(x**2) + jnp.sum(jnp.cosh(x))
    assert_same(newton(crelle.hessian, crelle.gradient), newton(jax.hessian, jax.grad))
    doubled = jax.lax.while_loop(lambda x: x[0] < 1, lambda x: x + crelle.jacobian(lambda v: v**2)(x).sum(0), x3())
    assert_same(doubled, jax.lax.while_loop(lambda x: x[0] < 1, lambda x: x + 2 * x, x3()))


def test_captured_tracers():
    def at(t):
        return crelle.jacobian(lambda x: jnp.sin(t * x))(x3())

    expected = jax.jacrev(lambda x: jnp.sin(2.0 * x))(x3())
    assert_same(jax.jit(at)(2.0), expected)
    assert_same(jax.grad(lambda t: at(t).sum())(2.0), jax.grad(lambda t: jnp.sum(t * jnp.cos(t * X)))(2.0))
    assert_same(at(2.0), expected)  # nothing of the transformations above was kept


def test_donated_arguments():
    f = jax.jit(crelle.jacobian(jnp.sin), donate_argnums=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array is too small for the answer to be written into it
        assert f(x3() * 1.0).shape == (3, 3)


def in_fresh_process(program, devices=4):
    """Run a program where JAX sees several devices; it must print "ok"."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    root = Path(crelle.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={"PATH": "", "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout.strip().endswith("ok"), done.stderr[-3000:]


def test_several_devices():
    in_fresh_process(
        """
        import jax, jax.numpy as jnp, numpy as np
        jax.config.update("jax_enable_x64", True)
        import crelle
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

        v = np.linspace(-1, 1, 8)
        f = lambda x: jnp.sin(x) * jnp.sum(x ** 2)
        want = np.diag(np.cos(v) * (v @ v)) + np.outer(np.sin(v), 2 * v)
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))
            sharded = jax.device_put(v, NamedSharding(mesh, P("d")))
            for mode in ("forward", "reverse"):
                for chunk in (None, 3):
                    J = crelle.jacobian(f, mode=mode, chunk=chunk)
                    np.testing.assert_allclose(J(sharded), want, rtol=1e-12)
                    np.testing.assert_allclose(jax.jit(J)(sharded), want, rtol=1e-12)
            H = crelle.hessian(lambda x: jnp.sum(f(x)))(sharded)
            np.testing.assert_allclose(H, jax.hessian(lambda x: jnp.sum(f(x)))(v), rtol=1e-10)
        plan = crelle.jacobian(f).plan(sharded)
        assert plan.device == "cpu × 4", plan.device

        g = lambda a, b: jnp.sin(a) * b.sum()  # b was put nowhere: JAX moves it
        auto = jax.device_put(v, NamedSharding(jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,)), P("d")))
        both = crelle.jacobian(g, argnums=(0, 1))(auto, jnp.ones(3))
        np.testing.assert_allclose(both[1], np.outer(np.sin(v), np.ones(3)), rtol=1e-12)

        second = jax.device_put(v, jax.devices()[2])
        assert crelle.jacobian(f)(second).devices() == {jax.devices()[2]}
        try:
            crelle.jacobian(lambda a, b: a * b)(second, jax.device_put(v, jax.devices()[1]))
        except crelle.CrelleValueError as error:
            assert str(error) == (
                "crelle.jacobian(f): the arrays are on different devices\\n"
                "  called    f64[8] on cpu:2\\n"
                "            f64[8] on cpu:1\\n"
                "  expected  one device, or one mesh of devices\\n"
                "  try       move them with jax.device_put(x, device)"
            ), str(error)
        print("ok")
        """
    )


# memory

RNG = np.random.default_rng(0)
W = RNG.normal(size=(64, 1024)) / 32
TALL = RNG.normal(size=(4000, 500)) / 20


def wide_energy(x):
    return jnp.sum(jnp.tanh(W @ x) ** 2) + jnp.sum(x**4) + jnp.sum(x[1:] * jnp.sin(x[:-1]))


def tall_map(x):
    return jnp.tanh(TALL @ x) * jnp.sum(x**2)


NETWORK = {"a": (20, 16), "b": (20,), "c": (16, 20), "d": (16,)}


def network(p):
    return jnp.sum((p["c"] @ jnp.tanh(p["a"] @ RNG_BATCH.T + p["b"][:, None]) + p["d"][:, None]) ** 2)


RNG_BATCH = RNG.normal(size=(64, 16))


def measured(transform, x):
    """XLA's own count of temporary bytes of the whole jitted call."""
    return jax.jit(transform).lower(x).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("memory", ["1MB", "10MB"])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_hessian_stays_within_its_memory(memory, flatten):
    x = jnp.asarray(np.random.default_rng(1).normal(size=1024))
    H = crelle.hessian(wide_energy, memory=memory, flatten=flatten)
    answer = H(x)
    plan = H.plan(x)
    assert plan.chunk is not None
    assert plan.candidates[0].measured_bytes <= plan.memory
    assert measured(H, x) <= 1.2 * plan.memory
    assert_same(answer, jax.jit(jax.hessian(wide_energy))(x))


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("memory", ["2MB", "20MB"])
def test_a_jacobian_stays_within_its_memory(memory, mode):
    x = jnp.asarray(np.random.default_rng(1).normal(size=500))
    J = crelle.jacobian(tall_map, memory=memory, mode=mode)
    answer = J(x)
    plan = J.plan(x)
    assert plan.chunk is not None
    assert plan.candidates[0].measured_bytes <= plan.memory
    assert measured(J, x) <= 1.2 * plan.memory
    assert_same(answer, jax.jit(jax.jacrev(tall_map))(x))


@pytest.mark.parametrize("flatten", [False, True])
def test_the_hessian_of_a_tree_stays_within_its_memory(flatten):
    p = {k: jnp.asarray(np.random.default_rng(1).normal(size=s)) for k, s in NETWORK.items()}
    H = crelle.hessian(network, memory="2MB", flatten=flatten)
    H(p)
    assert measured(H, p) <= 1.2 * 2e6


def test_parts_stay_within_their_memory():
    x = jnp.asarray(np.random.default_rng(1).normal(size=1024))
    diagonal = crelle.hessian(wide_energy, entries=[(i, i) for i in range(1024)], memory="500kB")
    dense = jax.jit(jax.hessian(wide_energy))(x)
    np.testing.assert_allclose(diagonal(x), jnp.diagonal(dense), rtol=1e-12)
    assert measured(diagonal, x) <= 1.2 * 5e5
    corner = crelle.jacobian(tall_map, rows=range(4000), cols=[0, 7], mode="reverse", memory="1MB")
    y = jnp.asarray(np.random.default_rng(1).normal(size=500))
    np.testing.assert_allclose(corner(y), jax.jit(jax.jacrev(tall_map))(y)[:, [0, 7]], rtol=1e-11, atol=1e-12)
    assert measured(corner, y) <= 1.2 * 1e6
