"""Flops, bytes and live memory of linear programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.backends.jax import cost

N, M = 30, 50
W = np.ones((M, N))


def passes(f, *args, transform=jax.jvp):
    """The cost of the tangent program of f at args, by direction."""
    args = [jnp.asarray(a) for a in args]
    _, push = jax.linearize(f, *args)
    out, pull = jax.vjp(f, *args)
    return cost.pass_cost(jax.make_jaxpr(push)(*args), None), cost.pass_cost(jax.make_jaxpr(pull)(out), None)


def test_matrix_products_count_twice_their_size():
    for pass_cost in passes(lambda x: W @ x, np.ones(N)):
        assert pass_cost.matmul_flops == 2 * M * N
        assert pass_cost.flops == 0
    forward, reverse = passes(lambda a: a @ np.ones((N, 7)), W)
    assert forward.matmul_flops == reverse.matmul_flops == 2 * M * N * 7


def test_convolutions_count_their_kernel():
    kernel = np.ones((5, 3, 4, 4))  # out, in, height, width
    image = np.ones((2, 3, 16, 16))
    convolve = lambda x: jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID")
    forward, _ = passes(convolve, image)
    assert forward.matmul_flops == 2 * (2 * 5 * 13 * 13) * (3 * 4 * 4)


def test_elementwise_functions_count_their_entries():
    forward, reverse = passes(jnp.sin, np.ones(N))
    assert forward.flops == reverse.flops == N  # the cosine is a coefficient
    assert forward.coefficient_bytes == forward.residual_bytes == 8 * N
    assert forward.ops == 1


def test_relabelling_is_free():
    forward, _ = passes(lambda x: jnp.broadcast_to(x.reshape(5, 6).T[None], (4, 6, 5)), np.ones(N))
    assert forward.flops == forward.matmul_flops == forward.bytes == forward.ops == 0


def test_loops_count_their_steps():
    one, _ = passes(lambda x: jnp.tanh(W.T @ (W @ x)), np.ones(N))
    body = lambda c, _: (jnp.tanh(W.T @ (W @ c)), None)
    ten, _ = passes(lambda x: jax.lax.scan(body, x, length=10)[0], np.ones(N))
    assert ten.matmul_flops == 10 * one.matmul_flops
    assert ten.ops >= 10 * one.ops


def test_a_branch_costs_as_much_as_the_dearest():
    closed = jax.make_jaxpr(lambda p, x: jax.lax.cond(p, lambda v: W.T @ (W @ v), lambda v: 2 * v, x))(True, np.ones(N))
    assert cost.pass_cost(closed, None).matmul_flops == 4 * M * N


def test_live_memory():
    forward, _ = passes(lambda x: jnp.sum(jnp.sin(W @ x)), np.ones(N))
    assert forward.peak_bytes == pytest.approx(8 * (M + M), abs=8 * N)  # W v and its product with the cosine
    wide, _ = passes(lambda x: jnp.sin(jnp.cos(jnp.exp(x))), np.ones(N))
    assert wide.peak_bytes == 2 * 8 * N  # no more than two of the four are alive at one time


def test_captured_arrays_are_no_working_memory():
    x = jnp.ones(N)
    plan = crelle.jacobian(lambda v: W @ v, mode="forward").plan(x)
    assert plan.bytes < W.nbytes + N * 8 * (N + 2 * M)
    small = crelle.jacobian(lambda v: W @ v, mode="forward", chunk=1).plan(x)
    assert small.bytes < W.nbytes / 10


def test_the_primal_is_counted_once():
    closed = jax.make_jaxpr(lambda x: jnp.sin(W @ x))(np.ones(N))
    counted = cost.pass_cost(jax.make_jaxpr(lambda v: v)(np.ones(N)), closed.jaxpr)
    assert counted.primal_flops > 0 and counted.primal_ops == 2
    assert counted.flops == counted.matmul_flops == 0
