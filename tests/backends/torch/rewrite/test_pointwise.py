"""Element-wise operations computed before expansions: only where PyTorch's own kernels broadcast."""

from __future__ import annotations

import pytest
import torch

import crelle

WEIGHT = torch.linspace(-1.0, 1.0, 8 * 12, dtype=torch.float64).reshape(8, 12).sin()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "activation", ["gelu", "silu", "tanh", "sigmoid", "relu", "elu", "softplus", "mish", "hardswish"]
)
def test_derivatives_of_activations_run_as_planned(activation, dtype):
    """A gradient has an axis of seeds that the activation's argument lacks."""
    act, weight = getattr(torch.nn.functional, activation), WEIGHT.to(dtype)
    f = lambda x: act(x @ weight) @ weight.T
    x = torch.linspace(-2.0, 2.0, 5 * 8, dtype=dtype).reshape(5, 8)
    expected = torch.func.jacrev(f)(x)
    for mode in ("forward", "reverse"):
        ours = crelle.jacobian(f, mode=mode)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=1e-6)
        plan = ours.plan(x)
        assert plan.mode == mode and plan.chunk is None
        assert not any("failed" in note for note in plan.notes), plan.notes
