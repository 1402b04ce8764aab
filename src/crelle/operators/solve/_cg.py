"""Conjugate gradients (Hestenes & Stiefel 1952), for each row of a block on its own."""

from __future__ import annotations

from typing import Any, NamedTuple

from crelle.operators.solve._system import System, dot, norm, safe


class State(NamedTuple):
    """x, the residual r, the direction p, rᵀM r, and whether A or M turned out not to be positive definite."""

    x: Any
    r: Any
    p: Any
    rz: Any
    bad: Any


class ConjugateGradients:
    """A x = b for a positive definite A: one product a step."""

    name = "cg"

    def start(self, system: System, r: Any) -> State:
        """x = 0."""
        state: State = system.vectors.compiled(_start)(r, system.precondition(r))
        return state

    def step(self, system: System, s: State) -> State:
        """One step."""
        compiled = system.vectors.compiled
        x, r, bad = compiled(_advance)(s, system.push(s.p))
        state: State = compiled(_turn)(s, x, r, system.precondition(r), bad)
        return state

    @staticmethod
    def report(s: State) -> Any:
        """[k] each: ‖r‖, no measure of optimality, no scale, and whether pᵀA p ≤ 0 was met."""
        size = norm(s.r)[:, 0]
        return size, size * 0 + 1, size * 0, s.bad[:, 0] + size * 0


def _start(r: Any, z: Any) -> State:
    rz = dot(r, z)
    return State(r * 0, r, z, rz, rz < 0)


def _advance(s: State, q: Any) -> tuple[Any, Any, Any]:
    curvature = dot(s.p, q)
    bad = s.bad | ((curvature <= 0) & (s.rz != 0))
    step = s.rz / safe(curvature) * (bad == 0)
    return s.x + step * s.p, s.r - step * q, bad


def _turn(s: State, x: Any, r: Any, z: Any, bad: Any) -> State:
    rz = dot(r, z)
    return State(x, r, z + rz / safe(s.rz) * s.p, rz, bad | (rz < 0))
