"""Spectral densities: numbers against eigenvalues, tables, pictures, and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import crelle
from crelle.estimators import SpectralDensity


def rotated(values, rng):
    q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    matrix = q * values @ q.T
    return (matrix + matrix.T) / 2


@pytest.fixture
def values(rng):
    return np.concatenate([[9.0, 5.0, -3.0], 0.3 * rng.standard_normal(197)])


@pytest.fixture
def density(values, rng) -> SpectralDensity:
    return crelle.operator(rotated(values, rng), symmetric=True).spectral_density()


def test_moments_are_within_their_errors(density, values):
    for power, moment in enumerate(density.moments(), 1):
        assert abs(moment.value - np.mean(values**power)) < 3 * moment.stderr
        assert moment.stderr < 0.2 * np.mean(np.abs(values) ** power)
    assert density.moment(0).value == pytest.approx(1, abs=1e-12)
    assert (density.products, density.probes, density.steps, density.size) == (300, 10, 30, 200)


def test_trace_and_integrals_of_functions(density, values):
    trace, exponential = density.trace(), density.trace(np.exp)
    assert abs(trace.value - values.sum()) < 3 * trace.stderr
    assert abs(exponential.value - np.exp(values).sum()) < 3 * exponential.stderr
    assert density.integrate(np.exp).value == pytest.approx(exponential.value / 200)


def test_outliers_are_eigenvalues_within_their_bounds(density, values):
    found = density.outliers
    assert [o.value for o in found[:3]] == pytest.approx([9, 5, -3])
    for outlier in found:
        assert np.abs(values - outlier.value).min() <= outlier.residual + 1e-12


def test_a_multiple_outlier_is_named_but_not_called_simple(rng):
    A = crelle.operator(rotated(np.array([6.0, 6.0, 9.0, *0.1 * rng.standard_normal(100)]), rng), symmetric=True)
    found = {round(o.value, 6): o.simple for o in A.spectral_density().outliers if o.value > 1}
    assert found == {9.0: True, 6.0: False}


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 0.0), (0.2, np.inf), (-0.1, 0.1), (4.0, 10.0), (20.0, np.inf)])
def test_shares_are_within_their_errors(density, values, low, high):
    share = density.share(low, high)
    truth = np.mean((values >= low) & (values < high))
    assert abs(share.value - truth) <= 3 * share.stderr + 1e-12
    assert share.stderr < 0.35


def test_shares_in_a_gap_of_the_spectrum_are_as_good_as_exact(density):
    assert density.share(4.0, 10.0).value == pytest.approx(2 / 200)
    assert density.share(4.0, 10.0).stderr < 1e-4


@pytest.mark.parametrize("log", [False, True])
def test_the_curve_is_a_density(density, log):
    curve = density.grid(4000, log=log)
    assert np.trapezoid(curve.density, curve.u) == pytest.approx(1, abs=0.02)
    assert (curve.density >= 0).all() and (curve.stderr >= 0).all()
    assert curve.x[0] < -3 and curve.x[-1] > 9
    at = np.argmin(np.abs(curve.x - 9))
    assert curve.density[at - 8 : at + 9].max() > 20 * curve.density[np.argmin(np.abs(curve.x - 7))]


def test_the_curve_follows_a_known_density(rng):
    """Wigner's semicircle."""
    n = 400
    matrix = rng.standard_normal((n, n))
    A = crelle.operator((matrix + matrix.T) / np.sqrt(2 * n), symmetric=True)
    curve = A.spectral_density(20, 40).grid()
    inside = np.abs(curve.x) < 1.7
    truth = np.sqrt(4 - curve.x[inside] ** 2) / (2 * np.pi)
    assert np.abs(curve.density[inside] - truth).max() < 0.05


def test_a_width_of_ones_own(density):
    wide = density.grid(width=1.0)
    assert wide.density.max() == pytest.approx(1 / np.sqrt(2 * np.pi), rel=0.1)


def test_one_probe_has_no_band_but_errors(values, rng):
    found = crelle.operator(rotated(values, rng), symmetric=True).spectral_density(1)
    assert np.isnan(found.grid().stderr).all()
    assert found.moment(1).stderr > 0
    found.plot()


def test_it_stops_at_the_accuracy(values, rng):
    A = crelle.operator(rotated(values, rng), symmetric=True)
    scale = np.sqrt(np.mean(values**2))
    rough, fine = A.spectral_density(rtol=0.05), A.spectral_density(rtol=0.005)
    assert rough.probes < fine.probes
    assert fine.moment(1).stderr <= 0.005 * scale
    assert not fine.notes
    assert A.spectral_density(rtol=1e-5, budget=90).notes == ("rtol=1e-05 was not reached",)


def test_the_table(rng):
    values = np.array([4.0, 1.0, -2.0] + [0.0] * 37)
    found = crelle.operator(rotated(values, rng), symmetric=True).spectral_density(seed=1)
    lines = str(found).splitlines()
    assert lines[0] == f"Spectral density of MatrixOperator: 40 eigenvalues   10 × 30 steps, {found.products} products"
    assert [line.split()[:2] for line in lines[1:4]] == [["largest", "4"], ["smallest", "-2"], ["outliers", "3"]]
    assert lines[4:] == ["  trace       3", "  negative    2.5 %   λ < -0.04", "  near zero   92.5 %   |λ| ≤ 0.04"]
    assert repr(found) == "SpectralDensity(of MatrixOperator, n=40, 10 probes × 30 steps)"


@pytest.mark.parametrize("log", [False, True])
def test_the_picture_is_labelled_and_marks_zero_and_outliers(density, log):
    ax = density.plot(log=log, linewidth=3)
    assert "eigenvalue λ" in ax.get_xlabel() and "share of eigenvalues per" in ax.get_ylabel()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"density", "± standard error, 10 probes", "found apart from the rest"} <= set(labels)
    curve, outliers, zero = ax.lines
    assert curve.get_linewidth() == 3
    assert sorted(outliers.get_xdata()) == pytest.approx(sorted(o.value for o in density.outliers))
    assert list(zero.get_xdata()) == [0, 0]
    ax.figure.canvas.draw()


def test_the_picture_goes_where_it_is_told(density):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    assert density.plot(ax) is ax


@pytest.mark.parametrize("values", [[0.0] * 5, [3.0], [2.0] * 4])
def test_pictures_and_tables_of_the_simplest_spectra(values, rng):
    found = crelle.operator(rotated(np.array(values), rng), symmetric=True).spectral_density()
    assert found.moment(1).value == pytest.approx(values[0], abs=1e-14)
    for log in (False, True):
        found.plot(log=log).figure.canvas.draw()
    assert "trace" in str(found)


# -- networks


def network(rng):
    """The loss of a small classifier as a function of its parameters."""
    import torch

    x, y = torch.as_tensor(rng.standard_normal((60, 6))), torch.arange(60) % 4
    params = {
        "w": torch.as_tensor(rng.standard_normal((6, 10)) / 2),
        "b": torch.zeros(10, dtype=torch.float64),
        "v": torch.as_tensor(rng.standard_normal((10, 4)) / 2),
    }

    def loss(p):
        return torch.nn.functional.cross_entropy(torch.tanh(x @ p["w"] + p["b"]) @ p["v"], y)

    return loss, params


def test_the_hessian_of_a_network(rng):
    loss, params = network(rng)
    H = crelle.hessian(loss).at(params)
    dense = np.asarray(H.todense())
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    found = H.spectral_density(seed=2)
    for power, moment in enumerate(found.moments(), 1):
        assert abs(moment.value - np.mean(values**power)) < 3 * moment.stderr
    assert found.title == "Hessian of loss"
    assert float(H.sharpness()) == pytest.approx(values[-1], rel=1e-6)
    down = H.negative_curvature()
    assert float(down) == pytest.approx(values[0], rel=1e-6)
    assert set(down.direction) == set(params)
    assert f"{values[0]:.6g}   residual" in str(down)


@pytest.mark.slow
def test_moments_of_970_parameters_are_covered(rng):
    """32-16-16-10, as it is initialised: all four moments, at their nominal rate."""
    import torch
    from torch.func import functional_call

    torch.manual_seed(0)
    x, y = torch.randn(256, 32, dtype=torch.float64), torch.arange(256) % 10
    sizes = (32, 16, 16, 10)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (torch.nn.Linear(a, b), torch.nn.Tanh())]
    model = torch.nn.Sequential(*layers[:-1]).double()
    params = {name: p.detach() for name, p in model.named_parameters()}
    H = crelle.hessian(lambda p: torch.nn.functional.cross_entropy(functional_call(model, p, (x,)), y)).at(params)
    matrix = H.todense().numpy()
    matrix = (matrix + matrix.T) / 2
    values = np.linalg.eigvalsh(matrix)
    assert len(values) == 970
    A = crelle.operator(matrix, symmetric=True)
    errors = np.array(
        [
            [(m.value - np.mean(values**k)) / m.stderr for k, m in enumerate(A.spectral_density(seed=s).moments(), 1)]
            for s in range(200)
        ]
    )
    assert ((np.abs(errors) < 1).mean(0) > 0.58).all()
    assert ((np.abs(errors) < 1.96).mean(0) > 0.89).all()


# -- bad input


def test_nan_is_named():
    A = crelle.operator(np.array([[1.0, 0.0], [0.0, np.nan]]), symmetric=True)
    with pytest.raises(crelle.CrelleValueError, match="spectral_density: product 1 with the matrix is NaN"):
        A.spectral_density()


def test_functions_that_are_not_finite_are_named(density):
    with pytest.raises(crelle.CrelleValueError, match=r"(?s)not finite at λ = -3.*A\.slogdet"):
        density.integrate(np.log)


def test_moments_beyond_the_quadrature_are_refused(density):
    with pytest.raises(crelle.CrelleValueError, match=r"(?s)moment\(60\).*0 to 59"):
        density.moment(60)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"probes": 0}, "probes=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"rtol": -1.0}, "rtol=-1.0"),
        ({"budget": 0}, "budget=0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options, text):
    with pytest.raises(crelle.CrelleValueError, match=text):
        crelle.operator(np.eye(3), symmetric=True).spectral_density(**options)


def test_matrices_without_a_spectrum_on_the_line_are_refused():
    with pytest.raises(crelle.CrelleTypeError, match="symmetric"):
        crelle.operator(np.eye(3)).spectral_density()
    with pytest.raises(crelle.CrelleShapeError, match="2 × 3"):
        crelle.operator(np.ones((2, 3))).spectral_density()
    with pytest.raises(crelle.CrelleValueError, match="empty"):
        crelle.operator(np.zeros((0, 0)), symmetric=True).spectral_density()
    with pytest.raises(crelle.CrelleValueError, match="complex"):
        crelle.operator(np.eye(2) * 1j, symmetric=True).spectral_density()
