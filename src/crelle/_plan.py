"""The plan: what will be computed, how, at what price, and what was rejected. Data first; ``str`` draws it."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from crelle._arrays import ArrayType, bytes_text, seconds_text, types_text
from crelle._errors import CrelleTypeError, CrelleValueError, describe

FORMAT = 1  # version of the saved form


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute the answer, with its price.

    Attributes:
        mode: the value of ``mode=`` that selects it (``forward``, ``reverse-over-reverse``, ...).
        passes: number of passes; ``unit`` says of what: JVP, VJP, HVP, evaluation.
        chunk: seeds in one batch; ``None`` for all at once.
        seconds: estimated time of one evaluation; ``measured`` the measured one, with ``analyze=True``.
        bytes: estimated working set beyond inputs and result; ``measured_bytes`` as measured, where it can be.
        reason: why it was rejected; empty for the chosen one.
    """

    mode: str
    unit: str
    passes: int
    chunk: int | None
    seconds: float
    bytes: int
    reason: str = ""
    measured: float | None = None
    measured_bytes: int | None = None

    @property
    def label(self) -> str:
        """The name as printed: mode, and how it is batched."""
        batched = "dense " if self.chunk is None and " " not in self.mode else ""
        chunks = "" if self.chunk is None else ", one at a time" if self.chunk == 1 else f", chunks of {self.chunk:,}"
        return f"{batched}{self.mode}{chunks}"

    @property
    def work(self) -> str:
        """``50 JVPs``; one pass is singular."""
        return f"{self.passes:,} {self.unit}{'' if self.passes == 1 else 's'}"


@dataclass(frozen=True)
class Plan:
    """How a derivative will be computed, and why. Made by ``crelle.jacobian(f).plan(x)``; prints, compares, saves.

    A plan that was made from a function can be called: ``plan(x)`` runs it *frozen*: the trace that it was made from
    is used as it is, without looking for changes in what the function captured. Inputs must have the planned shapes
    and dtypes. Two plans are equal if they would do the same; measurements and estimates do not count.

    Attributes:
        kind: ``jacobian``, ``hessian`` or ``gradient``.
        function: name of the function.
        inputs, outputs: types of the differentiated arrays and of the results of f.
        input_names: paths of the inputs in the argument list.
        backend, version, device: where it runs.
        mode, unit, passes, chunk, seconds, bytes: of the chosen candidate.
        memory: the bound on the working set in bytes, if there is one.
        candidates: all of them, chosen first, then by price.
        result: the type of the answer in words.
        notes: everything conservative, approximate or fallen back, in plain sentences.
        checked: the outcome of the first-run check in words; empty before it ran.
    """

    kind: str
    function: str
    inputs: tuple[ArrayType, ...]
    outputs: tuple[ArrayType, ...]
    input_names: tuple[str, ...]
    backend: str
    version: str
    device: str
    mode: str
    unit: str
    passes: int
    chunk: int | None
    seconds: float = field(compare=False)
    bytes: int = field(compare=False)
    memory: int | None
    candidates: tuple[Candidate, ...] = field(compare=False)
    result: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    checked: str = field(default="", compare=False)
    _run: Callable[..., Any] | None = field(default=None, compare=False, repr=False)
    _structure: Callable[[], tuple[str, ...]] | None = field(default=None, compare=False, repr=False)

    @property
    def method(self) -> str:
        """The chosen method in words, as in the printed plan."""
        return self.candidates[0].label

    @property
    def structure(self) -> tuple[str, ...]:
        """What is known of the matrix before it is computed, and what of that is conservative; found when asked for."""
        return () if self._structure is None else self._structure()

    @property
    def rejected(self) -> tuple[Candidate, ...]:
        """Every candidate but the chosen one, each with its reason."""
        return self.candidates[1:]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the plan, frozen, on inputs of the planned shapes and dtypes."""
        if self._run is None:
            raise CrelleTypeError(
                describe(
                    f"this plan of {self.kind}({self.function}) holds no function",
                    likely="it was loaded from a file",
                    try_=f"crelle.{self.kind}(f, plan=plan) gives it one",
                )
            )
        return self._run(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Plan: {self.kind} of {self.function}, {self.method}, {self.candidates[0].work}, {self.backend}>"

    def __str__(self) -> str:
        return "\n".join(_text_lines(self))

    def _repr_html_(self) -> str:
        rows = []
        body = _rows(self)
        width = max(len(text) for _, text in body)
        for key, text in body:
            span = f' colspan="{width}"' if len(text) == 1 else ""
            cells = "".join(f"<td{span}>{html.escape(cell)}</td>" for cell in text)
            rows.append(f'<tr><th style="text-align:left">{html.escape(key)}</th>{cells}</tr>')
        return f"<table><caption>{html.escape(_title(self))}</caption>{''.join(rows)}</table>"

    def diff(self, other: Plan) -> str:
        """What differs from another plan, one field a line; empty if nothing that matters does."""
        lines = []
        for name in ("kind", "function", "inputs", "outputs", "backend", "device", "mode", "passes", "chunk", "memory"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                mine, theirs = (types_text(v) if name in ("inputs", "outputs") else v for v in (mine, theirs))
                lines.append(f"{name:<9} {mine} | {theirs}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON: everything but the function."""
        data = asdict(replace(self, _run=None, _structure=None))
        del data["_run"], data["_structure"]
        data["structure"] = self.structure
        Path(path).write_text(json.dumps({"crelle_plan": FORMAT, **data}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that ``save`` wrote. Use it with ``crelle.jacobian(f, plan=plan)``."""
        try:
            data = json.loads(Path(path).read_text())
            if data.pop("crelle_plan") != FORMAT:
                raise ValueError("another version")
            inputs, outputs = (
                tuple(ArrayType(t["dtype"], tuple(t["shape"]), t["device"]) for t in data.pop(key))
                for key in ("inputs", "outputs")
            )
            candidates = tuple(Candidate(**c) for c in data.pop("candidates"))
            names, notes = tuple(data.pop("input_names")), tuple(data.pop("notes"))
            structure = tuple(data.pop("structure", ()))
            return cls(
                inputs=inputs, outputs=outputs, candidates=candidates, input_names=names, notes=notes, **data,
                _structure=(lambda: structure) if structure else None,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CrelleValueError(
                describe(
                    f"{path} is not a saved plan of this version of Crelle",
                    likely=f"the file is truncated, or of another version ({type(error).__name__}: {error})",
                    try_="make the plan again and save it",
                )
            ) from None


def _title(plan: Plan) -> str:
    names = plan.input_names if len(plan.inputs) > 1 else ()
    types = f"{types_text(plan.inputs, names)} -> {types_text(plan.outputs)}"
    return f"{plan.kind.capitalize()} of {plan.function}: {types}"


def _rows(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """The body of the printed plan: (key, cells)."""
    chosen = plan.candidates[0]
    measured = any(c.measured is not None for c in plan.candidates)

    def cells(c: Candidate) -> tuple[str, ...]:
        if c.passes < 0:  # not available: there is no price, only a reason
            return (c.label.removeprefix("dense "), "", "", "", *(("", "") if measured else ()), c.reason)
        time, size = (seconds_text(c.seconds), bytes_text(c.bytes))
        found: tuple[str, ...] = ()
        if measured:
            found = (
                "" if c.measured is None else f"measured {seconds_text(c.measured)}",
                "" if c.measured_bytes is None else bytes_text(c.measured_bytes),
            )
        return (c.label, c.work, time, size, *found, c.reason)

    rows = [("chosen", cells(chosen))]
    rows += [("rejected" if i == 0 else "", cells(c)) for i, c in enumerate(plan.rejected)]
    rows.append(("output", (plan.result,)))
    rows += [("structure" if i == 0 else "", (line,)) for i, line in enumerate(plan.structure)]
    if plan.memory is not None:
        bound = f"working set at most {bytes_text(plan.memory)} beyond inputs and result"
        bound += f"; estimated {bytes_text(plan.bytes)}"
        if chosen.measured_bytes is not None:
            bound += f", measured {bytes_text(chosen.measured_bytes)}"
        rows.append(("memory", (bound,)))
    if plan.checked:
        rows.append(("checked", (plan.checked,)))
    rows += [("notes" if i == 0 else "", (note,)) for i, note in enumerate(plan.notes)]
    return rows


def _text_lines(plan: Plan) -> list[str]:
    rows = _rows(plan)
    table = [cells for _, cells in rows if len(cells) > 1]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    place = " · ".join(filter(None, (f"{plan.backend} {plan.version}", plan.device)))
    title = _title(plan)
    lines = [f"{title}{' ' * max(3, 72 - len(title) - len(place))}{place}"]
    for key, cells in rows:
        if len(cells) > 1:
            text = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        else:
            text = cells[0]
        lines.append(f"  {key:<9} {text}".rstrip())
    return lines
