"""The plan as an object: how it prints, compares, is saved and loaded, and called."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle import Candidate, Plan
from crelle._arrays import ArrayType

X = np.array([0.3, 1.2, 2.0])
A = np.arange(15.0).reshape(5, 3) / 7


def x3():
    return jnp.array(X)


def residual(x):
    return jnp.sin(A @ x)


def loss(p):
    return jnp.sum(jnp.tanh(p["w"] @ p["x"]))


def masked(text):
    """Times and versions replaced, and the padding that depends on their length."""
    text = re.sub(r"[\d.e+-]+ (ms|s)\b", "<time>", text)
    text = re.sub(r"jax [\w.+]+", "jax <version>", text)
    text = re.sub(r"relative error \S+", "relative error <error>", text)
    text = re.sub(r"\b[\d.]+×", "<ratio>", text)
    return re.sub(r"   +", "   ", text)


@pytest.fixture(autouse=True)
def _unknown():
    crelle.clear_caches()


def test_a_plan_prints_as_a_table():
    J = crelle.jacobian(residual, mode="forward")
    J(x3())
    assert masked(str(J.plan(x3()))) == (
        "Jacobian of residual: f64[3] -> f64[5]   jax <version> · cpu\n"
        "  chosen   dense forward  3 JVPs  <time>  400 B\n"
        "  rejected  dense reverse  5 VJPs  <time>   560 B  <ratio>; mode='forward' was asked for\n"
        "  output   dense f64[5,3]\n"
        "  structure dense: 14 of 15 entries (93 %)\n"
        "  checked   1 random product against an independent VJP, relative error <error>"
    )


def plan_by_hand(**changes):
    chosen = Candidate("forward", "JVP", 50, None, 2e-5, 1000)
    rejected = Candidate("reverse", "VJP", 1, 7, 0.25, 164_000_000, "12×")
    missing = Candidate("central", "", -1, None, float("inf"), 0, "NumPy only")
    fields = {
        "kind": "jacobian",
        "function": "residual",
        "inputs": (ArrayType("float64", (50,), "cpu"),),
        "outputs": (ArrayType("float64", (49,)),),
        "input_names": ("x",),
        "backend": "jax",
        "version": "0.10",
        "device": "cpu",
        "mode": "forward",
        "unit": "JVP",
        "passes": 50,
        "chunk": None,
        "seconds": 2e-5,
        "bytes": 1000,
        "memory": None,
        "candidates": (chosen, rejected, missing),
        "result": "dense f64[49,50]",
    }
    return Plan(**(fields | changes))


def test_the_printed_form_is_pinned():
    plan = plan_by_hand(notes=("first note", "second note"), checked="1 random product", memory=2_000_000)
    assert str(plan) == (
        "Jacobian of residual: f64[50] -> f64[49]                  jax 0.10 · cpu\n"
        "  chosen    dense forward         50 JVPs  0.02 ms  1 kB\n"
        "  rejected  reverse, chunks of 7  1 VJP    250 ms   164 MB  12×\n"
        "            central                                         NumPy only\n"
        "  output    dense f64[49,50]\n"
        "  memory    working set at most 2 MB beyond inputs and result; estimated 1 kB\n"
        "  checked   1 random product\n"
        "  notes     first note\n"
        "            second note"
    )
    assert repr(plan) == "<Plan: jacobian of residual, dense forward, 50 JVPs, jax>"
    assert plan.method == "dense forward"
    assert [c.label for c in plan.rejected] == ["reverse, chunks of 7", "dense central"]
    one = dataclasses.replace(plan.candidates[0], chunk=1, passes=1234)
    assert (one.label, one.work) == ("forward, one at a time", "1,234 JVPs")


def test_measured_columns():
    chosen = dataclasses.replace(plan_by_hand().candidates[0], measured=0.5, measured_bytes=96)
    plan = plan_by_hand(candidates=(chosen, *plan_by_hand().candidates[1:]), memory=10_000)
    assert str(plan).splitlines()[1:4] == [
        "  chosen    dense forward         50 JVPs  0.02 ms  1 kB    measured 500 ms  96 B",
        "  rejected  reverse, chunks of 7  1 VJP    250 ms   164 MB                         12×",
        "            central                                                                NumPy only",
    ]
    assert "estimated 1 kB, measured 96 B" in str(plan)


def test_several_inputs_are_named():
    plan = crelle.jacobian(loss).plan({"w": jnp.array(A), "x": x3()})
    assert str(plan).startswith("Jacobian of loss: p['w']: f64[5,3], p['x']: f64[3] -> f64[]   jax ")
    many = crelle.jacobian(lambda p: sum(p)).plan([x3()] * 9)
    title = str(many).splitlines()[0]
    assert title.startswith(
        "Jacobian of f: p[0]: f64[3], p[1]: f64[3], p[2]: f64[3], p[3]: f64[3], ... 5 more (27 entries"
    )


def test_it_says_how_much_memory_was_measured():
    H = crelle.hessian(loss, memory="5kB")
    p = {"w": jnp.array(A), "x": x3()}
    H(p)
    plan = H.plan(p)
    assert plan.memory == 5000 and plan.bytes <= 5000 and plan.candidates[0].measured_bytes <= 5000
    (line,) = [line for line in str(plan).splitlines() if line.startswith("  memory")]
    pattern = (
        r"  memory    working set at most 5 kB beyond inputs and result; estimated [\d.]+ k?B, measured [\d.]+ k?B"
    )
    assert re.fullmatch(pattern, line)


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption"):
            self.text, self.span = "", int(dict(attrs).get("colspan", 1))

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.rows[-1] += [self.text] * self.span


def test_the_html_table_holds_the_same():
    plan = plan_by_hand(notes=("a < b & c",), function="<lambda>")
    text = plan._repr_html_()
    assert "<caption>Jacobian of &lt;lambda&gt;: f64[50] -&gt; f64[49]</caption>" in text
    cells = Cells()
    cells.feed(text)
    assert not cells.open
    assert {len(row) for row in cells.rows} == {6}
    assert cells.rows[0] == ["chosen", "dense forward", "50 JVPs", "0.02 ms", "1 kB", ""]
    assert cells.rows[-1] == ["notes"] + ["a < b & c"] * 5


def test_plans_are_equal_if_they_do_the_same():
    assert plan_by_hand() == plan_by_hand(seconds=1.0, bytes=3, notes=("x",), checked="y", candidates=())
    assert plan_by_hand() != plan_by_hand(mode="reverse")
    assert plan_by_hand() != plan_by_hand(chunk=3)
    assert plan_by_hand() != plan_by_hand(inputs=(ArrayType("float32", (50,), "cpu"),))
    J = crelle.jacobian(residual)
    assert J.plan(x3()) == J.plan(2 * x3())
    assert J.plan(x3()) != crelle.jacobian(residual, flatten=True, mode="reverse").plan(x3())
    assert hash(plan_by_hand()) == hash(plan_by_hand(seconds=1.0))


def test_diff_names_what_differs():
    assert plan_by_hand().diff(plan_by_hand(seconds=1.0)) == ""
    other = plan_by_hand(mode="reverse", passes=49, inputs=(ArrayType("float32", (3, 4)),), memory=1000)
    assert plan_by_hand().diff(other) == (
        "inputs    f64[50] | f32[3,4]\nmode      forward | reverse\npasses    50 | 49\nmemory    None | 1000"
    )


def test_saved_plans_are_read_again(tmp_path):
    p = {"w": jnp.array(A), "x": x3()}
    for plan in (
        crelle.jacobian(residual).plan(x3(), analyze=True),
        crelle.hessian(loss, memory="5kB").plan(p),
        crelle.jacobian(lambda x: jax.lax.fori_loop(0, x.size + 0 * jnp.int32(1), lambda i, v: jnp.sin(v), x)).plan(
            x3()
        ),
        plan_by_hand(),
    ):
        path = tmp_path / "plan.json"
        plan.save(path)
        loaded = Plan.load(path)
        assert loaded == plan
        assert str(loaded) == str(plan)
        assert loaded.candidates == plan.candidates and loaded.notes == plan.notes
        assert json.loads(path.read_text())["crelle_plan"] == 1
    assert Plan.load(str(path)) == plan


def test_a_loaded_plan_is_given_its_function(tmp_path):
    path = tmp_path / "plan.json"
    crelle.jacobian(residual, mode="reverse", chunk=2).plan(x3()).save(path)
    plan = Plan.load(path)
    with pytest.raises(crelle.CrelleTypeError) as caught:
        plan(x3())
    assert str(caught.value) == (
        "this plan of jacobian(residual) holds no function\n"
        "  likely  it was loaded from a file\n"
        "  try     crelle.jacobian(f, plan=plan) gives it one"
    )
    J = crelle.jacobian(residual, plan=plan)
    found = J.plan(x3())
    assert (found.mode, found.chunk, found.passes) == ("reverse", 2, 5)
    expected = np.cos(A @ X)[:, None] * A
    np.testing.assert_allclose(J(x3()), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(J)(x3()), expected, rtol=1e-12)
    with pytest.raises(crelle.CrelleValueError) as caught:
        J(jnp.ones((3, 1)))
    assert str(caught.value) == (
        "crelle.jacobian(residual): the plan that was passed does not fit\n"
        "  called    jax, f64[3,1]\n"
        "  expected  jax, f64[3]\n"
        "  try       leave plan= out, or make a plan for these inputs"
    )
    with pytest.raises(crelle.CrelleTypeError) as caught:
        crelle.hessian(loss, plan=plan)
    assert str(caught.value) == (
        "crelle.hessian(f, plan=): the plan is for a jacobian\n  expected  a plan made by crelle.hessian(f).plan(...)"
    )


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"crelle_plan": 1}', '{"crelle_plan": 99}', '{"kind": "jacobian"}', "\x00"]
)
def test_bad_files(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(crelle.CrelleValueError) as caught:
        Plan.load(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} is not a saved plan of this version of Crelle"
    assert lines[1].startswith("  likely  the file is truncated, or of another version (")
    assert lines[2] == "  try     make the plan again and save it"


def test_files_with_unknown_or_missing_fields(tmp_path):
    path = tmp_path / "plan.json"
    plan_by_hand().save(path)
    data = json.loads(path.read_text())
    for change in ({"surprise": 1}, {"mode": None}):
        broken = {k: v for k, v in (data | change).items() if v is not None or k in ("chunk", "memory")}
        path.write_text(json.dumps(broken))
        with pytest.raises(crelle.CrelleValueError, match="is not a saved plan"):
            Plan.load(path)
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "nowhere.json")


def test_analyze_measures_every_candidate():
    plan = crelle.jacobian(residual).plan(x3(), analyze=True)
    assert [c.mode for c in plan.candidates] == ["forward", "reverse"]
    assert all(c.measured > 0 and c.measured_bytes >= 0 for c in plan.candidates)
    assert plan.checked
    text = str(plan)
    assert text.count("measured ") == 2
    hessian = crelle.hessian(loss).plan({"w": jnp.array(A), "x": x3()}, analyze=True)
    assert {c.mode for c in hessian.candidates if c.measured is not None} == {
        "forward-over-reverse",
        "reverse-over-reverse",
        "reverse-over-forward",
        "forward-over-forward",
    }
    wrapped = jax.custom_vjp(lambda x: jnp.sin(x))
    wrapped.defvjp(lambda x: (jnp.sin(x), x), lambda x, u: (jnp.cos(x) * u,))
    partly = crelle.jacobian(lambda x: wrapped(x)).plan(x3(), analyze=True)
    assert partly.candidates[0].measured > 0 and partly.candidates[1].measured is None
