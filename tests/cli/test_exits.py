"""Exit codes, and what is printed under each."""

from __future__ import annotations

import re

import pytest

from crelle.cli import answer, demo


def test_help_lists_the_codes(crelle):
    text = crelle("--help").stdout
    for line in (
        "0  all went well",
        "1  a check failed: a derivative is wrong",
        "2  unusable target, input or option, or something that is not installed",
        "3  your function, or the module that it is in, raised an exception",
        "4  an error inside Crelle or a framework",
    ):
        assert f"    {line}\n" in text


@pytest.mark.parametrize("command", ["plan", "jacobian", "hessian", "gradient", "check", "demo", "info"])
def test_help_is_printed_as_it_is_written(crelle, command):
    result = crelle(command, "--help", columns=80)
    assert result.exit_code == 0
    if command not in ("demo", "info"):
        assert "f64[3,4]@7 has its own seed" in result.stdout
        assert '\'{"w": "f64[3]"}\'' in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["jacobian", "maps.py:ff", "f64[2]"], "maps.py:ff: maps.py has no ff\n"),
        (["jacobian", "maps.py:f"], "maps.py:f cannot be called with these inputs: missing a required argument: 'x'\n"
         "  called    no arguments\n  expected  inputs for (x)\n"),
        (["jacobian", "maps.py:f", "f64[2]", "f64[2]"], "maps.py:f cannot be called with these inputs: "
         "too many positional arguments\n  called    f64[2], f64[2]\n  expected  inputs for (x)\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--josn"], "there is no option --josn\n  try  --json\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--mode", "up"], "mode='up' is not known to crelle.jacobian\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--framework", "tf"], "there is no framework 'tf'\n"
         "  expected  auto, jax, torch, numpy\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--dtype", "f65"], "there is no dtype 'f65'\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--rows", "a"], "--rows a does not select anything\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--rows", "7"], "rows= asks for row 7 of a matrix with 2 rows\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--argnums", "x"], "--argnums x does not name arguments\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--argnums", "3"], "crelle.jacobian(f): argnums=3 names argument 3, "),
        (["jacobian", "maps.py:f", "i64[2]"], "crelle.jacobian(f): x is i64[2], and only floating-point"),
        (["hessian", "maps.py:f", "f64[2]"], "crelle.hessian(f): "),
        (["jacobian", "maps.py:f", "f64[2]", "--memory", "much"], "memory='much' is not an amount of memory\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--out", "J.csv"], "--out J.csv: the suffix .csv says no format "
         "that can be written\n  expected  .npy, .npz, .json, .pt\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--out", "no/J.npy"], "--out no/J.npy: there is no folder no\n"),
        (["jacobian", "maps.py:f", "f64[2]", "--out", "J.npy", "--value"], "--out J.npy: a .npy file holds one array"),
        (["plan", "maps.py:f", "f64[2]", "--of", "trace"], "--of trace: there is no such derivative\n"
         "  expected  jacobian, hessian, gradient\n"),
        (["plan", "maps.py:f", "f64[2]", "--out", "plan.npy"], "--out plan.npy: the suffix .npy says no format"),
        (["demo", "--only", "cohomology"], "no problem has 'cohomology' in its name\n"),
        (["demo", "--out", "maps.py"], "maps.py: File exists\n"),
    ],
)  # fmt: skip
def test_bad_input_is_two_and_has_no_traceback(project, crelle, words, message):
    result = crelle(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(message)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_usage_errors_are_two(crelle):
    for words in (["jacobian"], ["jacobean", "x"], ["demo", "--seed", "x"], ["jacobian", "maps.py:f", "--seed", "x"]):
        assert crelle(*words).exit_code == 2


def test_debug_shows_the_traceback_of_bad_input(project, crelle):
    result = crelle("jacobian", "maps.py:ff", "f64[2]", "--debug")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback") and "targets.py" in result.stderr


def test_what_the_function_raises_is_three_with_its_own_frames_only(project, crelle):
    result = crelle("jacobian", "maps.py:picky", "f64[2]")
    assert result.exit_code == 3
    assert result.stdout == ""
    files = re.findall(r'File "([^"]+)", line \d+, in (\w+)', result.stderr)
    assert files == [(str(project / "maps.py"), "picky"), (str(project / "maps.py"), "inner")]
    assert result.stderr.endswith("RuntimeError: no [3,4] today\n")


def test_an_error_in_the_framework_called_by_the_function_is_three(project, crelle):
    result = crelle("jacobian", "maps.py:misshapen", "f64[2]")
    assert result.exit_code == 3
    assert "return jnp.dot(x, jnp.ones(7))" in result.stderr
    assert "site-packages" not in result.stderr and "JAX has removed" not in result.stderr
    assert "site-packages" in crelle("jacobian", "maps.py:misshapen", "f64[2]", "--debug").stderr


@pytest.mark.parametrize(
    ("text", "error"), [("def f(x):\n    return 1 / 0\n\nf(0)\n", "ZeroDivisionError"), ("def f(:\n", "SyntaxError")]
)
def test_a_module_that_fails_is_three(project, crelle, text, error):
    (project / "fails.py").write_text(text)
    result = crelle("jacobian", "fails.py:f", "f64[2]")
    assert result.exit_code == 3
    assert error in result.stderr and "fails.py" in result.stderr
    assert "importlib" not in result.stderr


def test_an_error_inside_is_four(project, crelle, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(answer.Words, "transform", broken)
    # the frames of this file would count as the user's
    monkeypatch.setattr("crelle.cli.exits._LIBRARIES", (*__import__("crelle.cli.exits").cli.exits._LIBRARIES, __file__))
    result = crelle("jacobian", "maps.py:f", "f64[2]")
    assert result.exit_code == 4
    assert result.stderr.rstrip().splitlines()[-3:] == [
        "RuntimeError: a bug",
        "",
        "This was not raised by your function. If you think that Crelle is to blame, report it.",
    ]


def test_a_failed_check_of_the_answer_is_one(project, crelle):
    (project / "dice.py").write_text(
        "import numpy as np\nrng = np.random.default_rng(0)\ndef f(x):\n    return x * rng.standard_normal(2)\n"
    )
    result = crelle("jacobian", "dice.py:f", "f64[2]")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("crelle.jacobian(f): f is not deterministic")


def test_interruption(project, crelle, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    result = crelle("demo")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"
