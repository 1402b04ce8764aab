"""Functions with their Jacobians' and Hessians' patterns in PyTorch, n = 12, one construction each.

The true pattern is the union of the nonzeros over some points, unless that is too small: see ``cases_jax``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

N = 12


@dataclass(frozen=True, slots=True)
class Case:
    """A function of f64[12].

    Attributes:
        nnz: of the true pattern, where it was counted by hand.
        truth: the true pattern, where a few points do not show all of it.
        conservative: why the pattern may be larger than the true one; empty where it may not.
        rounding: what the framework's own formula leaves where the derivative is zero.
        low, high: where the points are drawn.
    """

    f: Callable[[Any], Any]
    nnz: int | None = None
    truth: np.ndarray | None = None
    conservative: str = ""
    rounding: float = 0.0
    low: float = -0.5
    high: float = 1.5


def full(rows, columns=N):
    return np.ones((rows, columns), bool)


def blocks(count, rows, columns):
    return np.kron(np.eye(count, dtype=bool), full(rows, columns))


def band(rows, columns, offsets):
    return np.logical_or.reduce([np.eye(rows, columns, k, dtype=bool) for k in offsets])


_rng = np.random.default_rng(11)


def constant(*shape, scale=1.0):
    return torch.from_numpy(scale * _rng.standard_normal(shape))


def built(make: Callable[[], nn.Module]) -> nn.Module:
    """A module in float64 whose weights are the same in every run."""
    module = make().double().eval()
    with torch.no_grad():
        for p in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            p.copy_(constant(*p.shape, scale=0.7).abs_() + 0.1 if p.ndim == 1 else constant(*p.shape, scale=0.7))
    return module.requires_grad_(False)


def eye(n, k=0):
    return torch.from_numpy(np.eye(n, k=k))


def arange(n):
    return torch.arange(n, dtype=torch.float64)


DENSE = constant(N, N)
LOWER = DENSE.tril() + 6.0 * eye(N)
BIDIAGONAL = 2.0 * eye(N) - eye(N, -1)
PICK = torch.tensor([4, 2, 2, 9, 0, 11])
TAPS = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)


class Rounded(torch.autograd.Function):
    """Straight through: rounds, and its derivative is said to be 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return cotangent

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


class ReverseOnly(torch.autograd.Function):
    """Straight through again, with a rule for reverse mode only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.floor(4.0 * x) / 4.0

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return 2.0 * cotangent


class Shifted(torch.autograd.Function):
    """The derivative of its rule reads another element than the function does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return torch.roll(cotangent, 1)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return torch.roll(tangent, -1)


def in_place(x):
    y = x.clone()
    y[1:4] *= x[0]
    y[7] = 3.0
    y[8:].add_(x[:4])
    return y


def spd(x):
    """[3, 2, 2], symmetric and positive definite, every entry a function of all numbers of its row of x."""
    c = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 1.5, 2.5, 3.5], [4.0, 3.0, 2.0, 1.0]], dtype=x.dtype)
    a, b, d = (0.1 * torch.sin(x.reshape(3, 1, 4) * c).sum(-1)).unbind(-1)
    return torch.stack([torch.stack([2.0 + a, b], -1), torch.stack([b, 2.0 + d], -1)], -2)


def heat(x):
    u = x
    for _ in range(3):
        u = torch.cat([u[:1], u[1:-1] + 0.1 * (u[2:] - 2.0 * u[1:-1] + u[:-2]), u[-1:]])
    return u


def of_sequence(network: nn.Module, batch: int) -> Callable[[Tensor], Tensor]:
    """[time, batch, 3] -> [time, batch, 2]."""
    return lambda x: network(x.reshape(4 // batch, batch, 3))[0].reshape(-1)


def attention(x):
    q, k, v = (x.reshape(2, 3, 2) @ w for w in (DENSE[:2, :2], DENSE[2:4, :2], DENSE[4:6, :2]))
    return F.scaled_dot_product_attention(q, k, v).reshape(-1)


def causal_attention(x):
    q, k, v = (x.reshape(1, 1, 4, 3) @ w for w in (DENSE[:3, :3], DENSE[3:6, :3], DENSE[6:9, :3]))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).reshape(-1)


class Block(nn.Module):
    """A transformer block that normalises first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(2), nn.LayerNorm(2)
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.widen, self.narrow = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.narrow(F.gelu(self.widen(self.second(x))))


LSTM = built(lambda: nn.LSTM(3, 2))
GRU = built(lambda: nn.GRU(3, 2))
RNN = built(lambda: nn.RNN(3, 2))
BLOCK = built(Block)
BATCH_NORM = built(lambda: nn.BatchNorm1d(3))
LAYER_NORM = built(lambda: nn.LayerNorm(3))
GROUP_NORM = built(lambda: nn.GroupNorm(2, 4))
MLP = built(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))
CNN = built(lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)))
EMBEDDING = built(lambda: nn.Embedding(5, 3))


def causal(rows, columns, steps):
    return np.kron(np.tril(full(steps, steps)), full(rows, columns))


def lanes(count, rows, columns):
    """Time steps one after the other, ``count`` samples within each; every sample by itself."""
    step = np.kron(np.tril(full(2, 2)), np.kron(np.eye(count, dtype=bool), full(rows, columns)))
    return step.astype(bool)


JACOBIANS: dict[str, Case] = {
    # indexing
    "index, constant": Case(lambda x: torch.cos(x[PICK]), 6),
    "index, computed constant": Case(lambda x: x[(torch.arange(N) * 5 + 2) % N], 12),
    "index, argsort": Case(lambda x: x[torch.argsort(x)], 144, full(N)),
    "index, mask": Case(lambda x: x.masked_fill(torch.arange(N) % 3 == 0, 0.0) ** 2, 8),
    "index_select": Case(lambda x: x.reshape(3, 4).index_select(1, torch.tensor([3, 0])).exp(), 6),
    "gather": Case(lambda x: x.reshape(3, 4).gather(1, torch.tensor([[0, 3], [1, 1], [2, 0]])), 6),
    "take": Case(lambda x: torch.take(x.reshape(3, 4), torch.tensor([11, 0, 5])), 3),
    "index_add": Case(lambda x: x.new_zeros(5).index_add(0, torch.arange(N) % 5, x**3), 12),
    "scatter": Case(lambda x: torch.zeros_like(x).scatter(0, torch.tensor([7, 1]), x[:2] ** 2), 2),
    "scatter_add, computed constant segments": Case(
        lambda x: x.new_zeros(4).scatter_add(0, torch.div(torch.arange(N), 3, rounding_mode="floor"), x.exp()), 12
    ),
    "scatter_reduce amax": Case(
        lambda x: x.new_zeros(4).scatter_reduce(0, torch.arange(N) // 3, x, "amax", include_self=False), 12,
        blocks(4, 1, 3),
    ),
    "index_put": Case(lambda x: x.index_put((torch.tensor([3, 5]),), x[:2] * x[2:4]), 14),
    "in place": Case(in_place, 18),
    "slice_scatter": Case(lambda x: torch.slice_scatter(x, x[:4] ** 2, 0, 4, 8), 12),
    "select_scatter": Case(lambda x: torch.select_scatter(x.reshape(3, 4), x[:4] ** 2, 0, 1), 12),
    "embedding and sum": Case(lambda x: EMBEDDING(torch.tensor([1, 4, 1, 0])) * x.reshape(4, 3), 12),
    # cumulative, sorted, selected
    "cumsum": Case(lambda x: torch.cumsum(x, 0), 78),
    "cumprod": Case(lambda x: torch.cumprod(x, 0), 78),
    "logcumsumexp": Case(lambda x: torch.logcumsumexp(x, 0), 78),
    "cummax": Case(lambda x: torch.cummax(x, 0)[0], 78, np.tril(full(N))),
    "sort": Case(lambda x: torch.sort(x)[0], 144, full(N)),
    "sort, by rows": Case(lambda x: torch.sort(x.reshape(4, 3), 1)[0], 36, blocks(4, 3, 3)),
    "topk": Case(lambda x: torch.topk(x, 3)[0], 36, full(3)),
    "max, by rows": Case(lambda x: x.reshape(4, 3).max(1)[0], 12, blocks(4, 1, 3)),
    "amax, by rows": Case(lambda x: x.reshape(4, 3).amax(1), 12, blocks(4, 1, 3)),
    "median, by rows": Case(lambda x: x.reshape(4, 3).median(1)[0], 12, blocks(4, 1, 3)),
    "kthvalue": Case(lambda x: torch.kthvalue(x, 4)[0], 12, full(1)),
    # windows
    "conv1d": Case(lambda x: F.conv1d(x.reshape(1, 1, N), TAPS.reshape(1, 1, 3), padding=1), 34),
    "conv1d, a tap is zero": Case(
        lambda x: F.conv1d(x.reshape(1, 1, N), torch.tensor([[[1.0, 0.0, 4.0]]], dtype=x.dtype), padding=1), 22
    ),
    "conv1d, grouped": Case(lambda x: F.conv1d(x.reshape(1, 3, 4), TAPS[:2].expand(3, 1, 2), groups=3), 18),
    "conv1d, filtered by x": Case(lambda x: F.conv1d(x[:10].reshape(1, 1, 10), x[9:].reshape(1, 1, 3)), 47),
    "conv2d": Case(lambda x: F.conv2d(x.reshape(1, 1, 3, 4), torch.full((1, 1, 2, 2), 0.5, dtype=x.dtype)), 24),
    "conv_transpose1d": Case(
        lambda x: F.conv_transpose1d(x.reshape(1, 1, N), TAPS.reshape(1, 1, 3), stride=2), 36
    ),
    "two convolutions": Case(lambda x: CNN(x.reshape(1, 1, 3, 4)), 126),
    "max_pool2d": Case(lambda x: F.max_pool2d(x.reshape(1, 1, 2, 6), 2), 12),
    "avg_pool1d": Case(lambda x: F.avg_pool1d(x.reshape(1, 1, N), 3, stride=1, padding=1), 34),
    "adaptive_avg_pool1d": Case(lambda x: F.adaptive_avg_pool1d(x.reshape(1, 1, N), 4), 12),
    "interpolate": Case(
        lambda x: F.interpolate(x.reshape(1, 1, N), scale_factor=2.0, mode="linear", align_corners=False), 46
    ),
    "unfold": Case(lambda x: x.unfold(0, 3, 2) ** 2, 15),
    "pad, reflected": Case(lambda x: F.pad(x.reshape(1, 1, N), (2, 1), mode="reflect"), 15),
    # Fourier transforms
    "fft, real": Case(lambda x: torch.fft.rfft(x).real + torch.fft.rfft(x).imag, 84),
    "fft, by rows": Case(lambda x: torch.fft.fft(x.reshape(4, 3), dim=1).abs(), 36),
    "irfft, by rows": Case(
        lambda x: torch.fft.irfft(torch.fft.rfft(x.reshape(3, 4), dim=1) ** 2, n=4, dim=1), 48
    ),
    # reductions
    "softmax, by rows": Case(lambda x: torch.softmax(x.reshape(4, 3), 1), 36),
    "logsumexp, by rows": Case(lambda x: torch.logsumexp(x.reshape(4, 3), 1), 12),
    "var, by columns": Case(lambda x: x.reshape(4, 3).var(0), 12),
    "norm, by rows": Case(lambda x: torch.linalg.vector_norm(x.reshape(4, 3), dim=1), 12),
    "prod, by rows": Case(lambda x: x.reshape(4, 3).prod(1), 12),
    "argmax": Case(lambda x: x * 0.0 + torch.argmax(x), 0),
    # products
    "einsum, batch of constant matrices": Case(
        lambda x: torch.einsum("bij,bj->bi", DENSE[:4, :9].reshape(4, 3, 3), x.reshape(4, 3)), 36
    ),
    "einsum, outer products": Case(
        lambda x: torch.einsum("bi,bj->bij", x.reshape(4, 3), x.sin().reshape(4, 3)), 60
    ),
    "matmul, bidiagonal stored dense": Case(lambda x: BIDIAGONAL @ x, 23),
    "matmul, diagonal stored dense": Case(lambda x: torch.diag(arange(N) + 1.0) @ x, 12),
    "matmul, both of x": Case(lambda x: x[:6].reshape(2, 3) @ x[6:].reshape(3, 2), 24),
    "bmm": Case(lambda x: torch.bmm(x.reshape(3, 2, 2), x.reshape(3, 2, 2).mT), 36),
    "kron": Case(lambda x: torch.kron(x[:2], x[2:4]), 8),
    "cross": Case(lambda x: torch.linalg.cross(x.reshape(4, 3), arange(12).reshape(4, 3) + 1.0), 24),
    # moving and cancelling
    "reshape and permute": Case(lambda x: x.reshape(2, 3, 2).permute(1, 2, 0).tanh(), 12),
    "flip, roll and cat": Case(lambda x: torch.cat([x.flip(0)[:5], torch.roll(x, 2)[:3]]) ** 2, 8),
    "stack and repeat": Case(lambda x: torch.stack([x[:3], x[3:6]]).repeat(2, 2).sin(), 24),
    "tril": Case(lambda x: x.reshape(3, 4).tril() ** 2, 6),
    "diagonal": Case(lambda x: torch.diagonal(x.reshape(3, 4)).exp(), 3),
    "where": Case(lambda x: torch.where(torch.arange(N) < 4, x**2, torch.ones_like(x)), 4),
    "where, condition of x": Case(
        lambda x: torch.where(x > 0.4, torch.roll(x, 1), x**2), 24, band(N, N, (0, -1, N - 1))
    ),
    "x * 0": Case(lambda x: x * 0.0, 0),
    "x - x": Case(lambda x: x - x, 0, conservative="the sum of coefficients that cancel is not formed"),
    "3 steps of a stencil": Case(heat, 66),
    # rules of their own
    "relu": Case(torch.relu, 12),
    "gelu": Case(F.gelu, 12),
    "clamp": Case(lambda x: x.clamp(0.0, 1.0), 12),
    "Function, straight-through": Case(Rounded.apply, 12),
    "Function, reverse rule only": Case(ReverseOnly.apply, 12),
    "Function, its rule reads elsewhere": Case(Shifted.apply, 12),
    "detach": Case(lambda x: torch.roll(x, 1).detach() * x, 12),
    "straight-through by detach": Case(lambda x: x + (torch.round(x) - x).detach(), 12),
    "through integers": Case(lambda x: torch.sin((3.0 * x).long().double()) + 0.0 * x, 0),
    # linear algebra
    "solve_triangular": Case(lambda x: torch.linalg.solve_triangular(LOWER, x[:, None], upper=False), 78),
    "solve": Case(lambda x: torch.linalg.solve(DENSE + 9.0 * eye(N), x), 144),
    "solve, batched": Case(lambda x: torch.linalg.solve(spd(x), torch.ones(3, 2, dtype=x.dtype)), 24),
    "cholesky, batched": Case(
        lambda x: torch.linalg.cholesky(spd(x)), 36, conservative="the upper triangle is zero only by value"
    ),
    "eigh, batched": Case(lambda x: torch.linalg.eigh(spd(x))[0], 24),
    "svdvals, batched": Case(lambda x: torch.linalg.svdvals(spd(x)), 24),
    "qr, batched": Case(lambda x: torch.linalg.qr(spd(x))[0], 48),
    "det, batched": Case(lambda x: torch.linalg.det(x.reshape(3, 2, 2)), 12),
    "inv, batched": Case(lambda x: torch.linalg.inv(x.reshape(3, 2, 2) + 5.0 * eye(2)), 48),
    "matrix_exp, batched": Case(lambda x: torch.matrix_exp(x.reshape(3, 2, 2)), 48),
    # special functions, random numbers, complex numbers
    "erfinv": Case(lambda x: torch.erfinv(torch.tanh(x)), 12),
    "lgamma": Case(lambda x: torch.lgamma(x**2 + 1.0), 12),
    "random numbers": Case(lambda x: x * torch.randn(N, generator=torch.Generator().manual_seed(3)), 12),
    "complex": Case(lambda x: torch.exp(torch.complex(torch.zeros_like(x), x)).real, 12),
    # networks
    "batch norm, eval": Case(lambda x: BATCH_NORM(x.reshape(4, 3)), 12),
    "batch norm, train": Case(
        lambda x: F.batch_norm(x.reshape(4, 3), None, None, training=True), 48
    ),
    "layer norm": Case(lambda x: LAYER_NORM(x.reshape(4, 3)), 36),
    "group norm": Case(lambda x: GROUP_NORM(x.reshape(1, 4, 3)), 72),
    "batched network": Case(lambda x: MLP(x.reshape(4, 3)), 24),
    "batched network, batch last": Case(lambda x: MLP(x.reshape(3, 4).T).T, 24),
    "vmapped network": Case(lambda x: torch.vmap(MLP)(x.reshape(4, 3)), 24),
    "LSTM": Case(of_sequence(LSTM, 1), 60, causal(2, 3, 4)),
    "GRU": Case(of_sequence(GRU, 1), 60, causal(2, 3, 4)),
    "RNN": Case(of_sequence(RNN, 1), 60, causal(2, 3, 4)),
    "LSTM, a batch of two": Case(of_sequence(LSTM, 2), 36, lanes(2, 2, 3)),
    "attention over two samples": Case(attention, 72, blocks(2, 6, 6)),
    "attention, causal": Case(
        causal_attention, 90, causal(3, 3, 4), "what a softmax makes of minus infinity is a value"
    ),
    "transformer block, two samples": Case(lambda x: BLOCK(x.reshape(2, 3, 2)), 72),
    "grad inside": Case(lambda x: torch.func.grad(lambda y: (torch.roll(y, 1) * y**2).sum())(x), 36),
    "jvp inside": Case(
        lambda x: torch.func.jvp(lambda y: y.sin() * torch.roll(y, 1), (x,), (torch.ones_like(x),))[1], 24
    ),
    "two leaves out": Case(lambda x: {"a": x[:2] ** 2, "b": x[2:4].sum()}, 4),
}  # fmt: skip

HESSIANS: dict[str, Case] = {
    "square of the sum": Case(lambda x: x.sum() ** 2, 144),
    "linear": Case(lambda x: (3.0 * x).sum(), 0),
    "x0 times the sum": Case(lambda x: x[0] * x.sum(), 23),
    "squares of a bidiagonal residual": Case(lambda x: ((x[1:] * x[:-1] - 1.0) ** 2).sum(), 34),
    "squares of a dense linear residual": Case(lambda x: ((DENSE[:6] @ x - 1.0) ** 2).sum(), 144),
    "separable and one product": Case(lambda x: torch.log(x + 9.0).sum() + x[0] * x[5], 14),
    "dot with a constant": Case(lambda x: torch.dot(x, arange(N) + 1.0), 0),
    "quadratic form, diagonal stored dense": Case(lambda x: x @ (torch.diag(arange(N) + 1.0) @ x), 12),
    "quadratic form, bidiagonal stored dense": Case(lambda x: x @ (BIDIAGONAL @ x), 34),
"products of pairs": Case(lambda x: x.reshape(6, 2).prod(1).sum(), 12, rounding=1e-12),
    "max": Case(lambda x: x.max(), 0),
    "sum of relu": Case(lambda x: torch.relu(x).sum(), 0),
    "sum of abs": Case(lambda x: x.abs().sum(), 0),
    "logsumexp": Case(lambda x: torch.logsumexp(x, 0), 144),
    "norm": Case(lambda x: torch.linalg.vector_norm(x), 144),
    "squares of cumsum": Case(lambda x: (torch.cumsum(x, 0) ** 2).sum(), 144),
    "logsumexp of rows": Case(lambda x: torch.logsumexp(x.reshape(4, 3), 1).sum(), 36),
    "energy of gathered pairs": Case(
        lambda x: ((x[torch.tensor([0, 2, 4])] - x[torch.tensor([1, 3, 5])]) ** 4).sum(), 12
    ),
    "separable network": Case(lambda x: torch.tanh(2.0 * torch.tanh(x)).sum(), 12),
    "squares of a convolution": Case(
        lambda x: (F.conv1d(x.reshape(1, 1, N), torch.tensor([[[1.0, -2.0, 1.0]]], dtype=x.dtype)) ** 2).sum(), 54
    ),
    "bilinear": Case(lambda x: torch.einsum("i,i->", x[:6], x[6:]), 12),
    "det, batched": Case(lambda x: torch.linalg.det(x.reshape(3, 2, 2)).sum(), 12, rounding=1e-12,
        conservative="goes through an inverse, the entries of which cancel"),
    "batched network": Case(lambda x: MLP(x.reshape(4, 3)).square().sum(), 36),
    "squared gelu, element by element": Case(lambda x: F.gelu(x).square().sum(), 12),
}  # fmt: skip
