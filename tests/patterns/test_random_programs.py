"""Random programs in both frameworks: no entry of any dense derivative lies outside of the pattern.

``CRELLE_PROGRAMS`` sets how many are made for PyTorch; a fifth as many are made for JAX, which takes longer.
"""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import crelle
from tests.backends.jax.test_property import BINARY, SEED, SHAPE, UNARY, scalar
from tests.backends.torch.test_property import STEPS

PROGRAMS = int(os.environ.get("CRELLE_PROGRAMS", "1700"))
COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
KINDS = {0: "constant", 1: "passive", 2: "varying"}

#: More of what makes patterns hard: indices that depend on values, clamped starts, loops, constants with zeros.
HARD = {
    "gather by value": lambda x: x.ravel()[jnp.argsort(x.ravel())] if x.size else x,
    "gather by bounded value": lambda x: x.ravel()[jnp.argmax(x.ravel()[:2])] * x if x.size else x,
    "computed constant index": lambda x: x.ravel()[(jnp.arange(x.size) * 5 + 2) % x.size] if x.size else x,
    "clamped start": lambda x: jax.lax.dynamic_slice(x.ravel(), (x.size + 3,), (max(1, x.size // 2),)) if x.size else x,
    "negative start": lambda x: jax.lax.dynamic_slice(x.ravel(), (jnp.int32(-2),), (1,)) if x.size else x,
    "start by value": lambda x: jax.lax.dynamic_slice(x.ravel(), (jnp.int32(x.ravel()[0] * 3),), (1,)) if x.size else x,
    "update by value": lambda x: (
        jax.lax.dynamic_update_slice(x.ravel(), x.ravel()[:1] ** 2, (jnp.int32(x.ravel()[0] * 3),)) if x.size else x
    ),
    "scatter by value": lambda x: (
        jnp.zeros(3).at[jnp.clip((x.ravel() * 2).astype(int), 0, 2)].add(x.ravel()) if x.size else x
    ),
    "banded constant": lambda x: (jnp.eye(x.size) + jnp.eye(x.size, k=1)) @ x.ravel(),
    "mask": lambda x: jnp.where(jnp.arange(x.size) % 2 == 0, x.ravel() ** 2, 0.0),
    "fori by index": lambda x: (
        jax.lax.fori_loop(0, min(x.size, 3), lambda i, s: s + x.ravel()[i] ** 3, jnp.zeros(())) if x.size else x
    ),
    "while": lambda x: jax.lax.while_loop(
        lambda s: s[0] < 2, lambda s: (s[0] + 1, jnp.roll(s[1], 1) * 0.5 + s[1]), (0, x.ravel())
    )[1],
    "reverse scan": lambda x: jax.lax.scan(lambda c, v: (v, c * v), jnp.ones(()), x.ravel(), reverse=True)[1],
    "segment sum": lambda x: jax.ops.segment_sum(x.ravel(), jnp.arange(x.size) // 2, 4),
    "solve": lambda x: (
        jnp.linalg.solve(3 * jnp.eye(x.size) + jnp.diag(jnp.tanh(x.ravel())), x.ravel()) if 0 < x.size < 7 else x
    ),
    "fft": lambda x: jnp.fft.rfft(x.ravel()).imag if x.size else x,
    "switch": lambda x: jax.lax.switch(1, [jnp.flip, lambda v: v * 2, jnp.sin], x.ravel()),
    "convolve": lambda x: jnp.convolve(x.ravel(), jnp.array([1.0, 0.0, 2.0]), mode="same") if x.size else x,
    "window": lambda x: (
        jax.lax.reduce_window(x.ravel(), -jnp.inf, jax.lax.max, (2,), (1,), "SAME") if x.size > 1 else x
    ),
}
STEPS_JAX = {**UNARY, **HARD}
STEP = st.one_of(
    st.tuples(st.sampled_from(sorted(UNARY)), st.integers(0, 7), st.just(0)),
    st.tuples(st.sampled_from(sorted(HARD)), st.integers(0, 7), st.just(0)),
    st.tuples(st.sampled_from(sorted(BINARY)), st.integers(0, 7), st.integers(0, 7)),
)


@st.composite
def problems(draw):
    """(function of a tree, tree)."""
    shapes = draw(st.lists(SHAPE, min_size=1, max_size=3))
    steps = draw(st.lists(STEP, min_size=1, max_size=6))
    rng = np.random.default_rng(draw(SEED))
    tree = {f"k{i}": jnp.asarray(rng.uniform(-1.5, 1.5, shape)) for i, shape in enumerate(shapes)}

    def f(p):
        values = jax.tree.leaves(p)
        for name, i, j in steps:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            values.append(STEPS_JAX[name](a) if name in STEPS_JAX else BINARY[name](a, b))
        return {"a": values[-1], "b": [values[0], values[-1].sum()]}

    return f, tree


def flattened(f, tree):
    """f as a function of one flat vector to one flat vector, and the vector."""
    leaves, treedef = jax.tree.flatten(tree)
    sizes = np.cumsum([0, *(leaf.size for leaf in leaves)])

    def flat(v):
        parts = [v[a:b].reshape(leaf.shape) for a, b, leaf in zip(sizes[:-1], sizes[1:], leaves, strict=True)]
        outputs = jax.tree.leaves(f(jax.tree.unflatten(treedef, parts)))
        return jnp.concatenate([jnp.zeros(0), *(jnp.ravel(o) for o in outputs)])

    return flat, np.concatenate([np.zeros(0), *(np.ravel(leaf) for leaf in leaves)])


@settings(max_examples=PROGRAMS // 5, **COMMON)
@given(problems(), st.integers(0, 2**31 - 1))
def test_jax_jacobians(problem, seed):
    f, tree = problem
    flat, at = flattened(f, tree)
    pattern = crelle.jacobian(f).pattern(tree).to_dense()
    rng = np.random.default_rng(seed)
    points = np.stack([at, rng.uniform(-1.5, 1.5, at.shape)])
    dense = np.asarray(jax.vmap(jax.jacfwd(flat))(jnp.asarray(points))) if at.size else np.zeros((2, *pattern.shape))
    assert dense.shape[1:] == pattern.shape
    missed = (dense != 0).any(0) & ~pattern
    assert not missed.any(), np.argwhere(missed)[:5]
    local = crelle.jacobian(f).pattern(tree, local=True).to_dense()
    assert not (local & ~pattern).any()
    assert not ((dense[0] != 0) & ~local).any()


@settings(max_examples=PROGRAMS // 30, **COMMON)
@given(problems())
def test_jax_hessians(problem):
    f, tree = problem
    value = scalar(f)
    flat, at = flattened(lambda p: value(p), tree)
    try:
        dense = np.asarray(jax.jacfwd(jax.jacrev(lambda v: flat(v)[0]))(jnp.asarray(at)))
    except ValueError as error:  # a loop without a reverse rule
        assert "Reverse-mode" in str(error)
        return
    pattern = crelle.hessian(value).pattern(tree).to_dense()
    assert not ((dense != 0) & ~pattern).any()


@settings(max_examples=PROGRAMS // 16, **COMMON)
@given(problems(), st.integers(0, 2**31 - 1))
def test_jax_entries_that_are_called_constant_are(problem, seed):
    from crelle.tangent.sparsity import detect

    f, tree = problem
    flat, at = flattened(f, tree)
    found = detect(crelle.jacobian(f).program(tree))
    if not at.size or not (found.kinds == 0).any():
        return
    points = np.stack([at, np.random.default_rng(seed).uniform(-1.5, 1.5, at.shape)])
    a, b = np.asarray(jax.vmap(jax.jacfwd(flat))(jnp.asarray(points)))
    rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
    same = (rows[found.kinds == 0], found.indices[found.kinds == 0])
    np.testing.assert_allclose(a[same], b[same], rtol=1e-9, atol=1e-12)


#: The same for PyTorch, on arrays [3, 3].
HARD_TORCH = {
    "sort": lambda x, w: torch.sort(x, 1)[0],
    "gather by value": lambda x, w: x.gather(0, x.argsort(0)),
    "index by value": lambda x, w: x.index_select(1, x.sum(0).argsort()),
    "computed constant index": lambda x, w: x.reshape(-1)[(torch.arange(9) * 5 + 2) % 9].reshape(3, 3),
    "mask": lambda x, w: torch.where(torch.eye(3) > 0, x**2, 0.0),
    "banded": lambda x, w: (torch.eye(3) + torch.diag(torch.ones(2), 1)) @ x,
    "scatter": lambda x, w: torch.zeros(3, 3).scatter(1, torch.tensor([[0, 2, 1], [2, 1, 0], [1, 0, 2]]), x),
    "scatter by value": lambda x, w: torch.zeros(3, 3).scatter_add(1, x.argsort(1), x),
    "put": lambda x, w: x.index_put((torch.tensor([0, 2]),), x[:2] ** 2),
    "tril": lambda x, w: torch.tril(x) * w,
    "roll": lambda x, w: torch.roll(x, 1, 1) * x,
    "layer norm": lambda x, w: torch.nn.functional.layer_norm(x, (3,)),
    "pool": lambda x, w: torch.nn.functional.max_pool2d(x[None, None], 2, 1, 1)[0, 0, :3, :3],
    "average": lambda x, w: torch.nn.functional.avg_pool2d(x[None, None], 3, 1, 1)[0, 0],
    "convolve": lambda x, w: torch.nn.functional.conv2d(x[None, None], w[None, None], padding=1)[0, 0],
    "filtered": lambda x, w: torch.nn.functional.conv2d(w[None, None], x[None, None], padding=1)[0, 0],
    "solve": lambda x, w: torch.linalg.solve(torch.tanh(x) + 5 * torch.eye(3), w),
    "fft": lambda x, w: torch.fft.fft(x).real,
    "detach": lambda x, w: x * x.detach(),
    "cumprod": lambda x, w: torch.cumprod(x, 0),
    "norm": lambda x, w: x / (1 + torch.linalg.norm(x, dim=1, keepdim=True)),
    "gelu": lambda x, w: torch.nn.functional.gelu(x),
    "strided": lambda x, w: x.t().reshape(-1)[::2][:3].repeat(3).reshape(3, 3) + x,
    "slices": lambda x, w: torch.nn.functional.pad(x[1:, :2], (1, 0, 0, 1)),
    "upsample": lambda x, w: torch.nn.functional.interpolate(
        x[None, None, :2, :2], size=(3, 3), mode="bilinear", align_corners=False
    )[0, 0],
}
ALL_TORCH = {**STEPS, **{f"hard {k}": v for k, v in HARD_TORCH.items()}}


@pytest.fixture
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("part", range(2))
@settings(max_examples=PROGRAMS // 2, **COMMON)
@given(st.data())
def test_torch_jacobians(part, data):
    names = data.draw(st.lists(st.sampled_from(sorted(ALL_TORCH)), min_size=1, max_size=4))
    seed = data.draw(st.integers(0, 10_000)) + 20_000 * part
    torch.manual_seed(seed)
    w = torch.randn(3, 3)

    def f(x):
        for name in names:
            x = ALL_TORCH[name](x, w)
        return x

    pattern = crelle.jacobian(f).pattern(torch.rand(3, 3)).to_dense()
    for k in range(2):
        x = torch.randn(3, 3)
        dense = torch.autograd.functional.jacobian(f, x).reshape(pattern.shape).numpy()
        missed = (dense != 0) & ~pattern
        assert not missed.any(), (names, np.argwhere(missed)[:5])
        if k == 0:
            local = crelle.jacobian(f).pattern(x, local=True).to_dense()
            assert not (local & ~pattern).any(), names
            assert not ((dense != 0) & ~local).any(), names
