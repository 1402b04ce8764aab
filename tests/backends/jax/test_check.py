"""The first-run check: what it compares, what it catches, what the plan and the errors say."""

from __future__ import annotations

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.backends.jax.trace import JaxTrace
from tests.backends.jax.reference import assert_same

X = np.array([0.3, -1.2, 2.0])
A = np.arange(15.0).reshape(5, 3) / 7


def x3():
    return jnp.array(X)


def tall(x):
    return jnp.sin(A @ x) * x[0]


def energy(x):
    return jnp.sum(jnp.sin(x) * jnp.roll(x, 1)) * x[0]


@pytest.fixture(autouse=True)
def _unknown():
    """Every test meets its functions for the first time."""
    crelle.clear_caches()


@pytest.fixture
def corrupt(monkeypatch):
    """Makes the answers of some modes wrong, in one entry."""

    def spoil(*modes, entry=0, by=1e-3):
        build = JaxTrace.build

        def wrong(self, method):
            runner = build(self, method)
            if method.mode not in modes:
                return runner

            def spoiled(call, captured):
                answer = runner(call, captured)
                return answer.at[(entry,) * answer.ndim].add(by) if answer.ndim else answer + by

            return spoiled

        monkeypatch.setattr(JaxTrace, "build", wrong)

    return spoil


def test_the_plan_says_what_was_compared():
    for kind, f, mode, reference in [
        ("jacobian", tall, "forward", "VJP"),
        ("jacobian", tall, "reverse", "JVP"),
        ("gradient", energy, "reverse", "JVP"),
        ("hessian", energy, "forward-over-reverse", "unbatched HVP"),
    ]:
        transform = getattr(crelle, kind)(f, mode=mode)
        assert transform.plan(x3()).checked == ""
        transform(x3())
        start = f"1 random product against an independent {reference}, relative error "
        checked = transform.plan(x3()).checked
        assert checked.startswith(start)
        assert float(checked.removeprefix(start)) <= 1e-13
    assert crelle.jacobian(lambda x: x[:0])(x3()).shape == (0, 3)


def test_where_nothing_can_be_compared():
    J = crelle.jacobian(lambda x: x[:0])
    J(x3())
    assert J.plan(x3()).checked == "no: there are no entries"
    K = crelle.jacobian(tall, check=False)
    K(x3())
    assert K.plan(x3()).checked == "no: check=False"


def test_a_wrong_method_is_left_for_the_next(corrupt):
    corrupt("forward")
    J = crelle.jacobian(tall)
    assert J.plan(x3()).mode == "forward"
    assert_same(J(x3()), jax.jit(jax.jacrev(tall))(x3()))
    plan = J.plan(x3())
    assert plan.mode == "reverse"
    assert plan.rejected[0].reason == "failed the check"
    assert plan.notes == ("dense forward failed the check and was dropped",)
    assert plan.checked.startswith("1 random product against an independent JVP")


@pytest.mark.parametrize("entry", [0, 2])
@pytest.mark.parametrize("keywords", [{}, {"flatten": True}, {"rows": [0, 1, 2]}, {"cols": slice(None)}, {"chunk": 2}])
def test_a_wrong_entry_is_caught_in_every_form(corrupt, keywords, entry):
    corrupt("forward", "reverse", entry=entry)
    with pytest.raises(crelle.CrelleCheckError):
        crelle.jacobian(tall, **keywords)(x3())


@pytest.mark.parametrize("keywords", [{}, {"flatten": True}, {"rows": [0, 1]}, {"entries": [(0, 0)]}, {"chunk": 2}])
def test_a_wrong_hessian_is_caught(corrupt, keywords):
    corrupt("forward-over-reverse", "reverse-over-reverse", "reverse-over-forward", "forward-over-forward")
    with pytest.raises(crelle.CrelleCheckError):
        crelle.hessian(energy, **keywords)(x3())


def test_a_wrong_gradient_is_caught(corrupt):
    corrupt("forward", "reverse")
    with pytest.raises(crelle.CrelleCheckError):
        crelle.gradient(energy)(x3())


def test_the_error_says_how_wrong(corrupt):
    corrupt("forward", by=0.5)
    with pytest.raises(crelle.CrelleCheckError) as caught:
        crelle.jacobian(lambda x: 2.0 * x, mode="forward")(x3())
    lines = str(caught.value).splitlines()
    assert lines[0] == "crelle.jacobian(f): the result of forward is wrong"
    assert lines[1] == "  called    x: f64[3]"
    assert lines[2] == "  expected  a random product equal to that of an independent VJP to 1e-07"
    assert lines[3].startswith("  found     relative error ")
    assert lines[4] == (
        "  likely    an operation with a wrong derivative rule, or a wrong rule for batches, in the framework"
    )
    assert lines[5] == (
        "  try       another mode=, or check=False if the derivative rule is meant to differ (it is not checked then)"
    )
    # u = random_vector(3), product 2 u; the difference is 0.5 u[0]
    u = np.random.default_rng(0).standard_normal(3)
    assert f"largest difference {abs(0.5 * u[0]):.3g}, largest entry {2 * np.abs(u).max():.3g}" in lines[3]


def test_a_wrong_rule_for_batches_is_found():
    @jax.custom_batching.custom_vmap
    def twice(x):
        return 2 * x

    @twice.def_vmap
    def _(size, batched, x):
        return 3 * x, batched[0]  # wrong, and only in batches

    with pytest.raises(crelle.CrelleCheckError):
        crelle.jacobian(lambda x: twice(x) * x)(x3())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tolerance_follows_the_dtype(corrupt, dtype):
    x = jnp.asarray(np.random.default_rng(3).normal(size=300), dtype)
    f = lambda x: jnp.tanh(x) * jnp.mean(x)
    J = crelle.jacobian(f)
    J(x)
    assert "relative error" in J.plan(x).checked
    corrupt("forward", "reverse", by=100.0)
    with pytest.raises(crelle.CrelleCheckError):
        crelle.jacobian(f, flatten=True)(x)


def test_a_vanishing_derivative_is_no_error():
    f = lambda x: jnp.sum((x - x3()) ** 2)
    g = crelle.gradient(f)
    np.testing.assert_array_equal(g(x3()), 0.0)
    assert "relative error" in g.plan(x3()).checked


def test_functions_that_change_between_two_looks():
    rng = np.random.default_rng(0)
    expected = (
        "crelle.jacobian(f): f is not deterministic: two evaluations at the same point differ\n"
        "  called  x: f64[3]\n"
        "  likely  random numbers drawn inside f, dropout, or state that f changes\n"
        "  try     pass the random key or generator in, use model.eval(), or check=False if this is meant"
    )
    for f in (
        lambda x: x * rng.normal(),
        lambda x: x * rng.normal(size=3),
        lambda x: x * rng.normal() if x[0] > 0 else x,
    ):
        with pytest.raises(crelle.CrelleCheckError) as caught:
            crelle.jacobian(f)(x3())
        assert str(caught.value) == expected
        assert crelle.jacobian(f, check=False)(x3()).shape == (3, 3)


def test_functions_that_only_look_as_if_they_changed():
    count = [0]

    def counting(x):
        count[0] += 1
        return x * 2

    @jax.custom_batching.custom_vmap
    def own(x):
        return 2 * x

    own.def_vmap(lambda size, batched, x: (2 * x, batched[0]))
    key = jax.random.key(0)
    np_rng = lambda: np.random.default_rng(0)
    for f in (
        counting,
        lambda x: own(x),
        lambda x: x * jax.random.normal(key, (3,)),
        lambda x: x * np_rng().normal(size=3),
        lambda x: jax.pure_callback(lambda a: a + 1, x, jax.lax.stop_gradient(x), vmap_method="sequential") * x,
        lambda x: x * jnp.array([np.nan, 1.0, 2.0])[1:].sum(),
    ):
        J = crelle.jacobian(f)
        for _ in range(2):
            assert_same(J(x3()), jax.jacfwd(f)(x3()))


def warned(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (warning,) = [w for w in caught if issubclass(w.category, crelle.CrelleNonFiniteWarning)]
    return warning


HINTS = (
    "\n  likely  a norm or sqrt at 0, log(0), a division by 0, or a branch of where that is not taken but still "
    "differentiated\n"
    "  try     make the argument safe before the operation: where(ok, x, 1.0) inside as well as outside"
)


def test_nan_and_inf_are_named():
    zeros = jnp.zeros(3)
    entry = "crelle.gradient(f): entry [0] of the derivative is nan"
    assert (
        str(warned(lambda: crelle.gradient(jnp.linalg.norm)(zeros)).message) == entry.replace("(f)", "(norm)") + HINTS
    )
    sqrt = lambda x: jnp.sqrt(x).sum()
    assert str(warned(lambda: crelle.gradient(sqrt)(jnp.array([1.0, 0.0]))).message) == (
        "crelle.gradient(f): entry [1] of the derivative is inf" + HINTS
    )
    both = lambda x: jnp.log(x)
    assert str(warned(lambda: crelle.jacobian(both)(jnp.array([1.0, 0.0]))).message) == (
        "crelle.jacobian(f): the value of f is not finite (NaN or inf), and entry [1, 1] of the derivative is inf"
        + HINTS
    )
    value = lambda x: x / jnp.array([1.0, 1.0, 1.0]) + jnp.array([jnp.nan, 0.0, 0.0])
    assert str(warned(lambda: crelle.jacobian(value)(x3())).message) == (
        "crelle.jacobian(f): the value of f is not finite (NaN or inf)" + HINTS
    )
    tree = lambda p: jnp.linalg.norm(p["b"]) + p["a"].sum()
    assert str(warned(lambda: crelle.gradient(tree)({"a": x3(), "b": zeros})).message) == (
        "crelle.gradient(f): entry [0] of the derivative with respect to p['b'] is nan" + HINTS
    )
    scalar = lambda x: jnp.sqrt(x)
    assert str(warned(lambda: crelle.gradient(scalar)(jnp.array(0.0))).message) == (
        "crelle.gradient(f): the derivative is inf" + HINTS
    )


def test_the_warning_points_at_the_line_that_called():
    warning = warned(lambda: crelle.gradient(jnp.linalg.norm)(jnp.zeros(3)))
    assert warning.filename == __file__
    source = inspect.getsource(test_the_warning_points_at_the_line_that_called).splitlines()
    first = inspect.getsourcelines(test_the_warning_points_at_the_line_that_called)[1]
    assert "crelle.gradient" in source[warning.lineno - first]


def test_it_is_skipped_under_transformations():
    J = crelle.jacobian(jnp.sin)
    plans = []
    jax.jit(lambda x: plans.append(J.plan(x)) or J(x))(x3())
    assert plans[0].checked == ""
    assert J.plan(x3()).checked == ""  # and not taken for done
    plan = J.plan(x3())
    jax.vmap(plan)(jnp.stack([x3()] * 2))
    plan(x3())
