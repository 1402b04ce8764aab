"""The examples run, print what they say, and their numbers are the known ones."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py"))


def load(name):
    """An example as a module; it is a script, not a package."""
    path = EXAMPLES / name
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def defaults():
    """Printing is set by some of them, for their readers."""
    numpy_options = np.get_printoptions()
    yield
    np.set_printoptions(**numpy_options)
    torch.set_printoptions(profile="default")
    plt.close("all")


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_and_prints(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    load(name).main()
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 5
    assert not re.search(r"\bnan\b", printed)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_teaches_and_uses_the_public_names_alone(name):
    text = (EXAMPLES / name).read_text()
    assert len(load(name).__doc__) > 400
    assert f"Run it:  python examples/{name}" in text
    assert not re.search(r"crelle\._|from crelle", text)


def test_the_index_lists_every_example():
    listed = re.findall(r"\]\(([\w/-]+\.py)\)", (EXAMPLES / "README.md").read_text())
    assert sorted(listed) == SCRIPTS


def test_plane_map():
    example = load("plane_map.py")
    point = np.array([1.5, 0.5])
    J = example.crelle.jacobian(example.square)(point)
    np.testing.assert_allclose(J, [[3, -1], [1, 3]], atol=1e-9)
    np.testing.assert_array_equal(example.by_hand(point), [[3, -1], [1, 3]])
    determinant, singular_values = example.what_it_says(J)
    assert determinant == pytest.approx(10, rel=1e-9)
    np.testing.assert_allclose(singular_values, [np.sqrt(10)] * 2, rtol=1e-9)
    assert example.crelle.check(example.square, example.by_hand, point).ok
    assert not example.crelle.check(example.square, example.by_hand_with_a_mistake, point).ok


def test_backprop_chain():
    example = load("backprop_chain.py")
    params, x, target = example.problem()
    mine, theirs = example.by_chain(params, x, target), example.by_autograd(params, x, target)
    assert set(mine) == set(theirs) == {"W1", "b1", "W2", "b2", "x"}
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-14, atol=0)
    # by hand: z = (-1, 5, -2), so only the second unit is on; y = (10, 4), so d loss/dy = (10 - 8, 4 - 5)
    assert mine["b2"].tolist() == [2, -1]
    assert mine["W2"].tolist() == [[0, 10, 0], [0, -5, 0]]
    assert mine["b1"].tolist() == [0, 3, 0]
    assert mine["W1"].tolist() == [[0, 0], [3, 6], [0, 0]]
    assert mine["x"].tolist() == [6, 3]


@pytest.mark.parametrize("values", [[0.0, 1.0, 2.0, -1.0], [5.0, 5.0, 5.0], [300.0, 0.0]])
def test_softmax_jacobian(values):
    example = load("softmax_jacobian.py")
    x = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(example.computed(x), example.formula(x), rtol=1e-13, atol=1e-16)


def test_softmax_of_equal_inputs():
    x = torch.zeros(3, dtype=torch.float64)
    expected = (torch.eye(3, dtype=torch.float64) - 1 / 3) / 3
    torch.testing.assert_close(load("softmax_jacobian.py").computed(x), expected, rtol=1e-14, atol=1e-16)


def test_single_entry():
    example = load("single_entry.py")
    x = 0.1 * jnp.sin(jnp.arange(example.N) / 10)
    whole = np.asarray(jax.jacrev(example.force)(x))
    expected = {
        "one entry, (70, 71)": (whole[70, 71], 1),
        "three entries": (whole[[0, 70, 199], [0, 71, 198]], 3),
        "one row": (whole[70], 1),
        "a slice, 2 × 8": (whole[70:72, 67:75], 2),
        "the last column": (whole[:, -1], 1),
        "all of it": (whole, 3),
    }
    parts = example.parts()
    assert set(parts) == set(expected)
    for name, (value, passes) in expected.items():
        np.testing.assert_allclose(np.asarray(parts[name](x)), value, rtol=1e-12, atol=1e-14)
        assert parts[name].plan(x).passes == passes, name
    # a spring's own stiffness on both sides, with the opposite sign on the diagonal
    s = np.diff(np.asarray(x), prepend=0.0, append=0.0)
    assert whole[70, 71] == pytest.approx(1 + 3 * s[71] ** 2, rel=1e-14)
    assert whole[70, 70] == pytest.approx(-2 - 3 * s[71] ** 2 - 3 * s[70] ** 2, rel=1e-14)


def test_mlp_jacobian():
    example = load("calc-07-jacobian-hessian/mlp_jacobian.py")
    X = example.points()
    J = example.batch_jacobian(X)
    assert J.shape == (4, 3, 2)
    np.testing.assert_allclose(J, example.formula(X), rtol=1e-13)
    # at x = 0 the first unit sees 0, and tanh has slope 1 there
    np.testing.assert_allclose(J[0, 0], example.W[0], rtol=1e-15)
    np.testing.assert_allclose(J[0, 1], example.W[1] / np.cosh(0.5) ** 2, rtol=1e-14)


def test_mlp_hessian_spectrum(tmp_path, capsys):
    example = load("calc-07-jacobian-hessian/mlp_hessian_spectrum.py")
    params, x = example.point()
    H = np.asarray(example.hessian())
    assert H.shape == (11, 11)
    blocks = jax.hessian(example.network, argnums=(0, 1))(params, x)
    names = ["W1", "W2", "b1", "b2", None]
    inner = lambda tree, name: tree[1] if name is None else tree[0][name]
    sizes = [4, 2, 2, 1, 2]
    expected = np.block(
        [[np.reshape(inner(inner(blocks, r), c), (m, n)) for c, n in zip(names, sizes, strict=True)]
         for r, m in zip(names, sizes, strict=True)]
    )  # fmt: skip
    np.testing.assert_allclose(H, expected, rtol=1e-12, atol=1e-14)
    # y is linear in W2 and b2
    np.testing.assert_array_equal(H[4:6, 4:6], 0)
    np.testing.assert_array_equal(H[8], 0)
    # d²y/dx² = Σ W2_k tanh''(z_k) w_k w_kᵀ
    W1, W2 = np.asarray(params["W1"]), np.asarray(params["W2"])
    t = np.tanh(W1 @ np.asarray(x) + np.asarray(params["b1"]))
    by_hand = (W1.T * (W2 * -2 * t * (1 - t**2))) @ W1
    np.testing.assert_allclose(H[9:, 9:], by_hand, rtol=1e-12)
    eigenvalues = example.spectrum()
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(expected)[::-1], atol=1e-12)
    assert eigenvalues.sum() == pytest.approx(
        np.trace(by_hand) + np.trace(H[:4, :4]) + np.trace(H[6:8, 6:8]), rel=1e-12
    )
    example.main(["--out", str(tmp_path / "new")])
    assert "4 up, 4 down, 3 flat" in capsys.readouterr().out
    image = plt.imread(tmp_path / "new" / "mlp_hessian_spectrum.png")
    assert image.shape[1] >= 600 and image[..., :3].std() > 0.05
    ax = example.stem(eigenvalues)
    drawn = np.concatenate([line.get_ydata() for line in ax.lines if line.get_marker() == "o"])
    np.testing.assert_array_equal(np.sort(drawn), np.sort(eigenvalues))


def test_products():
    example = load("products.py")
    x, v = jnp.array([0.0, 1.0, 2.0]), jnp.array([1.0, -1.0, 0.5])
    value, product = example.jvp_of_exp(x, v)
    np.testing.assert_allclose(value, [1, np.e, np.e**2], rtol=1e-15)
    np.testing.assert_allclose(product, [1, -np.e, np.e**2 / 2], rtol=1e-15)
    value, product = example.vjp_of_sin(x, v)
    np.testing.assert_allclose(value, np.sin([0, 1, 2]), rtol=1e-15)
    np.testing.assert_allclose(product, [1, -np.cos(1), np.cos(2) / 2], rtol=1e-15)


def test_hessian_product():
    H, with_matrix, without = load("hessian_product.py").both_ways(jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0]))
    np.testing.assert_array_equal(H, [[4, 2], [2, 12]])
    np.testing.assert_array_equal(with_matrix, [2, -10])
    np.testing.assert_array_equal(without, [2, -10])


def test_four_ways():
    found = load("four_ways.py").all_ways(jnp.array([1.0, 2.0, 0.5]))
    assert len(found) == 5
    for J in found.values():
        np.testing.assert_allclose(J, [[4, 1, 0], [0, 0, np.cos(0.5)]], rtol=1e-15)


def test_implicit_steps():
    example = load("implicit_steps.py")
    jac = example.matrix()
    y, before = np.linspace(-1, 1, example.POINTS), np.zeros(example.POINTS)
    dense = torch.func.jacfwd(lambda y: example.residual(y, torch.zeros_like(y), 0.02, 0.01))(torch.from_numpy(y))
    np.testing.assert_allclose(jac(y, before, 0.02, 0.01).toarray(), dense, rtol=1e-12, atol=1e-12)
    few = torch.tensor(0.02, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: example.run(k, jac, 3), few, eps=1e-6, rtol=1e-5)
    errors = [np.abs(example.run(few, jac, n).detach().numpy() - example.reference(0.02)).max() for n in (50, 100)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert example.fitted(example.mean_at_the_end(0.02, jac)[0], jac) == pytest.approx(0.02, rel=1e-8)
