"""The forward Laplacian of every operation that is trusted with it, against PyTorch's dense Hessian."""

import pytest
import torch
import torch.nn.functional as F

import crelle

UNARY = ("sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh "
         "atanh sigmoid erf erfc square").split()  # fmt: skip
ACTIVATIONS = "gelu silu softplus elu mish logsigmoid leaky_relu hardtanh relu".split()
GENERATOR = torch.Generator().manual_seed(3)
B = torch.randn(6, 6, generator=GENERATOR, dtype=torch.float64)
POINTS = 0.3 + 0.5 * torch.rand(2, 6, generator=GENERATOR, dtype=torch.float64)


def unary(x):
    return sum((i + 1) * getattr(torch, name)(x).prod() for i, name in enumerate(UNARY)) + torch.acosh(x + 2).sum()


def activations(x):
    return sum((i + 1) * (getattr(F, name)(x @ B) ** 2).sum() for i, name in enumerate(ACTIVATIONS))


def reductions(x):
    y = x @ B
    parts = [torch.softmax(y, 0)[1], torch.log_softmax(y, 0)[2], torch.logsumexp(y, 0), y.prod(), y.var(), y.std(),
             y.norm(), torch.linalg.vector_norm(x, 3), y.max(), y.min(), y.mean(), y.amax()]  # fmt: skip
    return sum((i + 1) * part**2 for i, part in enumerate(parts))


def layers(x):
    q = x.reshape(1, 3, 2)
    normed = F.layer_norm(x @ B, (6,), 2 * torch.ones_like(x), torch.ones(6, dtype=x.dtype))
    return (normed**3).sum() + F.scaled_dot_product_attention(q, q, q).sum() + F.cross_entropy(
        x[None], torch.tensor([2])
    ) + F.mse_loss(x[:3].sin(), x[3:])  # fmt: skip


def bilinear(x):
    y, a, b = x.sin(), x.reshape(2, 3), x.sin().reshape(3, 2)
    square = x[:4].reshape(2, 2)
    return (
        (a @ b).sum() * torch.dot(x, y) + torch.bmm(a[None], b[None]).prod() + torch.mv(square, y[4:]).prod()
        + torch.addmm(square**2, a, b).prod() + torch.addmv(x[:2], square, y[4:]).prod()
        + torch.baddbmm(square[None], a[None], b[None]).prod()
        + F.conv1d(x.reshape(1, 1, 6), y[:2].reshape(1, 1, 2)).prod() + torch.addcmul(x[:3], y[:3], x[3:]).prod()
        + torch.addcdiv(x[:3], y[:3], x[3:]).prod()
    )  # fmt: skip


def binary(x):
    a, b = x[:3], x[3:]
    parts = [a / b, a**b, 2.0**a, torch.atan2(a, b), torch.logaddexp(a, b), torch.hypot(a, b), torch.xlogy(a, b),
             torch.maximum(a, b**2), torch.minimum(a.sin(), b), torch.where(a > 0.5, a**2, b.exp())]  # fmt: skip
    return sum((i + 1) * part.prod() for i, part in enumerate(parts))


def movement(x):
    y = x.clone()
    y[0] = x[1] * x[2]
    a, b = (x @ B).split(3)
    parts = [y, x.roll(1), x.flip(0), F.pad(x, (1, 1)) + 2, x.gather(0, torch.tensor([1, 1, 3])), x.topk(3).values,
             torch.sort(x)[0][:2], x.cumsum(0), torch.outer(x, x).triu()[0], x.masked_fill(x > 0.5, 1.0), a * b,
             x[torch.tensor([0, 0, 2])], x.clamp(0.4, 0.6), x.clamp(min=0.5), torch.stack([a, b]).transpose(0, 1),
             x.repeat(2), torch.cat([x, y]), x.expand(2, 6)[:, 1:3], torch.stack(x.unbind()[:2])]  # fmt: skip
    return sum((i + 1) * part.prod() for i, part in enumerate(parts))


@pytest.mark.parametrize("f", [unary, activations, reductions, layers, bilinear, binary, movement])
def test_operations(f):
    lap = crelle.laplacian(f, mode="forward")
    for x in POINTS:
        expected = torch.func.hessian(f)(x).trace()
        torch.testing.assert_close(lap(x), expected, rtol=1e-12, atol=1e-12)


def test_what_is_not_known_to_be_right_is_left_to_products():
    f = lambda x: torch.linalg.slogdet(torch.diag(x) + 0.1 * B)[1]
    lap = crelle.laplacian(f)
    torch.testing.assert_close(lap(POINTS[0]), torch.func.hessian(f)(POINTS[0]).trace(), rtol=1e-12, atol=1e-12)
    plan = lap.plan(POINTS[0])
    assert plan.mode == "coloured symmetric"
    assert "the second forward derivative of _linalg_slogdet is not known to be right" in plan.candidates[-1].reason


class Straight(torch.autograd.Function):
    """Rounds, with the derivative of a line."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, slope):
        return slope

    @staticmethod
    def jvp(ctx, tangent):
        return tangent


def test_derivatives_that_are_not_those_of_the_operations():
    x = POINTS[0]
    stopped = lambda x: (x * x.detach() ** 2).sum() * x.sum()
    for f, expected in (
        (stopped, torch.func.hessian(stopped)(x).trace()),
        (lambda x: (Straight.apply(3 * x) ** 3).sum(), 54 * (3 * x).round().sum()),
    ):
        with pytest.raises(crelle.CrelleValueError, match="f stops gradients, or has derivative rules of its own"):
            crelle.laplacian(f, mode="forward")(x)
        torch.testing.assert_close(crelle.laplacian(f)(x), expected, rtol=1e-12, atol=1e-12)


def test_the_cheaper_way_is_taken_and_replayed():
    net = lambda x: torch.tanh(torch.tanh(x @ B) @ B).sum(-1)
    lap = crelle.laplacian(net, batched=True, value=True)
    X = torch.stack([*POINTS, POINTS[0]])
    plan = lap.plan(X)
    assert (plan.mode, plan.passes) == ("forward Laplacian", 6)
    assert (plan.rejected[0].mode, plan.rejected[0].passes) == ("coloured symmetric", 6)
    for at in (X, 2 * X):
        value, found = lap(at)
        expected = torch.stack([torch.func.hessian(net)(x).trace() for x in at])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(value, net(at))
    x = POINTS[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(crelle.laplacian(net, mode="forward")(x), x)
    expected = torch.func.grad(lambda x: torch.func.hessian(net)(x).trace())(POINTS[0])
    torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-12)


def test_captured_tensors_may_change():
    weight = B.clone()
    lap = crelle.laplacian(lambda x: torch.tanh(x @ weight).sum(), mode="forward")
    lap(POINTS[0])
    with torch.no_grad():
        weight.mul_(0.5)
    expected = torch.func.hessian(lambda x: torch.tanh(x @ weight).sum())(POINTS[0]).trace()
    torch.testing.assert_close(lap(POINTS[0]), expected, rtol=1e-12, atol=1e-12)


def test_without_memory_products_are_taken(monkeypatch):
    from crelle.backends.torch import BACKEND

    crelle.clear_caches()
    monkeypatch.setattr(type(BACKEND), "available_memory", lambda self, device: 100)
    with pytest.raises(crelle.CrelleValueError, match="all tangents at once would not fit in memory"):
        crelle.laplacian(lambda x: torch.tanh(x @ B).sum(), mode="forward")(POINTS[0])
    crelle.clear_caches()
