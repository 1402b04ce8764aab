"""Which framework a function is written in, where its arguments do not say: JAX takes NumPy arrays and numbers, too."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

from crelle.backends import framework_of

#: How deep functions that call functions are followed.
_DEPTH = 4
_known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def returns_jax_arrays(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], only_named: bool) -> bool:
    """Whether f, called with NumPy arrays or numbers, returns arrays of JAX. Evaluates f once, remembered by its code.

    Args:
        only_named: do not evaluate f if JAX is not named in it: a NumPy function may take long.
    """
    if "jax" not in sys.modules:
        return False
    inner = _unwrapped(f)
    if _is_of_jax(inner):
        return True
    code = getattr(inner, "__code__", None)
    found = None if code is None else _known.get(code)
    if found is None:
        try:
            worth_a_call = not only_named or _names_jax(inner, _DEPTH)
            found = worth_a_call and any(framework_of(leaf) == "jax" for leaf in _leaves(f(*args, **kwargs)))
        except Exception:  # it will be raised again, where f is called in earnest
            return False
        if code is not None:
            _known[code] = found
    return found


def _unwrapped(f: Any) -> Any:
    """The function inside of partials, methods and decorators, unless one of them is JAX's own."""
    while not _is_of_jax(f):
        if isinstance(f, functools.partial):
            f = f.func
        elif isinstance(f, types.MethodType):
            f = f.__func__
        elif hasattr(f, "__wrapped__"):
            f = f.__wrapped__
        else:
            break
    return f


def _names_jax(f: Any, depth: int) -> bool:
    """Whether f, or a function that it calls by a name, mentions something of JAX."""
    f = _unwrapped(f)
    if _is_of_jax(f) or depth == 0:
        return _is_of_jax(f)
    if not isinstance(f, types.FunctionType):
        call = type(f).__dict__.get("__call__")
        return isinstance(call, types.FunctionType) and _names_jax(call, depth - 1)
    held = [f.__globals__.get(name) for name in _global_names(f.__code__)]
    for cell in f.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return any(_is_of_jax(v) or (callable(v) and _names_jax(v, depth - 1)) for v in held)


def _global_names(code: types.CodeType) -> set[str]:
    inner = [_global_names(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*inner)


def _is_of_jax(value: Any) -> bool:
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    roots = {str(name).partition(".")[0], type(value).__module__.partition(".")[0]}
    return not roots.isdisjoint(("jax", "jaxlib"))


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for item in tree for leaf in _leaves(item)]
    return [tree]
