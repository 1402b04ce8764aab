"""Keywords are checked when a transform is made."""

from __future__ import annotations

import numpy as np
import pytest

import crelle
from crelle._request import Request

f = lambda x: x
KINDS = ["jacobian", "hessian", "gradient"]


def refusal(kind="jacobian", function=f, error=crelle.CrelleValueError, **keywords):
    with pytest.raises(error) as caught:
        getattr(crelle, kind)(function, **keywords)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_function(kind):
    for thing, noun in ((3, "an int"), (None, "a NoneType"), ("f", "a str")):
        assert refusal(kind, thing, crelle.CrelleTypeError) == (
            f"crelle.{kind}(f): f is not a function but {noun}\n  expected  a function of arrays, or an nn.Module"
        )
    assert refusal(kind, np.ones(3), crelle.CrelleTypeError).endswith(
        "\n  try       pass the function itself, f, not its result f(x)"
    )


@pytest.mark.parametrize("argnums", ["x", 1.5, None, (), [], (0, "y"), True, (True,), {0}])
def test_argnums(argnums):
    assert refusal(error=crelle.CrelleTypeError, argnums=argnums) == (
        f"argnums={argnums!r} does not name arguments\n  expected  an integer or a tuple of integers"
    )


def test_argnums_of_every_kind():
    requests = [crelle.jacobian(f, argnums).request for argnums in (1, np.int64(1), (1,), [1], [np.int32(1)])]
    assert [r.argnums for r in requests] == [1, 1, (1,), (1,), (1,)]
    assert all(r.argnums_tuple == (1,) and type(r.argnums_tuple[0]) is int for r in requests)


def test_modes_are_listed():
    assert refusal(mode="fwd") == (
        "mode='fwd' is not known to crelle.jacobian\n"
        "  expected  'auto' | 'forward' | 'reverse' | 'coloured' | 'central' | 'complex-step'"
    )
    assert refusal("hessian", mode="forward") == (
        "mode='forward' is not known to crelle.hessian\n"
        "  expected  'auto' | 'forward-over-reverse' | 'reverse-over-forward' | 'reverse-over-reverse' | "
        "'forward-over-forward' | 'coloured' | 'central'"
    )
    assert refusal("gradient", mode=None).startswith("mode=None is not known to crelle.gradient")


@pytest.mark.parametrize("kind", KINDS)
def test_wrt(kind):
    assert refusal(kind, wrt="weights") == (
        f"wrt='weights' is not known to crelle.{kind}\n  expected  'inputs' | 'params'"
    )


@pytest.mark.parametrize("chunk", [0, -1, 1.5, "10", True])
def test_chunk(chunk):
    assert refusal(chunk=chunk) == (
        f"chunk={chunk!r} is not a number of seeds\n  expected  a positive integer: seeds per batch"
    )


@pytest.mark.parametrize("flag", ["has_aux", "holomorphic", "value", "flatten", "check", "compile"])
@pytest.mark.parametrize("kind", KINDS)
def test_flags(kind, flag):
    for value in (1, "yes", None):
        assert refusal(kind, error=crelle.CrelleTypeError, **{flag: value}) == (
            f"{flag}={value!r} is not a flag\n  expected  True or False"
        )


def test_memory():
    assert refusal(memory="lots").startswith("memory='lots' is not an amount of memory\n")
    assert crelle.jacobian(f, memory="2kB").request.memory == 2000


def test_entries_are_alone():
    for other in ("rows", "cols"):
        assert refusal(entries=(0, 0), **{other: 1}) == (
            "entries= cannot be combined with rows= or cols=\n  try  use one or the other"
        )


def test_unknown_keywords_are_errors_of_python():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        crelle.jacobian(f, colour=True)


def test_requests_are_hashable_and_hold_no_array():
    a, b = crelle.jacobian(f, rows=np.ones(3, int)).request, crelle.jacobian(f, rows=np.zeros(3, int)).request
    assert a == b and hash(a) == hash(b)  # the selection has a key of its own
    assert a.selection.key != b.selection.key
    assert a.flat and not Request("jacobian").flat and Request("jacobian", flatten=True).flat
