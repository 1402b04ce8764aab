"""The tangent program as it is printed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle
from crelle.tangent.show import as_data, chain, html_table

X = jnp.ones(4)


def program(f, *args, **keywords):
    return crelle.jacobian(f, **keywords).program(*args)


def test_the_chain_rule_is_shown():
    W = jnp.ones((4, 2))
    assert str(program(lambda x: jnp.sin(x) @ W, X)) == (
        "Tangent program: t0: f64[4] -> f64[2]\n"
        "  0  mul          diagonal   t0 -> v0: f64[4]  varying   4 flops   96 B\n"
        "  1  dot_general  dense 2×4  v0 -> v1: f64[2]  constant  16 flops  112 B\n"
        "  returns v1\n"
        "  one pass: 20 flops, 208 B moved, 64 B live"
    )


def test_bodies_of_loops_are_indented():
    def f(x):
        return jax.lax.scan(lambda c, a: (jnp.sin(c) + a, c * a), 0.0, x)

    assert str(program(f, X)) == (
        "Tangent program: t0: f64[4] -> f64[], f64[4]\n"
        "  0    scan     loop of 4 steps  0, t0 -> v0.0: f64[], v0.1: f64[4]  varying   20 flops  480 B\n"
        "         each step: t0: f64[], t1: f64[]\n"
        "    0  mul      diagonal         t0 -> v0: f64[]                     varying   1 flop    24 B\n"
        "    1  add      sum              v0, t1 -> v1: f64[]                 constant  1 flop    24 B\n"
        "    2  mul      diagonal         t0 -> v2: f64[]                     varying   1 flop    24 B\n"
        "    3  mul      diagonal         t1 -> v3: f64[]                     varying   1 flop    24 B\n"
        "    4  add_any  sum              v2, v3 -> v4: f64[]                 constant  1 flop    24 B\n"
        "         returns v1, v4\n"
        "  returns v0.0, v0.1\n"
        "  one pass: 20 flops, 480 B moved, 104 B live"
    )


def test_branches_are_shown():
    lines = str(program(lambda x: jax.lax.cond(x[0] > 0, jnp.flip, lambda y: 2 * y, x), X)).splitlines()
    assert [line.strip() for line in lines[2:8]] == [
        "branch 0: t0: f64[4]",
        "0  mul   diagonal          t0 -> v0: f64[4]  constant  4 flops  72 B",
        "returns v0",
        "branch 1: t0: f64[4]",
        "0  rev   moves             t0 -> v0: f64[4]",
        "returns v0",
    ]


def banded(n):
    return jnp.asarray(np.eye(n) + np.eye(n, k=1))


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda x: x[::-1].reshape(2, 2), "moves"),
        (lambda x: x * jnp.array([1.0, 0.0, 2.0, 0.0]), "diagonal, 2 of 4 nonzero"),
        (lambda x: x.reshape(2, 2).sum(1), "sums of 2, 2 times"),
        (jnp.cumsum, "sums, sparse 4×4, 10 nonzeros"),
        (lambda x: banded(4) @ x, "sparse 4×4, 7 nonzeros"),
        (lambda x: x.reshape(2, 2) @ jnp.ones((2, 3)), "dense 3×2, 2 times"),
        (lambda x: jnp.fft.fft(x).real, "dense 4×4"),
        (jnp.sort, "dense 1×4, index not known"),
        (lambda x: jax.lax.while_loop(lambda u: u[0] < 5, lambda u: 2 * u, x), "loop of any number of steps"),
        (lambda x: jax.lax.fori_loop(0, 5, lambda i, u: jnp.sin(u), x), "loop of 5 steps"),
        (lambda x: jax.lax.cond(x[0] > 0, jnp.flip, lambda y: 2 * y, x), "branch, one of 2"),
    ],
)
def test_the_structure_of_each_map_in_words(f, words):
    assert words in [one["structure"] for one in as_data(program(f, X))]


def test_classes_of_coefficients():
    lines = str(program(lambda x, y: 2 * x * y * jnp.sin(x), X, X)).splitlines()
    said = {line.split("  ")[-3].strip() for line in lines if " -> v" in line}
    assert said == {"constant", "passive", "varying"}


def test_what_is_not_understood_is_noted():
    hidden = jax.custom_jvp(lambda x: x)

    @hidden.defjvp
    def _(primals, tangents):
        (t,) = tangents
        return primals[0], jax.pure_callback(lambda v: v, t, t)

    text = str(program(hidden, jnp.ones(300)))
    assert "opaque, all on all" in text
    assert text.splitlines()[-1].startswith("  note: pure_callback: no rule; every output is taken to depend on all")


def test_read_from_the_reverse_pass():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)[:3]

    f.defvjp(lambda x: (f(x), x), lambda x, g: (jnp.append(jnp.cos(x)[:3] * g, 0.0),))
    assert str(program(f, X)).startswith("Transposed tangent program: t0: f64[3] -> f64[4]\n")


def test_nothing_and_many():
    assert str(program(lambda x: jnp.zeros(3), X)) == (
        "Tangent program: t0: f64[4] -> f64[3]\n  returns 0\n  one pass: 0 flops, 0 B moved, 32 B live"
    )
    pieces = str(program(lambda x: jnp.concatenate([x[k : k + 1] for k in range(4)] * 2), X))
    assert "v0, v1, v2, v3, 4 more -> v4: f64[8]" in pieces
    tree = str(program(lambda p: sum(p), [jnp.ones(2)] * 9))
    assert tree.startswith("Tangent program: t0: f64[2], t1: f64[2], t2: f64[2], t3: f64[2], ... 5 more (18 entries in")


def long(x):
    for _ in range(50):
        x = jnp.sin(x) * 2
    return x


def test_long_programs_lose_their_middle():
    made = program(long, X)
    lines = str(made).splitlines()
    assert len(lines) == 1 + 60 + 1 + 2
    assert lines[31] == "      ... 40 more lines ..."
    assert lines[30].startswith("  29  mul")
    assert lines[32].startswith("  70  mul")
    assert len(chain(made, 99).splitlines()) == 1 + 99 + 1 + 2
    assert "... 1 more line ..." in chain(made, 99)
    assert "more" not in chain(made, None)
    assert "TangentProgram(4 -> 4, 100 maps" in repr(made)


def test_large_values_are_not_laid_out_to_be_measured():
    big = jax.ShapeDtypeStruct((200_000, 1_000), jnp.float64)
    assert "  sums  " in str(program(lambda x: jnp.sum(x, axis=1), big))


def test_a_table_for_notebooks():
    table = html_table(program(lambda x: jax.lax.fori_loop(0, 3, lambda i, u: jnp.sin(u), x), X))
    assert table == program(lambda x: jax.lax.fori_loop(0, 3, lambda i, u: jnp.sin(u), x), X)._repr_html_()
    assert table.startswith("<table><caption>Tangent program: t0: f64[4] -&gt; f64[4]</caption><tr><td")
    assert table.count("<tr>") == table.count("</tr>") == 1 + 3 + 2


def test_data_for_machines():
    (loop,) = as_data(program(lambda x: jax.lax.fori_loop(0, 3, lambda i, u: jnp.sin(u), x), X))
    ((inner,),) = loop.pop("bodies")
    assert inner["map"] == "Scale"
    assert loop["map"] == "Loop"
    assert loop["types"] == ["f64[4]"]
    assert loop["dependence"] == "varying"
