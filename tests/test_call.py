"""Binding a call: frameworks, leaves, names. Messages are pinned in tests/backends/."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle._call import argument_names, bind, describe_arguments, function_name
from crelle._request import Request


def bound(f, *args, request=None, **kwargs):
    return bind(f, args, kwargs, request or Request("jacobian"))


x = jnp.ones(3)


def test_names_of_functions():
    def residual(x):
        return x

    class Model:
        def __call__(self, x):
            return x

        def loss(self, x):
            return x

    assert function_name(residual) == "residual"
    assert function_name(lambda x: x) == "f"
    assert function_name(functools.partial(residual, 1)) == "partial(residual)"
    assert function_name(functools.partial(lambda x: x)) == "partial(f)"
    assert function_name(Model()) == "Model"
    assert function_name(Model().loss) == "loss"
    assert function_name(jnp.sin) == "sin"


def test_names_of_arguments():
    class Model:
        def loss(self, params, x):
            return x

    assert argument_names(lambda a, b: a, (1, 0)) == ("b", "a")
    assert argument_names(lambda a, *rest: a, (0, 2)) == ("a", "argument 2")
    assert argument_names(Model().loss, (0, 1)) == ("params", "x")
    assert argument_names(functools.partial(lambda a: a), (0,)) == ("argument 0",)


def test_arguments_in_words():
    args = (x, {"w": jnp.ones((2, 2), jnp.float32), "n": 3}, [x, (x, None)], "text", "long" * 20)
    assert describe_arguments(args, {"scale": 2.0}) == (
        "f64[3], {'w': f32[2,2], 'n': 3}, [f64[3], (f64[3], None)], 'text', <str>, scale=2.0"
    )
    assert describe_arguments(({str(i): i for i in range(9)},), {}) == "{'0': 0, '1': 1, '2': 2, '3': 3, ...}"
    assert describe_arguments(([1] * 9,), {}) == "[1, 1, 1, 1, ...]"
    assert describe_arguments((), {}) == "no arguments"


def test_the_differentiated_leaves_are_named_by_path():
    call = bound(lambda p, t: t, {"w": [x, x], "b": x}, x)
    assert call.names == ("p['b']", "p['w'][0]", "p['w'][1]")
    assert [str(t) for t in call.inputs] == ["f64[3]"] * 3
    call = bound(lambda p, t: t, {"w": x}, x, request=Request("jacobian", argnums=(1, 0)))
    assert call.names == ("t", "p['w']")
    assert bound(lambda a: a, x).names == ("a",)


def test_the_framework_is_that_of_the_arrays():
    torch = pytest.importorskip("torch")

    @dataclasses.dataclass
    class Box:
        inside: object

    assert bound(lambda a: a, x).backend.name == "jax"
    assert bound(lambda a: a, torch.ones(3)).backend.name == "torch"
    assert bound(lambda a: a, np.ones(3)).backend.name == "numpy"
    assert bound(lambda a, b: a, np.ones(3), x).backend.name == "jax"
    assert bound(lambda a, b: a, torch.ones(3), np.ones(3)).backend.name == "torch"
    assert bound(lambda a, b: a, np.ones(3), [{"k": (None, x)}]).backend.name == "jax"
    assert bound(lambda a, *, b: a, 2.0, b=x).backend.name == "jax"
    assert bound(lambda a, b: a, x, Box(2)).backend.name == "jax"
    assert bound(lambda a: a, jax.ShapeDtypeStruct((3,), jnp.float32)).backend.name == "jax"


def test_signatures():
    signature = lambda *args, **kwargs: bound(lambda *a, **k: a[0], *args, **kwargs).signature
    assert signature(x) == signature(2 * x) == signature(jax.ShapeDtypeStruct((3,), jnp.float64))
    different = [
        signature(x),
        signature(x.astype(jnp.float32)),
        signature(x[:2]),
        signature(x[None]),
        signature([x]),
        signature((x,)),
        signature(x, x),
        signature(x, b=x),
        signature(x, None),
        signature(x, np.ones(3)),
        signature(x, 1),
        signature(x, 1.0),
        signature(jnp.asarray(2.0)),  # weakly typed
        signature(jnp.ones(())),
    ]
    assert len(set(different)) == len(different)
    with jax.enable_x64(False):
        assert signature(x.astype(jnp.float32)) not in different


def test_abstract_calls():
    seen = []

    def look(v):
        seen.append(bound(lambda a: a, v).abstract)
        return v

    look(x)
    jax.jit(look)(x)
    jax.vmap(look)(x)
    jax.grad(lambda v: look(v).sum())(x)
    assert seen == [False, True, True, True]
    assert bound(lambda a: a, jax.ShapeDtypeStruct((3,), jnp.float32)).abstract


def test_integers_beside_the_differentiated_argument_are_fine():
    J = crelle.jacobian(lambda v, n: v * n)
    np.testing.assert_array_equal(J(x, jnp.arange(3)), np.diag([0.0, 1.0, 2.0]))
