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


def test_long_chains_are_cut_unless_asked_for(project, crelle):
    (project / "long.py").write_text(
        "import jax.numpy as jnp\ndef f(x):\n    for _ in range(50):\n        x = jnp.sin(x) * 2\n    return x\n"
    )
    assert "... 40 more lines ..." in crelle("trace", "long.py:f", "f64[4]").stdout
    assert len(crelle("trace", "long.py:f", "f64[4]", "--all").stdout.splitlines()) == 103
    assert len(json.loads(crelle("trace", "long.py:f", "f64[4]", "--json").stdout)["maps"]) == 100


def test_what_is_conservative_is_said(project, crelle):
    (project / "hidden.py").write_text(
        "import jax\n"
        "@jax.custom_jvp\n"
        "def f(x):\n    return x\n"
        "@f.defjvp\n"
        "def _(x, t):\n    return x[0], jax.pure_callback(lambda v: v, t[0], t[0])\n"
    )
    note = "pure_callback: no rule; every output is taken to depend on all of its input"
    result = crelle("pattern", "hidden.py:f", "f64[300]")
    assert result.exit_code == 0, result.output
    assert f"  notes      {note}\n" in result.stdout
    found = json.loads(crelle("pattern", "hidden.py:f", "f64[300]", "--json").stdout)
    assert found["structure"]["notes"] == [note]


def test_a_pattern_at_one_point(project, crelle):
    (project / "masked.py").write_text("import jax.numpy as jnp\ndef f(x):\n    return jnp.where(x > 1, x, 0.0)\n")
    assert "4 nonzeros" in crelle("pattern", "masked.py:f", "[0.0, 2.0, 0.5, 3.0]").stdout
    assert "2 nonzeros" in crelle("pattern", "masked.py:f", "[0.0, 2.0, 0.5, 3.0]", "--local").stdout
