"""Inputs on the command line: specs, files, numbers and JSON, read without any framework, then made into its arrays."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crelle._errors import CrelleValueError, describe, missing_extra
from crelle.cli import frameworks

#: What an input may be; shown by ``--help`` and by errors.
FORMS = "a spec such as f64[3,4] or f64[3,4]@7, a .npy, .npz, .pt or .json file, a number, or JSON"

DTYPES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "c64": "complex64", "c128": "complex128",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "u8": "uint8", "u16": "uint16", "u32": "uint32",
    "u64": "uint64", "bool": "bool",
}  # fmt: skip

_SPEC = re.compile(r"([a-z]+\d*)\[([\d\s,]*)\](?:@(\d+))?")
_LIKE_SPEC = re.compile(r"[A-Za-z]+\d*\[.*")
_KEYWORD = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)
_FILE = re.compile(r"(.+\.(?:npy|npz|pt|pth|json))(?::(.+))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Values:
    """An array that waits for its framework. Without a dtype it came from literals and takes the default."""

    values: np.ndarray[Any, Any]
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Input:
    """One input: a tree of :class:`Values`, framework arrays and plain values, and the keyword it was given for."""

    text: str
    tree: Any
    keyword: str | None = None


def read(texts: list[str], seed: int, options: tuple[str, ...] = ()) -> list[Input]:
    """All inputs of a command line.

    Args:
        seed: of the specs that carry none; the i-th input draws its own numbers from it.
        options: names of the command's options, to recognise one that was mistyped.

    Raises:
        CrelleValueError: an input that is none of :data:`FORMS`, or a file that cannot be read.
    """
    found = []
    for i, text in enumerate(texts):
        if text.startswith("--"):
            near = difflib.get_close_matches(text.partition("=")[0], options, n=1, cutoff=0.5)
            raise CrelleValueError(
                describe(
                    f"there is no option {text.partition('=')[0]}", try_=" or ".join(near) or "--help lists them all"
                )
            )
        match = _KEYWORD.fullmatch(text)
        keyword, body = (match[1], match[2]) if match else (None, text)
        found.append(Input(text, _tree(body, _seeds(seed, i)), keyword))
    return found


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a tree of dicts, lists and tuples."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def make(tree: Any, framework: str, dtype: str, differentiated: bool) -> Any:
    """The tree in a framework's arrays.

    Numbers and lists that were written out become arrays of ``dtype`` where they are differentiated. Elsewhere a number
    stays a Python number, and a list without a fraction becomes an array of integers: 3 may be a count.
    """
    if isinstance(tree, dict):
        return {key: make(value, framework, dtype, differentiated) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)([make(value, framework, dtype, differentiated) for value in tree])
    if not isinstance(tree, Values):
        return frameworks.as_framework(framework, tree)
    if tree.dtype is not None:
        return frameworks.array(framework, tree.values, tree.dtype)
    if differentiated:
        return frameworks.array(framework, tree.values, dtype)
    if tree.values.ndim == 0:
        return tree.values.item()
    return frameworks.array(framework, tree.values, dtype if tree.values.dtype.kind == "f" else tree.values.dtype.name)


def parse_spec(text: str, rng: Callable[[int | None], np.random.Generator]) -> Values | None:
    """``f64[3,4]@7`` as standard normal numbers of that seed, or ``None`` if the text is no spec at all.

    Integers are drawn from 0 to 9, booleans are fair coins.

    Raises:
        CrelleValueError: it looks like a spec and is wrong.
    """
    match = _SPEC.fullmatch(text)
    if match is None or match[1] not in DTYPES:
        if _LIKE_SPEC.fullmatch(text):
            raise _bad_spec(text, match[1] if match else None)
        return None
    try:
        shape = tuple(int(part) for part in match[2].split(",")) if match[2].strip() else ()
    except ValueError:
        raise _bad_spec(text, None) from None
    dtype = DTYPES[match[1]]
    draw = rng(int(match[3]) if match[3] else None)
    if dtype == "bool":
        values: np.ndarray[Any, Any] = draw.integers(0, 2, shape).astype(bool)
    elif "int" in dtype:
        values = np.asarray(draw.integers(0, 10, shape))
    elif "complex" in dtype:
        values = np.asarray(draw.standard_normal(shape) + 1j * np.asarray(draw.standard_normal(shape)))
    else:
        values = np.asarray(draw.standard_normal(shape))
    return Values(values, dtype)


def _bad_spec(text: str, dtype: str | None) -> CrelleValueError:
    near = difflib.get_close_matches(dtype, DTYPES, n=3, cutoff=0.4) if dtype else []
    return CrelleValueError(
        describe(
            f"{text!r} is not a spec" + (f": there is no dtype {dtype}" if dtype else ""),
            expected="DTYPE[SIZE,SIZE,...], optionally with @SEED: f64[3,4], f32[], c128[2]@7"
            + ("" if near else f"\nDTYPE is one of {', '.join(DTYPES)}"),
            try_=" or ".join(text.replace(dtype, hit, 1) for hit in near) if dtype and near else None,
        )
    )


def _seeds(seed: int, position: int) -> Callable[[int | None], np.random.Generator]:
    """One stream of random numbers for each input, so that a second input does not change the first."""
    stream = np.random.default_rng([seed, position])
    return lambda own: stream if own is None else np.random.default_rng(own)


def _tree(text: str, rng: Callable[[int | None], np.random.Generator]) -> Any:
    if (spec := parse_spec(text, rng)) is not None:
        return spec
    match = _FILE.fullmatch(text)
    if match:
        return _file(Path(match[1]), match[2], rng)
    try:
        data = json.loads(text)
    except ValueError:
        try:
            data = float(text)
        except ValueError:
            raise CrelleValueError(
                describe(
                    f"input {text!r} is none of the things an input can be",
                    expected=FORMS,
                    likely=_why(text),
                )
            ) from None
    return _from_json(data, text, rng)


def _why(text: str) -> str:
    if Path(text).exists():
        return "a file of another type; convert it, for example with numpy.save"
    if text[:1] in "[{(":
        return "JSON that the shell has taken apart, or Python that is not JSON: write '[1, 2]' or '{\"w\": [1, 2]}'"
    return "a path without its suffix, a text (write it as JSON, in double quotes), or a mistyped spec"


def _file(path: Path, key: str | None, rng: Callable[[int | None], np.random.Generator]) -> Any:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=3, cutoff=0.6)
        raise CrelleValueError(
            describe(f"there is no file {path}", try_=" or ".join(str(path.parent / name) for name in near) or None)
        )
    suffix = path.suffix.lower()
    try:
        tree = _READERS[suffix](path, rng)
    except CrelleValueError:
        raise
    except Exception as error:  # every library complains in its own way about a file that is not what its name says
        raise CrelleValueError(
            describe(f"{path} cannot be read as {suffix}", likely=f"{type(error).__name__}: {error}".splitlines()[0])
        ) from None
    if key is None:
        return tree
    if not isinstance(tree, dict) or key not in tree:
        names = ", ".join(map(str, tree)) if isinstance(tree, dict) else "one array"
        raise CrelleValueError(describe(f"{path} has no entry {key!r}", expected=f"it holds {names}"))
    return tree[key]


def _read_npy(path: Path, rng: Any) -> Any:
    return _known(np.load(path, allow_pickle=False))


def _read_npz(path: Path, rng: Any) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        return {name: _known(archive[name]) for name in archive.files}


def _read_json(path: Path, rng: Callable[[int | None], np.random.Generator]) -> Any:
    return _from_json(json.loads(path.read_text()), str(path), rng)


def _read_torch(path: Path, rng: Any) -> Any:
    try:
        import torch  # noqa: TID251 - only PyTorch reads its own files
    except ModuleNotFoundError:
        raise missing_extra("torch", "torch", f"reading {path}") from None
    return torch.load(path, map_location="cpu", weights_only=True)


_READERS: dict[str, Callable[[Path, Any], Any]] = {
    ".npy": _read_npy, ".npz": _read_npz, ".json": _read_json, ".pt": _read_torch, ".pth": _read_torch,
}  # fmt: skip


def _known(values: np.ndarray[Any, Any]) -> Values:
    return Values(values, values.dtype.name)


def _from_json(data: Any, text: str, rng: Callable[[int | None], np.random.Generator]) -> Any:
    """JSON as a tree: a list of numbers is an array, a text that is a spec is that array, a dict is a dict."""
    if isinstance(data, dict):
        return {key: _from_json(value, text, rng) for key, value in data.items()}
    if isinstance(data, list):
        flat = list(leaves(data))
        if all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in flat) and not _holds_dict(data):
            try:
                return _literal(data)
            except ValueError:
                raise CrelleValueError(
                    describe(
                        f"input {text[:60]!r}: the rows of a list have different lengths",
                        expected="a rectangular array, or a dict of arrays",
                    )
                ) from None
        return [_from_json(value, text, rng) for value in data]
    if isinstance(data, str):
        match = _SPEC.fullmatch(data)
        return parse_spec(data, rng) if match and match[1] in DTYPES else data
    if data is None or isinstance(data, bool):
        return data
    return _literal(data)


def _holds_dict(data: Any) -> bool:
    return isinstance(data, dict) or (isinstance(data, list) and any(map(_holds_dict, data)))


def _literal(data: Any) -> Values:
    values = np.asarray(data)
    if values.size and values.dtype.kind not in "iuf":  # integers beyond 64 bits
        values = values.astype(np.float64)
    return Values(values, None)
