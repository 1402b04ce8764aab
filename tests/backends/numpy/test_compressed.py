"""Sparse derivatives of NumPy functions whose pattern is given."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import scipy.sparse as sp

import crelle

Pair = namedtuple("Pair", "x y")
FORMATS = ("sparse", "csr", "csc", "coo", "triplets", "banded")


class Counted:
    """A function that counts its evaluations."""

    def __init__(self, f):
        self.f, self.count = f, 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.f(*args, **kwargs)

    def taken(self):
        count, self.count = self.count, 0
        return count


@pytest.fixture(autouse=True)
def fresh():
    crelle.clear_caches()


def band(n, below=1, above=1):
    offsets = list(range(-below, above + 1))
    return sp.diags_array([np.ones(n)] * len(offsets), offsets=offsets, shape=(n, n))


def neighbours(x):
    """Each entry with those beside it: tridiagonal, analytic, one point at a time."""
    y = x**2
    y[1:] += x[:-1] * np.sin(x[1:])
    y[:-1] -= np.exp(x[1:])
    return y


def neighbours_jacobian(x):
    below = np.sin(x[1:])
    middle = 2 * x + np.append(0.0, x[:-1] * np.cos(x[1:]))
    return np.diag(middle) + np.diag(below, -1) - np.diag(np.exp(x[1:]), 1)


def real_neighbours(x):
    """The same for positive x, where complex steps see nothing."""
    return neighbours(np.abs(x))


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_hessian(x):
    middle = np.append(2 + 1200 * x[:-1] ** 2 - 400 * x[1:], 0.0) + np.append(0.0, np.full(len(x) - 1, 200.0))
    return np.diag(middle) - np.diag(400 * x[:-1], 1) - np.diag(400 * x[:-1], -1)


def point(n, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 1.5, n)


def dense_of(found, shape):
    if isinstance(found, tuple):
        rows, cols, values = found
        out = np.zeros(shape)
        out[rows, cols] = values
        return out
    return found.toarray()


# -- how often f is evaluated


@pytest.mark.parametrize(
    ("f", "mode", "passes", "later"),
    [
        # f(x), the colours, and two more for the guard of complex steps
        (neighbours, "complex-step", 3, 1 + 3 + 2),
        (neighbours, "central", 3 * 4, 1 + 3 * 4),
        (real_neighbours, "central", 3 * 4, 1 + 3 * 4),
    ],
)
def test_evaluations_are_those_of_the_colours(f, mode, passes, later):
    n = 1000
    counted = Counted(f)
    J = crelle.jacobian(counted, format="csr", pattern=band(n), mode=mode)
    x = point(n)
    J(x)
    assert counted.taken() < 40  # with the survey and the check
    found = J(x)
    assert counted.taken() == later
    plan = J.plan(x)
    assert (plan.passes, plan.unit) == (passes, "evaluation")
    assert f"{passes} evaluations" in str(plan)
    np.testing.assert_allclose(found.toarray(), neighbours_jacobian(x), rtol=1e-9, atol=1e-9)


def test_a_linear_function_takes_one_evaluation_a_colour():
    n = 300
    A = band(n).tocsr() * 0.1 + sp.eye_array(n)
    counted = Counted(lambda x: A @ x + 1)
    J = crelle.jacobian(counted, format="csr", pattern=A)
    x = point(n)
    J(x)
    counted.taken()
    found = J(x)
    # f(x), f(0), three colours, and five that prove it
    assert counted.taken() == 1 + 1 + 3 + 5
    assert J.plan(x).passes == 3
    np.testing.assert_allclose(found.toarray(), A.toarray(), rtol=1e-13, atol=1e-13)


def test_errors_of_complex_steps_take_as_many_again():
    counted = Counted(neighbours)
    J = crelle.jacobian(counted, format="csr", pattern=band(50), error=True)
    x = point(50)
    J(x)
    counted.taken()
    J(x)
    assert counted.taken() == 1 + 2 * 3 + 2
    assert J.plan(x).passes == 6


def test_only_the_colours_of_doubtful_columns_are_tried_again():
    """Beside a kink the first step is too long; nowhere else."""
    n = 400

    def f(x):
        return neighbours(x) + np.where(np.arange(n) == 200, np.abs(x - 1), 0.0)

    x = point(n)
    x[200] = 1 + 1e-6
    counted = Counted(f)
    J = crelle.jacobian(counted, format="csr", pattern=band(n), mode="central")
    J(x)
    counted.taken()
    found = J(x)
    more = counted.taken() - (1 + 3 * 4)
    assert 4 <= more <= 16
    assert more % 4 == 0
    expected = neighbours_jacobian(x) + np.diag(np.where(np.arange(n) == 200, 1.0, 0.0))
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-7, atol=1e-7)


def test_a_function_of_batches_is_called_with_batches():
    n = 60
    counted = Counted(lambda x: np.abs(x) ** 1.5 + np.roll(np.abs(x), 1, axis=-1) ** 2)
    x = point(n)
    eye = np.eye(n)
    J = crelle.jacobian(counted, format="csr", pattern=eye + np.roll(eye, 1, 0))
    J(x)
    counted.taken()
    found = J(x)
    assert counted.taken() == 3  # f(x), all points at once, and one of them alone to compare
    expected = np.diag(1.5 * np.sqrt(x)) + np.roll(np.diag(2 * x), 1, 0)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("f", [rosenbrock, lambda x: rosenbrock(np.abs(x))])
def test_a_hessian_takes_evaluations_for_its_entries_only(f):
    counts = []
    for n in (40, 80):
        x = point(n)
        counted = Counted(f)
        H = crelle.hessian(counted, format="csr", pattern=band(n))
        found = H(x)
        counted.taken()
        H(x)
        counts.append(counted.taken())
        assert H.plan(x).passes <= counts[-1] <= 1.1 * H.plan(x).passes + 40
        np.testing.assert_allclose(found.toarray(), rosenbrock_hessian(x), rtol=1e-5, atol=1e-3)
    assert counts[1] <= 2.1 * counts[0]
    assert counts[1] <= 10 * 80


# -- the same numbers as dense


@pytest.mark.parametrize("mode", ["central", "complex-step"])
@pytest.mark.parametrize("factor", [1.0, 1e6])
def test_entries_and_errors_are_those_of_the_dense_result(factor, mode):
    n = 30
    f = lambda x: neighbours(x) * factor
    x = point(n) * np.where(np.arange(n) % 3, 1.0, 1e-3)
    dense, dense_error = crelle.jacobian(f, mode=mode, error=True)(x)
    found, error = crelle.jacobian(f, format="csr", pattern=band(n), mode=mode, error=True)(x)
    listed = band(n).toarray() != 0
    np.testing.assert_array_equal(found.toarray()[listed], dense[listed])
    np.testing.assert_array_equal(error.toarray()[listed], dense_error[listed])


def test_errors_cover_the_truth_where_outputs_differ_much_in_size():
    """Dense columns try further steps there for entries that are zero; the listed ones are good without."""
    n = 30
    f = lambda x: neighbours(x * 8) / 8
    x = point(n) * np.where(np.arange(n) % 3, 1.0, 1e-3)
    found, error = crelle.jacobian(f, format="csr", pattern=band(n), mode="central", error=True)(x)
    exact = neighbours_jacobian(8 * x)
    assert np.ptp(np.log10(np.abs(f(x)))) > 4
    assert np.all(np.abs(found.toarray() - exact) <= 10 * error.toarray() + 1e-14 * np.abs(exact))
    largest = np.abs(exact).max(axis=1, keepdims=True)
    assert np.all(np.abs(found.toarray() - exact) <= 1e-8 * largest)


def test_second_differences_are_those_of_the_dense_result():
    x = point(12)
    listed = band(12).toarray() != 0
    for f, tolerance in ((rosenbrock, 1e-12), (lambda x: rosenbrock(np.abs(x)), 1e-6)):
        dense = crelle.hessian(f)(x)
        found, error = crelle.hessian(f, format="csr", pattern=band(12), error=True)(x)
        np.testing.assert_allclose(found.toarray()[listed], dense[listed], rtol=tolerance, atol=tolerance * 1e3)
        exact = rosenbrock_hessian(x)
        assert np.all(np.abs(found.toarray() - exact)[listed] <= 10 * error.toarray()[listed] + 1e-12)


def test_float32():
    x = point(20).astype(np.float32)
    found, error = crelle.jacobian(neighbours, format="csr", pattern=band(20), mode="central", error=True)(x)
    assert found.dtype == error.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), neighbours_jacobian(x.astype(float)), rtol=1e-3, atol=1e-3)


def test_holomorphic():
    x = point(9) + 0.3j * point(9, 1)
    found = crelle.jacobian(neighbours, format="csr", pattern=band(9), holomorphic=True)(x)
    assert found.dtype == np.complex128
    np.testing.assert_allclose(found.toarray(), neighbours_jacobian(x), rtol=1e-8, atol=1e-8)


# -- formats, shapes, trees, keywords


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_the_same_entries_and_errors(format):
    x = point(11)
    found, error = crelle.jacobian(neighbours, format=format, pattern=band(11), mode="central", error=True)(x)
    exact = neighbours_jacobian(x)
    dense, dense_error = crelle.jacobian(neighbours, mode="central", error=True)(x)
    if format == "banded":
        assert found.shape == error.shape == (3, 11)
        np.testing.assert_allclose(found[1], np.diag(exact), rtol=1e-9)
        np.testing.assert_allclose(found[0, 1:], np.diag(exact, 1), rtol=1e-9)
        np.testing.assert_array_equal(error[2, :-1], np.diag(dense_error, -1))
        return
    np.testing.assert_array_equal(dense_of(found, (11, 11)), np.where(exact, dense, 0.0))
    np.testing.assert_array_equal(dense_of(error, (11, 11)), np.where(exact, dense_error, 0.0))
    if format in ("sparse", "csr"):
        assert isinstance(found, sp.csr_array)
        assert found.has_sorted_indices


def test_blocks_and_diagonal():
    W = np.random.default_rng(1).standard_normal((4, 3))
    X = np.random.default_rng(2).standard_normal((5, 4))
    f = lambda X: np.tanh(X @ W)
    pattern = np.kron(np.eye(5), np.ones((3, 4)))
    J = crelle.jacobian(f, format="blocks", pattern=pattern)
    found = J(X)
    assert found.shape == (5, 3, 4)
    expected = (1 - np.tanh(X @ W) ** 2)[:, :, None] * W.T
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert J.plan(X).passes == 4
    counted = Counted(neighbours)
    D = crelle.jacobian(counted, format="diagonal", pattern=band(30), mode="central")
    x = point(30)
    np.testing.assert_allclose(D(x), np.diag(neighbours_jacobian(x)), rtol=1e-9)
    counted.taken()
    D(x)
    assert counted.taken() == 1 + 4 * D.plan(x).passes / 4
    assert D.plan(x).passes <= 12


@pytest.mark.parametrize("part", ["lower", "upper", ("band", 1, 0), ("blocks", 2, 2), np.eye(10, k=1)])
@pytest.mark.parametrize("f", [neighbours, real_neighbours])
def test_parts(part, f):
    x = point(10)
    exact = neighbours_jacobian(x)
    i, j = np.indices((10, 10))
    mask = {
        "lower": i >= j,
        "upper": i <= j,
        ("band", 1, 0): (i - j >= 0) & (i - j <= 1),
        ("blocks", 2, 2): i // 2 == j // 2,
    }.get(part if not isinstance(part, np.ndarray) else None, j == i + 1)
    found = crelle.jacobian(f, format="csr", pattern=band(10), part=part)(x)
    np.testing.assert_allclose(found.toarray(), np.where(mask, exact, 0.0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("part", ["diagonal", "lower", ("band", 0, 1)])
def test_parts_of_hessians(part):
    x = point(8)
    i, j = np.indices((8, 8))
    mask = {"diagonal": i == j, "lower": i >= j}.get(part, (j - i >= 0) & (j - i <= 1))
    H = crelle.hessian(rosenbrock, format="csr", pattern=band(8), part=part)
    np.testing.assert_allclose(H(x).toarray(), np.where(mask, rosenbrock_hessian(x), 0.0), rtol=1e-7, atol=1e-7)
    assert "1 random product" in H.plan(x).checked


@pytest.mark.parametrize(("m", "n"), [(7, 4), (3, 9), (1, 6), (6, 1)])
@pytest.mark.parametrize("mode", ["auto", "central"])
def test_patterns_that_are_not_square(m, n, mode):
    rng = np.random.default_rng(m * n)
    pattern = rng.random((m, n)) < 0.4
    A = np.where(pattern, rng.standard_normal((m, n)), 0.0)
    x = point(n)
    found = crelle.jacobian(lambda x: A @ x**3, format="csr", pattern=pattern, mode=mode)(x)
    assert found.shape == (m, n)
    assert found.nnz == pattern.sum()
    np.testing.assert_allclose(found.toarray(), A * 3 * x**2, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("format", ["csr", "triplets", "coo"])
def test_no_rows_or_no_columns(m, n, format):
    A = np.zeros((m, n))
    J = crelle.jacobian(lambda x: A @ x, format=format, pattern=sp.csr_array((m, n)))
    assert dense_of(J(np.ones(n)), (m, n)).shape == (m, n)
    assert J.plan(np.ones(n)).passes == 0
    assert J.plan(np.ones(n)).checked == "no: there are no entries"


def test_a_pattern_without_entries():
    J = crelle.jacobian(lambda x: 0 * x, format="csr", pattern=np.zeros((3, 3)))
    assert J(np.ones(3)).nnz == 0
    with pytest.raises(crelle.CrelleCheckError, match=r"expected +zero at \[1, 1\]"):
        crelle.jacobian(lambda x: x * [0, 1, 0], format="csr", pattern=np.zeros((3, 3)))(np.ones(3))


def test_numbers():
    one = np.ones((1, 1))
    found = crelle.jacobian(lambda x: x**3, format="csr", pattern=one)(np.array(2.0))
    np.testing.assert_allclose(found.toarray(), [[12.0]], rtol=1e-10)
    found = crelle.hessian(lambda x: np.exp(x), format="csr", pattern=one)(np.array(0.5))
    np.testing.assert_allclose(found.toarray(), [[np.exp(0.5)]], rtol=1e-7)


def test_trees_argnums_value_and_aux():
    def f(scale, p, q):
        u, v = p["w"], q.y
        return {"sum": u * scale + v, "product": [u * v]}, {"seen": q.x}

    p, q = {"w": point(3)}, Pair(2.0, point(3, 1))
    eye, none = np.eye(3), np.zeros((3, 1))
    # outputs: product, sum (sorted keys or not, as the dense result has them); inputs: w, x, y
    pattern = np.block([[eye, none, eye], [eye, none, eye]])
    options = {"argnums": (1, 2), "has_aux": True, "flatten": True}
    J = crelle.jacobian(f, **options, format="csr", pattern=pattern, value=True, error=True)
    (value, aux), found, error = J(3.0, p, q)
    assert aux == {"seen": 2.0}
    np.testing.assert_allclose(value["sum"], 3 * p["w"] + q.y)
    dense, _ = crelle.jacobian(f, **options)(3.0, p, q)
    np.testing.assert_allclose(found.toarray(), dense, rtol=1e-9, atol=1e-9)
    assert error.shape == found.shape == (6, 7)
    tree, error, aux = crelle.jacobian(
        f, argnums=1, has_aux=True, format="csr", pattern=pattern[:, :3], error=True
    )(3.0, p, q)  # fmt: skip
    assert aux == {"seen": 2.0}
    np.testing.assert_allclose(tree["product"][0]["w"].toarray(), np.diag(q.y), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(tree["sum"]["w"].toarray(), 3 * eye, rtol=1e-9, atol=1e-9)
    assert error["sum"]["w"].shape == (3, 3)
    value, _ = crelle.jacobian(neighbours, value=True, format="csr", pattern=band(4))(point(4))
    np.testing.assert_array_equal(value, neighbours(point(4)))


def test_hessians_of_trees_and_patterns_of_one_triangle():
    f = lambda p: np.sum(p["a"] ** 2 * p["b"]) + p["a"][0] ** 3
    p = {"a": point(2), "b": point(2, 3)}
    (a0, a1), (b0, b1) = p["a"], p["b"]
    exact = [
        [2 * b0 + 6 * a0, 0, 2 * a0, 0],
        [0, 2 * b1, 0, 2 * a1],
        [2 * a0, 0, 0, 0],
        [0, 2 * a1, 0, 0],
    ]
    lower = np.tril(np.asarray(exact) != 0)  # made symmetric
    found = crelle.hessian(f, format="csr", pattern=lower, flatten=True)(p)
    np.testing.assert_allclose(found.toarray(), exact, rtol=1e-7, atol=1e-7)
    tree = crelle.hessian(f, format="csr", pattern=lower)(p)
    np.testing.assert_allclose(tree["a"]["b"].toarray(), found.toarray()[:2, 2:], rtol=1e-12)


def test_memory_bounds_the_blocks():
    n = 3000
    x = point(n)
    free = crelle.jacobian(neighbours, format="csr", pattern=band(n), mode="central")(x)
    bound = crelle.jacobian(neighbours, format="csr", pattern=band(n), mode="central", memory="500kB")(x)
    np.testing.assert_allclose(bound.toarray(), free.toarray(), rtol=1e-9, atol=1e-9)


def test_a_dense_row_and_a_dense_column():
    n = 40

    def f(x):
        y = np.abs(x) * x[0]
        y[0] = np.sum(x**2)
        return y

    pattern = np.eye(n)
    pattern[0] = pattern[:, 0] = 1
    x = point(n)
    exact = np.diag(np.full(n, x[0]))
    exact[:, 0], exact[0] = x, 2 * x
    J = crelle.jacobian(f, format="csc", pattern=pattern)
    np.testing.assert_allclose(J(x).toarray(), exact, rtol=1e-8, atol=1e-8)
    assert J.plan(x).passes == 4 * n  # columns meet in the dense row, and rows cannot be had


def test_divergence_of_a_field_whose_pattern_is_known():
    x = point(20)
    found = crelle.divergence(neighbours, pattern=band(20))(x)
    np.testing.assert_allclose(found, np.trace(neighbours_jacobian(x)), rtol=1e-8)


# -- what is refused, and what is found out


def text_of(error):
    return str(error.value)


def test_without_a_pattern_the_reason_is_said():
    with pytest.raises(crelle.CrelleTypeError) as error:
        crelle.jacobian(neighbours, format="csr")(point(3))
    assert text_of(error) == (
        "crelle.jacobian(neighbours): format='csr' needs to know which entries may be nonzero, and a NumPy function "
        "does not show it\n"
        "  called  x: f64[3]\n"
        "  likely  f is a black box: it is evaluated, not traced, and entries that are zero at some points may be "
        "nonzero at others\n"
        "  try     pattern= if you know them: a matrix with their places, or crelle.SparsityPattern; or write f in JAX "
        'or PyTorch, where they are found; or format="dense"'
    )


@pytest.mark.parametrize("f", [neighbours, real_neighbours, lambda x: band(len(x)) @ x])
@pytest.mark.parametrize("missing", [(5, 4), (0, 1), (9, 9)])
def test_a_missing_entry_is_named(f, missing):
    pattern = band(10).toarray()
    pattern[missing] = 0
    with pytest.raises(crelle.CrelleCheckError) as error:
        crelle.jacobian(f, format="csr", pattern=pattern)(point(10))
    i, j = missing
    lines = text_of(error).splitlines()
    assert lines[0].endswith("the pattern that was passed misses entries")
    assert lines[2] == f"  expected  zero at [{i}, {j}], which is not in the pattern"
    assert lines[3].startswith(f"  found     ∂f[{i}]/∂x[{j}] = ")
    if f is not neighbours:
        return
    size = float(lines[3].rpartition(" ")[2])
    assert size == pytest.approx(neighbours_jacobian(point(10))[missing], rel=1e-2)


def test_every_single_missing_entry_is_caught():
    """Also where the product happens to move two columns of one colour as the differences did."""
    full = band(12).toarray()
    for mode in ("central", "complex-step"):
        for i, j in np.argwhere(full):
            pattern = full.copy()
            pattern[i, j] = 0
            with pytest.raises(crelle.CrelleCheckError, match=rf"zero at \[{i}, {j}\]"):
                crelle.jacobian(neighbours, format="csr", pattern=pattern, mode=mode)(point(12))


@pytest.mark.parametrize("f", [rosenbrock, lambda x: rosenbrock(np.abs(x))])
@pytest.mark.parametrize("missing", [(5, 4), (1, 0), (3, 3)])
def test_a_missing_entry_of_a_hessian_is_caught(f, missing):
    pattern = band(10).toarray()
    pattern[missing] = pattern[missing[::-1]] = 0
    with pytest.raises(crelle.CrelleCheckError) as error:
        crelle.hessian(f, format="csr", pattern=pattern)(point(10))
    lines = text_of(error).splitlines()
    i, j = missing
    assert lines[0].endswith("the pattern that was passed misses entries")
    assert lines[2] in {f"  expected  zero at [{a}, {b}], which is not in the pattern" for a, b in ((i, j), (j, i))}
    assert "∂²f/∂x[" in lines[3]
    assert float(lines[3].rpartition(" ")[2]) == pytest.approx(rosenbrock_hessian(point(10))[missing], rel=1e-2)


@pytest.mark.parametrize("f", [rosenbrock, lambda x: rosenbrock(np.abs(x))])
def test_one_missing_entry_of_a_large_hessian_is_caught(f):
    """The errors of all entries add up to more than it; directions that do not meet in the pattern see it alone."""
    n = 600
    for k in (0, 311, 598):
        pattern = band(n).tolil()
        pattern[k, k + 1] = pattern[k + 1, k] = 0
        with pytest.raises(crelle.CrelleCheckError, match=rf"zero at \[({k}, {k + 1}|{k + 1}, {k})\]"):
            crelle.hessian(f, format="csr", pattern=pattern)(point(n))


@pytest.mark.parametrize("digits", [4, 7, 10])
def test_noise_in_a_hessian_is_not_taken_for_a_missing_entry(digits):
    f = lambda x: np.round(rosenbrock(np.abs(x)), digits)
    for seed in range(3):
        crelle.clear_caches()  # checked anew
        found = crelle.hessian(f, format="csr", pattern=band(300))(point(300, seed))
        assert found.nnz == 898


def test_without_the_check_nothing_is_compared():
    pattern = band(10).toarray()
    pattern[5, 4] = 0
    J = crelle.jacobian(real_neighbours, format="csr", pattern=pattern, check=False)
    assert J(point(10)).nnz == 27
    assert J.plan(point(10)).checked == ""


def test_an_entry_that_is_read_only_elsewhere_is_caught_where_complex_steps_are_guarded():
    def f(x):
        return x**2 + np.where(np.real(x[0]) > 1, np.roll(x, 1) ** 3, 0.0)

    x = point(8)
    x[0] = 0.5
    J = crelle.jacobian(f, format="csr", pattern=np.eye(8))
    np.testing.assert_allclose(J(x).toarray(), np.diag(2 * x), rtol=1e-12)
    x[0] = 1.2
    with pytest.raises(crelle.CrelleCheckError, match="misses entries"):
        J(x)


def test_a_pattern_of_another_shape():
    with pytest.raises(crelle.CrelleShapeError) as error:
        crelle.jacobian(neighbours, format="csr", pattern=band(5))(point(4))
    assert "the pattern that was passed is 5 × 5" in text_of(error)
    assert "expected  4 × 4" in text_of(error)


def test_outputs_that_change_their_shape_between_calls():
    size = [3]
    f = lambda x: x[: size[0]] ** 2
    J = crelle.jacobian(f, format="csr", pattern=np.eye(3, 4))
    assert J(point(4)).shape == (3, 4)
    size[0] = 2
    with pytest.raises(crelle.CrelleShapeError, match="the pattern that was passed is 3 × 4"):
        J(point(4))


def test_a_function_that_changes_its_mind_is_looked_at_again():
    state = {"real": False}
    f = lambda x: neighbours(np.abs(x) if state["real"] else x)
    J = crelle.jacobian(f, format="csr", pattern=band(6))
    x = point(6)
    J(x)
    state["real"] = True
    np.testing.assert_allclose(J(x).toarray(), neighbours_jacobian(x), rtol=1e-8, atol=1e-8)
    J(x)
    assert J.plan(x).mode == "coloured columns, central"


@pytest.mark.parametrize("mode", ["forward", "reverse", "complex-step"])
def test_modes_that_cannot_be_used(mode):
    with pytest.raises(crelle.CrelleValueError) as error:
        crelle.jacobian(real_neighbours, format="csr", pattern=band(4), mode=mode)(point(4))
    assert f"mode={mode!r} cannot be used here" in text_of(error)
    assert "try     one of 'central', or leave mode= out" in text_of(error)


def test_random_functions_are_refused():
    rng = np.random.default_rng(0)
    f = lambda x: np.abs(x) + 1e-3 * rng.standard_normal(x.shape)
    with pytest.raises(crelle.CrelleCheckError, match="not deterministic"):
        crelle.jacobian(f, format="csr", pattern=np.eye(4))(point(4))


def test_entries_that_are_not_finite_are_said():
    x = np.array([1.0, 0.0, 4.0])
    with pytest.warns(crelle.CrelleNonFiniteWarning, match=r"derivative \[1, 1\] is nan"):
        found = crelle.jacobian(np.sqrt, format="csr", pattern=np.eye(3))(x)
    np.testing.assert_allclose(found.diagonal()[[0, 2]], [0.5, 0.25], rtol=1e-9)


def test_what_f_raises_says_where():
    def f(x):
        if x[1] != 2.0:
            raise RuntimeError("no")
        return np.abs(x)

    with pytest.raises(RuntimeError) as error:
        crelle.jacobian(f, format="csr", pattern=np.eye(3))(np.array([1.0, 2.0, 3.0]))
    (note,) = error.value.__notes__
    assert note == (
        "crelle.jacobian(f): raised when f was evaluated with x[0] = 1.0 changed to 1.0000152587890625, and 2 more "
        "entries changed"
    )
