"""f linearised once in PyTorch: products against dense matrices, life of the graph, blocks, and what can go wrong."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

import crelle
from crelle.backends.torch import linearised, operator_blocks, operator_replay
from crelle.backends.torch.operator_blocks import NOTE, WRONG_NOTE, Blocks
from crelle.operators import _spaces

F64 = torch.float64
RTOL = 1e-12


@pytest.fixture
def gen():
    return torch.Generator().manual_seed(1841)


@pytest.fixture
def written_at_once(monkeypatch):
    """Products are written down after the first, and the program is taken even if it is not faster."""
    monkeypatch.setattr(operator_replay, "PRICE", 0.0)
    monkeypatch.setattr(operator_replay, "FIRST_PRICE", 0.0)
    monkeypatch.setattr(operator_replay, "CLEARLY", float("inf"))


def randn(gen, *shape, dtype=F64):
    return torch.randn(shape, generator=gen, dtype=dtype)


def flat(tree):
    leaves = torch.utils._pytree.tree_leaves(tree)
    return torch.cat([leaf.reshape(-1) for leaf in leaves])


def near(got, expected, rtol=RTOL):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    assert float((got - expected).detach().abs().max() if got.numel() else 0.0) <= rtol * scale


def products_agree(a, dense, gen, rtol=RTOL):
    """A v, Aᵀ u, blocks of both, and ⟨Av, u⟩ = ⟨v, Aᵀu⟩; often enough for a program to take over."""
    m, n = dense.shape
    assert a.shape == (m, n)
    for _ in range(5):
        v, u = (randn(gen, size, dtype=F64).to(dense.dtype) for size in (n, m))
        if dense.is_complex():
            v, u = torch.complex(v.real, randn(gen, n)), torch.complex(u.real, randn(gen, m))
        pushed, pulled = flat(a @ v), flat(a.T @ u)  # shaped like f(x) where v has the shape of x
        near(pushed, dense @ v, rtol)
        near(pulled, dense.T @ u, rtol)
        assert abs((pushed * u).sum() - (v * pulled).sum()) <= rtol * (abs(pushed) * abs(u)).sum()
    for k in (0, 3, 20):
        block, other = randn(gen, n, k).to(dense.dtype), randn(gen, m, k).to(dense.dtype)
        near(a @ block, dense @ block, 10 * rtol)
        near(a.T @ other, dense.T @ other, 10 * rtol)


def mlp(gen):
    first, second = randn(gen, 7, 4), randn(gen, 3, 7)
    return lambda x: second @ torch.tanh(first @ x)


def loss(x):
    return (x[:-1] * torch.sin(x[1:])).sum() + x.prod() + (x**3).sum()


CASES = {
    "network": (mlp, 4),
    "one output": (lambda gen: loss, 5),
    "identity": (lambda gen: lambda x: x, 4),
    "view": (lambda gen: lambda x: x.reshape(2, 2).T, 4),
    "sum": (lambda gen: lambda x: x.sum(), 4),
    "constant": (lambda gen: lambda x: torch.ones(3, dtype=F64), 4),
    "of another": (lambda gen: lambda x: x[:2].detach() * 2, 4),
    "no inputs": (lambda gen: lambda x: torch.cat([x, x.new_ones(2)]), 0),
    "no outputs": (lambda gen: lambda x: x[:0] * 2, 3),
    "relu": (lambda gen: lambda x: torch.relu(x) ** 2, 6),
    "solve": (lambda gen: lambda x: torch.linalg.solve(torch.eye(3, dtype=F64) + x[:9].reshape(3, 3) / 9, x[9:]), 12),
    "indices": (lambda gen: lambda x: x[x > 0] * x.max(), 6),
    "in place": (lambda gen: lambda x: x.clone().mul_(x).add_(x[0]), 4),
}


class TestProducts:
    @pytest.mark.parametrize("case", CASES)
    @pytest.mark.parametrize("at_once", [False, True])
    def test_jacobian(self, case, at_once, gen, request):
        if at_once:
            request.getfixturevalue("written_at_once")
        make, n = CASES[case]
        f, x = make(gen), randn(gen, n)
        m = f(x).numel()
        dense = torch.autograd.functional.jacobian(f, x).reshape(m, n) if m and n else torch.zeros(m, n, dtype=F64)
        products_agree(crelle.jacobian(f).at(x), dense, gen)

    @pytest.mark.parametrize("at_once", [False, True])
    @pytest.mark.parametrize(
        "f",
        [
            loss,
            lambda x: (x**2).sum() / 2,
            lambda x: x.sum(),
            lambda x: x.new_ones(()),
            lambda x: torch.relu(x @ torch.ones(5, 4, dtype=F64)).sum(),
            lambda x: torch.relu(x).square().sum(),
            lambda x: x[0] ** 2 * x[1],
            lambda x: nnf.gelu(x).prod(),
        ],
    )
    def test_hessian(self, f, at_once, gen, request):
        if at_once:
            request.getfixturevalue("written_at_once")
        x = randn(gen, 5)
        products_agree(crelle.hessian(f).at(x), torch.autograd.functional.hessian(f, x), gen)

    def test_scalar(self, gen):
        x = torch.tensor(0.3, dtype=F64)
        a = crelle.jacobian(torch.sin).at(x)
        assert a.shape == (1, 1)
        near(a @ torch.tensor(2.0, dtype=F64), 2 * torch.cos(x))
        near(crelle.hessian(torch.sin).at(x) @ torch.tensor([2.0], dtype=F64), -2 * torch.sin(x)[None])

    def test_trees(self, gen):
        point = {"a": randn(gen, 3), "b": (randn(gen, 2, 2), randn(gen))}

        def f(p):
            return {"y": p["a"] * p["b"][1], "z": p["b"][0].T @ p["b"][0]}

        a = crelle.jacobian(f).at(point)
        v = {"a": randn(gen, 3), "b": (randn(gen, 2, 2), randn(gen))}
        expected = torch.func.jvp(f, (point,), (v,))[1]
        got = a @ v
        assert list(got) == ["y", "z"]
        near(got["y"], expected["y"])
        near(got["z"], expected["z"])
        u = {"y": randn(gen, 3), "z": randn(gen, 2, 2)}
        pulled = torch.func.vjp(f, point)[1](u)[0]
        near(flat(a.T @ u), flat(pulled))

    def test_mixed_dtypes(self, gen):
        point = (randn(gen, 3), randn(gen, 2, dtype=torch.float32))
        f = lambda p: (p[0] * p[1].sum(), (p[1] * p[0][:2]).float())
        a = crelle.jacobian(f).at(point)
        assert a.dtype == "float64"
        v = (randn(gen, 3), randn(gen, 2, dtype=torch.float32))
        got, expected = a @ v, torch.func.jvp(f, (point,), (v,))[1]
        assert [t.dtype for t in got] == [F64, torch.float32]
        for one, other in zip(got, expected, strict=True):
            near(one, other, 1e-6)
        near(a @ flat([v[0], v[1].double()]), flat([t.double() for t in expected]), 1e-6)

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
    def test_lower_precision(self, dtype, rtol, gen):
        x = randn(gen, 5)
        dense = torch.autograd.functional.hessian(loss, x)
        v = randn(gen, 5)
        got = crelle.hessian(loss).at(x.to(dtype)) @ v.to(dtype)
        assert got.dtype == dtype
        near(got.double(), dense @ v, rtol)

    def test_holomorphic(self, gen):
        x = torch.complex(randn(gen, 4), randn(gen, 4))
        matrix = torch.complex(randn(gen, 3, 4), randn(gen, 3, 4))
        f = lambda z: torch.sin(matrix @ z) * z[0]
        products_agree(crelle.jacobian(f, holomorphic=True).at(x), crelle.jacobian(f, holomorphic=True)(x), gen)
        g = lambda z: torch.sin(matrix @ z).prod() * z[0]
        dense = crelle.hessian(g, holomorphic=True, mode="forward-over-forward")(x)
        products_agree(crelle.hessian(g, holomorphic=True).at(x), dense, gen)

    def test_complex_outputs_of_real_inputs(self, gen):
        """A complex matrix: it multiplies complex vectors, and real ones."""
        matrix = torch.complex(randn(gen, 3, 4), randn(gen, 3, 4))
        a = crelle.jacobian(lambda x: matrix @ x.to(matrix.dtype)).at(randn(gen, 4))
        products_agree(a, matrix, gen)
        v = randn(gen, 4)
        near(a @ v, matrix @ v.to(matrix.dtype))
        b = crelle.jacobian(lambda x: (matrix @ x.to(matrix.dtype), x.sin())).at(point := randn(gen, 4))
        products_agree(b, torch.cat([matrix, torch.diag(point.cos()).to(matrix.dtype)]), gen)

    def test_other_complex_functions_are_refused(self, gen):
        z = torch.complex(randn(gen, 3), randn(gen, 3))
        with pytest.raises(crelle.CrelleTypeError, match="only if it is holomorphic"):
            crelle.jacobian(torch.conj).at(z)
        with pytest.raises(crelle.CrelleTypeError, match="no Jacobian, only a gradient"):
            crelle.jacobian(torch.abs).at(z)
        with pytest.raises(crelle.CrelleTypeError, match="holomorphic=True needs complex"):
            crelle.jacobian(torch.sin, holomorphic=True).at(randn(gen, 3))

    def test_integers_among_the_passive_arguments(self, gen):
        table = randn(gen, 5, 3)
        index = torch.tensor([0, 3, 3])
        f = lambda w, i, factor: w[i] * factor
        a = crelle.jacobian(f).at(table, index, 2.0)
        v = randn(gen, 5, 3)
        near(a @ v, v[index] * 2)

    def test_several_arguments_and_aux(self, gen):
        x, y = randn(gen, 3), randn(gen, 2)
        f = lambda x, y: (x * y.sum(), {"note": "text", "norm": x.norm()})
        a = crelle.jacobian(f, argnums=(0, 1), has_aux=True).at(x, y)
        dx, dy = randn(gen, 3), randn(gen, 2)
        near(a @ (dx, dy), dx * y.sum() + x * dy.sum())
        near(a.value, x * y.sum())

    def test_result_is_not_the_vector(self, gen):
        """A result may be written to: what was given stays as it was."""
        v = randn(gen, 4)
        before = v.clone()
        for f in (lambda x: x, lambda x: x.reshape(2, 2)):
            (crelle.jacobian(f).at(randn(gen, 4)) @ v).zero_()
        (crelle.hessian(lambda x: (x**2).sum() / 2).at(randn(gen, 4)) @ v).zero_()
        assert torch.equal(v, before)

    def test_constant_results_are_not_shared(self, gen, written_at_once):
        a = crelle.jacobian(lambda p: p["a"] * 2).at({"a": randn(gen, 3), "b": randn(gen, 2)})
        for _ in range(6):
            found = a.T @ randn(gen, 3)
            assert torch.equal(found["b"], torch.zeros(2, dtype=F64))
            found["b"].fill_(7.0)

    def test_inference_mode(self, gen):
        f, x, v = mlp(gen), randn(gen, 4), randn(gen, 4)
        dense = torch.autograd.functional.jacobian(f, x)
        with torch.inference_mode():
            a = crelle.jacobian(f).at(x.clone())
            near(a @ v.clone(), dense @ v)
        near(a.T @ torch.ones(3, dtype=F64), dense.sum(0))


class TestModules:
    def test_parameters(self, gen):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 2)).double().eval()
        x = randn(gen, 5, 4)
        a = crelle.jacobian(net, wrt="params").at(x)
        params = dict(net.named_parameters())
        jac = torch.func.jacrev(lambda p: torch.func.functional_call(net, p, (x,)).reshape(-1))(params)
        dense = torch.cat([jac[k].reshape(10, -1) for k in params], 1).detach()
        with torch.no_grad():
            products_agree(a, dense, gen)

    def test_tied_weights(self, gen):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.one = nn.Linear(4, 4, bias=False).double()
                self.two = nn.Linear(4, 4, bias=False).double()
                self.two.weight = self.one.weight

            def forward(self, x):
                return self.two(torch.tanh(self.one(x))).square().sum()

        torch.manual_seed(0)
        net, x = Tied(), randn(gen, 4)
        h = crelle.hessian(net, wrt="params").at(x)
        assert h.shape == (16, 16)
        w = net.one.weight.detach()
        f = lambda w: (torch.tanh(x @ w.T) @ w.T).square().sum()
        with torch.no_grad():
            products_agree(h, torch.autograd.functional.hessian(f, w).reshape(16, 16), gen)

    def test_optimiser_step_does_not_change_the_operator(self, gen):
        torch.manual_seed(0)
        net, x = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double(), randn(gen, 7, 3)
        model_loss = lambda p: torch.func.functional_call(net, p, (x,)).square().mean()
        params = dict(net.named_parameters())
        h = crelle.hessian(model_loss).at(params)
        v = randn(gen, h.shape[1])
        with torch.no_grad():
            before = h @ v
            optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        model_loss(params).backward()
        optimiser.step()
        with torch.no_grad():
            assert torch.equal(h @ v, before)
            assert not torch.allclose(crelle.hessian(model_loss).at(params) @ v, before)


class Net(nn.Module):
    """Attention on four-dimensional queries, which takes the fused kernel."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(2, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return nnf.scaled_dot_product_attention(q, k, v)


class TestKernels:
    def test_fused_attention(self, gen):
        torch.manual_seed(0)
        net, x = Net().double(), randn(gen, 2, 4, 8)
        a = crelle.jacobian(net).at(x)
        assert a.notes == ()
        u, v = randn(gen, 64), randn(gen, 64)
        with torch.no_grad():
            pulled = a.T @ u
            assert a.notes == ()  # the fused kernel has one derivative
            pushed = a @ v
        assert a.notes == (linearised.PLAIN_NOTE,)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            dense = torch.func.jacrev(net)(x).reshape(64, 64).detach()
            hess = torch.func.hessian(lambda x: net(x).square().sum())(x).reshape(64, 64).detach()
        near(pushed, dense @ v)
        near(pulled, dense.T @ u, 1e-11)
        h = crelle.hessian(lambda x: net(x).square().sum()).at(x)
        assert h.notes == (linearised.PLAIN_NOTE,)
        with torch.no_grad():
            near(h @ v, hess @ v)

    def test_multihead_attention(self, gen):
        torch.manual_seed(0)
        net, x = nn.MultiheadAttention(8, 2, batch_first=True).double(), randn(gen, 2, 4, 8)
        f = lambda x: net(x, x, x, need_weights=False)[0].square().sum()
        h = crelle.hessian(f).at(x)
        assert h.notes == (linearised.PLAIN_NOTE,)
        v, step = randn(gen, 2, 4, 8), 1e-5
        slope = torch.func.grad(f)
        expected = (slope(x + step * v) - slope(x - step * v)) / (2 * step)
        near((h @ v).detach(), expected.detach(), 1e-8)

    def test_plain_kernels_for_another_point_of_f(self, gen):
        """What f captures has changed before J v needs other kernels: f would not be the same."""
        torch.manual_seed(0)
        net, x = Net().double(), randn(gen, 2, 4, 8)
        a = crelle.jacobian(net).at(x)
        with torch.no_grad():
            net.qkv.weight.data.add_(1.0)
        with pytest.raises(crelle.CrelleValueError, match="was changed in place since"):
            a @ randn(gen, 64)

    def test_compiled_function(self, gen):
        f = torch.compile(lambda x: torch.sin(x).prod(), backend="aot_eager")
        x, v = randn(gen, 4), randn(gen, 4)
        f(x)
        dense = torch.autograd.functional.hessian(lambda x: torch.sin(x).prod(), x)
        near(crelle.hessian(f).at(x) @ v, dense @ v)


class TestOnce:
    @pytest.mark.parametrize("kind", [crelle.jacobian, crelle.hessian])
    def test_one_evaluation(self, kind, gen, written_at_once):
        calls = []

        def f(x):
            calls.append(None)
            return loss(x)

        a = kind(f).at(randn(gen, 5))
        for _ in range(6):
            a @ randn(gen, 5)
            a.T @ randn(gen, a.shape[0])
        a @ randn(gen, 5, 40)
        a.todense()
        assert len(calls) == 1

    def test_value(self, gen):
        f, x = mlp(gen), randn(gen, 4)
        a = crelle.jacobian(f).at(x)
        near(a.value, f(x))
        assert not a.value.requires_grad
        near(crelle.hessian(loss).at(x).value, loss(x))

    @pytest.mark.parametrize("kind", [crelle.jacobian, crelle.hessian])
    @pytest.mark.parametrize("grad", [False, True])
    def test_freed_without_the_collector(self, kind, grad, gen, written_at_once):
        """No reference cycle: the graph is gone with the operator."""
        gc.collect()
        gc.disable()
        try:
            alive = []

            def f(x):
                y = torch.tanh(x)
                alive.append(weakref.ref(y))
                return (y**3).sum()

            x = randn(gen, 5).requires_grad_(grad)
            a = kind(f).at(x)
            for _ in range(6):
                a @ randn(gen, 5)
                a.T @ randn(gen, a.shape[0])
            a @ randn(gen, 5, 20)
            graph = weakref.ref(a._kept)
            assert graph() is not None
            del a
            assert graph() is None
            assert alive[0]() is None
            assert x.grad is None
        finally:
            gc.enable()

    def test_program_takes_over(self, gen, written_at_once):
        net = mlp(gen)
        h = crelle.hessian(lambda x: nnf.gelu(net(x)).sum()).at(randn(gen, 4))
        for _ in range(4):
            h @ randn(gen, 4)
        replay = h._kept._replays[False]
        assert replay.settled and replay.program is not None

    def test_no_program_where_it_is_not_faster(self, gen, written_at_once, monkeypatch):
        monkeypatch.setattr(operator_replay, "CLEARLY", 0.0)
        h = crelle.hessian(loss).at(randn(gen, 4))
        for _ in range(4):
            h @ randn(gen, 4)
        replay = h._kept._replays[False]
        assert replay.settled and replay.program is None

    def test_no_program_that_differs(self, gen, written_at_once, monkeypatch):
        real = operator_replay.Program.__call__
        monkeypatch.setattr(operator_replay.Program, "__call__", lambda self, v: [2 * t for t in real(self, v)])
        x = randn(gen, 4)
        h = crelle.hessian(loss).at(x)
        products_agree(h, torch.autograd.functional.hessian(loss, x), gen)
        assert h._kept._replays[False].program is None


class TestBlocks:
    def test_tiny_network_goes_at_once(self, gen):
        a = crelle.jacobian(mlp(gen)).at(randn(gen, 4))
        a @ randn(gen, 4, 256)
        a.T @ randn(gen, 3, 256)
        assert a._kept._blocks[False].chunk == operator_blocks.MOST
        assert a._kept._blocks[True].chunk == operator_blocks.MOST

    def test_convolutional_network_goes_one_at_a_time(self, gen):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.Flatten())
        x = torch.randn(64, 1, 48, 48)
        h = crelle.hessian(lambda p: torch.func.functional_call(net, p, (x,)).square().mean()).at(
            {k: p.detach() for k, p in net.named_parameters()}
        )
        block = torch.randn(h.shape[1], 10)
        assert h._kept._room(False) == 1
        near(h @ block, torch.stack([h @ v for v in block.T], 1), 1e-5)
        assert h._kept._blocks[False].chunk == 1

    def test_decided_once(self, gen):
        decided = Blocks()
        asked = []

        def limit():
            asked.append(None)
            return 4

        block = randn(gen, 20, 3)
        for count in (2, 20, 20, 7):
            found = decided.run(block[:count], 3, F64, lambda b: 2 * b, lambda b: 2 * b, limit)
            near(found, 2 * block[:count])
        assert len(asked) == 1 and decided.chunk in (1, 4)

    def test_memory_bounds_it(self, gen):
        decided, seen = Blocks(), []

        def many(rows):
            seen.append(len(rows))
            return 2 * rows

        decided.run(randn(gen, 40, 3), 3, F64, lambda b: 2 * b, many, lambda: 3)
        assert max(seen) <= 3
        seen.clear()
        decided = Blocks()
        decided.run(randn(gen, 40, 3), 3, F64, lambda b: 2 * b, many, lambda: 1)
        assert seen == [] and decided.chunk == 1

    def test_room(self):
        cpu = torch.device("cpu")
        assert operator_blocks.at_once(operator_blocks.CACHE // 3, cpu) == 3
        assert operator_blocks.at_once(10 * operator_blocks.CACHE, cpu) == 1

    def test_what_cannot_be_batched(self, gen):
        def many(rows):
            raise RuntimeError("vmap: no")

        decided, block = Blocks(), randn(gen, 10, 3)
        near(decided.run(block, 3, F64, lambda b: 2 * b, many, lambda: 8), 2 * block)
        assert decided.chunk == 1 and decided.note == NOTE

    def test_what_warns_is_not_batched(self, gen):
        def many(rows):
            warnings.warn("There is a performance drop", UserWarning, stacklevel=1)
            return 2 * rows

        decided, block = Blocks(), randn(gen, 10, 3)
        near(decided.run(block, 3, F64, lambda b: 2 * b, many, lambda: 8), 2 * block)
        assert decided.note == NOTE

    def test_what_is_batched_wrongly(self, gen):
        decided, block = Blocks(), randn(gen, 10, 3)
        near(decided.run(block, 3, F64, lambda b: 2 * b, lambda b: 2.01 * b, lambda: 8), 2 * block)
        assert decided.chunk == 1 and decided.note == WRONG_NOTE

    def test_function_without_batching_rule(self, gen):
        x = randn(gen, 5)
        a = crelle.jacobian(Cube.apply).at(x)
        block = randn(gen, 5, 12)
        near(a @ block, 3 * x[:, None] ** 2 * block)


class Cube(torch.autograd.Function):
    """Without setup_context: torch.func refuses it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


class Detached(Cube):
    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return (3 * x**2 * slope).detach()


class Once(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


class TestRulesOfUsers:
    def test_autograd_function(self, gen):
        x = randn(gen, 4)
        products_agree(crelle.jacobian(Cube.apply).at(x), torch.diag(3 * x**2), gen)
        products_agree(crelle.hessian(lambda x: Cube.apply(x).sum()).at(x), torch.diag(6 * x), gen)

    def test_never_written_down(self, gen, written_at_once):
        """A rule may leave PyTorch, and what it computes there would become a constant."""
        a = crelle.jacobian(Cube.apply).at(randn(gen, 4))
        for _ in range(5):
            a.T @ randn(gen, 4)
        assert a._kept._replays[True].program is None

    def test_custom_op(self, gen):
        @torch.library.custom_op("crelle_tests::cube", mutates_args=())
        def cube(x: torch.Tensor) -> torch.Tensor:
            return x**3

        def backward(ctx, slope):
            return 3 * ctx.saved_tensors[0] ** 2 * slope

        cube.register_autograd(backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
        x = randn(gen, 4)
        products_agree(crelle.jacobian(cube).at(x), torch.diag(3 * x**2), gen)
        products_agree(crelle.hessian(lambda x: cube(x).sum()).at(x), torch.diag(6 * x), gen)

    def test_backward_that_detaches(self, gen):
        x = randn(gen, 4)
        a = crelle.jacobian(Detached.apply).at(x)
        near(a.T @ torch.ones(4, dtype=F64), 3 * x**2)
        with pytest.raises(crelle.CrelleCheckError) as caught:
            a @ torch.ones(4, dtype=F64)
        text = str(caught.value)
        assert "products with J and with Jᵀ do not belong to one matrix" in text
        assert "the backward of Detached is not made of differentiable operations" in text
        assert "A.T @ u" in text

    @pytest.mark.parametrize("kind", [crelle.jacobian, crelle.hessian])
    def test_once_differentiable(self, kind, gen):
        f = (lambda x: Once.apply(x).sum()) if kind is crelle.hessian else Once.apply
        with pytest.raises(crelle.CrelleTypeError, match="PyTorch cannot differentiate f twice") as caught:
            kind(f).at(randn(gen, 4)) @ randn(gen, 4)
        assert "once_differentiable" in str(caught.value)


class TestChangedInPlace:
    def message(self, a, v):
        with pytest.raises(crelle.CrelleValueError) as caught:
            a @ v
        return str(caught.value)

    @pytest.mark.parametrize("at_once", [False, True])
    def test_captured(self, at_once, gen, request):
        if at_once:
            request.getfixturevalue("written_at_once")
        weight = randn(gen, 4)
        h = crelle.hessian(lambda x: torch.sin(x * weight).sum()).at(randn(gen, 4))
        for _ in range(5):
            h @ randn(gen, 4)
        weight += 1
        assert self.message(h, randn(gen, 4)) == (
            "the operator of crelle.hessian(f) cannot be used any more: a tensor that f reads was changed in place "
            "since .at(...)\n"
            "  likely  a step of an optimiser, load_state_dict, or a forward pass that updates a buffer, on what f "
            "captures or takes as an argument that is not differentiated\n"
            "  try     make the operator anew with .at(...), or give f a copy: x.clone(), copy.deepcopy(module)"
        )

    def test_argument(self, gen):
        x, y = randn(gen, 4), randn(gen, 4)
        a = crelle.jacobian(lambda x, y: torch.sin(x) * y).at(x, y)
        y.zero_()
        assert "was changed in place" in self.message(a, randn(gen, 4))

    def test_differentiated_argument_may_change(self, gen):
        x, v = randn(gen, 4), randn(gen, 4)
        a = crelle.jacobian(torch.sin).at(x)
        expected = torch.cos(x) * v
        x.zero_()
        near(a @ v, expected)

    def test_freed(self, gen):
        base = randn(gen, 4).requires_grad_()
        weight = torch.sin(base)
        a = crelle.jacobian(lambda x: torch.sin(x) * weight).at(randn(gen, 4))
        y = a @ randn(gen, 4)
        weight.sum().backward()
        with pytest.raises(crelle.CrelleValueError, match="what it was made of was freed"):
            y.sum().backward()


class TestRefusals:
    def test_inside_a_transform(self, gen):
        with pytest.raises(crelle.CrelleTypeError, match="there are no values here"):
            torch.func.vmap(lambda x: crelle.jacobian(torch.sin).at(x) @ x)(randn(gen, 3, 4))

    def test_meta(self):
        with pytest.raises(crelle.CrelleTypeError, match="there are no values here"):
            crelle.jacobian(torch.sin).at(torch.zeros(3, device="meta"))


def test_common_dtype_is_that_of_results(gen):
    a = crelle.jacobian(lambda x: x.float()).at(randn(gen, 3))
    assert _spaces.common_dtype(a._kept.outputs) == "float32"
    assert (a @ randn(gen, 3)).dtype == torch.float32
    assert (a.T @ randn(gen, 3, dtype=torch.float32)).dtype == F64
