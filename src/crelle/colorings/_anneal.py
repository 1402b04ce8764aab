"""One colour fewer: conflicts that are left are moved about until they vanish, or time runs out."""

from __future__ import annotations

from typing import Any

import numpy as np

from crelle.colorings._compiled import kernel
from crelle.pattern._csr import Ints


def anneal(ptr: Ints, adjacent: Ints, colors: Ints, count: int, moves: int, seed: int, plain: bool) -> Ints | None:
    """A colouring of the graph with `count` colours, beginning with these; None if none is found in so many moves.

    A vertex in conflict takes the colour that fewest neighbours have, even if that is one or two more, now and then:
    simulated annealing at a fixed temperature (Johnson, Aragon, McGeoch and Schevon 1991), restricted to conflicts as
    in tabu search (Hertz and de Werra 1987). Colours that are too high are replaced by random ones at first.
    """
    if count < 1:
        return None
    rng = np.random.default_rng(seed)
    colors = np.where(colors < count, colors, rng.integers(0, count, colors.size)).astype(np.int32)
    vertex = np.repeat(np.arange(colors.size), np.diff(ptr))
    near = np.bincount(vertex * count + colors[adjacent], minlength=colors.size * count)
    conflicts, place = np.zeros(colors.size, np.int64), np.full(colors.size, -1, np.int64)
    start = int(rng.integers(1, 1 << 30))
    left = _move(ptr, adjacent, count, colors, near, conflicts, place, moves, start, plain=plain)
    return colors if left == 0 else None


@kernel(writes="colors")
def _move(
    ptr: Any, adjacent: Any, count: int, colors: Any, near: Any, conflicts: Any, place: Any, moves: int, state: int
) -> int:
    """Number of vertices left in conflict. ``near[v·count + c]``: neighbours of v that have colour c."""
    left = 0
    for v in range(len(colors)):
        if near[v * count + colors[v]] > 0:
            place[v] = left
            conflicts[left] = v
            left += 1
    for _ in range(moves):
        if left == 0:
            break
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        v = conflicts[(state >> 8) % left]
        old, best, fewest = colors[v], -1, len(colors)
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        shift = (state >> 8) % count
        for k in range(count):
            c = k + shift
            if c >= count:
                c -= count
            if c != old and near[v * count + c] < fewest:
                fewest = near[v * count + c]
                best = c
        more = fewest - near[v * count + old]
        if more > 0:
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            chance = (state >> 8) % 1000
            if more > 2 or chance >= 100 or (more == 2 and chance >= 10):
                continue
        if best < 0:
            break
        colors[v] = best
        if fewest == 0:
            left -= 1
            last = conflicts[left]
            conflicts[place[v]] = last
            place[last] = place[v]
            place[v] = -1
        for e in range(ptr[v], ptr[v + 1]):
            w = adjacent[e]
            near[w * count + old] -= 1
            near[w * count + best] += 1
            if colors[w] == best:
                if place[w] < 0:
                    place[w] = left
                    conflicts[left] = w
                    left += 1
            elif colors[w] == old and near[w * count + old] == 0:
                left -= 1
                last = conflicts[left]
                conflicts[place[w]] = last
                place[last] = place[w]
                place[w] = -1
    return left
