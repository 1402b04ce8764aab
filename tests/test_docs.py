"""The documentation is complete: every public name is on the API page, every page is run and is in the table of contents."""

from __future__ import annotations

import re
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
