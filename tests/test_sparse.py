"""Sparse results against the framework's dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import crelle

N = 30


def burgers(u):
    up = jnp.concatenate([jnp.zeros(1), u, jnp.zeros(1)])
    return up[1:-1] * (up[2:] - up[:-2]) - 0.1 * (up[2:] - 2 * up[1:-1] + up[:-2])


def brusselator(z):
    u, v = z[:16].reshape(4, 4), z[16:].reshape(4, 4)

    def lap(w):
        return sum(jnp.roll(w, s, a) for s in (1, -1) for a in (0, 1)) - 4 * w

    return jnp.concatenate([(1 + u**2 * v + 10 * lap(u)).ravel(), (3.4 * u - u**2 * v + 10 * lap(v)).ravel()])


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def arrow(x):
    return jnp.concatenate([x[:1] * x.sum(), x[1:] * x[0] + x[1:] ** 2])


def tall(x):
    return jnp.concatenate([x**2, jnp.sin(x[1:] * x[:-1]), x])


def linear(x):
    return 3 * jnp.cumsum(x)


JACOBIANS = {"burgers": (burgers, N), "brusselator": (brusselator, 32), "arrow": (arrow, N), "tall": (tall, N),
             "linear": (linear, N), "zero": (lambda x: jnp.zeros(4) + 0 * x[:4].astype(int), 5),
             "dense": (lambda x: jnp.sin(jnp.outer(x, x)).sum(0), 6), "scalar": (lambda x: x[0] * x[1], 3)}  # fmt: skip


def point(n):
    return jnp.asarray(np.random.default_rng(0).uniform(0.3, 1.5, n))


@pytest.mark.parametrize("name", JACOBIANS)
@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
def test_jacobians_on_the_host(name, format):
    f, n = JACOBIANS[name]
    x = point(n)
    J = crelle.jacobian(f, format=format)
    for at in (x, 2 * x):  # the second point uses what the first prepared
        found = J(at)
        assert found.format == format
        np.testing.assert_allclose(found.toarray(), np.atleast_2d(jax.jacfwd(f)(at)), rtol=1e-12, atol=1e-12)
    if format != "coo":
        assert found.has_sorted_indices


def test_passes_are_few():
    assert crelle.jacobian(burgers, format="csr").plan(point(N)).passes == 3
    assert crelle.jacobian(brusselator, format="csr").plan(point(32)).passes == 2  # what varies
    assert crelle.jacobian(arrow, format="csr").plan(point(200)).passes == 3  # from both sides
    assert crelle.jacobian(linear, format="csr").plan(point(N)).passes == 0
    assert crelle.hessian(rosenbrock, format="csr").plan(point(N)).passes <= 3


@pytest.mark.parametrize("format", ["sparse", "csr"])
def test_hessians(format):
    for f in (rosenbrock, lambda x: x[0] * jnp.sum(x[1:] ** 2), lambda x: jnp.sum(x), lambda x: jnp.sum(x**2) / 2):
        H = crelle.hessian(f, format=format)(point(N))
        dense = H.todense() if format == "sparse" else H.toarray()
        np.testing.assert_allclose(dense, jax.hessian(f)(point(N)), rtol=1e-12, atol=1e-12)


def test_bcoo_is_sorted_unique_and_its_structure_constant():
    J = crelle.jacobian(burgers, format="sparse")
    a, b = J(point(N)), J(0 * point(N))
    assert a.indices_sorted and a.unique_indices
    assert a.nse == b.nse == 3 * N - 2
    np.testing.assert_array_equal(a.indices, b.indices)


def test_inside_transformations():
    J = crelle.jacobian(burgers, format="sparse")
    x = point(N)
    np.testing.assert_allclose(jax.jit(lambda x: J(x).data)(x), J(x).data, rtol=1e-13)
    points = jnp.stack([x, 2 * x])
    both = jax.vmap(lambda x: J(x).data)(points)
    np.testing.assert_allclose(both[1], J(2 * x).data, rtol=1e-12)
    slope = jax.grad(lambda x: (J(x).data ** 2).sum())(x)
    dense = jax.grad(lambda x: (jax.jacfwd(burgers)(x) ** 2).sum())(x)
    np.testing.assert_allclose(slope, dense, rtol=1e-10)


def test_triplets_have_fixed_places():
    rows, cols, values = crelle.jacobian(tall, format="triplets")(point(N))
    found = sp.coo_array((values, (rows, cols)), shape=(3 * N - 1, N)).toarray()
    np.testing.assert_allclose(found, jax.jacfwd(tall)(point(N)), rtol=1e-12)
    assert isinstance(values, jax.Array)


def test_blocks_of_a_batch():
    W = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)))
    f = lambda x: jnp.tanh(x @ W)
    X = point(20).reshape(5, 4)
    blocks = crelle.jacobian(f, format="blocks")(X)
    each = jnp.stack([jax.jacfwd(f)(row) for row in X])
    np.testing.assert_allclose(blocks, each, rtol=1e-12)
    assert blocks.shape == (5, 3, 4)
    # whatever the reshapes around
    g = lambda x: f(x.reshape(4, 5).T).T.reshape(-1)
    np.testing.assert_allclose(crelle.jacobian(g, format="blocks")(X.T.reshape(-1)), each, rtol=1e-12)


def test_bands_are_lapacks():
    import scipy.linalg

    ab = np.asarray(crelle.jacobian(lambda u: burgers(u) + 5 * u, format="banded")(point(N)))
    dense = np.asarray(jax.jacfwd(lambda u: burgers(u) + 5 * u)(point(N)))
    b = np.arange(N) + 1.0
    np.testing.assert_allclose(scipy.linalg.solve_banded((1, 1), ab, b), np.linalg.solve(dense, b), rtol=1e-10)


def test_diagonals():
    np.testing.assert_allclose(
        crelle.jacobian(burgers, format="diagonal")(point(N)), jnp.diagonal(jax.jacfwd(burgers)(point(N))), rtol=1e-12
    )


def test_value_and_aux_come_along():
    f = lambda x, c: (burgers(x) * c, {"n": x.sum()})
    (value, aux), J = crelle.jacobian(f, has_aux=True, value=True, format="csr")(point(N), 2.0)
    np.testing.assert_allclose(value, 2 * burgers(point(N)), rtol=1e-13)
    np.testing.assert_allclose(aux["n"], point(N).sum(), rtol=1e-13)
    np.testing.assert_allclose(J.toarray(), 2 * jax.jacfwd(burgers)(point(N)), rtol=1e-12, atol=1e-13)


def test_trees_are_one_flat_matrix():
    f = lambda p: {"a": p["w"] ** 2, "b": p["w"] * p["v"]}
    p = {"w": point(4), "v": point(4) + 1}
    found = crelle.jacobian(f, format="csr", flatten=True)(p).toarray()
    np.testing.assert_allclose(found, crelle.jacobian(f, flatten=True)(p), rtol=1e-12)


@pytest.mark.parametrize("format", ["sparse", "csr", "csc", "coo", "triplets"])
def test_trees_keep_their_blocks(format):
    f = lambda p: {"a": p["w"] ** 2, "b": (p["w"] * p["v"].ravel()).reshape(3, 2)}
    p = {"w": point(6), "v": point(6).reshape(2, 3) + 1}
    found, expected = crelle.jacobian(f, format=format)(p), jax.jacfwd(f)(p)
    for out, size in (("a", 6), ("b", 6)):
        for name in ("w", "v"):
            block, dense = found[out][name], np.asarray(expected[out][name]).reshape(size, 6)
            if format == "triplets":
                rows, cols, values = block
                block = sp.coo_array((np.asarray(values), (rows, cols)), shape=(6, 6))
            dense_block = block.todense() if format == "sparse" else block.toarray()
            np.testing.assert_allclose(dense_block, dense, rtol=1e-12)
    assert (found["a"]["v"][2].size if format == "triplets" else found["a"]["v"].nse if format == "sparse" else
            found["a"]["v"].nnz) == 0  # fmt: skip


def test_pytorch_trees_keep_their_blocks():
    f = lambda p: (p["w"] ** 2, p["w"] * p["v"])
    p = {"w": torch.linspace(0.5, 1.5, 5, dtype=torch.float64), "v": torch.ones(5, dtype=torch.float64)}
    found, expected = crelle.jacobian(f, format="sparse")(p), torch.func.jacrev(f)(p)
    for i in range(2):
        for name in ("w", "v"):
            torch.testing.assert_close(found[i][name].to_dense(), expected[i][name])


def test_a_hessian_of_a_tree_is_a_tree_of_blocks():
    f = lambda p: jnp.sum(p["u"] ** 2 * p["v"]) + jnp.sum(p["v"] ** 3)
    p = {"u": point(4), "v": point(4) + 1}
    found, expected = crelle.hessian(f, format="csr")(p), jax.hessian(f)(p)
    for a in "uv":
        for b in "uv":
            np.testing.assert_allclose(found[a][b].toarray(), expected[a][b], rtol=1e-12)


def test_blocks_that_are_coupled_say_by_what():
    W = jnp.ones((4, 3))
    f = lambda X: jnp.tanh(X @ W) - jnp.mean(X)
    with pytest.raises(crelle.CrelleValueError) as caught:
        crelle.jacobian(f, format="blocks")(jnp.ones((5, 4)))
    text = str(caught.value)
    assert "format='blocks' needs independent blocks of one shape" in text
    assert "entry [0, 0] of the output depends on entry [1, 0] of the input, which belongs to another sample" in text


def test_coefficients_that_depend_on_other_arguments_are_not_kept():
    f = lambda x, c: c * x
    J = crelle.jacobian(f, format="csr")
    for c in (2.0, 3.0):
        np.testing.assert_allclose(J(point(4), jnp.full(4, c)).diagonal(), c, rtol=1e-14)


def test_captured_masks_that_change_are_seen():
    mask = np.ones(N)
    f = lambda x: mask * x**2
    J = crelle.jacobian(f, format="csr")
    assert J(point(N)).nnz == N
    mask[:10] = 0
    assert J(point(N)).nnz == N - 10
    mask[:10] = 7
    np.testing.assert_allclose(J(point(N)).diagonal(), 2 * mask * point(N), rtol=1e-13)


def test_a_given_pattern_that_misses_entries_is_caught():
    with pytest.raises(crelle.CrelleCheckError, match="the sparse result is wrong") as caught:
        crelle.jacobian(burgers, format="csr", pattern=np.eye(N))(point(N))
    assert "likely    the pattern that was passed" in str(caught.value)


def test_the_plan_says_what_is_run():
    J = crelle.jacobian(brusselator, format="csr")
    J(point(32))
    text = str(J.plan(point(32)))
    assert "coloured columns  2 JVPs" in text
    assert "of the entries are the same for every input: computed once, with" in text
    assert "checked   1 random product against an independent JVP" in text


def test_keywords_that_do_not_go_together_are_refused():
    with pytest.raises(crelle.CrelleValueError, match="cannot be combined with rows="):
        crelle.jacobian(burgers, format="csr", rows=1)
    with pytest.raises(crelle.CrelleValueError, match="format='matrix' is not known"):
        crelle.jacobian(burgers, format="matrix")


# -- a part of the matrix


@pytest.mark.parametrize("part", ["diagonal", "lower", "upper", ("band", 2, 1), ("blocks", 3), "mask"])
@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_part_is_what_the_dense_matrix_has_there(part, framework):
    x = np.linspace(0.1, 1.3, 12)
    if framework == "jax":
        f, given = lambda x: jnp.sin(x) * jnp.roll(x, 1) + jnp.roll(x, -1) ** 2 + 3 * jnp.roll(x, 4), jnp.asarray(x)
        dense = np.asarray(jax.jacfwd(f)(given))
    else:
        f, given = (
            lambda x: torch.sin(x) * torch.roll(x, 1) + torch.roll(x, -1) ** 2 + 3 * torch.roll(x, 4),
            torch.from_numpy(x),
        )
        dense = torch.func.jacfwd(f)(given).numpy()
    i, j = np.indices((12, 12))
    marked = {
        "diagonal": i == j, "lower": i >= j, "upper": i <= j, ("band", 2, 1): (j - i <= 1) & (i - j <= 2),
        ("blocks", 3): i // 3 == j // 3, "mask": (i + j) % 5 == 0,
    }[part]  # fmt: skip
    J = crelle.jacobian(f, format="csr", part=marked if part == "mask" else part)
    found = J(given)
    np.testing.assert_allclose(found.toarray(), np.where(marked, dense, 0), rtol=1e-12, atol=1e-12)
    assert found.nnz == np.count_nonzero(dense * marked)
    assert J.plan(given).passes <= crelle.jacobian(f, format="csr").plan(given).passes
    assert "1 row against an independent VJP" in J.plan(given).checked


def test_the_diagonal_of_a_dense_matrix_costs_one_product_where_the_rest_is_constant():
    A = jnp.asarray(np.random.default_rng(0).standard_normal((30, 30)))
    f = lambda x: jnp.tanh(x) + A @ x
    x = jnp.linspace(-1.0, 1.0, 30)
    J = crelle.jacobian(f, format="diagonal")
    np.testing.assert_allclose(J(x), np.diag(jax.jacfwd(f)(x)), rtol=1e-12)
    assert J.plan(x).passes == 1


@pytest.mark.parametrize("part", ["lower", "diagonal"])
def test_a_triangle_of_a_hessian(part):
    f = lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    x = jnp.linspace(0.5, 1.5, 20)
    rows, cols, values = crelle.hessian(f, format="triplets", part=part)(x)
    H = np.asarray(jax.hessian(f)(x))
    assert (rows >= cols).all() if part == "lower" else (rows == cols).all()
    np.testing.assert_allclose(values, H[rows, cols], rtol=1e-12)
    assert len(rows) == (39 if part == "lower" else 20)


def test_parts_in_other_formats():
    f = lambda x: jnp.sin(x) * jnp.roll(x, 1) + x[::-1] ** 2
    x = jnp.linspace(0.1, 1.3, 12)
    dense = np.asarray(jax.jacfwd(f)(x))
    blocks = crelle.jacobian(f, format="blocks", part=("blocks", 4))(x)
    np.testing.assert_allclose(blocks, [dense[k : k + 4, k : k + 4] for k in (0, 4, 8)], rtol=1e-12)
    band = crelle.jacobian(f, format="banded", part=("band", 1, 2))(x)
    assert band.shape == (4, 12)
    np.testing.assert_allclose(band[2], np.diag(dense), rtol=1e-12)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("middle", "part='middle' is not known"),
        (("band", -1, 2), r"part=\('band', -1, 2\) is not known"),
        (("blocks", 5), r"part=\('blocks', 5, 5\) does not cut the 12 × 12 matrix into blocks"),
        (np.eye(3), "part= is 3 × 3"),
    ],
)
def test_a_part_that_cannot_be(part, text):
    with pytest.raises(crelle.CrelleError, match=text):
        crelle.jacobian(lambda x: x**2, format="csr", part=part)(jnp.ones(12))


def test_a_part_goes_with_a_sparse_format():
    with pytest.raises(crelle.CrelleValueError, match="part= goes with a sparse format"):
        crelle.jacobian(jnp.sin, part="diagonal")


# -- plans


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_plans_are_measured_and_called(framework):
    scale = jnp.full(N, 2.0) if framework == "jax" else torch.full((N,), 2.0, dtype=torch.float64)
    kept = {"scale": scale}
    f = lambda x: kept["scale"] * x[1:].sum() * 0 + kept["scale"] * x**3
    x = jnp.linspace(0.1, 1.0, N) if framework == "jax" else torch.linspace(0.1, 1.0, N, dtype=torch.float64)
    plan = crelle.jacobian(f, format="csr").plan(x, analyze=True)
    assert plan.candidates[0].measured > 0
    assert "relative error" in plan.checked
    np.testing.assert_allclose(plan(2 * x).diagonal(), 6 * np.asarray(2 * x) ** 2, rtol=1e-12)
    with pytest.raises(crelle.CrelleShapeError, match="this plan was made for other inputs"):
        plan(x[1:])


def test_a_plan_of_shapes_is_not_measured():
    with pytest.raises(crelle.CrelleTypeError, match="analyze=True runs f"):
        crelle.jacobian(burgers, format="csr").plan(jax.ShapeDtypeStruct((N,), np.float64), analyze=True)


@pytest.mark.parametrize("format", ["triplets", "dense"])
def test_values_of_a_transformation_may_be_captured(format):
    x, p = point(N), jnp.linspace(1.0, 2.0, N)

    def entries(x, p):
        found = crelle.jacobian(lambda z: p * z**2 + 3 * jnp.roll(z, 1), format=format)(x)
        return jnp.diag(found) if format == "dense" else found[2][found[0] == found[1]]

    for run in (jax.jit(entries), lambda x, p: jax.vmap(entries)(x[None], p[None])[0]):
        np.testing.assert_allclose(run(x, p), 2 * p * x, rtol=1e-12)
    slope = jax.jit(jax.grad(lambda p: entries(x, p).sum()))(p)
    np.testing.assert_allclose(slope, 2 * x, rtol=1e-12)


def test_a_captured_index_of_a_transformation_is_conservative():
    x = point(6)
    f = lambda x, i: crelle.jacobian(lambda z: z[i] * z, format="sparse")(x).todense()
    i = jnp.array([1, 2, 3, 4, 5, 0])
    np.testing.assert_allclose(jax.jit(f)(x, i), jax.jacfwd(lambda z: z[i] * z)(x), rtol=1e-12)
