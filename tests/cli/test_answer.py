"""The commands that answer: what they print, what they write, and that it is what the API returns."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle as api
from crelle.cli.targets import Loader


def data(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def test_jacobian_for_people(project, crelle):
    (project / "x.json").write_text("[1.5, 0.5]")
    result = crelle("jacobian", "maps.py:f", "x.json")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Jacobian of f: f64[2] -> f64[2]  ")
    assert lines[0].endswith(f"jax {jax.__version__} · cpu")
    assert lines[1] == "  chosen    dense forward, 2 JVPs"
    assert lines[2].startswith("  checked   1 random product against an independent VJP, relative error ")
    assert lines[-3:] == ["jacobian f64[2,2]", "  [[ 3. -1.]", "   [ 1.  3.]]"]
    assert result.stderr == ""


@pytest.mark.parametrize("target", ["maps.py:f", "plain.py:f"])
def test_jacobian_for_machines_equals_the_api(project, crelle, target):
    (project / "x.json").write_text("[1.5, 0.5]")
    found = data(crelle("jacobian", target, "x.json", "--json"))
    np.testing.assert_allclose(found["result"], [[3, -1], [1, 3]], rtol=1e-9)
    assert found["type"] == "f64[2,2]"
    assert (found["kind"], found["target"], found["inputs"]) == ("jacobian", target, "f64[2]")
    assert found["framework"] == {"maps.py:f": "jax", "plain.py:f": "numpy"}[target]
    x = (jnp if found["framework"] == "jax" else np).asarray([1.5, 0.5])
    f = Loader().load(target).f
    np.testing.assert_array_equal(found["result"], api.jacobian(f)(x))
    plan = api.jacobian(f).plan(x)
    assert (found["mode"], found["passes"]) == (plan.mode, plan.passes)
    assert found["plan"]["candidates"][0]["mode"] == plan.mode


def test_seeded_specs_are_the_documented_numbers(project, crelle):
    found = data(crelle("jacobian", "nets.py:f", "f64[3]@7", "--json"))
    x = torch.from_numpy(np.random.default_rng(7).standard_normal(3))
    expected = torch.func.jacrev(lambda x: torch.sin(x) * x.sum())(x)
    np.testing.assert_allclose(found["result"], expected, rtol=1e-12)
    assert found["framework"] == "torch"


def test_hessian_of_a_tree_with_a_keyword_argument(project, crelle):
    found = data(crelle("hessian", "maps.py:loss", '{"w": [1, 2], "b": 3}', "n=3", "--json", "--value"))
    np.testing.assert_allclose(found["result"]["w"]["w"], [[18, 0], [0, 36]])
    np.testing.assert_allclose(found["result"]["w"]["b"], [3, 12])
    assert found["type"]["w"]["w"] == "f64[2,2]"
    assert found["value"] == 27.0 and found["value_type"] == "f64[]"
    text = crelle("hessian", "maps.py:loss", '{"w": [1, 2], "b": 3}', "n=3", "--value").stdout
    assert "value f64[]\n  27." in text
    assert "hessian w/b f64[2]\n  [ 3. 12.]" in text


def test_gradient_with_negative_numbers(project, crelle):
    found = data(crelle("gradient", "maps.py:two", "-1.5", "[2, 3]", "--argnums", "0,1", "--json"))
    assert found["result"] == [5.0, [-1.5, -1.5]]
    single = data(crelle("gradient", "maps.py:two", "-1.5", "f64[2]", "--argnums", "-1", "--json"))
    assert single["result"] == [-1.5, -1.5]


def test_parameters_of_a_module_take_its_dtype(project, crelle):
    found = data(crelle("jacobian", "nets.py:net", "[1, 2, 3]", "--wrt", "params", "--json"))
    assert found["type"]["0.weight"] == "f32[2,4,3]"
    assert np.shape(found["result"]["2.weight"]) == (2, 2, 4)
    flat = data(crelle("jacobian", "nets.py:net", "[1, 2, 3]", "--wrt", "params", "--flatten", "--json"))
    assert flat["type"] == "f32[2,26]"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--rows", "1"], [1.0, 3.0]),
        (["--rows", "1,"], [[1.0, 3.0]]),
        (["--cols", "::-1"], [[-1.0, 3.0], [3.0, 1.0]]),
        (["--rows", "0", "--cols", "-1"], -1.0),
        (["--mode", "reverse"], [[3.0, -1.0], [1.0, 3.0]]),
        (["--chunk", "1"], [[3.0, -1.0], [1.0, 3.0]]),
        (["--memory", "1MB", "--no-check"], [[3.0, -1.0], [1.0, 3.0]]),
    ],
)
def test_options_are_the_keywords_of_the_api(project, crelle, words, expected):
    found = data(crelle("jacobian", "maps.py:f", "[1.5, 0.5]", *words, "--json"))
    assert found["result"] == expected
    if "--mode" in words:
        assert found["mode"] == "reverse"
    if "--chunk" in words:
        assert found["plan"]["chunk"] == 1
    if "--memory" in words:
        assert found["plan"]["memory"] == 10**6
        assert found["checked"] == "no: check=False"


def test_precision_follows_the_inputs(project, crelle):
    assert data(crelle("jacobian", "maps.py:f", "f32[2]", "--json"))["type"] == "f32[2,2]"
    assert data(crelle("jacobian", "maps.py:f", "f64[2]", "--json"))["type"] == "f64[2,2]"
    assert data(crelle("jacobian", "maps.py:f", "f64[2]", "--no-x64", "--json"))["type"] == "f32[2,2]"
    assert data(crelle("jacobian", "maps.py:f", "[1, 2]", "--dtype", "f32", "--json"))["type"] == "f32[2,2]"
    mixed = data(crelle("jacobian", "maps.py:two", "1.5", "f32[2]", "--json"))
    assert mixed["type"] == "f32[]" and mixed["inputs"] == "f32[], f32[2]"


def test_complex(project, crelle):
    found = data(crelle("jacobian", "maps.py:chatty", "c128[1]", "--holomorphic", "--json"))
    assert found["result"] == [[[2.0, 0.0]]]


def test_not_finite_is_text_in_json_and_a_warning_on_stderr(project, crelle):
    result = crelle("jacobian", "maps.py:root", "[0.0, 4.0]", "--json")
    assert data(result)["result"][0][0] == "Infinity"
    assert result.stderr.startswith("warning: crelle.jacobian(root): ")


def test_what_the_function_prints_goes_to_stderr(project, crelle):
    result = crelle("jacobian", "maps.py:chatty", "[1, 2]", "--json")
    assert data(result)["result"] == [[2.0, 0.0], [0.0, 2.0]]
    assert "thinking [3,4]" in result.stderr


def test_empty_arrays(project, crelle):
    found = data(crelle("jacobian", "maps.py:chatty", "f64[0]", "--json"))
    assert found["result"] == [] and found["type"] == "f64[0,0]"


@pytest.mark.parametrize("suffix", ["npy", "npz", "json", "pt"])
def test_out(project, crelle, suffix):
    result = crelle("jacobian", "maps.py:f", "[1.5, 0.5]", "--out", f"J.{suffix}")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"written to J.{suffix}\n")
    expected = [[3, -1], [1, 3]]
    read = {
        "npy": lambda: np.load("J.npy"),
        "npz": lambda: np.load("J.npz")["jacobian"],
        "json": lambda: json.loads((project / "J.json").read_text())["result"],
        "pt": lambda: torch.load("J.pt", weights_only=True),
    }
    np.testing.assert_array_equal(read[suffix](), expected)


def test_out_of_trees(project, crelle):
    words = ["hessian", "maps.py:loss", '{"w": [1, 2], "b": 3}']
    assert crelle(*words, "--value", "--out", "H.npz").exit_code == 0
    with np.load("H.npz") as found:
        assert sorted(found.files) == ["hessian/b/b", "hessian/b/w", "hessian/w/b", "hessian/w/w", "value"]
        np.testing.assert_array_equal(found["hessian/w/w"], [[6, 0], [0, 6]])
    assert crelle(*words, "--out", "H.pt").exit_code == 0
    assert torch.equal(torch.load("H.pt", weights_only=True)["w"]["b"], torch.tensor([2.0, 4.0]).double())
    assert crelle(*words, "--flatten", "--out", "H.npy").exit_code == 0
    assert np.load("H.npy").shape == (3, 3)
    result = crelle(*words, "--out", "T.npy")
    assert result.exit_code == 2
    assert "a .npy file holds one array, and this answer is a tree of arrays" in result.stderr


def test_plan(project, crelle):
    x = jnp.ones(2)
    for kind in ("jacobian", "gradient", "hessian"):
        target = "maps.py:f" if kind == "jacobian" else "plain.py:energy"
        result = crelle("plan", target, "[1, 1]", "--of", kind)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"{kind.capitalize()} of ")
    expected = str(api.jacobian(Loader().load("maps.py:f").f).plan(x))
    assert crelle("plan", "maps.py:f", "[1, 1]").stdout == f"{expected}\n"


def test_plan_for_machines_and_saved(project, crelle):
    found = data(crelle("plan", "maps.py:f", "f64[2]", "--json", "--out", "plan.json"))
    plan = api.Plan.load("plan.json")
    assert (found["mode"], found["passes"]) == (plan.mode, plan.passes)
    assert plan == api.jacobian(Loader().load("maps.py:f").f).plan(jnp.ones(2))


def test_plan_analyze(project, crelle):
    found = data(crelle("plan", "maps.py:f", "f64[2]", "--analyze", "--json"))
    assert all(candidate["measured"] > 0 for candidate in found["candidates"])
    assert "  measured " in crelle("plan", "maps.py:f", "f64[2]", "--analyze").stdout
    assert crelle("plan", "maps.py:f", "f64[2]", "--of", "determinant").exit_code == 2


def test_estimated_errors(project, crelle):
    words = ["jacobian", "plain.py:f", "[1.5, 0.5]", "--mode", "central", "--value", "--error"]
    found = data(crelle(*words, "--json", "--out", "J.npz"))
    true = np.abs(np.array(found["result"]) - [[3, -1], [1, 3]])
    assert np.all(true <= np.array(found["error"])) and np.all(np.array(found["error"]) < 1e-6)
    assert found["value"] == [2.0, 1.5]
    assert found["error_type"] == "f64[2,2]"
    with np.load("J.npz") as saved:
        assert sorted(saved.files) == ["error", "jacobian", "value"]
    text = crelle(*words).stdout
    assert text.index("value f64[2]") < text.index("jacobian f64[2,2]") < text.index("error f64[2,2]")


def test_check_of_what_is_right(project, crelle):
    result = crelle("check", "maps.py:f", "maps.py:jac", "[1.5, 0.5]")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("jac is the jacobian of f: all 4 entries agree\n")


def test_check_of_what_is_wrong(project, crelle):
    result = crelle("check", "maps.py:f", "maps.py:wrong", "[1.5, 0.5]")
    assert result.exit_code == 1
    assert result.stdout.startswith("wrong is not the jacobian of f: 1 of 4 entries wrong\n")
    assert "  [0, 1]  1      -1         2\n" in result.stdout
    assert result.stderr == ""


def test_check_for_machines_equals_the_api(project, crelle):
    result = crelle("check", "maps.py:f", "maps.py:wrong", "[1.5, 0.5]", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    loader = Loader()
    report = api.check(loader.load("maps.py:f").f, loader.load("maps.py:wrong").f, jnp.array([1.5, 0.5]))
    assert (found["ok"], found["wrong"], found["entries"], found["max_abs"]) == (False, 1, 4, report.max_abs)
    assert found["worst"][0]["where"] == "[0, 1]" and found["likely"] == list(report.likely)


def test_check_of_products_kinds_and_tolerances(project, crelle):
    (project / "hands.py").write_text(
        "import numpy as np\n"
        "def f(x):\n    return x[0] ** 2 * x[1] + x[1] ** 3\n"
        "def grad(x):\n    return np.array([2 * x[0] * x[1], x[0] ** 2 + 3 * x[1] ** 2])\n"
        "def hvp(x, u):\n    return np.array([[2 * x[1], 2 * x[0]], [2 * x[0], 6 * x[1]]]) @ u\n"
        "def near(x):\n    return grad(x) * 1.001\n"
    )
    assert crelle("check", "hands.py:f", "hands.py:grad", "[1, 2]", "--kind", "gradient").exit_code == 0
    assert crelle("check", "hands.py:f", "hands.py:hvp", "[1, 2]", "--kind", "hvp").exit_code == 0
    assert crelle("check", "hands.py:f", "hands.py:near", "[1, 2]", "--kind", "gradient").exit_code == 1
    near = crelle("check", "hands.py:f", "hands.py:near", "[1, 2]", "--kind", "gradient", "--rtol", "0.01")
    assert near.exit_code == 0
    for words, message in (
        (
            ["hands.py:hvp", "[1, 2]"],
            "hands.py:hvp cannot be called with these inputs: missing a required argument: 'u'\n",
        ),
        (["hands.py:grad", "[1, 2]", "--kind", "slope"], "crelle.check(f, grad): kind='slope' is not known\n"),
        (["hands.py:grad", "[1, 2]", "--worst", "0"], "crelle.check(f, grad): worst=0\n"),
    ):
        result = crelle("check", "hands.py:f", *words)
        assert result.exit_code == 2
        assert result.stderr.startswith(message)
