"""What the test functions share. Settings for all kinds of tests are in the conftest.py of the root folder."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run, whatever ran before."""
    return np.random.default_rng(1841)
