"""``crelle pattern`` and ``crelle trace``: what they print, and that it is what the API returns."""

from __future__ import annotations

import json

import pytest

import crelle as api


@pytest.fixture
def banded(project):
    (project / "banded.py").write_text("import jax.numpy as jnp\ndef f(x):\n    return jnp.sin(x[1:]) * x[:-1]\n")
    return "banded.py:f"


def test_a_pattern_for_people(banded, crelle):
    result = crelle("pattern", banded, "f64[40]")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "SparsityPattern(39 × 40, 78 nonzeros, 5.0 %, bandwidth 0+1)"
    assert any("⢄" in line or "⠑" in line or "⢆" in line or "⡀" in line for line in lines)
    assert any(line.startswith("banded: ") for line in lines)


def test_a_pattern_for_machines(banded, crelle):
    found = json.loads(crelle("pattern", banded, "f64[4]", "--json").stdout)
    assert (found["shape"], found["nnz"]) == ([3, 4], 6)
    assert found["rows"] == [0, 0, 1, 1, 2, 2]
    assert found["cols"] == [0, 1, 1, 2, 2, 3]
    assert found["structure"]["kind"] == "banded"


def test_a_pattern_is_written(banded, crelle, project):
    assert crelle("pattern", banded, "f64[4]", "--out", "p.npz").exit_code == 0
    assert api.SparsityPattern.load(project / "p.npz").nnz == 6
    assert crelle("pattern", banded, "f64[4]", "--out", "p.png").exit_code == 0
    assert (project / "p.png").read_bytes().startswith(b"\x89PNG")
    assert crelle("pattern", banded, "f64[4]", "--out", "p.txt").exit_code == 2


def test_the_chain_is_printed(banded, crelle):
    result = crelle("trace", banded, "f64[4]")
    assert result.stdout.startswith("Tangent program: t0: f64[4] -> f64[3]\n")
    assert "one pass: " in result.stdout
    found = json.loads(crelle("trace", banded, "f64[4]", "--json").stdout)
    assert (found["rows"], found["columns"]) == (3, 4)
    assert {"Gather", "Scale", "Add"} >= {m["map"] for m in found["maps"]}


def test_hessians_and_wrong_kinds(project, crelle):
    (project / "scalar.py").write_text("def f(x):\n    return (x[1:] * x[:-1]).sum()\n")
    result = crelle("pattern", "scalar.py:f", "f64[4]", "--of", "hessian", "--framework", "torch")
    assert "SparsityPattern(4 × 4, 6 nonzeros" in result.stdout
    wrong = crelle("pattern", "scalar.py:f", "f64[4]", "--of", "gradient")
    assert wrong.exit_code == 2
    assert "--of gradient: there is no such matrix" in wrong.stderr
