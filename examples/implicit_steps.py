"""Implicit steps of a stiff equation in PyTorch, and the derivative of where they lead.

u' = k ∂²u/∂s² + u − u³ on a line of n points is stiff: an explicit method needs steps of about 1/(2 k n²). The implicit
Euler method takes any step, and at each of them solves

    r(y) = y − y_before − Δt f(y, k) = 0

by Newton's method: A (change of y) = −r(y), with A = ∂r/∂y = I − Δt ∂f/∂y. A has three diagonals.
`crelle.interop.scipy_jac` finds that out, needs few products for all of A, and hands it over as SciPy's LU wants it.

The step is a function of y_before and k, and has a derivative by the implicit function theorem: with λ = A⁻ᵀ ∂loss/∂y,
it is λ by y_before, and Δt λᵀ ∂f/∂k by k. That is one more solve with factors that are already there, and no derivative
of Newton's method. With it, k is found from what is seen of y at the end.

Run it:  python examples/implicit_steps.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import root_scalar
from scipy.sparse.linalg import splu
from torch import Tensor

import crelle.interop

POINTS, STEPS, END = 200, 50, 0.5


def field(y: Tensor, k: Tensor) -> Tensor:
    """f(y, k); nothing moves at both ends."""
    second = (y[2:] - 2 * y[1:-1] + y[:-2]) * (POINTS - 1) ** 2
    return torch.nn.functional.pad(k * second + y[1:-1] - y[1:-1] ** 3, (1, 1))


def residual(y: Tensor, before: Tensor, k: Tensor, dt: Tensor) -> Tensor:
    """Zero after one implicit Euler step."""
    return y - before - dt * field(y, k)


def start() -> Tensor:
    """Three hills on a line."""
    return torch.sin(torch.linspace(0, 3 * torch.pi, POINTS, dtype=torch.float64)) ** 2


def matrix() -> Any:
    """(y, y_before, k, Δt) ↦ A, for NumPy arrays; `.fun` is r."""
    return crelle.interop.scipy_jac(residual, start(), start(), 1.0, 0.1, format="csc")


class ImplicitStep(torch.autograd.Function):
    """(y_before, k) ↦ y."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, k: Tensor, dt: float, jac: Any) -> Tensor:
        given = before.numpy(), k.item(), dt
        y = given[0]
        for _ in range(20):
            change = splu(jac(y, *given)).solve(jac.fun(y, *given))
            y = y - change
            if np.abs(change).max() < 1e-12:
                break
        ctx.factors, ctx.dt = splu(jac(y, *given)), dt
        found = torch.from_numpy(y)
        ctx.save_for_backward(found, k)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y, k = ctx.saved_tensors
        adjoint = torch.from_numpy(ctx.factors.solve(gradients[0].numpy(), trans="T"))
        by_k = torch.func.jvp(lambda k: field(y, k), (k,), (torch.ones_like(k),))[1]
        return adjoint, ctx.dt * (adjoint @ by_k), None, None


def run(k: Tensor, jac: Any, steps: int = STEPS) -> Tensor:
    """y at the end, differentiable by k."""
    y = start()
    for _ in range(steps):
        y = ImplicitStep.apply(y, k, END / steps, jac)
    return y


def mean_at_the_end(k: float, jac: Any) -> tuple[float, float]:
    """The mean of y at the end, and its derivative by k."""
    given = torch.tensor(k, dtype=torch.float64, requires_grad=True)
    value = run(given, jac).mean()
    (slope,) = torch.autograd.grad(value, given)
    return value.item(), slope.item()


def reference(k: float) -> np.ndarray:
    """y at the end by SciPy's BDF, to ten digits."""
    jac = crelle.interop.scipy_jac(lambda t, y: field(y, k), 0.0, start(), argnums=1, format="csc")
    return solve_ivp(jac.fun, (0, END), start().numpy(), method="BDF", jac=jac, rtol=1e-10, atol=1e-12).y[:, -1]


def fitted(observed: float, jac: Any, guess: float = 0.03) -> float:
    """The k whose solution has this mean at the end, by Newton's method."""

    def misfit(k: float) -> tuple[float, float]:
        value, slope = mean_at_the_end(k, jac)
        return value - observed, slope

    return root_scalar(misfit, x0=guess, fprime=True, method="newton").root


def main() -> None:
    k, jac = 0.02, matrix()
    print(f"entries of A        {jac.pattern.nnz:,} of {POINTS**2:,}, in {jac.plan.passes} products")
    print(f"steps               {STEPS}; an explicit method needs {END * 2 * k * (POINTS - 1) ** 2:.0f}")
    exact = reference(k)
    for steps in (STEPS, 10 * STEPS):
        error = np.abs(run(torch.tensor(k, dtype=torch.float64), jac, steps).numpy() - exact).max()
        print(f"error, {steps:3} steps    {error:.1e}")
    value, slope = mean_at_the_end(k, jac)
    difference = (mean_at_the_end(k + 1e-5, jac)[0] - mean_at_the_end(k - 1e-5, jac)[0]) / 2e-5
    print(f"mean at the end     {value:.6f}")
    print(f"its derivative by k {slope:.6f}, by differences {difference:.6f}")
    print(f"k from the mean     {fitted(value, jac):.8f}")


if __name__ == "__main__":
    main()
