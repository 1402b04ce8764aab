"""What is reused between calls, and the first run of a plan; with a backend made by hand where failures are needed."""

from __future__ import annotations

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle import _prepare
from crelle.backends.jax.trace import JaxTrace

X = np.array([0.3, 1.2, 2.0])


def x3():
    return jnp.array(X)


@pytest.fixture(autouse=True)
def _unknown():
    crelle.clear_caches()


@pytest.fixture
def traces(monkeypatch):
    """The traces that are made."""
    made = []
    begin = JaxTrace.__init__

    def counted(self, call, eager=""):
        made.append(eager)
        begin(self, call, eager)

    monkeypatch.setattr(JaxTrace, "__init__", counted)
    return made


def test_a_trace_is_reused_while_it_is_true(traces):
    scale = [1.0]
    J = crelle.jacobian(lambda x: jnp.sin(x) if scale[0] > 0 else jnp.cos(x), check=False)
    for scale[0] in (1, 1, -1, 1, -1, -1, 1):
        expected = np.cos(X) if scale[0] > 0 else -np.sin(X)
        np.testing.assert_allclose(np.diagonal(J(x3())), expected, rtol=1e-12)
    assert traces == ["", ""]


def test_functions_are_known_by_their_code(traces):
    class Model:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            return self.w * x**2

        def loss(self, x):
            return self(x)

    def residual(w, x):
        return w * x**2

    for w in (jnp.ones(3), 2 * jnp.ones(3)):
        for f in (lambda x, w=w: w * x**2, Model(w).loss, functools.partial(residual, w)):
            np.testing.assert_allclose(np.diagonal(crelle.jacobian(f, check=False)(x3())), 2 * w * X, rtol=1e-12)
    assert len(traces) == 3


def test_requests_do_not_share(traces):
    f = lambda x: jnp.sin(x)
    for keywords in ({}, {"flatten": True}, {"mode": "reverse"}, {"chunk": 2}, {"rows": [0]}, {"rows": [1]}):
        crelle.jacobian(f, **keywords)(x3())
    assert len(traces) == 6
    np.testing.assert_allclose(crelle.jacobian(f, rows=[1])(x3())[0], [0, np.cos(X[1]), 0], rtol=1e-12)
    assert len(traces) == 6


def test_signatures_are_bounded(traces):
    J = crelle.jacobian(lambda x: x * 2, check=False)
    for n in range(1, _prepare.MAX_TRACES + 1):
        J(jnp.ones(n))
    (space,) = _prepare._spaces.values()
    assert len(space.kept) == _prepare.MAX_TRACES
    for n in range(_prepare.KEPT_SIGNATURES + 5):
        space.at(n)
    assert len(space.kept) == _prepare.KEPT_SIGNATURES


def test_functions_are_bounded():
    namespace = {"jnp": jnp}
    for k in range(_prepare.KEPT_FUNCTIONS + 3):
        exec(f"f = lambda x: x * {k}", namespace)
        crelle.jacobian(namespace["f"])
    assert len(_prepare._spaces) == _prepare.KEPT_FUNCTIONS


def test_after_many_traces_f_is_run_anew(traces):
    J = crelle.jacobian(lambda x, n: x**n, check=False)
    for n in range(2, 4 + _prepare.MAX_TRACES):
        np.testing.assert_allclose(np.diagonal(J(x3(), n)), n * X ** (n - 1), rtol=1e-12)
    assert traces[: _prepare.MAX_TRACES] == [""] * _prepare.MAX_TRACES
    assert traces[_prepare.MAX_TRACES :] == [
        f"f or its inputs changed in {_prepare.MAX_TRACES} of the first calls: it is run anew each time"
    ]
    notes = J.plan(x3(), 3).notes
    assert notes == (
        "run anew at each call, not compiled: "
        f"f or its inputs changed in {_prepare.MAX_TRACES} of the first calls: it is run anew each time",
    )


def test_plans_under_transformations_are_not_kept(traces):
    J = crelle.jacobian(lambda x: jnp.sin(x))
    for _ in range(2):
        jax.jit(lambda x: J(x))(x3())
    (space,) = _prepare._spaces.values()
    assert not any(space.kept.values())
    assert len(traces) == 2


# the first run


def failing(monkeypatch, modes, error=None):
    build = JaxTrace.build

    def wrong(self, method):
        runner = build(self, method)

        def run(call, captured):
            if method.mode in modes:
                raise error or RuntimeError("no rule")
            return runner(call, captured)

        return run

    monkeypatch.setattr(JaxTrace, "build", wrong)


def test_a_method_that_fails_is_left_for_the_next(monkeypatch):
    failing(monkeypatch, {"forward"})
    J = crelle.jacobian(lambda x: jnp.sin(x))
    np.testing.assert_allclose(J(x3()), np.diag(np.cos(X)), rtol=1e-12)
    plan = J.plan(x3())
    assert (plan.mode, plan.passes, plan.unit) == ("reverse", 3, "VJP")
    assert plan.notes == ("dense forward failed: RuntimeError and was dropped",)
    assert plan.rejected[0].reason == "failed: RuntimeError"
    np.testing.assert_allclose(J(x3()), np.diag(np.cos(X)), rtol=1e-12)
    assert J.plan(x3(), analyze=True).candidates[1].measured is None


def test_if_all_fail_the_first_error_is_raised(monkeypatch):
    failing(monkeypatch, {"forward", "reverse"}, KeyError("mine"))
    with pytest.raises(KeyError, match="mine"):
        crelle.jacobian(lambda x: jnp.sin(x))(x3())


def test_a_forced_mode_is_not_left(monkeypatch):
    failing(monkeypatch, {"forward"}, KeyError("mine"))
    with pytest.raises(KeyError, match="mine"):
        crelle.jacobian(lambda x: jnp.sin(x), mode="forward")(x3())


def test_the_check_runs_once(monkeypatch):
    looked = []
    check = JaxTrace.check
    monkeypatch.setattr(JaxTrace, "check", lambda self, *args: looked.append(None) or check(self, *args))
    J = crelle.jacobian(lambda x: jnp.sin(x))
    for _ in range(3):
        J(x3())
    assert len(looked) == 1
    crelle.jacobian(lambda x: jnp.sin(x), check=False)(x3())
    jax.jit(crelle.jacobian(lambda x: jnp.sin(x)))(x3())
    assert len(looked) == 1
    plan = crelle.jacobian(lambda x: jnp.cos(x)).plan(x3())
    plan(x3())
    plan(x3())
    assert len(looked) == 2


def test_a_failed_check_is_made_again(monkeypatch):
    failing(monkeypatch, set())
    rng = np.random.default_rng(0)
    J = crelle.jacobian(lambda x: x * rng.normal())
    for _ in range(2):
        with pytest.raises(crelle.CrelleCheckError):
            J(x3())


# plans that are called


def test_called_plans_take_the_planned_signature_only():
    plan = crelle.jacobian(lambda x: jnp.sin(x)).plan(x3())
    with pytest.raises(crelle.CrelleShapeError, match="❌ x: planned f64"):
        plan(jnp.ones(2))
    with pytest.raises(crelle.CrelleShapeError, match="❌ another argument"):
        plan(jnp.ones(3) * 1.0, jnp.ones(1))
    with jax.enable_x64(False), pytest.raises(crelle.CrelleShapeError):
        plan(jnp.ones(3, jnp.float32))


def test_called_plans_do_not_look_at_f():
    kind = ["sin"]
    plan = crelle.jacobian(lambda x: getattr(jnp, kind[0])(x)).plan(x3())
    kind[0] = "cos"
    for _ in range(2):  # also where f changed before the first run
        np.testing.assert_allclose(np.diagonal(plan(x3())), np.cos(X), rtol=1e-12)


def test_threads():
    J = crelle.jacobian(lambda x, n: jnp.sin(x) ** n)
    wrong = []

    def work(k):
        for i in range(10):
            n = 1 + (k + i) % 3
            got = np.diagonal(J(x3() + k, n))
            want = n * np.sin(X + k) ** (n - 1) * np.cos(X + k)
            if not np.allclose(got, want, rtol=1e-10):
                wrong.append((k, i))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
