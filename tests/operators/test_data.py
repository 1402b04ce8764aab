"""Operators over data sets equal those of the whole set at once, whatever is kept; and what can go wrong in a pass."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.flatten_util import ravel_pytree
from torch.utils.data import DataLoader, Dataset, TensorDataset

import crelle
from crelle.operators._data import over_data

SAMPLES, SIZE = 199, 4  # 50 batches, the last one with 3 samples


def says(text, call):
    with pytest.raises(crelle.CrelleError) as caught:
        call()
    assert str(caught.value) == text
    return caught.value


class Counting:
    """Batches that count how often they are gone through, and how many are handed out."""

    def __init__(self, batches):
        self.batches, self.passes, self.handed = list(batches), 0, 0

    def __iter__(self):
        self.passes += 1
        for batch in self.batches:
            self.handed += 1
            yield batch


def jax_case(x, y, params):
    def model(p, x):
        return jnp.tanh(x @ p["w"] + p["b"]) @ p["out"]

    return SimpleNamespace(
        name="jax",
        array=jnp.asarray,
        model=model,
        loss=lambda p, x, y: jnp.mean(jnp.sum((model(p, x) - y) ** 2, 1)),
        x=jnp.asarray(x),
        y=jnp.asarray(y),
        params={key: jnp.asarray(value) for key, value in params.items()},
    )


def torch_case(x, y, params):
    def model(p, x):
        return torch.tanh(x @ p["w"] + p["b"]) @ p["out"]

    return SimpleNamespace(
        name="torch",
        array=torch.as_tensor,
        model=model,
        loss=lambda p, x, y: ((model(p, x) - y) ** 2).sum(1).mean(),
        x=torch.as_tensor(x),
        y=torch.as_tensor(y),
        params={key: torch.as_tensor(value) for key, value in params.items()},
    )


@pytest.fixture(params=[jax_case, torch_case], ids=["jax", "torch"])
def case(request):
    rng = np.random.default_rng(1869)
    params = {"b": rng.normal(size=4), "out": rng.normal(size=(4, 2)), "w": rng.normal(size=(3, 4))}
    return request.param(rng.normal(size=(SAMPLES, 3)), rng.normal(size=(SAMPLES, 2)), params)


def dense_hessian(case):
    """By the framework, on the whole data set."""
    if case.name == "jax":
        flat, back = ravel_pytree(case.params)
        return np.asarray(jax.hessian(lambda v: case.loss(back(v), case.x, case.y))(flat))
    shapes = {key: value.shape for key, value in case.params.items()}
    flat = torch.cat([value.reshape(-1) for value in case.params.values()])

    def back(v):
        parts = v.split([shape.numel() for shape in shapes.values()])
        return {key: part.reshape(shape) for part, (key, shape) in zip(parts, shapes.items(), strict=True)}

    return torch.func.hessian(lambda v: case.loss(back(v), case.x, case.y))(flat).numpy()


def dense_jacobian(case):
    blocks = (jax.jacrev if case.name == "jax" else torch.func.jacrev)(case.model)(case.params, case.x)
    count = SAMPLES * 2
    return np.concatenate([np.asarray(block).reshape(count, -1) for block in blocks.values()], 1)


def at(case, memory=None, data=None, **keywords):
    keywords = {"batch_size": SIZE} | keywords if data is None else keywords
    return crelle.hessian(case.loss).at(
        case.params, data=(case.x, case.y) if data is None else data, memory=memory, **keywords
    )


def batches_of(case):
    return [(case.x[i : i + SIZE], case.y[i : i + SIZE]) for i in range(0, SAMPLES, SIZE)]


def share(case, part):
    """Memory for so many of the 50 batches."""
    return int(at(case).kept_bytes * part)


# -- exactness


@pytest.mark.parametrize("part", [None, 0.5, 0.001], ids=["kept", "half", "anew"])
def test_fifty_batches_equal_the_whole_set(case, part):
    a = at(case, None if part is None else share(case, part))
    assert a.batches == 50
    assert (a.kept == 50) if part is None else (20 < a.kept < 30 if part == 0.5 else a.kept == 0)
    truth = dense_hessian(case)
    np.testing.assert_allclose(np.asarray(a.todense()), truth, rtol=1e-10, atol=1e-10 * abs(truth).max())
    whole = crelle.hessian(case.loss).at(case.params, case.x, case.y)
    v = case.array(np.random.default_rng(3).normal(size=truth.shape[0]))
    np.testing.assert_allclose(np.asarray(a @ v), np.asarray(whole @ v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "part"),
    [("ggn", None), ("ggn", 0.001), pytest.param("fisher", 0.5, marks=pytest.mark.slow)],
    ids=["ggn-kept", "ggn-anew", "fisher-half"],
)
def test_gauss_newton_over_fifty_batches(case, kind, part):
    if case.name == "jax":
        loss = lambda z, y: jnp.mean(jnp.sum((z - y) ** 2, 1))
    else:
        loss = lambda z, y: ((z - y) ** 2).sum(1).mean()
    make = crelle.ggn(case.model, loss) if kind == "ggn" else crelle.fisher(case.model, loss, kind="empirical")
    whole = make.at(case.params, case.x, case.y).todense()
    memory = (
        None if part is None else int(make.at(case.params, data=(case.x, case.y), batch_size=SIZE).kept_bytes * part)
    )
    a = make.at(case.params, data=(case.x, case.y), batch_size=SIZE, memory=memory)
    assert a.batches == 50
    assert a.is_symmetric
    np.testing.assert_allclose(np.asarray(a.todense()), np.asarray(whole), rtol=1e-10, atol=1e-10)


def test_the_exact_trace_of_gauss_newton(case):
    data = {"data": (case.x, case.y), "batch_size": 20, "memory": 1}
    a = crelle.ggn(case.model, "mse").at(case.params, **data)
    truth = float(np.trace(np.asarray(crelle.ggn(case.model, "mse").at(case.params, case.x, case.y).todense())))
    np.testing.assert_allclose(float(a.exact_trace()), truth, rtol=1e-10)
    found = a.trace()
    assert found.exact
    np.testing.assert_allclose(found.value, truth, rtol=1e-10)
    assert not hasattr(at(case, data=batches_of(case)[:1]), "exact_trace")


def test_sums_over_samples(case):
    total = lambda p, x, y: case.loss(p, x, y) * len(x)
    a = crelle.hessian(total).at(case.params, data=(case.x, case.y), batch_size=SIZE, reduction="sum")
    truth = dense_hessian(case) * SAMPLES
    np.testing.assert_allclose(np.asarray(a.todense()), truth, rtol=1e-10, atol=1e-10 * abs(truth).max())


def test_the_value_is_that_of_the_whole_set(case):
    truth = float(case.loss(case.params, case.x, case.y))
    np.testing.assert_allclose(float(at(case, 1).value), truth, rtol=1e-12)
    g = crelle.ggn(case.model, "mse").at(case.params, data=(case.x, case.y), batch_size=SIZE)
    whole = crelle.ggn(case.model, "mse").at(case.params, case.x, case.y)
    np.testing.assert_allclose(float(g.value), float(whole.value), rtol=1e-12)


def test_weights_of_batches(case):
    h = crelle.hessian(case.loss)
    batches = batches_of(case)[:2]
    made = over_data(
        lambda batch: h.at(case.params, *batch), batches, what="Hessian", weight=lambda b: 3 - len(b[0]) % 3
    )
    one, two = (np.asarray(h.at(case.params, *batch).todense()) for batch in batches)
    np.testing.assert_allclose(np.asarray(made.todense()), (one + two) / 2, rtol=1e-12, atol=1e-13)
    made = over_data(
        lambda batch: h.at(case.params, *batch), batches, what="Hessian", reduction="sum", weight=lambda b: 2.0
    )
    np.testing.assert_allclose(np.asarray(made.todense()), 2 * (one + two), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("memory", [None, 1])
def test_vectors_in_every_form(case, memory):
    a, truth = at(case, memory), dense_hessian(case)
    block = np.random.default_rng(5).normal(size=(truth.shape[0], 3))
    np.testing.assert_allclose(np.asarray(a @ case.array(block)), truth @ block, rtol=1e-9, atol=1e-10)
    assert tuple((a @ case.array(block[:, :0])).shape) == (truth.shape[0], 0)
    tree = a @ case.params
    assert {key: value.shape for key, value in tree.items()} == {key: v.shape for key, v in case.params.items()}
    flat = np.concatenate([np.asarray(case.params[key]).ravel() for key in case.params])
    found = np.concatenate([np.asarray(tree[key]).ravel() for key in case.params])
    np.testing.assert_allclose(found, truth @ flat, rtol=1e-9, atol=1e-10)


def test_algebra(case):
    a, truth = at(case), dense_hessian(case)
    assert a.T is a
    np.testing.assert_allclose(np.asarray((a + 2 * a).todense()), 3 * truth, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(np.asarray(a.shifted(0.5).todense()), truth + 0.5 * np.eye(24), rtol=1e-9, atol=1e-10)
    names = a.domain.names
    here = next(i for i, name in enumerate(names) if "out" in name)
    start = sum(a.domain.types[i].size for i in range(here))
    part = truth[start : start + 8, start : start + 8]
    np.testing.assert_allclose(np.asarray(a.block("out").todense()), part, rtol=1e-9, atol=1e-10)
    scipy = pytest.importorskip("scipy.sparse.linalg")
    top = scipy.eigsh(a.to_scipy(), k=1, return_eigenvectors=False)
    np.testing.assert_allclose(top, np.linalg.eigvalsh(truth)[np.argmax(abs(np.linalg.eigvalsh(truth)))], rtol=1e-8)


def test_batches_in_every_form(case):
    truth = np.asarray(at(case).todense())
    batches = batches_of(case)
    for data in (
        [list(batch) for batch in batches],
        [{"x": x, "y": y} for x, y in batches],
        Counting(batches),
    ):
        np.testing.assert_allclose(np.asarray(at(case, data=data).todense()), truth, rtol=1e-12, atol=1e-13)
    alone = crelle.hessian(lambda p, x: case.loss(p, x, x[:, :2]))
    whole = np.asarray(alone.at(case.params, case.x).todense())
    for keywords in ({"data": case.x, "batch_size": SIZE}, {"data": [x for x, _ in batches]}):
        found = np.asarray(alone.at(case.params, **keywords).todense())
        np.testing.assert_allclose(found, whole, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("memory", [None, 1])
def test_a_data_loader(memory):
    rng = np.random.default_rng(7)
    case = torch_case(rng.normal(size=(21, 3)), rng.normal(size=(21, 2)), {"w": rng.normal(size=(3, 4)),
                      "b": rng.normal(size=4), "out": rng.normal(size=(4, 2))})  # fmt: skip
    loader = DataLoader(TensorDataset(case.x, case.y), batch_size=5)
    a = crelle.hessian(case.loss).at(case.params, data=loader, memory=memory)
    whole = crelle.hessian(case.loss).at(case.params, case.x, case.y)
    np.testing.assert_allclose(a.todense(), whole.todense(), rtol=1e-10, atol=1e-11)


def test_numpy_functions():
    rng = np.random.default_rng(2)
    x, params = rng.normal(size=(7, 3)), rng.normal(size=3)
    loss = lambda p, x: np.mean(np.tanh(x @ p) ** 2)
    a = crelle.hessian(loss).at(params, data=x, batch_size=2)
    whole = crelle.hessian(loss).at(params, x)
    np.testing.assert_allclose(a.todense(), whole.todense(), rtol=1e-5, atol=1e-7)


# -- Jacobians


@pytest.mark.parametrize("memory", [None, 1], ids=["kept", "anew"])
def test_jacobians_are_stacked(case, memory):
    j = crelle.jacobian(case.model).at(case.params, data=case.x, batch_size=SIZE, memory=memory)
    truth = dense_jacobian(case)
    assert j.shape == truth.shape
    assert j.kept == (50 if memory is None else 0)
    np.testing.assert_allclose(np.asarray(j.todense()), truth, rtol=1e-12, atol=1e-13)
    rng = np.random.default_rng(9)
    v, u = rng.normal(size=24), rng.normal(size=2 * SAMPLES)
    np.testing.assert_allclose(np.asarray(j @ case.array(v)), truth @ v, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.asarray(j.T @ case.array(u)), truth.T @ u, rtol=1e-11, atol=1e-12)
    rows = j @ case.params
    assert tuple(rows.shape) == (SAMPLES, 2)
    gram = j.gram()
    assert gram.tags == {"symmetric", "psd"}
    np.testing.assert_allclose(np.asarray(gram @ case.array(v)), truth.T @ (truth @ v), rtol=1e-11, atol=1e-11)


def test_jacobians_of_several_outputs(case):
    def model(p, x):
        z = case.model(p, x)
        return {"sum": z.sum(1), "z": z}

    j = crelle.jacobian(model).at(case.params, data=case.x, batch_size=SIZE)
    whole = crelle.jacobian(model).at(case.params, case.x)
    np.testing.assert_allclose(np.asarray(j.todense()), np.asarray(whole.todense()), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(np.asarray(j.T.todense()), np.asarray(whole.T.todense()), rtol=1e-12, atol=1e-13)
    assert {key: tuple(value.shape) for key, value in (j @ case.params).items()} == {"sum": (199,), "z": (199, 2)}


def test_a_gram_matrix_goes_through_the_data_once(case):
    data = Counting([(x,) for x, _ in batches_of(case)])
    gram = crelle.jacobian(case.model).at(case.params, data=data, memory=1).gram()
    before = data.passes
    gram @ case.array(np.ones((24, 3)))
    assert data.passes == before + 1


def test_outputs_that_cannot_be_stacked(case):
    says(
        "Jacobian of f over a data set: f returns f64[2] for a batch of 4 samples\n"
        "  expected  outputs with a leading axis of samples, whose rows can be put below each other\n"
        "  try       crelle.hessian, whose batches are summed; or one batch at a time",
        lambda: crelle.jacobian(lambda p, x: case.model(p, x).sum(0)).at(case.params, data=case.x, batch_size=4),
    )


def test_a_batch_with_other_rows(case):
    j = crelle.jacobian(lambda p, x: case.model(p, x)[: max(2, len(x) - 1) if len(x) == 3 else len(x)])
    a = j.at(case.params, data=case.x, batch_size=SIZE)
    says(
        "Jacobian of f over 50 batches: batch 49 yields f64[2,2]\n  expected  f64[3,2], for its 3 samples",
        lambda: a @ case.params,
    )


# -- what is kept


def test_notes_and_repr(case):
    a = at(case)
    assert repr(a) == f"Hessian of f over 50 batches(f64[24×24], {case.name}, cpu, symmetric)"
    assert a.notes == ()
    b = at(case, 1)
    assert b.notes == (
        "0 of 50 batches are kept (0 B), 50 are linearised anew at every product; memory= lets more be kept",
    )
    assert repr(at(case, data=batches_of(case)[:1])).startswith("Hessian of f over 1 batch(")


def test_memory_is_respected(case):
    limit = share(case, 0.3)
    a = at(case, limit)
    assert 0 < a.kept_bytes <= limit
    assert 10 <= a.kept <= 16


def test_a_block_of_vectors_is_one_pass(case):
    data = Counting(batches_of(case))
    a = at(case, 1, data=data)
    before, handed = data.passes, data.handed
    a @ case.array(np.ones((24, 7)))
    assert (data.passes, data.handed) == (before + 1, handed + 50)


def test_kept_batches_are_not_loaded_again(case):
    data = Counting(batches_of(case))
    a = at(case, data=data)
    before = data.passes
    a @ case.params
    assert data.passes == before


def test_few_linearisations_live_at_a_time(case):
    alive, most, h = weakref.WeakSet(), 0, crelle.hessian(case.loss)

    def make(batch):
        nonlocal most
        operator = h.at(case.params, *batch)
        alive.add(operator)
        most = max(most, len(alive))
        return operator

    a = over_data(make, batches_of(case), what="Hessian", memory=1)
    most = 0
    a @ case.params
    assert most == 1
    assert len(alive) == 0


def test_jax_traces_f_once_for_all_batches_of_a_shape():
    rng = np.random.default_rng(0)
    traces = 0

    def loss(p, x):
        nonlocal traces
        traces += 1
        return jnp.mean(jnp.tanh(x @ p) ** 2)

    params, x = jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=(40, 3)))
    a = crelle.hessian(loss).at(params, data=x, batch_size=2, memory=1)
    first = traces
    assert first <= 3
    a @ params
    a @ params
    assert traces == first
    smaller = crelle.hessian(loss).at(params, data=x[:-1], batch_size=2, memory=1)
    assert traces - first <= 6
    before = traces
    smaller @ params
    assert traces <= before + 1


def test_parameters_that_change_in_place_do_not_matter(case):
    if case.name == "jax":
        pytest.skip("arrays of JAX cannot be changed")
    truth = dense_hessian(case)
    a = at(case, share(case, 0.5))
    for value in case.params.values():
        value.zero_()
    np.testing.assert_allclose(a.todense(), truth, rtol=1e-10, atol=1e-10)


def test_gauss_newton_keeps_its_parameters_and_its_program(case):
    calls = 0

    def model(p, x):
        nonlocal calls
        calls += 1
        return case.model(p, x)

    a = crelle.ggn(model, "mse").at(case.params, data=(case.x, case.y), batch_size=SIZE, memory=1)
    truth = np.asarray(a.todense())  # traces the model for the last batch, which is smaller
    if case.name == "jax":
        before = calls
        a @ case.params
        assert calls == before
        return
    for value in case.params.values():
        value.zero_()
    np.testing.assert_allclose(a.todense(), truth, rtol=1e-12)
    net = torch.nn.Linear(3, 2).double()
    a = crelle.ggn(net, "mse").at(data=(case.x, case.y), batch_size=SIZE, memory=1)
    truth = a.todense()
    assert repr(a).startswith("GGN of Linear over 50 batches(")
    net.weight.data.zero_()
    np.testing.assert_allclose(a.todense().detach(), truth.detach(), rtol=1e-12)


@pytest.mark.parametrize("memory", [None, 1])
def test_parameters_of_a_module(memory):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    net = net.double().eval()
    x = torch.randn(11, 3, dtype=torch.float64)
    whole = crelle.jacobian(net, wrt="params").at(x).todense()
    j = crelle.jacobian(net, wrt="params").at(data=x, batch_size=4, memory=memory)
    assert repr(j).startswith("Jacobian of Sequential over 3 batches(")
    with torch.no_grad():
        net[0].weight.zero_()
    np.testing.assert_allclose(j.todense().detach(), whole.detach(), rtol=1e-12, atol=1e-13)


MEMORY = """
    import resource, sys
    import numpy as np
    import crelle
    framework = sys.argv[1]
    if framework == "jax":
        import jax, jax.numpy as np_
        jax.config.update("jax_enable_x64", True)
        array, tanh = np_.asarray, np_.tanh
    else:
        import torch
        array, tanh = torch.as_tensor, torch.tanh

    def loss(w, x):
        for _ in range(4):
            x = tanh(x * w)
        return (x**2).mean()

    class Data:
        def __init__(self, count):
            self.count = count
        def __iter__(self):
            for i in range(self.count):
                yield array(np.random.default_rng(i).normal(size=(250, 2000)))

    def peak(count):
        a = crelle.hessian(loss).at(array(np.ones(2000)), data=Data(count), memory="1MB")
        assert a.kept == 0
        assert np.isfinite(np.asarray(a @ array(np.ones(2000)))).all()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    peak(10)
    first = peak(10)
    print(first, peak(50))
"""


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_memory_does_not_grow_with_the_number_of_batches(framework):
    """40 more batches take 3.6 GB where they are kept."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), framework], capture_output=True, text=True, check=True
    )
    few, many = map(int, run.stdout.split())
    assert many < few + 400


# -- what goes wrong


def test_no_batch(case):
    says(
        "Hessian of f: the data set yields no batch\n"
        "  expected  one batch or more\n"
        "  likely    an iterator that has been gone through already, or a loader that drops its only batch\n"
        "  try       list(...) of what yields them, or a DataLoader; drop_last=False",
        lambda: at(case, data=[]),
    )


def test_a_batch_of_another_shape(case):
    batches = [*batches_of(case)[:3], (case.x[:4, :2], case.y[:4])]
    with pytest.raises(crelle.CrelleValueError) as caught:
        at(case, data=batches)
    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "Hessian of f: batch 3 failed",
        f"  called    (f64[4,2], f64[4,2]) of {case.name}",
        "  expected  a batch like batch 0: (f64[4,3], f64[4,2])",
    ]
    assert lines[3].startswith("  likely    ")
    assert isinstance(caught.value.__cause__, (TypeError, RuntimeError))


def test_a_batch_with_too_few_arguments(case):
    with pytest.raises(
        crelle.CrelleValueError, match="batch 0 failed\n.*\n  likely  TypeError: .* 1 required positional"
    ):
        at(case, data=[(case.x,)])


def test_a_batch_that_is_no_tuple(case):
    with pytest.raises(crelle.CrelleTypeError, match="^Hessian of f: batch 0: a batch is 'x' of type str\n"):
        crelle.hessian(case.loss).at(case.params, data=["x"], reduction="sum")


def test_derivatives_with_respect_to_the_batch(case):
    says(
        "Hessian of f: batch 0: argnums=1 names an argument that comes from the batch\n"
        "  called    {'b': f64[4], 'out': f64[4,2], 'w': f64[3,4]}, f64[4,3], f64[4,2]\n"
        "  expected  one of the first 1, which all batches share\n"
        "  try       f(params, batch), with .at(params, data=...); without data= for one batch",
        lambda: crelle.hessian(case.loss, argnums=1).at(case.params, data=(case.x, case.y), batch_size=SIZE),
    )
    with pytest.raises(crelle.CrelleTypeError, match="expected  the parameters before data="):
        crelle.jacobian(lambda x: x**2).at(data=case.x, batch_size=SIZE)


def test_estimates(case):
    a, truth = at(case, 1), dense_hessian(case)
    values = np.linalg.eigvalsh(truth)
    np.testing.assert_allclose(a.trace().value, np.trace(truth), rtol=1e-9)
    np.testing.assert_allclose(sorted(a.eigsh(2, which="LA").values), values[-2:], rtol=1e-8)


def test_products_inside_transformations_of_jax():
    rng = np.random.default_rng(0)
    x, p = jnp.asarray(rng.normal(size=(23, 5))), jnp.asarray(rng.normal(size=5))
    for memory in (None, 1):
        a = crelle.hessian(lambda p, x: jnp.mean(jnp.tanh(x @ p) ** 2)).at(p, data=x, batch_size=4, memory=memory)
        np.testing.assert_allclose(jax.jit(lambda v, a=a: a @ v)(p), a @ p, rtol=1e-12)
        np.testing.assert_allclose(jax.vmap(lambda v, a=a: a @ v)(jnp.eye(5)), a.todense(), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(jax.grad(lambda v, a=a: v @ (a @ v))(p), 2 * (a @ p), rtol=1e-10)


def test_another_reduction(case):
    says('Hessian of f: reduction=\'none\'\n  expected  "mean" or "sum"', lambda: at(case, reduction="none"))


def test_a_batch_on_another_device():
    w, x = torch.ones(3), torch.ones(2, 3)
    says(
        "Hessian of f: batch 1: an array on meta, and w on cpu\n"
        "  called    f32[3], f32[2,3]\n"
        "  expected  one device\n"
        "  try       move each batch: an iterable whose __iter__ yields tuple(a.to('cpu') for a in batch)",
        lambda: crelle.hessian(lambda w, x: ((x @ w) ** 2).mean()).at(w, data=[x, x.to("meta")]),
    )


def test_the_batch_with_nan_is_named(case):
    batches = batches_of(case)
    batches[7] = (batches[7][0] * np.nan, batches[7][1])
    a = at(case, data=batches)
    says(
        f"Hessian of f over 50 batches(f64[24×24], {case.name}, cpu, symmetric): "
        "the product with batch 7 holds NaN or inf\n"
        "  likely  the loss of this batch, or its derivative, is not finite: log(0), 0/0, sqrt at 0, overflow\n"
        "  try     look at next(itertools.islice(data, 7, None))",
        lambda: a @ case.params,
    )
    j = crelle.jacobian(case.model).at(case.params, data=[(x,) for x, _ in batches])
    for wrong in (lambda: j @ case.params, lambda: j.gram() @ case.params):
        with pytest.raises(crelle.CrelleValueError, match="the product with batch 7 holds NaN"):
            wrong()


def test_nan_in_the_vector_is_no_batchs_fault(case):
    v = case.array(np.full(24, np.nan))
    assert np.isnan(np.asarray(at(case) @ v)).all()


def test_a_loader_that_shuffles():
    x = torch.arange(200.0, dtype=torch.float64)[:, None]
    loss = lambda w, x: ((x * w) ** 2).mean()
    loader = DataLoader(TensorDataset(x), batch_size=20, shuffle=True)
    w = torch.ones(1, dtype=torch.float64)
    says(
        "Hessian of f: the data set yields another first batch when it is gone through again\n"
        "  expected  the same batches at every product\n"
        "  likely    the loader shuffles (RandomSampler)\n"
        "  try       shuffle=False; or list(loader), which holds one order and one augmentation; "
        "check=False to accept it",
        lambda: crelle.hessian(loss).at(w, data=loader),
    )
    truth = crelle.hessian(loss)(w, x)
    for a in (
        crelle.hessian(loss).at(w, data=list(loader)),
        crelle.hessian(loss, check=False).at(w, data=loader, memory=1),
    ):
        np.testing.assert_allclose(a.todense(), truth, rtol=1e-12)


def test_augmentation():
    class Noisy(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return torch.randn(3)

    loader = DataLoader(Noisy(), batch_size=4)
    with pytest.raises(crelle.CrelleValueError, match="likely    shuffling, or random augmentation of samples"):
        crelle.hessian(lambda w, x: ((x @ w) ** 2).mean()).at(torch.ones(3), data=loader)


@pytest.mark.parametrize("layer", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4)], ids=["Dropout", "BatchNorm1d"])
def test_layers_in_train_mode(layer):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), layer, torch.nn.Linear(4, 1))
    params = {key: value.detach() for key, value in net.named_parameters()}
    loss = lambda p, x: (torch.func.functional_call(net, p, (x,)) ** 2).mean()
    x = torch.randn(8, 3)
    name = type(layer).__name__
    with pytest.raises(crelle.CrelleTypeError, match=f"layer 1 is {name} in train mode(.|\n)*module.eval"):
        crelle.hessian(loss).at(params, data=x, batch_size=4)
    net.eval()
    a = crelle.hessian(loss).at(params, data=x, batch_size=4)
    np.testing.assert_allclose(
        a.todense().detach(), crelle.hessian(loss).at(params, x).todense().detach(), rtol=1e-4, atol=1e-5
    )


def test_a_function_that_draws_random_numbers():
    loss = lambda w, x: (torch.nn.functional.dropout(x * w, 0.5) ** 2).mean()
    with pytest.raises(crelle.CrelleValueError) as caught:
        crelle.hessian(loss).at(torch.ones(50), data=torch.ones(8, 50), batch_size=4)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Hessian of f: f is not deterministic: two products with batch 0 differ by ")
    assert lines[1:] == [
        "  expected  the same derivative at the same batch, at every product",
        "  likely    dropout in train mode, or random numbers drawn inside f",
        "  try       model.eval(), or a fixed generator or key; check=False to accept it",
    ]
    accepted = crelle.hessian(loss, check=False).at(torch.ones(50), data=torch.ones(8, 50), batch_size=4)
    assert accepted.batches == 2


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda batches: batches.pop(), "49 batches"),
        (lambda batches: batches.append(batches[0]), "more than 50 batches"),
        (lambda batches: batches.insert(2, tuple(a[:1] for a in batches[2])), "batch 2 with 1 samples"),
    ],
)
def test_data_that_change_between_products(case, change, found):
    batches = batches_of(case)
    a = at(case, 1, data=batches)
    change(batches)
    says(
        "Hessian of f: the data set has changed since the operator was made\n"
        f"  called    now {found}\n"
        "  expected  50 batches, batch 0 with 4 samples\n"
        "  likely    an iterator that can be gone through only once, or a loader that draws samples anew\n"
        "  try       list(...) of what yields the batches",
        lambda: a @ case.params,
    )


def test_an_interrupted_pass_leaves_the_operator_usable(case):
    class Interrupted(Counting):
        at = -1

        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                if i == self.at:
                    raise KeyboardInterrupt
                yield batch

    data = Interrupted(batches_of(case))
    a = at(case, 1, data=data)
    data.at = 20
    with pytest.raises(KeyboardInterrupt):
        a @ case.params
    data.at = -1
    np.testing.assert_allclose(np.asarray(a.todense()), dense_hessian(case), rtol=1e-9, atol=1e-10)


def test_an_interrupted_estimate_is_what_was_known_by_then():
    class Interrupted:
        passes, last = 0, 10**9

        def __iter__(self):
            self.passes += 1
            for i in range(0, 40, 4):
                if self.passes > self.last and i:
                    raise KeyboardInterrupt
                yield (x[i : i + 4],)

    x = torch.randn(40, 300, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    loss = lambda p, x: torch.log(torch.cosh(x @ p)).mean()
    p, data = torch.linspace(-0.1, 0.1, 300, dtype=torch.float64), Interrupted()
    hessian = crelle.hessian(loss).at(p, data=data, memory=1)
    data.passes, data.last = 0, 20
    pairs = hessian.eigsh(2, rtol=1e-9)
    assert pairs.partial and pairs.products == 19  # and one pass for the symmetry
    truth = torch.linalg.eigvalsh(torch.func.hessian(loss)(p, x)).flip(0)[:2].numpy()
    assert (np.abs(pairs.values - truth) <= pairs.residuals + 1e-9).all()
    data.passes, data.last = 0, 50
    density = hessian.spectral_density(5, 20)
    assert density.partial and density.probes == 2


def test_progress_of_a_long_pass(case, monkeypatch, capsys):
    monkeypatch.setattr("crelle.estimators._progress.DELAY", -1.0)
    a = at(case, 1)
    capsys.readouterr()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    a @ case.params
    assert "Hessian of f: batches  17 of 50, about" in capsys.readouterr().err


# -- keywords


def test_keywords_belong_to_f_where_there_are_no_data(case):
    def loss(p, x, y, reduction="mean", memory=1.0):
        return case.loss(p, x, y) * (len(x) if reduction == "sum" else 1) * memory

    h = crelle.hessian(loss)
    found = h.at(case.params, case.x, case.y, reduction="sum", memory=2.0).todense()
    truth = dense_hessian(case) * SAMPLES * 2
    np.testing.assert_allclose(np.asarray(found), truth, rtol=1e-9, atol=1e-9 * abs(truth).max())
    shared = h.at(case.params, y=case.y[:4], data=[case.x[:4], case.x[4:8]])
    both = [np.asarray(h.at(case.params, case.x[i : i + 4], case.y[:4]).todense()) for i in (0, 4)]
    np.testing.assert_allclose(np.asarray(shared.todense()), sum(both) / 2, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", [crelle.gradient])
def test_gradients_are_no_operators(case, kind):
    with pytest.raises(crelle.CrelleTypeError, match="an operator stands for a whole matrix"):
        kind(case.loss).at(case.params, data=(case.x, case.y), batch_size=SIZE)
