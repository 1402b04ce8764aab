"""Loops step by step, by doubling, and up to a fixed point: the same sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crelle._arrays import ArrayType
from crelle.tangent import loops
from crelle.tangent.program import Add, Dependence, Gather, Loop, Reduce, Scale, TangentProgram
from crelle.tangent.sparsity import detect
from tests.tangent.reference import dense, made
from tests.tangent.test_sparsity import classes

F64 = "float64"


def around(body: TangentProgram, consts: int, carry: int, length: int | None, **fields) -> TangentProgram:
    """A program that is one loop."""
    program = TangentProgram()
    for k, i in enumerate(body.inputs):
        shape = body.types[i].shape
        program.inputs.append(program.value(ArrayType(F64, shape if k < consts + carry else (length or 0, *shape))))
    for k, t in enumerate(body.output_types):
        type_ = ArrayType(F64, t.shape if k < carry else (length or 0, *t.shape))
        program.outputs.append(program.value(type_))
        program.output_types.append(type_)
    program.maps = [
        Loop(
            name="scan", operands=tuple(program.inputs), results=tuple(program.outputs), body=body, consts=consts,
            carry=carry, length=length, **fields,
        )
    ]  # fmt: skip
    return program


@st.composite
def bodies(draw) -> tuple[TangentProgram, int, int]:
    """(body, constants, carries)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    consts, carry = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    shapes = st.sampled_from([(), (2,), (3,), (2, 2), (0,)])
    inner = [draw(shapes) for _ in range(consts + carry)]
    scanned = draw(st.lists(shapes, max_size=2))
    stacked = draw(st.lists(shapes, max_size=2))
    return made(draw, rng, [*inner, *scanned], [*inner[consts:], *stacked], 1), consts, carry


@given(bodies(), st.sampled_from([0, 1, 2, 3, 4, 7, 8, 13]), st.booleans())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_steps_that_are_alike_are_followed_together(given, length, reverse):
    body, consts, carry = given
    together = around(body, consts, carry, length, reverse=reverse)
    apart = around(body, consts, carry, length, reverse=reverse, step=lambda t: body)
    truth = dense(together)
    np.testing.assert_array_equal(classes(detect(together)), truth)
    np.testing.assert_array_equal(classes(detect(apart)), truth)


def chain(n: int) -> TangentProgram:
    """A body that shifts its carry by one element."""
    body = TangentProgram()
    x = body.value(ArrayType(F64, (n,)))
    y = body.value(ArrayType(F64, (n,)))
    z = body.value(ArrayType(F64, (n,)))
    body.inputs, body.outputs, body.output_types = [x], [z], [body.types[z]]
    body.maps = [
        Gather(name="shift", operands=(x,), results=(y,), move=lambda a: np.append(a[1:], a.dtype.type(0))),
        Add(name="add", operands=(x, y), results=(z,)),
    ]
    return body


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6, 40])
def test_the_band_grows_with_the_steps(length):
    n = 20
    found = classes(detect(around(chain(n), 0, 1, length)))
    distance = np.subtract.outer(np.arange(n), np.arange(n)) * -1
    np.testing.assert_array_equal(found, (distance >= 0) & (distance <= length))


def test_any_number_of_steps_goes_up_to_a_fixed_point():
    n = 20
    found = classes(detect(around(chain(n), 0, 1, None, dependence=Dependence.VARYING)))
    np.testing.assert_array_equal(found, 3 * np.triu(np.ones((n, n), int)))


def test_steps_that_differ_and_are_too_many_are_any_step(monkeypatch):
    monkeypatch.setattr(loops, "MAX_STEPS", 3)
    general, special = chain(6), chain(6)
    special.maps[0].move = lambda a: np.zeros_like(a)
    program = around(general, 0, 1, 4, step=lambda t: special)
    found = detect(program)
    assert found.notes == ("scan: 4 steps that differ are taken to be any step",)
    np.testing.assert_array_equal(classes(found), classes(detect(around(general, 0, 1, 4))))
    few = detect(around(general, 0, 1, 3, step=lambda t: special))
    assert few.notes == ()
    np.testing.assert_array_equal(classes(few), np.eye(6))


def test_loops_that_grow_too_large_are_bounded_and_said(monkeypatch):
    def bounded(matrix):
        if matrix.nnz > 100:
            raise loops.TooMany(f"index sets of {matrix.nnz:,} entries in a loop")
        return matrix

    monkeypatch.setattr(loops, "_bound", bounded)
    found = detect(around(chain(30), 0, 1, 20))
    np.testing.assert_array_equal(classes(found), np.full((30, 30), 3))
    (note,) = found.notes
    assert note.startswith("scan: index sets of ") and note.endswith(
        " entries in a loop; every entry is taken to be nonzero"
    )


def test_products_of_nearly_full_matrices_are_dense(monkeypatch):
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    a, b = (sp.csr_array(rng.random((160, 160)) < 0.6) for _ in range(2))
    monkeypatch.setattr(loops, "_DENSE_GAIN", 1e-9)
    slow = loops._times(a, b).toarray()
    monkeypatch.setattr(loops, "_DENSE_GAIN", 1e9)
    monkeypatch.setattr(sp.csr_array, "__matmul__", None)
    np.testing.assert_array_equal(loops._times(a, b).toarray(), slow)


@pytest.mark.parametrize("length", [1, 3, 8])
def test_kinds_grow_along_the_way(length):
    """An element is multiplied by x at each step, its sum with a constant part is carried on."""
    body = TangentProgram()
    a, b, ab, c, s = (body.value(ArrayType(F64, (2,))) for _ in range(5))
    body.inputs, body.outputs, body.output_types = [a, b], [ab, c], [body.types[ab], body.types[c]]
    body.maps = [
        Scale(name="mul", operands=(b,), results=(s,), dependence=Dependence.VARYING),
        Add(name="add", operands=(a, s), results=(ab,)),
        Reduce(
            name="sum", operands=(b,), results=(c,), dependence=Dependence.PASSIVE,
            into=lambda x: x.reshape(2, 1), out=lambda x: np.broadcast_to(x.reshape(1), (2,)),
        ),
    ]  # fmt: skip
    program = around(body, 0, 2, length)
    np.testing.assert_array_equal(classes(detect(program)), dense(program))


def test_a_loop_of_nothing():
    body = TangentProgram(outputs=[None], output_types=[ArrayType(F64, (2,))])
    program = around(body, 0, 0, 3)
    x = program.value(ArrayType(F64, (4,)))
    program.inputs = [x]
    assert classes(detect(program)).shape == (6, 4)
