"""First fit: each line, in a given order, takes the lowest colour that no conflicting line has. Kernels only.

A *line* is what is coloured (a column, say) and a *group* is a set of lines that must differ (the entries of a row). An
entry of a line in a group has a flag: two lines of one group conflict when either entry is flagged. All are flagged
where the whole matrix is wanted.
"""

from __future__ import annotations

from typing import Any

from crelle.colorings._compiled import kernel


@kernel(writes="masks colors")
def first_fit(order: Any, ptr: Any, group: Any, masks: Any, colors: Any, limit: int) -> int:
    """Number of colours, or −1 when `limit` is not enough. Bit c of ``masks[g]``: group g has a line of colour c.

    O(entries), because a group answers for all of its lines at once (bit sets for the rows, as in ColPack's and
    others' sequential codes the marks of two-hop neighbours).
    """
    used = 0
    for v in order:
        taken = 0
        for e in range(ptr[v], ptr[v + 1]):
            taken |= masks[group[e]]
        color = 0
        while (taken >> color) & 1:
            color += 1
        if color >= limit:
            return -1
        bit = 1 << color
        for e in range(ptr[v], ptr[v + 1]):
            masks[group[e]] |= bit
        colors[v] = color
        used = max(used, color + 1)
    return used


@kernel(writes="masks flagged_masks colors")
def first_fit_flagged(
    order: Any, ptr: Any, group: Any, flag: Any, masks: Any, flagged_masks: Any, colors: Any, limit: int
) -> int:
    """The same where only pairs with a flagged entry conflict: a second set of bits is for the flagged ones."""
    used = 0
    for v in order:
        taken = 0
        for e in range(ptr[v], ptr[v + 1]):
            if flag[e]:
                taken |= masks[group[e]]
            else:
                taken |= flagged_masks[group[e]]
        color = 0
        while (taken >> color) & 1:
            color += 1
        if color >= limit:
            return -1
        bit = 1 << color
        for e in range(ptr[v], ptr[v + 1]):
            masks[group[e]] |= bit
            if flag[e]:
                flagged_masks[group[e]] |= bit
        colors[v] = color
        used = max(used, color + 1)
    return used


@kernel(writes="stamp low used_by colors")
def first_fit_wide(
    order: Any,
    ptr: Any,
    group: Any,
    flag: Any,
    gptr: Any,
    line: Any,
    gflag: Any,
    large: Any,
    width: int,
    low: Any,
    used_by: Any,
    stamp: Any,
    colors: Any,
) -> int:
    """The same for any number of colours.

    Lines of small groups are visited. Group g with ``b = large[g] >= 0`` has a table of its own: entry
    ``b·width + c`` of `used_by` is 0 while no line has colour c, 1 if one has, 2 if one with a flag has. All colours
    below ``low[b]`` are taken by flagged lines, so a dense row costs its lines nothing.
    """
    used = 0
    for v in order:
        start = 0
        for e in range(ptr[v], ptr[v + 1]):
            b = large[group[e]]
            if b >= 0:
                start = max(start, low[b])
            else:
                for h in range(gptr[group[e]], gptr[group[e] + 1]):
                    if flag[e] or gflag[h]:
                        other = colors[line[h]]
                        if other >= 0:
                            stamp[other] = v
        color = start
        free = False
        while not free:
            free = stamp[color] != v
            if free:
                for e in range(ptr[v], ptr[v + 1]):
                    b = large[group[e]]
                    if b >= 0 and used_by[b * width + color] >= 2 - flag[e]:
                        free = False
                        break
            if not free:
                color += 1
        colors[v] = color
        used = max(used, color + 1)
        for e in range(ptr[v], ptr[v + 1]):
            b = large[group[e]]
            if b >= 0:
                place = b * width + color
                if used_by[place] < 1 + flag[e]:
                    used_by[place] = 1 + flag[e]
                while low[b] < width and used_by[b * width + low[b]] == 2:
                    low[b] += 1
    return used


@kernel(writes="seen found")
def clashes(gptr: Any, line: Any, gflag: Any, colors: Any, seen: Any, found: Any) -> int:
    """How many groups hold two lines of one colour, one of them flagged; the first of these groups go to `found`.

    Lines with colour −1 clash with nothing. `seen` has two places for each colour.
    """
    count = 0
    for g in range(len(gptr) - 1):
        clash = False
        for h in range(gptr[g], gptr[g + 1]):
            color = colors[line[h]]
            if color >= 0:
                if seen[2 * color + 1] == g or (seen[2 * color] == g and gflag[h]):
                    clash = True
                seen[2 * color] = g
                if gflag[h]:
                    seen[2 * color + 1] = g
        if clash:
            if count < len(found):
                found[count] = g
            count += 1
    return count


@kernel(writes="stamp degree")
def degrees(ptr: Any, group: Any, flag: Any, gptr: Any, line: Any, gflag: Any, stamp: Any, degree: Any) -> int:
    """How many lines conflict with each line."""
    for v in range(len(ptr) - 1):
        stamp[v] = v
        count = 0
        for e in range(ptr[v], ptr[v + 1]):
            for h in range(gptr[group[e]], gptr[group[e] + 1]):
                if stamp[line[h]] != v and (flag[e] or gflag[h]):
                    stamp[line[h]] = v
                    count += 1
        degree[v] = count
    return 0
