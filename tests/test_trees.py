"""Trees without a framework."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crelle import _trees

Pair = namedtuple("Pair", "x y")

TREES = [
    1,
    None,
    [],
    {},
    (),
    [1, 2],
    (1, [2, {"b": 3, "a": 4}]),
    {"w": Pair(1, (2, None)), "b": None},
    Pair([1], {"k": Pair(2, 3)}),
]


@pytest.mark.parametrize("tree", TREES, ids=repr)
def test_flatten_and_unflatten_are_inverse(tree):
    leaves, treedef = _trees.flatten(tree)
    again = _trees.unflatten(treedef, leaves)
    assert again == tree
    assert type(again) is type(tree)
    assert len(leaves) == treedef.num_leaves == len(_trees.paths(tree))


@given(
    st.recursive(
        st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner) | st.tuples(inner, inner),
        max_leaves=12,
    )
)
def test_any_tree_comes_back(tree):
    leaves, treedef = _trees.flatten(tree)
    assert _trees.unflatten(treedef, leaves) == tree
    assert hash(treedef) == hash(_trees.flatten(tree)[1])


@pytest.mark.parametrize("tree", TREES, ids=repr)
def test_paths_are_what_python_would_type(tree):
    leaves = _trees.flatten(tree)[0]
    assert [eval("tree" + path, {"tree": tree}) for path in _trees.paths(tree)] == leaves


def test_the_order_of_a_dict_is_kept():
    assert _trees.flatten({"b": 1, "a": 2})[0] == [1, 2]
    assert list(_trees.unflatten(_trees.flatten({"b": 1, "a": 2})[1], [3, 4])) == ["b", "a"]


def test_trees_of_other_types_or_keys_differ():
    some = [[1, 2], (1, 2), Pair(1, 2), {"x": 1, "y": 2}, {"x": 1, "z": 2}, [1, [2]], [1, None, 2]]
    defs = [_trees.flatten(tree)[1] for tree in some]
    assert len(set(defs)) == len(defs)


def test_an_ordered_dict_stays_one():
    tree = OrderedDict(b=1, a=2)
    again = _trees.unflatten(_trees.flatten(tree)[1], [1, 2])
    assert isinstance(again, OrderedDict)
    assert again == tree


def test_other_subclasses_of_tuple_come_back_as_tuples():
    class Shape(tuple):
        pass

    leaves, treedef = _trees.flatten(Shape((2, 3)))
    assert _trees.unflatten(treedef, leaves) == (2, 3)
