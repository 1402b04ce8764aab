"""Flows against their closed forms and against dense Jacobians; and that their price does not grow with their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import crelle
from tests.determinants.flows import Torch, dense, glow, host, in_jax, in_torch, maf, realnvp

TOLERANCE = 1e-10
FRAMEWORKS = {"jax": (in_jax, jnp.asarray), "torch": (in_torch, Torch.asarray)}


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]


def agree(found, expected):
    found = host(found)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("d", [2, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_couplings_with_permutations(framework, d, masked, seed, rng):
    into, array = framework
    f = into(realnvp(d, seed=seed, masked=masked))
    x = array(rng.standard_normal(d))
    S = crelle.slogdet(f, has_aux=True)
    found, logarithm = S(x)
    agree(found, dense(lambda x: f(x)[0], x))
    np.testing.assert_allclose(host(found)[1], host([logarithm])[0], atol=TOLERANCE)
    assert S.plan(x).passes == 3  # one for each layer


@pytest.mark.parametrize("d", [1, 2, 9])
@pytest.mark.parametrize("captured", [False, True])
def test_masked_autoregression(framework, d, captured, rng):
    into, array = framework
    both, weights = maf(d)
    weights = [tuple(map(array, w)) for w in weights]
    x = array(rng.standard_normal(d))
    f = into(lambda x, xp: both(x, weights, xp)) if captured else into(both)
    S = crelle.slogdet(f, has_aux=True)
    found, logarithm = S(x) if captured else S(x, weights)
    agree(found, dense(lambda x: both(x, weights, jnp if array is jnp.asarray else Torch)[0], x))
    np.testing.assert_allclose(host(found)[1], host([logarithm])[0], atol=TOLERANCE)
    assert (S.plan(x) if captured else S.plan(x, weights)).passes == 2


def test_images_with_mixed_channels(framework, rng):
    into, array = framework
    f = into(glow(3, 4))
    x = array(rng.standard_normal((3, 3, 4)))
    S = crelle.slogdet(f)
    agree(S(x), dense(f, x))
    plan = S.plan(x)
    # one product for each scaling and coupling, one for each of the four channels of a mixing layer
    assert plan.passes == 2 * (1 + 4 + 1)
    assert "9 blocks, the largest 4×4" in str(plan)


def test_modules_of_pytorch(rng):
    class Coupling(torch.nn.Module):
        def __init__(self, d):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(d // 2, 8), torch.nn.SiLU(), torch.nn.Linear(8, d))
            self.register_buffer("order", torch.randperm(d))

        def forward(self, x):
            a, b = x.chunk(2, -1)
            s, t = self.net(a).chunk(2, -1)
            return torch.cat([a, b * s.tanh().exp() + t], -1)[..., self.order]

    torch.manual_seed(0)
    d = 8
    f = torch.nn.Sequential(Coupling(d), torch.nn.Linear(d, d), torch.nn.Tanh(), Coupling(d)).double()
    x = torch.from_numpy(rng.standard_normal(d)).requires_grad_()
    S = crelle.slogdet(f)
    agree(S(x), dense(f, x))
    assert S.plan(x).passes == 1 + d + 1 + 1
    mine = torch.autograd.grad(S(x).logabsdet, [x, *f.parameters()])
    reference = torch.linalg.slogdet(torch.func.jacrev(f)(x)).logabsdet
    theirs = torch.autograd.grad(reference, [x, *f.parameters()], allow_unused=True)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, atol=TOLERANCE, rtol=TOLERANCE)

    before = S.plan(x)
    with torch.no_grad():
        for p in f.parameters():  # a step of training: nothing is planned anew, and the answer is that of now
            p.mul_(0.9).add_(0.01)
    agree(S(x), dense(f, x))
    assert S.plan(x) == before


@pytest.mark.parametrize("kind", ["realnvp", "maf"])
def test_products_do_not_grow_with_the_size(framework, kind, rng):
    into, array = framework
    plans = []
    for d in (64, 4096):
        if kind == "realnvp":
            f = into(realnvp(d, hidden=8))
        else:
            both, weights = maf(d, hidden=8)
            weights = [tuple(map(array, w)) for w in weights]
            f = into(lambda x, xp, both=both, weights=weights: both(x, weights, xp))
        x = array(rng.standard_normal(d))
        S = crelle.slogdet(f, has_aux=True, check=False)
        found, logarithm = S(x)
        np.testing.assert_allclose(host(found)[1], host([logarithm])[0], atol=TOLERANCE)
        plans.append(S.plan(x))
    small, large = plans
    assert small.passes == large.passes
    assert large.bytes == 64 * small.bytes


def test_nothing_of_the_size_of_the_matrix_is_formed(rng):
    d, hidden = 4096, 8
    f = in_jax(realnvp(d, hidden=hidden))
    x = jnp.asarray(rng.standard_normal(d))
    jaxpr = jax.make_jaxpr(crelle.slogdet(f, has_aux=True))(x)
    largest = max(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars)
    assert largest <= 2 * hidden * d


@pytest.mark.parametrize("masked", [False, True])
def test_batches(framework, masked, rng):
    into, array = framework
    d, count = 6, 5
    both = realnvp(d, masked=masked)
    f = into(lambda x, xp: both(x, xp)[0])
    X = array(rng.standard_normal((count, d)))
    found = crelle.slogdet(f, batched=True)(X)
    each = [dense(f, x) for x in X]
    agree(found, tuple(np.array(part) for part in zip(*each, strict=True)))
    whole = crelle.slogdet(f)(X)
    agree(whole, (np.prod([s for s, _ in each]), np.sum([v for _, v in each])))


def test_derivatives_in_jax(rng):
    d = 6
    both, weights = maf(d)
    x = jnp.asarray(rng.standard_normal(d))
    weights = jax.tree.map(jnp.asarray, weights)

    def mine(x, weights):
        return crelle.slogdet(lambda x: both(x, weights, jnp)[0])(x).logabsdet

    def closed(x, weights):
        return both(x, weights, jnp)[1]

    for position in (0, 1):
        found, expected = jax.grad(mine, position)(x, weights), jax.grad(closed, position)(x, weights)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE), found, expected)
    np.testing.assert_allclose(jax.hessian(mine)(x, weights), jax.hessian(closed)(x, weights), atol=1e-9)
    X = jnp.asarray(rng.standard_normal((4, d)))
    expected = jax.vmap(closed, (0, None))(X, weights)
    np.testing.assert_allclose(jax.jit(jax.vmap(mine, (0, None)))(X, weights), expected, atol=TOLERANCE)
    gradient = jax.grad(lambda w: jax.vmap(mine, (0, None))(X, w).sum())(weights)
    theirs = jax.grad(lambda w: jax.vmap(closed, (0, None))(X, w).sum())(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE), gradient, theirs)
