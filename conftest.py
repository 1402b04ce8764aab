"""Settings that every test shares, and what makes the code blocks of the Markdown pages tests.

Three kinds of tests are collected: functions under `tests/`, the examples in the docstrings of `src/`, and the code
blocks of README.md, CONTRIBUTING.md and `docs/`. Functions run in float64; examples and pages run with what their
reader would have, the frameworks' own defaults.
"""

from __future__ import annotations

import os

# Before NumPy, JAX or PyTorch is imported: one thread, so that tests in two processes do not fight for the cores and
# sums come out in the same order everywhere; no window, whatever the machine has.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

from tests.pages import markdown_pages

ROOT = Path(__file__).parent

# Sphinx's settings are not a module to take examples from.
collect_ignore = ["docs/conf.py", "docs/_build"]

# Set here and not by an environment variable, so that programs started by a test get what a user's shell would give.
jax.config.update("jax_enable_x64", True)
torch.set_num_threads(1)


@contextmanager
def reader_defaults() -> Iterator[None]:
    """What the reader of an example has: the frameworks' default precisions. Undone at the end, whatever was set."""
    jax.config.update("jax_enable_x64", False)
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        jax.config.update("jax_enable_x64", True)


pytest_collect_file = markdown_pages(
    ["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/**/*.md"], root=ROOT, around=reader_defaults
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: begun last, one of them would keep one process busy when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    if isinstance(item, pytest.DoctestItem):
        # Docstrings show short arrays and no rounding errors near zero.
        with reader_defaults(), np.printoptions(precision=4, suppress=True):
            return (yield)
    return (yield)
