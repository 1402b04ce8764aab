"""Back-propagation is a chain of vector-Jacobian products.

A network x → W₁x + b₁ → ReLU → W₂h + b₂ → mean squared error is a composition of small functions. The derivative of a
composition is a product of Jacobians, and a gradient is that product multiplied from the left by the number 1. Read
from left to right, each step takes a vector (how the loss depends on the output of a layer) and returns another (how
it depends on the layer's input): a vector-Jacobian product, uᵀJ. No Jacobian is ever formed. That is
back-propagation. Here every step is one call of `crelle.vjp`, and the result is compared with what `torch.autograd`
gives for the whole network.

Run it:  python examples/backprop_chain.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import crelle


def layer(weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
    return weight @ h + bias


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


def problem() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Parameters with small whole numbers, an input and a target, so that every step can be followed by hand."""
    as_tensor = lambda values: torch.tensor(values, dtype=torch.float64)
    params = {
        "W1": as_tensor([[1, -1], [2, 1], [-1, 0]]),
        "b1": as_tensor([0, 1, -1]),
        "W2": as_tensor([[1, 2, -1], [0, 1, 3]]),
        "b2": as_tensor([0, -1]),
    }
    return params, as_tensor([1, 2]), as_tensor([8, 5])


def by_chain(params: dict[str, Tensor], x: Tensor, target: Tensor, say=lambda *_: None) -> dict[str, Tensor]:
    """Gradients of the loss, one vector-Jacobian product after the other."""
    # forwards: keep the function that takes each step back
    z, back_layer1 = crelle.vjp(layer, params["W1"], params["b1"], x)
    h, back_relu = crelle.vjp(torch.relu, z)
    y, back_layer2 = crelle.vjp(layer, params["W2"], params["b2"], h)
    loss, back_loss = crelle.vjp(lambda y: mse(y, target), y)
    say("forwards")
    for name, value in {"z = W1 x + b1": z, "h = relu(z)": h, "y = W2 h + b2": y, "loss": loss}.items():
        say(f"  {name:<22} {value.tolist()}")

    # backwards: start from d loss / d loss = 1, and multiply
    gradients = {}
    say("backwards: each line is the one above it times a Jacobian")
    (u,) = back_loss(torch.ones_like(loss))
    say(f"  {'d loss / d y':<22} {u.tolist()}")
    gradients["W2"], gradients["b2"], u = back_layer2(u)
    say(f"  {'d loss / d h':<22} {u.tolist()}")
    (u,) = back_relu(u)
    say(f"  {'d loss / d z':<22} {u.tolist()}")
    gradients["W1"], gradients["b1"], u = back_layer1(u)
    gradients["x"] = u
    say(f"  {'d loss / d x':<22} {u.tolist()}")
    say("on the way, the gradients of the parameters")
    for name in ("W1", "b1", "W2", "b2"):
        say(f"  {'d loss / d ' + name:<22} {(gradients[name] + 0.0).tolist()}")  # + 0.0: no minus before a zero
    return gradients


def by_autograd(params: dict[str, Tensor], x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The same from PyTorch, for the whole network at once."""
    leaves = {name: value.clone().requires_grad_() for name, value in {**params, "x": x}.items()}
    h = torch.relu(layer(leaves["W1"], leaves["b1"], leaves["x"]))
    mse(layer(leaves["W2"], leaves["b2"], h), target).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def main() -> None:
    params, x, target = problem()
    mine = by_chain(params, x, target, say=print)
    theirs = by_autograd(params, x, target)
    worst = max(float((mine[name] - theirs[name]).abs().max()) for name in theirs)
    print(f"largest difference from torch.autograd: {worst:g}")


if __name__ == "__main__":
    main()
