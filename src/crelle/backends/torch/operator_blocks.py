"""Blocks of vectors through a kept graph: one at a time, or several at once by ``vmap``. Measured, not believed.

On a CPU ``vmap`` of a convolutional network was 2 to 4 times slower than a loop, and took 13 to 34 times its memory;
with small networks it is several times faster, because calls cost more than arithmetic.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

#: A block of so many vectors is worth a measurement.
SIZEABLE = 8
#: Most vectors at once; most in the measurement.
MOST, TRIED = 512, 32
#: What several vectors at once may take beyond their results: on a CPU what stays in its caches, as more is slower
#: than a loop; elsewhere a share of what is free.
CACHE = 32 << 20
SHARE = 1 / 8
#: Several at once must be clearly faster than a loop, which needs no memory.
CLEARLY = 0.85

AGREE = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-3, torch.complex64: 1e-3}

NOTE = "products with a block go one at a time: PyTorch cannot batch them"
WRONG_NOTE = "products with a block go one at a time: PyTorch's batched ones differ from them"

Product = Callable[[Tensor], Tensor]
Result = TypeVar("Result")


@dataclass(slots=True)
class Blocks:
    """The decision for one product, taken at the first sizeable block.

    Attributes:
        chunk: how many vectors go at once; None while it is not decided.
        note: why not several, if that is not a matter of time or memory.
    """

    chunk: int | None = None
    note: str = ""

    def run(self, block: Tensor, size: int, dtype: torch.dtype, one: Product, many: Product, limit: Limit) -> Tensor:
        """[k, n] -> [k, size]: ``one`` and ``many`` take rows [1, n] and [c, n].

        Args:
            limit: the number of vectors at once that memory allows; asked for at most once.
        """
        count = len(block)
        if count == 1:
            return one(block)
        result = torch.empty(count, size, dtype=dtype, device=block.device)
        start = 0
        if self.chunk is None and count >= SIZEABLE:
            start = self._decide(block, result, one, many, min(limit(), MOST))
        step = self.chunk or 1
        while start < count:
            stop = min(start + step, count)
            result[start:stop] = one(block[start:stop]) if stop - start == 1 else many(block[start:stop])
            start = stop
        return result

    def _decide(self, block: Tensor, result: Tensor, one: Product, many: Product, room: int) -> int:
        """Two products each way, the first of both to warm up; returns how many rows of the result are there."""
        self.chunk, chunk = 1, min(room, TRIED, len(block) // 2)
        if chunk < 2:
            return 0
        single = []
        for row in range(2):
            seconds, result[row : row + 1] = timed(partial(one, block[row : row + 1]), block.device)
            single.append(seconds)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # PyTorch warns where it loops inside vmap
                first, found = timed(lambda: many(block[:chunk]), block.device)
        except (RuntimeError, NotImplementedError, Warning):
            self.note = NOTE
            return 2
        if not _agree(found[:2], result[:2]):
            self.note = WRONG_NOTE
            return 2
        second, result[chunk : 2 * chunk] = timed(lambda: many(block[chunk : 2 * chunk]), block.device)
        result[:chunk] = found
        if min(first, second) / chunk < CLEARLY * min(single):
            self.chunk = room  # the more at once, the less a call costs, and the rest is in the caches
        return 2 * chunk


Limit = Callable[[], int]


def at_once(working: int, device: torch.device) -> int:
    """How many vectors may go at once, if one works with so many bytes."""
    room = float(CACHE) if device.type == "cpu" else SHARE * torch.cuda.mem_get_info(device)[0]
    return max(1, int(room / max(working, 1)))


def timed(run: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """(seconds, result). On a CPU those of the calling thread: others may be busy on the machine."""
    if device.type != "cuda":
        start = time.thread_time()
        result = run()
        return time.thread_time() - start, result
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def _agree(found: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().max().item() if expected.numel() else 0.0
    if scale != scale:  # NaN: whoever asked for the product says so
        return True
    return not bool(((found - expected).abs() > AGREE.get(expected.dtype, 0.1) * scale).any())
