"""Cuts, block triangular forms, labels and parities, against what they mean."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.determinants import _sparse
from crelle.determinants._blocks import form_of, form_of_pattern
from crelle.determinants._cuts import between, chain
from crelle.determinants._factors import factor_of
from crelle.determinants._labels import backward, forward
from crelle.determinants._recipe import SparseBlock, _parities
from crelle.tangent.sparsity import detect

W = np.triu(np.ones((4, 4)))
PROGRAMS = {
    "coupling": lambda x: jnp.concatenate([x[:2], x[2:] * jnp.exp(W[:2, :2] @ x[:2])])[::-1],
    "stencil": lambda x: x**2 + jnp.roll(x, 1),
    "triangular": lambda x: jnp.tanh(W @ x) * x,
    "dense": lambda x: x * x.sum(),
    "image": lambda x: (x.reshape(2, 2) @ W[:2, :2]).T.ravel() + jnp.repeat(x[:2], 2),
    "prefix": lambda x: jnp.cumsum(x) * jnp.sin(x),
    "padded": lambda x: jnp.pad(x[1:] * x[:-1], (0, 1)) + jnp.where(jnp.arange(4) > 1, x, 0),
    "joined": lambda x: jnp.stack([x[:2], x[2:] * x[0]], 1).ravel(),
    "solve": lambda x: jnp.linalg.solve(W + x[0] * 0 + jnp.eye(4), x),
}


def program(name):
    return crelle.jacobian(PROGRAMS[name]).program(jnp.ones(4))


def boolean(found):
    matrix = np.zeros(found.shape, bool)
    matrix[np.repeat(np.arange(found.shape[0]), np.diff(found.indptr)), found.indices] = True
    return matrix


@pytest.mark.parametrize("name", PROGRAMS)
def test_labels_are_the_largest_that_are_read(name, rng):
    p = program(name)
    pattern = boolean(detect(p))
    labels = rng.permutation(4) + 1
    (found,) = (forward(p, [labels])[o] for o in p.outputs)
    np.testing.assert_array_equal(found, np.where(pattern, labels, 0).max(1))
    back = backward(p, [labels])[p.inputs[0]]
    np.testing.assert_array_equal(back, np.where(pattern, labels[:, None], 0).max(0))


@pytest.mark.parametrize("name", PROGRAMS)
def test_forms_are_block_triangular_and_fine(name):
    p = program(name)
    found = detect(p)
    pattern = boolean(found)
    for form in (form_of(p, []), form_of_pattern(crelle.SparsityPattern.from_dense(pattern))):
        assert not form.missing.size
        assert sorted(form.matching) == list(range(4))
        assert pattern[np.arange(4), form.matching].all()
        rows, cols = np.nonzero(pattern)
        assert (form.block_of_column[cols] <= form.block[rows]).all()
        # no block can be divided: its matched graph is strongly connected
        for b in range(len(form.sizes)):
            rows = np.flatnonzero(form.block == b)
            reach = np.linalg.matrix_power(
                pattern[rows][:, form.matching[rows]].astype(int) + np.eye(len(rows), dtype=int), 4
            )
            assert (reach > 0).all()


def test_missing_rows():
    form = form_of_pattern(crelle.SparsityPattern.from_dense([[1, 0, 0], [1, 0, 0], [0, 1, 1]]))
    assert len(form.missing) == 1
    assert sorted(form.matching) == [0, 1, 2]


@pytest.mark.parametrize("name", PROGRAMS)
def test_cuts_hold_n_numbers_and_factors_multiply(name):
    p = program(name)
    cuts = chain(p)
    assert cuts[0] == p.inputs
    assert cuts[-1] == p.outputs
    together = np.eye(4, dtype=int)
    for start, end in itertools.pairwise(cuts):
        assert set(start) != set(end)
        assert sum(p.types[v].size for v in end) == 4
        part = between(p, start, end)
        together = boolean(detect(part)).astype(int) @ together
    assert (together > 0)[boolean(detect(p))].all()  # the product of patterns holds the pattern of the product


def test_narrow_functions_have_no_chain():
    assert chain(crelle.jacobian(lambda x: jnp.outer(x[:1], jnp.ones(3)).ravel()).program(jnp.ones(3))) is None


def test_layers_are_told_apart():
    def f(x):
        for _ in range(3):
            x = PROGRAMS["coupling"](x)
        return x

    p = crelle.jacobian(f).program(jnp.ones(4))
    assert len(form_of(p, []).sizes) < 4  # as one matrix it mixes
    factors = [factor_of(between(p, a, b), []) for a, b in itertools.pairwise(chain(p))]
    assert all(len(f.form.sizes) == 4 for f in factors)
    assert sum(f.passes for f in factors) == 3


def test_networks_inside_layers_are_not_differentiated():
    p = program("coupling")
    factors = [factor_of(between(p, a, b), []) for a, b in itertools.pairwise(chain(p))]
    needed = frozenset().union(*(f.needed for f in factors))
    product = next(m for m in p.maps if m.name == "dot_general")
    assert product.results[0] not in needed


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_parities(n, rng):
    matching = rng.permutation(n)
    expected = round(np.linalg.det(np.eye(n)[matching]))
    zero = np.zeros(n, int)
    assert _parities(matching, zero, zero, 1)[0] == expected


def test_parities_of_samples(rng):
    orders = [rng.permutation(4) for _ in range(6)]
    rows, cols = rng.permutation(24), rng.permutation(24)  # samples lie about, differently on both sides
    of_row, of_column = np.empty(24, int), np.empty(24, int)
    of_row[rows], of_column[cols] = np.repeat(np.arange(6), 4), np.repeat(np.arange(6), 4)
    matching = np.empty(24, int)
    for b, order in enumerate(orders):
        matching[np.flatnonzero(of_row == b)] = np.flatnonzero(of_column == b)[order]
    expected = [round(np.linalg.det(np.eye(4)[order])) for order in orders]
    np.testing.assert_array_equal(_parities(matching, of_row, of_column, 6), expected)


@pytest.mark.parametrize("kind", [float, complex])
def test_sparse_factors(kind, rng):
    n = 40
    A = np.where(rng.random((n, n)) < 0.1, rng.standard_normal((n, n)), 0) + np.diag(rng.standard_normal(n))
    A = A + (1j * A[::-1] if kind is complex else 0)
    rows, cols = np.nonzero(A)
    block = SparseBlock(np.arange(len(rows)), rows, cols, n)
    sign, log = _sparse.slogdet(A[rows, cols], block)
    expected = np.linalg.slogdet(A)
    np.testing.assert_allclose((sign, log), expected, atol=1e-12)
    inverse = np.linalg.inv(A)
    np.testing.assert_allclose(
        _sparse.slope(A[rows, cols], block), inverse.T[rows, cols], atol=1e-10 * abs(inverse).max()
    )
    sign, log = _sparse.slogdet(0 * A[rows, cols], block)
    assert (sign, log) == (0, -np.inf)
    assert np.isnan(_sparse.slope(np.full(len(rows), np.nan), block)).all()
