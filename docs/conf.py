"""Settings of the documentation. Plain Markdown, the API from docstrings, one theme, no other plugins."""

import re
from typing import Any

import crelle

project = "Crelle"
author = "The Crelle developers"
project_copyright = "2026, The Crelle developers"
version = release = crelle.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings have Google's sections: Args, Returns, Raises
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # they are in the signature; a second list of them would only be longer
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Cost"]
napoleon_use_param = False  # a field for each name cannot hold "*args, **kwargs: as for f"
default_role = "code"
add_module_names = True

html_theme = "furo"
html_title = f"Crelle {release}"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"
# What a page's code printed is set as plain text.
highlight_language = "text"


def keep_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A bar in a docstring is an absolute value, |x|, and not reStructuredText for a substitution."""
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"(``.*?``)|\|", lambda found: found[1] or r"\|", line)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_bars)
