"""The documentation is complete: every public name is on the API page, and every page with code is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import crelle

DOCS = Path(__file__).parents[1] / "docs"


def test_the_api_page_lists_exactly_what_is_public():
    listed = re.findall(r"^\.\. auto\w+:: crelle\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(crelle.__all__) - {"__version__"})


def test_python_blocks_are_spelled_so_that_they_run():
    """A block marked `py`, or `{code-block} python`, would be shown like the others and not be run."""
    pages = [*DOCS.glob("**/*.md"), *DOCS.parent.glob("*.md")]
    assert len(pages) > 10
    for page in pages:
        languages = set(re.findall(r"^\s*(?:```+|~~~+)[ \t]*(\S[^\n]*)$", page.read_text(), re.MULTILINE))
        assert languages <= {
            "python",
            "output",
            "console",
            "text",
            "toml",
            "json",
            "{toctree}",
            "{eval-rst}",
            "{include} ../CHANGELOG.md",
            "{include} ../CONTRIBUTING.md",
        }, page


def test_every_page_with_code_is_collected():
    root = DOCS.parent
    pages = [*DOCS.glob("**/*.md"), *root.glob("*.md")]
    expected = {str(page.relative_to(root)) for page in pages if "```python" in page.read_text()}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", *sorted(expected)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line} == expected
