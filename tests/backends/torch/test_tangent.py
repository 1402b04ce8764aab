"""Patterns of PyTorch functions: batches, layers, directions, values, and what is said where they end."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import crelle

F64 = torch.float64


def nonzero(f, x, points=4):
    """Where the dense Jacobian is not zero, at several points."""
    found = None
    for seed in range(points):
        at = torch.rand(x.shape, dtype=F64, generator=torch.Generator().manual_seed(seed)) + 0.1
        J = torch.autograd.functional.jacobian(f, at)
        here = J.reshape(-1, x.numel()).numpy() != 0
        found = here if found is None else found | here
    return found


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).double().eval()


BATCHED = {
    "mlp": (network(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), (5, 4)),
    "layer norm": (network(nn.LayerNorm(4)), (5, 4)),
    "group norm": (network(nn.GroupNorm(2, 4)), (5, 4, 3)),
    "batch norm": (network(nn.BatchNorm1d(4)), (5, 4)),
    "softmax": (network(nn.Linear(4, 3), nn.Softmax(-1)), (5, 4)),
    "convolution": (network(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)), (5, 2, 6)),
    "transformer": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval(), (3, 5, 4)),
}


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("around", ["plain", "flattened", "turned"])
def test_batches_are_found_in_networks(name, around):
    model, shape = BATCHED[name]
    batch = shape[0]

    def f(x):
        if around == "flattened":
            return model(x.reshape(shape)).reshape(-1)
        if around == "turned":
            return model(x.movedim(-1, 0)).movedim(0, -1)
        return model(x)

    given = (int(np.prod(shape)),) if around == "flattened" else shape[1:] + shape[:1] if around == "turned" else shape
    x = torch.rand(given, dtype=F64)
    structure = crelle.jacobian(f).structure(x)
    assert len(structure.blocks) % batch == 0, str(structure)  # finer where channels or groups are apart, too
    if around != "flattened":
        assert any(b.size == batch and b.complete for b in structure.batch_axes), str(structure)
    dense = crelle.jacobian(f).pattern(x).to_dense()
    assert not (nonzero(f, x, 2) & ~dense).any()


def test_lstm():
    torch.manual_seed(0)
    model = nn.LSTM(3, 4, batch_first=True).double()
    f = lambda x: model(x)[0]
    x = torch.rand((2, 3, 3), dtype=F64)
    pattern = crelle.jacobian(f).pattern(x).to_dense().reshape(2, 3, 4, 2, 3, 3)
    assert not (nonzero(f, x, 2).reshape(pattern.shape) & ~pattern).any()
    assert not pattern[0, :, :, 1].any()  # samples apart
    assert not pattern[:, 0, :, :, 1:].any()  # the future is not seen


def test_the_vjp_is_read_where_there_is_no_jvp():
    class Square(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return 2 * ctx.saved_tensors[0] * g

    f = lambda x: Square.apply(x)[1:] * x[:-1]
    x = torch.rand(6, dtype=F64)
    program = crelle.jacobian(f).program(x)
    assert program.transposed
    assert np.array_equal(crelle.jacobian(f).pattern(x).to_dense(), nonzero(f, x))


def test_shapes_are_enough():
    f = lambda x: torch.sin(x[1:]) * x[:-1]
    expected = crelle.jacobian(f).pattern(torch.rand(6))
    assert crelle.jacobian(f).pattern(torch.empty(6, device="meta")) == expected
    with FakeTensorMode():
        fake = torch.empty(6)
    assert crelle.jacobian(f).pattern(fake) == expected


def test_local_patterns_hold_at_one_point():
    x = torch.tensor([-1.0, 2.0, -3.0, 4.0], dtype=F64)
    J = crelle.jacobian(lambda x: torch.relu(x) * x.gather(0, x.argmax().reshape(1)))
    assert J.pattern(x, local=True).nnz == 3
    assert J.pattern(x).nnz == 16
    with pytest.raises(crelle.CrelleTypeError, match="local=True reads the values"):
        J.pattern(torch.empty(4, device="meta"), local=True)


def test_arguments_that_are_not_differentiated_are_a_class_of_their_own():
    structure = crelle.jacobian(lambda x, c: c * x + 3 * x.roll(1)).structure(torch.rand(4), torch.rand(4))
    assert (structure.constant_share, structure.passive_share) == (0.5, 0.5)
    assert structure.linear
    assert not structure.constant


def test_constants_are_evaluated_and_changes_are_seen():
    mask = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    J = crelle.jacobian(lambda x: mask * x**2)
    assert J.pattern(torch.rand(3, dtype=F64)).nnz == 2
    mask[1] = 2.0
    assert J.pattern(torch.rand(3, dtype=F64)).nnz == 3


def test_hessians_and_modules():
    H = crelle.hessian(lambda x: ((x[1:] - x[:-1] ** 2) ** 2).sum())
    assert H.structure(torch.rand(8)).bandwidths == (1, 1)
    model = network(nn.Linear(3, 2))
    pattern = crelle.jacobian(model, wrt="params").pattern(torch.rand(3, dtype=F64))
    assert pattern.shape == (2, 8)
    assert pattern.nnz == 2 * 3 + 2


def test_an_unknown_operation_is_named():
    torch.library.define("crelle_test::mystery", "(Tensor x) -> Tensor", tags=())
    library = torch.library.Library("crelle_test", "FRAGMENT")
    library.impl("mystery", lambda x: x.flip(0) * 2, "CompositeExplicitAutograd")
    torch.library.register_autograd(
        "crelle_test::mystery",
        lambda ctx, g: torch.ops.crelle_test.mystery(g),
        setup_context=lambda ctx, inputs, output: None,
    )
    small = crelle.jacobian(lambda x: torch.ops.crelle_test.mystery(x))
    assert small.pattern(torch.rand(5)).nnz == 5  # small enough to be tried
    large = small.program(torch.rand(300))
    assert large.notes == [
        "crelle_test.mystery: no rule, and too large to be probed; every output is taken to depend on all of its input"
    ]
    assert small.pattern(torch.rand(300)).nnz == 300**2
    crelle.register_linear_rule(
        torch.ops.crelle_test.mystery.default, lambda operands, shapes, params: [np.eye(shapes[0][0])[::-1]]
    )
    assert small.pattern(torch.rand(300)).nnz == 300


def test_control_flow_on_values_is_refused_by_name():
    with pytest.raises(crelle.CrelleTypeError, match="f cannot be recorded") as caught:
        crelle.jacobian(lambda x: x if x.sum() > 0 else -x).pattern(torch.rand(3))
    assert "reads the value of a tensor in Python" in str(caught.value)
