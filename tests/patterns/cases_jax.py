"""76 functions with their Jacobians' patterns and 28 with their Hessians', in JAX, n = 12; and some more.

Each case uses one construction that detection by the primal program gets wrong, mixes up or does not know. Its true
pattern is the union of the nonzeros over some points, unless that is too small: what is sorted or selected by value
has more places to come from than a few points show, and ``truth`` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.ode import odeint
from jax.experimental.sparse import BCOO

N = 12


@dataclass(frozen=True, slots=True)
class Case:
    """A function of f64[12].

    Attributes:
        nnz: of the true pattern, where it was counted by hand.
        truth: the true pattern, where a few points do not show all of it.
        conservative: why the pattern may be larger than the true one; empty where it may not.
        reverse: its dense Jacobian is computed in reverse mode; it has no other.
        low, high: where the points are drawn.
    """

    f: Callable[[Any], Any]
    nnz: int | None = None
    truth: np.ndarray | None = None
    conservative: str = ""
    reverse: bool = False
    low: float = -0.5
    high: float = 1.5


def full(rows, columns=N):
    return np.ones((rows, columns), bool)


def blocks(count, rows, columns):
    return np.kron(np.eye(count, dtype=bool), full(rows, columns))


_rng = np.random.default_rng(7)
DENSE = _rng.standard_normal((N, N))
LOWER = np.tril(DENSE) + 6.0 * np.eye(N)
BIDIAGONAL = 2.0 * np.eye(N) - np.eye(N, k=-1)
SECOND = 2.0 * np.eye(N) - np.eye(N, k=1) - np.eye(N, k=-1)
PICK = np.array([4, 2, 2, 9, 0, 11])
GRID = np.linspace(0.0, 1.0, N)
STORED = BCOO.fromdense(jnp.asarray(BIDIAGONAL))


@jax.custom_jvp
def rounded(x):
    return jnp.round(x)


@rounded.defjvp
def _(primals, tangents):
    return rounded(*primals), tangents[0]


@jax.custom_vjp
def quantised(x):
    return jnp.floor(4.0 * x) / 4.0


quantised.defvjp(lambda x: (quantised(x), None), lambda _, cotangent: (cotangent,))


@jax.custom_jvp
def ramp(x):
    return jnp.where(x > 0.0, x, 0.0)


@ramp.defjvp
def _(primals, tangents):
    return ramp(*primals), jnp.where(primals[0] > 0.0, tangents[0], 0.0)


@jax.custom_jvp
def host_sine(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims")


@host_sine.defjvp
def _(primals, tangents):
    return host_sine(*primals), jnp.cos(primals[0]) * tangents[0]


def root_by_newton(x):
    """sqrt(1 + x²) of every element, until the slowest has converged."""
    target = 1.0 + x * x
    step = lambda s: 0.5 * (s + target / s)
    return lax.while_loop(lambda s: jnp.max(jnp.abs(s * s - target)) > 1e-12, step, jnp.full_like(x, 1.5) + 0.0 * x)


def heat(u):
    return u.at[1:-1].add(0.1 * (u[2:] - 2.0 * u[1:-1] + u[:-2]))


def normalised(x):
    z = x.reshape(4, 3)
    return ((z - z.mean(0)) * lax.rsqrt(z.var(0) + 1e-5)).ravel()


def spd(x, batch=3):
    """[batch, 2, 2], symmetric and positive definite, every entry a function of all numbers of its row of x."""
    c = jnp.asarray([[1.0, 2.0, 3.0, 4.0], [0.5, 1.5, 2.5, 3.5], [4.0, 3.0, 2.0, 1.0]])
    a, b, d = jnp.moveaxis(0.1 * jnp.sin(x.reshape(batch, 1, -1) * c).sum(-1), -1, 0)
    return jnp.stack([jnp.stack([2.0 + a, b], -1), jnp.stack([b, 2.0 + d], -1)], -2)


def scan(step, start):
    return lambda x: lax.scan(step, start, x)[1]


DIAGONAL_NOT_SEEN = "which entries of the factored matrix are zero is known only by value, so the whole block is taken"
CANCELS = "the sum of coefficients that cancel is not formed"
STEP_SIZE = "the reverse pass chooses its steps by the error in all numbers together"
TABLE = "of an index from a table only the least and the greatest value are kept"

JACOBIANS: dict[str, Case] = {
    # indexing
    "gather, constant index": Case(lambda x: jnp.cos(x[PICK]), 6),
    "gather, argsort": Case(lambda x: x[jnp.argsort(x)], 144, full(N)),
    "gather, computed constant index": Case(lambda x: x[(jnp.arange(N) * 5 + 2) % N], 12),
    "scatter-add, constant index": Case(lambda x: jnp.zeros(N).at[PICK].add(x[:6] ** 3), 6),
    "scatter-set": Case(lambda x: x.at[PICK[0]].set(x[1] * x[3]), 13),
    "segment_sum, computed constant segments": Case(
        lambda x: jax.ops.segment_sum(jnp.exp(x), jnp.arange(N) // 3, 4), 12
    ),
    "dynamic_slice, constant start": Case(lambda x: jnp.sin(lax.dynamic_slice(x, (3,), (5,))), 5),
    "dynamic_slice, start among two": Case(
        lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:2]),), (4,)) ** 2, 8
    ),
    "dynamic_update_slice": Case(lambda x: lax.dynamic_update_slice(x, x[:2] ** 2, (5,)), 12),
    "mask": Case(lambda x: jnp.where(jnp.arange(N) < 4, x**2, 1.0), 4),
    "interp, constant points": Case(lambda x: jnp.interp(jnp.linspace(0.03, 0.97, 5), GRID, x), 10),
    "interp, at x": Case(lambda x: jnp.interp(x, GRID, GRID**2), 12, np.eye(N, dtype=bool)),
    # cumulative, sorted, selected
    "cumsum": Case(jnp.cumsum, 78),
    "cumprod": Case(jnp.cumprod, 78),
    "cumlogsumexp": Case(lambda x: lax.cumlogsumexp(x, axis=0), 78),
    "associative_scan": Case(lambda x: lax.associative_scan(jnp.multiply, x), 78),
    "sort": Case(jnp.sort, 144, full(N)),
    "sort, by rows": Case(lambda x: jnp.sort(x.reshape(4, 3), axis=1).ravel(), 36, blocks(4, 3, 3)),
    "top_k": Case(lambda x: lax.top_k(x, 3)[0], 36, full(3)),
    # windows
    "conv, one axis": Case(lambda x: jnp.convolve(x, jnp.asarray([1.0, -2.0, 4.0]), mode="same"), 34),
    "conv, a tap is zero": Case(lambda x: jnp.convolve(x, jnp.asarray([1.0, 0.0, 4.0]), mode="same"), 22),
    "conv, two axes": Case(
        lambda x: lax.conv(x.reshape(1, 1, 3, 4), jnp.full((1, 1, 2, 2), 0.5), (1, 1), "SAME").ravel(), 35
    ),
    "reduce_window max": Case(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID"), 12),
    "reduce_window sum": Case(lambda x: lax.reduce_window(x, 0.0, lax.add, (3,), (1,), "SAME"), 34),
    # Fourier transforms
    "fft, real": Case(lambda x: jnp.fft.rfft(x).real + jnp.fft.rfft(x).imag, 84),
    "fft, by rows": Case(lambda x: jnp.abs(jnp.fft.fft(x.reshape(4, 3), axis=1)).ravel(), 36),
    # control flow
    "scan, lower triangular": Case(scan(lambda c, a: (0.5 * c + a, 0.5 * c + a), 0.0), 78),
    "scan, this and the last": Case(scan(lambda c, a: (a, a * c), 1.5), 23),
    "while, element by element": Case(root_by_newton, 12),
    "fori, 3 steps of a stencil": Case(lambda x: lax.fori_loop(0, 3, lambda i, u: heat(u), x), 66),
    "cond, constant predicate": Case(lambda x: lax.cond(False, lambda y: y[::-1], lambda y: y**3, x), 12),
    "cond, predicate of x": Case(lambda x: lax.cond(x[0] > 0.4, lambda y: jnp.roll(y, 1), lambda y: y**2, x), 24),
    "switch, constant index": Case(lambda x: lax.switch(1, [lambda y: 2.0 * y, lambda y: y[::-1]], x), 12),
    "map over rows": Case(lambda x: lax.map(lambda r: r.sum() * r, x.reshape(4, 3)).ravel(), 36),
    # reductions
    "max, by rows": Case(lambda x: x.reshape(4, 3).max(1), 12, blocks(4, 1, 3)),
    "argmax": Case(lambda x: x * 0.0 + jnp.argmax(x), 0),
    "logsumexp, by rows": Case(lambda x: jax.nn.logsumexp(x.reshape(4, 3), axis=1), 12),
    "softmax, by rows": Case(lambda x: jax.nn.softmax(x.reshape(4, 3), axis=1).ravel(), 36),
    "batch norm": Case(normalised, 48),
    # products
    "einsum, batch of constant matrices": Case(
        lambda x: jnp.einsum("bij,bj->bi", DENSE[:4, :9].reshape(4, 3, 3), x.reshape(4, 3)).ravel(), 36
    ),
    "einsum, outer products": Case(
        lambda x: jnp.einsum("bi,bj->bij", x.reshape(4, 3), jnp.sin(x).reshape(4, 3)).ravel(), 60
    ),
    "matmul, bidiagonal stored dense": Case(lambda x: BIDIAGONAL @ x, 23),
    "matmul, diagonal stored dense": Case(lambda x: jnp.diag(jnp.arange(1.0, N + 1)) @ x, 12),
    "matmul, BCOO": Case(lambda x: STORED @ x, 23),
    # moving and cancelling
    "reshape and transpose": Case(lambda x: jnp.tanh(x.reshape(2, 3, 2).transpose(1, 2, 0)).ravel(), 12),
    "x * 0": Case(lambda x: x * 0.0, 0),
    "x - x": Case(lambda x: x - x, 0, conservative=CANCELS),
    "(x + x0) - x0": Case(lambda x: (x + x[0]) - x[0], 12, conservative=CANCELS),
    # rules of their own
    "custom_jvp, relu": Case(ramp, 12),
    "relu": Case(jax.nn.relu, 12),
    "gelu": Case(jax.nn.gelu, 12),
    "custom_jvp, straight-through": Case(rounded, 12),
    "custom_vjp, straight-through": Case(quantised, 12, reverse=True),
    "stop_gradient": Case(lambda x: lax.stop_gradient(jnp.roll(x, 1)) * x, 12),
    "through integers": Case(lambda x: jnp.sin((3.0 * x).astype(int).astype(float)), 0),
    "pure_callback with a rule": Case(host_sine, 12),
    # linear algebra
    "triangular_solve": Case(lambda x: jax.scipy.linalg.solve_triangular(LOWER, x, lower=True), 78),
    "triangular_solve, batched": Case(
        lambda x: jax.vmap(lambda b: jax.scipy.linalg.solve_triangular(LOWER[:3, :3], b, lower=True))(
            x.reshape(4, 3)
        ).ravel(),
        24,
    ),
    "solve": Case(lambda x: jnp.linalg.solve(DENSE + 9.0 * np.eye(N), x), 144),
    "cholesky, batched": Case(
        lambda x: jnp.linalg.cholesky(jnp.eye(2) * (2.0 + x.reshape(3, 4)[:, :1, None] ** 2)).ravel(), 6,
        conservative=DIAGONAL_NOT_SEEN,
    ),
    "det, batched": Case(lambda x: jnp.linalg.det(x.reshape(3, 2, 2)), 12),
    "inv, batched": Case(lambda x: jnp.linalg.inv(x.reshape(3, 2, 2) + 5.0 * jnp.eye(2)).ravel(), 48),
    "eigh, batched": Case(
        lambda x: jnp.linalg.eigh(jnp.eye(2) * x.reshape(3, 4)[:, 0, None, None] + jnp.ones((2, 2)))[0].ravel(), 6
    ),
    "tridiagonal_solve": Case(
        lambda x: lax.linalg.tridiagonal_solve(
            jnp.full(N, 0.1).at[0].set(0.0), jnp.full(N, 4.0), jnp.full(N, 0.1).at[-1].set(0.0), x[:, None]
        )[:, 0],
        144,
    ),
    "expm, batched": Case(lambda x: jax.scipy.linalg.expm(x.reshape(3, 2, 2)).ravel(), 48),
    "cg, diagonal operator": Case(
        lambda x: jax.scipy.sparse.linalg.cg(lambda v: jnp.arange(1.0, N + 1) * v, x)[0], 12
    ),
    # special functions, random numbers, complex numbers
    "gammainc": Case(lambda x: jax.scipy.special.gammainc(2.0, x**2 + 0.1), 12),
    "betainc": Case(lambda x: jax.scipy.special.betainc(2.0, 3.0, jax.nn.sigmoid(x)), 12),
    "erfinv": Case(lambda x: jax.scipy.special.erfinv(jnp.tanh(x)), 12),
    "random numbers": Case(lambda x: x * jax.random.normal(jax.random.key(3), (N,)), 12),
    "complex": Case(lambda x: jnp.real(jnp.exp(1j * x)), 12),
    "polyval": Case(lambda x: jnp.polyval(jnp.asarray([1.0, 2.0, 3.0]), x), 12),
    # transforms inside
    "checkpoint": Case(jax.checkpoint(lambda x: jnp.sin(x) * jnp.roll(x, 1)), 24),
    "vmap inside": Case(lambda x: jax.vmap(lambda r: r[0] * r[1:])(x.reshape(4, 3)).ravel(), 16),
    "jvp inside": Case(lambda x: jax.jvp(lambda y: jnp.sin(y) * jnp.roll(y, 1), (x,), (jnp.ones(N),))[1], 24),
    "odeint, a system of one each": Case(
        lambda x: odeint(lambda y, t: -(y**3), x, jnp.asarray([0.0, 1.0]))[-1], 12, reverse=True, conservative=STEP_SIZE
    ),
}  # fmt: skip

PAIRS = np.array([[0, 1], [2, 3], [4, 5]])


def arrow():
    found = np.zeros((N, N), bool)
    found[0] = found[:, 0] = True
    return found


HESSIANS: dict[str, Case] = {
    "square of the sum": Case(lambda x: jnp.sum(x) ** 2, 144),
    "linear": Case(lambda x: jnp.sum(3.0 * x), 0),
    "x0 times the sum": Case(lambda x: x[0] * x.sum(), 23, arrow()),
    "squares of a bidiagonal residual": Case(lambda x: jnp.sum((x[1:] * x[:-1] - 1.0) ** 2), 34),
    "squares of a dense linear residual": Case(lambda x: jnp.sum((DENSE[:6] @ x - 1.0) ** 2), 144),
    "separable and one product": Case(lambda x: jnp.sum(jnp.log(x + 9.0)) + x[0] * x[5], 14),
    "dot with a constant": Case(lambda x: jnp.dot(x, jnp.arange(N) + 1.0), 0),
    "quadratic form, diagonal stored dense": Case(lambda x: x @ (jnp.diag(jnp.arange(1.0, N + 1)) @ x), 12),
    "quadratic form, bidiagonal stored dense": Case(lambda x: x @ (BIDIAGONAL @ x), 34),
    "product of all": Case(jnp.prod, 132),
    "products of pairs": Case(lambda x: jnp.prod(x.reshape(6, 2), axis=1).sum(), 12),
    "max": Case(jnp.max, 0),
    "sum of relu": Case(lambda x: jax.nn.relu(x).sum(), 0),
    "sum of abs": Case(lambda x: jnp.abs(x).sum(), 0),
    "logsumexp": Case(jax.nn.logsumexp, 144),
    "norm": Case(jnp.linalg.norm, 144),
    "sum of cumsum": Case(lambda x: jnp.cumsum(x).sum(), 0),
    "squares of cumsum": Case(lambda x: (jnp.cumsum(x) ** 2).sum(), 144),
    "logsumexp of rows": Case(lambda x: jax.nn.logsumexp(x.reshape(4, 3), axis=1).sum(), 36),
    "energy of a scan": Case(lambda x: lax.scan(lambda c, a: (a, (a - c) ** 4), 0.0, x)[1].sum(), 34),
    "sum in a scan": Case(lambda x: lax.scan(lambda c, a: (c + a**2, None), 0.0, x)[0], 12),
    "sum in a fori": Case(lambda x: lax.fori_loop(0, N, lambda i, s: s + x[i] ** 3, 0.0), 12),
    "energy of gathered pairs": Case(lambda x: jnp.sum((x[PAIRS[:, 0]] - x[PAIRS[:, 1]]) ** 4), 12),
    "separable network": Case(lambda x: jnp.tanh(2.0 * jnp.tanh(x)).sum(), 12),
    "squares of a convolution": Case(
        lambda x: (jnp.convolve(x, jnp.asarray([1.0, -2.0, 1.0]), mode="valid") ** 2).sum(), 54
    ),
    "bilinear": Case(lambda x: jnp.einsum("i,i->", x[:6], x[6:]), 12),
    "det, batched": Case(lambda x: jnp.linalg.det(x.reshape(3, 2, 2)).sum(), 12),
    "sum in a while": Case(
        lambda x: lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] + (x**2).sum()), (0, 0.0))[1], 12
    ),
}


def clamped(size):
    """A slice whose start is a function of x and often beyond either end: JAX moves it inside."""
    return lambda x: lax.dynamic_slice(x, (jnp.floor(40.0 * x[0]).astype(int) - 10,), (size,))


def band(rows, columns, offsets):
    return np.logical_or.reduce([np.eye(rows, columns, k, dtype=bool) for k in offsets])


def attention(x):
    q, k, v = (w @ x.reshape(2, 3, 2) for w in (DENSE[:3, :3], DENSE[3:6, :3], DENSE[6:9, :3]))
    return (jax.nn.softmax(q @ k.swapaxes(1, 2), axis=-1) @ v).ravel()


MORE: dict[str, Case] = {
    "cholesky, batch of full blocks": Case(lambda x: jnp.linalg.cholesky(spd(x)).ravel(), 36),
    "solve, batch of full blocks": Case(lambda x: jnp.linalg.solve(spd(x), jnp.ones((3, 2, 1))).ravel(), 24),
    "eigh, batch of full blocks": Case(lambda x: jnp.linalg.eigh(spd(x))[0].ravel(), 24),
    "svd, batch of full blocks": Case(lambda x: jnp.linalg.svd(spd(x), compute_uv=False).ravel(), 24),
    "qr, batch of full blocks": Case(lambda x: jnp.linalg.qr(spd(x))[0].ravel(), 48),
    "fft, real part": Case(lambda x: jnp.fft.rfft(x).real, 74, conservative="the cosines that are zero are not known"),
    "fft, batch": Case(lambda x: jnp.fft.irfft(jnp.fft.rfft(x.reshape(3, 4), axis=1) ** 2, axis=1).ravel(), 48),
    "attention, batch": Case(attention, 72, blocks(2, 6, 6)),
    "median": Case(jnp.median, 12, full(1)),
    "dynamic_slice, any start, clamped": Case(clamped(10), 30, band(10, N, (0, 1, 2))),
    "dynamic_slice, constant start beyond the end": Case(lambda x: lax.dynamic_slice(x, (40,), (3,)) ** 2, 3),
    "dynamic_slice, negative constant start": Case(lambda x: lax.dynamic_slice(x, (-40,), (3,)) ** 2, 3),
    "dynamic_update_slice, any start": Case(
        lambda x: lax.dynamic_update_slice(x, x[:2] ** 2, (jnp.floor(30.0 * x[5]).astype(int) - 5,)), 32,
        band(N, N, (0,)) | (np.arange(N) == 0)[None] & (np.arange(N) < 11)[:, None]
        | (np.arange(N) == 1)[None] & (np.arange(N) > 0)[:, None],
    ),
    "scatter-add, index of x": Case(
        lambda x: jnp.zeros(4).at[jnp.floor(4.0 * jax.nn.sigmoid(5.0 * x[:3])).astype(int)].add(x[3:6]), 12,
        np.ones((4, 1), bool) & ((np.arange(N) > 2) & (np.arange(N) < 6))[None],
    ),
    "gather, one of three": Case(
        lambda x: x[jnp.array([3, 7, 9])[jnp.argmax(x[:3])]] ** 2, 3, np.isin(np.arange(N), (3, 7, 9))[None],
        conservative=TABLE,
    ),
    "sum over graph edges": Case(
        lambda x: jax.ops.segment_sum(jnp.sin(x[jnp.arange(N)] - x[(jnp.arange(N) + 1) % N]), jnp.arange(N), N), 24
    ),
    "two leaves out": Case(lambda x: {"a": x[:2] ** 2, "b": jnp.sum(x[2:4])}, 4),
}  # fmt: skip
