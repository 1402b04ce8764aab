"""``crelle spectrum``: what it prints, and that it is what the API returns."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def bowl(project):
    (project / "bowl.py").write_text(
        "import jax.numpy as jnp\n"
        "scales = jnp.arange(1.0, 31.0)\n"
        "def f(x):\n    return 0.5 * jnp.sum(scales * x**2)\n"
        "def g(x):\n    return scales[:20] * x[:20]\n"
    )
    return "bowl.py"


def test_the_eigenvalues_of_a_hessian(bowl, crelle):
    result = crelle("spectrum", f"{bowl}:f", "f64[30]", "--top", "3")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Hessian of f(f64[30×30], jax, cpu, symmetric)"
    assert lines[2].startswith("3 eigenvalues, largest in size")
    assert any(line.startswith("trace  465 ") for line in lines)  # 1 + 2 + ... + 30


def test_the_same_for_machines(bowl, crelle):
    found = json.loads(crelle("spectrum", f"{bowl}:f", "f64[30]", "--top", "2", "--json").stdout)
    assert found["shape"] == [30, 30]
    np.testing.assert_allclose(found["eigenvalues"]["values"], [30, 29], rtol=1e-12)
    assert found["trace"]["value"] == pytest.approx(465, rel=1e-12)
    x, density = (np.array(found["density"][name]) for name in ("x", "density"))
    assert float(((density[1:] + density[:-1]) / 2 * np.diff(x)).sum()) == pytest.approx(1, abs=0.02)


def test_the_singular_values_of_a_jacobian(bowl, crelle):
    found = json.loads(crelle("spectrum", f"{bowl}:g", "f64[30]", "--of", "jacobian", "--top", "2", "--json").stdout)
    np.testing.assert_allclose(found["singular_values"]["values"], [20, 19], rtol=1e-12)
    assert found["frobenius_norm"]["value"] == pytest.approx(np.sqrt((np.arange(1.0, 21.0) ** 2).sum()), rel=1e-9)


def test_pictures_and_numbers_are_written(bowl, crelle, project):
    for kind, function in (("hessian", "f"), ("jacobian", "g")):
        result = crelle("spectrum", f"{bowl}:{function}", "f64[30]", "--of", kind, "--out", f"{kind}.png")
        assert result.exit_code == 0, result.output
        assert (project / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert crelle("spectrum", f"{bowl}:f", "f64[30]", "--out", "s.json").exit_code == 0
    assert json.loads((project / "s.json").read_text())["kind"] == "hessian"


def test_what_cannot_be_asked(bowl, crelle):
    wrong = crelle("spectrum", f"{bowl}:f", "f64[30]", "--of", "gradient")
    assert wrong.exit_code == 2
    assert "--of gradient: there is no such matrix" in wrong.output
    assert "there is nothing to count" in crelle("spectrum", f"{bowl}:f", "f64[30]", "--top", "0").output
    scalar = crelle("spectrum", f"{bowl}:g", "f64[30]")
    assert scalar.exit_code != 0
    assert "f must return a scalar" in scalar.output
