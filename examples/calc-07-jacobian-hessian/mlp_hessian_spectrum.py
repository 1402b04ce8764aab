"""The Hessian spectrum of a 2-2-1 tanh network, with respect to all of its parameters and its input.

The network y = W₂ tanh(W₁ x + b₁) + b₂ has 9 parameters and 2 inputs, so its Hessian is an 11 × 11 matrix, and
`crelle.hessian` with `argnums=(0, 1)` and `flatten=True` gives it as one. The eigenvalues say how y curves: up along
some directions, down along others, not at all along the rest. Both signs had to occur: y is linear in W₂ and in b₂,
so their block on the diagonal is zero, while W₂ acts together with everything inside the tanh; a symmetric matrix
with a zero block on its diagonal and something beside it is never definite. A network's output has saddles, not
bowls.

Run it:  python examples/calc-07-jacobian-hessian/mlp_hessian_spectrum.py --out figures
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import crelle

jax.config.update("jax_enable_x64", True)


def network(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    hidden = jnp.tanh(params["W1"] @ x + params["b1"])
    return params["W2"] @ hidden + params["b2"]


def point() -> tuple[dict[str, jax.Array], jax.Array]:
    """Parameters and an input."""
    params = {
        "W1": jnp.array([[1.0, -0.5], [0.5, 1.5]]),
        "b1": jnp.array([0.1, -0.2]),
        "W2": jnp.array([1.5, -1.0]),
        "b2": jnp.array(0.3),
    }
    return params, jnp.array([0.8, -0.4])


def hessian() -> jax.Array:
    """[11, 11]: second derivatives of y with respect to W1, W2, b1, b2 and x, raveled in this order."""
    return crelle.hessian(network, argnums=(0, 1), flatten=True)(*point())


def spectrum() -> np.ndarray[Any, Any]:
    """Its eigenvalues, largest first."""
    return np.linalg.eigvalsh(np.asarray(hessian()))[::-1]


def stem(eigenvalues: np.ndarray[Any, Any], ax: Any = None) -> Any:
    """Eigenvalues as a stem plot: full marks curve up, open marks curve down, dots are zero."""
    ax = plt.subplots(figsize=(6, 3.6), layout="constrained")[1] if ax is None else ax
    index = np.arange(1, len(eigenvalues) + 1)
    zero = np.abs(eigenvalues) < 1e-12
    ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    ax.vlines(index[~zero], 0, eigenvalues[~zero], color="0.35", linewidth=1.5)
    for chosen, face, size, label in (
        (eigenvalues > 1e-12, "#0072B2", 7, "curves up"),
        (eigenvalues < -1e-12, "white", 7, "curves down"),
        (zero, "0.35", 3, "flat"),
    ):
        edge = "0.35" if label == "flat" else "#0072B2"
        ax.plot(index[chosen], eigenvalues[chosen], "o", color=edge, markerfacecolor=face, markersize=size, label=label)
    ax.set_xticks(index)
    ax.set_xlabel("number of the eigenvalue, largest first")
    ax.set_ylabel("eigenvalue")
    ax.set_title("Hessian of a 2-2-1 tanh network: 9 parameters and 2 inputs")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the figure (default: here)")
    out = parser.parse_args(arguments).out
    eigenvalues = spectrum()
    print("eigenvalues of the 11 × 11 Hessian, largest first:")
    for value in eigenvalues:
        print(f"  {value:9.4f}".replace("-0.0000", " 0.0000"))
    curved = eigenvalues[np.abs(eigenvalues) > 1e-12]
    print(f"{np.sum(curved > 0)} up, {np.sum(curved < 0)} down, {len(eigenvalues) - len(curved)} flat")
    print(f"sum {eigenvalues.sum():.4f}, trace of the Hessian {float(jnp.trace(hessian())):.4f}")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "mlp_hessian_spectrum.png"
    stem(eigenvalues).figure.savefig(path, dpi=150)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
