"""``crelle info``: what there is to work with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.table import Table
from rich.text import Text

from crelle._version import __version__
from crelle.cli import frameworks, show
from crelle.cli.progress import waiting

#: Distributions whose versions matter beside the frameworks.
PACKAGES = ("numpy", "scipy", "numba", "jaxlib", "matplotlib", "typer", "rich", "jinja2")
#: Variables that change how many threads a framework takes, or which device.
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64",
    "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """Everything that ``crelle info`` knows, as data."""
    return {
        "crelle": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "frameworks": frameworks.installed(),
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def info(as_json: bool) -> None:
    """Print the facts."""
    with waiting("importing the frameworks"):
        found = facts()
    if as_json:
        show.machine(found)
        return
    head = f"crelle {found['crelle']} · Python {found['python']} · {found['system']} · {found['cores']} cores"
    show.text(head, style="bold")
    table = Table("framework", "version", "devices", "settings", box=None, pad_edge=False, header_style="dim")
    for one in found["frameworks"]:
        if one["installed"]:
            settings = [f"{key} {one[key]}" for key in ("threads", "x64") if key in one]
            table.add_row(one["name"], one["version"], Text(", ".join(one["devices"])), ", ".join(settings))
        else:
            table.add_row(one["name"], "not usable", Text(one["remedy"]), "")
    show.console().print(table)
    show.text(" · ".join(f"{name} {number or 'not installed'}" for name, number in found["packages"].items()))
    if found["environment"]:
        show.text(" ".join(f"{name}={value}" for name, value in found["environment"].items()), style="dim")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
