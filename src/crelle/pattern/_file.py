"""Patterns in files: a ``.npz`` archive with a name and a version, and no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crelle._errors import CrelleError, CrelleValueError, describe
from crelle.pattern._csr import Ints, Shape

if TYPE_CHECKING:
    from crelle.pattern._pattern import SparsityPattern

_NAME, _VERSION = "crelle.SparsityPattern", 1


def write(path: str | Path, shape: Shape, indptr: Ints, indices: Ints) -> None:
    """Write the arrays under exactly this name."""
    with Path(path).open("wb") as file:  # a name would get the suffix .npz
        np.savez(
            file,
            format=np.array(_NAME),
            version=np.array(_VERSION),
            shape=np.array(shape, np.int64),
            indptr=indptr,
            indices=indices,
        )


def read(path: str | Path, cls: type[SparsityPattern]) -> SparsityPattern:
    """The pattern in this file, checked like one that is given by hand."""
    with Path(path).open("rb") as file:
        try:
            if file.read(4) != b"PK\x03\x04":  # NumPy would take it for a pickle, and advise to allow that
                raise ValueError("it does not begin like a .npz file")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            name, version = str(archive["format"]), int(archive["version"])
            found = {key: archive[key] for key in ("shape", "indptr", "indices")} if version == _VERSION else None
        except MemoryError:
            raise
        except Exception as error:  # damaged bytes surface as whatever NumPy, zipfile or zlib stumbled over
            reason = str(error).partition(". ")[0]  # what follows is advice on how to trust the file
            raise CrelleValueError(
                describe(
                    f"{path} is not a saved SparsityPattern",
                    expected="a file that SparsityPattern.save wrote",
                    likely=f"it is truncated, or something else ({type(error).__name__}: {reason})",
                    try_="make the pattern again and save it; arrays of your own go to SparsityPattern.from_",
                )
            ) from None
    if name != _NAME:
        raise CrelleValueError(
            describe(f"{path} holds {name!r}, not a SparsityPattern", expected="a file that SparsityPattern.save wrote")
        )
    if found is None:
        raise CrelleValueError(
            describe(
                f"{path} is a SparsityPattern of format {version}, and this version of Crelle reads format {_VERSION}",
                likely="it was written by a newer Crelle" if version > _VERSION else None,
                try_="update Crelle, or make the pattern again and save it",
            )
        )
    try:
        return cls(found["shape"].tolist(), found["indptr"], found["indices"])
    except CrelleError as error:
        raise CrelleValueError(f"{path} holds a pattern that is not valid: {error}") from None
