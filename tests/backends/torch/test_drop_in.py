"""The same shapes, trees and numbers as torch.func, on every kind of input."""

from __future__ import annotations

import collections

import pytest
import torch
from torch import nn
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import crelle
from tests.backends.torch.reference import assert_close, flat_hessian, flat_jacobian

MODES = ["auto", "forward", "reverse"]
NESTINGS = ["auto", "forward-over-reverse", "reverse-over-forward", "reverse-over-reverse", "forward-over-forward"]


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def tree_function(p):
    u = torch.tanh(p["a"] @ p["b"][0])
    return {"u": u, "v": (p["b"][1] ** 2).sum() * u.sum()}


def tree():
    return {"a": torch.randn(2, 3), "b": (torch.randn(3), torch.randn(()))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_trees_in_every_mode_and_chunk(mode, chunk):
    p = tree()
    assert_close(crelle.jacobian(tree_function, mode=mode, chunk=chunk)(p), jacrev(tree_function)(p))


@pytest.mark.parametrize("mode", NESTINGS)
@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_hessians_in_every_nesting_and_chunk(mode, chunk):
    f = lambda p: tree_function(p)["v"] + tree_function(p)["u"].prod()
    p = tree()
    assert_close(crelle.hessian(f, mode=mode, chunk=chunk)(p), hessian(f)(p))


@pytest.mark.parametrize("argnums", [0, 1, -1, (0,), (0, 1), (1, 0)])
def test_argnums(argnums):
    f = lambda x, y, *, scale=2.0: scale * torch.outer(x, y).sin()  # torch.func takes no keyword arguments
    x, y = torch.randn(2), torch.randn(3)
    assert_close(crelle.jacobian(f, argnums)(x, y, scale=2.0), jacrev(f, argnums)(x, y))


def test_shapes():
    x = torch.randn(2, 3)
    for f in (lambda x: x.sum(), lambda x: x.T @ x, lambda x: x[:0], lambda x: x.reshape(1, 6, 1).exp()):
        assert_close(crelle.jacobian(f)(x), jacrev(f)(x))
    assert_close(crelle.jacobian(torch.sin)(torch.tensor(0.3)), jacrev(torch.sin)(torch.tensor(0.3)))
    assert crelle.jacobian(lambda x: x * 2)(torch.zeros(0, 3)).shape == (0, 3, 0, 3)


def test_float32_stays_float32():
    x = torch.randn(3, dtype=torch.float32)
    assert crelle.jacobian(torch.sin)(x).dtype is torch.float32
    assert crelle.hessian(lambda x: x.sin().sum())(x).dtype is torch.float32


def test_unused_and_constant_are_zero():
    x = torch.randn(3)
    assert_close(crelle.jacobian(lambda p: p["a"] * 2)({"a": x, "b": x})["b"], torch.zeros(3, 3))
    assert_close(crelle.jacobian(lambda x: torch.ones(2))(x), torch.zeros(2, 3))
    assert_close(crelle.hessian(lambda x: x.sum())(x), torch.zeros(3, 3))


def test_value_and_aux_nest_as_in_value_and_grad():
    f = lambda x: ({"y": x * 2}, {"n": 3, "t": x.sum(), "none": None})
    x = torch.randn(3)
    (value, aux), jac = crelle.jacobian(f, has_aux=True, value=True)(x)
    assert_close(value["y"], x * 2)
    assert aux["n"] == 3 and aux["none"] is None
    assert_close(aux["t"], x.sum())
    assert_close(jac["y"], 2 * torch.eye(3))
    jac, aux = crelle.jacobian(f, has_aux=True)(x)
    assert_close(jac["y"], 2 * torch.eye(3))
    value, slope = crelle.gradient(lambda x: (x**2).sum(), value=True)(x)
    assert_close((value, slope), ((x**2).sum(), 2 * x))


def test_value_takes_no_further_evaluation():
    calls = []

    def f(x):
        calls.append(1)
        return x.sin()

    for mode in ("forward", "reverse"):
        counts = []
        for value in (False, True):  # f has a side effect, so it is run anew at each call, and can be counted
            J = crelle.jacobian(f, value=value, mode=mode)
            J(torch.randn(3))
            calls.clear()
            J(torch.randn(3))
            counts.append(len(calls))
        assert counts[0] == counts[1] == 1


def test_named_tuples():
    Point = collections.namedtuple("Point", "x y")
    f = lambda p: Point(p.x * p.y, p.x.sum())
    p = Point(torch.randn(2), torch.randn(2))
    assert_close(crelle.jacobian(f)(p), jacrev(f)(p))


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_holomorphic(mode):
    z = torch.randn(3, dtype=torch.complex128)
    expected = torch.diag(2 * z * z.sum()) + (z**2)[:, None]
    assert_close(crelle.jacobian(lambda z: z**2 * z.sum(), holomorphic=True, mode=mode)(z), expected)


def test_holomorphic_hessian():
    z = torch.randn(3, dtype=torch.complex128)
    assert_close(crelle.hessian(lambda z: (z**3).sum(), holomorphic=True)(z), torch.diag(6 * z))


def test_complex_output_of_real_input_and_real_output_of_complex_input():
    x = torch.randn(3)
    assert_close(crelle.jacobian(lambda x: torch.exp(1j * x))(x), torch.diag(1j * torch.exp(1j * x)))
    z = torch.randn(3, dtype=torch.complex128)
    f = lambda z: (z.abs() ** 2).sum()
    assert_close(crelle.gradient(f)(z), grad(f)(z))


def test_flatten_rows_columns_entries_and_their_passes():
    f = lambda p: (p["a"] @ p["b"], p["a"].sin())
    p = {"a": torch.randn(2, 3), "b": torch.randn(3)}
    whole = flat_jacobian(lambda a, b: f({"a": a, "b": b}), p["a"], p["b"])
    assert_close(crelle.jacobian(f, flatten=True)(p), whole)
    assert_close(crelle.jacobian(f, rows=3)(p), whole[3])
    assert_close(crelle.jacobian(f, rows=[1, -1], cols=slice(0, 4))(p), whole[[1, -1]][:, :4])
    assert_close(crelle.jacobian(f, entries=[(0, 1), (7, 8)])(p), whole[[0, 7], [1, 8]])
    assert_close(crelle.jacobian(f, entries=(0, 1))(p), whole[0, 1])
    assert crelle.jacobian(f, rows=[1, 3], mode="reverse").plan(p).passes == 2
    assert crelle.jacobian(f, cols=[1, 3, 1], mode="forward").plan(p).passes == 2
    assert crelle.jacobian(f, rows=[])(p).shape == (0, 9)


def test_slices_of_a_hessian_use_its_symmetry():
    f = lambda x: (x.sin() * x.flip(0)).sum() + x.prod()
    x = torch.randn(5)
    whole = flat_hessian(f, x)
    for keywords in ({"rows": 1}, {"cols": 1}, {"rows": [0, 2], "cols": [1]}):
        got = crelle.hessian(f, **keywords)
        assert got.plan(x).passes == 1
        rows, cols = keywords.get("rows", slice(None)), keywords.get("cols", slice(None))
        expected = whole[rows][:, cols] if isinstance(rows, list) else whole[rows, cols]
        assert_close(got(x), expected)


def test_under_torch_func_and_composed():
    f = lambda x: torch.tanh(x.outer(x)).sum(0)
    X, x = torch.randn(4, 3), torch.randn(3)
    assert_close(vmap(crelle.jacobian(f))(X), vmap(jacrev(f))(X))
    assert_close(
        grad(lambda x: crelle.jacobian(f)(x).square().sum())(x), grad(lambda x: jacrev(f)(x).square().sum())(x)
    )
    assert_close(jacfwd(crelle.jacobian(f))(x), jacfwd(jacrev(f))(x))
    assert_close(crelle.jacobian(crelle.jacobian(f))(x), jacrev(jacrev(f))(x))
    assert_close(crelle.jacobian(jacrev(f))(x), jacrev(jacrev(f))(x))


def test_a_derivative_inside_the_function_is_kept_in_the_graph():
    J = crelle.jacobian(lambda x: x.sin() * x.sum())
    outer = crelle.gradient(lambda x: J(x).square().sum())
    x = torch.randn(3)
    expected = grad(lambda x: jacrev(lambda x: x.sin() * x.sum())(x).square().sum())(x)
    assert_close(outer(x), expected)
    assert "not traced" not in str(outer.plan(x))


@pytest.mark.parametrize("mode", MODES)
def test_results_are_differentiable(mode):
    w = torch.randn(3, 3, requires_grad=True)
    f = lambda x: torch.tanh(w @ x)
    x = torch.randn(3, requires_grad=True)

    def slopes(transform):
        return torch.autograd.grad(transform(f)(x).square().sum(), (x, w))

    expected = slopes(jacrev)
    for _ in range(2):
        assert_close(slopes(lambda f: crelle.jacobian(f, mode=mode)), expected)
    assert_close(slopes(lambda f: crelle.jacobian(f, mode=mode, chunk=2)), expected)


def test_stopped_gradients_stay_stopped():
    w = torch.randn(3, requires_grad=True)
    x = torch.randn(3, requires_grad=True)

    def no_grad(x):
        with torch.no_grad():
            c = x.sin()
        return c * x * w

    for f in (lambda x: x * x.detach() * w, no_grad, lambda x: x * x.data * w):
        expected = torch.autograd.grad(jacrev(f)(x).sum(), (x, w), allow_unused=True, materialize_grads=True)
        got = torch.autograd.grad(crelle.jacobian(f)(x).sum(), (x, w), allow_unused=True, materialize_grads=True)
        assert_close(got, expected)


def test_no_grad_and_inference_mode():
    w = torch.randn(3, 3, requires_grad=True)
    f = lambda x: torch.tanh(w @ x)
    x = torch.randn(3)
    assert crelle.jacobian(f)(x).requires_grad
    with torch.no_grad():
        got = crelle.jacobian(f)(x)
    assert not got.requires_grad
    assert_close(got, jacrev(f)(x).detach())
    with torch.inference_mode():
        inside = crelle.jacobian(f)(torch.ones(3))
        made_there = torch.randn(3)
        assert_close(crelle.jacobian(lambda x: x * made_there)(made_there), torch.diag(made_there))
    assert_close(inside.clone(), jacrev(f)(torch.ones(3)).detach())


def test_modules_by_inputs_and_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).eval()
    model[1].running_mean.uniform_()
    x = torch.randn(5, 3)
    assert_close(crelle.jacobian(model)(x), jacrev(model)(x))
    got = crelle.jacobian(model, wrt="params")
    expected = jacrev(lambda p: torch.func.functional_call(model, p, x))(dict(model.named_parameters()))
    assert_close(got(x), expected)
    model[1].running_mean.add_(1.0)
    expected = jacrev(lambda p: torch.func.functional_call(model, p, x))(dict(model.named_parameters()))
    assert_close(got(x), expected)
    model[0].weight.requires_grad_(False)
    assert "0.weight" not in got(x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in what torch.compile imports
def test_compiled_graphs():
    f = lambda x: torch.tanh(x).outer(x).sum(0)
    x = torch.randn(3)
    assert_close(crelle.jacobian(f, compile=True)(x), jacrev(f)(x))
    assert_close(crelle.jacobian(f, compile=True, chunk=2)(x), jacrev(f)(x))


def test_called_plans_and_saved_plans(tmp_path):
    f = lambda x: torch.sin(x) * x.sum()
    x = torch.randn(4)
    plan = crelle.jacobian(f, mode="forward").plan(x)
    assert_close(plan(x + 1), jacrev(f)(x + 1))
    plan.save(tmp_path / "plan.json")
    loaded = crelle.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    again = crelle.jacobian(f, plan=loaded)
    assert again.plan(x).mode == "forward"
    assert_close(again(x), jacrev(f)(x))


def test_memory_bound_chooses_a_chunk():
    a = torch.randn(300, 40)
    f = lambda x: torch.tanh(a @ x)
    x = torch.randn(40)
    J = crelle.jacobian(f, memory="40kB")
    plan = J.plan(x)
    assert plan.chunk is not None and plan.bytes <= 40_000
    assert_close(J(x), jacrev(f)(x))
    H = crelle.hessian(lambda x: f(x).square().sum(), memory="30kB")
    assert H.plan(x).chunk is not None and H.plan(x).bytes <= 30_000
    assert_close(H(x), hessian(lambda x: f(x).square().sum())(x))


@pytest.mark.parametrize(
    "f",
    [
        lambda x, w: torch.linalg.solve(w @ w.T + 3 * torch.eye(3), x.sin()),
        lambda x, w: torch.logdet(w * x + 3 * torch.eye(3))[None],
        lambda x, w: torch.nn.functional.silu(w @ x),
    ],
    ids=["solve", "logdet", "silu"],
)
def test_fused_rules_are_differentiated_again(f):
    x, w = torch.rand(3, requires_grad=True), torch.rand(3, 3, requires_grad=True)

    def slopes(transform):
        return torch.autograd.grad(transform(lambda x: f(x, w))(x).square().sum(), (x, w))

    expected = slopes(jacrev)
    for _ in range(2):
        assert_close(slopes(crelle.jacobian), expected)
