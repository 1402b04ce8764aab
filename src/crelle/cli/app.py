"""The commands of ``crelle`` and their options; what they do is in ``answer``, ``demo`` and ``system``."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from crelle._version import __version__
from crelle.cli import answer, demo, spectrum, system
from crelle.cli.exits import MEANINGS, reporting
from crelle.cli.frameworks import RULE

# Brackets mean types here, f64[3,4], and extras, crelle[cli]: help is printed as it is written, not as markup.
app = typer.Typer(
    name="crelle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExit codes:\n" + "\n".join(f"  {int(code)}  {meaning}" for code, meaning in MEANINGS.items()),
)

#: ``-1.5`` is an input, not an option; an option that does not exist is found when the inputs are read.
_NUMBERS = {"ignore_unknown_options": True}

_HOW_TO_ASK = f"""\b
INPUTS are the arguments of the function, one after the other:
  f64[3,4]          normal random numbers; f64[3,4]@7 has its own seed
  x.npy x.npz x.pt  a file of arrays; x.npz:name takes one of several
  x.json  '[1, 2]'  JSON: a list of numbers is an array, a dict is a dict, and
  '{{"w": "f64[3]"}}' a text that is a spec is that array
  1.5               a number
  n=3               any of these for a keyword argument, which is held fixed

\b
Which framework the arrays are made in:
{textwrap.fill(RULE + ".", 76, initial_indent="  ", subsequent_indent="  ")}

Numbers and JSON that are differentiated become arrays of --dtype; without it, of a
module's parameters, else of the first other input with a floating dtype, else f64.
Elsewhere 3 stays a Python integer. What the function prints goes to stderr.
"""

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="module:function or file.py:function", show_default=False)
]
ByHand = Annotated[
    str, typer.Argument(metavar="DERIVATIVE", help="the derivative that you wrote, as a target", show_default=False)
]
Inputs = Annotated[
    list[str] | None, typer.Argument(metavar="INPUTS", help="the arguments of the function", show_default=False)
]
Framework = Annotated[str, typer.Option(metavar="NAME", help="auto, jax, torch or numpy")]
Argnums = Annotated[str, typer.Option(metavar="LIST", help="which inputs to differentiate: 0, or 0,2")]
Seed = Annotated[int, typer.Option(metavar="N", help="seed of the specs that carry none")]
Dtype = Annotated[str | None, typer.Option(metavar="TYPE", help="of numbers and JSON: f32, f64, c128, ...")]
X64 = Annotated[bool | None, typer.Option("--x64/--no-x64", help="JAX in float64 or not; on if an input is float64")]
Mode = Annotated[
    str, typer.Option(metavar="MODE", help="forward, reverse, ...; a wrong one lists those that there are")
]
Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="bound on the working set, such as 500MB")]
Chunk = Annotated[int | None, typer.Option(metavar="N", help="seeds in one batch")]
Rows = Annotated[str | None, typer.Option(metavar="ROWS", help="only these rows of the flat matrix: 3, or 0,2, or 1:5")]
Cols = Annotated[str | None, typer.Option(metavar="COLS", help="only these columns")]
Wrt = Annotated[str, typer.Option(metavar="WHAT", help="inputs, or params for those of an nn.Module")]
Flatten = Annotated[bool, typer.Option("--flatten", help="one flat matrix instead of the framework's shapes")]
Value = Annotated[bool, typer.Option("--value", help="also the value of the function")]
Error = Annotated[bool, typer.Option("--error", help="NumPy: also the estimated error of every entry")]
Holomorphic = Annotated[bool, typer.Option("--holomorphic", help="the function is a holomorphic one of complex inputs")]
Check = Annotated[bool, typer.Option("--check/--no-check", help="compare one random product with an independent one")]
Compile = Annotated[bool, typer.Option("--compile", help="PyTorch: compile the traced graph")]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
Out = Annotated[str | None, typer.Option(metavar="FILE", help="write the answer: .npy, .npz, .json or .pt")]
PlanOut = Annotated[str | None, typer.Option("--out", metavar="FILE.json", help="save the plan; Plan.load reads it")]
Analyze = Annotated[bool, typer.Option("--analyze", help="run every candidate and show measured times")]
Of = Annotated[str, typer.Option(metavar="KIND", help="jacobian, hessian or gradient")]
OfMatrix = Annotated[str, typer.Option("--of", metavar="KIND", help="jacobian or hessian")]
OfCurvature = Annotated[str, typer.Option("--of", metavar="KIND", help="hessian or jacobian")]
Top = Annotated[int, typer.Option(metavar="N", help="how many of the largest values")]
Probes = Annotated[int, typer.Option(metavar="N", help="random vectors for the density")]
Steps = Annotated[int, typer.Option(metavar="N", help="Lanczos steps from each")]
Budget = Annotated[int | None, typer.Option(metavar="N", help="products with the matrix, at most, for each question")]
SpectrumOut = Annotated[
    str | None, typer.Option("--out", metavar="FILE", help="save the picture (.png) or the numbers (.json)")
]
Local = Annotated[bool, typer.Option("--local", help="at these very inputs, and not for all of their shapes")]
All = Annotated[bool, typer.Option("--all", help="every line, however many there are")]
PatternOut = Annotated[
    str | None, typer.Option("--out", metavar="FILE", help="save the pattern (.npz) or its picture (.png)")
]
Kind = Annotated[str, typer.Option(metavar="KIND", help="what you wrote: jacobian, gradient, hessian, vjp, jvp or hvp")]
Rtol = Annotated[float | None, typer.Option(metavar="X", help="relative tolerance; sqrt(eps) if left out")]
Atol = Annotated[float | None, typer.Option(metavar="X", help="absolute tolerance; rounding of the largest entry")]
Worst = Annotated[int, typer.Option(metavar="N", help="how many of the worst entries to show")]
Folder = Annotated[Path, typer.Option(metavar="DIR", help="where figures and results go")]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="only problems with this in their name or framework; may be repeated"),
]
Debug = Annotated[bool, typer.Option("--debug", help="show whole tracebacks")]


def _words(ctx: typer.Context, *others: str) -> answer.Words:
    """The options of the command as typed, without those that only it has."""
    names = tuple(name for parameter in ctx.command.params for name in parameter.opts if name.startswith("--"))
    params = {key: value for key, value in ctx.params.items() if key not in ("debug", *others)}
    return answer.Words(**{**params, "options": names})


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"crelle {__version__}")
        raise typer.Exit


@app.callback()
def crelle(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Jacobians and Hessians of JAX, PyTorch and NumPy functions: planned, explained, checked.

    \b
    crelle demo                              a tour
    crelle plan maps.py:f f64[3]             how, and why
    crelle jacobian maps.py:f x.json --json  the answer
    """


@app.command("plan", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def plan_command(
    ctx: typer.Context, target: Target, inputs: Inputs = None, of: Of = "jacobian", analyze: Analyze = False,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    mode: Mode = "auto", memory: Memory = None, chunk: Chunk = None, rows: Rows = None, cols: Cols = None,
    wrt: Wrt = "inputs", flatten: Flatten = False, value: Value = False, error: Error = False,
    holomorphic: Holomorphic = False, check: Check = True, compile: Compile = False, json: Json = False,
    out: PlanOut = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Say how a derivative would be computed.

    Shows the method, what it costs, and why the others were rejected.
    """
    with reporting(debug):
        answer.plan(of, _words(ctx, "of"))


@app.command("pattern", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def pattern_command(
    ctx: typer.Context, target: Target, inputs: Inputs = None, of: OfMatrix = "jacobian", local: Local = False,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    wrt: Wrt = "inputs", json: Json = False, out: PatternOut = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Show where a derivative may be nonzero.

    Draws the pattern, and says what its structure is: bands, blocks, batches, what is constant, a bound on the rank.
    """
    with reporting(debug):
        answer.pattern(of, _words(ctx, "of", "local"), local)


@app.command("trace", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def trace_command(
    ctx: typer.Context, target: Target, inputs: Inputs = None, of: OfMatrix = "jacobian", local: Local = False,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    wrt: Wrt = "inputs", all: All = False, json: Json = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Show the chain rule: a derivative as a list of linear maps.

    One line for each: its structure, shapes, whether its coefficients are constant, what it costs.
    """
    with reporting(debug):
        answer.trace(of, _words(ctx, "of", "local", "all"), local, all)


@app.command("spectrum", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def spectrum_command(
    ctx: typer.Context, target: Target, inputs: Inputs = None, of: OfCurvature = "hessian", top: Top = 10,
    probes: Probes = 10, steps: Steps = 30, budget: Budget = None,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    wrt: Wrt = "inputs", json: Json = False, out: SpectrumOut = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Say what the eigenvalues of a Hessian are like.

    The largest ones with their residuals, the trace and the density with their errors, and a picture; of a Jacobian,
    the largest singular values. From products alone: the matrix is not formed unless it is small.
    """
    with reporting(debug):
        words = _words(ctx, "of", "top", "probes", "steps", "budget")
        spectrum.spectrum(of, words, top, probes, steps, budget)


@app.command("jacobian", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def jacobian_command(
    ctx: typer.Context, target: Target, inputs: Inputs = None,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    mode: Mode = "auto", memory: Memory = None, chunk: Chunk = None, rows: Rows = None, cols: Cols = None,
    wrt: Wrt = "inputs", flatten: Flatten = False, value: Value = False, error: Error = False,
    holomorphic: Holomorphic = False, check: Check = True, compile: Compile = False, json: Json = False,
    out: Out = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Compute a Jacobian."""
    with reporting(debug):
        answer.derivative("jacobian", _words(ctx))


@app.command("hessian", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def hessian_command(
    ctx: typer.Context, target: Target, inputs: Inputs = None,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    mode: Mode = "auto", memory: Memory = None, chunk: Chunk = None, rows: Rows = None, cols: Cols = None,
    wrt: Wrt = "inputs", flatten: Flatten = False, value: Value = False, error: Error = False,
    holomorphic: Holomorphic = False, check: Check = True, compile: Compile = False, json: Json = False,
    out: Out = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Compute the Hessian of a scalar function."""
    with reporting(debug):
        answer.derivative("hessian", _words(ctx))


@app.command("gradient", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def gradient_command(
    ctx: typer.Context, target: Target, inputs: Inputs = None,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    mode: Mode = "auto", memory: Memory = None, wrt: Wrt = "inputs", flatten: Flatten = False, value: Value = False,
    error: Error = False, holomorphic: Holomorphic = False, check: Check = True, compile: Compile = False,
    json: Json = False, out: Out = None, debug: Debug = False,
) -> None:  # fmt: skip
    """Compute the gradient of a scalar function."""
    with reporting(debug):
        answer.derivative("gradient", _words(ctx))


@app.command("check", context_settings=_NUMBERS, epilog=_HOW_TO_ASK)
def check_command(
    ctx: typer.Context, target: Target, by_hand: ByHand, inputs: Inputs = None, kind: Kind = "jacobian",
    worst: Worst = 5, rtol: Rtol = None, atol: Atol = None,
    framework: Framework = "auto", argnums: Argnums = "0", seed: Seed = 0, dtype: Dtype = None, x64: X64 = None,
    json: Json = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Check a derivative that you wrote by hand.

    It is called with the same inputs as the function and compared with a reference; the worst entries are shown.
    The exit code is 1 if they differ. A product (vjp, jvp, hvp) takes a vector after the inputs, which is drawn for it.
    """
    with reporting(debug):
        words = _words(ctx, "by_hand", "kind", "worst", "rtol", "atol")
        answer.check(words, by_hand, kind, {"rtol": rtol, "atol": atol}, worst)


@app.command("demo")
def demo_command(
    out: Folder = Path("crelle-demo"), only: Only = None, debug: Debug = False
) -> None:  # fmt: skip
    """Take a tour of a dozen problems.

    In three frameworks, each planned, run, checked and timed.

    Writes figures (PNG), plans (JSON), matrices (.npy) and a summary to a folder. The exit code is 1 if a check fails.
    """
    with reporting(debug):
        demo.run(out, only or [])


@app.command("info")
def info_command(json: Json = False, debug: Debug = False) -> None:
    """Show versions, frameworks, devices and threads."""
    with reporting(debug):
        system.info(json)
