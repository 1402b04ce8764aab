"""Answers as files: ``--out`` by the suffix of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crelle._errors import CrelleValueError, describe, missing_extra
from crelle.cli import show
from crelle.cli.frameworks import to_numpy

SUFFIXES = (".npy", ".npz", ".json", ".pt")


def checked_path(text: str | None, suffixes: tuple[str, ...] = SUFFIXES, *, value: bool = False) -> Path | None:
    """The path of ``--out``, or an error now and not after the computation."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() not in suffixes:
        raise CrelleValueError(
            describe(f"--out {text}: the suffix {path.suffix or 'is missing and'} says no format that can be written",
                     expected=", ".join(suffixes))
        )  # fmt: skip
    if not path.parent.is_dir():
        raise CrelleValueError(describe(f"--out {text}: there is no folder {path.parent}", try_="make it first"))
    if path.suffix.lower() == ".pt":
        _torch()
    if path.suffix.lower() == ".npy" and value:
        raise CrelleValueError(
            describe(f"--out {text}: a .npy file holds one array, and --value asks for two", try_=".npz, .json or .pt")
        )
    return path


def write(path: Path, kind: str, answer: Any, value: Any, data: dict[str, Any]) -> None:
    """Write an answer.

    Args:
        kind: its name inside archives: ``jacobian``, ``hessian``, ``gradient``.
        value: of the function, or ``None`` if it was not asked for.
        data: what ``--json`` prints, for ``.json``.
    """
    suffix = path.suffix.lower()
    named = {kind: answer} if value is None else {kind: answer, "value": value}
    if suffix == ".json":
        path.write_text(show.as_json(data))
    elif suffix == ".npz":
        arrays = {"/".join(keys): to_numpy(leaf) for keys, leaf in show.named_leaves(named)}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    elif suffix == ".pt":
        _torch().save(_tensors(answer if value is None else named), path)
    else:
        if isinstance(answer, (dict, list, tuple)):
            raise CrelleValueError(
                describe(f"--out {path}: a .npy file holds one array, and this answer is a tree of arrays",
                         try_=".npz, or --flatten for one matrix")
            )  # fmt: skip
        with path.open("wb") as file:
            np.save(file, to_numpy(answer), allow_pickle=False)


def _torch() -> Any:
    try:
        import torch  # noqa: TID251 - only PyTorch writes its own files
    except ModuleNotFoundError:
        raise missing_extra("torch", "torch", "writing .pt files") from None
    return torch


def _tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _tensors(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_tensors(value) for value in tree]
    return _torch().as_tensor(np.array(to_numpy(tree)))
