"""Patterns in files: there and back, and files that are damaged, of another version, or something else."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from crelle import CrelleValueError, SparsityPattern

P = SparsityPattern.from_dense(np.eye(4, 5) + np.eye(4, 5, 1))


def fields(**changes):
    """What a file holds, changed."""
    own = {"format": "crelle.SparsityPattern", "version": 1, "shape": [4, 5], "indptr": P.indptr, "indices": P.indices}
    return {key: value for key, value in {**own, **changes}.items() if value is not None}


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=9)))
def test_there_and_back(a):
    p = SparsityPattern.from_dense(a)
    with tempfile.TemporaryDirectory() as folder:
        p.save(Path(folder) / "p.npz")
        assert SparsityPattern.load(f"{folder}/p.npz") == p


def test_the_name_is_kept_and_the_bytes_repeat(tmp_path):
    P.save(tmp_path / "pattern")
    P.save(str(tmp_path / "again.npz"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.npz", "pattern"]
    assert (tmp_path / "pattern").read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_numpy_reads_it_without_pickle(tmp_path):
    P.save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as archive:
        assert {key: archive[key].tolist() for key in archive} == {
            key: np.asarray(value).tolist() for key, value in fields().items()
        }


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.npz"):
        SparsityPattern.load(tmp_path / "nowhere.npz")


def test_truncated_anywhere(tmp_path):
    P.save(tmp_path / "whole.npz")
    whole, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "cut.npz"
    for end in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:end])
        with pytest.raises(CrelleValueError) as caught:
            SparsityPattern.load(path)
        assert str(caught.value).startswith(f"{path} is not a saved SparsityPattern\n")
        assert "it is truncated, or something else" in str(caught.value)


def test_damaged_bytes_are_an_error_or_make_no_difference(tmp_path):
    """Whatever byte flips, nothing but the same pattern or our own error comes out."""
    P.save(tmp_path / "whole.npz")
    whole, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "flipped.npz"
    errors = 0
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            assert SparsityPattern.load(path) == P
        except CrelleValueError as error:
            assert str(path) in str(error)
            errors += 1
    assert errors > 50


@pytest.mark.parametrize("kind", ["text", "npy", "zip", "pickle", "other arrays", "empty"])
def test_something_else(tmp_path, kind):
    path, buffer = tmp_path / "other.npz", io.BytesIO()
    if kind == "npy":
        np.save(buffer, np.eye(3))
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("format", "crelle.SparsityPattern")
            archive.writestr("version", "1")
    elif kind == "pickle":
        np.savez(buffer, **fields(indices=np.array([{}, None], object)))
    elif kind == "other arrays":
        np.savez(buffer, a=np.eye(3))
    elif kind == "text":
        buffer.write(b"not a pattern")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CrelleValueError) as caught:
        SparsityPattern.load(path)
    assert str(caught.value).startswith(f"{path} is not a saved SparsityPattern\n  expected  a file that")
    assert "allow_pickle" not in str(caught.value) or kind == "pickle"
    assert ("it does not begin like a .npz file" in str(caught.value)) == (kind in ("text", "npy", "empty"))


def test_another_version_and_another_name(tmp_path):
    path = tmp_path / "p.npz"
    np.savez(path, **fields(version=2, indptr=None))
    with pytest.raises(CrelleValueError) as caught:
        SparsityPattern.load(path)
    assert str(caught.value) == (
        f"{path} is a SparsityPattern of format 2, and this version of Crelle reads format 1\n"
        "  likely  it was written by a newer Crelle\n"
        "  try     update Crelle, or make the pattern again and save it"
    )
    np.savez(path, **fields(format="crelle.Plan"))
    with pytest.raises(CrelleValueError, match=r"p\.npz holds 'crelle\.Plan', not a SparsityPattern"):
        SparsityPattern.load(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"indices": P.indices[::-1]}, r"row \d+ holds column"),
        ({"indices": P.indices + 1}, "row 3 holds column 5"),
        ({"indices": P.indices.astype(float)}, "indices holds float64"),
        ({"shape": [3, 5]}, "indptr has 5 entries"),
        ({"shape": 7}, "is not the shape of a matrix"),
    ],
)
def test_arrays_are_checked(tmp_path, changes, text):
    path = tmp_path / "p.npz"
    np.savez(path, **fields(**changes))
    with pytest.raises(CrelleValueError, match=rf"p\.npz holds a pattern that is not valid: .*{text}"):
        SparsityPattern.load(path)
