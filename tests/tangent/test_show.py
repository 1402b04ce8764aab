"""The tangent program as it is printed."""

import jax
import jax.numpy as jnp

import crelle

X = jnp.ones(4)


def test_the_chain_rule_is_shown():
    W = jnp.ones((4, 2))
    assert str(crelle.jacobian(lambda x: jnp.sin(x) @ W).program(X)) == (
        "Tangent program: t0: f64[4] -> f64[2]\n"
        "  0  mul          diagonal      t0 -> v0: f64[4]  varying   4 flops\n"
        "  1  dot_general  dense matrix  v0 -> v1: f64[2]  constant  16 flops\n"
        "  returns v1\n"
        "  one pass: 20 flops, 208 B moved, 64 B live"
    )


def test_zeros_of_constants_and_loops_are_said():
    def f(x):
        return jax.lax.fori_loop(0, 5, lambda i, u: jnp.eye(4) @ u + jnp.where(jnp.arange(4) < 2, u, 0.0), x)

    text = str(crelle.jacobian(f).program(X))
    assert "loop of 5 steps" in text
    assert "matrix, 4 of 16 nonzero" in text
    assert "diagonal, 2 of 4 nonzero" in text


def test_branches_are_shown():
    text = str(crelle.jacobian(lambda x: jax.lax.cond(x[0] > 0, jnp.flip, lambda y: 2 * y, x)).program(X))
    assert "one of 2 branches" in text
    assert "branch 1" in text


def test_long_programs_lose_their_middle():
    def f(x):
        for _ in range(100):
            x = jnp.sin(x) * 2
        return x

    lines = str(crelle.jacobian(f).program(X)).splitlines()
    assert len(lines) < 70
    assert any("more" in line for line in lines)
    assert "TangentProgram(4 -> 4, 2" in repr(crelle.jacobian(f).program(X))
