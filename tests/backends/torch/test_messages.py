"""What a user of PyTorch reads when something is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import crelle


def message(make, *args, error=crelle.CrelleError):
    with pytest.raises(error) as caught:
        make(*args)
    return str(caught.value)


def test_integer_input():
    assert message(crelle.jacobian(lambda x: x), torch.arange(3), error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): x is i64[3], and only floating-point arguments have a derivative\n"
        "  called  i64[3]\n"
        "  likely  an integer or boolean array where a float was meant\n"
        "  try     convert it (x.double()), or choose other argnums="
    )


def test_non_scalar_output():
    assert message(crelle.hessian(lambda x: x * 2), torch.ones(3), error=crelle.CrelleShapeError) == (
        "crelle.hessian(f): f must return a scalar, and returned f32[3]\n"
        "  called    x: f32[3]\n"
        "  expected  one tensor of shape []\n"
        "  likely    a missing sum or mean, or an axis of length 1\n"
        "  try       f(x).sum(), f(x)[0], or crelle.jacobian for a function with several outputs"
    )


def test_outputs_that_are_no_tensors():
    text = message(crelle.jacobian(lambda x: x.sum().item()), torch.ones(3), error=crelle.CrelleTypeError)
    assert text.startswith("crelle.jacobian(f): f returned 3.0 of type float\n")
    assert ".item()" in text
    text = message(crelle.jacobian(lambda x: x > 0), torch.ones(3), error=crelle.CrelleTypeError)
    assert "f returned bool[3], which has no derivative" in text
    text = message(crelle.jacobian(lambda x: x, has_aux=True), torch.ones(3), error=crelle.CrelleTypeError)
    assert "has_aux=True, and f returned Tensor, not (output, aux)" in text


def test_in_place_change_of_the_input():
    x = torch.ones(3)
    text = message(crelle.jacobian(lambda x: x.mul_(2)), x, error=crelle.CrelleValueError)
    assert text == (
        "crelle.jacobian(f): f changes its input x in place\n"
        "  called    x: f32[3]\n"
        "  expected  a function that leaves its inputs as they are\n"
        "  likely    an operation that ends in an underscore, or an assignment to a slice, on the input itself\n"
        "  try       work on a copy: x = x.clone()"
    )
    assert torch.equal(x, torch.ones(3))


def test_random_functions():
    text = message(crelle.jacobian(lambda x: x * torch.rand(3)), torch.ones(3), error=crelle.CrelleCheckError)
    assert text.startswith(
        "crelle.jacobian(f): f is not deterministic: two evaluations at the same point differ\n  called  x: f32[3]\n"
    )


def test_train_mode_layers_are_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3)))
    text = message(crelle.jacobian(model), torch.ones(2, 3), error=crelle.CrelleTypeError)
    assert "crelle.jacobian(Sequential): layer 1.0 is BatchNorm1d in train mode" in text
    assert "module.eval()" in text
    text = message(crelle.hessian(nn.Dropout(0.5)), torch.ones(3), error=crelle.CrelleTypeError)
    assert "layer (the module itself) is Dropout in train mode" in text
    assert crelle.jacobian(nn.Dropout(0.0))(torch.ones(2)).shape == (2, 2)


def test_parameters_of_what_has_none():
    text = message(crelle.jacobian(lambda x: x, wrt="params"), torch.ones(3), error=crelle.CrelleTypeError)
    assert "wrt='params' needs an nn.Module, and f is a plain function" in text
    frozen = nn.Linear(2, 2).requires_grad_(False)
    text = message(crelle.jacobian(frozen, wrt="params"), torch.ones(2), error=crelle.CrelleTypeError)
    assert "the module has no parameter that requires grad" in text


def test_complex_without_holomorphic():
    z = torch.ones(2, dtype=torch.complex64)
    text = message(crelle.jacobian(lambda z: z**2), z, error=crelle.CrelleTypeError)
    assert text == (
        "crelle.jacobian(f): a complex function has one complex derivative only if it is holomorphic\n"
        "  called  z: c64[2] -> c64[2]\n"
        "  likely  torch.func.jacrev would return the conjugate of what torch.func.jacfwd returns\n"
        "  try     holomorphic=True if it is; otherwise differentiate real and imaginary parts as real tensors"
    )
    text = message(crelle.jacobian(lambda x: x, holomorphic=True), torch.ones(2), error=crelle.CrelleTypeError)
    assert "holomorphic=True needs complex inputs and outputs" in text


def test_infinite_derivative_is_named():
    with pytest.warns(crelle.CrelleNonFiniteWarning) as caught:
        crelle.jacobian(torch.sqrt)(torch.tensor([1.0, 0.0]))
    text = str(caught[0].message)
    assert text.startswith("crelle.jacobian(sqrt): entry [1, 1] of the derivative is inf\n")
    assert "where(ok, x, 1.0)" in text
    with pytest.warns(crelle.CrelleNonFiniteWarning, match="the value of f is not finite"):
        crelle.jacobian(torch.log)(torch.tensor([1.0, 0.0]))


def test_a_plan_for_other_inputs():
    plan = crelle.jacobian(lambda x: x * 2).plan(torch.ones(3))
    assert message(plan, torch.ones(4), error=crelle.CrelleShapeError) == (
        "crelle.jacobian(f): this plan was made for other inputs\n"
        "  called    ❌ x: planned f32[3], got f32[4]\n"
        "  expected  x: f32[3]\n"
        "  try       make a plan for these inputs, or call crelle.jacobian(f)(...), which plans by itself"
    )


def test_a_bound_that_is_too_small():
    text = message(
        crelle.jacobian(lambda x: x.outer(x).sin(), memory=10), torch.ones(9), error=crelle.CrelleMemoryError
    )
    assert text.startswith("crelle.jacobian(f): memory=10 B is too small for even one pass\n  called    x: f32[9]\n")
    assert "the smallest candidate" in text


def test_a_mode_that_is_not_there():
    y = torch.randn(5, 4)
    text = message(crelle.jacobian(lambda x: torch.cdist(x, y, p=1.5), mode="forward"), torch.randn(3, 4))
    assert "mode='forward' cannot be used here" in text and "NotImplementedError" in text


def test_errors_of_the_function_itself_are_passed_through():
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|size mismatch"):
        crelle.jacobian(lambda x: torch.ones(2, 2) @ x)(torch.ones(3))
