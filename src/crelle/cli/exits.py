"""How a command ends: the exit codes, and what is printed of an exception under each."""

from __future__ import annotations

import errno
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, TextIO

import typer

from crelle._errors import CrelleCheckError, CrelleError, CrelleWarning


class Code(IntEnum):
    """The exit codes, as ``crelle --help`` lists them."""

    OK = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    FUNCTION_RAISED = 3
    UNEXPECTED = 4
    INTERRUPTED = 130


MEANINGS = {
    Code.OK: "all went well",
    Code.CHECK_FAILED: "a check failed: a derivative is wrong",
    Code.BAD_INPUT: "unusable target, input or option, or something that is not installed",
    Code.FUNCTION_RAISED: "your function, or the module that it is in, raised an exception",
    Code.UNEXPECTED: "an error inside Crelle or a framework",
}

_CRELLE = str(Path(__file__).parents[1])
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Run a command: exceptions become a text on stderr and an exit code, Crelle's warnings one line each.

    Args:
        debug: show every exception with its whole traceback.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always", CrelleWarning)
        warnings.showwarning = _show_warning
        try:
            yield
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(Code.INTERRUPTED) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            code, text = _account(error)
            _say("".join(traceback.format_exception(error)).rstrip() if debug else text)
            raise typer.Exit(code) from None


def _account(error: Exception) -> tuple[Code, str]:
    """The exit code of an exception, and what to print of it."""
    if isinstance(error, CrelleCheckError):
        return Code.CHECK_FAILED, str(error)
    if isinstance(error, CrelleError):
        return Code.BAD_INPUT, str(error)
    own = trimmed(error)
    if own is not None:
        return Code.FUNCTION_RAISED, own
    if isinstance(error, OSError) and error.filename:
        return Code.BAD_INPUT, f"{error.filename}: {error.strerror}"
    whole = "".join(traceback.format_exception(error)).rstrip()
    return (
        Code.UNEXPECTED,
        f"{whole}\n\nThis was not raised by your function. If you think that Crelle is to blame, report it.",
    )


def trimmed(error: BaseException) -> str | None:
    """The traceback of an exception with the user's own frames only, or ``None`` if there are none."""
    report = traceback.TracebackException.from_exception(error, compact=True)
    found = isinstance(error, SyntaxError) and _is_own(error.filename or "")
    part: Any = report
    while part is not None:
        part.stack = traceback.StackSummary.from_list([frame for frame in part.stack if _is_own(frame.filename)])
        found = found or bool(part.stack)
        # JAX says that it has hidden frames: here all but the user's are hidden anyway
        part.__notes__ = [note for note in part.__notes__ or () if "JAX has removed" not in note] or None
        if part.__cause__ is not None and _is_frameworks_note(part.__cause__):
            part.__cause__ = None
        part = part.__cause__ or part.__context__
    return "".join(report.format()).rstrip() if found else None


def _is_frameworks_note(report: traceback.TracebackException) -> bool:
    """Whether a cause is no error but JAX's way to keep the frames that it hides."""
    return getattr(report.exc_type, "__module__", "").startswith("jax") and "JAX has removed" in str(report)


def _is_own(filename: str) -> bool:
    return not filename.startswith(("<", _CRELLE, *_LIBRARIES))


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, CrelleWarning):
        _say(f"warning: {message}")
    else:
        _say(warnings.formatwarning(message, category, filename, lineno, line).rstrip())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
