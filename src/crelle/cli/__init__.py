"""The command ``crelle``. This file only opens the door, and says what is missing where it cannot."""

from __future__ import annotations

import sys

from crelle._errors import missing_extra

#: Packages of the extra ``cli``.
_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; exits with the codes that ``crelle --help`` lists."""
    try:
        from crelle.cli.app import app
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        print(missing_extra(package, "cli", "the command crelle"), file=sys.stderr)
        raise SystemExit(2) from None
    app(prog_name="crelle")
