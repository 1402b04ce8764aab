"""The PyTorch backend: the functions that ``_protocol.Backend`` asks for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # private, but what torch.func itself takes its trees by

from crelle._arrays import ArrayType
from crelle._reorder import Reorder
from crelle._request import Request
from crelle.backends._host import free_host_memory
from crelle.backends._protocol import Adapted, Call, Compressed
from crelle.backends.torch import modules
from crelle.backends.torch.run import permuted, type_of
from crelle.backends.torch.trace import TorchTrace
from crelle.backends.torch.watch import is_tracing
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import Rates
from crelle.tangent.program import TangentProgram


class TorchBackend:
    """PyTorch tensors and modules."""

    name = "torch"

    @property
    def version(self) -> str:
        """Version of PyTorch, without the build."""
        return torch.__version__.split("+")[0]

    def is_array(self, leaf: Any) -> bool:
        """Tensors; and modules, whose parameters are tensors."""
        return isinstance(leaf, (Tensor, nn.Module))

    def flatten(self, tree: Any) -> tuple[list[Any], Any]:
        """By PyTorch's pytree rules."""
        if isinstance(tree, Tensor):
            return [tree], _LEAF
        return pytree.tree_flatten(tree)

    def unflatten(self, tree_def: Any, leaves: Sequence[Any]) -> Any:
        """By PyTorch's pytree rules."""
        return pytree.tree_unflatten(list(leaves), tree_def)

    def paths(self, tree: Any) -> list[str]:
        """``['w'][0]`` for each leaf."""
        return [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]

    def array_type(self, leaf: Any) -> ArrayType:
        """Type of a tensor."""
        if isinstance(leaf, Tensor):
            return type_of(leaf)
        raise TypeError(type(leaf).__name__)

    def static_key(self, leaf: Any) -> Hashable:
        """Shape, dtype, device, strides and class of tensors; the value of anything else."""
        if isinstance(leaf, Tensor):
            return leaf.shape, leaf.dtype, leaf.device, _strides(leaf), type(leaf) is Tensor
        try:
            hash(leaf)
        except TypeError:
            return id(leaf)
        return type(leaf), leaf

    def is_abstract(self, leaves: Sequence[Any]) -> bool:
        """Whether a torch.func transform, a compiler or a fake-tensor trace is running."""
        if torch._C._functorch.maybe_current_level() is not None or is_tracing() or torch.compiler.is_compiling():
            return True
        return any(type(leaf).__name__ == "FakeTensor" or getattr(leaf, "is_meta", False) for leaf in leaves)

    def adapt(self, f: Callable[..., Any], args: tuple[Any, ...], request: Request) -> Adapted | None:
        """Make a module a plain function."""
        return modules.adapt(f, args, request)

    def ambient(self) -> Hashable:
        """Global settings that a trace depends on."""
        return (
            torch.get_default_dtype(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
            torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        )

    def trace(self, call: Call) -> TorchTrace:
        """Trace to a kept graph; eager where f cannot be traced."""
        return TorchTrace(call)

    def eager(self, call: Call, reason: str) -> TorchTrace:
        """Run f anew each time."""
        return TorchTrace(call, eager=reason)

    def tangent_program(self, call: Call, known: bool = False) -> TangentProgram:
        """The derivative of f as linear maps."""
        from crelle.backends.torch.linear import tangent_program

        return tangent_program(call, known)

    def compressed(self, call: Call, given: SparsityPattern | None) -> Compressed:
        """Coloured seeds through one recorded linearisation."""
        from crelle.backends.torch.compressed import TorchCompressed

        return TorchCompressed(call, given)

    def sparse(self, pattern: SparsityPattern) -> Callable[[Any], Any]:
        """Makes sparse CSR tensors. They share their indices."""
        indptr, indices = (torch.from_numpy(np.array(a)) for a in (pattern.indptr, pattern.indices))

        def make(data: Any) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
                return torch.sparse_csr_tensor(
                    indptr.to(data.device), indices.to(data.device), data, size=pattern.shape, check_invariants=False
                )

        return make

    def placer(self, place: Any) -> Callable[[Any], Any]:
        """Makes ``data[place]``, zero where place is -1; by reshapes where they are enough."""
        if (reorder := Reorder.of(place)) is not None:
            return lambda data: permuted(reorder, data).reshape(place.shape)
        where = torch.from_numpy(np.array(place, np.int64))
        known, inside = where.clamp(min=0), where >= 0
        full = bool(inside.all())

        def make(data: Any) -> Any:
            if not data.numel():
                return data.new_zeros(where.shape)
            found = data[known.to(data.device)]
            return found if full else torch.where(inside.to(data.device), found, data.new_zeros(()))

        return make

    def array_like(self, leaf: Any, values: Any) -> Any:
        """A tensor with the dtype and device of a leaf."""
        return torch.as_tensor(values, dtype=leaf.dtype, device=leaf.device)

    def to_host(self, leaf: Any) -> Any:
        """The values as a NumPy array; NumPy has no bfloat16."""
        values = leaf.detach().cpu().resolve_conj().resolve_neg()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()

    def rates(self, device: str) -> Rates:
        """Orders of magnitude per kind of device: eager dispatch dominates small problems."""
        if device.startswith("cpu"):
            return Rates(matmul=3e10, elementwise=1e9, bandwidth=8e9, launch=3e-6, call=2e-5)
        return Rates(matmul=2e13, elementwise=1e12, bandwidth=1e12, launch=8e-6, call=3e-5)

    def available_memory(self, device: str) -> int | None:
        """What the device reports, or the free memory of the host."""
        if device.startswith("cuda"):
            return int(torch.cuda.mem_get_info(torch.device(device))[0])
        return free_host_memory()

    def block_until_ready(self, answer: Any) -> None:
        """Wait for the device of the first tensor."""
        for leaf in pytree.tree_leaves(answer):
            if isinstance(leaf, Tensor) and leaf.device.type == "cuda":
                torch.cuda.synchronize(leaf.device)
                return


def _strides(tensor: Tensor) -> Any:
    return None if tensor.layout is not torch.strided else tensor.stride()


_LEAF = pytree.tree_structure(0)
BACKEND = TorchBackend()
