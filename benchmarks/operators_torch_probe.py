"""32 probes of the trace of the CNN's Hessian in a process: ``python -m benchmarks.operators_torch_probe WAY SIZE``.

Time is that of the processor, on one thread, with the allocator as users have it. The peak is the kernel's high-water
mark, beyond what was resident when the libraries were warm: ours includes the graph that is kept; that of the peer
begins with an operator that has made a product. SIZE is ``small``, ``seconds`` or ``peak``. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory_probe import peak
from benchmarks.operators_torch import PROBES, Network


def signs(size: int, seed: int) -> Tensor:
    """[size, 32] of 1 and -1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (size, PROBES), generator=generator).float().mul_(2).sub_(1)


def ours(network: Network, v: Tensor) -> Callable[[], Tensor]:
    """Linearise, and multiply the block; a small network warms the libraries."""
    tiny = Network("cnn", True)
    block = signs(tiny.size, 1)
    h = tiny.hessian()
    while not h._kept._replays[False].settled:
        h @ block[:, 0]

    def run() -> Tensor:
        products = network.hessian() @ v
        return torch.stack([a @ b for a, b in zip(v.T, products.T, strict=True)])

    return run


def curvlinops(network: Network, v: Tensor) -> Callable[[], Any]:
    """Its estimate, with its own probes; the operator has made a product before."""
    from curvlinops import hutchinson_trace

    h = network.curvlinops()
    h @ v[:, 0]
    return lambda: hutchinson_trace(h, PROBES)


def error(network: Network, v: Tensor, found: Tensor) -> float:
    """Relative error of vᵀHv for the first probes, against double backward of plain autograd."""
    leaves = [p.clone().requires_grad_() for p in network.parameters.values()]
    slopes = torch.autograd.grad(
        network.loss(dict(zip(network.parameters, leaves, strict=True))), leaves, create_graph=True
    )
    worst = 0.0
    for i in range(4):
        parts = v[:, i].split([leaf.numel() for leaf in leaves])
        seeds = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        products = torch.autograd.grad(slopes, leaves, seeds, retain_graph=True)
        expected = sum(float((a * b).sum()) for a, b in zip(products, seeds, strict=True))
        worst = max(worst, abs(float(found[i]) - expected) / abs(expected))
    return worst


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    way, size = sys.argv[1:3]
    network = Network("cnn", size == "small")
    v = signs(network.size, 0)
    run = (ours if way == "crelle" else curvlinops)(network, v)
    high, answer = peak(run, lambda answer: 0)
    seconds = []
    for _ in range({"small": 1, "seconds": 5, "peak": 0}[size]):
        start = time.process_time()
        answer = run()
        seconds.append(time.process_time() - start)
    report: dict[str, Any] = {"seconds": min(seconds, default=0.0), "peak": high, "trace": float(answer.mean())}
    if way == "crelle":
        report |= {"stderr": float(answer.std()) / PROBES**0.5, "error": error(network, v, answer)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
