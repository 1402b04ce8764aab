"""What a user of JAX reads when something is wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crelle


def message(make, *args, error=crelle.CrelleError, **kwargs):
    with pytest.raises(error) as caught:
        make(*args, **kwargs)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # the cause is ours
    return str(caught.value)


x = jnp.array([1.0, 2.0, 3.0])


def test_not_a_function():
    assert message(crelle.jacobian, x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): f is not a function but an ArrayImpl\n"
        "  expected  a function of arrays, or an nn.Module\n"
        "  try       pass the function itself, f, not its result f(x)"
    )
    assert message(crelle.hessian, 3, error=crelle.CrelleTypeError) == (
        "crelle.hessian(f): f is not a function but an int\n  expected  a function of arrays, or an nn.Module"
    )


def test_wrong_number_of_arguments():
    assert message(crelle.jacobian(lambda x, y: x, argnums=1), x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): argnums=1 names argument 1, and the call has 1\n"
        "  called  f64[3]\n"
        "  likely  an argument is missing, or was passed by keyword, and those are not differentiated"
    )
    assert message(crelle.jacobian(lambda x, y: x, argnums=(0, -2)), x, x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): argnums=(0, -2) names an argument twice\n"
        "  called    f64[3], f64[3]\n"
        "  expected  each argument once"
    )
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):  # as without us
        crelle.jacobian(lambda x, y: x)(x)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        crelle.jacobian(lambda x: x)(x, z=1)


def test_no_array():
    assert message(crelle.jacobian(lambda x: x * 2), 2.0, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): no argument is an array\n"
        "  called    2.0\n"
        "  expected  at least one jax.Array, torch.Tensor or numpy.ndarray\n"
        "  likely    a plain number does not say which framework f is written in\n"
        "  try       wrap it: jnp.asarray(x), torch.tensor(x) or np.asarray(x)"
    )
    assert message(crelle.jacobian(lambda p, x: x), {}, x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): the differentiated argument holds no array\n"
        "  called    {}, f64[3]\n"
        "  expected  one array or more"
    )
    assert message(crelle.jacobian(lambda name, x: x), "sin", x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): name is 'sin' of type str, which cannot be differentiated\n"
        "  called    'sin', f64[3]\n"
        "  expected  arrays, or trees of arrays\n"
        "  try       pass it by keyword, or choose other argnums="
    )


def test_integer_input():
    for value, kind in ((jnp.arange(3), "i64[3]"), (jnp.array([True]), "bool[1]")):
        assert message(crelle.jacobian(lambda n: n), value, error=crelle.CrelleTypeError) == (
            f"crelle.jacobian(f): n is {kind}, and only floating-point arguments have a derivative\n"
            f"  called  {kind}\n"
            "  likely  an integer or boolean array where a float was meant\n"
            "  try     convert it (x.astype(float)), or choose other argnums="
        )
    tree = {"w": x, "steps": jnp.array(3)}
    assert message(crelle.gradient(lambda p: p["w"].sum()), tree).startswith(
        "crelle.gradient(f): p['steps'] is i64[], and only floating-point arguments have a derivative\n"
        "  called  {'w': f64[3], 'steps': i64[]}\n"
    )
    assert message(crelle.jacobian(lambda k: x), jax.random.key(0)).startswith(
        "crelle.jacobian(f): k is key<fry>[], and only floating-point arguments have a derivative"
    )


def test_mixed_frameworks():
    torch = pytest.importorskip("torch")
    assert message(crelle.jacobian(lambda x, y: x), x, torch.ones(2), error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): the arguments mix JAX and PyTorch arrays\n"
        "  called    f64[3], f32[2]\n"
        "  expected  arrays of one framework\n"
        "  try       convert one of them, e.g. jax.dlpack.from_dlpack(tensor) or torch.from_dlpack(array)"
    )


def test_outputs_without_a_derivative():
    assert message(crelle.jacobian(lambda x: "text"), x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): f returned 'text' of type str\n"
        "  called    x: f64[3]\n"
        "  expected  an array, or a tree of arrays\n"
        "  try       has_aux=True if f returns (output, aux)"
    )
    assert message(crelle.jacobian(lambda x: x > 0), x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): f returned bool[3], which has no derivative\n"
        "  called    x: f64[3]\n"
        "  expected  floating-point outputs\n"
        "  try       has_aux=True, with integer results in aux"
    )
    assert message(crelle.jacobian(lambda x: (x, 3)), x).startswith("crelle.jacobian(f): f returned i64[], which has")
    assert message(crelle.jacobian(lambda x: None), x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): f returned nothing\n"
        "  called    x: f64[3]\n"
        "  expected  an array, or a tree of arrays\n"
        "  likely    a missing return statement"
    )
    assert message(crelle.jacobian(lambda x: x, has_aux=True), x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): has_aux=True, and f returned f64[3], not (output, aux)\n"
        "  called  x: f64[3]\n"
        "  try     return a pair from f, or leave has_aux= out"
    )


@pytest.mark.parametrize("kind", ["hessian", "gradient"])
def test_non_scalar_outputs(kind):
    transform = getattr(crelle, kind)
    assert message(transform(lambda x: x * 2), x, error=crelle.CrelleShapeError) == (
        f"crelle.{kind}(f): f must return a scalar, and returned f64[3]\n"
        "  called    x: f64[3]\n"
        "  expected  one array of shape []\n"
        "  likely    a missing sum or mean, or an axis of length 1\n"
        "  try       f(x).sum(), f(x)[0], or crelle.jacobian for a function with several outputs"
    )
    assert message(transform(lambda x: (x[0], x[:1])), x).startswith(
        f"crelle.{kind}(f): f must return a scalar, and returned f64[], f64[1]\n"
    )


def test_complex_arrays():
    z = x + 1j
    refused = "a complex function has one complex derivative only if it is holomorphic"
    hint = "  try     holomorphic=True if it is; otherwise differentiate real and imaginary parts as real arrays"
    for f, kind in ((lambda z: z * z, "jacobian"), (lambda z: (z * z).sum(), "hessian")):
        text = message(getattr(crelle, kind)(f), z, error=crelle.CrelleTypeError)
        assert text.startswith(f"crelle.{kind}(f): {refused}\n  called  z: c128[3] -> c128[")
        assert text.endswith(hint)
    assert message(crelle.hessian(lambda z: jnp.abs(z).sum()), z).startswith(f"crelle.hessian(f): {refused}")
    needed = "holomorphic=True needs complex inputs and outputs"
    assert message(crelle.jacobian(jnp.sin, holomorphic=True), x, error=crelle.CrelleTypeError) == (
        f"crelle.jacobian(sin): {needed}\n"
        "  called  argument 0: f64[3] -> f64[3]\n"
        "  try     leave holomorphic= out, or convert the input to complex"
    )
    assert needed in message(crelle.jacobian(jnp.abs, holomorphic=True), z)
    mixed = lambda p: p["z"] * p["x"]
    assert needed in message(crelle.jacobian(mixed, holomorphic=True), {"z": z, "x": x})
    assert message(crelle.gradient(lambda x: (x * 1j).sum()), x, error=crelle.CrelleTypeError) == (
        "crelle.gradient(f): f must return a real number, and returned c128[]\n"
        "  called  x: f64[3] -> c128[]\n"
        "  try     the real or imaginary part of the output, or crelle.jacobian"
    )
    assert message(crelle.jacobian(jnp.abs, mode="forward"), z, error=crelle.CrelleValueError) == (
        "crelle.jacobian(abs): mode='forward' cannot be used here\n"
        "  called  argument 0: c128[3]\n"
        "  likely  the input is complex and the output real: only a gradient (a VJP) is defined\n"
        "  try     one of 'reverse', or leave mode= out"
    )


def test_shapes_that_changed_since_the_plan():
    f = lambda p, y: p["w"] * y
    plan = crelle.jacobian(f).plan({"w": x, "b": jnp.ones(2)}, x)
    assert message(plan, {"w": x, "b": jnp.ones(4, jnp.float32)}, x, error=crelle.CrelleShapeError) == (
        "crelle.jacobian(f): this plan was made for other inputs\n"
        "  called    ❌ p['b']: planned f64[2], got f32[4]\n"
        "            ✅ p['w']: planned f64[3], got f64[3]\n"
        "  expected  p['b']: f64[2], p['w']: f64[3]\n"
        "  try       make a plan for these inputs, or call crelle.jacobian(f)(...), which plans by itself"
    )
    text = message(plan, {"w": x, "b": jnp.ones(2)}, jnp.ones(1))
    assert "✅ p['b']" in text and "❌ another argument, or a global setting, differs from the planned one" in text
    text = message(plan, {"w": x}, x)
    assert "❌ p['b']: planned f64[2], got f64[3]" in text and "❌ p['w']: planned f64[3], got nothing" in text
    text = message(plan, {"w": x, "b": jnp.ones(2), "c": x}, x)
    assert "❌ 1 further arrays" in text
    from_shapes = crelle.jacobian(jnp.sin).plan(jax.ShapeDtypeStruct((3,), jnp.float64))
    assert "❌ argument 0: planned f64[3], got f64[2]" in message(from_shapes, jnp.ones(2))


def test_values_that_changed_since_the_plan():
    plan = crelle.jacobian(lambda x, t, w: t * x * w).plan(x, 0.1, np.ones(3))
    assert plan(x, 0.1, np.ones(3)).shape == (3, 3)
    assert message(plan, x, 0.2, np.ones(3), error=crelle.CrelleShapeError) == (
        "crelle.jacobian(f): this plan was made for another value of an argument that is no JAX array\n"
        "  called  argument [1]: planned 0.1, got 0.2\n"
        "  likely  a plan that is called is frozen, and numbers, texts and NumPy arrays are part of it\n"
        "  try     pass jnp.asarray(...), or make a plan for this value"
    )
    assert "argument [2]: planned array([1., 1., 1.]), got array([0., 0., 0.])" in message(plan, x, 0.1, np.zeros(3))


def test_too_little_memory():
    assert message(crelle.jacobian(lambda x: jnp.sin(x), memory=10), x, error=crelle.CrelleMemoryError) == (
        "crelle.jacobian(f): memory=10 B is too small for even one pass\n"
        "  called    x: f64[3]\n"
        "  expected  at least 96 B: forward, one at a time, the smallest candidate\n"
        '  try       memory="101 B" or more, or mode= / smaller inputs'
    )
    w = np.ones((300, 300))
    matrix = lambda x: jnp.linalg.inv(jnp.eye(300) + jnp.outer(x, x)) @ x
    text = message(crelle.jacobian(matrix, memory="30kB"), jnp.ones(300), error=crelle.CrelleMemoryError)
    assert text.startswith("crelle.jacobian(f): memory=30 kB is too small for even one pass\n")
    assert w.shape == (300, 300)


def test_modes_that_cannot_be_used():
    loop = lambda x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x))[1]
    assert message(crelle.jacobian(loop, mode="reverse"), x, error=crelle.CrelleValueError) == (
        "crelle.jacobian(f): mode='reverse' cannot be used here\n"
        "  called  x: f64[3]\n"
        "  likely  a while_loop, or a fori_loop with bounds that are not fixed, has no reverse rule\n"
        "  try     one of 'forward', or leave mode= out"
    )
    assert message(crelle.jacobian(jnp.sin, mode="central"), x, error=crelle.CrelleValueError) == (
        "crelle.jacobian(sin): mode='central' cannot be used here\n"
        "  called  argument 0: f64[3]\n"
        "  likely  jax functions do not offer it\n"
        "  try     one of 'forward', 'reverse', or leave mode= out"
    )


def test_no_derivative_at_all():
    f = lambda x: jax.pure_callback(np.sin, x, x)
    text = message(crelle.jacobian(f), x, error=crelle.CrelleTypeError)
    assert text.startswith(
        "crelle.jacobian(f): f has no derivative that JAX can compute\n"
        "  called  x: f64[3]\n"
        "  likely  forward: ValueError: Pure callbacks do not support JVP."
    )
    assert text.endswith("  try     jax.custom_jvp gives an operation a derivative rule")


def test_shapes_have_no_values():
    struct = jax.ShapeDtypeStruct((3,), jnp.float64)
    assert message(crelle.jacobian(jnp.sin), struct, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(sin): a shape has no values to compute with\n"
        "  called  argument 0: f64[3]\n"
        "  try     crelle.jacobian(f).plan(...) for the plan, jax.eval_shape for the answer's shape"
    )
    assert message(crelle.jacobian(lambda x: x).plan, struct, analyze=True, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): analyze=True runs f, and there are no values to run it on\n"
        "  try  pass arrays instead of shapes, outside of any transformation"
    )


def test_parameters_of_a_plain_function():
    assert message(crelle.jacobian(lambda x: x, wrt="params"), x, error=crelle.CrelleTypeError) == (
        "crelle.jacobian(f): wrt='params' needs an nn.Module, and f is a plain function\n"
        "  try  make the parameters an argument and differentiate that: f(params, x), argnums=0"
    )


def test_errors_of_f_come_through():
    def broken(x):
        raise KeyError("mine")

    for transform in (crelle.jacobian, crelle.hessian, crelle.gradient):
        with pytest.raises(KeyError, match="mine"):
            transform(broken)(x)
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        crelle.jacobian(lambda x: jnp.ones((2, 2)) @ x)(x)
