"""A black box as a map of flat vectors."""

from __future__ import annotations

import numpy as np
import pytest

import crelle
from crelle._arrays import ArrayType
from crelle.backends.numpy.function import BlackBox, ChangedError, same_values


def box_of(f, *args, argnums=(0,), names=("x",), **keywords):
    leaves = [leaf for i in argnums for leaf in ([args[i]] if not isinstance(args[i], dict) else args[i].values())]
    inputs = tuple(ArrayType(str(np.asarray(leaf).dtype), np.shape(leaf)) for leaf in leaves)
    box = BlackBox(f, args, {}, argnums, inputs, names, "crelle.jacobian(f)", **keywords)
    box.evaluate_base()
    return box


def test_points_are_rounded_to_the_dtype_of_each_leaf():
    seen = []

    def f(p):
        seen.append((p["a"], p["b"]))
        return p["a"].sum() + p["b"].sum()

    box = box_of(f, {"a": np.ones((2, 1), np.float32), "b": np.ones(1)}, names=("p['a']", "p['b']"))
    assert np.array_equal(box.x, np.ones(3))
    box.at(np.full((1, 3), 1 / 3), lambda i: "")
    a, b = seen[-1]
    assert a.dtype == np.float32
    assert a.shape == (2, 1)
    assert a[0, 0] == np.float32(1 / 3)
    assert b[0] == 1 / 3
    box.at(np.full((1, 3), 1j), lambda i: "")
    assert [leaf.dtype for leaf in seen[-1]] == [np.complex64, np.complex128]
    assert np.array_equal(box.epsilon, [2.0**-23, 2.0**-23, 2.0**-52])


def test_every_evaluation_gets_fresh_arrays():
    seen = []
    box = box_of(lambda x: seen.append(x) or x, np.ones(2))
    box.moved(np.array([[0], [1]]), np.array([[2.0], [3.0]]))
    assert np.array_equal(seen[1], [2, 1])
    assert np.array_equal(seen[2], [1, 3])
    assert not any(np.shares_memory(a, b) for a in seen for b in seen if a is not b)


def test_entries_are_named_as_python_would():
    box = box_of(
        lambda p: p["w"].sum(), {"w": np.ones((2, 3)), "s": np.array(1.0), "v": np.ones(2)},
        names=("p['w']", "p['s']", "p['v']"),
    )  # fmt: skip
    assert [box.entry_name(j) for j in (0, 5, 6, 7, 8)] == [
        "p['w'][0, 0]",
        "p['w'][1, 2]",
        "p['s']",
        "p['v'][0]",
        "p['v'][1]",
    ]


def test_only_the_kept_outputs_are_returned():
    box = box_of(lambda x: {"a": x**2, "b": x.sum()}, np.array([1.0, 2.0]))
    assert box.base_size == box.m == 3
    box.keep = np.array([0, 2])
    assert box.m == 2
    assert np.array_equal(box.value, [1, 3])
    assert np.array_equal(box.moved(np.array([[1]]), np.array([[5.0]])), [[1, 6]])


def test_a_batch_is_split_to_fit():
    sizes = []

    def f(x):
        sizes.append(len(x) if x.ndim == 2 else 0)
        return x**2

    box = box_of(f, np.ones(4))
    box.begin_run(True)
    box.batch_bytes = 3 * 8 * 8
    found = box.at(np.arange(28.0).reshape(7, 4), lambda i: "")
    assert np.array_equal(found, np.arange(28.0).reshape(7, 4) ** 2)
    assert sizes == [0, 3, 0, 3, 1], "three batches, and a point of the first alone"


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum(),
        lambda x: x.T if x.ndim == 2 else x,
        lambda x: [x, x] if x.ndim == 2 else x,
        lambda x: x[0] * x,
    ],
)
def test_what_is_no_batch_is_noticed(f):
    box = box_of(f, np.array([1.0, 2.0]))
    with pytest.raises(ChangedError):
        box.batch(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        box.begin_run(True)
        box.at(np.array([[1.0, 2.0], [3.0, 4.0]]), lambda i: "")


def test_the_first_batch_of_a_run_is_proven():
    state = {"mean": False}

    def f(x):
        return x - x.mean(0) if state["mean"] else 1 * x

    box = box_of(f, np.array([1.0, 2.0]))
    points = np.array([[1.0, 2.0], [3.0, 5.0]])
    box.begin_run(True)
    assert np.array_equal(box.at(points, lambda i: ""), points)
    state["mean"] = True
    box.begin_run(True)
    with pytest.raises(ChangedError, match="other values than its points one by one"):
        box.at(points, lambda i: "")


def test_aux_is_kept_and_not_differentiated():
    box = box_of(lambda x: (x**2, {"steps": 3}), np.ones(2), has_aux=True)
    assert box.base.aux == {"steps": 3}
    assert box.m == 2
    with pytest.raises(crelle.CrelleTypeError, match="not \\(output, aux\\)"):
        box_of(lambda x: [x, x], np.ones(2), has_aux=True)


def test_values_that_agree_to_rounding():
    a = np.array([1.0, 1e-20, np.nan, np.inf])
    epsilon = np.full(4, 2.0**-52)
    assert same_values(a, a * (1 + 2.0**-51), epsilon, 3)
    assert not same_values(a, np.array([1.0 + 1e-10, 1e-20, np.nan, np.inf]), epsilon, 3)
    assert not same_values(a, np.array([1.0, 1e-20, 0.0, np.inf]), epsilon, 3)
    assert not same_values(a, np.array([1.0, 1e-20, np.nan, -np.inf]), epsilon, 3)
