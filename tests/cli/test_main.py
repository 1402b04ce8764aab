"""The command as a process: how it starts, what it loads, where it prints, what it says when something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import crelle

SOURCE = Path(__file__).parents[2] / "src"


def process(*words: str, program: str | None = None, **env: str):
    command = [sys.executable, "-W", "error", *(["-c", program] if program else ["-m", "crelle"]), *words]
    clean = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")}
    return subprocess.run(
        command, capture_output=True, text=True, env={**clean, "PYTHONPATH": str(SOURCE), **env}, timeout=300
    )


def without(*modules: str) -> str:
    """A program that is ``crelle`` in a world without some modules."""
    return (
        "import sys\nfrom importlib.machinery import PathFinder\n"
        "class Others(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        return None if name.partition('.')[0] in {modules} else super().find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Others\n"
        "from crelle.cli import main\nmain()"
    )


def test_version():
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"crelle {crelle.__version__}\n", "")


def test_no_command_shows_the_help():
    done = process()
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


def test_the_door_is_light():
    program = (
        "import sys\nfrom crelle.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'jax', 'torch', 'matplotlib', 'numba'}))"
    )
    assert process("--version", program=program).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra(package):
    done = process("--version", program=without(package))
    assert done.returncode == 2
    assert (
        done.stderr == f'the command crelle needs {package}, which is not installed\n  try  pip install "crelle[cli]"\n'
    )


def test_without_the_framework_of_the_target(project):
    done = process("jacobian", "nets.py:f", "f64[3]", program=without("torch"))
    assert done.returncode == 2
    assert done.stderr == 'nets.py:f needs torch, which is not installed\n  try  pip install "crelle[torch]"\n'


def test_numpy_alone_suffices(project):
    done = process("jacobian", "plain.py:f", "[1.5, 0.5]", "--json", program=without("torch", "jax"))
    assert done.returncode == 0, done.stderr
    (row, _) = json.loads(done.stdout)["result"]
    assert row == pytest.approx([3, -1], rel=1e-9)


def test_jax_from_a_cold_start(project):
    """The precision is set before the target is imported, so that its own constants have it."""
    (project / "cold.py").write_text("import jax.numpy as jnp\nW = jnp.ones(2) / 3\ndef f(x):\n    return W * x\n")
    wide = process("jacobian", "cold.py:f", "[1, 2]", "--json")
    assert wide.returncode == 0, wide.stderr
    assert json.loads(wide.stdout)["result"][0][0] == 1 / 3
    assert wide.stderr == ""
    narrow = process("jacobian", "cold.py:f", "[1, 2]", "--json", "--no-x64")
    assert json.loads(narrow.stdout)["type"] == "f32[2,2]"


def test_streams_and_colours(project):
    done = process("plan", "plain.py:f", "[1, 2]", FORCE_COLOR="1")
    assert done.returncode == 0
    assert "\x1b[" in done.stdout
    plain = process("plan", "plain.py:f", "[1, 2]", FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b[3" not in plain.stdout  # no colour; weights of type may stay
    piped = process("plan", "plain.py:f", "[1, 2]")
    assert "\x1b" not in piped.stdout and piped.stderr == ""


def test_a_reader_that_stops_early_is_no_error(project):
    command = f"{sys.executable} -m crelle jacobian plain.py:f '[1, 2]' | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)}
    )
    assert done.stdout.startswith("Jacobian of f: f64[2] -> f64[2]")
    assert "Traceback" not in done.stderr
