"""Spectra in PyTorch: density and largest eigenvalues of a trained network's Hessian, against curvlinops and the truth.

A tanh network of 269,322 parameters after 30 steps of training, cross-entropy, f32, 10 probes × 30 steps; and one of
970 parameters in f64, whose eigenvalues are all computed. Times are those of the processor, on one thread, interleaved.
"""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.func import functional_call

import crelle
from benchmarks.problem import Measurement, Task

CURVLINOPS = importlib.util.find_spec("curvlinops") is not None

PROBES, STEPS = 10, 30
#: Of the largest eigenvalues: how many, the relative residual to stop at, seeds for those missed.
PAIRS, RESIDUAL, SEEDS = 10, 1e-3, 20


class Trained:
    """A tanh network on ten clusters, after some steps of gradient descent with momentum."""

    def __init__(self, sizes: tuple[int, ...], samples: int, apart: float, steps: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn(10, sizes[0], generator=generator, dtype=dtype) * apart
        self.y = torch.arange(samples) % 10
        self.x = centres[self.y] + torch.randn(samples, sizes[0], generator=generator, dtype=dtype)
        torch.manual_seed(0)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
        self.model = nn.Sequential(*layers[:-1]).to(dtype)
        optimiser = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        for _ in range(steps):
            optimiser.zero_grad()
            nnf.cross_entropy(self.model(self.x), self.y).backward()
            optimiser.step()
        self.parameters = {key: p.detach().clone() for key, p in self.model.named_parameters()}

    def loss(self, parameters: dict[str, Tensor]) -> Tensor:
        """Cross-entropy."""
        return nnf.cross_entropy(functional_call(self.model, parameters, (self.x,)), self.y)

    def hessian(self) -> Any:
        """As an operator."""
        return crelle.hessian(self.loss).at(self.parameters)

    def theirs(self) -> Any:
        """As an operator of curvlinops."""
        from curvlinops import HessianLinearOperator

        leaves, data = list(self.model.parameters()), [(self.x, self.y)]
        return HessianLinearOperator(self.model, nn.CrossEntropyLoss(), leaves, data, check_deterministic=False)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters.values())


def _compared(runs: Mapping[str, Any], small: bool, shape: str) -> Mapping[str, Any]:
    """The least seconds of each, one thread, in turns; the ratio of ours, the first, to the other if it is there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 if small else 3):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    torch.set_num_threads(threads)
    least = {name: min(times) for name, times in seconds.items()}
    ours, *theirs = least.values()
    if not theirs:
        return {"quantity": {"value": ours, "unit": "s"}, "shape": shape, "parts": least}
    ratio = ours / theirs[0]
    return {"quantity": {"value": ratio, "unit": "× curvlinops"}, "ratio": ratio, "shape": shape, "parts": least}


def density(small: bool) -> Mapping[str, Any]:
    """Seconds of ours over those of curvlinops, the least of three runs each; both from nothing."""
    network = Trained((20, 8, 10) if small else (784, 256, 256, 10), 32 if small else 512, 0.06, 30, torch.float32)
    runs = {"crelle": lambda: network.hessian().spectral_density(PROBES, STEPS)}
    if CURVLINOPS:
        from curvlinops import lanczos_approximate_spectrum

        def theirs() -> Any:
            return lanczos_approximate_spectrum(network.theirs(), STEPS, num_repeats=PROBES)

        runs["curvlinops"] = theirs
    return _compared(runs, small, f"{network.size:,} parameters, {PROBES} × {STEPS}")


def moments(small: bool) -> Mapping[str, Any]:
    """By how many standard errors the first four moments are off: the root mean square over seeds, about 1 if right."""
    network = Trained((8, 6, 10) if small else (32, 16, 16, 10), 256, 0.35, 60, torch.float64)
    h = network.hessian()
    matrix = h.todense().numpy()
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    off = np.array(
        [
            [
                (m.value - np.mean(values**k)) / m.stderr
                for k, m in enumerate(h.spectral_density(seed=seed).moments(), 1)
            ]
            for seed in range(3 if small else 20)
        ]
    )
    rms = np.sqrt((off**2).mean(0))
    parts = {f"moment {k}": float(r) for k, r in enumerate(rms, 1)}
    return {
        "quantity": {"value": float(rms.max()), "unit": "standard errors"},
        "shape": f"{len(values)} parameters", "parts": parts,
    }  # fmt: skip


def eigenvalues(small: bool) -> Mapping[str, Any]:
    """Seconds of the ten largest by ours over those by SciPy with curvlinops' products, the least of three runs each.

    Ours makes vectors, residuals and a look for missed ones, too; SciPy is asked for values alone.
    """
    network = Trained((20, 16, 10) if small else (784, 256, 256, 10), 32 if small else 512, 0.06, 30, torch.float32)
    runs: dict[str, Any] = {"crelle": lambda: network.hessian().eigsh(PAIRS, rtol=RESIDUAL).values}
    if CURVLINOPS:
        from scipy.sparse.linalg import eigsh

        def theirs() -> Any:
            return eigsh(network.theirs().to_scipy(), PAIRS, which="LM", tol=RESIDUAL, return_eigenvectors=False)

        runs["curvlinops, SciPy"] = theirs
    return _compared(runs, small, f"{network.size:,} parameters, {PAIRS} pairs")


def missed(small: bool) -> Mapping[str, Any]:
    """The largest relative error of the ten largest eigenvalues over seeds, against a run to the end of precision."""
    network = Trained((20, 16, 10) if small else (784, 256, 256, 10), 32 if small else 512, 0.06, 30, torch.float32)
    h = network.hessian()
    exact = h.eigsh(2 * PAIRS, rtol=1e-6, seed=1857).values[:PAIRS]
    worst, products = 0.0, []
    for seed in range(2 if small else SEEDS):
        found = h.eigsh(PAIRS, rtol=RESIDUAL, seed=seed)
        worst = max(worst, float(np.abs(found.values / exact - 1).max()))
        products.append(found.products)
    return {
        "quantity": {"value": worst, "unit": "relative"}, "shape": f"{h.shape[0]:,} parameters",
        "parts": {"products": float(np.mean(products))},
    }  # fmt: skip


def tasks(modes: bool = False) -> list[Task | Measurement]:
    """Times of the density and of the largest eigenvalues, and whether they are right."""
    return [
        Measurement("spectra-torch-eigenvalues", "torch: ten largest eigenvalues, MLP", eigenvalues),
        Measurement("spectra-torch-missed", "torch: ten largest eigenvalues, 20 seeds", missed),
        Measurement("spectra-torch-density", "torch: spectral density, MLP", density),
        Measurement("spectra-torch-moments", "torch: moments of the density, 970 parameters", moments),
    ]
