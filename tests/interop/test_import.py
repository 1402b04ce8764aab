"""`import crelle.interop` loads no solver and no framework, and `import crelle` does not load it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def loaded_after(statement: str, name: str) -> bool:
    program = f"import sys\n{statement}\nprint({name!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


def test_it_is_light():
    names = ["jax", "torch", "scipy", "numba", "cyipopt", "matplotlib"]
    assert not any(loaded_after("import crelle.interop", name) for name in names)


def test_it_is_a_step_of_its_own():
    assert not loaded_after("import crelle", "crelle.interop")
    assert loaded_after("import crelle.interop", "crelle.interop")


def test_names_are_sorted_and_documented():
    import crelle.interop

    assert list(crelle.interop.__all__) == sorted(crelle.interop.__all__)
    assert all(">>>" in getattr(crelle.interop, name).__doc__ for name in crelle.interop.__all__)


def test_the_api_page_lists_every_name():
    import crelle.interop

    listed = re.findall(
        r"^\.\. autofunction:: crelle\.interop\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == list(crelle.interop.__all__)
