"""Second derivatives of mse_loss: PyTorch 2.13 raises in forward mode, and make_fx dies of it, so ours must not."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import mse_loss

import crelle

MODES = ("auto", "forward-over-reverse", "reverse-over-forward", "reverse-over-reverse", "forward-over-forward")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hessian_of_a_mean_squared_error(mode, reduction):
    gen = torch.Generator().manual_seed(1841)
    weights, target, x = (torch.randn(shape, generator=gen, dtype=torch.float64) for shape in ((5, 3), (5,), (3,)))
    f = lambda x: mse_loss((weights @ x).tanh(), target, reduction=reduction)
    expected = torch.func.jacrev(torch.func.jacrev(f))(x)
    torch.testing.assert_close(crelle.hessian(f, mode=mode)(x), expected, rtol=1e-12, atol=1e-14)


def test_hessian_where_both_sides_move():
    gen = torch.Generator().manual_seed(1841)
    x, y = (torch.randn(4, generator=gen, dtype=torch.float64) for _ in range(2))
    found = crelle.hessian(mse_loss, argnums=(0, 1), flatten=True)(x, y)
    eye = torch.eye(4, dtype=torch.float64) / 2
    torch.testing.assert_close(found, torch.cat([torch.cat([eye, -eye], 1), torch.cat([-eye, eye], 1)]))


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_views_of_zeros_that_no_recorded_operation_made(mode):
    """The forward rule of layer_norm views the tangents of its weights, zeros without memory, out of sight."""
    weight, bias = torch.linspace(0.5, 1.5, 32, dtype=torch.float64), torch.linspace(-1.0, 1.0, 32, dtype=torch.float64)
    f = lambda x: torch.nn.functional.layer_norm(x, (32,), weight, bias)
    x = torch.linspace(-1.0, 1.0, 16 * 32, dtype=torch.float64).reshape(16, 32).sin()
    ours = crelle.jacobian(f, mode=mode)
    torch.testing.assert_close(ours(x), torch.func.jacrev(f)(x), rtol=1e-12, atol=1e-13)
    assert ours.plan(x).notes == ()
