"""Operators of JAX beside lineax, and on several devices."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import torch

import crelle

X = jnp.asarray([0.3, -0.7, 1.1, 0.4])


def residual(p):
    return {"r": jnp.tanh(p["w"] @ p["x"]), "s": p["x"] ** 2}


P = {"w": jnp.arange(6.0).reshape(2, 3) / 5, "x": jnp.asarray([1.0, -0.5, 2.0])}


def test_lineax_solves_with_cg():
    H = crelle.hessian(lambda x: jnp.sum(jnp.cosh(x)) + jnp.sum(x) ** 2).at(X)
    A = crelle.operator(H, psd=True)
    b = jnp.arange(4.0)
    operator = A.to_lineax()
    assert lx.is_symmetric(operator) and lx.is_positive_semidefinite(operator)

    def solve(b):
        return lx.linear_solve(operator, b, lx.CG(rtol=1e-12, atol=1e-12)).value

    for x in (solve(b), jax.jit(solve)(b)):
        np.testing.assert_allclose(x, np.linalg.solve(np.asarray(H.todense()), b), rtol=1e-9)


def test_lineax_keeps_trees():
    A = crelle.jacobian(residual).at(P)
    operator = A.to_lineax()
    found = operator.mv(P)
    assert set(found) == {"r", "s"}
    np.testing.assert_allclose(found["s"], 2 * P["x"] ** 2)
    np.testing.assert_allclose(operator.as_matrix(), A.todense(), rtol=1e-13)
    np.testing.assert_allclose(operator.T.as_matrix(), A.T.todense(), rtol=1e-13)
    assert not lx.is_symmetric(operator)


def test_lineax_inside_jit():
    @jax.jit
    def newton(x, b):
        H = crelle.hessian(lambda x: jnp.sum(jnp.cosh(x))).at(x)
        return lx.linear_solve(crelle.operator(H, psd=True).to_lineax(), b, lx.CG(rtol=1e-12, atol=1e-12)).value

    np.testing.assert_allclose(newton(X, X), X / jnp.cosh(X), rtol=1e-10)


def test_lineax_is_for_jax():
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.operator(torch.eye(2)).to_lineax()
    assert str(caught.value) == (
        "MatrixOperator(f32[2×2], torch, cpu).to_lineax(): lineax is for JAX\n"
        "  try  A.to_scipy(), or A itself: A(v) is A @ v"
    )


def test_lineax_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lineax", None)
    monkeypatch.delitem(sys.modules, "crelle.backends.jax.lineax_operator", raising=False)
    with pytest.raises(crelle.CrelleImportError) as caught:
        crelle.operator(jnp.eye(2)).to_lineax()
    assert str(caught.value) == "A.to_lineax() needs lineax, which is not installed\n  try  pip install lineax"


def test_a_vector_on_another_device_and_sharded_inputs():
    program = """
        import jax, jax.numpy as jnp, numpy as np
        jax.config.update("jax_enable_x64", True)
        import crelle
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

        devices = jax.devices()
        assert len(devices) == 4
        w, data = np.linspace(-1, 1, 6).reshape(2, 3), np.linspace(0, 1, 24).reshape(8, 3)

        def loss(w, x):
            return jnp.sum(jnp.tanh(x @ w.T) ** 2)

        dense = np.asarray(jax.hessian(loss)(w, data)).reshape(6, 6)
        rows = np.asarray(jax.jacfwd(lambda w, x: jnp.tanh(x @ w.T))(w, data)).reshape(16, 6)
        rng = np.random.default_rng(0)
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))
            x = jax.device_put(data, NamedSharding(mesh, P("d")))
            whole = jax.device_put(w, NamedSharding(mesh, P()))
            H = crelle.hessian(loss).at(whole, x)
            for _ in range(2):
                v, V = rng.standard_normal(6), rng.standard_normal((6, 7))
                np.testing.assert_allclose(H @ jnp.asarray(v), dense @ v, rtol=1e-12)
                if kind == AxisType.Auto:
                    np.testing.assert_allclose(H @ jnp.asarray(V), dense @ V, rtol=1e-12)
                np.testing.assert_allclose(H @ whole, (dense @ w.ravel()).reshape(2, 3), rtol=1e-12)
            assert "cpu × 4" in repr(H), repr(H)
            J = crelle.jacobian(lambda w, x: jnp.tanh(x @ w.T)).at(whole, x)
            np.testing.assert_allclose(J @ whole, (rows @ w.ravel()).reshape(8, 2), rtol=1e-12)
            if kind == AxisType.Explicit:  # contractions over sharded axes ask for out_sharding=, in jax.vjp, too
                continue
            u = rng.standard_normal((8, 2))
            placed = jax.device_put(u, NamedSharding(mesh, P("d")))
            np.testing.assert_allclose(J.T @ placed, (rows.T @ u.ravel()).reshape(2, 3), rtol=1e-12)
            np.testing.assert_allclose(J.todense(), rows, rtol=1e-12)
            np.testing.assert_allclose(jax.jit(lambda w, x: crelle.hessian(loss).at(w, x) @ w)(whole, x),
                                       (dense @ w.ravel()).reshape(2, 3), rtol=1e-12)

        A = crelle.jacobian(jnp.sin).at(jax.device_put(jnp.ones(3), devices[0]))
        try:
            A @ jax.device_put(jnp.ones(3), devices[1])
        except crelle.CrelleValueError as error:
            assert str(error).startswith(
                "crelle.jacobian(sin).at(...): the vector and the operator are on different devices"), error
            assert "jax.device_put the vector to where the inputs of the function are" in str(error)
            print("ok")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={
            "PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(Path(crelle.__file__).parents[1]),
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "OMP_NUM_THREADS": "1",
        },
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout.strip().endswith("ok"), done.stderr[-3000:]
