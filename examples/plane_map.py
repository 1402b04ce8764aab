"""A map of the plane, its Jacobian written by hand, and what the Jacobian says.

The map (x, y) ↦ (x² − y², 2xy) squares a complex number: x + iy becomes (x + iy)². At the point (1.5, 0.5) its
Jacobian is [[3, −1], [1, 3]]. The determinant, 10, says that small areas around the point grow tenfold. The singular
values, √10 twice, say that lengths grow by √10 in every direction: a rotation and a scaling, as for every
complex-differentiable function. The function is plain NumPy, a black box, so Crelle differentiates it numerically, with
an estimated error for each entry; and the Jacobian that was written by hand is checked against it. A second
hand-written one, with a sign wrong, is found out.

Run it:  python examples/plane_map.py
"""

from __future__ import annotations

from typing import Any

import numpy as np

import crelle

Array = np.ndarray[Any, Any]


def square(p: Array) -> Array:
    x, y = p
    return np.array([x**2 - y**2, 2 * x * y])


def by_hand(p: Array) -> Array:
    x, y = p
    return np.array([[2 * x, -2 * y], [2 * y, 2 * x]])


def by_hand_with_a_mistake(p: Array) -> Array:
    x, y = p
    return np.array([[2 * x, 2 * y], [2 * y, 2 * x]])


def what_it_says(J: Array) -> tuple[float, Array]:
    """(determinant, singular values)."""
    return float(np.linalg.det(J)), np.linalg.svd(J, compute_uv=False)


def main() -> None:
    point = np.array([1.5, 0.5])
    J, error = crelle.jacobian(square, error=True)(point)
    determinant, singular_values = what_it_says(J)
    print("f(1.5, 0.5) =", square(point))
    print("Jacobian, found numerically:")
    print(J.round(9))
    print(f"  estimated error of its entries: at most {error.max():.0e}")
    print(f"determinant: {determinant:.6f}")
    print(f"singular values: {singular_values.round(6)}, and √10 = {np.sqrt(10):.6f}")
    print("\nthe Jacobian written by hand:")
    print(crelle.check(square, by_hand, point))
    print("\nthe one with a mistake:")
    print(crelle.check(square, by_hand_with_a_mistake, point))


if __name__ == "__main__":
    main()
