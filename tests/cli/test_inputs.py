"""Inputs: specs, files, numbers and JSON."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from crelle import CrelleValueError
from crelle.cli.inputs import DTYPES, Values, leaves, make, read


def one(text: str, seed: int = 0):
    return read([text], seed)[0].tree


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("f64[3,4]", "float64", (3, 4)),
        ("f32[]", "float32", ()),
        ("bf16[2]", "bfloat16", (2,)),
        ("c128[2, 3]", "complex128", (2, 3)),
        ("i64[0,3]", "int64", (0, 3)),
        ("bool[5]@3", "bool", (5,)),
        ("u8[1]", "uint8", (1,)),
    ],
)
def test_specs(text, dtype, shape):
    spec = one(text)
    assert (spec.dtype, spec.values.shape) == (dtype, shape)


def test_every_dtype_can_be_made_in_the_frameworks_that_have_it():
    for short, name in DTYPES.items():
        spec = one(f"{short}[2]")
        assert str(make(spec, "jax", "float64", True).dtype) == name
        assert str(make(spec, "torch", "float64", True).dtype) == f"torch.{name}"
        if short != "bf16":
            assert str(make(spec, "numpy", "float64", True).dtype) == name


def test_numpy_has_no_bfloat16():
    with pytest.raises(CrelleValueError, match="numpy has no dtype bfloat16"):
        make(one("bf16[2]"), "numpy", "float64", True)


def test_seeds():
    first, second = read(["f64[3]", "f64[3]"], 0)
    assert not np.array_equal(first.tree.values, second.tree.values)
    np.testing.assert_array_equal(one("f64[3]").values, first.tree.values)  # the second does not change the first
    assert not np.array_equal(one("f64[3]", seed=1).values, first.tree.values)
    expected = np.random.default_rng(7).standard_normal(3)
    np.testing.assert_array_equal(one("f64[3]@7").values, expected)
    np.testing.assert_array_equal(one("f64[3]@7", seed=5).values, expected)
    np.testing.assert_array_equal(read(["1", "f64[3]@7"], 0)[1].tree.values, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f6[2]", "'f6[2]' is not a spec: there is no dtype f6\n"
         "  expected  DTYPE[SIZE,SIZE,...], optionally with @SEED: f64[3,4], f32[], c128[2]@7\n"
         "  try       f64[2] or f16[2] or bf16[2]"),
        ("f64[2,]", "'f64[2,]' is not a spec\n"
         "  expected  DTYPE[SIZE,SIZE,...], optionally with @SEED: f64[3,4], f32[], c128[2]@7\n"
         f"            DTYPE is one of {', '.join(DTYPES)}"),
        ("f64[-2]", None),
        ("float64[2]", None),
        ("f64[2]@x", None),
    ],
)  # fmt: skip
def test_wrong_specs(text, message):
    with pytest.raises(CrelleValueError) as caught:
        one(text)
    assert "is not a spec" in str(caught.value)
    if message:
        assert str(caught.value) == message


@pytest.mark.parametrize("text", ["1.5", "-1.5", "2", "1e-3", ".5", "inf", "-2e4"])
def test_numbers(text):
    value = one(text)
    assert value.dtype is None
    assert float(value.values) == float(text)


def test_numbers_are_floats_where_they_are_differentiated_and_themselves_elsewhere():
    x = make(one("3"), "jax", "float64", differentiated=True)
    assert (x.dtype, x.shape) == (jnp.float64, ())
    n = make(one("3"), "jax", "float64", differentiated=False)
    assert type(n) is int and n == 3
    assert type(make(one("0.5"), "torch", "float64", differentiated=False)) is float
    assert make(one("[1, 2]"), "torch", "float32", differentiated=True).dtype == torch.float32
    assert make(one("[1, 2]"), "torch", "float32", differentiated=False).dtype == torch.int64
    assert make(one("[1, 2.5]"), "torch", "float32", differentiated=False).dtype == torch.float32


def test_json_trees():
    tree = one('{"w": [[1, 2], [3, 4]], "b": "f32[2]", "layers": [{"k": 1.5}], "name": "relu", "on": true, "no": null}')
    assert tree["w"].values.shape == (2, 2)
    assert tree["b"].dtype == "float32"
    assert float(tree["layers"][0]["k"].values) == 1.5
    assert (tree["name"], tree["on"], tree["no"]) == ("relu", True, None)
    made = make(tree, "numpy", "float64", True)
    assert made["w"].dtype == np.float64 and made["b"].dtype == np.float32 and made["name"] == "relu"


def test_empty_lists_are_empty_arrays():
    assert one("[]").values.shape == (0,)
    assert one("[[], []]").values.shape == (2, 0)


def test_keywords():
    by_name = read(["n=3", "x=f64[2]", '{"a=b": 1}'], 0)
    assert [item.keyword for item in by_name] == ["n", "x", None]


def test_files(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", a=x, b=x[0].astype(np.float32))
    (tmp_path / "x.json").write_text(json.dumps(x.tolist()))
    torch.save({"a": torch.from_numpy(x)}, tmp_path / "x.pt")
    torch.save(torch.from_numpy(x), tmp_path / "y.pth")
    expected = {"x.npy": "float64", "x.json": None, "x.npz:a": "float64"}
    for name, dtype in expected.items():
        value = one(str(tmp_path / name))
        assert isinstance(value, Values) and value.dtype == dtype
        np.testing.assert_array_equal(value.values, x)
    assert {k: v.dtype for k, v in one(str(tmp_path / "x.npz")).items()} == {"a": "float64", "b": "float32"}
    for text in ("x.pt:a", "y.pth"):
        assert torch.equal(one(str(tmp_path / text)), torch.from_numpy(x))
    made = make(one(str(tmp_path / "y.pth")), "jax", "float64", True)  # a tensor for a JAX function
    np.testing.assert_array_equal(made, x)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "x.npy").write_text("not an array")
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "x.pt").write_text("nothing")
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    for name in ("x.npy", "x.json", "x.pt", "o.npy"):
        with pytest.raises(CrelleValueError, match=rf"{name} cannot be read as \.{name[2:]}\n  likely  \w+: "):
            one(str(tmp_path / name))


def test_files_and_entries_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", a=np.ones(2), b=np.ones(2))
    with pytest.raises(CrelleValueError) as caught:
        one("dat.npz")
    assert str(caught.value) == "there is no file dat.npz\n  try  data.npz"
    with pytest.raises(CrelleValueError) as caught:
        one("data.npz:c")
    assert str(caught.value) == "data.npz has no entry 'c'\n  expected  it holds a, b"


def test_what_is_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrelleValueError) as caught:
        one("(1, 2)")
    assert str(caught.value) == (
        "input '(1, 2)' is none of the things an input can be\n"
        "  expected  a spec such as f64[3,4] or f64[3,4]@7, a .npy, .npz, .pt or .json file, a number, or JSON\n"
        "  likely    JSON that the shell has taken apart, or Python that is not JSON: "
        "write '[1, 2]' or '{\"w\": [1, 2]}'"
    )
    with pytest.raises(CrelleValueError, match="write it as JSON, in double quotes"):
        one("relu")
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(CrelleValueError, match=r"a file of another type; convert it, for example with numpy\.save"):
        one("data.csv")
    with pytest.raises(CrelleValueError, match="the rows of a list have different lengths"):
        one("[[1, 2], [3]]")


def test_a_mistyped_option_is_not_an_input():
    with pytest.raises(CrelleValueError) as caught:
        read(["--josn"], 0, ("--json", "--rows"))
    assert str(caught.value) == "there is no option --josn\n  try  --json"


def test_leaves():
    assert list(leaves({"a": [1, (2, 3)], "b": 4})) == [1, 2, 3, 4]
