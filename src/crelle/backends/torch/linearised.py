"""f linearised once in PyTorch: the graph of its gradient, or of its reverse pass, is kept, and run for each product.

The graph ends in copies of the inputs that nobody else holds: it is freed with the object, and an optimiser may change
parameters in place while the object is in use.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from crelle._arrays import ArrayType, total_size, types_text
from crelle._errors import CrelleCheckError, CrelleTypeError, CrelleValueError, describe
from crelle._prepare import Space as Kept
from crelle.backends._protocol import Call
from crelle.backends.torch import operator_graph, run
from crelle.backends.torch.flat import FlatFunction, verify_complex
from crelle.backends.torch.operator_blocks import Blocks, at_once
from crelle.backends.torch.operator_record import recorded
from crelle.backends.torch.operator_replay import Changed, Replay
from crelle.backends.torch.run import dtype_of, type_of
from crelle.backends.torch.vectors import cut, join
from crelle.operators._spaces import common_dtype

Leaves = list[Tensor]

PLAIN_NOTE = "attention runs on its plain kernel: the fused one lacks the second derivative"
SLOW_NOTE = "layers run on plain kernels: fused ones lack the second derivative"

#: Relative difference of ⟨u, Jv⟩ and ⟨Jᵀu, v⟩ that rounding explains; of two values of f on different kernels.
_ROUNDING = {"float64": 1e-6, "complex128": 1e-6, "float32": 1e-2, "complex64": 1e-2}


class TorchLinearised:
    """See :class:`crelle.operators._linearised.Linearised`."""

    def __init__(self, call: Call) -> None:
        self.text = call.text
        self.notes: tuple[str, ...] = ()
        self._values: Leaves = []
        if call.abstract:
            raise _inside(call)
        self._hessian, self.inputs = call.request.kind == "hessian", call.inputs
        self._recording = torch.is_grad_enabled()
        self._flat: FlatFunction | None = FlatFunction(call)
        self._take(self._flat)
        self._evaluate()
        result = self._flat.layout.result
        assert result is not None
        self.value = pytree.tree_unflatten([v.detach() for v in self._values], result.out_tree)
        self._made = tuple(map(type_of, self._values))
        verify_complex(call.request, call.text, call.inputs, call.names, self._made)
        if any(t.is_complex for t in call.inputs) and not any(t.is_complex for t in self._made):
            raise _real_of_complex(call)
        self.outputs = call.inputs if self._hessian else self._made
        self._types = self.inputs, self.outputs
        self._doubled = any(t.is_complex for t in self.outputs) and not any(t.is_complex for t in self.inputs)
        if self._doubled:  # a complex matrix multiplies complex vectors
            self.inputs, self.outputs = (tuple(map(_complex, types)) for types in self._types)
        self.out_tree = call.in_tree if self._hessian else result.out_tree
        self._blocks = {False: Blocks(), True: Blocks()}
        self._captured: Leaves | None = None
        allowed = not operator_graph.user_rules(self._values)  # a rule may leave PyTorch, and would become a constant
        self._replays = {False: Replay(allowed), True: Replay(allowed)}
        if self._hessian:
            self._pull_once()
            self._flat, self._values = None, []  # nothing else is needed of them

    # -- what users of the protocol ask for

    @property
    def kept_bytes(self) -> int:
        """What the graph and the copies of the inputs hold; an operator over a data set keeps as many as fit."""
        leaves = (*self._active, *self._passive)
        saved = operator_graph.saved_bytes([*self._values, *self._pulled], leaves)
        return saved + sum(leaf.nbytes for leaf in (self._passive if self._shared else leaves))

    def push(self, block: Tensor) -> Tensor:
        """v ↦ J v, row by row: the derivative of u ↦ Jᵀu, which is linear in u."""
        return recorded(self, block, transposed=False)

    def pull(self, block: Tensor) -> Tensor:
        """u ↦ Jᵀ u, row by row."""
        return recorded(self, block, transposed=not self._hessian)

    # -- what a recorded product asks for

    def rows(self, block: Tensor, transposed: bool) -> Tensor:
        """The products, unrecorded."""
        transposed = transposed and not self._hessian
        (_, first), *rest = self._parts(block.detach(), transposed)
        found = self._rows(first, transposed)
        for factor, part in rest:
            found = found + factor * self._rows(part, transposed)
        return found

    def _parts(self, block: Tensor, transposed: bool) -> list[tuple[complex, Tensor]]:
        """Blocks b and factors c so that Σ c P(b) is the product: autograd gives the real part only for real inputs."""
        if not self._doubled:
            return [(1, block)]
        return [(1, block), (1j, -1j * block)] if transposed else [(1, block.real), (1j, block.imag)]

    def _rows(self, block: Tensor, transposed: bool) -> Tensor:
        given, made = self._types[::-1] if transposed else self._types
        dtype, size = common_dtype(made), total_size(made)
        if not len(block):
            return torch.zeros(0, size, dtype=dtype_of(dtype), device=block.device)
        if not transposed:
            self._pull_once()

        def one(rows: Tensor) -> Tensor:
            rows = rows.contiguous()
            leaves = [leaf[0] for leaf in _cut(rows, given)]
            found = self._replays[transposed](leaves, lambda leaves: self._product(leaves, transposed))
            joined = join([leaf[None] for leaf in found], dtype).contiguous()
            # the derivative of x is what was given: callers may write to a result
            return (
                joined.clone() if joined.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr() else joined
            )

        def many(rows: Tensor) -> Tensor:
            return join(self._product(_cut(rows.contiguous(), given), transposed, batched=True), dtype)

        blocks = self._blocks[transposed]
        with torch.no_grad(), self._explained():
            found = blocks.run(block, size, dtype_of(dtype), one, many, lambda: self._room(transposed))
        if blocks.note and blocks.note not in self.notes:
            self.notes = (*self.notes, blocks.note)
        return found

    def sources(self) -> Leaves:
        """The user's tensors that require gradients and that the derivative may depend on."""
        if not self._recording:
            return []
        return [*(given for given, _ in self._tied), *self._found()]

    def slopes(self, block: Tensor, transposed: bool, cotangent: Tensor) -> list[Tensor | None]:
        """Derivatives of Re ⟨cotangent, products⟩ with respect to the sources: by the graph, once more."""
        transposed = transposed and not self._hessian
        given, made = self._types[::-1] if transposed else self._types
        sources = [*(ours for _, ours in self._tied), *self._found()]
        totals: list[Tensor | None] = [None] * len(sources)
        self._pull_once()
        for factor, part in self._parts(block.detach(), transposed):
            slopes = cotangent.detach() * (factor.conjugate() if factor != 1 else 1)
            for row, slope in zip(part, slopes, strict=True):
                leaves = [leaf[0] for leaf in _cut(row[None].contiguous(), given)]
                along = [leaf[0] for leaf in _cut(slope[None].contiguous(), made)]
                with torch.enable_grad(), self._explained():
                    products = self._product(leaves, transposed, create=True)
                    found = _grad(products, sources, along)
                totals = [f if t is None else t + f for t, f in zip(totals, found, strict=True)]
        return totals

    # -- the graph

    def _take(self, flat: FlatFunction) -> None:
        """Copies of the differentiated inputs, and what else the graph is made of."""
        dynamic, count = flat.dynamic, flat.active
        with torch.inference_mode(False):
            plain = run.plain_leaves(dynamic)
            self._shared = flat.call.frozen
            self._active = [(leaf if self._shared else leaf.clone()).requires_grad_() for leaf in plain[:count]]
            self._passive = plain[count:]
            if self._recording:
                self._passive = [
                    leaf.requires_grad_() if given.requires_grad else leaf
                    for leaf, given in zip(self._passive, dynamic[count:], strict=True)
                ]
        ours = (*self._active, *self._passive)
        self._tied = [(theirs, mine) for theirs, mine in zip(dynamic, ours, strict=True) if theirs.requires_grad]
        self._versions = [leaf._version for leaf in self._passive]

    @torch.inference_mode(False)
    def _evaluate(self, kernels: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext) -> None:
        assert self._flat is not None
        self._pulled: Leaves = []
        self._seeds: Leaves = []
        with torch.enable_grad(), kernels(), _not_compiled():
            self._values, _ = self._flat(*self._active, *self._passive)

    @torch.inference_mode(False)
    def _pull_once(self) -> None:
        """u ↦ Jᵀu as a graph that can be differentiated: at 1 for a gradient, in u for J itself."""
        if self._pulled:
            return
        with torch.enable_grad(), self._explained():
            # the seeds require grad for a gradient, too: a rule without a second derivative says so only then
            self._seeds = [torch.ones_like(v).requires_grad_() for v in self._values]
            self._pulled = _grad(self._values, self._active, self._seeds, create=True)
        if operator_graph.is_once_differentiable(self._pulled):
            self._pulled, named = [], ", ".join(operator_graph.user_rules(self._values))
            raise self._missing(f"the backward of {named} is marked as once_differentiable")
        if operator_graph.lacks_derivative(self._pulled):
            self._plain_kernels()
        elif not self._hessian and (rules := operator_graph.user_rules(self._values)):
            self._verify_adjoint(rules)

    def _plain_kernels(self) -> None:
        """f once more, on kernels that have all derivatives: those of attention, or of all layers."""
        kept, used = self._values, self.notes
        ways = ((PLAIN_NOTE, lambda: sdpa_kernel(SDPBackend.MATH)), (SLOW_NOTE, run.plain_kernels))
        for note, kernels in ways:
            if note in self.notes:
                continue
            self._evaluate(kernels)
            self._verify_same(kept)
            self._seeds = [torch.ones_like(v).requires_grad_() for v in self._values]
            with torch.enable_grad(), self._explained():
                self._pulled = _grad(self._values, self._active, self._seeds, create=True)
            if not operator_graph.lacks_derivative(self._pulled):
                self.notes = (*used, note)
                self._captured = None
                return

    def _product(self, leaves: Leaves, transposed: bool, *, batched: bool = False, create: bool = False) -> Leaves:
        """One product; PyTorch's conjugates are undone, so that J v and Jᵀu come out, without any."""
        options = {"batched": batched, "create": create}
        if transposed:
            found = _grad(self._values, self._active, [_conj(leaf) for leaf in leaves], **options)
            return [_conj(leaf) for leaf in found]
        if self._hessian:
            return [_conj(leaf) for leaf in _grad(self._pulled, self._active, leaves, **options)]
        return _grad(self._pulled, self._seeds, leaves, **options)

    def _room(self, transposed: bool) -> int:
        heads = self._values if transposed else self._pulled
        saved = operator_graph.saved_bytes(heads, (*self._active, *self._passive))
        vectors = sum(t.nbytes for types in self._types for t in types)
        return at_once(saved + vectors, self._active[0].device)

    def _found(self) -> Leaves:
        """Tensors that f captures, and that require grad."""
        if self._captured is None:
            ours = {id(leaf) for leaf in (*self._active, *self._passive, *self._seeds)}
            heads = self._pulled if self._hessian else self._values
            self._captured = [leaf for leaf in operator_graph.leaves(heads) if id(leaf) not in ours]
        return self._captured

    # -- what can go wrong

    def _verify_adjoint(self, rules: Sequence[str]) -> None:
        """⟨u, Jv⟩ = ⟨Jᵀu, v⟩ where a user's own rule takes part: one that is not differentiable in u gives zeros."""
        generator = torch.Generator().manual_seed(1857)

        def draw(types: Sequence[ArrayType]) -> Leaves:
            return [
                torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype_of(t.dtype)).to(t.device)
                for t in types
            ]

        u, v = draw(self._made), draw(self._types[0])
        with torch.no_grad(), self._explained():
            left = _dot(u, self._product(v, transposed=False))
            right = _dot(self._product(u, transposed=True), v)
        allowed = max(_ROUNDING.get(t.dtype, 0.3) for t in (*self._made, *self._types[0]))
        if abs(left - right) > allowed * max(abs(left), abs(right)):
            raise CrelleCheckError(
                describe(
                    f"{self.text}: products with J and with Jᵀ do not belong to one matrix",
                    called=f"⟨u, Jv⟩ = {left:.6g} and ⟨Jᵀu, v⟩ = {right:.6g}, for random u and v",
                    likely=f"the backward of {', '.join(rules)} is not made of differentiable operations: it detaches, "
                    "or leaves PyTorch",
                    try_="A.T @ u, which needs that backward alone; or write it with PyTorch's operations",
                )
            )

    def _verify_same(self, kept: Leaves) -> None:
        """f is evaluated anew: it must still be the f that was asked about."""
        changed = [leaf._version for leaf in self._passive] != self._versions
        for old, new in zip(kept, self._values, strict=True):
            gap = (old.detach() - new.detach()).abs().max() if old.numel() else torch.zeros(())
            scale = old.detach().abs().max() if old.numel() else torch.ones(())
            allowed = _ROUNDING.get(type_of(old).dtype, 0.3)
            changed = changed or bool(gap > allowed * scale)
        if changed:
            raise self._changed()

    def _changed(self) -> CrelleValueError:
        return CrelleValueError(
            describe(
                f"the operator of {self.text} cannot be used any more: a tensor that f reads was changed in place "
                "since .at(...)",
                likely="a step of an optimiser, load_state_dict, or a forward pass that updates a buffer, on what f "
                "captures or takes as an argument that is not differentiated",
                try_="make the operator anew with .at(...), or give f a copy: x.clone(), copy.deepcopy(module)",
            )
        )

    def _freed(self) -> CrelleValueError:
        return CrelleValueError(
            describe(
                f"the operator of {self.text} cannot be used any more: what it was made of was freed",
                likely="f captures a tensor with a graph of its own, and a backward pass through that has freed it",
                try_="backward(retain_graph=True) there; or detach() what f captures",
            )
        )

    def _missing(self, likely: str) -> CrelleTypeError:
        return CrelleTypeError(
            describe(
                f"{self.text}.at(...): PyTorch cannot differentiate f twice, which "
                + ("a product with a Hessian needs" if self._hessian else "J v by the transpose of Jᵀu needs"),
                likely=likely,
                try_="another form of the operation that is named"
                + ("" if self._hessian else "; A.T @ u needs one derivative only"),
            )
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of autograd in terms of the operator."""
        try:
            yield
        except Changed:
            raise self._changed() from None
        except RuntimeError as error:
            text = str(error)
            if "modified by an inplace operation" in text:
                raise self._changed() from None
            if "second time" in text:
                raise self._freed() from None
            if (likely := _missing(text)) is None:
                raise
            raise self._missing(likely) from None


def _grad(heads: Leaves, inputs: Leaves, seeds: Leaves, create: bool = False, batched: bool = False) -> Leaves:
    """Seeds through a graph that is kept; zeros where nothing depends on an input."""
    used = [(h, s) for h, s in zip(heads, seeds, strict=True) if h.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if used:
        found = torch.autograd.grad(
            [h for h, _ in used], inputs, [s.to(h.dtype) for h, s in used], retain_graph=True, create_graph=create,
            allow_unused=True, is_grads_batched=batched,
        )  # fmt: skip
    shape = (len(seeds[0]),) if batched else ()
    return [i.new_zeros((*shape, *i.shape)) if f is None else f for f, i in zip(found, inputs, strict=True)]


def _cut(block: Tensor, types: Sequence[ArrayType]) -> Leaves:
    """Leaves with their dtypes; real parts where a leaf is real and the block is complex."""
    if not block.is_complex() or all(t.is_complex for t in types):
        return cut(block, types)
    wide = cut(block, tuple(map(_complex, types)))
    return [leaf if t.is_complex else leaf.real.to(dtype_of(t.dtype)) for leaf, t in zip(wide, types, strict=True)]


def _complex(t: ArrayType) -> ArrayType:
    wide = "complex128" if t.dtype in ("float64", "complex128") else "complex64"
    return ArrayType(wide, t.shape, t.device)


def _conj(leaf: Tensor) -> Tensor:
    return leaf.conj().resolve_conj() if leaf.is_complex() else leaf


def _dot(left: Leaves, right: Leaves) -> float:
    """Re Σ a b: for complex products of real inputs Jᵀu is a real part, too."""
    return sum(float((a * b).sum().real) for a, b in zip(left, right, strict=True))


def _missing(text: str) -> str | None:
    """What autograd lacks, from its own message."""
    first = text.split("\n")[0][:200]
    if "aot_autograd" in text:
        return "f holds a part that was compiled with torch.compile, whose backward cannot be differentiated"
    if "not implemented" in text or "no autograd formula" in text:
        return first
    return None


@contextlib.contextmanager
def _not_compiled() -> Iterator[None]:
    """Compiled parts of f run as they were written: what is compiled cannot be differentiated twice."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _inside(call: Call) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f"{call.text}.at: an operator keeps the graph of an evaluation, and there are no values here",
            likely="inside torch.func.vmap, grad or jvp, torch.compile, or with meta tensors",
            try_="make the operator outside, and use its products inside; or crelle.jvp, vjp, hvp, which work anywhere",
        )
    )


def _real_of_complex(call: Call) -> CrelleTypeError:
    return CrelleTypeError(
        describe(
            f"{call.text}.at: a real function of complex inputs has no Jacobian, only a gradient",
            called=types_text(call.inputs, call.names),
            try_="crelle.vjp for the gradient; or real and imaginary parts as real tensors",
        )
    )


def linearised(call: Call, kept: Kept) -> TorchLinearised:
    """f at the point of the call. Nothing is kept for other points: a graph holds the values it was made of."""
    return TorchLinearised(call)
