"""Exceptions and warnings, and the one way their texts are laid out. No checks live here."""

from __future__ import annotations


class CrelleError(Exception):
    """Base class of everything Crelle raises on purpose."""


class CrelleTypeError(CrelleError, TypeError):
    """An argument of the wrong kind: not a function, not an array, an integer input, mixed frameworks."""


class CrelleValueError(CrelleError, ValueError):
    """An argument of the right kind with a value that cannot be used."""


class CrelleShapeError(CrelleValueError):
    """Shapes or dtypes that do not fit: a non-scalar output, a plan made for other inputs."""


class CrelleMemoryError(CrelleError, MemoryError):
    """The memory budget is too small for even one pass."""


class CrelleCheckError(CrelleError):
    """A computed derivative disagrees with an independently computed product."""


class CrelleSolveError(CrelleError):
    """A system of equations was not solved as exactly as was asked for; the message says what to change."""


class CrelleImportError(CrelleError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""


class CrelleWarning(UserWarning):
    """Base class of Crelle's warnings."""


class CrelleNonFiniteWarning(CrelleWarning):
    """The function's value or its derivative holds NaN or inf."""


for _cls in list(globals().values()):
    if isinstance(_cls, type) and issubclass(_cls, (CrelleError, CrelleWarning)):
        _cls.__module__ = "crelle"  # tracebacks then print the public name


def describe(headline: str, **lines: str | None) -> str:
    """Lay out an error: a headline, then one aligned line per keyword that is not None.

    The keywords in use are ``called`` (what was called, with shapes), ``expected``, ``likely`` (the cause) and
    ``try_`` (what to change); the trailing underscore is dropped.

    >>> print(describe("f is not a function", expected="a callable", try_="pass f, not f(x)"))
    f is not a function
      expected  a callable
      try       pass f, not f(x)
    """
    rows = [(key.rstrip("_"), text) for key, text in lines.items() if text is not None]
    width = max((len(key) for key, _ in rows), default=0)
    indent = "\n" + " " * (width + 4)
    return "\n".join([headline] + [f"  {key:<{width}}  {text.replace(chr(10), indent)}" for key, text in rows])


def missing_extra(package: str, extra: str, purpose: str) -> CrelleImportError:
    """The error for an optional dependency that is not installed."""
    return CrelleImportError(
        describe(f"{purpose} needs {package}, which is not installed", try_=f'pip install "crelle[{extra}]"')
    )
