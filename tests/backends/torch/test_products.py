"""jvp, vjp and hvp of PyTorch functions against ``torch.func``, and against differences where PyTorch has no rule."""

from __future__ import annotations

import pytest
import torch
from torch import func, nn
from torch.utils import _pytree as pytree

import crelle

RTOL = 1e-12
F64 = torch.float64


@pytest.fixture
def gen():
    return torch.Generator().manual_seed(1841)


def randn(gen, *shape, dtype=F64):
    return torch.randn(shape, generator=gen, dtype=dtype)


def same(got, expected):
    """Equal trees, shapes and dtypes, and values to 1e-12."""
    got_leaves, got_tree = pytree.tree_flatten(got)
    expected_leaves, expected_tree = pytree.tree_flatten(expected)
    assert got_tree == expected_tree
    for a, b in zip(got_leaves, expected_leaves, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        scale = float(b.detach().abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=RTOL, atol=RTOL * scale)


def wide(x):
    return torch.stack([torch.sin(x[0]) * x[1], x[1] * x[2] ** 2])


def loss(x):
    return (torch.sin(x) * x.roll(1) ** 2).sum()


def tree_function(params, x):
    hidden = torch.tanh(params["w"] @ x + params["b"][0])
    return {"h": hidden, "s": ((hidden**2).sum(),)}


def tree(gen):
    return {"w": randn(gen, 4, 3), "b": [randn(gen, 4)]}, randn(gen, 3)


def like(tree, gen):
    return pytree.tree_map(lambda leaf: randn(gen, *leaf.shape, dtype=leaf.dtype), tree)


CASES = {
    "vector": (wide, lambda gen: (randn(gen, 3),)),
    "scalar": (torch.exp, lambda gen: (torch.tensor(0.3, dtype=F64),)),
    "matrix": (lambda x: x.T @ x, lambda gen: (randn(gen, 2, 3),)),
    "empty in": (lambda x: torch.ones(2, dtype=F64) * x.sum(), lambda gen: (torch.zeros(0, 3, dtype=F64),)),
    "empty out": (lambda x: x[:0], lambda gen: (randn(gen, 3),)),
    "two arguments": (torch.outer, lambda gen: (randn(gen, 2), randn(gen, 3))),
    "unused": (lambda x, y: 2 * x, lambda gen: (randn(gen, 2), randn(gen, 3))),
    "constant": (lambda x: torch.ones(2, dtype=F64), lambda gen: (randn(gen, 3),)),
    "float32": (torch.sin, lambda gen: (randn(gen, 3, dtype=torch.float32),)),
    "complex": (lambda z: z**2 * 1j, lambda gen: (randn(gen, 3, dtype=torch.complex128),)),
    "complex out": (lambda x: x * (1 + 2j), lambda gen: (randn(gen, 3),)),
    "complex in": (lambda z: z.abs() ** 2, lambda gen: (randn(gen, 3, dtype=torch.complex128),)),
    "trees": (tree_function, tree),
}


@pytest.mark.parametrize("case", CASES)
def test_jvp_is_that_of_torch(case, gen):
    f, make = CASES[case]
    primals = make(gen)
    tangents = like(primals, gen)
    same(crelle.jvp(f, primals, tangents), func.jvp(f, primals, tangents))


@pytest.mark.parametrize("case", CASES)
def test_vjp_is_that_of_torch(case, gen):
    f, make = CASES[case]
    primals = make(gen)
    value, pull = crelle.vjp(f, *primals)
    expected, expected_pull = func.vjp(f, *primals)
    cotangent = like(expected, gen)
    same(value, expected)
    for _ in range(2):
        same(pull(cotangent), expected_pull(cotangent))
    assert isinstance(pull(cotangent, retain_graph=False), tuple)


def test_a_cotangent_of_another_precision_is_converted_as_torch_does():
    x = torch.arange(3, dtype=F64)
    same(crelle.vjp(torch.sin, x)[1](torch.ones(3)), (torch.cos(x),))
    with pytest.raises(crelle.CrelleShapeError, match=r"cotangent c128\[3\] for output f64\[3\]"):
        crelle.vjp(torch.sin, x)[1](torch.ones(3, dtype=torch.complex128))


def test_aux_of_any_kind(gen):
    """``torch.func`` refuses aux that holds anything but tensors."""
    x = randn(gen, 3)
    f = lambda x: ((x**2).sum(), {"x": 2 * x, "name": "norm", "none": None, "n": 3})
    value, product, aux = crelle.jvp(f, (x,), (x,), has_aux=True)
    same((value, product), func.jvp(lambda x: (x**2).sum(), (x,), (x,)))
    assert list(aux) == ["x", "name", "none", "n"] and aux["name"] == "norm" and aux["none"] is None
    same(aux["x"], 2 * x)
    _, pull, aux = crelle.vjp(f, x, has_aux=True)
    same(pull(torch.tensor(1.0, dtype=F64)), (2 * x,))
    assert aux["n"] == 3


def test_hvp_is_the_hessian_times_the_vector(gen):
    x, v = randn(gen, 2, 5)
    value, product = crelle.hvp(loss, (x,), (v,), value=True)
    same(value, loss(x))
    same(product, func.hessian(loss)(x) @ v)
    same(crelle.hvp(loss, (x,), (v,)), product)


def test_hvp_of_trees_and_several_arguments(gen):
    f = lambda params, x: tree_function(params, x)["s"][0]
    primals = tree(gen)
    tangents = like(primals, gen)
    same(crelle.hvp(f, primals, tangents), func.jvp(func.grad(f, (0, 1)), primals, tangents)[1])


def test_hvp_of_a_scalar_and_of_nothing():
    x = torch.tensor(0.5, dtype=F64)
    same(crelle.hvp(torch.sin, (x,), (2 * x,)), -torch.sin(x))
    empty = torch.zeros(0, 2, dtype=F64)
    same(crelle.hvp(lambda x: (x**2).sum(), (empty,), (empty,)), empty)


def test_under_transforms(gen):
    x, v = randn(gen, 2, 4, 3)
    jvp = lambda product, x, v: product(wide, (x,), (v,))[1]
    same(func.vmap(lambda x, v: jvp(crelle.jvp, x, v))(x, v), func.vmap(lambda x, v: jvp(func.jvp, x, v))(x, v))
    same(
        func.grad(lambda x: (jvp(crelle.jvp, x, v[0]) ** 2).sum())(x[0]),
        func.grad(lambda x: (jvp(func.jvp, x, v[0]) ** 2).sum())(x[0]),
    )
    pull = lambda product, x: product(wide, x)[1](torch.ones(2, dtype=F64))[0]
    same(func.vmap(lambda x: pull(crelle.vjp, x))(x), func.vmap(lambda x: pull(func.vjp, x))(x))
    same(func.jacfwd(lambda x: pull(crelle.vjp, x))(x[0]), func.jacfwd(lambda x: pull(func.vjp, x))(x[0]))
    hvp = lambda x, v: crelle.hvp(loss, (x,), (v,))
    same(func.vmap(hvp)(x, v), torch.stack([func.hessian(loss)(a) @ b for a, b in zip(x, v, strict=True)]))


def test_results_are_differentiable(gen):
    """By plain autograd, where the input requires grad."""
    x, v = randn(gen, 2, 3)
    for f, expected in (
        (lambda x: crelle.jvp(wide, (x,), (v,))[1].sum(), lambda x: func.jvp(wide, (x,), (v,))[1].sum()),
        (lambda x: crelle.vjp(wide, x)[1](v[:2])[0].sum(), lambda x: func.vjp(wide, x)[1](v[:2])[0].sum()),
        (lambda x: crelle.hvp(loss, (x,), (v,)).sum(), lambda x: (func.hessian(loss)(x) @ v).sum()),
    ):
        leaf = x.clone().requires_grad_()
        f(leaf).backward()
        same(leaf.grad, func.grad(expected)(x))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(context, gen):
    x, v = randn(gen, 2, 3)
    expected = func.jvp(wide, (x,), (v,)), func.vjp(wide, x)[1](v[:2]), func.hessian(loss)(x) @ v
    with context():
        got = crelle.jvp(wide, (x,), (v,)), crelle.vjp(wide, x)[1](v[:2]), crelle.hvp(loss, (x,), (v,))
    same(got, expected)


def test_modules(gen):
    torch.manual_seed(1841)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    x, v = randn(gen, 2, 5, 3)
    with pytest.raises(crelle.CrelleTypeError, match=r"crelle.jvp\(Sequential\): layer 2 is Dropout in train mode"):
        crelle.jvp(net, (x,), (v,))
    net.eval()
    same(crelle.jvp(net, (x,), (v,)), func.jvp(net, (x,), (v,)))
    value, pull = crelle.vjp(net, x)
    same(pull(value), func.vjp(net, x)[1](value))
    names = dict(net.named_parameters())
    f = lambda params: (func.functional_call(net, params, (x,)) ** 2).mean()
    params = {key: p.detach() for key, p in names.items()}
    directions = like(params, gen)
    same(crelle.hvp(f, (params,), (directions,)), func.jvp(func.grad(f), (params,), (directions,))[1])


def difference(f, x, v, h=1e-6):
    return (f(x + h * v) - f(x - h * v)) / (2 * h)


class ReverseOnly(torch.autograd.Function):
    """A custom rule without ``jvp``."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


INDEX = torch.tensor([0, 0, 1])
# PyTorch 2.13: no forward rule, or (the products) a forward rule that gives zero.
HOLES = {
    "custom function": ReverseOnly.apply,
    "scatter_reduce prod": lambda x: torch.zeros(2, dtype=F64).scatter_reduce(0, INDEX, x, "prod", include_self=False),
    "scatter_reduce prod by name": lambda x: torch.ones(2, dtype=F64).scatter_reduce(0, INDEX, x, reduce="prod"),
    "index_reduce": lambda x: torch.ones(2, dtype=F64).index_reduce(0, INDEX, x, "prod"),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(
        *[(x * s).reshape(1, 1, 3, 1) for s in (1, 2, 3)]
    ),
}


@pytest.mark.filterwarnings("ignore:index_reduce")  # is in beta, says PyTorch
@pytest.mark.parametrize("name", HOLES)
def test_operations_that_torch_has_no_right_forward_rule_for(name, gen):
    """Against central differences; their own error is about 1e-9."""
    f = HOLES[name]
    x, v = randn(gen, 3) + 3, randn(gen, 3)
    value, product = crelle.jvp(f, (x,), (v,))
    same(value, f(x))
    torch.testing.assert_close(product, difference(f, x, v), rtol=1e-7, atol=1e-8)
    total = lambda x: (f(x) ** 3).sum()
    expected = difference(func.grad(total), x, v)
    torch.testing.assert_close(
        crelle.hvp(total, (x,), (v,)), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())
    )


def test_hvp_of_a_mean_squared_error(gen):
    """Its forward rule raises in PyTorch 2.13 (ZeroTensors are immutable)."""
    x, v, weights = randn(gen, 2), randn(gen, 2), randn(gen, 3, 2)
    target = randn(gen, 3)
    f = lambda x: nn.functional.mse_loss(weights @ x, target)
    same(crelle.hvp(f, (x,), (v,)), weights.T @ (weights @ v) * 2 / 3)


def test_a_recurrent_layer(gen):
    """The fused LSTM has no forward rule and no second derivative in float32: the plain kernel has both."""
    torch.manual_seed(1841)
    layer = nn.LSTM(3, 4)
    x, v = randn(gen, 2, 5, 2, 3, dtype=torch.float32)
    f = lambda x: (layer(x)[0] ** 2).sum()
    same64 = nn.LSTM(3, 4).double()
    same64.load_state_dict({key: p.double() for key, p in layer.state_dict().items()})
    g = lambda x: (same64(x)[0] ** 2).sum()
    expected = difference(lambda x: func.grad(g)(x), x.double(), v.double())
    torch.testing.assert_close(crelle.hvp(f, (x,), (v,)).double(), expected, rtol=1e-3, atol=1e-4)
    product = crelle.jvp(lambda x: layer(x)[0], (x,), (v,))[1]
    torch.testing.assert_close(
        product.double(), difference(lambda x: same64(x)[0], x.double(), v.double()), rtol=1e-3, atol=1e-4
    )


def test_no_rule_at_all():
    x = torch.ones(3, dtype=F64) * 2
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.jvp(lambda x: torch.special.zeta(x, x), (x,), (x,))
    assert str(caught.value) == (
        "crelle.jvp: PyTorch has no derivative rules to form this product with\n"
        "  likely  Trying to use forward AD with special_zeta that does not support it because it has not been "
        "implemented yet.\n"
        "          the derivative for 'zeta' is not implemented.\n"
        "  try     another form of the operation that is named; crelle.jacobian needs its backward rule only"
    )


def test_errors_of_f_itself_are_its_own():
    def f(x):
        raise NotImplementedError("not today")

    x = torch.ones(3)
    with pytest.raises(NotImplementedError, match="not today"):
        crelle.jvp(f, (x,), (x,))


def test_integers_and_numbers_are_refused():
    x, i = torch.arange(3, dtype=F64), torch.arange(3)
    with pytest.raises(crelle.CrelleTypeError, match=r"crelle.vjp\(f\): i is i64\[3\], and only floating-point"):
        crelle.vjp(lambda x, i: x * i, x, i)
    with pytest.raises(crelle.CrelleTypeError, match=r"tangent for primal i64\[3\] \(i\), which is not floating point"):
        crelle.jvp(lambda x, i: x * i, (x, i), (x, i))
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.vjp(lambda x, s: x * s, x, 2.0)
    assert str(caught.value) == (
        "crelle.vjp(f): s is 2.0 of type float, which cannot be differentiated\n"
        "  called    f64[3], 2.0\n"
        "  expected  arrays, or trees of arrays\n"
        "  try       close over it: crelle.vjp(lambda x: f(x, 2.0), ...)"
    )


def test_a_value_taken_out_of_torch():
    x = torch.arange(3, dtype=F64)
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.jvp(lambda x: x.sum().item(), (x,), (x,))
    assert str(caught.value) == (
        "crelle.jvp(f): f returned 3.0 of type float\n"
        "  called    f64[3]\n"
        "  expected  an array, or a tree of arrays\n"
        "  likely    a value taken out of the framework (.item(), float()) has no derivative\n"
        "  try       return arrays; has_aux=True if f returns (output, aux)"
    )


def test_devices_must_agree():
    x = torch.ones(3, dtype=F64)
    with pytest.raises(crelle.CrelleValueError) as caught:
        crelle.jvp(torch.sin, (x,), (x.to("meta"),))
    assert str(caught.value) == (
        "crelle.jvp(sin): tangent on meta for primal on cpu\n"
        "  expected  one device\n"
        "  try       move it with .to('cpu')"
    )
