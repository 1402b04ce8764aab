"""Jacobians, gradients and Hessians of NumPy functions through the public interface."""

from __future__ import annotations

import tracemalloc
from collections import namedtuple

import numpy as np
import pytest

import crelle

W = np.random.default_rng(5).standard_normal((3, 4))
Pair = namedtuple("Pair", "x y")


def tanh_layer(x):
    return np.tanh(W @ x)


def tanh_layer_jacobian(x):
    return (1 - np.tanh(W @ x) ** 2)[:, None] * W


class Counted:
    """A function that counts its evaluations."""

    def __init__(self, f):
        self.f, self.count = f, 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.f(*args, **kwargs)

    def taken(self):
        count, self.count = self.count, 0
        return count


@pytest.fixture(autouse=True)
def fresh():
    crelle.clear_caches()


# -- shapes and trees


@pytest.mark.parametrize("shape_in", [(), (3,), (2, 3), (0,), (2, 0), (1, 1)])
@pytest.mark.parametrize("shape_out", [(), (2,), (4, 2), (0,), (3, 0)])
@pytest.mark.parametrize("mode", ["central", "complex-step"])
def test_the_shape_is_output_then_input(shape_in, shape_out, mode):
    rng = np.random.default_rng(0)
    a = rng.standard_normal(shape_out + shape_in)
    x = rng.uniform(0.5, 1.5, shape_in)
    axes = len(shape_in)

    def f(x):
        return np.tensordot(a, x**2, axes)

    if not x.size or not np.prod(shape_out, dtype=int):
        mode = "auto"
    found = crelle.jacobian(f, mode=mode)(x)
    assert found.shape == shape_out + shape_in
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, 2 * a * x, rtol=1e-9, atol=1e-9)
    flat = crelle.jacobian(f, mode=mode, flatten=True)(x)
    np.testing.assert_allclose(flat, (2 * a * x).reshape(int(np.prod(shape_out)), x.size), rtol=1e-9, atol=1e-9)


def test_trees_of_inputs_and_outputs():
    def f(p):
        return {"z": [p["w"] @ p["b"].x, None], "a": (p["b"].y ** 2,)}

    p = {"w": np.arange(6.0).reshape(2, 3), "b": Pair(np.ones(3), np.array(3.0))}
    found = crelle.jacobian(f)(p)
    assert list(found) == ["z", "a"]
    block = found["z"][0]
    assert list(block) == ["w", "b"]
    assert isinstance(block["b"], Pair)
    assert found["z"][1] is None
    assert block["w"].shape == (2, 2, 3)
    np.testing.assert_allclose(block["w"], np.einsum("ij,k->ijk", np.eye(2), np.ones(3)), atol=1e-9)
    np.testing.assert_allclose(block["b"].x, p["w"], atol=1e-9)
    np.testing.assert_allclose(block["b"].y, [0, 0], atol=1e-9)
    np.testing.assert_allclose(found["a"][0]["b"].y, 6.0, rtol=1e-9)
    np.testing.assert_array_equal(found["a"][0]["w"], np.zeros((2, 3)))
    flat = crelle.jacobian(f, flatten=True)(p)
    assert flat.shape == (3, 10)
    np.testing.assert_allclose(flat[:2, 6:9], p["w"], atol=1e-9)


def test_hessian_of_a_tree_is_a_tree_of_trees():
    def f(p):
        return (p["a"] ** 2).sum() * p["b"]

    p = {"a": np.array([1.0, 2.0]), "b": np.array(3.0)}
    found = crelle.hessian(f)(p)
    np.testing.assert_allclose(found["a"]["a"], 6 * np.eye(2), atol=1e-7)
    np.testing.assert_allclose(found["a"]["b"], [2.0, 4.0], atol=1e-7)
    np.testing.assert_allclose(found["b"]["a"], [2.0, 4.0], atol=1e-7)
    np.testing.assert_allclose(found["b"]["b"], 0.0, atol=1e-7)
    assert found["b"]["b"].shape == ()


def test_argnums_keywords_and_passive_arguments():
    def f(x, name, y, *, power=2):
        assert name == "label"
        return x**power * y

    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    np.testing.assert_allclose(crelle.jacobian(f)(x, "label", y, power=3), np.diag(3 * x**2 * y), rtol=1e-9)
    np.testing.assert_allclose(crelle.jacobian(f, argnums=-1)(x, "label", y), np.diag(x**2), rtol=1e-9)
    found = crelle.jacobian(f, argnums=(2, 0))(x, "label", y)
    assert isinstance(found, tuple)
    np.testing.assert_allclose(found[0], np.diag(x**2), rtol=1e-9)
    np.testing.assert_allclose(found[1], np.diag(2 * x * y), rtol=1e-9)


def test_value_error_and_aux_stand_in_a_fixed_order():
    def f(x):
        return np.sin(x), {"n": len(x)}

    x = np.array([0.5, 1.0])
    j, e = np.diag(np.cos(x)), (2, 2)
    found = crelle.jacobian(f, has_aux=True)(x)
    np.testing.assert_allclose(found[0], j, rtol=1e-9)
    assert found[1] == {"n": 2}
    found, error, aux = crelle.jacobian(f, has_aux=True, error=True)(x)
    np.testing.assert_allclose(found, j, rtol=1e-9)
    assert error.shape == e
    assert aux == {"n": 2}
    (value, aux), found = crelle.jacobian(f, has_aux=True, value=True)(x)
    np.testing.assert_array_equal(value, np.sin(x))
    assert aux == {"n": 2}
    (value, aux), found, error = crelle.jacobian(f, has_aux=True, value=True, error=True)(x)
    np.testing.assert_array_equal(value, np.sin(x))
    np.testing.assert_allclose(found, j, rtol=1e-9)
    assert error.shape == e
    value, found, error = crelle.jacobian(np.sin, value=True, error=True)(x)
    np.testing.assert_array_equal(value, np.sin(x))
    assert np.all(np.abs(found - j) <= 10 * error + 1e-16)


def test_the_error_has_the_tree_of_the_derivative():
    def f(p):
        return {"u": p["x"] ** 2, "v": p["y"].sum()}

    found, error = crelle.jacobian(f, error=True, mode="central")({"x": np.ones(2), "y": np.ones((2, 2), np.float32)})
    for key in "uv":
        for name in "xy":
            assert error[key][name].shape == found[key][name].shape
            assert np.all(error[key][name] >= 0)
    _, error = crelle.gradient(lambda x: (x**3).sum(), error=True)(np.ones(3))
    assert error.shape == (3,)
    _, error = crelle.hessian(lambda x: (x**3).sum(), error=True, rows=1)(np.ones(3))
    assert error.shape == (3,)


def test_gradient_is_shaped_like_the_input():
    f = lambda p: (p["a"] ** 2).sum() * p["b"]
    p = {"a": np.array([[1.0, 2.0]]), "b": np.array(3.0)}
    found = crelle.gradient(f)(p)
    np.testing.assert_allclose(found["a"], [[6.0, 12.0]], rtol=1e-9)
    np.testing.assert_allclose(found["b"], 5.0, rtol=1e-9)
    value, found = crelle.gradient(f, value=True, flatten=True)(p)
    assert value == 15.0
    np.testing.assert_allclose(found, [6.0, 12.0, 5.0], rtol=1e-9)


def test_scalars_and_python_numbers():
    assert crelle.gradient(lambda x: x**3)(np.float64(2.0)) == pytest.approx(12.0, rel=1e-12)
    assert crelle.jacobian(lambda x: x**3)(np.array(2.0)).shape == ()
    found = crelle.jacobian(lambda p: [p[0].sum() * p[1], 2.0 * p[1]])([np.ones(2), 3.0])
    np.testing.assert_allclose(found[0][0], [3.0, 3.0], rtol=1e-9)
    np.testing.assert_allclose([found[0][1], found[1][1]], [2.0, 2.0], rtol=1e-9)
    seen = []
    crelle.jacobian(lambda p: (seen.append(type(p[1])), p[0] * p[1])[1])([np.ones(2), np.float32(3.0)])
    assert set(seen) <= {np.float32, np.complex64, np.ndarray}


@pytest.mark.parametrize("mode", ["central", "complex-step"])
def test_float32_stays_float32(mode):
    seen = set()

    def f(x):
        seen.add(x.dtype)
        return np.sin(x)

    x = np.array([0.5, 1.0], np.float32)
    found, error = crelle.jacobian(f, mode=mode, error=True)(x)
    assert found.dtype == error.dtype == np.float32
    assert seen <= {np.dtype(np.float32), np.dtype(np.complex64)}
    np.testing.assert_allclose(found, np.diag(np.cos(x)), rtol=1e-3 if mode == "central" else 3e-7, atol=1e-5)
    assert np.all(np.abs(found - np.diag(np.cos(x))) <= 10 * error + 1e-7)


def test_inputs_of_several_dtypes():
    f = lambda x, y: np.sin(x) * y
    x, y = np.array([0.5, 1.0], np.float32), np.array([1.0, 2.0])
    found = crelle.jacobian(f, argnums=(0, 1))(x, y)
    np.testing.assert_allclose(found[0], np.diag(np.cos(x) * y), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[1], np.diag(np.sin(x)), rtol=1e-5, atol=1e-7)


def test_complex_holomorphic():
    z = np.array([0.3 + 0.4j, 1.0 - 0.2j])
    found, error = crelle.jacobian(lambda z: z**3 * z[0], holomorphic=True, error=True)(z)
    true = np.diag(3 * z**2 * z[0]) + np.outer(z**3, [1, 0])
    assert found.dtype == np.complex128
    assert error.dtype == np.float64
    assert np.all(np.abs(found - true) <= 10 * error)
    np.testing.assert_allclose(found, true, rtol=1e-9, atol=1e-9)
    hessian = crelle.hessian(lambda z: z[0] ** 3 * z[1], holomorphic=True)(z)
    np.testing.assert_allclose(hessian, [[6 * z[0] * z[1], 3 * z[0] ** 2], [3 * z[0] ** 2, 0]], atol=1e-7)


def test_real_to_complex():
    x = np.array([0.3, 0.5])
    found = crelle.jacobian(lambda x: np.exp(1j * x))(x)
    np.testing.assert_allclose(found, np.diag(1j * np.exp(1j * x)), atol=1e-9)


# -- what it costs


def test_linear_functions_give_their_matrix():
    found, error = crelle.jacobian(lambda x: W @ x, error=True)(np.random.default_rng(0).standard_normal(4))
    np.testing.assert_array_equal(found, W)
    assert np.all(error < 1e-13)
    plan = crelle.jacobian(lambda x: W @ x + 1).plan(np.ones(4))
    assert plan.passes == 4
    assert "f is linear: exact, by unit differences to rounding" in plan.notes
    hessian = crelle.hessian(lambda x: W[0] @ x)
    np.testing.assert_array_equal(hessian(np.ones(4)), np.zeros((4, 4)))
    assert "f is linear: all second derivatives are 0" in hessian.plan(np.ones(4)).notes


@pytest.mark.parametrize(
    ("mode", "each", "extra"), [("central", 4, 1), ("complex-step", 1, 3)], ids=["central", "complex-step"]
)
def test_evaluations_of_a_call(mode, each, extra):
    f = Counted(tanh_layer)
    transform = crelle.jacobian(f, mode=mode)
    x = np.linspace(0.2, 0.8, 4)
    transform(x)
    assert f.taken() <= 4 * each + 25, "the first call looks at f, and checks"
    transform(x)
    assert f.taken() == 4 * each + extra
    assert transform.plan(x).passes == 4 * each
    assert transform.plan(x).unit == "evaluation"


def test_batches_take_one_call():
    f = Counted(lambda x: np.tanh(x @ W.T))
    transform = crelle.jacobian(f, mode="central")
    x = np.linspace(0.2, 0.8, 4)
    np.testing.assert_allclose(transform(x), tanh_layer_jacobian(x), atol=1e-9)
    f.taken()
    np.testing.assert_allclose(transform(x), tanh_layer_jacobian(x), atol=1e-9)
    assert f.taken() == 3, "f(x), one batch, and one of its points again"
    assert "f takes batches of points" in transform.plan(x).notes[-1]


@pytest.mark.parametrize("mode", ["central", "complex-step"])
def test_parts_cost_their_columns(mode):
    rng = np.random.default_rng(0)
    a = rng.uniform(0.1, 0.3, (6, 8))
    f = Counted(lambda x: np.tanh(a @ x))
    x = rng.uniform(0.5, 1.5, 8)
    whole = crelle.jacobian(f, mode=mode)(x)
    each = 4 if mode == "central" else 1
    some = [
        ({"cols": 3}, whole[:, 3], 1),
        ({"cols": [5, 2, 5]}, whole[:, [5, 2, 5]], 2),
        ({"cols": slice(1, 4), "rows": [0, -1]}, whole[[0, -1], 1:4], 3),
        ({"rows": 2, "cols": 7}, whole[2, 7], 1),
        ({"entries": (1, 6)}, whole[1, 6], 1),
        ({"entries": [(0, 1), (5, 1), (2, 4)]}, whole[[0, 5, 2], [1, 1, 4]], 2),
        ({"rows": np.array([True] * 2 + [False] * 4)}, whole[:2], 8),
        ({"entries": []}, np.zeros(0), 0),
        ({"cols": []}, np.zeros((6, 0)), 0),
    ]
    for selection, expected, columns in some:
        transform = crelle.jacobian(f, mode=mode, **selection)
        found = transform(x)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-9)
        assert transform.plan(x).passes == columns * each
        f.taken()
        transform(x)
        assert f.taken() <= columns * each + 9


def test_parts_of_a_hessian():
    f = Counted(lambda x: np.exp(x[0] * x[1]) + abs(x[2]) ** 3 * x[3] + x[1] ** 2)
    x = np.array([0.3, 0.5, 0.7, 1.1])
    hessian = crelle.hessian(f)
    whole = hessian(x)
    assert hessian.plan(x).passes == 40
    some = [
        ({"rows": 1}, whole[1]),
        ({"cols": [3, 0]}, whole[:, [3, 0]]),
        ({"rows": [0, 2], "cols": [2, 3]}, whole[np.ix_([0, 2], [2, 3])]),
        ({"entries": [(0, 1), (1, 0), (2, 2), (3, 2)]}, whole[[0, 1, 2, 3], [1, 0, 2, 2]]),
        ({"entries": (3, 2)}, whole[3, 2]),
        ({"rows": [2, 0, 2]}, whole[[2, 0, 2]]),
    ]
    for selection, expected in some:
        transform = crelle.hessian(f, **selection)
        found, error = crelle.hessian(f, error=True, **selection)(x)
        assert found.shape == error.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5)
        transform(x)
        assert transform.plan(x).passes < 40
    f.taken()
    crelle.hessian(f, entries=(0, 1), check=False)(x)
    assert f.taken() <= 30, "the pair, and a look at f"
    np.testing.assert_array_equal(whole, whole.T)


def test_analyze_measures():
    plan = crelle.jacobian(tanh_layer).plan(np.ones(4) / 2, analyze=True)
    assert plan.candidates[0].measured > 0
    assert plan.candidates[0].measured_bytes > 0


@pytest.mark.parametrize("f", [lambda x: np.tanh(x * x.sum(-1, keepdims=True)), lambda x: np.tanh(x * x.sum())])
@pytest.mark.parametrize("mode", ["central", "complex-step"])
def test_memory_is_bounded(f, mode):
    n = 1500
    x = np.random.default_rng(0).standard_normal(n) / n
    memory = 4_000_000
    transform = crelle.jacobian(f, mode=mode, memory=memory)
    transform(x)
    plan = transform.plan(x)
    assert plan.chunk is not None
    assert plan.bytes <= memory
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        found = transform(x)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak - found.nbytes <= 1.2 * memory


def test_memory_too_small_for_one_column():
    with pytest.raises(crelle.CrelleMemoryError, match=r"memory=1 kB is too small for even one pass"):
        crelle.jacobian(np.tanh, memory=1000)(np.ones(1000))


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("kind", ["central", "complex-step", "hessian"])
def test_chunks_change_nothing(chunk, kind):
    x = np.linspace(0.2, 0.8, 4)
    if kind == "hessian":
        f = lambda x: np.abs(np.tanh(x @ W.T)).sum(-1)
        np.testing.assert_allclose(crelle.hessian(f, chunk=chunk)(x), crelle.hessian(f)(x), atol=1e-6)
        return
    f = lambda x: np.tanh(x @ W.T)
    found = crelle.jacobian(f, mode=kind, chunk=chunk)(x)
    np.testing.assert_allclose(found, tanh_layer_jacobian(x), atol=1e-9)


# -- the plan


def test_a_plan_prints():
    plan = crelle.jacobian(tanh_layer).plan(np.ones(4) / 2)
    lines = str(plan).splitlines()
    assert lines[0].startswith("Jacobian of tanh_layer: f64[4] -> f64[3]")
    assert lines[1].split()[:5] == ["chosen", "dense", "complex-step", "4", "evaluations"]
    assert lines[2].split()[:5] == ["rejected", "dense", "central", "16", "evaluations"]
    assert "forward" in lines[3]
    assert lines[3].endswith("f is a NumPy function: a black box, without derivative rules")
    assert plan.backend == "numpy"


def test_a_plan_says_why_complex_steps_are_not_used():
    plan = crelle.jacobian(lambda x: np.abs(x) ** 3).plan(np.ones(4) / 2)
    assert plan.mode == "central"
    (row,) = [c for c in plan.candidates if c.mode == "complex-step"]
    assert row.reason == "f returns real numbers for complex ones: abs, real, or a cast on the way"
    assert any("does not admit complex steps" in note for note in plan.notes)


def test_a_forced_mode_that_cannot_be_used():
    with pytest.raises(crelle.CrelleValueError) as error:
        crelle.jacobian(np.abs, mode="complex-step")(np.ones(2))
    assert str(error.value).splitlines()[0] == "crelle.jacobian(absolute): mode='complex-step' cannot be used here"
    assert "abs, real, or a cast on the way" in str(error.value)
    with pytest.raises(crelle.CrelleValueError, match="black box, without derivative rules"):
        crelle.jacobian(np.sin, mode="reverse")(np.ones(2))


def test_a_called_plan_and_a_loaded_one(tmp_path):
    x = np.linspace(0.2, 0.8, 4)
    plan = crelle.jacobian(tanh_layer).plan(x)
    np.testing.assert_allclose(plan(x / 2), tanh_layer_jacobian(x / 2), atol=1e-12)
    with pytest.raises(crelle.CrelleShapeError, match="made for other inputs"):
        plan(np.ones(5))
    plan.save(tmp_path / "plan.json")
    loaded = crelle.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    np.testing.assert_allclose(crelle.jacobian(tanh_layer, plan=loaded)(x), tanh_layer_jacobian(x), atol=1e-12)


# -- never stale


def test_what_f_captures_may_change():
    scale = np.array(2.0)
    f = lambda x: scale * np.sin(x)
    transform = crelle.jacobian(f)
    x = np.array([0.3, 0.5])
    np.testing.assert_allclose(transform(x), 2 * np.diag(np.cos(x)), rtol=1e-12, atol=1e-15)
    scale[...] = 5.0
    np.testing.assert_allclose(transform(x), 5 * np.diag(np.cos(x)), rtol=1e-12, atol=1e-15)


def square(x):
    return x**2


def cube_of_size(x):
    return np.abs(x) ** 3


def total(x):
    return x * x.sum()


def doubled(x):
    return 2 * x


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_a_flag_that_changes_what_f_is(order, check):
    """Findings (batches, linear, analytic) of one function must not be used for another."""
    functions = [square, cube_of_size, total, doubled]
    x = np.array([0.3, -0.5, 0.7])
    true = [
        np.diag(2 * x),
        np.diag(3 * x * np.abs(x)),
        np.diag([x.sum()] * 3) + np.outer(x, np.ones(3)),
        2 * np.eye(3),
    ]
    state = {}
    transform = crelle.jacobian(lambda x: functions[state["which"]](x), check=check)
    for which in order * 3:
        state["which"] = which
        np.testing.assert_allclose(transform(x), true[which], atol=1e-8)


def wrapped(inner):
    return crelle.jacobian(lambda x: inner(x), check=False)


def test_closures_that_share_their_code():
    """Lambdas made in a loop are told apart by what they compute."""
    x = np.array([0.3, -0.5, 0.7])
    for inner, slope in ((np.sin, np.cos), (np.abs, np.sign), (np.exp, np.exp), (np.sin, np.cos)):
        found = crelle.jacobian(lambda x, inner=inner: inner(x))(x)
        np.testing.assert_allclose(found, np.diag(slope(x)), atol=1e-8)
        found = wrapped(inner)(x)
        np.testing.assert_allclose(found, np.diag(slope(x)), atol=1e-8)


def test_a_property_that_holds_only_somewhere():
    """Linear and analytic at the first point, neither at the next."""

    def f(x):
        return np.where(np.real(x) > 1, x**2, 3 * x) if np.all(np.real(x) < 10) else np.abs(x) * x

    transform = crelle.jacobian(f)
    for x in ([0.1, 0.2], [2.0, 0.2], [20.0, 30.0], [0.1, 0.2]):
        x = np.array(x)
        true = np.where(x > 1, 2 * x, 3.0) if np.all(x < 10) else 2 * x
        np.testing.assert_allclose(transform(x), np.diag(true), atol=1e-6)


def test_a_shape_that_changes_with_what_f_reads():
    size = [2]
    transform = crelle.jacobian(lambda x: x[: size[0]] ** 2)
    x = np.array([0.3, 0.5, 0.7])
    assert transform(x).shape == (2, 3)
    size[0] = 3
    np.testing.assert_allclose(transform(x), np.diag(2 * x), atol=1e-9)
    assert transform.plan(x).outputs[0].shape == (3,)


def test_hessians_notice_too():
    state = {"f": lambda x: (x**3).sum()}
    transform = crelle.hessian(lambda x: state["f"](x))
    x = np.array([0.3, 0.5])
    np.testing.assert_allclose(transform(x), np.diag(6 * x), atol=1e-7)
    state["f"] = lambda x: (np.abs(x) ** 3).sum()
    np.testing.assert_allclose(transform(x), np.diag(6 * x), atol=1e-5)
    state["f"] = lambda x: x.sum()
    np.testing.assert_allclose(transform(x), np.zeros((2, 2)), atol=1e-5)
    np.testing.assert_allclose(transform(x), np.zeros((2, 2)), atol=1e-5)
    state["f"] = lambda x: (x**3).sum()
    np.testing.assert_allclose(transform(x), np.diag(6 * x), atol=1e-5)


# -- bad input


def message(call, kind):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def test_in_place_mutation_is_refused_and_undone():
    def f(x):
        x[0] = 5.0
        return x**2

    x = np.array([1.0, 2.0])
    text = message(lambda: crelle.jacobian(f)(x), crelle.CrelleValueError)
    assert text == (
        "crelle.jacobian(f): f changes its argument x in place\n"
        "  called    x: f64[2]\n"
        "  expected  a function that leaves its arguments as they are: it is evaluated at many points\n"
        "  likely    an assignment such as x[0] = ..., or x += ..., inside f\n"
        "  try       work on a copy inside f: x = x.copy()"
    )
    np.testing.assert_array_equal(x, [1.0, 2.0])


def test_mutation_of_a_passive_argument_is_named():
    def f(x, data, *, more):
        more["k"] += 1
        return x * data

    data, more = np.ones(2), {"k": np.zeros(2)}
    text = message(lambda: crelle.jacobian(f)(np.ones(2), data, more=more), crelle.CrelleValueError)
    assert "f changes its argument more['k'] in place" in text
    np.testing.assert_array_equal(more["k"], np.zeros(2))

    def g(x, data):
        data["a"][0] *= 2
        return x * data["a"]

    text = message(lambda: crelle.jacobian(g)(np.ones(2), {"a": np.ones(2)}), crelle.CrelleValueError)
    assert "g changes" not in text
    assert "f changes its argument data['a'] in place" in text


def test_a_function_that_is_not_deterministic():
    rng = np.random.default_rng(0)
    text = message(lambda: crelle.jacobian(lambda x: x**2 + rng.random())(np.ones(2)), crelle.CrelleCheckError)
    assert "f is not deterministic: two evaluations at the same point differ" in text


@pytest.mark.parametrize(
    ("output", "returned"),
    [("text", "'text' of type str"), (object, "<class 'object'> of type type"), (np.array(["a"]), "an array of <U1")],
)
def test_outputs_that_are_not_arrays(output, returned):
    text = message(lambda: crelle.jacobian(lambda x: output)(np.ones(2)), crelle.CrelleTypeError)
    assert text.splitlines()[0] == f"crelle.jacobian(f): f returned {returned}"
    assert "has_aux=True if f returns (output, aux)" in text


def test_nothing_returned():
    text = message(lambda: crelle.jacobian(lambda x: None)(np.ones(2)), crelle.CrelleTypeError)
    assert text.splitlines()[0] == "crelle.jacobian(f): f returned nothing"
    assert "a missing return statement" in text


def test_integers_returned():
    text = message(lambda: crelle.jacobian(lambda x: np.array([1, 2]))(np.ones(2)), crelle.CrelleTypeError)
    assert text.splitlines()[0] == "crelle.jacobian(f): f returned i64[2], which has no derivative"


def test_has_aux_without_aux():
    text = message(lambda: crelle.jacobian(np.sin, has_aux=True)(np.ones(2)), crelle.CrelleTypeError)
    assert "has_aux=True, and f returned ndarray, not (output, aux)" in text


@pytest.mark.parametrize("kind", ["hessian", "gradient"])
@pytest.mark.parametrize(("f", "returned"), [(np.sin, "f64[2]"), (lambda x: x.sum(keepdims=True), "f64[1]")])
def test_outputs_that_are_not_scalar(kind, f, returned):
    text = message(lambda: getattr(crelle, kind)(f)(np.ones(2)), crelle.CrelleShapeError)
    assert f"f must return a scalar, and returned {returned}" in text.splitlines()[0]
    assert "f(x).sum(), f(x)[0], or crelle.jacobian" in text


def test_what_f_raises_at_x_passes_through():
    def f(x):
        raise KeyError("missing")

    with pytest.raises(KeyError) as error:
        crelle.jacobian(f)(np.ones(2))
    assert not getattr(error.value, "__notes__", [])


def test_what_f_raises_near_x_names_the_entry():
    def f(x):
        if x[1] != 2.0:
            raise ValueError("only 2 is allowed")
        return np.abs(x)

    with pytest.raises(ValueError, match="only 2 is allowed") as error:
        crelle.jacobian(f, check=False)(np.array([1.0, 2.0]))
    (note,) = error.value.__notes__
    assert note.startswith("crelle.jacobian(f): raised when f was evaluated with x[1] = 2.0 changed to 2.0000")


def test_entries_of_trees_are_named_by_their_path():
    def f(p):
        if p["w"][1, 0] != 1.0:
            raise ValueError("fixed")
        return np.abs(p["w"])

    with pytest.raises(ValueError) as error:
        crelle.jacobian(f, check=False)({"b": np.ones(2), "w": np.ones((2, 3))})
    assert "p['w'][1, 0] = 1.0 changed to" in error.value.__notes__[0]


def test_a_shape_that_depends_on_values():
    text = message(
        lambda: crelle.jacobian(lambda x: np.abs(x[x >= 1.0]), check=False)(np.array([1.0, 2.0])),
        crelle.CrelleShapeError,
    )
    assert "the shape of what f returns depends on the values of its input" in text
    assert "f64[2], as at x" in text
    assert "f64[1], with x[0] = 1.0 changed to 0.99" in text


def test_complex_input_without_holomorphic():
    text = message(lambda: crelle.jacobian(np.sin)(np.ones(2) + 1j), crelle.CrelleTypeError)
    assert "a function of complex numbers has one derivative only if it is holomorphic" in text
    text = message(lambda: crelle.jacobian(np.sin, holomorphic=True)(np.ones(2)), crelle.CrelleTypeError)
    assert "holomorphic=True is for complex inputs and complex outputs" in text


def test_a_function_that_is_not_holomorphic():
    text = message(
        lambda: crelle.jacobian(lambda z: z * np.conj(z), holomorphic=True)(np.array([1.0 + 2j])),
        crelle.CrelleCheckError,
    )
    assert "f is not holomorphic: ∂f/∂y is not i ∂f/∂x" in text


def test_nan_in_the_value_and_the_derivative_are_told_apart():
    def f(x):
        return np.array([np.log(x[0]), x[1], np.abs(x[1])])

    with np.errstate(all="ignore"), pytest.warns(crelle.CrelleNonFiniteWarning) as caught:
        crelle.jacobian(f)(np.array([-1.0, 2.0]))
    assert "value [0] is nan; derivative [0, 0] is nan" in str(caught[0].message)
    with pytest.warns(crelle.CrelleNonFiniteWarning) as caught:
        crelle.jacobian(lambda x: np.sqrt(np.abs(x)) * np.sign(x) + np.sqrt(x), mode="central")(np.array([4.0, 0.0]))
    text = str(caught[0].message).splitlines()[0]
    assert text == "crelle.jacobian(f): derivative [1, 1] is nan"


def test_paths_in_what_is_not_finite():
    with pytest.warns(crelle.CrelleNonFiniteWarning) as caught:
        crelle.jacobian(lambda p: {"y": np.sqrt(p["x"])}, mode="central")({"x": np.array([1.0, 0.0])})
    assert "derivative['y']['x'] [1, 1] is nan" in str(caught[0].message)


def test_error_is_for_numpy_only():
    import jax.numpy as jnp

    text = message(lambda: crelle.jacobian(jnp.sin, error=True)(jnp.ones(2)), crelle.CrelleValueError)
    assert "error=True is for NumPy functions" in text


def test_warnings_of_f_at_x_are_the_users_and_those_nearby_are_not():
    crelle.jacobian(np.log)(np.array([1e-5, 2.0]))  # warnings are errors in these tests
    crelle.clear_caches()
    with pytest.warns(RuntimeWarning, match="invalid value"), pytest.warns(crelle.CrelleNonFiniteWarning):
        crelle.jacobian(np.log)(np.array([-1.0, 2.0]))


def test_integers_are_refused():
    text = message(lambda: crelle.jacobian(np.sin)(np.array([1, 2])), crelle.CrelleTypeError)
    assert "x.astype(float)" in text


def test_a_function_that_is_noisy_is_not_called_wrong():
    f = lambda x: np.sin(x.astype(np.float32)).astype(float)
    found = crelle.jacobian(f)(np.array([0.7, 1.3]))
    np.testing.assert_allclose(found, np.diag(np.cos([0.7, 1.3])), atol=1e-3)


def test_the_check_can_fail():
    """A derivative that is wrong by construction is refused: the runner's answer is tampered with."""
    from crelle.backends.numpy import run

    original = run.jacobian

    def tampered(*args):
        computed = original(*args)
        computed.matrix[0, 1] += 1e-3
        return computed

    try:
        run.jacobian = tampered
        text = message(lambda: crelle.jacobian(tanh_layer, mode="central")(np.ones(4) / 2), crelle.CrelleCheckError)
    finally:
        run.jacobian = original
    assert "a random product equal to that of an independent difference" in text


@pytest.mark.parametrize(
    ("f", "n", "memory"),
    [(lambda x: (np.abs(x) ** 3).sum(-1), 250, 1_000_000), (lambda x: (np.abs(x) ** 3).sum(), 80, 200_000)],
    ids=["batched", "alone"],
)
def test_memory_of_a_hessian_is_bounded(f, n, memory):
    x = np.random.default_rng(0).uniform(0.5, 1.5, n) / n
    transform = crelle.hessian(f, memory=memory, check=False)
    transform(x)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        found = transform(x)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak - found.nbytes <= 1.2 * memory
