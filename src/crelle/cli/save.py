"""Answers as files: ``--out`` by the suffix of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crelle._errors import CrelleValueError, describe, missing_extra
from crelle.cli import show
from crelle.cli.frameworks import to_numpy

SUFFIXES = (".npy", ".npz", ".json", ".pt")


def checked_path(text: str | None, suffixes: tuple[str, ...] = SUFFIXES, *, single: bool = True) -> Path | None:
    """The path of ``--out``, or an error now and not after the computation.

    Args:
        single: the answer is a derivative alone, without value or error.
    """
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
    if path.suffix.lower() == ".npy" and not single:
        raise CrelleValueError(
            describe(
                f"--out {text}: a .npy file holds one array, and --value or --error asks for more",
                try_=".npz, .json or .pt",
            )
        )
    return path


def write(path: Path, parts: dict[str, Any], data: dict[str, Any]) -> None:
    """Write an answer.

    Args:
        parts: the derivative by its name, and the value and the error where they were asked for.
        data: what ``--json`` prints, for ``.json``.
    """
    suffix = path.suffix.lower()
    answer = next(iter(parts.values()))
    if suffix == ".json":
        path.write_text(show.as_json(data))
    elif suffix == ".npz":
        arrays = {"/".join(keys): to_numpy(leaf) for keys, leaf in show.named_leaves(parts)}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    elif suffix == ".pt":
        _torch().save(_tensors(answer if len(parts) == 1 else parts), path)
    elif isinstance(answer, (dict, list, tuple)):
        raise CrelleValueError(
            describe(
                f"--out {path}: a .npy file holds one array, and this answer is a tree of arrays",
                try_=".npz, or --flatten for one matrix",
            )
        )
    else:
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
