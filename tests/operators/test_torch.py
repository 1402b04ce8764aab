"""Operators of PyTorch functions from end to end: forms of vectors, algebra, and derivatives of products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import func, nn

import crelle
from crelle.operators._recording import asked_by_user

F64 = torch.float64
RTOL = 1e-12


@pytest.fixture
def gen():
    return torch.Generator().manual_seed(1841)


def randn(gen, *shape, dtype=F64):
    return torch.randn(shape, generator=gen, dtype=dtype)


def near(got, expected, rtol=RTOL):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    assert float((got - expected).detach().abs().max() if got.numel() else 0.0) <= rtol * scale


def wide(x):
    return torch.stack([torch.sin(x[0]) * x[1] * x[3], x[1] * x[2] ** 2 + x.prod(), torch.exp(x[3] / 3)])


def loss(x):
    return (x[:-1] * torch.sin(x[1:])).sum() + x.prod()


def jac(x):
    return func.jacrev(wide)(x)


def hess(x):
    return torch.autograd.functional.hessian(loss, x)


class TestForms:
    def test_vectors_blocks_and_trees(self, gen):
        x = randn(gen, 4)
        a, dense = crelle.jacobian(wide).at(x), jac(x)
        v, block = randn(gen, 4), randn(gen, 4, 5)
        near(a @ v, dense @ v)
        near(a @ block, dense @ block)
        near(a(v), dense @ v)
        u = randn(gen, 3)
        near(u @ a, u @ dense)
        near(a.todense(), dense)
        near(a.T.todense(), dense.T)

    def test_algebra(self, gen):
        x = randn(gen, 4)
        a, dense = crelle.jacobian(wide).at(x), jac(x)
        v = randn(gen, 4)
        near(a.gram() @ v, dense.T @ (dense @ v))
        near((a.T @ a).shifted(0.5) @ v, dense.T @ (dense @ v) + 0.5 * v)
        near((2 * a - a / 2) @ v, 1.5 * dense @ v)
        h = crelle.hessian(loss).at(x)
        near((h + a.gram()) @ v, hess(x) @ v + dense.T @ (dense @ v))

    def test_scipy(self, gen):
        x = randn(gen, 4)
        s, dense = crelle.jacobian(wide).at(x.requires_grad_()).to_scipy(), jac(x.detach()).numpy()
        np.testing.assert_allclose(s @ np.eye(4), dense, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(s.rmatvec(np.ones(3)), dense.sum(0), rtol=1e-13)

    def test_repr(self, gen):
        assert repr(crelle.jacobian(wide).at(randn(gen, 4))) == "Jacobian of wide(f64[3×4], torch, cpu)"
        assert repr(crelle.hessian(loss).at(randn(gen, 4))) == "Hessian of loss(f64[4×4], torch, cpu, symmetric)"

    def test_numpy_vector_is_named(self, gen):
        with pytest.raises(crelle.CrelleTypeError, match=r"A.to_scipy\(\) for NumPy arrays"):
            crelle.jacobian(wide).at(randn(gen, 4)) @ np.ones(4)

    def test_other_device_is_named(self, gen):
        with pytest.raises(crelle.CrelleValueError, match="a vector on meta for an operator on cpu"):
            crelle.jacobian(wide).at(randn(gen, 4)) @ torch.zeros(4, dtype=F64, device="meta")

    def test_blocks_of_parameters(self, gen):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double().requires_grad_(False)
        x = randn(gen, 6, 3)
        f = lambda p: func.functional_call(net, p, (x,)).square().mean()
        params = dict(net.named_parameters())
        h = crelle.hessian(f).at(params)
        full = h.todense()
        near(h.block("0.").todense(), full[:16, :16])
        near(h.block("0.", "2.").todense(), full[:16, 16:])


def grads(y, wanted, weights):
    return torch.autograd.grad((y * weights).sum() + y.square().sum(), wanted)


class TestDerivativesOfProducts:
    def test_of_vectors(self, gen):
        a = crelle.jacobian(wide).at(randn(gen, 4))
        v, u, block = (randn(gen, *s).requires_grad_() for s in ((4,), (3,), (4, 2)))
        assert torch.autograd.gradcheck(lambda v: a @ v, (v,))
        assert torch.autograd.gradgradcheck(lambda v: (a @ v).square(), (v,))
        assert torch.autograd.gradcheck(lambda u: a.T @ u, (u,))
        assert torch.autograd.gradcheck(lambda v: a @ v, (block,))
        h = crelle.hessian(loss).at(randn(gen, 4))
        assert torch.autograd.gradcheck(lambda v: h @ v, (v,))
        assert torch.autograd.gradcheck(lambda v: (h @ a.T @ (a @ v)) + h @ v, (v,))

    def test_of_complex_vectors(self, gen):
        x = torch.complex(randn(gen, 4), randn(gen, 4))
        a = crelle.jacobian(wide, holomorphic=True).at(x)
        v, u = (torch.complex(randn(gen, n), randn(gen, n)).requires_grad_() for n in (4, 3))
        assert torch.autograd.gradcheck(lambda v: a @ v, (v,))
        assert torch.autograd.gradcheck(lambda u: a.T @ u, (u,))

    def test_of_complex_products_of_real_points(self, gen):
        turn = torch.complex(randn(gen, 3, 3), randn(gen, 3, 3))
        f = lambda x: turn @ wide(x).to(turn.dtype)
        x = randn(gen, 4).requires_grad_()
        v, u = (torch.complex(randn(gen, n), randn(gen, n)).requires_grad_() for n in (4, 3))
        assert torch.autograd.gradcheck(lambda x, v: crelle.jacobian(f).at(x) @ v, (x, v))
        assert torch.autograd.gradcheck(lambda x, u: crelle.jacobian(f).at(x).T @ u, (x, u))

    def test_of_trees(self, gen):
        a = crelle.jacobian(lambda p: {"y": p[0] * p[1]}).at((randn(gen, 3), randn(gen)))
        v = (randn(gen, 3).requires_grad_(), randn(gen).requires_grad_())
        assert torch.autograd.gradcheck(lambda *v: (a @ v)["y"], v)

    def test_nothing_is_recorded_without_need(self, gen):
        x = randn(gen, 4)
        a = crelle.jacobian(wide).at(x)
        assert not (a @ randn(gen, 4)).requires_grad
        b = crelle.jacobian(wide).at(x.clone().requires_grad_())
        assert (b @ randn(gen, 4)).requires_grad
        with torch.no_grad():
            assert not (b @ randn(gen, 4)).requires_grad
            c = crelle.jacobian(wide).at(x.clone().requires_grad_())
        assert not (c @ randn(gen, 4)).requires_grad

    def test_products_of_estimates_are_not_recorded(self, gen):
        a = crelle.jacobian(wide).at(randn(gen, 4).requires_grad_())
        assert not a._products(randn(gen, 2, 4)).requires_grad
        with asked_by_user():
            assert a._products(randn(gen, 2, 4)).requires_grad
        assert a.todense().requires_grad

    @pytest.mark.parametrize("count", [None, 2])
    def test_of_the_point(self, gen, count):
        x = randn(gen, 4).requires_grad_()
        shape = lambda n: (n,) if count is None else (n, count)
        v, u = (randn(gen, *shape(n)).requires_grad_() for n in (4, 3))
        weights = randn(gen, *shape(3)), randn(gen, *shape(4))
        for got, expected, wanted, w in (
            (lambda: crelle.jacobian(wide).at(x) @ v, lambda: jac(x) @ v, v, weights[0]),
            (lambda: crelle.jacobian(wide).at(x).T @ u, lambda: jac(x).T @ u, u, weights[1]),
            (lambda: crelle.jacobian(wide).at(x).gram() @ v, lambda: jac(x).T @ (jac(x) @ v), v, weights[1]),
            (lambda: crelle.hessian(loss).at(x) @ v, lambda: func.hessian(loss)(x) @ v, v, weights[1]),
        ):
            one, other = grads(got(), (x, wanted), w), grads(expected(), (x, wanted), w)
            for a, b in zip(one, other, strict=True):
                near(a, b, 1e-11)

    def test_of_a_point_that_was_computed(self, gen):
        theta, v = randn(gen, 4).requires_grad_(), randn(gen, 4)
        got = torch.autograd.grad((crelle.jacobian(wide).at(torch.sin(theta)) @ v).sum(), theta)
        near(got[0], torch.autograd.grad((jac(torch.sin(theta)) @ v).sum(), theta)[0])

    def test_of_what_f_captures(self, gen):
        """The penalty ‖J v‖² of a network, differentiated with respect to its parameters."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        x, v = randn(gen, 4), randn(gen, 4)
        params = dict(net.named_parameters())
        penalty = (crelle.jacobian(net).at(x) @ v).square().sum()
        got = torch.autograd.grad(penalty, list(params.values()), allow_unused=True, materialize_grads=True)
        slope = lambda p: func.jvp(lambda x: func.functional_call(net, p, (x,)), (x,), (v,))[1].square().sum()
        for a, b in zip(got, func.grad(slope)(params).values(), strict=True):
            near(a, b.detach())

    def test_of_passive_arguments(self, gen):
        x, w, v = randn(gen, 4), randn(gen, 4).requires_grad_(), randn(gen, 4)
        f = lambda x, w: wide(x * torch.cos(w))
        got = torch.autograd.grad((crelle.jacobian(f).at(x, w) @ v).square().sum(), w)[0]
        near(got, torch.autograd.grad((func.jacrev(f)(x, w) @ v).square().sum(), w)[0])

    def test_of_parameters_of_a_module(self, gen):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        x = randn(gen, 6, 3)
        f = lambda p: func.functional_call(net, p, (x,)).square().mean()
        params = dict(net.named_parameters())
        h = crelle.hessian(f).at(params)
        v = randn(gen, h.shape[1])
        (h @ v).square().sum().backward()
        flat = torch.cat([p.detach().reshape(-1) for p in params.values()])

        def unflat(z):
            parts = z.split([p.numel() for p in params.values()])
            return {k: part.reshape(p.shape) for (k, p), part in zip(params.items(), parts, strict=True)}

        expected = func.grad(lambda z: (func.hessian(lambda z: f(unflat(z)))(z) @ v).square().sum())(flat)
        near(torch.cat([p.grad.reshape(-1) for p in params.values()]), expected)

    def test_slope_through_the_vector_knows_the_point(self, gen):
        """∂/∂v of 1ᵀJ(x)v is Jᵀ1, which depends on x."""
        x, v = randn(gen, 4).requires_grad_(), randn(gen, 4).requires_grad_()
        (row,) = torch.autograd.grad((crelle.jacobian(wide).at(x) @ v).sum(), v, create_graph=True)
        got = torch.autograd.grad(row.square().sum(), x)[0]
        near(got, torch.autograd.grad(jac(x).sum(0).square().sum(), x)[0])

    def test_second_derivative_of_the_point_is_refused(self, gen):
        x = randn(gen, 4).requires_grad_()
        (slope,) = torch.autograd.grad((crelle.hessian(loss).at(x) @ randn(gen, 4)).sum(), x, create_graph=True)
        assert slope.requires_grad
        with pytest.raises(crelle.CrelleTypeError) as caught:
            slope.sum().backward()
        assert str(caught.value) == (
            "a product of the operator of crelle.hessian(loss) is differentiated a second time with respect to its "
            "inputs\n"
            "  expected  one derivative with respect to the inputs, any number with respect to the vectors\n"
            "  try       crelle.hvp or crelle.jvp, which can be differentiated again"
        )

    def test_after_a_step_of_an_optimiser(self, gen):
        """The slope is that at the point of the operator, whatever became of x."""
        x, v = randn(gen, 4).requires_grad_(), randn(gen, 4)
        expected = torch.autograd.grad((jac(x) @ v).square().sum(), x)[0]
        y = (crelle.jacobian(wide).at(x) @ v).square().sum()
        with torch.no_grad():
            x.zero_()
        near(torch.autograd.grad(y, x)[0], expected)


class TestTransforms:
    @pytest.fixture
    def pair(self, gen):
        x = randn(gen, 4)
        return crelle.jacobian(wide).at(x), jac(x)

    def test_vmap(self, pair, gen):
        a, dense = pair
        rows = randn(gen, 6, 4)
        near(func.vmap(lambda v: a @ v)(rows), rows @ dense.T)
        near(func.vmap(lambda v: a @ v, in_dims=1, out_dims=1)(rows.T), dense @ rows.T)
        near(func.vmap(lambda b: a @ b)(randn(gen, 2, 4, 3) * 0 + 1), (dense.sum(1)[:, None].expand(2, 3, 3)))

    def test_grad_and_jacobians(self, pair, gen):
        a, dense = pair
        v = randn(gen, 4)
        near(func.grad(lambda v: (a @ v).square().sum())(v), 2 * dense.T @ (dense @ v))
        near(func.jacrev(lambda v: a @ v)(v), dense)
        near(func.jacfwd(lambda v: a @ v)(v), dense)
        near(func.hessian(lambda v: (a @ v).square().sum())(v), 2 * dense.T @ dense)
        near(func.jvp(lambda v: a @ v, (v,), (v,))[1], dense @ v)
        near(func.vmap(func.grad(lambda v: (a @ v).square().sum()))(v[None]), (2 * dense.T @ (dense @ v))[None])

    def test_hessian_operator(self, gen):
        x = randn(gen, 4)
        h, dense = crelle.hessian(loss).at(x), hess(x)
        near(func.jacrev(lambda v: h @ v)(randn(gen, 4)), dense)
        near(func.vmap(lambda v: h @ v)(torch.eye(4, dtype=F64)), dense)

    def test_forward_mode(self, pair, gen):
        a, dense = pair
        v, t = randn(gen, 4), randn(gen, 4)
        with torch.autograd.forward_ad.dual_level():
            dual = a @ torch.autograd.forward_ad.make_dual(v, t)
            value, tangent = torch.autograd.forward_ad.unpack_dual(dual)
        near(value, dense @ v)
        near(tangent, dense @ t)

    def test_of_a_point_that_requires_grad(self, gen):
        x = randn(gen, 4).requires_grad_()
        a, dense = crelle.jacobian(wide).at(x), jac(x.detach())
        rows = randn(gen, 5, 4)
        got = func.vmap(lambda v: a @ v)(rows)
        near(got.detach(), rows @ dense.T)
        near(torch.autograd.grad(got.sum(), x)[0], torch.autograd.grad((rows @ jac(x).T).sum(), x)[0])
        near(func.jacrev(lambda v: a @ v)(rows[0]).detach(), dense)
