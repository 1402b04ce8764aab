"""``crelle spectrum``: what the eigenvalues of a Hessian, or the singular values of a Jacobian, are like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crelle._errors import CrelleValueError, describe
from crelle.cli import save, show
from crelle.cli.answer import Words, matrix_of
from crelle.cli.ask import posed

if TYPE_CHECKING:
    from crelle.estimators import Estimate
    from crelle.operators import Operator

#: Pixels are SIZE * DPI: two panels side by side, legible at 1200.
_SIZE, _DPI = (12.8, 4.8), 150


def spectrum(kind: str, words: Words, top: int, probes: int, steps: int, budget: int | None) -> None:
    """Print the largest eigenvalues, the trace and the density of a Hessian; the singular values of a Jacobian."""
    if min(top, probes, steps) < 1:
        raise CrelleValueError(
            describe(f"--top {top} --probes {probes} --steps {steps}: there is nothing to count",
                     expected="positive numbers")
        )  # fmt: skip
    path = save.checked_path(words.out, (".png", ".json"))
    with posed(words.target, words.given) as question:
        operator = matrix_of(kind, words, question).at(*question.args, **question.kwargs)
        found = (_of_hessian if kind == "hessian" else _of_jacobian)(operator, top, probes, steps, budget, words.seed)
        data = {"kind": kind, "target": question.target.text, "shape": list(operator.shape), **_data(found)}
        if path and path.suffix.lower() == ".png":
            _draw(found, path)
    if path and path.suffix.lower() == ".json":
        path.write_text(show.as_json(data), encoding="utf-8")
    if words.json:
        show.machine(data)
        return
    show.text(repr(operator), style="bold")
    for part in found.values():
        show.text("")
        show.text(str(part))
    if path:
        show.text(f"written to {path}")


def _of_hessian(operator: Operator, top: int, probes: int, steps: int, budget: int | None, seed: int) -> dict[str, Any]:
    n = operator.shape[0]
    return {
        "eigenvalues": operator.eigsh(min(top, n), budget=budget, seed=seed),
        "trace": _Named("trace", operator.trace(budget=budget or 100, seed=seed)),
        "density": operator.spectral_density(probes, min(steps, n), budget=budget, seed=seed),
    }


def _of_jacobian(
    operator: Operator, top: int, probes: int, steps: int, budget: int | None, seed: int
) -> dict[str, Any]:
    return {
        "singular_values": operator.svds(min(top, *operator.shape), budget=budget, seed=seed),
        "frobenius_norm": _Named("Frobenius norm", operator.frobenius_norm(budget=budget or 100, seed=seed)),
    }


class _Named:
    """An estimate with its name in front."""

    def __init__(self, name: str, estimate: Estimate) -> None:
        self.name, self.estimate = name, estimate

    def __str__(self) -> str:
        return f"{self.name}  {self.estimate}"


def _data(found: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, part in found.items():
        if isinstance(part, _Named):
            estimate = part.estimate
            data[name] = {"value": estimate.value, "stderr": estimate.stderr,
                          "products": estimate.products, "method": estimate.method}  # fmt: skip
        elif name == "density":
            curve = part.grid()
            data[name] = {"x": curve.x.tolist(), "density": curve.density.tolist(), "stderr": curve.stderr.tolist(),
                          "probes": part.probes, "steps": part.steps, "products": part.products}  # fmt: skip
        else:
            data[name] = {"values": part.values.tolist(), "residuals": part.residuals.tolist(),
                          "products": part.products}  # fmt: skip
    return data


def _draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    drawn = [part for part in found.values() if hasattr(part, "plot")]
    figure = Figure(figsize=(_SIZE[0] * len(drawn) / 2, _SIZE[1]), layout="constrained")
    for ax, part in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        part.plot(ax)
    figure.savefig(path, dpi=_DPI)
