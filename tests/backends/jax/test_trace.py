"""What is traced, what is compiled and how often, what is never stale, and what is let go."""

from __future__ import annotations

import functools
import gc
import logging
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from tests.backends.jax.reference import assert_same

X = np.array([0.3, 1.2, 2.0])


def x3():
    return jnp.array(X)


class Compilations(logging.Handler):
    """Counts what JAX compiles of ours: the computation of a plan, and the first-run check."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        text = record.getMessage()
        if text.startswith("Finished XLA compilation of"):
            self.names.append(text.split()[4])


@pytest.fixture
def compiled():
    """Names of the programs that were compiled in a test."""
    handler, logger = Compilations(), logging.getLogger("jax._src.dispatch")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    with jax.log_compiles():
        yield handler.names
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


def ours(names):
    return [name for name in names if "lambda" in name]


# traced and compiled, how often


def test_ten_calls_trace_f_ten_times_and_compile_once(compiled):
    calls = []

    def f(x):
        calls.append(None)
        return jnp.sin(x) * x.sum()

    J = crelle.jacobian(f, check=False)
    for k in range(10):
        J(x3() + k)
    assert len(calls) == 10
    assert len(ours(compiled)) == 1


def test_a_called_plan_does_not_run_f(compiled):
    calls = []

    def f(x):
        calls.append(None)
        return jnp.sin(x) * x.sum()

    plan = crelle.jacobian(f, check=False).plan(x3())
    before = len(calls)
    for k in range(10):
        plan(x3() + k)
    assert len(calls) == before
    assert len(ours(compiled)) == 1


def test_jit_traces_once():
    calls = []

    def f(x):
        calls.append(None)
        return jnp.sin(x) * x.sum()

    J = jax.jit(crelle.hessian(lambda x: f(x).sum()))
    for k in range(5):
        J(x3() + k)
    assert len(calls) == 1


def test_a_function_made_anew_finds_what_was_compiled(compiled):
    for k in range(6):
        scale = jnp.full(3, float(k))
        crelle.jacobian(lambda x, scale=scale: jnp.sin(scale * x), check=False)(x3())
        del scale
    assert len(ours(compiled)) == 1


def test_numbers_that_vary_become_inputs(compiled):
    J = crelle.jacobian(lambda x, t: jnp.sin(t * x) + t, check=False)
    for k in range(20):
        assert_same(J(x3(), 0.1 * k), jnp.diag(0.1 * k * jnp.cos(0.1 * k * x3())))
    assert len(ours(compiled)) <= 2 + len(ours(compiled)) // 20

    class Solver:
        time = 0.0

        def rhs(self, x):
            return jnp.sin(self.time * x)

    solver = Solver()
    J = crelle.jacobian(solver.rhs, check=False)
    del compiled[:]
    for k in range(20):
        solver.time = 0.3 * k
        np.testing.assert_allclose(J(x3()), np.diag(0.3 * k * np.cos(0.3 * k * X)), rtol=1e-12, atol=1e-15)
    assert len(ours(compiled)) <= 2


def test_numbers_of_every_kind_may_vary():
    # -0.0 and 0.0 are different numbers, and nan is one like any other
    J = crelle.jacobian(lambda x, t: jnp.arctan2(t * x, -1.0), check=False)
    for t in (0.0, -0.0, 1.0, -0.0, 0.0):
        assert_same(J(x3(), t), jax.jacrev(lambda x, t=t: jnp.arctan2(t * x, -1.0))(x3()))
    z = crelle.jacobian(lambda x, t: jnp.real(t * x), check=False)
    for t in (1j, 2.0 + 1j, 3j):
        assert_same(z(x3(), t), jax.jacrev(lambda x, t=t: jnp.real(t * x))(x3()))


def test_a_function_that_changes_all_the_time_is_run_anew():
    J = crelle.jacobian(lambda x, n: x**n, check=False)
    for n in range(2, 30):
        assert_same(J(x3(), n), jax.jit(jax.jacrev(lambda x, n=n: x**n))(x3()))
    notes = J.plan(x3(), 31).notes
    assert any("run anew" in note for note in notes), notes


# never stale


def test_captured_arrays_may_be_rebound():
    holder = {"w": jnp.array([1.0, 2.0, 3.0])}
    J = crelle.jacobian(lambda x: holder["w"] * x**2)
    for k in range(3):
        holder["w"] = jnp.array([1.0, 2.0, 3.0]) * k
        np.testing.assert_allclose(jnp.diagonal(J(x3())), 2 * X * np.array(holder["w"]), rtol=1e-12)
    holder["w"] = jnp.array(4.0)
    np.testing.assert_allclose(jnp.diagonal(J(x3())), 8 * X, rtol=1e-12)


def test_numpy_arrays_may_change_in_place():
    w = np.array([1.0, 2.0, 3.0])
    J = crelle.jacobian(lambda x: w * x)
    for k in range(3):
        w[:] = k
        np.testing.assert_allclose(jnp.diagonal(J(x3())), w, rtol=1e-12)
    y = np.ones(3)
    J = crelle.jacobian(lambda x, y: y * x)
    for k in range(3):
        y[:] = k
        np.testing.assert_allclose(jnp.diagonal(J(x3(), y)), y, rtol=1e-12)


def test_flags_may_be_toggled():
    class Model:
        training = True

        def __call__(self, x):
            return 2 * x if self.training else jnp.sin(x)

    model = Model()
    for f in (model, lambda x: model(x)):
        J = crelle.jacobian(f)
        for training in (True, False, True, True, False):
            model.training = training
            assert_same(J(x3()), jax.jacrev(model)(x3()))


POWER = 2
helper = jnp.sin


def test_globals_may_be_replaced(monkeypatch):
    J = crelle.jacobian(lambda x: helper(x) ** POWER)
    assert_same(J(x3()), jax.jacrev(lambda x: jnp.sin(x) ** 2)(x3()))
    monkeypatch.setitem(globals(), "POWER", 3)
    assert_same(J(x3()), jax.jacrev(lambda x: jnp.sin(x) ** 3)(x3()))
    monkeypatch.setitem(globals(), "helper", jnp.exp)
    assert_same(J(x3()), jax.jacrev(lambda x: jnp.exp(x) ** 3)(x3()))
    monkeypatch.setattr(jnp, "exp", jnp.cos)
    monkeypatch.setitem(globals(), "helper", lambda x: jnp.exp(x))
    assert_same(J(x3()), jax.jacrev(lambda x: jnp.cos(x) ** 3)(x3()))


def test_the_tree_of_the_output_may_change():
    kind = [tuple]
    J = crelle.jacobian(lambda x: kind[0]((2 * x, x.sum())))
    assert isinstance(J(x3()), tuple)
    kind[0] = list
    assert isinstance(J(x3()), list)
    n = [1]
    G = crelle.jacobian(lambda x: ((x, 2 * x)[: n[0]], (x, 2 * x)[n[0] :]), has_aux=True)
    for k in (1, 2, 1, 0 + 2):
        n[0] = k
        jacobian, aux = G(x3())
        assert (len(jacobian), len(aux)) == (k, 2 - k)


def test_calls_back_into_python_are_those_of_now():
    scale = 2.0

    def f(x):
        s = jax.pure_callback(lambda a: a * scale, jax.ShapeDtypeStruct((), x.dtype), jax.lax.stop_gradient(x[0]))
        return s * x

    J = crelle.jacobian(f)
    for scale in (2.0, 5.0, 2.0, 7.0):
        np.testing.assert_allclose(J(x3()), np.eye(3) * X[0] * scale, rtol=1e-12)


def user_sine():
    rate = [1.0]

    @jax.custom_jvp
    def sine(x):
        return jnp.sin(x)

    sine.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), rate[0] * jnp.cos(primals[0]) * tangents[0]))

    @jax.custom_vjp
    def sine_by_row(x):
        return jnp.sin(x)

    sine_by_row.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (rate[0] * jnp.cos(x) * u,))
    return rate, sine, sine_by_row


@pytest.mark.parametrize("which", [1, 2])
def test_rules_of_the_user_are_those_of_now(which, compiled):
    rate, *sines = user_sine()
    f = sines[which - 1]
    J = crelle.jacobian(lambda x: f(x), check=False)
    for k in (1.0, 4.0, 1.0, 4.0, -2.0):
        rate[0] = k
        np.testing.assert_allclose(J(x3()), np.diag(k * np.cos(X)), rtol=1e-12)
    before = len(ours(compiled))
    for _ in range(5):
        J(x3())
    assert len(ours(compiled)) == before <= 5  # compiled for each rule, and found again
    assert any("derivative rule" in note for note in J.plan(x3()).notes)
    plan = J.plan(x3())
    plan(x3())
    rate[0] = 9.0
    np.testing.assert_allclose(plan(x3()), np.diag(-2 * np.cos(X)), rtol=1e-12)  # frozen, on purpose


@pytest.mark.parametrize(
    "rule",
    [
        jax.jit(lambda p, t: (jnp.sin(p[0]), 3.0 * t[0])),
        functools.partial(lambda k, p, t: (jnp.sin(p[0]), k * t[0]), 3.0),
    ],
)
def test_rules_are_found_inside_of_wrappers(rule):
    sine = jax.custom_jvp(lambda x: jnp.sin(x))
    sine.defjvp(rule)
    J = crelle.jacobian(lambda x: sine(x))
    np.testing.assert_allclose(J(x3()), 3 * np.eye(3), rtol=1e-12)
    sine.defjvp(lambda p, t: (jnp.sin(p[0]), 5.0 * t[0]))
    np.testing.assert_allclose(J(x3()), 5 * np.eye(3), rtol=1e-12)


def test_a_custom_vjp_is_followed_though_it_is_inconsistent():
    straight_through = jax.custom_vjp(lambda x: jnp.round(x))
    straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, u: (u,))
    J = crelle.jacobian(lambda x: straight_through(x) * 2)
    np.testing.assert_array_equal(J(x3()), 2 * np.eye(3))
    plan = J.plan(x3())
    assert plan.mode == "reverse"
    assert "a custom_vjp has no forward rule" in str(plan)
    f = lambda x: (straight_through(x) ** 2 * x).sum()
    assert_same(crelle.hessian(f)(x3()), jax.hessian(f)(x3()))


# frozen plans


def test_plans_are_frozen():
    w = [2.0]
    array = {"a": jnp.ones(3)}
    plan = crelle.jacobian(lambda x: w[0] * array["a"] * x).plan(x3())
    w[0], array["a"] = 5.0, jnp.zeros(3)
    np.testing.assert_array_equal(plan(x3()), 2 * np.eye(3))


def test_plans_from_shapes():
    plan = crelle.jacobian(lambda x, y: jnp.sin(x) * y).plan(jax.ShapeDtypeStruct((3,), jnp.float64), x3())
    assert plan.passes == 3
    np.testing.assert_allclose(plan(x3(), x3()), np.diag(X * np.cos(X)), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(plan)(x3(), x3()), np.diag(X * np.cos(X)), rtol=1e-12)


def test_plans_under_vmap_and_grad():
    plan = crelle.jacobian(jnp.sin).plan(x3())
    np.testing.assert_allclose(jax.vmap(plan)(jnp.stack([x3()] * 2))[1], np.diag(np.cos(X)), rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda x: plan(x).sum())(x3()), -np.sin(X), rtol=1e-12)


# functions that cannot be traced


def test_functions_that_need_values_are_run_anew():
    def branches(x):
        return x**2 if x[0] > 0 else 3 * x

    def filtered(x):
        return x[x > 0.5] ** 2

    def converted(x, n):
        return x[: int(n)] * 2

    J = crelle.jacobian(branches)
    for x in (x3(), -x3(), x3()):
        assert_same(J(x), jax.jacrev(branches)(x))
    assert J.plan(x3()).notes == (
        "run anew at each call, not compiled: f needs values of its arguments in Python (TracerBoolConversionError)",
        "where, cond or while_loop of JAX in place of Python's if and while let it be compiled",
    )
    J = crelle.jacobian(filtered)  # the shape of the answer depends on the values
    for x in (x3(), x3() * 2, x3() / 10):
        assert_same(J(x), jax.jacrev(filtered)(x))
    rows = crelle.jacobian(filtered, rows=[-1])
    for x in (x3(), x3() * 2):
        assert_same(rows(x), jax.jacrev(filtered)(x)[-1:])
    assert_same(crelle.jacobian(converted)(x3(), jnp.array(2)), jax.jacrev(lambda x: x[:2] * 2)(x3()))
    for mode in ("auto", "forward-over-reverse", "reverse-over-reverse"):
        H = crelle.hessian(lambda x: branches(x).sum() ** 2, mode=mode)
        assert_same(H(x3()), jax.hessian(lambda x: (x**2).sum() ** 2)(x3()))
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(crelle.jacobian(branches))(x3())


def test_loops_without_a_reverse_rule():
    f = lambda x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x))[1]
    J = crelle.jacobian(f)
    assert_same(J(x3()), jax.jacfwd(f)(x3()))
    plan = J.plan(x3())
    assert plan.mode == "forward" and "JVP, relative error" in plan.checked
    assert "a while_loop, or a fori_loop with bounds that are not fixed, has no reverse rule" in str(plan)
    g = lambda x: f(x).sum() * x[0]
    assert_same(crelle.hessian(g)(x3()), jax.jacfwd(jax.jacfwd(g))(x3()))
    long = jnp.linspace(0, 1, 70)
    assert_same(crelle.hessian(g)(long), jax.jacfwd(jax.jacfwd(g))(long))


# what is kept, and what is let go


def freed(make):
    """Whether the arrays that ``make`` returns are freed once it has returned, by counting references alone."""
    gc.collect()
    gc.disable()
    try:
        references = [weakref.ref(array) for array in make()]
        return [reference() is None for reference in references]
    finally:
        gc.enable()


def test_no_array_outlives_its_call():
    def arrays():
        return jnp.array(X), jnp.array(X) * 2, np.array(X)

    kept = []

    def call(kind, again):
        x, captured, numpy = arrays()

        def f(v, y):
            return jnp.sum(jnp.sin(v * captured) * numpy * y)

        transform = getattr(crelle, kind)(f)
        for _ in range(again):
            transform(x, x)
        kept.append(transform.request)
        return x, captured

    for kind in ("jacobian", "hessian", "gradient"):
        for again in (1, 3):
            assert freed(lambda kind=kind, again=again: call(kind, again)) == [True] * 2


def test_a_plan_keeps_no_argument():
    plans = []

    def call():
        x = jnp.array(X)
        plans.append(crelle.jacobian(lambda v: v**2).plan(x))
        plans[-1](x)
        return (x,)

    assert freed(call) == [True]
    np.testing.assert_allclose(plans[0](x3()), np.diag(2 * X), rtol=1e-12)


def test_tracers_are_not_kept():
    with jax.checking_leaks():
        jax.jit(lambda t: crelle.jacobian(lambda x: jnp.sin(t * x))(x3()))(2.0)
        jax.jit(crelle.hessian(lambda x: jnp.sin(x).sum(), chunk=2))(x3())


def test_caches_are_bounded_and_can_be_cleared():
    from crelle import _prepare

    crelle.clear_caches()
    J = crelle.jacobian(lambda x: x * 2, check=False)
    for n in range(1, 6):
        J(jnp.ones(n))
    (space,) = _prepare._spaces.values()
    assert len(space.kept) == 5
    crelle.clear_caches()
    assert not _prepare._spaces
    assert_same(J(jnp.ones(2)), 2 * jnp.eye(2))
