"""The Jacobian of a layer, tanh(W x + b), at a batch of points.

By the chain rule it is diag(1 − tanh²(W x + b)) W: the matrix of the layer, each row damped by how far its unit is
saturated. Near zero tanh is the identity and the Jacobian is W; where |W x + b| is large the units are flat and the
Jacobian vanishes, which is how gradients die in deep networks. The example forms the Jacobian at each point of a
batch with one `jax.vmap` over `crelle.jacobian`, compares it with the formula, and prints how much the layer
stretches space there: the singular values.

Run it:  python examples/calc-07-jacobian-hessian/mlp_jacobian.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import crelle

jax.config.update("jax_enable_x64", True)

W = jnp.array([[1.0, -0.5], [0.5, 1.0], [0.25, 0.75]])
b = jnp.array([0.0, 0.5, -0.5])


def layer(x: jax.Array) -> jax.Array:
    """tanh(W x + b): [2] -> [3]."""
    return jnp.tanh(W @ x + b)


def batch_jacobian(X: jax.Array) -> jax.Array:
    """[B, 3, 2]: the Jacobian of the layer at each row of X, [B, 2]."""
    return jax.vmap(crelle.jacobian(layer))(X)


def formula(X: jax.Array) -> jax.Array:
    """diag(1 − tanh²) W at each row of X."""
    slopes = 1 - jnp.tanh(X @ W.T + b) ** 2
    return slopes[:, :, None] * W


def points() -> jax.Array:
    """From the middle of the layer's range outwards, to where its units are saturated."""
    return jnp.array([[0.0, 0.0], [0.5, -0.5], [1.0, 1.0], [3.0, 3.0]])


def main() -> None:
    jnp.set_printoptions(precision=4, suppress=True)
    X = points()
    J = batch_jacobian(X)
    print("W")
    print(W)
    for x, at_x in zip(X, J, strict=True):
        print(f"\nJacobian at x = {x}, singular values {jnp.linalg.svd(at_x, compute_uv=False)}")
        print(at_x)
    print(f"\nlargest difference from diag(1 - tanh²) W: {float(jnp.abs(J - formula(X)).max()):.0e}")


if __name__ == "__main__":
    main()
