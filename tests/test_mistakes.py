"""What a wrong derivative looks like, from the arrays alone."""

from __future__ import annotations

import numpy as np
import pytest

from crelle._mistakes import recognise

RNG = np.random.default_rng(7)


def likely(yours, reference, kind="jacobian"):
    yours, reference = np.asarray(yours), np.asarray(reference)
    return recognise([("", yours, reference, np.full(reference.shape, 1e-9))], kind)


CUBE = RNG.standard_normal((3, 4, 5))
VECTOR = RNG.standard_normal(6)
LONG = RNG.standard_normal((8, 9))


def changed(array, part, factor):
    out = array.copy()
    out[part] *= factor
    return out


@pytest.mark.parametrize(
    ("yours", "reference", "expected"),
    [
        (changed(CUBE, np.s_[:, 2], -1), CUBE, "the sign of slice 2 of axis 1"),
        (changed(CUBE, np.s_[1], 2), CUBE, "a factor: yours is 2 × the reference in slice 1 of axis 0"),
        (CUBE + RNG.standard_normal(CUBE.shape), CUBE, None),
        (changed(VECTOR, np.s_[1:3], -1), VECTOR, "the sign of entries 1, 2"),
        (changed(VECTOR, 4, 0), VECTOR, "0 in entry [4]: missing"),
        (VECTOR[::-1], VECTOR, None),
        (changed(LONG, np.s_[2:7], -1), LONG, "the sign of rows 2, 3, 4 and 2 more"),
        (LONG * (1 + 2j), LONG.astype(complex), "a factor: yours is (1+2j) × the reference"),
        (LONG * 0.123456, LONG, "a factor: yours is 0.1235 × the reference"),
        (LONG / 50, LONG, "a factor: yours is 1/50 × the reference"),
        (np.array(2.0), np.array(1.0), "a factor: yours is 2 × the reference"),
        (np.array(1.7351), np.array(1.0), None),
        (np.array(-1.0), np.array(1.0), "the sign"),
        (LONG + np.inf, LONG, "yours is not finite where the reference is: a division by 0, or an overflow"),
        (LONG, LONG + np.nan, None),
        (LONG, LONG, None),
        (np.zeros((0, 3)), np.zeros((0, 3)), None),
    ],
)
def test_one_array(yours, reference, expected):
    assert likely(yours, reference) == ([] if expected is None else [expected])


def test_a_missing_identity_has_a_sign():
    square = RNG.standard_normal((4, 4))
    assert likely(square - 2 * np.eye(4), square) == ["a multiple of the identity: yours is the reference − 2 × I"]


def test_several_arrays_are_told_apart_by_their_paths():
    allowed = np.full(6, 1e-9)
    blocks = [
        ("['a']", -VECTOR, VECTOR, allowed),
        ("['b']", VECTOR, VECTOR, allowed),
        ("['c']", 2 * VECTOR, VECTOR, allowed),
    ]
    assert recognise(blocks, "jacobian") == ["['a']: the sign", "['c']: a factor: yours is 2 × the reference"]
    assert recognise([(path, -VECTOR, VECTOR, allowed) for path in ("['a']", "['b']")], "gradient") == [
        "everywhere the sign"
    ]
