"""Candidates, prices and the choice, on traces made by hand."""

from __future__ import annotations

import dataclasses

import pytest

import crelle
from crelle._arrays import ArrayType
from crelle._planner import make_plan, triangle
from crelle._request import make_request
from crelle.backends._protocol import Call
from crelle.tangent.cost import PassCost, Rates, pass_seconds


class FakeBackend:
    name, version = "jax", "1.0"

    def __init__(self, free=10**12):
        self.free = free

    def available_memory(self, device):
        return self.free

    def rates(self, device):
        return Rates(matmul=1e9, elementwise=1e9, bandwidth=1e9, launch=0.0, call=0.0)


@dataclasses.dataclass
class FakeTrace:
    outputs: tuple
    costs: dict
    unavailable: dict = dataclasses.field(default_factory=dict)
    units: dict = dataclasses.field(
        default_factory=lambda: {
            "forward": ("JVP", 1),
            "reverse": ("VJP", 1),
            "forward-over-reverse": ("HVP", 1),
            "reverse-over-reverse": ("HVP", 1),
            "forward-over-forward": ("second-order JVP", 1),
            "central": ("evaluation", 4),
        }
    )
    loop_modes: tuple = ()
    notes: list = dataclasses.field(default_factory=list)


COST = PassCost(flops=1000.0, bytes=100.0, peak_bytes=50.0, residual_bytes=200.0)


def plan(kind="jacobian", n=3, m=5, costs=None, free=10**12, trace=None, **keywords):
    request = make_request(kind, lambda x: x, **({"argnums": 0, "memory": None, "mode": "auto", "chunk": None,
                                                 "wrt": "inputs"} | keywords))  # fmt: skip
    inputs = (ArrayType("float64", (n,), "cpu"),)
    outputs = (ArrayType("float64", () if kind != "jacobian" else (m,)),)
    call = Call(
        f=len, name="f", args=(), kwargs={}, request=request, backend=FakeBackend(free), active=[], in_tree=None,
        inputs=inputs, names=("x",), leaves=[], tree=None, signature=None, abstract=False,
    )  # fmt: skip
    modes = ("forward-over-reverse", "reverse-over-reverse") if kind == "hessian" else ("forward", "reverse")
    costs = dict.fromkeys(modes, COST) if costs is None else costs
    trace = dataclasses.replace(trace or FakeTrace((), {}), outputs=outputs, costs=costs)
    return make_plan(call, trace)


def test_the_cheaper_direction_is_chosen_by_price():
    wide, methods = plan(n=50, m=2)
    assert (wide.mode, wide.passes, methods[0].mode, methods[0].side) == ("reverse", 2, "reverse", "rows")
    tall, methods = plan(n=2, m=50)
    assert (tall.mode, tall.passes, methods[0].side) == ("forward", 2, "cols")
    dear = {"forward": COST, "reverse": dataclasses.replace(COST, flops=1e6)}
    found, methods = plan(n=50, m=2, costs=dear)  # more passes, but cheaper ones
    assert (found.mode, found.passes) == ("forward", 50)
    assert [m.mode for m in methods] == ["forward", "reverse"]


def test_prices_are_those_of_the_passes():
    found, _ = plan(n=4, m=9)
    rates = FakeBackend().rates("cpu")
    written = 4 * 9 * 8 / rates.bandwidth
    assert found.seconds == pytest.approx(pass_seconds(COST, rates, 4, 1) + written)
    assert found.bytes == 200 + 4 * (50 + 9 * 8)


def test_ties_go_to_the_first():
    found, _ = plan(n=5, m=5)
    assert found.mode == "forward"
    assert found.rejected[0].reason == "tie, dearer passes"
    nearly = {"forward": dataclasses.replace(COST, flops=1010.0), "reverse": COST}
    found, _ = plan(n=5, m=5, costs=nearly)
    assert found.mode == "forward"
    assert found.rejected[0].reason == "tie"


def test_reasons():
    costs = {mode: dataclasses.replace(COST, flops=flops, bytes=0, peak_bytes=0)
             for mode, flops in (("forward", 1e7), ("reverse", 1.5e7))}  # fmt: skip
    assert [c.reason for c in plan(n=5, m=5, costs=costs)[0].rejected] == ["1.5×"]
    costs["reverse"] = dataclasses.replace(COST, flops=3.33e7)
    assert plan(n=5, m=5, costs=costs)[0].rejected[0].reason == "3.3×"
    costs["reverse"] = dataclasses.replace(COST, flops=1e10)
    assert plan(n=5, m=5, costs=costs)[0].rejected[0].reason == "1,000×"
    forced = plan(n=5, m=5, costs=costs, mode="reverse")[0]
    assert (forced.mode, forced.rejected[0].reason) == ("reverse", "0.001×; mode='reverse' was asked for")


def test_forced_modes_leave_the_others_out():
    found, methods = plan(n=2, m=50, mode="reverse")
    assert found.mode == "reverse"
    assert [m.mode for m in methods] == ["reverse"]


def test_modes_that_are_not_there():
    trace = FakeTrace((), {}, unavailable={"reverse": "it has no reverse rule"})
    found, _ = plan(costs={"forward": COST}, trace=trace)
    assert (found.rejected[0].mode, found.rejected[0].reason) == ("reverse", "it has no reverse rule")
    with pytest.raises(crelle.CrelleValueError) as caught:
        plan(costs={"forward": COST}, trace=trace, mode="reverse")
    assert str(caught.value) == (
        "crelle.jacobian(f): mode='reverse' cannot be used here\n"
        "  called  x: f64[3]\n"
        "  likely  it has no reverse rule\n"
        "  try     one of 'forward', or leave mode= out"
    )
    with pytest.raises(crelle.CrelleValueError, match="likely  jax functions do not offer it"):
        plan(mode="central")


def test_memory_chooses_the_chunk():
    # 200 for the linearisation, 50 + 9 * 8 for each seed
    for memory, chunk in ((200 + 4 * 122, None), (200 + 4 * 122 - 1, 3), (200 + 2 * 122, 2), (200 + 122, 1)):
        found, methods = plan(n=4, m=9, memory=memory, mode="forward")
        assert (found.chunk, methods[0].chunk) == (chunk, chunk)
        assert found.bytes <= memory == found.memory
    assert "needs 688 B, over memory=322 B" in [c.reason for c in found.rejected]
    with pytest.raises(crelle.CrelleMemoryError) as caught:
        plan(n=4, m=9, memory=280)
    assert str(caught.value) == (
        "crelle.jacobian(f): memory=280 B is too small for even one pass\n"
        "  called    x: f64[4]\n"
        "  expected  at least 282 B: reverse, one at a time, the smallest candidate\n"
        '  try       memory="296 B" or more, or mode= / smaller inputs'
    )


def test_without_memory_half_of_what_is_free_is_the_bound():
    found, _ = plan(n=4, m=9, free=2 * (200 + 2 * 122), mode="forward")
    assert (found.chunk, found.memory) == (2, None)
    assert "needs 688 B, over 444 B, 50% of the free memory" in [c.reason for c in found.rejected]
    assert plan(n=4, m=9, free=None)[0].chunk is None


def test_a_chunk_that_is_asked_for_is_taken():
    for mode in ("forward", "reverse"):
        found, methods = plan(n=4, m=9, chunk=3, mode=mode, memory=250)
        assert (found.chunk, methods[0].chunk) == (3, 3)


def test_hessians_use_symmetry():
    found, methods = plan("hessian", n=6, rows=[0, 1], cols=[3])
    assert (found.passes, methods[0].side) == (1, "cols")
    found, methods = plan("hessian", n=6, rows=[4], cols=[1, 3])
    assert (found.passes, methods[0].side) == (1, "rows")
    costs = {"forward-over-reverse": dataclasses.replace(COST, flops=1e6), "forward-over-forward": COST}
    found, _ = plan("hessian", n=6, costs=costs)
    assert (found.mode, found.passes, found.unit) == ("forward-over-forward", triangle(6), "second-order JVP")
    assert found.candidates[0].work == "21 second-order JVPs"


def test_one_at_a_time_is_offered_where_batching_may_be_wrong():
    trace = FakeTrace((), {}, loop_modes=("forward",))
    _, methods = plan(n=4, m=9, trace=trace)
    assert ("forward", 1) in [(m.mode, m.chunk) for m in methods]
    assert ("reverse", 1) not in [(m.mode, m.chunk) for m in methods]


def test_the_answer_in_words():
    words = lambda kind="jacobian", **keywords: plan(kind, **keywords)[0].result
    assert words() == "dense f64[5,3]"
    assert words(flatten=True) == "flat f64[5,3]"
    assert words("hessian") == "dense f64[3,3]"
    assert words("gradient") == "gradient, f64[3]"
    assert words("gradient", flatten=True) == "flat f64[3]"
    assert words(rows=[0, 1]) == "part [2,3] of the 5 × 3 matrix"
    assert words(rows=0, cols=[1]) == "part [1] of the 5 × 3 matrix"
    assert words(entries=(0, 1)) == "1 entry of 5 × 3"
    assert words(entries=[(0, 1), (2, 2)]) == "2 entries of 5 × 3"


def test_passes_in_units():
    found, _ = plan("hessian", n=3, costs={"central": COST})
    assert found.candidates[0].work == "12 evaluations"
