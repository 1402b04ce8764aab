"""Orders in which vertices of a conflict graph are coloured: degrees as they are, or as they change on the way."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from crelle.colorings._compiled import kernel
from crelle.pattern._csr import Ints

Order: TypeAlias = Literal[
    "natural", "largest-first", "smallest-last", "incidence-degree", "dynamic-largest-first", "random"
]
#: Those that are tried by default.
ORDERS: tuple[Order, ...] = (
    "natural",
    "largest-first",
    "smallest-last",
    "incidence-degree",
    "dynamic-largest-first",
)


def largest_first(degree: Ints) -> Ints:
    """Most conflicts first (Welsh and Powell 1967); ties in natural order."""
    return np.argsort(-degree.astype(np.int64), kind="stable")


def order_of(name: Order, ptr: Ints, adjacent: Ints, plain: bool, seed: int = 0) -> Ints:
    """The vertices of a graph, given by its sorted adjacency lists, in this order."""
    n, degree = ptr.size - 1, np.diff(ptr)
    if name == "natural":
        return np.arange(n)
    if name == "random":
        return np.random.default_rng(seed).permutation(n)
    if name == "largest-first":
        return largest_first(degree)
    # Smallest-last (Matula and Beck 1983) takes away a vertex of least degree again and again, and colours backwards.
    # Dynamic largest-first takes one of most. Incidence-degree takes the one with most neighbours taken (Coleman and
    # Moré 1983).
    key = np.zeros(n, np.int64) if name == "incidence-degree" else degree.astype(np.int64)
    step = 1 if name == "incidence-degree" else -1
    buckets = int(degree.max(initial=0)) + 1
    order = np.empty(n, np.int64)
    work = [np.full(n, -1, np.int64) for _ in range(2)]
    head = np.full(buckets, -1, np.int64)
    _by_changing_degree(ptr, adjacent, key, step, int(name != "smallest-last"), head, *work, order, plain=plain)
    return order[::-1].copy() if name == "smallest-last" else order


@kernel(writes="order")
def _by_changing_degree(
    ptr: Any, adjacent: Any, key: Any, step: int, largest: int, head: Any, after: Any, before: Any, order: Any
) -> int:
    """Take the vertex with the largest (or smallest) key, change its neighbours' keys by `step`, and repeat.

    Vertices with equal keys are in doubly linked lists, the latest change first: O(vertices + edges).
    """
    n, top = len(key), len(head) - 1
    for k in range(n):
        v = n - 1 - k
        first = head[key[v]]
        after[v] = first
        if first >= 0:
            before[first] = v
        head[key[v]] = v
    level = top if largest else 0
    for place in range(n):
        if largest:
            while head[level] < 0:
                level -= 1
        else:
            while head[level] < 0:
                level += 1
        v = head[level]
        head[level] = after[v]
        if after[v] >= 0:
            before[after[v]] = -1
        order[place] = v
        old = key[v]
        key[v] = -1
        for e in range(ptr[v], ptr[v + 1]):
            w = adjacent[e]
            if key[w] >= 0:
                if before[w] >= 0:
                    after[before[w]] = after[w]
                else:
                    head[key[w]] = after[w]
                if after[w] >= 0:
                    before[after[w]] = before[w]
                key[w] += step
                first = head[key[w]]
                after[w] = first
                before[w] = -1
                if first >= 0:
                    before[first] = w
                head[key[w]] = w
        level = min(old + 1, top) if largest else max(old - 1, 0)
    return 0
