"""Rank bounds: never below the rank of random matrices on the program, narrow where the program is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

import crelle
from crelle._arrays import ArrayType
from crelle.tangent import cut
from crelle.tangent.cut import rank_bound
from crelle.tangent.program import Add, Gather, Mix, Opaque, Scale, TangentProgram
from tests.tangent.reference import each_column, programs


def network(sizes: dict[str, int], maps: list[tuple[str, str]], inputs: str, outputs: str) -> TangentProgram:
    """Values named by letters, and maps between them that may do anything."""
    program = TangentProgram()
    ids = {name: program.value(ArrayType("float64", (size,))) for name, size in sizes.items()}
    program.inputs = [ids[i] for i in inputs]
    program.outputs = [ids[o] for o in outputs]
    program.output_types = [program.types[i] for i in program.outputs]
    for operands, results in maps:
        program.maps.append(
            Opaque(
                name="any", operands=tuple(ids[o] for o in operands), results=tuple(ids[r] for r in results)
            )
        )  # fmt: skip
    return program


CASES = {
    "a neck": ({"x": 9, "h": 2, "y": 7}, [("x", "h"), ("h", "y")], "x", "y", 2),
    "two necks": ({"x": 9, "a": 2, "b": 3, "y": 8}, [("x", "a"), ("x", "b"), ("ab", "y")], "x", "y", 5),
    "past the neck": ({"x": 9, "h": 2, "y": 7}, [("x", "h"), ("hx", "y")], "x", "y", 7),
    "a narrow input": ({"x": 1, "z": 9, "y": 8}, [("xz", "y")], "xz", "y", 8),
    "narrow inputs": ({"x": 1, "z": 2, "y": 8}, [("xz", "y")], "xz", "y", 3),
    "one value to two outputs": ({"x": 9, "h": 3, "y": 7, "z": 7}, [("x", "h"), ("h", "yz")], "x", "yz", 3),
    "an input as an output": ({"x": 4}, [], "x", "x", 4),
    "the same output twice": ({"x": 4}, [], "x", "xx", 4),
    "no path": ({"x": 4, "y": 3}, [], "x", "y", 0),
    "a narrow place in the middle of a net": (
        {"x": 9, "a": 4, "b": 4, "c": 1, "d": 6, "y": 9}, [("x", "ab"), ("ab", "c"), ("c", "d"), ("d", "y")],
        "x", "y", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_narrowest_cut(name):
    sizes, maps, inputs, outputs, bound = CASES[name]
    assert rank_bound(network(sizes, maps, inputs, outputs)) == bound


def test_nothing_to_cut():
    assert rank_bound(TangentProgram()) == 0
    assert rank_bound(network({"x": 0, "y": 3}, [("x", "y")], "x", "y")) == 0


def test_long_programs_are_not_searched(monkeypatch):
    sizes, maps, inputs, outputs, _ = CASES["a neck"]
    monkeypatch.setattr(cut, "_MAX_MAPS", 1)
    assert rank_bound(network(sizes, maps, inputs, outputs)) == 7


def numbers(program: TangentProgram, rng: np.random.Generator) -> np.ndarray:
    """The matrix of a program without loops and branches, with random coefficients."""
    columns, values, start = program.columns, {}, 0
    for i in program.inputs:
        size = program.types[i].size
        own = np.eye(columns)[start : start + size]
        values[i] = own.reshape(*program.types[i].shape, columns)
        start += size
    for m in program.maps:
        given = [None if v is None else values[v] for v in m.operands]
        if isinstance(m, Gather):
            zeros = [np.zeros((*s, columns)) for s in m.shapes]
            found = each_column(
                m.move, [z if o is None else o for o, z in zip(given, zeros or given, strict=True)], columns
            )
        elif isinstance(m, Scale):
            keep = np.ones(()) if m.keep is None else m.keep
            found = [given[0] * (keep * rng.normal(size=given[0].shape[:-1]))[..., None]]
        elif isinstance(m, Add):
            found = [sum(given)]
        elif isinstance(m, Mix):
            length = each_column(m.into, given, columns)[0].shape[0]
            if m.pattern is None:  # the same row for all
                matrix = rng.normal(size=(1, length))
            else:
                indptr, indices = m.pattern
                matrix = np.zeros((len(indptr) - 1, length))
                matrix[np.repeat(np.arange(len(matrix)), np.diff(indptr)), indices] = rng.normal(size=len(indices))
            found = each_column(lambda a, m=m, c=matrix: m.out(c @ m.into(a)), given, columns)
        else:
            some = [o.reshape(-1, columns) for o in given if o is not None and o.size]
            read = np.concatenate([np.zeros((0, columns)), *some])
            shapes = [program.types[r].shape for r in m.results]
            found = [np.einsum("...k,kc->...c", rng.normal(size=(*s, len(read))), read) for s in shapes]
        values.update((r, f) for r, f in zip(m.results, found, strict=True) if r is not None)
    outs = [
        np.zeros((t.size, columns)) if v is None else values[v].reshape(t.size, columns)
        for v, t in zip(program.outputs, program.output_types, strict=True)
    ]
    return np.concatenate([np.zeros((0, columns)), *outs])


@given(programs(depth=0), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_never_below_the_rank(program, seed):
    matrix = numbers(program, np.random.default_rng(seed))
    rank = np.linalg.matrix_rank(matrix) if matrix.size else 0
    assert rank <= rank_bound(program) <= min(matrix.shape)


OF_JAX = {
    "a convolution": lambda x: lax.conv(x.reshape(1, 3, 2, 2), KERNEL, (1, 1), "SAME"),
    "sorting": jnp.sort,
    "an index that depends on x": lambda x: x[jnp.argsort(x)],
    "a real transform": lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.arange(1, 8)),
    "a running sum": lambda x: jnp.cumsum(x) * x,
    "a solve": lambda x: jnp.linalg.solve(jnp.eye(3) + 0.1 * x[:9].reshape(3, 3), x[9:]),
    "a neck within jit": lambda x: jax.jit(lambda x: jnp.outer(x[:6], jnp.ones(9)) * jnp.sum(x))(x),
}
KERNEL = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3, 2, 2)))
OF_TORCH = {
    "a convolution": lambda x: torch.conv2d(x.reshape(1, 3, 2, 2), torch.from_numpy(np.array(KERNEL)), padding=1),
    "sorting": lambda x: torch.sort(x)[0],
    "an index that depends on x": lambda x: x[torch.argsort(x)],
    "a real transform": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.arange(1, 8)),
    "a running sum": lambda x: torch.cumsum(x, 0) * x,
    "a mean over groups": lambda x: x.reshape(3, 4).mean(1, keepdim=True).expand(3, 4),
}


@pytest.mark.parametrize("name", OF_JAX)
def test_the_bound_holds_for_functions_of_jax(name):
    x = jnp.asarray(np.random.default_rng(1).standard_normal(12))
    J = crelle.jacobian(OF_JAX[name], flatten=True)
    assert np.linalg.matrix_rank(np.asarray(J(x))) <= rank_bound(J.program(x))


@pytest.mark.parametrize("name", OF_TORCH)
def test_the_bound_holds_for_functions_of_torch(name):
    x = torch.from_numpy(np.random.default_rng(1).standard_normal(12))
    J = crelle.jacobian(OF_TORCH[name], flatten=True)
    assert np.linalg.matrix_rank(J(x).numpy()) <= rank_bound(J.program(x))


def test_necks_between_operations_are_found():
    x = jnp.ones(12)
    assert rank_bound(crelle.jacobian(lambda x: jnp.sum(x) * jnp.ones(5)).program(x)) == 1
    assert rank_bound(crelle.jacobian(lambda x: jnp.ones((9, 2)) @ (jnp.ones((2, 12)) @ x)).program(x)) == 2
    assert rank_bound(crelle.jacobian(lambda x: x.mean() * torch.ones(5)).program(torch.ones(12))) == 1
