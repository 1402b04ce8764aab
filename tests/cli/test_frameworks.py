"""Which framework a target is written in, by the documented rules, and JAX's precision."""

from __future__ import annotations

import os
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from crelle import CrelleValueError
from crelle.cli import frameworks
from crelle.cli.targets import Loader

MIXED = """
    from __future__ import annotations
    import functools
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    from helpers import torch_helper

    W = torch.ones(3)
    A = np.ones(3)

    def in_jax(x): return jnp.sin(x) * np.pi
    def in_torch(x): return torch.sin(x)
    def in_numpy(x): return np.sin(x)
    def indirectly(x): return in_torch(x) + 1
    def further(x): return torch_helper(x)
    def by_constant(x): return x * W
    def by_numpy_constant(x): return x * A
    def locally(x):
        import jax.numpy as inner
        return inner.sin(x)
    def nested(x): return [jnp.sin(v) for v in x]
    def annotated(x: torch.Tensor): return x * 2
    def annotated_by_text(x: "np.ndarray", y: "Unknown" = None): return x * 2
    def neither(x): return x * 2
    def both(x): return jnp.sin(x) + torch.sin(x)
    jitted = jax.jit(lambda x: x * 2)
    partial = functools.partial(in_torch)

    class Callable:
        def __call__(self, x): return jnp.sin(x)
        def method(self, x): return torch.sin(x)
    instance = Callable()

    def close(f):
        def closed(x): return f(x)
        return closed
    closure = close(in_torch)

    def recursive(x): return recursive(x)
"""


@pytest.fixture
def detect(project):
    (project / "helpers.py").write_text("import torch\ndef torch_helper(x):\n    return torch.sin(x)\n")
    (project / "mixed.py").write_text(textwrap.dedent(MIXED))
    loader = Loader()
    return lambda text, *arrays: frameworks.detect(loader.load(text), list(arrays))


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("in_jax", "jax"), ("in_torch", "torch"), ("in_numpy", "numpy"), ("indirectly", "torch"), ("further", "torch"),
        ("by_constant", "torch"), ("by_numpy_constant", "numpy"), ("locally", "jax"), ("nested", "jax"),
        ("annotated", "torch"), ("annotated_by_text", "numpy"), ("jitted", "jax"), ("partial", "torch"),
        ("instance", "jax"), ("instance.method", "torch"), ("closure", "torch"),
    ],
)  # fmt: skip
def test_a_module_with_all_three(detect, name, framework):
    assert detect(f"mixed.py:{name}") == framework


@pytest.mark.parametrize(
    ("name", "where"), [("both", "its code"), ("neither", "its module"), ("recursive", "its module")]
)
def test_never_guess_between_two(detect, name, where):
    with pytest.raises(CrelleValueError) as caught:
        detect(f"mixed.py:{name}")
    assert str(caught.value) == (
        f"mixed.py:{name}: {where} names both JAX and PyTorch\n"
        "  expected  arrays of one framework\n"
        "  try       --framework jax or --framework torch"
    )


def test_tensors_and_modules_decide_first(detect):
    assert detect("mixed.py:neither", torch.ones(2)) == "torch"
    assert detect("nets.py:net") == "torch"


def test_the_module_decides_where_the_function_does_not(detect, project):
    (project / "only.py").write_text("import jax\ndef f(x):\n    return x * 2\n")
    (project / "none.py").write_text("def f(x):\n    return x * 2\n")
    assert detect("only.py:f") == "jax"
    assert detect("none.py:f") == "numpy"


def test_precision_is_undone():
    before, environment = jax.config.jax_enable_x64, os.environ.get("JAX_ENABLE_X64")
    for x64 in (False, True):
        with frameworks.precision(x64):
            assert jnp.asarray(np.ones(2)).dtype == (jnp.float64 if x64 else jnp.float32)
            assert os.environ["JAX_ENABLE_X64"] == str(int(x64))
        assert jax.config.jax_enable_x64 == before
        assert os.environ.get("JAX_ENABLE_X64") == environment
    with frameworks.precision(None):
        assert jax.config.jax_enable_x64 == before


def test_float64_becomes_float32_without_a_warning_where_jax_has_none():
    with frameworks.precision(False):
        assert frameworks.array("jax", np.ones(2), "float64").dtype == jnp.float32


def test_to_numpy():
    for leaf in (jnp.ones(2), torch.ones(2, requires_grad=True), np.ones(2), [1.0, 1.0]):
        np.testing.assert_array_equal(frameworks.to_numpy(leaf), np.ones(2))
    np.testing.assert_array_equal(frameworks.to_numpy(torch.ones(2, dtype=torch.complex128).mul(1j).conj()), [-1j, -1j])
    for leaf in (jnp.ones(2, jnp.bfloat16), torch.ones(2, dtype=torch.bfloat16)):
        assert frameworks.to_numpy(leaf).dtype == np.float32


def test_a_framework_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(frameworks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as caught:
        frameworks.require("torch", "nets.py:f as a torch function")
    assert str(caught.value) == (
        'nets.py:f as a torch function needs torch, which is not installed\n  try  pip install "crelle[torch]"'
    )
    assert [one["remedy"] for one in frameworks.installed()][:2] == [
        'pip install "crelle[jax]"',
        'pip install "crelle[torch]"',
    ]
