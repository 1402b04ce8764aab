"""The tour: every problem is right, what it writes is there, and what fails is said."""

from __future__ import annotations

import importlib.util
import json
import re

import numpy as np
import pytest
from PIL import Image

import crelle as api
from crelle import CrelleValueError
from crelle.cli import demo, frameworks, problems
from crelle.cli.problems import Case, Problem

ALL = [p for name in frameworks.FRAMEWORKS for p in problems.of_framework(name)]


def test_a_dozen_problems_in_three_frameworks():
    assert len(ALL) >= 12
    assert {p.framework for p in ALL} == {"jax", "torch", "numpy"}
    assert len({p.slug for p in ALL}) == len(ALL)
    assert {p.kind for p in ALL} == {"jacobian", "hessian"}


@pytest.mark.parametrize("problem", ALL, ids=lambda p: p.slug)
def test_every_problem_is_right(problem, monkeypatch):
    monkeypatch.setattr(demo, "TIMING", 0.0)
    outcome = demo.solve(problem)
    assert outcome.failure == ""
    assert outcome.ok and outcome.error <= problem.tolerance
    assert outcome.plan is not None and outcome.plan.checked
    assert outcome.matrix is not None and outcome.matrix.ndim == 2
    assert all(seconds > 0 for seconds in [outcome.seconds, *outcome.natives.values()])


def test_choices_on_thin_and_wide_shapes(monkeypatch):
    monkeypatch.setattr(demo, "TIMING", 0.0)
    by_slug = {p.slug: p for p in ALL}
    thin, wide = demo.solve(by_slug["jax-thin-network"]), demo.solve(by_slug["torch-wide-network"])
    assert (thin.plan.mode, thin.plan.passes) == ("forward", 4)
    assert (wide.plan.mode, wide.plan.passes) == ("reverse", 4)
    assert thin.instead == ("reverse", "1,000 VJPs")
    assert wide.instead == ("forward", "1,000 JVPs")


def test_known_numbers(monkeypatch):
    monkeypatch.setattr(demo, "TIMING", 0.0)
    by_slug = {p.slug: p for p in ALL}
    np.testing.assert_allclose(demo.solve(by_slug["numpy-square-map"]).matrix, [[3, -1], [1, 3]], rtol=1e-8)
    hessian = demo.solve(by_slug["torch-loss-of-a-module"]).matrix
    assert hessian.shape == (51, 51)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-14)  # the blocks of the tree lie where they belong


@pytest.fixture(scope="module")
def toured(tmp_path_factory):
    """A tour of two problems of each framework."""
    from typer.testing import CliRunner

    from crelle.cli.app import app

    folder = tmp_path_factory.mktemp("tour") / "new" / "folder"
    only = ["thin", "pair energy", "wide", "loss of", "square", "curve"]
    words = [word for text in only for word in ("--only", text)]
    result = CliRunner().invoke(app, ["demo", "--out", str(folder), *words], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def test_printed(toured):
    folder, text = toured
    assert text.splitlines()[0].startswith("crelle ") and " takes 6 problems: JAX " in text
    for piece in (
        "1. thin network (JAX): a decoder from 4 numbers to 1000: few columns",
        "Jacobian of decoder: f64[4] -> f64[1000]",
        "  chosen    dense forward  4 JVPs",
        "  checked   1 random product",
        "against torch.func.jacrev",
        "problem",
        "vs native",
        "6 problems in ",
        "all answers are right.",
    ):
        assert piece in text, piece
    assert str(folder) in text.replace("\n", "")
    assert "\x1b" not in text


def test_it_fits_80_columns(toured):
    folder, text = toured
    long = [line for line in text.splitlines() if len(line) > 80 and str(folder) not in line]
    assert long == []


def test_results_are_files(toured):
    folder, _ = toured
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary) == 6 and all(one["ok"] and one["error"] <= one["tolerance"] for one in summary)
    thin = next(one for one in summary if one["problem"] == "thin network")
    assert (thin["passes"], thin["instead_of"]) == ("4 JVPs", "reverse 1,000 VJPs")
    plan = api.Plan.load(folder / "jax-thin-network" / "plan.json")
    assert (plan.mode, plan.passes, plan.function) == ("forward", 4, "decoder")
    assert plan.candidates[1].measured is not None
    assert np.load(folder / "jax-thin-network" / "matrix.npy").shape == (1000, 4)
    assert "thin network" in (folder / "summary.txt").read_text()
    assert (folder / "jax-thin-network" / "plan.txt").read_text().startswith("Jacobian of decoder")


def test_figures_are_images(toured):
    folder, text = toured
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == ["jax-pair-energy.png", "jax-thin-network.png", "times.png", "torch-loss-of-a-module.png"]
    for name in names:
        assert name in text
        with Image.open(folder / name) as image:
            assert image.width >= 600 and image.height >= 400
            assert len(set(image.convert("L").tobytes())) > 10  # something is drawn


def _problem(f, **changes) -> Problem:
    case = Case(f, (np.array([1.0, 2.0]),), lambda: np.diag([2.0, 4.0]), {"native": lambda x: np.diag(2 * x)})
    return Problem("squares", "numpy", "jacobian", "x²", 1e-6, lambda: case, **changes)


def test_a_wrong_answer_fails_the_tour(monkeypatch, tmp_path, crelle):
    monkeypatch.setattr(demo, "TIMING", 0.0)
    monkeypatch.setattr(problems, "collect", lambda: ([_problem(lambda x: x**2), _problem(lambda x: x**3)], []))
    result = crelle("demo", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert re.search(r"2 problems in \d+ s; 1 of them failed: squares\.", result.stdout)
    assert "WRONG" in result.stdout
    assert [one["ok"] for one in json.loads((tmp_path / "summary.json").read_text())] == [True, False]


def test_an_exception_fails_the_tour_and_the_rest_goes_on(monkeypatch, tmp_path, crelle):
    def broken(x):
        raise RuntimeError("no [3,4] today")

    (tmp_path / "numpy-squares").mkdir()
    (tmp_path / "numpy-squares" / "matrix.npy").write_text("of an earlier tour")
    monkeypatch.setattr(demo, "TIMING", 0.0)
    monkeypatch.setattr(problems, "collect", lambda: ([_problem(broken)], []))
    result = crelle("demo", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "failed: RuntimeError: no [3,4] today" in result.stdout
    (one,) = json.loads((tmp_path / "summary.json").read_text())
    assert one["ok"] is False and one["failure"] == "RuntimeError: no [3,4] today"
    assert not (tmp_path / "numpy-squares" / "matrix.npy").exists()


def test_frameworks_that_are_missing_are_skipped_and_named(monkeypatch, tmp_path, crelle):
    find = importlib.util.find_spec
    monkeypatch.setattr(problems.importlib.util, "find_spec", lambda n: find(n) if n == "numpy" else None)
    monkeypatch.setattr(demo, "TIMING", 0.0)
    result = crelle("demo", "--out", str(tmp_path), "--only", "square")
    assert result.exit_code == 0
    assert 'PyTorch is not installed, its problems are skipped: pip install "crelle[torch]"' in result.stdout
    assert 'JAX is not installed, its problems are skipped: pip install "crelle[jax]"' in result.stdout


def test_no_figures_without_matplotlib(monkeypatch, tmp_path, crelle):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(demo, "TIMING", 0.0)
    result = crelle("demo", "--out", str(tmp_path), "--only", "square")
    assert result.exit_code == 0
    assert 'matplotlib is not installed, so there are no figures: pip install "crelle[plot]".' in result.stdout
    assert list(tmp_path.glob("*.png")) == []


def test_error_compares_trees():
    error = demo._error({"a": np.array([1.0, 2.0])}, {"a": np.array([1.0, 4.0])})
    assert error == 0.5
    with pytest.raises(CrelleValueError, match="not the tree"):
        demo._error({"a": np.ones(2)}, {"b": np.ones(2)})
    with pytest.raises(CrelleValueError, match="shapes"):
        demo._error({"a": np.ones(2)}, {"a": np.ones((2, 1))})


def test_measure_takes_turns():
    calls = []
    times = demo.measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.0)
    assert "".join(calls) == "abababab"  # one warm-up each, then three rounds
    assert set(times) == {"a", "b"}


@pytest.mark.slow
def test_the_whole_tour(tmp_path, crelle):
    result = crelle("demo", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "summary.json").read_text())) == len(ALL)
    assert len(list(tmp_path.glob("*.png"))) == 5
