"""The structure of a matrix as an object: fields first; ``str`` draws them."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from crelle._arrays import ArrayType
from crelle.tangent.structure.batch import BatchAxis
from crelle.tangent.structure.blocks import Blocks, Separable, separable_parts
from crelle.tangent.structure.matching import maximum_matching
from crelle.tangent.structure.pattern import Entries, Ints, band_name
from crelle.tangent.structure.triangular import BlockTriangular, block_triangular


@dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """What is known of a derivative before any of its entries is computed. Made by ``crelle.jacobian(f).structure(x)``.

    Attributes:
        kind: the most telling name: ``zero``, ``scaled identity``, ``diagonal``, ``banded``, ``block-diagonal``,
            ``lower triangular``, ``upper triangular``, the two ``strictly``, ``block triangular`` (after reordering),
            ``dense`` (half of the entries or more), ``sparse``.
        shape, nnz: of the matrix of raveled outputs × raveled inputs; number of entries that may be nonzero.
        bandwidths: diagonals below and above the main one, up to the outermost entries.
        blocks: the independent blocks: over the batch axes if they hold for all arrays, else connected components.
        batch_axes: axes along which every index is computed alone; see `BatchAxis`.
        within: what the blocks of a block-diagonal matrix are themselves, where that is telling.
        dense_rows, dense_cols: indices of the few rows and columns that are at least half full.
        constant_share: share of the entries that are the same for all arguments; ``None`` if not known.
        passive_share: share of those that change only with arguments that are not differentiated.
        constant: all entries are the same for all arguments.
        linear: no entry depends on the differentiated arguments.
        rank_bound: the rank is at most this.
        structural_rank: the rank for general values of the entries; ``None`` if finding it took too much work.
        symmetric: the matrix equals its transpose.
        diagonal: the value on the diagonal of a scaled identity.
        inputs, outputs, input_names, output_names: the arrays that columns and rows belong to.
        notes: where the pattern may be larger than the truth, and why.
    """

    kind: str
    shape: tuple[int, int]
    nnz: int
    bandwidths: tuple[int, int]
    blocks: Blocks
    batch_axes: tuple[BatchAxis, ...]
    within: str
    dense_rows: Ints
    dense_cols: Ints
    constant_share: float | None
    passive_share: float | None
    constant: bool
    linear: bool
    rank_bound: int
    structural_rank: int | None
    symmetric: bool
    diagonal: float | None
    inputs: tuple[ArrayType, ...]
    outputs: tuple[ArrayType, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    _entries: Entries = field(repr=False)
    _matching: Ints | None = field(repr=False)
    _form: BlockTriangular | None = field(repr=False)
    _classes: np.ndarray[Any, Any] | None = field(repr=False)
    notes: tuple[str, ...] = ()

    def blocks_of(self) -> Blocks:
        """Rows and columns of each independent block: iterate for ``(rows, cols)``; see `Blocks`."""
        return self.blocks

    @cached_property
    def block_triangular(self) -> BlockTriangular | None:
        """Orders of rows and columns that make the matrix block triangular; ``None`` if it is not square, cannot be
        nonsingular, or finding out took too much work. Computed when first asked for.
        """
        if self._form is not None or self.shape[0] != self.shape[1]:
            return self._form
        matching = maximum_matching(self._entries) if self._matching is None else self._matching
        return block_triangular(self._entries, matching)

    @cached_property
    def separable(self) -> Separable | None:
        """For a symmetric matrix, the groups of variables that share no entry; else ``None``."""
        if not self.symmetric:
            return None
        varies = None if self._classes is None else self._classes > 0
        return separable_parts(self._entries, varies)

    @property
    def density(self) -> float:
        """Share of the matrix that may be nonzero."""
        return self._entries.density

    def __repr__(self) -> str:
        return f"<Structure: {self.sentence}>"

    def __str__(self) -> str:
        rows = self._table()
        return "\n".join([self.sentence, *(f"  {key:<10} {text}" for key, text in rows)])

    def _repr_html_(self) -> str:
        left = ' style="text-align:left"'
        cells = ((html.escape(key), html.escape(text)) for key, text in self._table())
        rows = "".join(f"<tr><th{left}>{key}</th><td{left}>{text}</td></tr>" for key, text in cells)
        return f"<table><caption>{html.escape(self.sentence)}</caption>{rows}</table>"

    @property
    def sentence(self) -> str:
        """All that matters in one line: ``block-diagonal: 128 blocks of 16×32 over axis 0 of x; rank ≤ 10``."""
        parts = [f"{self.kind}: {self._detail()}"]
        if self.constant:
            parts += ["constant"] if self.nnz else []
        elif self.linear:
            parts.append("linear")
        elif self.constant_share:
            parts.append(f"{percent(self.constant_share)} constant")
        if self.nnz and self.rank_bound < min(self.shape):
            parts.append(f"rank ≤ {self.rank_bound:,}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, texts and lists, for JSON; blocks by number and shape."""
        return {
            "kind": self.kind,
            "sentence": self.sentence,
            "shape": list(self.shape),
            "nnz": self.nnz,
            "bandwidths": list(self.bandwidths),
            "blocks": self.blocks.to_dict(),
            "batch_axes": [batch.to_dict() for batch in self.batch_axes],
            "within": self.within,
            "dense_rows": self.dense_rows.tolist(),
            "dense_cols": self.dense_cols.tolist(),
            "constant_share": self.constant_share,
            "passive_share": self.passive_share,
            "constant": self.constant,
            "linear": self.linear,
            "rank_bound": self.rank_bound,
            "structural_rank": self.structural_rank,
            "symmetric": self.symmetric,
            "diagonal": self.diagonal,
            "inputs": [str(t) for t in self.inputs],
            "outputs": [str(t) for t in self.outputs],
            "input_names": list(self.input_names),
            "output_names": list(self.output_names),
            "notes": list(self.notes),
        }

    def _detail(self) -> str:
        m, n = self.shape
        if self.kind == "zero":
            return f"no entry of {m:,}×{n:,} can be other than zero"
        if self.kind == "scaled identity":
            return f"{self.diagonal:.6g} on the diagonal of {m:,}×{n:,}"
        if self.kind == "block-diagonal":
            text = self.blocks.describe() + self._over()
            return f"{text}, each {self.within}" if self.within else text
        if self.kind == "banded":
            return f"{band_name(*self.bandwidths)}, {self._count()}"
        if self.kind == "block triangular" and self._form is not None:
            largest = self._form.largest
            return f"{self._form.count:,} blocks after reordering, the largest {largest:,}×{largest:,}"
        lines = [("row", self.dense_rows), ("column", self.dense_cols)]
        dense = [f"{len(at):,} dense {word}{'' if len(at) == 1 else 's'}" for word, at in lines if len(at)]
        return self._count() + (f", {' and '.join(dense)}" if dense else "")

    def _count(self) -> str:
        m, n = self.shape
        return f"{self.nnz:,} of {m * n:,} entries ({percent(self.density)})"

    def _over(self) -> str:
        """`` over axis 0 of x``: the batch axes of the inputs."""
        complete = [b for b in self.batch_axes if b.complete]
        if not complete:
            return ", connected components"
        texts: list[str] = []
        for leaf, name in enumerate(self.input_names):
            parts = [b.inputs[leaf] for b in complete]
            axes = sorted({part.axis for part in parts if part is not None})
            if axes:
                split = any(part is not None and not part.whole for part in parts)
                word = "part of " if split and len(axes) == 1 else ""
                listed = " and ".join([", ".join(map(str, axes[:-1])), str(axes[-1])] if axes[1:] else [str(axes[0])])
                texts.append(f"{word}{'axes' if axes[1:] else 'axis'} {listed} of {name}")
        more = f" and of {len(texts) - 2} more" if len(texts) > 2 else ""
        return " over " + ", ".join(texts[:2]) + more

    def _table(self) -> list[tuple[str, str]]:
        m, n = self.shape
        rows = [("shape", f"{m:,}×{n:,}, {self._count()}" + (", symmetric" if self.symmetric else ""))]
        for at, batch in enumerate(self.batch_axes):
            shared = "" if batch.complete else f"; not of {self._shared(batch)}"
            where = batch.where(self.input_names, self.output_names)
            rows.append(("" if at else "batch", f"{batch.size:,}: {where}{shared}"))
        if len(self.blocks) > 1 and self.kind not in ("diagonal", "scaled identity"):
            rows.append(("blocks", self.blocks.describe() + (f", each {self.within}" if self.within else "")))
        lower, upper = self.bandwidths
        if self.nnz and lower + upper + 1 < max(m, n) and self.kind not in ("diagonal", "scaled identity"):
            rows.append(("bandwidth", f"{lower:,} below, {upper:,} above the diagonal"))
        lines = [_listed(*line) for line in (("row", self.dense_rows), ("column", self.dense_cols)) if len(line[1])]
        if lines:
            rows.append(("dense", "; ".join(lines)))
        if (form := self._form) is not None and form.count > 1:
            rows.append(("order", f"block triangular with {form.count:,} blocks, the largest {form.largest:,}"))
        if self.nnz and self.constant_share is not None:
            text = f"{percent(self.constant_share)} of the entries are the same for all arguments"
            if self.passive_share:
                text += f"; {percent(self.passive_share)} change only with arguments that are not differentiated"
            rows.append(("constant", text))
        if self.nnz:
            structural = "not computed" if self.structural_rank is None else f"{self.structural_rank:,}"
            rows.append(("rank", f"≤ {self.rank_bound:,}; by the pattern alone: {structural}"))
        return rows + [("" if at else "notes", note) for at, note in enumerate(self.notes)]

    def _shared(self, batch: BatchAxis) -> str:
        sides = ((batch.inputs, self.input_names), (batch.outputs, self.output_names))
        names = [name for side, all_names in sides for part, name in zip(side, all_names, strict=True) if part is None]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def percent(share: float) -> str:
    """A share in percent, never rounded to all or nothing.

    >>> percent(0.12), percent(0.045), percent(0.999), percent(2e-6), percent(1.0)
    ('12 %', '4.5 %', '99.9 %', '0.0002 %', '100 %')
    """
    value = 100 * share
    if value in (0.0, 100.0):
        return f"{value:.0f} %"
    if value > 99:
        return f"{min(value, 99.9):.1f} %"
    if value >= 10:
        return f"{value:.0f} %"
    if value >= 0.001:
        return f"{float(f'{value:.2g}'):g} %"
    return f"{float(f'{value:.1g}'):.8f}".rstrip("0") + " %" if value >= 1e-8 else f"{value:.0e} %"


def _listed(word: str, at: Ints) -> str:
    shown = ", ".join(map(str, at[:5].tolist())) + (", …" if len(at) > 5 else "")
    return f"{word} {shown}" if len(at) == 1 else f"{len(at):,} {word}s: {shown}"
