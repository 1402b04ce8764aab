"""jacobian, hessian and gradient as objects."""

from __future__ import annotations

import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle

X = np.array([0.3, 1.2, 2.0])


def x3():
    return jnp.array(X)


def energy(x):
    return jnp.sum(jnp.sin(x))


def test_transforms_are_objects():
    J = crelle.jacobian(energy)
    assert isinstance(J, crelle.Transform)
    assert J.__name__ == "jacobian(energy)"
    assert J.__doc__ == "Jacobian of energy."
    assert repr(J) == str(J) == "crelle.jacobian(energy)"
    assert repr(crelle.hessian(lambda x: x, (1, 0), mode="forward-over-reverse", memory="1kB", value=True)) == (
        "crelle.hessian(f, argnums=(1, 0), mode='forward-over-reverse', memory=1000, value=True)"
    )
    assert repr(crelle.jacobian(energy, rows=[1], cols=slice(2))) == (
        "crelle.jacobian(energy, rows=[1], cols=slice(None, 2, None))"
    )
    assert crelle.gradient(J).__name__ == "gradient(jacobian(energy))"


@pytest.mark.parametrize("kind", ["jacobian", "hessian", "gradient"])
def test_keywords_are_documented_and_in_one_order(kind):
    function = getattr(crelle, kind)
    names = list(inspect.signature(function).parameters)
    everything = list(inspect.signature(crelle.jacobian).parameters)
    assert names == [name for name in everything if name in names]
    for name in names[1:]:
        assert inspect.signature(function).parameters[name].default == (
            inspect.signature(crelle.jacobian).parameters[name].default
        )
    for name in everything:
        assert f"{name}:" in crelle.jacobian.__doc__ or f"{name}," in crelle.jacobian.__doc__


def test_planning_does_not_run():
    plan = crelle.jacobian(lambda x: jnp.sin(x) ** 2).plan(x3())
    assert plan.checked == ""
    np.testing.assert_allclose(plan(x3()), np.diag(np.sin(2 * X)), rtol=1e-12)


def test_answers_of_one_object_at_many_shapes():
    J = crelle.jacobian(jnp.sin)
    for n in (3, 1, 4, 3):
        assert J(jnp.ones(n)).shape == (n, n)
    assert J(jnp.ones((2, 3))).shape == (2, 3, 2, 3)
    assert J(jnp.ones((2, 3), jnp.float32)).dtype == jnp.float32


def test_as_decorators_and_in_partials():
    @functools.partial(crelle.jacobian, argnums=1)
    def model(scale, x):
        return scale * x**2

    np.testing.assert_allclose(model(2.0, x3()), np.diag(4 * X), rtol=1e-12)
    jitted = jax.jit(crelle.gradient(energy))
    np.testing.assert_allclose(jitted(x3()), np.cos(X), rtol=1e-12)


def test_methods():
    class Model:
        rate = 3.0

        def loss(self, x):
            return self.rate * energy(x)

        gradient = property(lambda self: crelle.gradient(self.loss))

    model = Model()
    np.testing.assert_allclose(model.gradient(x3()), 3 * np.cos(X), rtol=1e-12)
    model.rate = 2.0
    np.testing.assert_allclose(model.gradient(x3()), 2 * np.cos(X), rtol=1e-12)


def test_a_plan_is_taken_over():
    plan = crelle.hessian(energy, mode="reverse-over-reverse", chunk=2).plan(x3())
    H = crelle.hessian(energy, plan=plan)
    assert (H.plan(x3()).mode, H.plan(x3()).chunk) == ("reverse-over-reverse", 2)
    shapes = crelle.hessian(energy).plan(jax.ShapeDtypeStruct((3,), jnp.float64))
    np.testing.assert_allclose(crelle.hessian(energy, plan=shapes)(x3()), np.diag(-np.sin(X)), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(crelle.hessian(energy, plan=plan))(x3()), np.diag(-np.sin(X)), rtol=1e-12)


def test_errors_survive_pickling():
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.jacobian(3)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is crelle.CrelleTypeError and str(again) == str(caught.value)
