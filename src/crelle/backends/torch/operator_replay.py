"""Products through a kept graph of autograd, written down as a program after a few of them, if that is faster.

The graph computes again, for each product, factors that do not depend on the vector (the second derivative of GELU),
and autograd pays for each node. The program has the factors as constants: it took 0.83 to 0.95 of the graph's time for
a convolutional network, a transformer block and an MLP (one CPU thread), for the price of some ten products.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crelle.backends.torch.operator_blocks import timed

Leaves = list[Tensor]
Product = Callable[[Leaves], Leaves]

#: Seconds of products after which a program may pay: about what it takes to write one down, the first one of a process
#: with what PyTorch imports for it.
PRICE, FIRST_PRICE = 0.05, 0.7
#: A program must be clearly faster than the graph, which is checked at every product for changes of its tensors.
CLEARLY = 0.95
#: A ratio of times that need not be measured again.
PLAIN = 0.9

_AGREE = {torch.float64: 1e-10, torch.complex128: 1e-10, torch.float32: 1e-4, torch.complex64: 1e-4}


class Changed(Exception):
    """A tensor that the program reads was changed in place since it was written down."""


class Replay:
    """One linear map on leaves. It holds no reference to the graph: that is given at every call.

    Args:
        allowed: whether a program may take the graph's place.
    """

    def __init__(self, allowed: bool) -> None:
        self.program: Program | None = None
        self.settled = not allowed
        self._spent = 0.0
        self._times: list[tuple[float, float]] = []

    def __call__(self, leaves: Leaves, by_graph: Product) -> Leaves:
        """The product; ``by_graph`` computes it with autograd."""
        if self.settled:
            return by_graph(leaves) if self.program is None else self.program(leaves)
        if self.program is not None:
            return self._compare(leaves, by_graph)
        if self._spent > (PRICE if "torch._dynamo" in sys.modules else FIRST_PRICE):
            self.program, found = written(by_graph, leaves)
            self.settled = self.program is None
            return by_graph(leaves) if found is None else found
        start = time.perf_counter()
        found = by_graph(leaves)
        self._spent += time.perf_counter() - start
        return found

    def _compare(self, leaves: Leaves, by_graph: Product) -> Leaves:
        """Once or twice each way, with other vectors than the one that was written down: same results, less time?"""
        assert self.program is not None
        slow, expected = timed(lambda: by_graph(leaves), leaves[0].device)
        program = self.program
        fast, found = timed(lambda: program(leaves), leaves[0].device)
        self._times.append((slow, fast))
        if not all(map(_agree, found, expected)):
            self.program, self.settled = None, True
        elif len(self._times) == 2 or not PLAIN <= fast / max(slow, 1e-9) <= 1 / PLAIN:
            self.settled = True
            if min(f for _, f in self._times) > CLEARLY * min(s for s, _ in self._times):
                self.program = None
        return expected


class Program:
    """What the graph does with leaves, as a list of operations; what does not depend on them is computed once."""

    def __init__(self, run: Callable[..., Any], residuals: Leaves, read: Leaves) -> None:
        self._run, self._residuals = run, residuals
        self._constant = {id(t) for t in residuals}
        self._versions = [(t, t._version) for t in read]

    def __call__(self, leaves: Leaves) -> Leaves:
        if any(t._version != version for t, version in self._versions):
            raise Changed
        with torch.no_grad():
            found = self._run(*self._residuals, *leaves)
        return [t.clone() if id(t) in self._constant else t for t in found]


def written(product: Product, leaves: Leaves) -> tuple[Program | None, Leaves | None]:
    """The program of a product, and the product; none where it depends on values in a way that cannot be written."""
    from crelle.backends.torch import graph, programs
    from crelle.backends.torch.record import NeedsValue, record

    found: Leaves = []

    def noted(*v: Tensor) -> Leaves:
        found[:] = product(list(v))
        return list(found)

    try:
        with torch.autograd.set_multithreading_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = record(noted, leaves, differentiable=False)
            read = programs.constants(module)
            cleaned = graph.optimise(module)
            once, linear = programs.split(cleaned, 0, len(found))
            with torch.no_grad():
                residuals = list(graph.compile_graph(once)())
            run = graph.compile_graph(linear)
    except (NeedsValue, RuntimeError, NotImplementedError):
        return None, None
    for made in (module, cleaned, once, linear):
        _forget(made)
    return Program(run, residuals, read), found


def _forget(module: torch.nn.Module) -> None:
    """Graph modules are reference cycles: the tensors in them would wait for the garbage collector."""
    for held in (module.__dict__, module._buffers, module._parameters):
        for name in [name for name, value in held.items() if isinstance(value, Tensor)]:
            del held[name]


def _agree(found: Tensor, expected: Tensor) -> bool:
    """To rounding; never where there is NaN, so that the graph stays, which is simpler."""
    if not expected.numel():
        return True
    gap, scale = (found - expected).abs().max(), expected.abs().max()
    return bool(gap <= _AGREE.get(expected.dtype, 0.05) * scale)
