"""Flows with their log-determinants in closed form, in JAX and PyTorch, from the same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import torch


def realnvp(d, layers=3, hidden=16, seed=0, masked=False):
    """(f, closed form) in NumPy arrays and an ``xp`` of either framework; x may have leading axes."""
    rng = np.random.default_rng(seed)
    half = d // 2
    weights = []
    for _ in range(layers):
        mask = rng.permutation(d) < half
        weights.append(
            (
                rng.standard_normal((d if masked else half, hidden)) / np.sqrt(d),
                rng.standard_normal((hidden, 2 * d if masked else 2 * (d - half))) / np.sqrt(hidden),
                rng.permutation(d),
                mask.astype(float),
            )
        )

    def both(x, xp):
        total = 0.0
        for first, second, order, mask in weights:
            first, second, mask = xp.asarray(first), xp.asarray(second), xp.asarray(mask)
            if masked:
                out = xp.tanh((x * mask) @ first) @ second
                s, t = xp.tanh(out[..., :d]) * (1 - mask), out[..., d:] * (1 - mask)
                x = x * mask + (1 - mask) * (x * xp.exp(s) + t)
            else:
                a, b = x[..., :half], x[..., half:]
                out = xp.tanh(a @ first) @ second
                s, t = xp.tanh(out[..., : d - half]), out[..., d - half :]
                x = xp.concatenate([a, b * xp.exp(s) + t], -1)
            total = total + s.sum(-1)
            x = x[..., order]
        return x, total

    return both


def maf(d, layers=2, hidden=24, seed=0):
    """Masked autoregressive layers with reversals between them; the weights are arguments, the masks are captured."""
    rng = np.random.default_rng(seed)
    weights, masks = [], []
    for _ in range(layers):
        degree = rng.integers(0, max(d - 1, 1), hidden)
        into = (degree[:, None] >= np.arange(d)).astype(float)
        out = (np.arange(d)[:, None] > degree).astype(float)
        masks.append((into, np.concatenate([out, out])))
        weights.append((rng.standard_normal((hidden, d)) / np.sqrt(d), rng.standard_normal((2 * d, hidden)) / hidden))

    def both(x, weights, xp):
        total = 0.0
        for (first, second), (into, out) in zip(weights, masks, strict=True):
            h = xp.tanh(x @ (first * xp.asarray(into)).T)
            o = h @ (second * xp.asarray(out)).T
            s = xp.tanh(o[..., :d])
            x = xp.flip(x * xp.exp(s) + o[..., d:], (-1,))
            total = total + s.sum(-1)
        return x, total

    return both, weights


def glow(size, channels, layers=2, seed=0):
    """Actnorm, invertible 1×1 convolution and channel couplings with 3×3 stencils, on [size, size, channels]."""
    rng = np.random.default_rng(seed)
    half = channels // 2
    weights = [
        (
            rng.uniform(0.5, 2, channels),
            np.linalg.qr(rng.standard_normal((channels, channels)))[0] * rng.uniform(0.5, 2, channels),
            rng.standard_normal((half, 2 * (channels - half))) / 4,
        )
        for _ in range(layers)
    ]

    def f(x, xp):
        for scale, mix, net in weights:
            x = x * xp.asarray(scale)
            x = xp.einsum("hwc,cd->hwd", x, xp.asarray(mix))
            a, b = x[..., :half], x[..., half:]
            near = sum(xp.roll(a, k, axis) for k in (-1, 1) for axis in (0, 1)) + a
            out = xp.tanh(near) @ xp.asarray(net)
            s, t = xp.tanh(out[..., : channels - half]), out[..., channels - half :]
            x = xp.concatenate([a, b * xp.exp(s) + t], -1)
        return x

    return f


class Torch:
    """The few functions of jax.numpy that the flows use, in PyTorch."""

    tanh, exp, einsum = staticmethod(torch.tanh), staticmethod(torch.exp), staticmethod(torch.einsum)
    flip, roll = staticmethod(torch.flip), staticmethod(torch.roll)

    @staticmethod
    def asarray(a):
        return a if isinstance(a, torch.Tensor) else torch.from_numpy(np.array(a))

    @staticmethod
    def concatenate(parts, axis):
        return torch.cat(parts, axis)


def in_jax(f, *more):
    return lambda x, *rest: f(x, *rest, *more, jnp)


def in_torch(f, *more):
    return lambda x, *rest: f(x, *rest, *more, Torch)


def dense(f, x):
    """slogdet of the dense Jacobian, by the framework that x is of."""
    if isinstance(x, torch.Tensor):
        J = torch.func.jacrev(f)(x).reshape(x.numel(), x.numel())
        return np.linalg.slogdet(J.detach().numpy())
    return np.linalg.slogdet(np.asarray(jax.jacfwd(f)(x)).reshape(x.size, x.size))


def host(result):
    return tuple(r.detach().numpy() if isinstance(r, torch.Tensor) else np.asarray(r) for r in result)
