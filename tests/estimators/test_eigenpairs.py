"""Eigenpairs against dense matrices: residuals that hold, multiplicities, limits, interrupts, pictures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.estimators import Eigenpairs

FRAMEWORKS = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.tensor}
WANTED = {
    "LM": lambda w, k: w[np.argsort(-abs(w))[:k]],
    "LA": lambda w, k: np.sort(w)[::-1][:k],
    "SA": lambda w, k: np.sort(w)[:k],
    "BE": lambda w, k: np.concatenate([np.sort(w)[::-1][: k - k // 2], np.sort(w)[: k // 2]]),
}


def with_spectrum(values: np.ndarray, seed: int = 0) -> np.ndarray:
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    matrix = (q * values) @ q.T
    return (matrix + matrix.T) / 2


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> Any:
    return FRAMEWORKS[request.param]


def check(found: Eigenpairs, matrix: np.ndarray, expected: np.ndarray, accuracy: float) -> None:
    """Values, unit vectors, and residuals that are those of the vectors."""
    vectors = np.asarray(found.matrix)
    scale = np.abs(np.linalg.eigvalsh(matrix)).max()
    np.testing.assert_allclose(found.values, expected, atol=accuracy * scale)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(found)), atol=1e-10)
    truth = np.linalg.norm(matrix @ vectors - vectors * found.values, axis=0)
    assert (truth <= 1.01 * found.residuals + 1e-14 * scale).all()
    late = found.residuals > 1e-10 * scale
    np.testing.assert_allclose(truth[late], found.residuals[late], rtol=1e-2)


@pytest.mark.parametrize("which", WANTED)
def test_small_matrices_are_exact(framework: Any, which: str) -> None:
    matrix = with_spectrum(np.random.default_rng(1).standard_normal(40))
    found = crelle.operator(framework(matrix), symmetric=True).eigsh(5, which)
    check(found, matrix, WANTED[which](np.linalg.eigvalsh(matrix), 5), 1e-14)
    assert (found.method, found.products, found.converged.all()) == ("dense", 40, True)


@pytest.mark.parametrize("which", WANTED)
def test_large_matrices_by_lanczos(framework: Any, which: str) -> None:
    values = np.random.default_rng(2).standard_normal(300) ** 3
    matrix = with_spectrum(values)
    found = crelle.operator(framework(matrix), symmetric=True).eigsh(5, which)
    check(found, matrix, WANTED[which](values, 5), 1e-5)
    assert found.method == "Lanczos" and found.converged.all() and found.products < 150
    assert (found.residuals <= 1e-3 * np.abs(found.values)).all()
    assert found.notes[-1] == "a new random vector found no other, in 8 steps"


def test_accuracy_is_what_was_asked_for() -> None:
    values = np.random.default_rng(3).standard_normal(300) ** 3
    operator = crelle.operator(with_spectrum(values), symmetric=True)
    products = []
    for rtol in (1e-1, 1e-4, 1e-10):
        found = operator.eigsh(4, rtol=rtol)
        assert (found.residuals <= rtol * np.abs(found.values)).all()
        products.append(found.products)
    assert products[0] < products[1] < products[2]


def test_restarts_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = with_spectrum(np.linspace(0, 1, 400))
    monkeypatch.setattr("crelle.estimators._search.ROWS", 40)
    monkeypatch.setattr("crelle.estimators._search.ROWS_EACH", 1)
    found = crelle.operator(matrix, symmetric=True).eigsh(5, rtol=1e-8)
    check(found, matrix, np.linspace(0, 1, 400)[::-1][:5], 1e-12)
    assert found.notes[0].startswith("restarted") and found.notes[0].endswith("at 40 vectors")


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = crelle.operator(np.eye(400), symmetric=True)
    monkeypatch.setattr(type(operator.backend), "available_memory", lambda self, device: 20_000)
    with pytest.raises(crelle.CrelleMemoryError, match="20 vectors of 3.2 kB do not fit in half of the free memory"):
        operator.eigsh(6)


@pytest.mark.parametrize(
    "values",
    [
        np.ones(300),
        np.zeros(300),
        np.r_[np.full(3, 5.0), np.full(2, -4.0), 3.0, np.ones(294)],
        np.r_[np.full(6, 2.0), np.linspace(-1, 1, 294)],
        np.r_[7.0, np.zeros(299)],
    ],
    ids=["identity", "zero", "few values", "multiple", "rank one"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_multiple_eigenvalues_are_all_found(framework: Any, values: np.ndarray, seed: int) -> None:
    matrix = with_spectrum(values, 4)
    found = crelle.operator(framework(matrix), symmetric=True).eigsh(6, seed=seed, rtol=1e-8)
    check(found, matrix, WANTED["LM"](values, 6), 1e-12)
    assert found.converged.all()


@pytest.mark.parametrize("seed", range(20))
def test_close_eigenvalues_are_not_missed(seed: int) -> None:
    values = np.r_[np.repeat([3.0, 2.99, 2.0], 2) - 1e-4 * np.arange(6), np.random.default_rng(5).uniform(-1, 1, 294)]
    found = crelle.operator(with_spectrum(values), symmetric=True).eigsh(6, rtol=1e-6, seed=seed)
    np.testing.assert_allclose(found.values, np.sort(values)[::-1][:6], rtol=1e-9)


def test_the_same_seed_gives_the_same() -> None:
    operator = crelle.operator(with_spectrum(np.linspace(-1, 2, 300)), symmetric=True)
    one, same, other = (operator.eigsh(3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.matrix, same.matrix)
    assert (one.matrix != other.matrix).any()
    drawn, again = (operator.eigsh(3, generator=np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(drawn.values, again.values)


def test_keys_and_generators_of_the_frameworks() -> None:
    matrix = with_spectrum(np.random.default_rng(8).standard_normal(300) ** 3)
    by_key = crelle.operator(jnp.asarray(matrix), symmetric=True).eigsh(3, key=jax.random.key(7))
    again = crelle.operator(jnp.asarray(matrix), symmetric=True).eigsh(3, key=jax.random.key(7))
    np.testing.assert_array_equal(by_key.values, again.values)
    drawn = crelle.operator(torch.tensor(matrix), symmetric=True).eigsh(3, generator=torch.Generator().manual_seed(7))
    np.testing.assert_allclose(drawn.values, by_key.values, atol=1e-5)


def test_a_budget_leaves_residuals_that_hold() -> None:
    matrix = with_spectrum(np.linspace(0, 1, 500))
    found = crelle.operator(matrix, symmetric=True).eigsh(4, budget=30, rtol=0.01)
    check(found, matrix, found.values, 0)
    assert found.products == 30 and found.converged.any() and not found.converged.all()
    assert str(found).count("not converged") == (~found.converged).sum()
    assert found.notes == ("not looked for others: the budget is spent",)
    assert (found.residuals[~found.converged] > 0.01 * found.values[~found.converged]).all()


def test_a_budget_without_any_pair_warns() -> None:
    operator = crelle.operator(with_spectrum(np.linspace(0, 1, 500)), symmetric=True)
    with pytest.warns(crelle.CrelleWarning, match=r"eigsh: no pair converged to rtol=0.0003 in 10 products"):
        found = operator.eigsh(4, budget=10)
    assert not found.converged.any()


def test_fewer_products_than_pairs() -> None:
    operator = crelle.operator(with_spectrum(np.linspace(0, 1, 500)), symmetric=True)
    with pytest.warns(crelle.CrelleWarning, match="no pair converged"):
        found = operator.eigsh(6, budget=3)
    assert len(found) == 3 == found.products


def test_single_precision_says_where_it_ends(framework: Any) -> None:
    values = np.random.default_rng(6).standard_normal(300) ** 3
    matrix = with_spectrum(values).astype(np.float32)
    found = crelle.operator(framework(matrix), symmetric=True).eigsh(4, rtol=1e-9)
    exact = np.linalg.eigvalsh(matrix.astype(float))
    np.testing.assert_allclose(found.values, WANTED["LM"](exact, 4), rtol=1e-5)
    assert "rtol=1e-09 is more than the precision gives: residuals end at" in found.notes[-1]
    vectors = np.asarray(found.matrix, float)
    truth = np.linalg.norm(matrix.astype(float) @ vectors - vectors * found.values, axis=0)
    assert (truth <= 2 * found.residuals).all()


def test_an_interrupt_gives_what_is_known() -> None:
    matrix = with_spectrum(np.linspace(0, 1, 400))
    calls = []

    def product(v: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return matrix @ v

    operator = crelle.operator(product, (400, 400), like=np.zeros(1), symmetric=True)
    found = operator.eigsh(4)
    assert found.partial and "interrupted" in str(found) and "interrupted" in repr(found)
    check(found, matrix, found.values, 0)
    assert found.products == 24


def test_an_interrupt_before_anything_is_one() -> None:
    def product(v: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    operator = crelle.operator(product, (400, 400), like=np.zeros(1), symmetric=True)
    with pytest.raises(KeyboardInterrupt):
        operator.eigsh(4)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_smallest_sizes(framework: Any, n: int) -> None:
    operator = crelle.operator(framework(np.diag(np.arange(1.0, n + 1))), symmetric=True)
    found = operator.eigsh(n)
    np.testing.assert_allclose(found.values, np.arange(n, 0.0, -1))
    none = operator.eigsh(0)
    assert (len(none), none.products, tuple(none.matrix.shape)) == (0, 0, (n, 0))
    assert str(none) == "0 eigenvalues, largest in size  (dense, 0 products)"


def test_all_pairs() -> None:
    matrix = with_spectrum(np.random.default_rng(7).standard_normal(260))
    found = crelle.operator(matrix, symmetric=True).eigsh(260, "LA")
    check(found, matrix, np.linalg.eigvalsh(matrix)[::-1], 1e-13)


def test_the_smallest_in_size() -> None:
    values = np.r_[0.01, np.linspace(1, 100, 299)]
    matrix = with_spectrum(values)
    np.testing.assert_allclose(crelle.operator(matrix, psd=True).eigsh(2, "SM", rtol=1e-6).values, [0.01, 1], rtol=1e-7)
    with pytest.raises(crelle.CrelleTypeError, match="nearest to zero lie inside the spectrum"):
        crelle.operator(matrix, symmetric=True).eigsh(2, "SM")
    small = crelle.operator(np.diag([-3.0, 0.5, 4.0]), symmetric=True).eigsh(1, "SM")
    assert small.values == pytest.approx([0.5])


def test_trees_and_their_mass() -> None:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return (torch.tanh(x @ p["w"] + p["b"]) @ p["v"]).pow(2).sum()

    p = {"w": torch.ones(5, 4), "b": torch.zeros(4), "v": torch.full((4,), 0.5)}
    p = {name: value.double() + 0.1 * torch.arange(value.numel()).reshape(value.shape) for name, value in p.items()}
    operator = crelle.hessian(loss).at(p)
    found = operator.eigsh(3)
    for value, vector in zip(found.values, found.vectors, strict=True):
        product = operator @ vector
        assert {name: leaf.shape for name, leaf in vector.items()} == {name: leaf.shape for name, leaf in p.items()}
        for name in p:
            torch.testing.assert_close(product[name], value * vector[name], atol=1e-10, rtol=1e-8)
    mass, names = found.mass_by_leaf()
    assert mass.shape == (3, 3) and all(key in name for key, name in zip("wbv", names, strict=True))
    np.testing.assert_allclose(mass.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(mass[0], [float((found.vectors[0][name] ** 2).sum()) for name in "wbv"], rtol=1e-12)


def test_without_vectors() -> None:
    found = crelle.operator(with_spectrum(np.linspace(0, 9, 300) ** 2), symmetric=True).eigsh(2, vectors=False)
    assert found.matrix is None and found.converged.all()
    with pytest.raises(crelle.CrelleValueError, match="the vectors were not kept"):
        found.mass_by_leaf()


def test_bad_arguments() -> None:
    operator = crelle.operator(np.eye(5), symmetric=True)
    with pytest.raises(crelle.CrelleValueError, match="k=6\n  expected  an integer from 0 to 5, the number there is"):
        operator.eigsh(6)
    for k in (-1, 2.0, True):
        with pytest.raises(crelle.CrelleValueError, match="an integer from 0 to 5"):
            operator.eigsh(k)
    with pytest.raises(crelle.CrelleValueError, match=r'which=\'XX\'\n  expected  "LM" \(largest in size\), "LA"'):
        operator.eigsh(1, "XX")
    with pytest.raises(crelle.CrelleValueError, match="rtol=0"):
        operator.eigsh(1, rtol=0)
    with pytest.raises(crelle.CrelleTypeError, match="needs a symmetric matrix"):
        crelle.operator(np.eye(5)).eigsh(1)
    with pytest.raises(crelle.CrelleShapeError, match="5 × 3"):
        crelle.operator(np.ones((5, 3))).eigsh(1)
    with pytest.raises(crelle.CrelleValueError, match="the matrix is complex"):
        crelle.operator(np.eye(5) + 0j, symmetric=True).eigsh(1)


def test_nan_is_named() -> None:
    matrix = np.eye(4)
    matrix[2, 2] = np.nan
    with pytest.raises(crelle.CrelleValueError, match=r"eigsh: column \d of the matrix holds NaN"):
        crelle.operator(matrix, symmetric=True).eigsh(1)
    matrix = np.eye(300)
    matrix[2, 2] = np.inf
    with pytest.raises(crelle.CrelleValueError, match="eigsh: product 1 with the matrix is NaN or infinite"):
        crelle.operator(matrix, symmetric=True).eigsh(1)


def test_a_hessian_that_is_not_symmetric() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return (x**2).sum()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return g * x.cumsum(0)

    operator = crelle.hessian(Wrong.apply).at(torch.arange(4.0, dtype=torch.float64))
    with pytest.raises(crelle.CrelleCheckError, match="eigsh: the matrix is not symmetric"):
        operator.eigsh(1)


def test_inside_jit() -> None:
    @jax.jit
    def ask(x: jax.Array) -> Any:
        return crelle.hessian(lambda x: (x**4).sum()).at(x).eigsh(1).values

    with pytest.raises(crelle.CrelleTypeError, match=r"eigsh depends on numbers"):
        ask(jnp.ones(300))


def test_the_table() -> None:
    found = crelle.operator(np.diag([4.0, -5.0, 0.25]), symmetric=True).eigsh(3)
    assert str(found) == (
        "3 eigenvalues, largest in size  (dense, 3 products)\n"
        "  #  eigenvalue  residual\n"
        "  1          -5   0.0e+00\n"
        "  2           4   0.0e+00\n"
        "  3        0.25   0.0e+00"
    )
    assert repr(found) == "Eigenpairs(3 largest in size, 3 converged, 3 products)"
    many = crelle.operator(np.diag(np.arange(1.0, 30)), symmetric=True).eigsh(29)
    assert str(many).splitlines()[-1] == "  and 9 more"


def test_pictures() -> None:
    operator = crelle.operator(with_spectrum(np.linspace(0, 1, 500)), symmetric=True)
    found = operator.eigsh(4, budget=30, rtol=0.01)
    ax = found.plot()
    heights = np.concatenate([container.lines[0].get_ydata() for container in ax.containers])
    np.testing.assert_allclose(np.sort(heights), np.sort(found.values))
    assert ax.get_ylabel() == "eigenvalue λ" and len(ax.get_legend().get_texts()) == 2
    assert found.plot(ax=ax, markersize=3) is ax
    mass = found.plot_mass(cmap="Greys")
    np.testing.assert_allclose(mass.images[0].get_array(), found.mass_by_leaf()[0].T)
    wide = crelle.operator(np.diag([1e-3, 1.0]), symmetric=True).eigsh(2).plot()
    assert wide.get_yscale() == "log"


def network(seed: int) -> tuple[Any, np.ndarray]:
    """A trained network's loss Hessian as an operator, and its eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(128, 12, generator=generator, dtype=torch.float64), torch.arange(128) % 5
    sizes = [(16, 12), (16,), (5, 16), (5,)]
    p = [0.4 * torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]

    def loss(p: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(torch.tanh(x @ p[0].T + p[1]) @ p[2].T + p[3], y)

    for _ in range(100):
        gradients = torch.func.grad(loss)(p)
        p = [a - 0.5 * g for a, g in zip(p, gradients, strict=True)]
    operator = crelle.hessian(loss).at(p)
    return operator, np.linalg.eigvalsh(operator.todense().numpy())


@pytest.mark.slow
def test_none_is_missed_over_twenty_seeds() -> None:
    operator, values = network(0)
    assert len(values) == 293
    for seed in range(20):
        found = operator.eigsh(10, seed=seed)
        np.testing.assert_allclose(found.values, WANTED["LM"](values, 10), rtol=1e-5)
        assert found.converged.all() and found.products <= 80
