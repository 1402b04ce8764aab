"""Rules that users register: what they may say, what they are asked, and what is said of wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import torch
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

import crelle
from crelle.tangent import rules
from crelle.tangent.rules import LinearOperand, patterns

X = LinearOperand((4, 3), "float64", True)
Y = LinearOperand((3,), "float64", True)
C = LinearOperand((3,), "float64", False, np.ones(3))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))


def ask(answer, operands=(X,), shapes=((4, 3),), name="my_op"):
    return patterns(name, lambda *given: answer, operands, shapes, {})


def as_matrix(csr, shape):
    return scipy.sparse.csr_array((np.ones(len(csr[1])), csr[1], csr[0]), shape=shape).toarray() != 0


# -- answers


@pytest.mark.parametrize("wrapped", [False, True])
def test_answers_in_words(wrapped):
    ((pointwise,),) = ask(["pointwise"] if wrapped else "pointwise")
    assert (as_matrix(pointwise, (12, 12)) == np.eye(12, dtype=bool)).all()
    assert ask(["dense"] if wrapped else "dense") == [[None]]


@pytest.mark.parametrize("form", [scipy.sparse.csr_array, crelle.SparsityPattern.from_, np.asarray])
def test_answers_as_patterns(form):
    matrix = np.random.default_rng(0).random((6, 12)) < 0.3
    ((found,),) = ask([form(matrix)], shapes=((2, 3),))
    assert (as_matrix(found, (6, 12)) == matrix).all()


def test_coefficients_are_not_asked_about():
    assert [one is None for one in ask(["pointwise", "dense"], (X, C, Y))[0]] == [False, True, True]


def test_several_results():
    found = ask([["pointwise"], ["dense"]], shapes=((4, 3), (5,)))
    assert [row[0] is None for row in found] == [False, True]


def test_what_a_rule_is_given():
    seen = []
    patterns("my_op", lambda *given: seen.extend(given) or "dense", (X, C), ((5,),), {"axis": 1})
    with pytest.raises(crelle.CrelleTypeError):  # one answer, two linear operands
        patterns("my_op", lambda *given: "dense", (X, Y), ((5,),), {})
    operands, shapes, params = seen
    assert operands == [X, C]
    assert (shapes, params) == ([(5,)], {"axis": 1})


# -- wrong answers


def test_a_wrong_number_of_answers():
    with pytest.raises(crelle.CrelleTypeError) as raised:
        ask(["dense"], (X, C, Y))
    assert str(raised.value) == (
        "the linear rule of 'my_op' returned 1 answer\n"
        "  called    operands 0 of shape (4, 3), 2 of shape (3,) are linear\n"
        "  expected  2: one for each linear operand"
    )


@pytest.mark.parametrize(("answer", "got"), [(["dense"], "1 answers"), ("dense", "'dense'"), (None, "None")])
def test_a_wrong_number_of_results(answer, got):
    with pytest.raises(crelle.CrelleTypeError) as raised:
        ask(answer, shapes=((4,), (2,)))
    assert str(raised.value) == (
        f"the linear rule of 'my_op' returned {got}\n"
        "  called    the operation has 2 results, of shapes (4,), (2,)\n"
        "  expected  a list of 2: for each result a list with one answer for each linear operand"
    )


RAVELED = "rows are the elements of the result, columns those of the operand, both raveled in C order"


def test_a_pattern_of_a_wrong_shape():
    with pytest.raises(crelle.CrelleShapeError) as raised:
        ask([np.ones((12, 6))], shapes=((2, 3),))
    assert str(raised.value) == (
        "the linear rule of 'my_op' returned a pattern of shape (12, 6)\n"
        '  expected  "pointwise", "dense", or a pattern of shape (6, 12)\n'
        "  likely    rows and columns were exchanged\n"
        f"  try       {RAVELED}"
    )
    with pytest.raises(crelle.CrelleShapeError) as raised:
        ask([np.ones((5, 5))])
    assert "likely" not in str(raised.value)


def test_pointwise_between_different_sizes():
    with pytest.raises(crelle.CrelleShapeError) as raised:
        ask(["pointwise"], shapes=((2, 3),))
    headline, *rest = str(raised.value).splitlines()
    got = '"pointwise" for a result of shape (2, 3) and an operand of shape (4, 3)'
    assert headline == f"the linear rule of 'my_op' returned {got}"
    assert rest == [
        '  expected  "pointwise", "dense", or a pattern of shape (6, 12)',
        f"  try       {RAVELED}",
    ]


@pytest.mark.parametrize(("answer", "got"), [("diagonal", "'diagonal'"), (3, "a int"), (object(), "a object")])
def test_answers_that_are_no_patterns(answer, got):
    with pytest.raises(crelle.CrelleShapeError, match=f"^the linear rule of 'my_op' returned {got}\n"):
        ask([answer])


def test_none_is_no_answer():
    with pytest.raises(crelle.CrelleShapeError) as raised:
        ask([None])
    assert str(raised.value).startswith("the linear rule of 'my_op' returned None\n  expected  \"pointwise\"")


# -- registering


def test_what_cannot_be_registered():
    with pytest.raises(crelle.CrelleTypeError) as raised:
        crelle.register_linear_rule(np.sin, lambda *given: "dense")
    assert str(raised.value) == (
        "crelle.register_linear_rule: a ufunc is no operation of a framework\n"
        "  expected  a JAX primitive, a PyTorch operator, or the name of one\n"
        "  try       functions need no rule: they are looked into; hide one in a primitive or a torch.library.custom_op"
    )

    class Mine(torch.autograd.Function):
        name = "mine"

    with pytest.raises(crelle.CrelleTypeError, match="the class Mine is no operation of a framework"):
        crelle.register_linear_rule(Mine, lambda *given: "dense")
    with pytest.raises(crelle.CrelleTypeError) as raised:
        crelle.register_linear_rule("my_op", "dense")
    assert str(raised.value) == (
        "crelle.register_linear_rule('my_op', rule): the rule is a str\n"
        "  expected  a function rule(operands, shapes, params)"
    )


def test_names_of_operations():
    def rule(operands, shapes, params):
        return "dense"

    assert crelle.register_linear_rule(jax.lax.sin_p, rule) is rule
    assert rules.find("sin") is rule
    crelle.register_linear_rule("my::op", rule)
    assert rules.find("my.op") is rule
    crelle.register_linear_rule(torch.ops.aten.sin.default, rule)
    assert rules.find("aten.sin.default") is rule

    @crelle.register_linear_rule("decorated")
    def other(operands, shapes, params):
        return "dense"

    assert rules.find("decorated") is other


# -- in JAX


def primitive(name, function):
    """A linear primitive that is its own transpose and that JAX cannot look into."""
    p = Primitive(name)
    p.def_impl(lambda x: jnp.asarray(function(np.asarray(x))))
    p.def_abstract_eval(lambda x: x)

    def on_the_host(x):
        return jax.pure_callback(function, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    mlir.register_lowering(p, mlir.lower_fun(on_the_host, multiple_results=False))
    ad.deflinear2(p, lambda cotangent, x: [p.bind(cotangent)])
    return p


def test_a_rule_for_a_primitive_of_jax():
    turn = primitive("test_rules_turn", lambda x: x[::-1].copy())
    seen = []

    @crelle.register_linear_rule(turn)
    def _(operands, shapes, params):
        seen.append((operands[0], shapes))
        n = operands[0].shape[0]
        return [scipy.sparse.csr_array(np.eye(n)[::-1])]

    x = jnp.linspace(1.0, 2.0, 300)
    program = crelle.jacobian(lambda x: turn.bind(x**2)).program(x)
    assert program.trusted == ["test_rules_turn"]
    assert seen == [(LinearOperand((300,), "float64", True), [(300,)])]
    pattern = crelle.jacobian(lambda x: turn.bind(x**2)).pattern(x)
    assert (pattern.to_dense() == np.eye(300, dtype=bool)[::-1]).all()


@pytest.mark.parametrize("looped", [False, True])
def test_a_rule_that_misses_entries_is_named(looped):
    turn = primitive("test_rules_wrong", lambda x: x[::-1].copy())
    crelle.register_linear_rule(turn, lambda *given: ["pointwise"])

    def step(x):
        return x + turn.bind(x**2)

    f = (lambda x: jax.lax.fori_loop(0, 2, lambda i, u: step(u), x)) if looped else step
    x = jnp.linspace(1.0, 2.0, 7)
    with pytest.raises(crelle.CrelleCheckError) as raised:
        crelle.jacobian(f).pattern(x)
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("the pattern misses entries")
    assert lines[-2] == "  likely    the linear rule registered for 'test_rules_wrong' misses entries"
    assert lines[-1] == '  try       return a larger pattern from the rule, "dense" if in doubt'
    assert crelle.jacobian(f, check=False).pattern(x).nnz < 49


# -- in PyTorch


@pytest.fixture(scope="module")
def smooth():
    """An operation of PyTorch that is its own transpose; torch.func refuses it."""

    @torch.library.custom_op("crelle_tests::smooth", mutates_args=())
    def smooth(x: torch.Tensor) -> torch.Tensor:
        padded = np.pad(x.detach().numpy(), 1)
        return torch.from_numpy(0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:])

    smooth.register_fake(torch.empty_like)
    smooth.register_autograd(lambda ctx, g: smooth(g))
    return smooth


def tridiagonal(operands, shapes, params):
    ones = np.ones(operands[0].shape[0])
    return [scipy.sparse.diags_array([ones[1:], ones, ones[1:]], offsets=[-1, 0, 1])]


def f64(n):
    return torch.linspace(1.0, 2.0, n, dtype=torch.float64)


def test_a_rule_for_an_operator_of_torch(smooth):
    J = crelle.jacobian(lambda x: smooth(x**2))
    assert J.pattern(f64(300)).nnz == 300**2
    crelle.register_linear_rule(smooth, tridiagonal)
    assert J.pattern(f64(300)).nnz == 898
    assert crelle.hessian(lambda x: (smooth(x) ** 3).sum()).pattern(f64(300)).bandwidth == (2, 2)


def test_a_rule_that_misses_entries_is_named_in_torch(smooth):
    """Forward mode of PyTorch takes the operation for a constant: the comparison has to be with the reverse pass."""
    crelle.register_linear_rule("crelle_tests::smooth", lambda *given: "pointwise")
    for transform in (
        crelle.jacobian(lambda x: smooth(x**2)),
        crelle.hessian(lambda x: (smooth(x) ** 3).sum()),
    ):
        with pytest.raises(crelle.CrelleCheckError, match=r"registered for 'crelle_tests\.smooth' misses entries"):
            transform.pattern(f64(20))
