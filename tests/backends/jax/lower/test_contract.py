"""Products, convolutions and windows."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.backends.jax.lower.dense import check

RNG = np.random.default_rng(3)


def holes(*shape: int) -> np.ndarray:
    """A coefficient with zeros."""
    return np.where(RNG.random(shape) < 0.5, RNG.normal(size=shape), 0.0)


DOTS = {  # shapes of tangent and coefficient, ((contracted), (batch)) axes
    "matrix and vector": ((4,), (3, 4), ((0,), (1,)), ((), ())),
    "matrices": ((2, 4), (4, 3), ((1,), (0,)), ((), ())),
    "outer": ((2,), (3,), ((), ()), ((), ())),
    "two contracted": ((2, 3, 4), (4, 2, 2), ((0, 2), (1, 0)), ((), ())),
    "a batch": ((3, 2, 4), (3, 4, 2), ((2,), (1,)), ((0,), (0,))),
    "batches anywhere": ((2, 3, 4), (4, 2, 5, 3), ((0,), (1,)), ((2, 1), (0, 3))),
    "only batches": ((2, 3), (3, 2), ((), ()), ((0, 1), (1, 0))),
    "nothing contracted": ((2, 0), (0, 3), ((1,), (0,)), ((), ())),
    "an empty batch": ((0, 2), (0, 2), ((1,), (1,)), ((0,), (0,))),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("zeros", ["holes", "full", "x"])
@pytest.mark.parametrize("name", DOTS)
def test_dot_general(name, zeros, first):
    shape, other, (mine, theirs), (batch, batch_o) = DOTS[name]
    coefficient = holes(*other) if zeros == "holes" else RNG.normal(size=other) + 3.0

    def f(x):
        c = coefficient * jnp.sum(x**2) if zeros == "x" else coefficient
        if first:
            return lax.dot_general(x, c, ((mine, theirs), (batch, batch_o)))
        return lax.dot_general(c, x, ((theirs, mine), (batch_o, batch)))

    check(f, shape, exact=zeros != "x")


@pytest.mark.parametrize("equation", ["ij,ij->", "ij,jk,kl->il", "ii->i", "ij,kj->ik", "ij,ij->ij"])
def test_einsum_of_x_with_itself(equation):
    count = equation.split("->")[0].count(",") + 1
    check(lambda x: jnp.einsum(equation, *[x] * count), (3, 3))


CONVOLUTIONS = {
    "1d": {"image": (2, 2, 6), "kernel": (3, 2, 3)},
    "same": {"image": (1, 1, 6), "kernel": (1, 1, 3), "padding": [(1, 1)]},
    "strides": {"image": (1, 2, 7), "kernel": (2, 2, 3), "window_strides": (2,), "padding": [(2, 0)]},
    "a dilated image": {"image": (1, 1, 4), "kernel": (1, 1, 3), "lhs_dilation": (2,), "padding": [(1, 2)]},
    "a dilated kernel": {"image": (1, 1, 8), "kernel": (2, 1, 3), "rhs_dilation": (2,)},
    "cropped": {"image": (1, 1, 8), "kernel": (1, 1, 3), "padding": [(-1, -2)]},
    "groups": {"image": (1, 4, 5), "kernel": (4, 2, 2), "feature_group_count": 2},
    "depthwise": {"image": (2, 3, 5), "kernel": (6, 1, 2), "feature_group_count": 3},
    "batch groups": {"image": (4, 2, 5), "kernel": (4, 2, 2), "batch_group_count": 2},
    "2d": {"image": (1, 2, 4, 5), "kernel": (2, 2, 2, 3), "window_strides": (1, 2), "padding": [(0, 1), (1, 1)]},
    "2d, all": {
        "image": (2, 2, 3, 4), "kernel": (2, 1, 2, 2), "window_strides": (2, 1), "padding": [(1, 0), (0, 2)],
        "lhs_dilation": (1, 2),
        "rhs_dilation": (2, 1), "feature_group_count": 2,
    },
    "3d": {"image": (1, 1, 3, 3, 2), "kernel": (1, 1, 2, 2, 2)},
    "a kernel wider than the image": {"image": (1, 1, 2), "kernel": (1, 1, 4)},
}  # fmt: skip


@pytest.mark.parametrize("of", ["image", "image, holes", "image, crossed holes", "kernel", "kernel, holes"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, of):
    params = dict(CONVOLUTIONS[name])
    image, kernel = params.pop("image"), params.pop("kernel")
    params = {"window_strides": (1,) * (len(image) - 2), "padding": "VALID", **params}
    other = RNG.normal(size=kernel if of.startswith("image") else image)
    if of == "image, holes":  # the same taps for all channels
        other = other * (np.arange(kernel[-1]) % 2 == 0)
    elif "holes" in of:
        other = holes(*other.shape)
    if of.startswith("image"):
        check(lambda x: lax.conv_general_dilated(x, other, **params), image)
    else:  # zeros of an image are not followed
        check(lambda k: lax.conv_general_dilated(other, k, **params), kernel, exact="holes" not in of)


@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("CHWN", "OHWI", "HWNC")])
def test_convolution_layouts(numbers):
    image = tuple({"N": 2, "C": 2, "H": 3, "W": 4}[c] for c in numbers[0])
    kernel = tuple({"O": 3, "I": 2, "H": 2, "W": 2}[c] for c in numbers[1])
    for other in (RNG.normal(size=kernel), holes(*kernel)):
        check(lambda x, o=other: lax.conv_general_dilated(x, o, (1, 1), "SAME", dimension_numbers=numbers), image)


def test_transposed_convolution():
    kernel = RNG.normal(size=(3, 2, 2))
    check(lambda x: lax.conv_transpose(x, kernel, (2,), "SAME"), (1, 4, 2))


def test_convolution_of_x_with_itself():
    check(lambda x: jnp.convolve(x, x), (4,))


WINDOWS = list(
    itertools.product([(1, 2), (2, 3)], [(1, 1), (2, 1)], [((0, 0), (0, 0)), ((1, 0), (1, 2))], [(1, 1), (1, 2)])
)


@pytest.mark.parametrize("window, strides, padding, dilation", WINDOWS)
def test_window_sums(window, strides, padding, dilation):
    def f(x):
        return lax.reduce_window(x, 0.0, lax.add, window, strides, padding, window_dilation=dilation)

    check(f, (3, 6))


def test_window_sums_of_a_dilated_operand():
    check(lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (1,), [(1, 2)], (2,), (2,)), (5,))


@pytest.mark.parametrize("op, start", [(lax.max, -jnp.inf), (lax.min, jnp.inf)])
def test_window_extremes(op, start):
    parts = check(lambda x: lax.reduce_window(x, start, op, (2, 2), (1, 2), [(1, 0), (0, 0)]), (3, 4), exact=False)
    assert len(parts.indices) == 12 + 8
    assert (parts.kinds == 2).all()


def test_derivatives_of_window_extremes():
    def f(x):
        return jnp.sum(lax.reduce_window(x, -jnp.inf, lax.max, (2,), (1,), "VALID") ** 2)

    from crelle import hessian

    x = jnp.asarray(RNG.normal(size=6))
    found = hessian(f).pattern(x).to_dense()
    distance = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    assert found[distance == 0].all() and not found[distance > 2].any()
