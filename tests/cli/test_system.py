"""``crelle info``."""

from __future__ import annotations

import json

import jax
import numpy as np
import torch

import crelle as api


def test_for_people(crelle):
    text = crelle("info").stdout
    assert text.startswith(f"crelle {api.__version__} · Python ")
    for line in (jax.__version__, torch.__version__, np.__version__, "cpu:0", "threads 1", "scipy", "typer"):
        assert line in text


def test_for_machines(crelle):
    found = json.loads(crelle("info", "--json").stdout)
    assert found["crelle"] == api.__version__
    assert [one["name"] for one in found["frameworks"]] == ["jax", "torch", "numpy"]
    by_name = {one["name"]: one for one in found["frameworks"]}
    assert by_name["jax"]["version"] == jax.__version__ and by_name["jax"]["x64"] is True
    assert by_name["torch"]["threads"] == torch.get_num_threads()
    assert len(by_name["jax"]["devices"]) == len(jax.devices())
    assert found["packages"]["numpy"] == np.__version__
    assert found["environment"]["OMP_NUM_THREADS"]


def test_what_is_not_usable_says_why(crelle, monkeypatch):
    from crelle.cli import frameworks

    monkeypatch.setattr(frameworks.importlib.util, "find_spec", lambda name: None if name == "jax" else object())
    text = crelle("info").stdout
    assert 'pip install "crelle[jax]"' in text
    assert jax.__version__ not in text.split("\n")[2]
