"""A folder with functions in three frameworks, and the command line to point at them."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crelle.cli.app import app

FILES = {
    "maps.py": """
        import jax.numpy as jnp

        def f(x):
            return jnp.array([x[0] ** 2 - x[1] ** 2, 2 * x[0] * x[1]])

        def jac(x):
            return jnp.array([[2 * x[0], -2 * x[1]], [2 * x[1], 2 * x[0]]])

        def wrong(x):
            return jnp.array([[2 * x[0], 2 * x[1]], [2 * x[1], 2 * x[0]]])

        def loss(p, n=2):
            return jnp.sum(p["w"] ** n) * p["b"]

        def two(x, y):
            return x * jnp.sum(y)

        def chatty(x):
            print("thinking [3,4]")
            return x * 2

        def picky(x):
            return inner(x)

        def inner(x):
            raise RuntimeError("no [3,4] today")

        def misshapen(x):
            return jnp.dot(x, jnp.ones(7))

        def root(x):
            return jnp.sqrt(x)
    """,
    "nets.py": """
        import torch

        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

        class Net(torch.nn.Module):
            pass

        def f(x):
            return torch.sin(x) * x.sum()
    """,
    "plain.py": """
        import numpy as np

        def f(x):
            return np.array([x[0] ** 2 - x[1] ** 2, 2 * x[0] * x[1]])

        def energy(x):
            return x[0] ** 2 * x[1] + x[1] ** 3

        limit = 3
    """,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, as the current one; what was imported from it is forgotten afterwards."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


def runner() -> CliRunner:
    """A runner that keeps stdout and stderr apart; with click before 8.2 that had to be asked for."""
    apart = "mix_stderr" in inspect.signature(CliRunner.__init__).parameters
    return CliRunner(mix_stderr=False) if apart else CliRunner()  # type: ignore[call-arg]


@pytest.fixture
def crelle() -> Callable[..., object]:
    """Run ``crelle`` with these words; the result has ``exit_code``, ``stdout`` and ``stderr``."""

    def run(*words: str, columns: int | None = None) -> object:
        env = {"COLUMNS": None if columns is None else str(columns)}
        return runner().invoke(app, list(words), env=env)

    return run
