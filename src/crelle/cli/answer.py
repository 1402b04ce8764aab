"""What the commands do once their words are read: plan, compute, check, and hand over what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

import crelle
from crelle._arrays import seconds_text
from crelle._errors import CrelleValueError, describe
from crelle._plan import Plan
from crelle._transforms import Transform
from crelle._verify import PRODUCTS
from crelle.backends import get_backend
from crelle.cli import save, show
from crelle.cli.ask import Inputs, Question, check_arity, parse_argnums, parse_selection, posed
from crelle.cli.exits import Code
from crelle.cli.progress import waiting
from crelle.tangent.show import LIMIT, as_data, chain

_TRANSFORMS = {"jacobian": crelle.jacobian, "hessian": crelle.hessian, "gradient": crelle.gradient}
KINDS = tuple(_TRANSFORMS)
#: Entries of a pattern that ``--json`` lists one by one; larger ones go to a file.
_LISTED = 100_000


@dataclass(frozen=True, slots=True)
class Words:
    """The options of a command as they were typed; a command that lacks one leaves its default."""

    target: str
    inputs: list[str] | None = None
    framework: str = "auto"
    argnums: str = "0"
    seed: int = 0
    dtype: str | None = None
    x64: bool | None = None
    mode: str = "auto"
    memory: str | None = None
    chunk: int | None = None
    rows: str | None = None
    cols: str | None = None
    wrt: str = "inputs"
    flatten: bool = False
    value: bool = False
    error: bool = False
    holomorphic: bool = False
    check: bool = True
    compile: bool = False
    analyze: bool = False
    json: bool = False
    out: str | None = None
    options: tuple[str, ...] = field(default=())

    @property
    def given(self) -> Inputs:
        """The part that says what the inputs are."""
        argnums = parse_argnums(self.argnums)
        return Inputs(self.inputs or [], self.framework, argnums, self.seed, self.dtype, self.x64, self.options)

    def transform(self, kind: str, question: Question) -> Transform:
        """The question as the API puts it."""
        keywords: dict[str, Any] = {
            "argnums": parse_argnums(self.argnums), "mode": self.mode, "memory": self.memory, "wrt": self.wrt,
            "flatten": self.flatten, "value": self.value, "error": self.error, "holomorphic": self.holomorphic,
            "check": self.check, "compile": self.compile,
        }  # fmt: skip
        if kind != "gradient":
            keywords |= {
                "chunk": self.chunk,
                "rows": parse_selection("--rows", self.rows),
                "cols": parse_selection("--cols", self.cols),
            }
        return _TRANSFORMS[kind](question.target.f, **keywords)


def plan(kind: str, words: Words) -> None:
    """Print how a derivative would be computed."""
    if kind not in KINDS:
        raise CrelleValueError(describe(f"--of {kind}: there is no such derivative", expected=", ".join(KINDS)))
    path = save.checked_path(words.out, (".json",))
    with posed(words.target, words.given) as question:
        transform = words.transform(kind, question)
        with waiting(f"planning the {kind} of {words.target}"):
            found = transform.plan(*question.args, analyze=words.analyze, **question.kwargs)
    if path:
        found.save(path)
    if words.json:
        show.machine(show.plan_data(found))
        return
    show.lines(str(found).splitlines())
    _saved(path)


def pattern(kind: str, words: Words, local: bool) -> None:
    """Print where a derivative may be nonzero, with a picture, and what its structure is."""
    path = save.checked_path(words.out, (".npz", ".png"))
    with posed(words.target, words.given) as question:
        transform = matrix_of(kind, words, question)
        with waiting(f"reading the {kind} of {words.target}"):
            found = transform.pattern(*question.args, local=local, **question.kwargs)
            structure = transform.structure(*question.args, local=local, **question.kwargs)
    if path and path.suffix.lower() == ".npz":
        found.save(path)
    elif path:
        figure = found.spy().get_figure(root=True)
        assert figure is not None
        figure.savefig(path, dpi=150)
    if words.json:
        data = {"shape": list(found.shape), "nnz": found.nnz, "structure": structure.to_dict()}
        if found.nnz <= _LISTED:
            data |= {"rows": found.rows.tolist(), "cols": found.indices.tolist()}
        show.machine({"kind": kind, "target": question.target.text, **data})
        return
    show.lines([*str(found).splitlines(), *str(structure).splitlines()])
    _saved(path)


def trace(kind: str, words: Words, local: bool, whole: bool) -> None:
    """Print the tangent program of a derivative: the chain rule, shown."""
    with posed(words.target, words.given) as question:
        transform = matrix_of(kind, words, question)
        with waiting(f"tracing the {kind} of {words.target}"):
            found = transform.program(*question.args, local=local, **question.kwargs)
    if words.json:
        show.machine({"kind": kind, "target": question.target.text, "rows": found.rows, "columns": found.columns,
                      "cost": found.cost().to_dict(), "maps": as_data(found), "notes": found.notes})  # fmt: skip
        return
    show.lines(chain(found, None if whole else LIMIT).splitlines())


def matrix_of(kind: str, words: Words, question: Question) -> Transform:
    """The question of a kind that is a matrix.

    Raises:
        CrelleValueError: a gradient is none.
    """
    if kind not in ("jacobian", "hessian"):
        raise CrelleValueError(describe(f"--of {kind}: there is no such matrix", expected="jacobian, hessian"))
    return words.transform(kind, question)


def derivative(kind: str, words: Words) -> None:
    """Compute a derivative; print it and write it."""
    path = save.checked_path(words.out, single=not (words.value or words.error))
    with posed(words.target, words.given) as question:
        transform = words.transform(kind, question)
        with waiting(f"planning the {kind} of {words.target}"):
            found = transform.plan(*question.args, **question.kwargs)
        with waiting(f"computing: {found.candidates[0].work}, estimated {seconds_text(found.seconds)}"):
            answer = transform(*question.args, **question.kwargs)
            get_backend(question.framework).block_until_ready(answer)
            found = transform.plan(*question.args, **question.kwargs)  # which now says what the check found
        parts = _parts(kind, words, answer)
        data = _data(kind, question, found, parts)
        if path:
            save.write(path, parts, data)
    if words.json:
        show.machine(data)
        return
    show.lines(show.summary(found))
    for name, part in parts.items():
        show.tree(part, name)
    _saved(path)


def _parts(kind: str, words: Words, answer: Any) -> dict[str, Any]:
    """What a transform returned, by name: the value and the error only where they were asked for."""
    names = [*["value"] * words.value, kind, *["error"] * words.error]
    return dict(zip(names, answer if len(names) > 1 else (answer,), strict=True))


def _data(kind: str, question: Question, found: Plan, parts: dict[str, Any]) -> dict[str, Any]:
    """What ``--json`` prints of a derivative."""
    data = {
        "kind": kind,
        "target": question.target.text,
        "framework": question.framework,
        "inputs": question.described,
        "mode": found.mode,
        "passes": found.passes,
        "checked": found.checked,
        "type": show.as_types(parts[kind]),
        "result": show.as_data(parts[kind]),
    }
    for name in parts.keys() - {kind}:
        data |= {f"{name}_type": show.as_types(parts[name]), name: show.as_data(parts[name])}
    return data | {"plan": show.plan_data(found)}


def check(words: Words, by_hand: str, kind: str, tolerance: Mapping[str, float | None], worst: int) -> None:
    """Compare a derivative that was written by hand with the reference; exits with 1 if it is wrong."""
    with posed(words.target, words.given, by_hand) as question, waiting(f"checking {by_hand}"):
        vector = (None,) if kind in PRODUCTS else ()  # crelle.check draws it
        check_arity(question.targets[1], (*question.args, *vector), question.kwargs)
        report = crelle.check(
            question.target.f, question.targets[1].f, *question.args, kind=kind,
            argnums=parse_argnums(words.argnums), worst=worst, **tolerance, **question.kwargs,
        )  # fmt: skip
    if words.json:
        show.machine(dataclasses.asdict(report))
    else:
        show.report(report)
    if not report.ok:
        raise typer.Exit(Code.CHECK_FAILED)


def _saved(path: Path | None) -> None:
    if path:
        show.text(f"written to {path}")
