"""A tangent in two parts: what passed constant coefficients only, and the rest."""

import numpy as np
import pytest
import torch

import crelle
from crelle.backends.torch.codegen import compile_graph
from crelle.backends.torch.linear import lowered
from crelle.backends.torch.split import CannotSplit, split

F64 = torch.float64
N = 6
A = torch.from_numpy(np.random.default_rng(0).standard_normal((N, N)))
MASK = torch.arange(N) < 3


def parts(f, x, *passive, kind=crelle.jacobian):
    """(C, V) as functions of v, at x."""
    found = split(lowered(kind(f)._bind((x, *passive), {})))
    sides = [compile_graph(module) for module in (found.constant, found.varying)]
    return [lambda v, side=side: side(x, *passive, v)[0] for side in sides]


def points():
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.uniform(0.3, 1.5, N)) for _ in range(3)]


def image(x):
    return x.reshape(1, 2, 3)


FUNCTIONS = {
    "linear": lambda x: A @ x + torch.roll(x, 1),
    "stencil": lambda x: x**2 + 1e12 * (torch.roll(x, 1) - 2 * x + torch.roll(x, -1)),
    "chain": lambda x: torch.sin(A @ x).flip(0) + 3 * x,
    "sum of a tangent and its product": lambda x: x + x * x,
    "difference of a tangent and a product": lambda x: A @ x - x * x,
    "sum and matrix product": lambda x: torch.outer(x, x) @ x + A @ x,
    "scaled sums": lambda x: torch.sub(x**2, torch.roll(x, 1), alpha=3) + torch.add(3 * x, x.sin(), alpha=-2),
    "broadcast": lambda x: (x[:2, None] + x[None, 2:].sin()).reshape(-1),
    "where": lambda x: torch.where(MASK, x**2, 2 * x),
    "select by value": lambda x: torch.where(x > 1, x, 2 * x),
    "in place": lambda x: x.clone().mul_(2).index_add_(0, torch.tensor([1, 1, 4]), x[:3] ** 2),
    "concatenate": lambda x: torch.cat([x[:2] ** 2, x[2:]]),
    "set a slice": lambda x: torch.slice_scatter(x * 2, x[:2].exp(), 0, 1, 3),
    "cumulate": lambda x: torch.cumsum(x, 0) + torch.cumprod(x, 0),
    "sort": lambda x: torch.sort(x)[0] + 2 * x,
    "gather by value": lambda x: x[x.argsort()] + x.flip(0),
    "convolve": lambda x: torch.nn.functional.conv1d(image(x), A[:2, :4].reshape(2, 2, 2), A[0, :2] * 1).reshape(-1),
    "filter": lambda x: torch.nn.functional.conv1d(image(x), x[:4].reshape(1, 2, 2)).reshape(-1),
    "solve": lambda x: torch.linalg.solve(torch.diag(x) + A.T @ A, x) + x,
    "nothing": lambda x: torch.zeros(N, dtype=F64) + torch.argmax(x),
    "normalise": lambda x: torch.nn.functional.layer_norm(x, (N,)) + x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_parts_are_the_product_and_one_is_the_same_everywhere(name):
    f = FUNCTIONS[name]
    v = torch.from_numpy(np.random.default_rng(2).standard_normal(N))
    constants = []
    for x in points():
        constant, varying = parts(f, x)
        c, rest = constant(v), varying(v)
        torch.testing.assert_close(c + rest, torch.func.jacrev(f)(x) @ v, rtol=1e-12, atol=1e-12)
        constants.append(c)
    torch.testing.assert_close(constants[0], constants[1], rtol=0, atol=0)
    torch.testing.assert_close(constants[0], constants[2], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["stencil", "chain", "sum of a tangent and its product", "in place", "sort", "solve"])
def test_the_constant_part_is_not_empty(name):
    x = points()[0]
    constant, _ = parts(FUNCTIONS[name], x)
    assert constant(x).abs().max() > 0.1


@pytest.mark.parametrize("name", ["linear", "convolve"])
def test_nothing_of_a_linear_function_varies(name):
    x = points()[0]
    _, varying = parts(FUNCTIONS[name], x)
    assert not varying(x).any()


def test_the_varying_part_keeps_its_digits_beside_large_constants():
    x, v = points()[0], torch.ones(N, dtype=F64) + 1e-3 * torch.arange(N)
    _, varying = parts(FUNCTIONS["stencil"], x)
    torch.testing.assert_close(varying(v), 2 * x * v, rtol=1e-14, atol=0)


def test_what_depends_on_other_arguments_is_not_constant():
    x, w = points()[0], torch.full((N,), 2.0, dtype=F64)
    constant, varying = parts(lambda x, w: w * x + 3 * x, x, w)
    v = torch.ones(N, dtype=F64)
    torch.testing.assert_close(constant(v), 3 * v, rtol=0, atol=0)
    torch.testing.assert_close(varying(v), 2 * v, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_all_shapes(shape):
    x = torch.rand(shape, dtype=F64)
    constant, varying = parts(lambda x: torch.stack([x**2 + 3 * x, 5 * x]), x)
    torch.testing.assert_close(constant(x), torch.stack([3 * x, 5 * x]))
    torch.testing.assert_close(varying(x), torch.stack([2 * x * x, 0 * x]))


def test_hessians():
    f = lambda x: (x**4).sum() + (A @ x).square().sum() + x[0] * x[1]
    v = torch.from_numpy(np.random.default_rng(2).standard_normal(N))
    for x in points():
        constant, varying = parts(f, x, kind=crelle.hessian)
        swapped = torch.cat([v[:2].flip(0), torch.zeros(N - 2, dtype=F64)])
        torch.testing.assert_close(constant(v), 2 * A.T @ (A @ v) + swapped, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(varying(v), 12 * x**2 * v, rtol=1e-12, atol=1e-12)


def test_pools_have_the_same_derivative_for_every_image():
    def f(x):
        pooled = torch.nn.functional.avg_pool2d(x.reshape(1, 1, 2, 3), 2, 1)
        return (torch.nn.functional.interpolate(pooled, size=(2, 3), mode="bilinear") ** 2).sum()

    x, v = points()[0], torch.ones(N, dtype=F64)
    constant, varying = parts(f, x, kind=crelle.hessian)
    torch.testing.assert_close(constant(v), torch.func.hessian(f)(x) @ v, rtol=1e-12, atol=1e-12)
    assert not varying(v).any()


def test_a_matrix_that_becomes_singular_is_still_seen():
    x = points()[0]
    found = split(lowered(crelle.jacobian(lambda x: torch.linalg.solve(torch.diag(x), x) + x)._bind((x,), {})))
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        compile_graph(found.varying)(torch.zeros_like(x), x)


def test_an_operation_that_is_constant_in_its_bias_only_is_refused():
    f = lambda x: torch.nn.functional.conv1d(image(x), x[:4].reshape(1, 2, 2), x[:1])
    with pytest.raises(CannotSplit, match="convolution is constant in some of its operands only"):
        parts(f, points()[0])


def test_random_numbers_are_refused():
    with pytest.raises(CannotSplit, match="writes or draws random numbers"):
        parts(lambda x: x * torch.rand(N, dtype=F64) + 3 * x, points()[0])


def test_writes_to_what_f_captures_are_refused():
    seen = torch.zeros(N, dtype=F64)

    def f(x):
        seen.copy_(x)
        return x**2 + x

    with pytest.raises(CannotSplit, match="writes or draws random numbers"):
        parts(f, points()[0])
