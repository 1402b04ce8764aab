"""JAX under ``jit``: dense Jacobians and Hessians of arrays, thin shapes, and small scalar graphs in a batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import crelle
from benchmarks.harness import Contestant
from benchmarks.problem import OURS, Problem, Task, mode_of

Function = Callable[[Any], Any]
#: A function and the point; arguments are dtype and whether to be small.
Maker = Callable[[Any, bool], tuple[Function, Any]]

FORWARD, REVERSE = "jacfwd", "jacrev"
HESSIAN_PEERS: dict[str, Callable[[Function], Function]] = {
    "jax.hessian": jax.hessian,
    "jacrev(jacrev)": lambda f: jax.jacrev(jax.jacrev(f)),
}
JACOBIAN_PEERS: dict[str, Callable[[Function], Function]] = {FORWARD: jax.jacfwd, REVERSE: jax.jacrev}


def _draw(seed: int, dtype: Any) -> Callable[..., Any]:
    """Random matrices whose products keep their scale."""
    rng = np.random.default_rng(seed)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[-1]), dtype)


def _point(seed: int, dtype: Any, *shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def mlp_input(dtype: Any, small: bool) -> tuple[Function, Any]:
    n, h = (20, 32) if small else (100, 256)
    draw = _draw(1, dtype)
    a, b, c = draw(h, n), draw(h, h), draw(n, h)
    return lambda x: c @ jnp.tanh(b @ jnp.tanh(a @ x)), _point(2, dtype, n)


def mlp_weight(dtype: Any, small: bool) -> tuple[Function, Any]:
    n, h = (10, 16) if small else (100, 256)
    draw = _draw(1, dtype)
    a, b, c = draw(h, n), draw(h, h), draw(n, h)
    x = _point(2, dtype, n)
    return lambda weight: c @ jnp.tanh(weight @ jnp.tanh(a @ x)), b


def mlp_batch(dtype: Any, small: bool) -> tuple[Function, Any]:
    batch = 8 if small else 128
    draw = _draw(3, dtype)
    a, b, c = draw(64, 32), draw(64, 64), draw(16, 64)
    return lambda x: jnp.tanh(jnp.tanh(x @ a.T) @ b.T) @ c.T, _point(4, dtype, batch, 32)


def elementwise(dtype: Any, small: bool) -> tuple[Function, Any]:
    return lambda x: jnp.sin(x) * jnp.exp(-x * x) + x / (1 + x * x), _point(5, dtype, 50 if small else 2000)


def softmax(dtype: Any, small: bool) -> tuple[Function, Any]:
    return jax.nn.softmax, _point(6, dtype, 50 if small else 2000)


def bottleneck(dtype: Any, small: bool) -> tuple[Function, Any]:
    n, k = (60, 3) if small else (1000, 10)
    draw = _draw(7, dtype)
    p, q, r, s = draw(n, n), draw(k, n), draw(n, k), draw(n, n)
    return lambda x: s @ jnp.tanh(r @ (q @ jnp.tanh(p @ x))), _point(8, dtype, n)


def residual(dtype: Any, small: bool) -> tuple[Function, Any]:
    depth, n, h = (3, 8, 16) if small else (20, 64, 256)
    draw = _draw(9, dtype)
    blocks = [(draw(h, n), draw(n, h)) for _ in range(depth)]

    def f(x: Any) -> Any:
        for up, down in blocks:
            x = x + down @ jnp.tanh(up @ x)
        return x

    return f, _point(10, dtype, n)


def _normalised(x: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)


def transformer(dtype: Any, small: bool) -> tuple[Function, Any]:
    length, d = (4, 8) if small else (16, 32)
    draw = _draw(11, dtype)
    query, key, value, out = (draw(d, d) for _ in range(4))
    up, down = draw(d, 4 * d), draw(4 * d, d)

    def f(x: Any) -> Any:
        y = _normalised(x)
        scores = jax.nn.softmax((y @ query) @ (y @ key).T / math.sqrt(d), axis=-1)
        x = x + scores @ (y @ value) @ out
        return x + jax.nn.gelu(_normalised(x) @ up) @ down

    return f, _point(12, dtype, length, d)


def layer_norm(dtype: Any, small: bool) -> tuple[Function, Any]:
    length, d = (4, 8) if small else (32, 32)
    draw = _draw(13, dtype)
    scale, shift = draw(d), draw(d)
    return lambda x: _normalised(x) * scale + shift, _point(14, dtype, length, d)


def pair_energy(dtype: Any, small: bool) -> tuple[Function, Any]:
    atoms = 8 if small else 100

    def f(x: Any) -> Any:
        r = x.reshape(atoms, 3)
        gap = r[:, None] - r[None]
        return jnp.exp(-jnp.sum(gap * gap, -1) - jnp.eye(atoms, dtype=dtype)).sum()

    return f, _point(15, dtype, atoms * 3)


def thin(n: int, m: int, dtype: Any, small: bool) -> tuple[Function, Any]:
    if small:
        n, m = (max(2, n // 20), max(2, m // 20))
    draw = _draw(16, dtype)
    a, b = draw(256, n), draw(m, 256)
    return lambda x: b @ jnp.tanh(a @ x), _point(17, dtype, n)


def roe_flux(z: Any) -> Any:
    """Roe's approximate Riemann flux of the one-dimensional Euler equations: two states of (ρ, ρu, E)."""
    gamma = 1.4

    def state(rho: Any, momentum: Any, energy: Any) -> tuple[Any, Any, Any]:
        u = momentum / rho
        p = (gamma - 1) * (energy - momentum * u / 2)
        return u, p, (energy + p) / rho

    left, right = z[:3], z[3:]
    (ul, pl, hl), (ur, pr, hr) = state(*left), state(*right)
    wl, wr = jnp.sqrt(left[0]), jnp.sqrt(right[0])
    rho = wl * wr
    u, h = (wl * ul + wr * ur) / (wl + wr), (wl * hl + wr * hr) / (wl + wr)
    a = jnp.sqrt((gamma - 1) * (h - u * u / 2))
    dp, du, drho = pr - pl, ur - ul, right[0] - left[0]
    waves = (
        (jnp.abs(u - a) * (dp - rho * a * du) / (2 * a * a), (1.0, u - a, h - u * a)),
        (jnp.abs(u) * (drho - dp / (a * a)), (1.0, u, u * u / 2)),
        (jnp.abs(u + a) * (dp + rho * a * du) / (2 * a * a), (1.0, u + a, h + u * a)),
    )
    fluxes = (left[1] + right[1], left[1] * ul + pl + right[1] * ur + pr, left[1] * hl + right[1] * hr)
    return jnp.stack([(flux - sum(s * v[i] for s, v in waves)) / 2 for i, flux in enumerate(fluxes)])


def robot_arm(angles: Any) -> Any:
    """Position and Euler angles of a six-jointed arm: the product of its Denavit-Hartenberg rotations, written out."""
    lengths, offsets = (0.18, 0.9, 0.05, 0.0, 0.0, 0.0), (0.58, 0.0, 0.0, 1.0, 0.0, 0.19)
    twists = ((0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (0.0, 1.0), (1.0, 0.0))  # cosine and sine
    rotation: list[list[Any]] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    place: list[Any] = [0.0, 0.0, 0.0]
    for i in range(6):
        c, s = jnp.cos(angles[i]), jnp.sin(angles[i])
        ca, sa = twists[i]
        step = [[c, -s * ca, s * sa], [s, c * ca, -c * sa], [0.0, sa, ca]]
        reach = (lengths[i] * c, lengths[i] * s, offsets[i])
        place = [p + sum(row[k] * reach[k] for k in range(3)) for p, row in zip(place, rotation, strict=True)]
        rotation = [[sum(row[k] * step[k][j] for k in range(3)) for j in range(3)] for row in rotation]
    roll = jnp.arctan2(rotation[2][1], rotation[2][2])
    pitch = jnp.arctan2(-rotation[2][0], jnp.sqrt(rotation[0][0] ** 2 + rotation[1][0] ** 2))
    yaw = jnp.arctan2(rotation[1][0], rotation[0][0])
    return jnp.stack([*place, roll, pitch, yaw])


def heart_dipole(z: Any) -> Any:
    """The eight equations of the human heart dipole problem (MINPACK-2)."""
    a, b, c, d, t, u, v, w = z
    tv, uw, tv3, uw3 = t * t - v * v, u * u - w * w, t * t - 3 * v * v, u * u - 3 * w * w
    vt3, wu3 = v * v - 3 * t * t, w * w - 3 * u * u
    return jnp.stack(
        [
            a + b - 0.485,
            c + d + 0.0019,
            t * a + u * b - v * c - w * d + 0.0581,
            v * a + w * b + t * c + u * d - 0.015,
            a * tv - 2 * c * t * v + b * uw - 2 * d * u * w - 0.105,
            c * tv + 2 * a * t * v + d * uw + 2 * b * u * w - 0.0406,
            a * t * tv3 + c * v * vt3 + b * u * uw3 + d * w * wu3 - 0.167,
            c * t * tv3 - a * v * vt3 + d * u * uw3 - b * w * wu3 + 0.399,
        ]
    )


def black_scholes(z: Any) -> Any:
    """Price of a European call: spot, strike, rate, volatility, time to expiry."""
    spot, strike, rate, volatility, expiry = z
    spread = volatility * jnp.sqrt(expiry)
    d1 = (jnp.log(spot / strike) + (rate + volatility * volatility / 2) * expiry) / spread
    normal = jax.scipy.stats.norm.cdf
    return spot * normal(d1) - strike * jnp.exp(-rate * expiry) * normal(d1 - spread)


POINTS: dict[str, tuple[Function, tuple[float, ...]]] = {
    "roe-flux": (roe_flux, (1.0, 0.3, 2.5, 0.8, 0.1, 1.8)),
    "robot-arm": (robot_arm, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
    "heart-dipole": (heart_dipole, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.2, 0.1)),
    "black-scholes": (black_scholes, (1.0, 1.1, 0.05, 0.3, 2.0)),
}


def batch_of(name: str, dtype: Any, small: bool) -> Any:
    """512 points near the one of ``POINTS``."""
    centre = np.array(POINTS[name][1])
    scatter = np.random.default_rng(18).random((8 if small else 512, len(centre)))
    return jnp.asarray(centre * (1 + 0.1 * scatter), dtype)


def _identity(g: Function) -> Function:
    return g


def problem(
    f: Function,
    x: Any,
    *,
    hessian: bool = False,
    batched: bool = False,
    skip: tuple[str, ...] = (),
    modes: bool = False,
) -> Problem:
    """Crelle against the framework, all jitted; ``batched`` puts each under ``vmap``."""
    lift: Callable[[Function], Function] = jax.vmap if batched else _identity
    kind = crelle.hessian if hessian else crelle.jacobian
    peers = {k: v for k, v in (HESSIAN_PEERS if hessian else JACOBIAN_PEERS).items() if k not in skip}

    def contestant(name: str, g: Function, compared: bool = True) -> Contestant:
        jitted = jax.jit(lift(g))
        return Contestant(name, lambda: jax.block_until_ready(jitted(x)), compared=compared)

    contestants = [contestant("f", f, compared=False), contestant(OURS, kind(f))]
    contestants += [contestant(name, transform(f)) for name, transform in peers.items()]
    plan = kind(f).plan(x[0] if batched else x)
    if modes:
        usable = {mode_of(c.mode) for c in plan.candidates if c.passes >= 0}
        slow = {"forward" if name == FORWARD else "reverse" for name in skip}
        contestants += [contestant(f"{OURS} {mode}", kind(f, mode=mode)) for mode in sorted(usable - slow)]
    chosen = {"mode": plan.mode, "chunk": plan.chunk, "method": plan.method}
    types = [str(t) for t in (*plan.inputs, *plan.outputs)]
    return Problem(contestants, f"{' -> '.join(types)}{f' × {len(x)}' if batched else ''}", chosen)


def chunked_hessian(dtype: Any, small: bool) -> Problem:
    """Chunks of 16 asked for, against the same by hand: ``lax.map`` over the linearised gradient."""
    f, x = pair_energy(dtype, small)

    def by_hand(z: Any) -> Any:
        push = jax.linearize(jax.grad(f), z)[1]
        return jax.lax.map(push, jnp.eye(z.size, dtype=z.dtype), batch_size=16)

    transform = crelle.hessian(f, chunk=16)
    ours, hand, whole = jax.jit(transform), jax.jit(by_hand), jax.jit(jax.hessian(f))
    plan = transform.plan(x)
    return Problem(
        [
            Contestant(OURS, lambda: jax.block_until_ready(ours(x))),
            Contestant("lax.map", lambda: jax.block_until_ready(hand(x))),
            Contestant("jax.hessian", lambda: jax.block_until_ready(whole(x))),
        ],
        f"{plan.inputs[0]} -> {plan.outputs[0]}",
        {"mode": plan.mode, "chunk": plan.chunk, "method": plan.method},
    )


def _tasks(modes: bool) -> list[Task]:
    found: list[Task] = []

    def add(group: str, name: str, make: Maker, **options: Any) -> None:
        for short, dtype in (("f64", jnp.float64), ("f32", jnp.float32)):

            def build(small: bool, dtype: Any = dtype) -> Problem:
                f, x = make(dtype, small)
                return problem(f, x, modes=modes, **options)

            found.append(Task(group, f"{name}/{short}", build))

    add("jax-dense", "mlp-input", mlp_input)
    add("jax-dense", "mlp-weight", mlp_weight, skip=(FORWARD,))  # 65,536 columns: minutes
    add("jax-dense", "mlp-batch", mlp_batch)
    add("jax-thin", "elementwise", elementwise)
    add("jax-dense", "softmax", softmax)
    add("jax-dense", "bottleneck", bottleneck)
    add("jax-dense", "residual", residual)
    add("jax-dense", "transformer", transformer)
    add("jax-dense", "layer-norm", layer_norm)
    add("jax-dense", "pair-hessian", pair_energy, hessian=True)
    for n, m in ((4, 1000), (1000, 4), (200, 200)):
        add("jax-thin", f"thin-{n}-{m}", functools.partial(thin, n, m))
    for name, (f, _) in POINTS.items():
        add("jax-dense", name, lambda dtype, small, name=name, f=f: (f, batch_of(name, dtype, small)), batched=True)
    add(
        "jax-dense",
        "black-scholes-hessian",
        lambda dtype, small: (black_scholes, batch_of("black-scholes", dtype, small)),
        batched=True,
        hessian=True,
    )
    for short, dtype in (("f64", jnp.float64), ("f32", jnp.float32)):
        found.append(Task("jax-dense", f"pair-hessian-chunks/{short}", functools.partial(chunked_hessian, dtype)))
    return found


def tasks(modes: bool = False) -> list[Task]:
    """All tasks; ``modes`` adds Crelle's own modes one by one, to see whether the choice between them was right."""
    return _tasks(modes)
