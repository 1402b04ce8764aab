"""The algebra of operators against dense matrices, in three frameworks; what is known of the results."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from crelle.operators._algebra import Identity

MAKE = {"numpy": np.asarray, "jax": jnp.asarray, "torch": torch.as_tensor}
RNG = np.random.default_rng(1857)
P, Q, R = RNG.standard_normal((3, 5)), RNG.standard_normal((3, 5)), RNG.standard_normal((5, 2))
S = P.T @ P + np.eye(5)


@pytest.fixture(params=list(MAKE))
def make(request):
    return MAKE[request.param]


def op(make, matrix, **tags):
    return crelle.operator(make(matrix), **tags)


CASES = {
    "transposed": (lambda o: o(P).T, P.T),
    "twice": (lambda o: o(P).T.T, P),
    "sum": (lambda o: o(P) + o(Q), P + Q),
    "difference": (lambda o: o(P) - o(Q), P - Q),
    "three": (lambda o: o(P) + o(Q) + o(P), 2 * P + Q),
    "negative": (lambda o: -o(P), -P),
    "scaled": (lambda o: 2 * o(P) * 3, 6 * P),
    "divided": (lambda o: o(P) / 4, P / 4),
    "numpy number": (lambda o: np.float64(2.5) * o(P), 2.5 * P),
    "integer": (lambda o: o(P) * np.int64(2), 2 * P),
    "product": (lambda o: o(P) @ o(R), P @ R),
    "long product": (lambda o: o(Q).T @ o(P) @ o(R), Q.T @ P @ R),
    "gram": (lambda o: o(P).gram(), P.T @ P),
    "shifted": (lambda o: o(S).shifted(0.5), S + 0.5 * np.eye(5)),
    "shifted by nothing": (lambda o: o(S).shifted(0), S),
    "all": (lambda o: (2 * o(P) - o(Q) / 2).gram().shifted(3.0).T, (2 * P - Q / 2).T @ (2 * P - Q / 2) + 3 * np.eye(5)),
}


@pytest.mark.parametrize("case", CASES)
def test_against_dense(case, make, rng):
    build, matrix = CASES[case]
    A = build(lambda m: op(make, m))
    m, n = matrix.shape
    assert A.shape == (m, n)
    v, u = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
    close = {"rtol": 1e-13, "atol": 1e-13}
    np.testing.assert_allclose(A @ make(v), matrix @ v, **close)
    np.testing.assert_allclose(A @ make(v[:, 0]), matrix @ v[:, 0], **close)
    np.testing.assert_allclose(A.T @ make(u), matrix.T @ u, **close)
    np.testing.assert_allclose(make(u[:, 0]) @ A, u[:, 0] @ matrix, **close)
    np.testing.assert_allclose(make(u.T) @ A, u.T @ matrix, **close)
    np.testing.assert_allclose(A.todense(), matrix, **close)
    np.testing.assert_allclose(A.T.todense(), matrix.T, **close)


def test_numbers_of_a_framework():
    for make in (jnp.asarray, torch.as_tensor):
        A = make(np.asarray(2.0)) * op(make, P) * make(np.asarray(0.25))
        np.testing.assert_allclose(A.todense(), P / 2)
        assert "psd" not in (make(np.asarray(2.0)) * op(make, S, psd=True)).tags  # its sign is not looked at


def test_tags():
    make = np.asarray
    H, G, D = op(make, S, symmetric=True), op(make, S, psd=True), Identity(op(make, S).domain)
    assert G.tags == {"symmetric", "psd"} and G.T is G
    assert (G + G).tags == {"symmetric", "psd"}
    assert (G + H).tags == {"symmetric"} == (G - G).tags == (-2 * G).tags
    assert (2 * G).tags == (0 * G).tags == {"symmetric", "psd"}
    assert (-1 * (-3 * G)).tags == {"symmetric", "psd"}
    assert (G + op(make, S)).tags == frozenset()
    assert (G @ G).tags == frozenset()
    assert op(make, P).gram().tags == {"symmetric", "psd"}
    assert (2 * D).tags == {"symmetric", "psd", "diagonal"} == (D + D).tags
    assert G.shifted(1.0).tags == {"symmetric", "psd"}
    assert G.shifted(-1.0).tags == {"symmetric"}
    assert crelle.operator(op(make, S), psd=True).tags == {"symmetric", "psd"}
    assert op(make, (1 + 1j) * P).gram().tags == {"symmetric"}


def test_complex_gram_is_the_plain_transpose():
    matrix = P + 1j * Q
    np.testing.assert_allclose(op(np.asarray, matrix).gram().todense(), matrix.T @ matrix)


def test_repr_is_one_readable_line():
    H, G = op(np.asarray, S, symmetric=True), op(np.asarray, S, psd=True)
    assert repr(G) == "MatrixOperator(f64[5×5], numpy, cpu, symmetric, psd)"
    assert repr(2 * G - H) == "2 * MatrixOperator - MatrixOperator(f64[5×5], numpy, cpu, symmetric)"
    assert repr((G + H).gram()) == "(MatrixOperator + MatrixOperator).gram()(f64[5×5], numpy, cpu, symmetric, psd)"
    assert repr(-op(np.asarray, P)) == "-MatrixOperator(f64[3×5], numpy, cpu)"
    total = G
    for _ in range(20):
        total = total + H
    assert repr(total) == (
        "MatrixOperator + MatrixOperator + MatrixOperator + (18 more)(f64[5×5], numpy, cpu, symmetric)"
    )
    deep = G
    for _ in range(20):
        deep = (deep + H) @ H
    assert len(repr(deep)) < 140 and "\n" not in repr(deep) and " ... " in repr(deep)


REFUSED = {
    "shapes of a sum": (
        lambda: op(np.asarray, P) + op(np.asarray, R),
        crelle.CrelleShapeError,
        "MatrixOperator(f64[3×5], numpy, cpu) + MatrixOperator(f64[5×2], numpy, cpu)\n"
        "  expected  matrices of the same shape",
    ),
    "frameworks of a sum": (
        lambda: op(np.asarray, P) + op(jnp.asarray, P),
        crelle.CrelleTypeError,
        "MatrixOperator(f64[3×5], numpy, cpu) + MatrixOperator(f64[3×5], jax, cpu)\n"
        "  expected  operators of one framework",
    ),
    "shapes of a product": (
        lambda: op(np.asarray, P) @ op(np.asarray, Q),
        crelle.CrelleShapeError,
        "MatrixOperator(f64[3×5], numpy, cpu) @ MatrixOperator(f64[3×5], numpy, cpu)\n"
        "  expected  5 rows on the right\n"
        "  likely    the matrix on the right has 3",
    ),
    "frameworks of a product": (
        lambda: op(np.asarray, P) @ op(jnp.asarray, R),
        crelle.CrelleTypeError,
        "MatrixOperator(f64[3×5], numpy, cpu) @ MatrixOperator(f64[5×2], jax, cpu)\n"
        "  expected  operators of one framework",
    ),
    "a number added": (
        lambda: op(np.asarray, S) + 1.0,
        crelle.CrelleTypeError,
        "MatrixOperator(f64[5×5], numpy, cpu) + float\n"
        "  expected  another operator\n"
        "  try       A.shifted(c) for A + c·I; crelle.operator(matrix) for a matrix",
    ),
    "times an operator": (
        lambda: op(np.asarray, S) * op(np.asarray, S),
        crelle.CrelleTypeError,
        "MatrixOperator(f64[5×5], numpy, cpu) * MatrixOperator\n"
        "  expected  a number\n"
        "  try       A @ B for a product of operators",
    ),
    "times an array": (
        lambda: op(np.asarray, S) * np.ones(5),
        crelle.CrelleTypeError,
        "MatrixOperator(f64[5×5], numpy, cpu) * ndarray\n"
        "  expected  a number\n"
        "  try       A @ B for a product of operators",
    ),
    "complex": (
        lambda: 1j * op(np.asarray, S),
        crelle.CrelleTypeError,
        "MatrixOperator(f64[5×5], numpy, cpu) * 1j\n  expected  a real number, for a real matrix",
    ),
    "shifted": (
        lambda: op(np.asarray, P).shifted(1.0),
        crelle.CrelleShapeError,
        "MatrixOperator(f64[3×5], numpy, cpu).shifted: the matrix is 3 × 5\n"
        "  expected  a square one\n"
        "  try       A.gram() for AᵀA",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, kind, text = REFUSED[case]
    with pytest.raises(kind) as caught:
        build()
    assert str(caught.value) == text


def test_notes_are_those_of_the_parts():
    A = crelle.jacobian(lambda x: x**2).at(np.ones(2))
    assert (A + 2 * A).notes == A.notes == A.T.notes == A.gram().notes == (A @ A).notes == A.block(0, 0).notes
    assert len(A.notes) == 1


def test_a_transpose_times_itself_is_symmetric():
    matrix = np.arange(6.0).reshape(2, 3)
    a = crelle.operator(matrix)
    for product, dense in ((a.T @ a, matrix.T @ matrix), (a @ a.T, matrix @ matrix.T)):
        assert {"symmetric", "psd"} <= product.tags
        np.testing.assert_array_equal(product.todense(), dense)
    assert "symmetric" not in (a.T @ crelle.operator(matrix)).tags
