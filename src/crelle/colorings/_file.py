"""Colourings in files, with their pattern: a ``.npz`` archive with a name and a version, and no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crelle._errors import CrelleValueError, describe

_NAME, _VERSION = "crelle.Coloring", 1
_WHAT = {"expected": "a file that Coloring.save wrote"}


def write(path: str | Path, arrays: dict[str, Any]) -> None:
    """Write the arrays under exactly this name."""
    with Path(path).open("wb") as file:  # a name would get the suffix .npz
        np.savez(file, format=np.array(_NAME), version=np.array(_VERSION), **arrays)


def read(path: str | Path) -> dict[str, Any]:
    """The arrays of a file that is what it should be."""
    with Path(path).open("rb") as file:
        try:
            if file.read(4) != b"PK\x03\x04":  # NumPy would take it for a pickle, and advise to allow that
                raise ValueError("it does not begin like a .npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                name, version = str(archive["format"]), int(archive["version"])
                found = {key: archive[key] for key in archive.files} if (name, version) == (_NAME, _VERSION) else {}
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes surface as whatever NumPy, zipfile or zlib stumbled over
            reason = str(error).partition(". ")[0]  # what follows is advice on how to trust the file
            raise CrelleValueError(
                describe(
                    f"{path} is not a saved Coloring",
                    **_WHAT,
                    likely=f"it is truncated, or something else ({type(error).__name__}: {reason})",
                    try_="make the colouring again and save it",
                )
            ) from None
    if name != _NAME:
        raise CrelleValueError(describe(f"{path} holds {name!r}, not a Coloring", **_WHAT))
    if version != _VERSION:
        raise CrelleValueError(
            describe(
                f"{path} is a Coloring of format {version}, and this version of Crelle reads format {_VERSION}",
                likely="it was written by a newer Crelle" if version > _VERSION else None,
                try_="update Crelle, or make the colouring again and save it",
            )
        )
    return found
