"""The Jacobian of softmax is diag(s) − s sᵀ.

softmax(x)ᵢ = exp(xᵢ) / Σⱼ exp(xⱼ) turns numbers into probabilities s. Raising one input raises its own probability,
at the expense of all others in proportion to what they have: ∂sᵢ/∂xⱼ = sᵢ (δᵢⱼ − sⱼ). So every row and every column
of the Jacobian sums to zero (adding a constant to all inputs changes nothing), and the matrix is symmetric with rank
n − 1. The example forms it with Crelle from PyTorch's own softmax, in which nothing of this formula appears.

Run it:  python examples/softmax_jacobian.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import crelle


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=0)


def computed(x: Tensor) -> Tensor:
    return crelle.jacobian(softmax)(x)


def formula(x: Tensor) -> Tensor:
    s = softmax(x)
    return torch.diag(s) - torch.outer(s, s)


def main() -> None:
    torch.set_printoptions(precision=4, sci_mode=False)
    x = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    J = computed(x)
    print("s = softmax(x):", softmax(x))
    print("its Jacobian:")
    print(J)
    print(f"largest difference from diag(s) - s sᵀ: {float((J - formula(x)).abs().max()):.0e}")
    print(
        f"largest sum of a row, of a column:      {float(J.sum(1).abs().max()):.0e}, {float(J.sum(0).abs().max()):.0e}"
    )
    print(f"rank: {int(torch.linalg.matrix_rank(J))} of {len(x)}")


if __name__ == "__main__":
    main()
