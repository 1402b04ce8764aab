"""Targets on the command line: from ``module:function`` or ``file.py:function`` to the function."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from crelle._errors import CrelleTypeError, CrelleValueError, describe, missing_extra

FORMS = "module:function or file.py:function"
_EXTRAS = {"jax": "jax", "jaxlib": "jax", "torch": "torch"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a target names: the function, and the module that it was found in."""

    text: str
    f: Callable[..., Any]
    module: ModuleType

    @property
    def signature(self) -> inspect.Signature | None:
        """The parameters of the function, ``None`` where Python cannot tell."""
        try:
            return inspect.signature(self.f)
        except (TypeError, ValueError):
            return None


@dataclass(slots=True)
class Loader:
    """Loads targets; two targets in one file come from one module."""

    _modules: dict[str, ModuleType] = field(default_factory=dict)

    def load(self, text: str) -> Target:
        """The function that ``text`` names.

        Raises:
            CrelleValueError: no such module, file or function; close names are suggested.
            CrelleTypeError: it is there and is not a function.
            CrelleImportError: the module needs a framework that is not installed.
            Exception: whatever the module itself raises when it is imported.
        """
        place, colon, name = text.rpartition(":")
        if not colon or not place or not name:
            raise CrelleValueError(describe(f"{text!r} is not a target", expected=FORMS, try_=_missing_colon(text)))
        if place not in self._modules:
            self._modules[place] = _load(place, text)
        module = self._modules[place]
        return Target(text, _function(module, place, name, text), module)


def _load(place: str, text: str) -> ModuleType:
    try:
        return _load_file(Path(place), text) if _is_path(place) else _load_module(place, text)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            raise missing_extra(package, _EXTRAS[package], text) from None
        raise


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or os.sep in place


def _load_file(path: Path, text: str) -> ModuleType:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        near = difflib.get_close_matches(path.stem, [p.stem for p in folder.glob("*.py")], n=3, cutoff=0.6)
        raise CrelleValueError(
            describe(
                f"{text}: there is no file {path}",
                expected=FORMS,
                try_=" or ".join(f"{path.parent / name}.py:{text.rpartition(':')[2]}" for name in near) or None,
            )
        )
    path = path.resolve()
    name = path.stem
    found = sys.modules.get(name)
    if found is not None and getattr(found, "__file__", None) != str(path):
        name = f"crelle_target_{name}"  # the file is named like a module that is loaded, which must stay what it is
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CrelleValueError(describe(f"{text}: {path.name} is not a Python file", expected=FORMS))
    module = importlib.util.module_from_spec(spec)
    _look_in(path.parent)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str, text: str) -> ModuleType:
    _look_in(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        if name.partition(".")[0] in _EXTRAS:
            raise
        files = [p.stem for p in Path.cwd().glob("*.py")]
        near = difflib.get_close_matches(name, files, n=3, cutoff=0.6)
        raise CrelleValueError(
            describe(
                f"{text}: there is no module {error.name}",
                expected=f"{FORMS}; modules are looked for here and among what is installed",
                try_=" or ".join(f"{hit}:{text.rpartition(':')[2]}" for hit in near) or None,
            )
        ) from None


def _look_in(folder: Path) -> None:
    """Let the target import its neighbours, as Python does for a script."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _function(module: ModuleType, place: str, name: str, text: str) -> Callable[..., Any]:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = _functions(module) if found is module else [key for key in dir(found) if not key.startswith("_")]
            near = difflib.get_close_matches(part, known, n=3, cutoff=0.5)
            raise CrelleValueError(
                describe(
                    f"{text}: {place if found is module else name.rpartition('.')[0]} has no {part}",
                    expected=f"one of {', '.join(known[:12])}{', ...' * (len(known) > 12)}" if known else None,
                    try_=" or ".join(f"{place}:{hit}" for hit in near) if found is module and near else None,
                )
            ) from None
    if isinstance(found, type):
        raise CrelleTypeError(
            describe(
                f"{text} is a class, and a function is needed",
                likely="an nn.Module whose instance was meant",
                try_=f"make one in the file, {name.lower()} = {name}(...), and name that",
            )
        )
    if not callable(found):
        raise CrelleTypeError(
            describe(f"{text} is not a function but {found!r:.60} of type {type(found).__name__}", expected=FORMS)
        )
    result: Callable[..., Any] = found
    return result


def _functions(module: ModuleType) -> list[str]:
    """Names that may have been meant: what the module defines itself first, then the other callables in it."""
    names = [n for n, v in vars(module).items() if callable(v) and not isinstance(v, type) and not n.startswith("_")]
    own = [n for n in names if getattr(vars(module)[n], "__module__", None) == module.__name__]
    return own or names


def _missing_colon(text: str) -> str | None:
    if text.endswith(".py"):
        return f"{text}:NAME, with the name of a function in that file"
    place, dot, name = text.rpartition(".")
    return f"{place}:{name}" if dot and place and name else None
