"""LSMR (Fong & Saunders 2011), for each row of a block on its own; names of scalars are those of the paper."""

from __future__ import annotations

from typing import Any, NamedTuple

from crelle.operators.solve._system import System, norm, safe


class State(NamedTuple):
    """x, the bidiagonalisation u, v, the directions h, and the scalars of two QR factorisations."""

    x: Any
    u: Any
    v: Any
    h: Any
    hbar: Any
    alpha: Any
    alphabar: Any
    zeta: Any
    zetabar: Any
    rho: Any
    rhobar: Any
    cbar: Any
    sbar: Any
    betadd: Any
    betad: Any
    rhodold: Any
    tautildeold: Any
    thetatilde: Any
    norm2: Any
    normr: Any


class LeastSquares:
    """min ‖b - A x‖ for any A, with the smallest ‖x‖: a product with A and one with Aᵀ a step."""

    name = "lsmr"

    def start(self, system: System, r: Any) -> State:
        """x = 0."""
        beta = norm(r)
        u = r / safe(beta)
        state: State = system.vectors.compiled(_start)(u, beta, system.pull(u))
        return state

    def step(self, system: System, s: State) -> State:
        """One step."""
        compiled = system.vectors.compiled
        u, beta = compiled(_normalised)(system.push(s.v), s.alpha, s.u)
        v, alpha = compiled(_normalised)(system.pull(u), beta, s.v)
        state: State = compiled(_turn)(s, u, v, alpha, beta)
        return state

    @staticmethod
    def report(s: State) -> Any:
        """[k] each: about ‖r‖, about ‖Aᵀr‖ / (‖A‖ ‖r‖), about ‖A‖, and nothing that could go wrong."""
        size = s.normr[:, 0]
        scale = s.norm2[:, 0] ** 0.5
        return size, abs(s.zetabar[:, 0]) / safe(scale * size), scale, size * 0


def _start(u: Any, beta: Any, product: Any) -> State:
    alpha = norm(product)
    v = product / safe(alpha)
    one, zero = beta * 0 + 1, beta * 0
    return State(v * 0, u, v, v, v * 0, alpha, alpha, zero, alpha * beta, one, one, one, zero, beta, zero,
                 one, zero, zero, alpha**2, beta)  # fmt: skip


def _normalised(product: Any, factor: Any, before: Any) -> tuple[Any, Any]:
    vector = product - factor * before
    size = norm(vector)
    return vector / safe(size), size


def _rotation(a: Any, b: Any) -> tuple[Any, Any, Any]:
    size = (a**2 + b**2) ** 0.5
    return a / safe(size), b / safe(size), size


def _turn(s: State, u: Any, v: Any, alpha: Any, beta: Any) -> State:
    c, sn, rho = _rotation(s.alphabar, beta)
    thetanew, alphabar = sn * alpha, c * alpha
    thetabar = s.sbar * rho
    cbar, sbar, rhobar = _rotation(s.cbar * rho, thetanew)
    zeta, zetabar = cbar * s.zetabar, -sbar * s.zetabar
    hbar = s.h - thetabar * rho / safe(s.rho * s.rhobar) * s.hbar
    x = s.x + zeta / safe(rho * rhobar) * hbar
    h = v - thetanew / safe(rho) * s.h
    # ‖r‖, by the QR factorisation of the second bidiagonal matrix
    betahat, betadd = c * s.betadd, -sn * s.betadd
    ctilde, stilde, rhotilde = _rotation(s.rhodold, thetabar)
    thetatilde, rhodold = stilde * rhobar, ctilde * rhobar
    betad = -stilde * s.betad + ctilde * betahat
    tautilde = (s.zeta - s.thetatilde * s.tautildeold) / safe(rhotilde)
    taud = (zeta - thetatilde * tautilde) / safe(rhodold)
    normr = ((betad - taud) ** 2 + betadd**2) ** 0.5
    return State(x, u, v, h, hbar, alpha, alphabar, zeta, zetabar, rho, rhobar, cbar, sbar, betadd, betad, rhodold,
                 tautilde, thetatilde, s.norm2 + alpha**2 + beta**2, normr)  # fmt: skip
