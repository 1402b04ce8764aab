"""What is found out about a black box: batches, linearity, complex numbers; and never more than is true."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from crelle._arrays import ArrayType
from crelle.backends.numpy.function import BlackBox
from crelle.backends.numpy.survey import survey

RNG = np.random.default_rng(0)
W = RNG.standard_normal((5, 4))
B = RNG.standard_normal(5)
SQUARE = RNG.standard_normal((4, 4))


def found(f, x=None, **keywords):
    x = np.asarray(RNG.standard_normal(4) if x is None else x)
    kind = ArrayType(str(x.dtype), x.shape)
    box = BlackBox(f, (x,), {}, (0,), (kind,), ("x",), "crelle.jacobian(f)")
    box.evaluate_base()
    return survey(box, **{"linear": True, "analytic": True, **keywords})


BATCHED = {
    "elementwise": lambda x: np.sin(x) * x,
    "row times matrix": lambda x: x @ W.T + B,
    "sum of the last axis": lambda x: (x**2).sum(axis=-1),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "sort": lambda x: np.sort(x),
    "last axis by index": lambda x: x[..., 1:] * x[..., :-1],
    "trees": lambda x: {"a": np.sin(x), "b": [x[..., :2], x.sum(-1)]},
    "einsum": lambda x: np.einsum("...i,...i", x, x),
}
ALONE = {
    "matrix times column": lambda x: W @ x,
    "square matrix times column": lambda x: SQUARE @ x,
    "total": lambda x: np.sum(x**2),
    "first entries": lambda x: np.array([x[0] ** 2, x[1]]),
    "mean of everything": lambda x: x - x.mean(),
    "reversed": lambda x: x[::-1] * x,
    "rolled": lambda x: np.roll(x, 1) * x,
    "cumulative": lambda x: np.cumsum(x),
    "python floats": lambda x: np.array([math.sin(v) for v in x]),
    "branch": lambda x: x if x[0] > -10 else -x,
    "normalised": lambda x: x / np.sqrt((x**2).sum()),
    "maximum of everything": lambda x: x / x.max(),
    "diagonal": lambda x: np.diag(x),
    "shape": lambda x: x.sum() * np.ones(len(x)),
    "axis 0": lambda x: x - x.mean(axis=0),
}


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_functions_that_take_batches(name, n):
    if "matrix" in name and n != 4:
        pytest.skip("the matrix has 4 columns")
    assert found(BATCHED[name], np.random.default_rng(n).uniform(0.5, 2, n)).batched


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 7])
def test_functions_that_do_not(name, n):
    if "matrix" in name and n != 4:
        pytest.skip("the matrix has 4 columns")
    assert not found(ALONE[name], np.random.default_rng(n).uniform(0.5, 2, n)).batched


LINEAR = {
    "matrix": lambda x: W @ x,
    "affine": lambda x: W @ x + B,
    "permutation": lambda x: x[::-1],
    "differences": lambda x: np.diff(x),
    "fourier": lambda x: np.fft.rfft(x).real,
    "sum": lambda x: x.sum(),
    "identity": lambda x: x,
}
NOT_LINEAR = {
    "square": lambda x: x**2,
    "absolute": np.abs,
    "relu": lambda x: np.maximum(W @ x, 0),
    "clip": lambda x: np.clip(x, -1, 1),
    "sign": np.sign,
    "round": np.round,
    "sorted": np.sort,
    "nearly": lambda x: W @ x + 1e-6 * np.sin(x[0]),
    "one of many": lambda x: np.concatenate([W @ x, [x[0] * x[1]]]),
    "small among large": lambda x: np.array([1e10 * x[0], x[1] ** 2]),
    "log": lambda x: np.log(np.abs(x)),
    "hidden under an offset": lambda x: 1e6 + 1e-6 * x**2,
    "leaky": lambda x: np.where(x > 0, x, 0.01 * x),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_linear_functions(name, scale):
    if name == "affine" and scale == 1e-6:
        pytest.skip("its linear part drowns in the constant at this scale")
    assert found(LINEAR[name], scale * np.random.default_rng(1).standard_normal(4)).linear


@pytest.mark.parametrize("name", NOT_LINEAR)
@pytest.mark.parametrize("x", [[0.7, -1.2, 2.0, 3.5], [0.7, 1.2, 2.0, 3.5]], ids=["mixed", "positive"])
def test_functions_that_are_not_linear(name, x):
    assert not found(NOT_LINEAR[name], x).linear


def test_linear_in_float32():
    assert found(lambda x: W.astype(np.float32) @ x, np.ones(4, np.float32)).linear
    assert not found(lambda x: x + np.float32(0.01) * x**2, np.ones(4, np.float32)).linear


ANALYTIC = {
    "network": lambda x: np.tanh(W @ x + B),
    "product": lambda x: np.prod(x),
    "solve": lambda x: np.linalg.solve(SQUARE + np.diag(x), x),
    "determinant": lambda x: np.linalg.det(SQUARE + np.diag(x)),
    "power": lambda x: np.abs(SQUARE[0]) ** x,
    "loop": lambda x: np.array([x[0] * v for v in x]),
    "maximum": lambda x: np.maximum(x, 0.1) ** 2,  # by real parts, and so right
    "cmath": lambda x: np.array([cmath.exp(v) for v in x]) if np.iscomplexobj(x) else np.exp(x),
    "a constant beside": lambda x: {"value": np.sin(x), "constant": np.ones(2)},
}
NOT_ANALYTIC = {
    "absolute": (lambda x: np.abs(x) ** 3, "returns real numbers"),
    "norm": (np.linalg.norm, "returns real numbers"),
    "absolute inside": (lambda x: x * np.abs(x), "disagree"),
    "conjugate": (lambda x: np.conj(x) * x + x, "disagree"),
    "vdot": (lambda x: np.vdot(x, x), "disagree"),
    "real part": (lambda x: np.real(x) ** 2 + 0 * x, "disagree"),
    "a cast": (lambda x: x.astype(float) ** 2, "discards imaginary parts"),
    "a cast of entries": (lambda x: np.array([float(v) for v in x]), ""),
    "math": (lambda x: np.array([math.sin(v) for v in x]), "discards imaginary parts"),
    "assignment": (lambda x: _assigned(x), ""),
    "comparison": (lambda x: x**2 if float(x[0]) < 9 else x, ""),
    "arctan2": (lambda x: np.arctan2(x, 2.0), "TypeError"),
    "hypot": (lambda x: np.hypot(x, 2.0), "TypeError"),
    "eigenvalues": (lambda x: np.linalg.eigvalsh(np.outer(x, x) + np.diag(x)), ""),
    "another branch": (lambda x: np.sqrt(-x) if np.iscomplexobj(x) else np.sqrt(x), "another branch"),
    "interpolation": (lambda x: np.interp(x, [0.0, 1.0, 9.0], [0.0, 2.0, 3.0]), ""),
}


def _assigned(x):
    out = np.zeros(len(x))
    out[:] = x**2
    return out


@pytest.mark.parametrize("name", ANALYTIC)
def test_functions_that_admit_complex_steps(name):
    assert found(ANALYTIC[name], [0.7, 1.2, 2.0, 3.5]).not_analytic == ""


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_functions_that_do_not_admit_complex_steps(name):
    f, reason = NOT_ANALYTIC[name]
    facts = found(f, [0.7, 1.2, 2.0, 3.5], linear=False)
    assert not facts.analytic
    assert reason in facts.not_analytic


def test_a_symmetric_point_hides_nothing():
    """At 0 the difference of |x| is 0, as the complex step is."""
    assert not found(lambda x: np.abs(x) + x**2, [0.0, 0.0]).analytic


def test_a_nan_that_complex_numbers_would_hide():
    """sqrt(-1) is nan for real numbers and i for complex ones."""
    with np.errstate(invalid="ignore"):
        assert not found(np.sqrt, [-1.0, 4.0]).analytic


def test_complex_input_and_output_have_no_complex_step():
    assert found(lambda z: z**2, [1.0 + 1j]).not_analytic == "the input is complex"
    assert found(lambda x: np.exp(1j * x), [1.0]).not_analytic == "f returns complex numbers"
    assert "precision" in found(lambda x: x**2, np.ones(2, np.float16)).not_analytic


def test_it_takes_about_ten_evaluations():
    count = 0

    def f(x):
        nonlocal count
        count += 1
        return np.array([np.prod(x), x[0]])

    found(f, [0.7, 1.2, 2.0])
    assert count <= 10


def test_what_f_raises_elsewhere_is_no_error():
    def f(x):
        if np.any(np.abs(x - 1) > 0.1):
            raise RuntimeError("far away")
        return x**2

    assert found(f, [1.0, 1.0]).batched


def test_warnings_of_probes_stay_inside():
    """Warnings are errors in these tests; a probe may leave the domain of f."""
    facts = found(np.log, [1e-3, 0.2])
    assert facts.batched
    assert facts.analytic


def test_float32_inside_is_seen():
    facts = found(lambda x: np.sin(x.astype(np.float32)).astype(float), [0.7, 1.2])
    assert np.array_equal(facts.coarse, [2.0**-23] * 2)
    half = found(lambda x: np.concatenate([np.sin(x).astype(np.float16).astype(float), x**3]), [0.7, 1.2])
    assert np.array_equal(half.coarse, [2.0**-10] * 2 + [0] * 2)
    assert found(lambda x: np.concatenate([2 * x, [1.0], x**2]), [1.5, 0.5]).coarse is None
