"""The functions that make colourings: arguments are checked here, and kinds compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from crelle._errors import CrelleShapeError, CrelleValueError, describe
from crelle.colorings._bidirectional import color_columns_and_rows
from crelle.colorings._coloring import KINDS, Coloring
from crelle.colorings._conflicts import Conflicts
from crelle.colorings._lines import Effort, color_lines
from crelle.colorings._orders import Order
from crelle.colorings._symmetric import color_graph
from crelle.pattern import SparsityPattern

Orders = Order | Sequence[Order] | None


def coloring(
    pattern: Any,
    kind: Literal["auto", "columns", "rows", "both", "symmetric"] = "auto",
    *,
    wanted: Any = None,
    substitution: bool = False,
    orders: Orders = None,
    seconds: float = 0.0,
    seed: int = 0,
) -> Coloring:
    """c: columns → {0 … k−1} such that k products J s give every nonzero of J; or of rows, or of both.

    Args:
        pattern: where J may be nonzero, m × n: a :class:`crelle.SparsityPattern`, or any matrix that
            ``SparsityPattern.from_`` takes.
        kind: what is coloured:

            - ``"columns"``: two columns with nonzeros in one row differ; products J s;
            - ``"rows"``: two rows with nonzeros in one column differ; products rᵀ J;
            - ``"both"``: every nonzero is alone in its row among columns of its colour, or alone in its column among
              rows of its colour. Dense rows and columns then cost one product each;
            - ``"symmetric"``: entry (j, i) may stand in for (i, j): a star colouring of the graph of a Hessian;
            - ``"auto"``: the first three, the fewest passes, columns before rows before both.
        wanted: the entries that must be recovered, as a pattern within `pattern`; by default all. The others still take
            part in the products. Where they are known, subtract them, and leave them out of `pattern`.
        substitution: for ``"symmetric"``, entries may be found by subtracting others (an acyclic colouring): fewer
            passes, and rounding errors that add up along chains.
        orders: in which lines are coloured, or several to be tried: ``"natural"``, ``"largest-first"``,
            ``"smallest-last"``, ``"incidence-degree"``, ``"dynamic-largest-first"``, ``"random"``. By default those
            that are worth their time for a pattern of this size, and formulas for stencils on grids.
        seconds: time to go on looking: random orders, and colouring again class by class, which never takes more
            colours. What is found then depends on the machine.
        seed: of the random orders.

    Returns:
        A :class:`Coloring` with the fewest passes that were found. Nothing is tried after the lower bound is reached.

    Raises:
        CrelleTypeError: `pattern` or `wanted` is no matrix.
        CrelleShapeError: `wanted` has another shape, or the pattern is not square for ``"symmetric"``.
        CrelleValueError: there is no such kind or order, `wanted` is not within the pattern, or the pattern is not
            symmetric for ``"symmetric"``.

    Cost: O(nnz · orders) for columns and rows that need up to 62 colours, O(Σ (entries of a row)²) beyond and for
    orders by degree. Problems with more than 1000 rows or columns are compiled by Numba.

    Coleman and Moré 1983; Gebremedhin, Manne and Pothen 2005; Gebremedhin, Tarafdar, Manne and Pothen 2007.

    >>> import numpy as np, crelle
    >>> arrow = np.eye(100)
    >>> arrow[0, :] = arrow[:, 0] = 1
    >>> crelle.coloring(arrow)
    Coloring(100 × 100, both, 3 passes = 2 + 1, dense 100)
    >>> crelle.coloring(arrow, "symmetric")
    Coloring(100 × 100, symmetric, 2 passes, dense 100)
    """
    functions = {"columns": color_columns, "rows": color_rows, "both": color_both}
    options: dict[str, Any] = {"wanted": wanted, "orders": orders, "seconds": seconds, "seed": seed}
    if kind == "symmetric":
        return color_symmetric(pattern, substitution, **options)
    if substitution:
        raise CrelleValueError(
            describe(f'substitution=True with kind="{kind}"', expected='kind="symmetric": it uses H[i, j] = H[j, i]')
        )
    if kind in functions:
        return functions[kind](pattern, **options)
    if kind != "auto":
        raise CrelleValueError(
            describe(f"there is no kind {kind!r}", called="crelle.coloring", expected=", ".join(("auto", *KINDS)))
        )
    pattern, target, effort = _read(pattern, wanted, orders, seconds, seed)
    by_column, by_row = Conflicts.of_columns(pattern, target), Conflicts.of_rows(pattern, target)
    found: dict[str, Coloring] = {}
    for name in ("columns", "rows") if by_column.lower_bound <= by_row.lower_bound else ("rows", "columns"):
        conflicts = by_column if name == "columns" else by_row
        if not found or conflicts.lower_bound < min(other.passes for other in found.values()):
            found[name] = _one_sided(pattern, target, conflicts, name, effort)
    best = min(found.values(), key=lambda one: (one.passes, one.kind))
    # Both sides help where a few lines are much denser than the others.
    entries = best.entries
    used = (int(np.count_nonzero(counts)) for counts in (entries.row_counts, entries.col_counts))
    usual = entries.nnz / max(1, min(used))
    if best.passes > 3 * usual + 3 or (best.passes > 3 and max(pattern.shape) <= 200):
        both = color_both(pattern, wanted=target, orders=orders, seconds=seconds, seed=seed)
        best = both if both.passes < best.passes else best
    return best


def color_columns(
    pattern: Any, *, wanted: Any = None, orders: Orders = None, seconds: float = 0.0, seed: int = 0
) -> Coloring:
    """Colours of columns of which no two meet in a row; see :func:`coloring`."""
    pattern, target, effort = _read(pattern, wanted, orders, seconds, seed)
    return _one_sided(pattern, target, Conflicts.of_columns(pattern, target), "columns", effort)


def color_rows(
    pattern: Any, *, wanted: Any = None, orders: Orders = None, seconds: float = 0.0, seed: int = 0
) -> Coloring:
    """Colours of rows of which no two meet in a column; see :func:`coloring`."""
    pattern, target, effort = _read(pattern, wanted, orders, seconds, seed)
    return _one_sided(pattern, target, Conflicts.of_rows(pattern, target), "rows", effort)


def color_both(
    pattern: Any, *, wanted: Any = None, orders: Orders = None, seconds: float = 0.0, seed: int = 0
) -> Coloring:
    """Colours of columns and of rows which recover every entry from one side or the other; see :func:`coloring`.

    Dense lines are set apart one by one (Coleman and Verma 1998), or the bipartite graph of rows and columns is
    star-coloured with neutral colours (Montoison, Dalle and Gebremedhin 2025).
    """
    pattern, target, effort = _read(pattern, wanted, orders, seconds, seed)
    found = color_columns_and_rows(pattern, target, effort)
    return Coloring(pattern, "both", found.column_colors, found.row_colors, found.lower_bound, found.order, target)


def color_symmetric(
    pattern: Any,
    substitution: bool = False,
    *,
    wanted: Any = None,
    orders: Orders = None,
    seconds: float = 0.0,
    seed: int = 0,
) -> Coloring:
    """Colours of the columns of a symmetric matrix, each entry from its own row or from its mirror image's.

    A star colouring, or an acyclic one with `substitution`; see :func:`coloring`.
    """
    pattern, target, effort = _read(pattern, wanted, orders, seconds, seed)
    m, n = pattern.shape
    if m != n:
        raise CrelleShapeError(
            describe(
                f"a symmetric colouring needs a square pattern, and this is {m:,} × {n:,}",
                called=f"color_symmetric({pattern!r})",
                try_='kind="auto", or the pattern of the Hessian and not of the Jacobian',
            )
        )
    turned = pattern.T
    if turned != pattern:
        alone = np.flatnonzero(_marks_missing(pattern, turned))
        i, j = int(pattern.rows[alone[0]]), int(pattern.cols[alone[0]])
        raise CrelleValueError(
            describe(
                f"a symmetric colouring needs a symmetric pattern: ({i:,}, {j:,}) is in it, ({j:,}, {i:,}) is not",
                called=f"color_symmetric({pattern!r})",
                likely="this is one triangle of a Hessian, or the pattern of a Jacobian",
                try_='pattern | pattern.T if it is a triangle, kind="auto" if it is a Jacobian',
            )
        )
    found = color_graph(pattern, target, effort, substitution)
    colors = found.colors
    return Coloring(pattern, "symmetric", colors, None, found.lower_bound, found.order, target, substitution)


def _marks_missing(pattern: SparsityPattern, other: SparsityPattern) -> Any:
    """Which entries of the pattern are not in the other."""
    matrix = pattern._as_scipy().astype(np.int8) + (pattern & other)._as_scipy().astype(np.int8)
    return matrix.data == 1


def _one_sided(
    pattern: SparsityPattern, wanted: SparsityPattern | None, conflicts: Conflicts, kind: str, effort: Effort
) -> Coloring:
    found = color_lines(conflicts, effort)
    colors = conflicts.spread(found.colors)
    if kind == "columns":
        return Coloring(pattern, "columns", colors, None, found.lower_bound, found.order, wanted)
    return Coloring(pattern, "rows", None, colors, found.lower_bound, found.order, wanted)


def _read(
    pattern: Any, wanted: Any, orders: Orders, seconds: float, seed: int
) -> tuple[SparsityPattern, SparsityPattern | None, Effort]:
    pattern = SparsityPattern.from_(pattern)
    if wanted is not None:
        wanted = SparsityPattern.from_(wanted)
        if wanted.shape != pattern.shape:
            raise CrelleShapeError(
                describe("wanted has another shape than the pattern", called=f"{pattern!r}\n{wanted!r}")
            )
        missing = np.flatnonzero(_marks_missing(wanted, pattern))
        if missing.size:
            i, j = int(wanted.rows[missing[0]]), int(wanted.cols[missing[0]])
            raise CrelleValueError(
                describe(
                    f"wanted has entry ({i:,}, {j:,}), which is not in the pattern",
                    called=f"{pattern!r}\nwanted {wanted!r}",
                    expected="wanted <= pattern",
                    try_="wanted & pattern",
                )
            )
        wanted = None if wanted.nnz == pattern.nnz else wanted
    names: tuple[Order, ...] | None = None
    if orders is not None:
        names = (orders,) if isinstance(orders, str) else tuple(orders)
        for name in names or ("",):
            if name not in get_args(Order):
                raise CrelleValueError(
                    describe(
                        f"there is no order {name!r}", called=f"orders={orders!r}", expected=", ".join(get_args(Order))
                    )
                )
    if not seconds >= 0:
        raise CrelleValueError(describe(f"seconds={seconds!r}", expected="a time, not negative"))
    return pattern, wanted, Effort(names, float(seconds), seed)
