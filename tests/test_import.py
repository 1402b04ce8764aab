"""`import crelle` is light: it loads no framework, no compiler and no plotting library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
HEAVY = ("jax", "jaxlib", "torch", "numba", "llvmlite", "matplotlib", "scipy", "typer", "rich", "jinja2")


def modules_after(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after `statement`."""
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy():
    loaded = modules_after("import crelle")
    assert "crelle" in loaded
    assert {name for name in loaded if name.partition(".")[0] in HEAVY} == set()


def test_import_loads_numpy_and_few_others():
    """Time cannot be asserted on a busy machine; the number of modules beyond NumPy's own can, and time follows it."""
    extra = modules_after("import crelle") - modules_after("import numpy")
    assert len({name for name in extra if not name.startswith("crelle")}) <= 60


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_touching_the_public_names_loads_no_framework(name: str):
    """A name that is looked up, as completion and `help` do, imports no framework either."""
    loaded = modules_after("import crelle\nfor name in crelle.__all__: repr(getattr(crelle, name))")
    assert name not in loaded


def test_every_public_name_exists_and_is_sorted():
    import crelle

    assert all(hasattr(crelle, name) for name in crelle.__all__)
    assert list(crelle.__all__) == sorted(crelle.__all__)


def test_version_is_the_one_installed():
    """One place states the version; the installed metadata is made from it."""
    from importlib.metadata import PackageNotFoundError, version

    import crelle

    try:
        installed = version("crelle")
    except PackageNotFoundError:
        pytest.skip("crelle is not installed here; `make test` installs it")
    assert installed == crelle.__version__
