"""What counts as a batch, how arrays are cut into batches, and what is said of data that are none."""

from __future__ import annotations

import functools
from collections import namedtuple

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.operators._batches import Batches, arguments_of
from crelle.operators._determinism import captured_modules, same_batches

X, Y = np.arange(14.0).reshape(7, 2), np.arange(7.0)


def says(text, call):
    with pytest.raises(crelle.CrelleError) as caught:
        call()
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    return caught.value


def made(data, batch_size=None, weight=None):
    return Batches(data, batch_size, weight, "Hessian of loss")


@pytest.mark.parametrize("framework", [np.asarray, jnp.asarray, torch.as_tensor], ids=["numpy", "jax", "torch"])
def test_arrays_are_cut_into_batches(framework):
    x, y = framework(X), framework(Y)
    batches = made((x, y), 3)
    for _ in range(2):
        found = list(batches)
        assert [b.number for b in found] == [0, 1, 2]
        assert [batches.samples(b) for b in found] == [3, 3, 1]
        np.testing.assert_array_equal(np.concatenate([b.given[0] for b in found]), X)
        np.testing.assert_array_equal(np.concatenate([b.given[1] for b in found]), Y)


def test_one_array_a_list_and_a_dict():
    assert [b.given.shape for b in made(X, 4)] == [(4, 2), (3, 2)]
    assert [len(b.given) for b in made([X, Y], 7)] == [2]
    assert [sorted(b.given) for b in made({"x": X, "y": Y}, 7)] == [["x", "y"]]
    assert [b.given["y"].shape for b in made({"x": X, "y": Y}, 5)] == [(5,), (2,)]


def test_a_tensor_data_set_with_a_batch_size():
    data = torch.utils.data.TensorDataset(torch.as_tensor(X), torch.as_tensor(Y))
    assert [b.given[1].tolist() for b in made(data, 4)] == [[0, 1, 2, 3], [4, 5, 6]]


def test_samples_by_a_function():
    batches = made([{"length": 3, "x": X}], weight=lambda batch: batch["length"])
    assert [batches.samples(b) for b in batches] == [3.0]


def test_samples_of_nested_batches():
    batches = made([("name", {"image": X}, Y)])
    assert [batches.samples(b) for b in batches] == [7.0]


def test_samples_that_nobody_knows():
    batches = made([(np.float64(1.0),)])
    says(
        "Hessian of loss: batch 0 does not say how many samples it holds\n"
        "  called    (f64[])\n"
        "  expected  a first array whose leading axis counts the samples\n"
        "  try       reduction='sum' if batches count alike; the array with the samples first",
        lambda: batches.samples(next(iter(batches))),
    )


def test_what_a_batch_stands_for():
    assert arguments_of((X, Y), "batch 0") == ((X, Y), {})
    assert arguments_of([X, Y], "batch 0") == ((X, Y), {})
    assert arguments_of(namedtuple("Pair", "x y")(X, Y), "batch 0") == ((X, Y), {})
    assert arguments_of({"x": X}, "batch 0") == ((), {"x": X})
    assert arguments_of(X, "batch 0") == ((X,), {})


def test_a_batch_that_is_no_tuple():
    says(
        "a batch is 'x' of type str\n"
        "  expected  a tuple or list of arguments, a dict of keywords, or one array\n"
        "  likely    the data set yields single samples or keys\n"
        "  try       [(x, y), ...] for f(params, x, y); data.items() if batches are the values of a dict",
        lambda: arguments_of("x", "a batch"),
    )
    says(
        "a batch is None of type NoneType\n"
        "  expected  a tuple or list of arguments, a dict of keywords, or one array\n"
        "  try       a tuple of its fields",
        lambda: arguments_of(None, "a batch"),
    )


@pytest.mark.parametrize("data", [(X, Y), X, {"x": X, "y": Y}], ids=["tuple", "array", "dict"])
def test_arrays_without_a_batch_size(data):
    with pytest.raises(crelle.CrelleTypeError, match=r"are arrays, without a batch size\n  expected  batch_size="):
        made(data)


def test_an_iterator_can_be_gone_through_only_once():
    says(
        "Hessian of loss: data= of type generator can be gone through only once\n"
        "  expected  batches that can be had again for every product\n"
        "  try       list(data) if they fit in memory; a DataLoader, or an object whose __iter__ starts anew",
        lambda: made((X[i : i + 1], Y) for i in range(7)),
    )


def test_a_data_set_of_single_samples():
    data = torch.utils.data.TensorDataset(torch.as_tensor(X))
    says(
        "Hessian of loss: data= of type TensorDataset cannot be gone through in batches\n"
        "  expected  an iterable of batches; or arrays with batch_size=\n"
        "  likely    a data set of single samples, as a DataLoader takes it\n"
        "  try       DataLoader(data, batch_size=...)",
        lambda: made(data),
    )


def test_no_iterable():
    says(
        "Hessian of loss: data= of type int cannot be gone through in batches\n"
        "  expected  an iterable of batches; or arrays with batch_size=",
        lambda: made(3),
    )


def test_a_batch_size_for_what_yields_batches():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.as_tensor(X)), batch_size=2)
    says(
        "Hessian of loss: batch_size= is for arrays, and data= is of type DataLoader\n"
        "  expected  an array, or a tuple, list or dict of arrays\n"
        "  likely    it yields batches by itself\n"
        "  try       leave batch_size= out",
        lambda: made(loader, 3),
    )


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_a_batch_size_that_is_no_number_of_samples(size):
    with pytest.raises(crelle.CrelleValueError, match="expected  a positive integer"):
        made((X, Y), size)


def test_arrays_of_different_lengths():
    says(
        "Hessian of loss: arrays with different numbers of samples\n"
        "  called    (f64[7,2], f64[3])\n"
        "  expected  leading axes of one length",
        lambda: made((X, Y[:3]), 2),
    )
    with pytest.raises(crelle.CrelleShapeError):
        made((X, np.array(1.0)), 2)


def test_batches_that_are_the_same():
    nan = np.array([np.nan, 1.0])
    assert same_batches((X, Y), (X.copy(), Y.copy()))
    assert same_batches({"x": nan, "name": "a"}, {"x": nan.copy(), "name": "a"})
    assert same_batches([torch.ones(2), 3], [torch.ones(2), 3])


@pytest.mark.parametrize(
    "other", [(X, Y + 1), (X,), (X, Y, Y), (X, Y[:3]), (X, Y.astype(np.float32)), (X, 3), (X, torch.as_tensor(Y))]
)
def test_batches_that_are_not_the_same(other):
    assert not same_batches((X, Y), other)
    assert not same_batches(other, (X, Y))


NET = torch.nn.Linear(2, 1)


def test_modules_that_a_function_captures():
    inner = torch.nn.Linear(1, 1)

    class Trainer:
        def __init__(self):
            self.net = inner

        def loss(self, x):
            return self.net(x)

    assert captured_modules(lambda x: inner(x)) == [inner]
    assert captured_modules(lambda x: NET(x)) == [NET]
    assert captured_modules(Trainer().loss) == [inner]
    assert captured_modules(functools.partial(lambda net, x: net(x), inner)) == [inner]
    assert captured_modules(inner) == [inner]
    assert captured_modules(lambda x: x) == []
    assert captured_modules(np.sin) == []
