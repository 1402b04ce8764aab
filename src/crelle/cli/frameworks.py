"""Which framework a target is written in, and arrays made in it: the command line has texts where the API has arrays.

This is the one place of the command line that imports a framework, and only the one that is needed.
"""

# ruff: noqa: TID251

from __future__ import annotations

import dis
import functools
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from crelle._errors import CrelleValueError, describe, missing_extra
from crelle.backends import framework_of, get_backend
from crelle.cli.targets import Target

FRAMEWORKS = ("jax", "torch", "numpy")

#: How ``--framework auto`` decides; the first rule that gives an answer wins. Shown by ``--help``.
RULE = (
    "auto takes the first of these that says something: a .pt file or an nn.Module (torch); the annotations of the "
    "parameters; what the function, and the functions it calls, use by name; what its module imports; else numpy. "
    "jax and torch win over numpy"
)


def require(name: str, purpose: str) -> None:
    """Raise the error that names the extra, if the framework is not installed."""
    if importlib.util.find_spec(name) is None:
        raise missing_extra(name, name, purpose)


def detect(target: Target, arguments: list[Any]) -> str:
    """The framework of a target, by :data:`RULE`.

    Args:
        arguments: the leaves of the inputs that are arrays already, such as those of a ``.pt`` file.

    Raises:
        CrelleValueError: one rule finds both JAX and PyTorch.
    """
    f = target.f
    rules: list[tuple[str, Callable[[], set[str]]]] = [
        ("its inputs", lambda: {"torch"} if any(framework_of(a) == "torch" for a in [*arguments, f]) else set()),
        ("its annotations", lambda: _annotated(f)),
        ("its code", lambda: _used(f)),
        ("its module", lambda: _named_in(vars(target.module).values())),
    ]
    for where, rule in rules:
        found = rule()
        if found >= {"jax", "torch"}:
            raise CrelleValueError(
                describe(
                    f"{target.text}: {where} names both JAX and PyTorch",
                    expected="arrays of one framework",
                    try_="--framework jax or --framework torch",
                )
            )
        for name in FRAMEWORKS:
            if name in found:
                return name
    return "numpy"


def _root(value: Any) -> str | None:
    """The framework that a value comes from: a module, a class, a function or an array of it, or what it wraps."""
    own = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    for name in (own, type(value).__module__):
        first = str(name).partition(".")[0]
        first = "jax" if first == "jaxlib" else first
        if first in FRAMEWORKS:
            return first
    return None


def _named_in(values: Any) -> set[str]:
    return {name for value in values if (name := _root(value))}


def _annotated(f: Callable[..., Any]) -> set[str]:
    try:
        annotations = inspect.signature(f, eval_str=True).parameters.values()
    except Exception:  # a name that only a type checker knows: the text is all there is
        try:
            annotations = inspect.signature(f).parameters.values()
        except (TypeError, ValueError):
            return set()
    found = set()
    for parameter in annotations:
        note = parameter.annotation
        if isinstance(note, str):
            aliases = {"jnp": "jax", "np": "numpy"}
            first = note.partition(".")[0]
            found |= {aliases.get(first, first)} & set(FRAMEWORKS)
        elif note is not inspect.Parameter.empty:
            found |= _named_in([note, *getattr(note, "__args__", ())])
    return found


def _used(f: Callable[..., Any]) -> set[str]:
    """Frameworks whose names appear in the code of f, or of a function that it calls by a global name."""
    found: set[str] = set()
    seen: set[int] = set()
    stack: list[Any] = [f]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, functools.partial):
            stack += [value.func, *value.args, *value.keywords.values()]
            continue
        name = _root(value)
        if name:
            found.add(name)
        inner = inspect.unwrap(value) if callable(value) else value  # jax.jit and the like wrap a function of the user
        if inner is not value and not isinstance(inner, functools.partial):
            stack.append(inner)
        if isinstance(inner, types.MethodType):
            inner = inner.__func__
        elif not isinstance(inner, types.FunctionType) and not isinstance(inner, (type, types.ModuleType)):
            inner = inspect.getattr_static(type(inner), "__call__", None)
        if isinstance(inner, types.FunctionType) and _root(inner) is None:
            stack += _globals_of(inner.__code__, inner, found)
            stack += _captured(inner)
    return found


def _globals_of(code: types.CodeType, f: types.FunctionType, found: set[str]) -> list[Any]:
    values = []
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            found |= {str(step.argval).partition(".")[0]} & set(FRAMEWORKS)
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in f.__globals__:
            values.append(f.__globals__[step.argval])
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            values += _globals_of(constant, f, found)
    return values


def _captured(f: types.FunctionType) -> Iterator[Any]:
    for cell in f.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue


def array(framework: str, values: np.ndarray[Any, Any], dtype: str) -> Any:
    """An array of a framework from NumPy values and the name of a dtype.

    Raises:
        CrelleValueError: the framework has no such dtype.
    """
    if framework == "jax":
        import jax
        import jax.numpy as jnp

        return jnp.asarray(values, dtype=jax.dtypes.canonicalize_dtype(dtype))
    if framework == "torch":
        import torch

        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype):
            raise _no_dtype(framework, dtype)
        return torch.tensor(values).to(kind)
    if dtype == "bfloat16":  # known to NumPy by accident, where JAX has been imported
        raise _no_dtype(framework, dtype)
    return values.astype(dtype)


def _no_dtype(framework: str, dtype: str) -> CrelleValueError:
    return CrelleValueError(describe(f"{framework} has no dtype {dtype}", try_="f32 or f64"))


def to_numpy(leaf: Any) -> np.ndarray[Any, Any]:
    """The values of an array of any framework, or of a number; bfloat16 widens to float32 where NumPy lacks it."""
    if framework_of(leaf) == "torch":
        leaf = leaf.detach().cpu().resolve_conj().resolve_neg()
        leaf = leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf
        return np.asarray(leaf.numpy())
    values = np.asarray(leaf)
    return values.astype(np.float32) if values.dtype.name == "bfloat16" else values


def as_framework(framework: str, leaf: Any) -> Any:
    """A leaf that is an array of another framework, moved to this one; anything else is kept."""
    owner = framework_of(leaf)
    if owner is None or owner == framework:
        return leaf
    kind = get_backend(owner).array_type(leaf)
    return array(framework, to_numpy(leaf), kind.dtype)


def parameter_dtype(f: Any) -> str | None:
    """The dtype of the first floating-point parameter of a module, ``None`` for anything else."""
    if framework_of(f) == "torch" and hasattr(f, "parameters"):
        for parameter in f.parameters():
            if parameter.dtype.is_floating_point:
                return str(parameter.dtype).removeprefix("torch.")
    return None


@contextmanager
def precision(x64: bool | None) -> Iterator[None]:
    """JAX computes in float64 (True), in float32 (False), or as it is set up (None); undone at the end.

    JAX need not be imported yet, nor be installed.
    """
    if x64 is None:
        yield
        return
    variable, loaded = "JAX_ENABLE_X64", sys.modules.get("jax")
    before = loaded.config.jax_enable_x64 if loaded else None
    environment = os.environ.get(variable)
    os.environ[variable] = str(int(x64))  # before the import of the target, so that its own constants follow
    if loaded:
        loaded.config.update("jax_enable_x64", x64)
    try:
        yield
    finally:
        if environment is None:
            del os.environ[variable]
        else:
            os.environ[variable] = environment
        if loaded:
            loaded.config.update("jax_enable_x64", before)


def installed() -> list[dict[str, Any]]:
    """For every framework: whether it is there, its version, devices and threads. Imports all of them."""
    return [{"name": name, **_look(name)} for name in FRAMEWORKS]


def _look(name: str) -> dict[str, Any]:
    if importlib.util.find_spec(name) is None:
        return {"installed": False, "remedy": f'pip install "crelle[{name}]"'}
    try:
        if name == "jax":
            import jax

            x64 = jax.dtypes.canonicalize_dtype("float64") == np.float64
            devices = [f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()]
            return {
                "installed": True,
                "version": jax.__version__,
                "devices": devices,
                "x64": x64,
            }
        if name == "torch":
            import torch

            devices = ["cpu"]
            devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
            devices += ["mps"] * torch.backends.mps.is_available()
            threads = torch.get_num_threads()
            return {"installed": True, "version": torch.__version__, "devices": devices, "threads": threads}
        return {"installed": True, "version": np.__version__, "devices": ["cpu"]}
    except Exception as error:  # a broken installation is a finding here, not a failure
        return {"installed": False, "remedy": f"importing it fails: {type(error).__name__}: {error}"}
