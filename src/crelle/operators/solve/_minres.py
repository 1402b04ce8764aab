"""MINRES (Paige & Saunders 1975), for each row of a block on its own; scalars have the names of the authors' code."""

from __future__ import annotations

from typing import Any, NamedTuple

from crelle.operators.solve._system import System, dot, norm, safe


class State(NamedTuple):
    """x, two directions w, the Lanczos vectors r1, r2, y = M r2, and the scalars of the QR factorisation of T."""

    x: Any
    w: Any
    w2: Any
    r1: Any
    r2: Any
    y: Any
    oldb: Any
    beta: Any
    dbar: Any
    epsln: Any
    phibar: Any
    cs: Any
    sn: Any
    tnorm2: Any
    root: Any
    weight: Any
    bad: Any


class MinimalResiduals:
    """A x = b for a symmetric A, definite or not: one product a step. A preconditioner must be positive definite."""

    name = "minres"

    def start(self, system: System, r: Any) -> State:
        """x = 0."""
        state: State = system.vectors.compiled(_start)(r, system.precondition(r))
        return state

    def step(self, system: System, s: State) -> State:
        """One step."""
        compiled = system.vectors.compiled
        v = s.y / safe(s.beta)
        alfa, r2 = compiled(_lanczos)(s, v, system.push(v))
        state: State = compiled(_turn)(s, v, alfa, r2, system.precondition(r2))
        return state

    @staticmethod
    def report(s: State) -> Any:
        """[k] each: about ‖r‖, about ‖A r‖ / (‖A‖ ‖r‖), no scale, and whether the preconditioner is indefinite."""
        size = (abs(s.phibar) * s.weight)[:, 0]
        optimality = (s.root / safe(s.tnorm2**0.5))[:, 0]
        return size, optimality, size * 0, s.bad[:, 0] + size * 0


def _start(r: Any, y: Any) -> State:
    square = dot(r, y)
    beta = abs(square) ** 0.5
    zero, zeros = beta * 0, r * 0
    # phibar is the norm of the residual in the norm of M: `weight` makes it comparable with plain norms
    return State(zeros, zeros, zeros, zeros, r, y, zero + 1, beta, zero, zero, beta, zero - 1, zero, zero,
                 zero + 1, norm(r) / safe(beta), square < 0)  # fmt: skip


def _lanczos(s: State, v: Any, q: Any) -> tuple[Any, Any]:
    q = q - (s.beta / s.oldb) * s.r1
    alfa = dot(v, q)
    return alfa, q - (alfa / safe(s.beta)) * s.r2


def _turn(s: State, v: Any, alfa: Any, r2: Any, y: Any) -> State:
    square = dot(r2, y)
    beta = abs(square) ** 0.5
    tnorm2 = s.tnorm2 + alfa**2 + s.beta**2 + beta**2
    delta = s.cs * s.dbar + s.sn * alfa
    gbar = s.sn * s.dbar - s.cs * alfa
    epsln, dbar = s.sn * beta, -s.cs * beta
    root = (gbar**2 + dbar**2) ** 0.5
    gamma = safe((gbar**2 + beta**2) ** 0.5)
    cs, sn = gbar / gamma, beta / gamma
    w = (v - s.epsln * s.w2 - delta * s.w) / gamma
    return State(s.x + cs * s.phibar * w, w, s.w, s.r2, r2, y, safe(s.beta), beta, dbar, epsln, sn * s.phibar,
                 cs, sn, tnorm2, root, s.weight, s.bad | (square < 0))  # fmt: skip
