"""What is printed: folded to the terminal, free of markup, strict as JSON."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.cli import show


def test_as_data_and_types():
    tree = {"a": jnp.ones((2, 1)), 1: [torch.zeros(()), (np.array([1 + 2j]),)], "n": None, "s": "x", "b": True}
    assert show.as_data(tree) == {"a": [[1.0], [1.0]], "1": [0.0, [[[1.0, 2.0]]]], "n": None, "s": "x", "b": True}
    assert show.as_types({"a": jnp.ones((2, 1)), "b": [2.5]}) == {"a": "f64[2,1]", "b": ["float"]}


def test_json_is_strict_and_short():
    data = {"x": np.inf, "y": [float("nan"), -np.inf], "plan": [{"a": 1}], "none": None, "e": {}, "l": []}
    text = show.as_json(data)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "x": "Infinity", "y": ["NaN", "-Infinity"], "plan": [{"a": 1}], "none": None, "e": {}, "l": [],
    }  # fmt: skip
    assert '"y": ["NaN", "-Infinity"]' in text


def test_plan_data_is_what_save_writes(tmp_path):
    plan = crelle.jacobian(lambda x: x**2).plan(np.ones(3))
    plan.save(tmp_path / "plan.json")
    assert show.plan_data(plan) == json.loads((tmp_path / "plan.json").read_text())


def test_brackets_are_not_markup(capsys):
    show.text("f64[3,4] [bold]x[/bold] crelle[cli] :smile:")
    show.lines(["Jacobian of [red]f", "  chosen    f64[3]"])
    show.tree({"w": np.ones(2)}, "[green]")
    assert capsys.readouterr().out == (
        "f64[3,4] [bold]x[/bold] crelle[cli] :smile:\n"
        "Jacobian of [red]f\n  chosen    f64[3]\n[green] w f64[2]\n  [1. 1.]\n"
    )


LONG = (
    "  rejected  reverse   1,000 VJPs     5.7 ms   9.06 MB   "
    "a reason that is rather long, as reasons sometimes are, so it wraps"
)


def test_long_lines_stay_whole_in_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    show.lines(["title", LONG])
    assert capsys.readouterr().out == f"title\n{LONG}\n"


def test_long_lines_are_folded_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show.lines(["title", LONG])
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "  rejected  reverse  1,000 VJPs  5.7 ms  9.06 MB  a reason that is rather long,",
        "              as reasons sometimes are, so it wraps",
    ]


def test_arrays_fit_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    show.tree(np.random.default_rng(0).standard_normal((3, 20)), "jacobian")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "jacobian f64[3,20]"
    assert max(map(len, out)) <= 60


def test_large_arrays_are_shortened(capsys):
    show.tree(np.ones((200, 200)), "jacobian")
    out = capsys.readouterr().out
    assert "..." in out and len(out) < 1000
