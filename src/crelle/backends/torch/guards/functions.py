"""Functions and what they can see: code, closure cells, defaults, globals, Python modules."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import sys
import types
from collections.abc import Iterable
from typing import Any

from crelle.backends.torch.guards.code import (
    DYNAMIC,
    USER,
    Reads,
    code_kind,
    impure_class,
    impure_function,
    module_kind,
)
from crelle.backends.torch.guards.plain import is_plain
from crelle.backends.torch.guards.walk import Space, Walk, join, quoted, visits


@visits(types.FunctionType)
def visit_function(walk: Walk, value: types.FunctionType, source: str, label: str, everything: bool) -> None:
    """A Python function: equal code, and from when it runs, all that it can see."""
    program, code = walk.program, value.__code__
    if impure_function(value):
        walk.refuse(f"uses {label}")
    kind = code_kind(code, value.__globals__.get("__name__"))
    if kind != USER and not value.__closure__:
        program.fail_if(f"{source} is not {program.constant(value)}", label)
        return
    variable, label = walk.name(value, source, label), label or value.__name__
    k = program.constant(code)
    program.fail_if(
        f"{variable}.__class__ is not Function or {variable}.__code__ is not {k} and {variable}.__code__ != {k}", label
    )
    if kind != USER:  # a wrapper made by a library: what it wraps is used out of sight
        _cells(walk, value, variable, Reads(), True)
        return
    program.fail_if(f"len({variable}.__dict__) != {len(value.__dict__)}", label)
    if value.__dict__:
        walk.open(Space(value.__dict__, lambda name: f"{variable}.__dict__[{name!r}]", label))
    walk.when_runs(code, lambda: _expand(walk, value, variable, label))


def _expand(walk: Walk, value: types.FunctionType, variable: str, label: str) -> None:
    program, reads, code = walk.program, walk.reads_of(value.__code__), value.__code__
    _cells(walk, value, variable, reads, False)
    if value.__defaults__ is None:
        program.fail_if(f"{variable}.__defaults__ is not None", label)
    else:
        names = code.co_varnames[code.co_argcount - len(value.__defaults__) : code.co_argcount]
        held = program.let(f"{variable}.__defaults__", label)
        program.fail_if(f"len({held}) != {len(names)}", label)
        for i, (name, item) in enumerate(zip(names, value.__defaults__, strict=True)):
            walk.visit(item, f"{held}[{i}]", name)
    if value.__kwdefaults__ is None:
        program.fail_if(f"{variable}.__kwdefaults__ is not None", label)
    else:
        walk.visit(value.__kwdefaults__, f"{variable}.__kwdefaults__", label)
    _globals(walk, value.__globals__, f"{variable}.__globals__", reads, label)
    dynamic = not DYNAMIC.isdisjoint(reads.names | reads.globals.keys())
    for each in reads.imports:
        name = each.name
        if each.level:
            package = (value.__globals__.get("__package__") or "").split(".")
            name = ".".join(package[: len(package) - each.level + 1] + ([name] if name else []))
        visit_imported(walk, name, each.wanted, dynamic)


def _cells(walk: Walk, value: types.FunctionType, variable: str, reads: Reads, everything: bool) -> None:
    if not value.__closure__:
        return
    cells = walk.program.let(f"{variable}.__closure__", value.__name__)
    for i, (name, cell) in enumerate(zip(value.__code__.co_freevars, value.__closure__, strict=True)):
        if everything and name in _CACHE_CELLS:
            continue
        try:
            content = cell.cell_contents
        except ValueError:
            walk.refuse(f"reads {name!r}, which is not defined yet")
            return
        _variable(walk, content, f"{cells}[{i}].cell_contents", name, reads.cells.get(name, {()}), everything)


def _globals(walk: Walk, scope: dict[str, Any], source: str, reads: Reads, label: str) -> None:
    program = walk.program
    variable = walk.scopes.get(id(scope))
    if variable is None:
        variable = walk.scopes[id(scope)] = program.let(source, label)
        walk.keep(scope, variable)
    else:
        program.fail_if(f"{source} is not {variable}", label)
    missing = []
    for name, chains in reads.globals.items():
        first = (id(scope), name) not in walk.read_globals
        walk.read_globals.add((id(scope), name))
        if name not in scope:
            if first:
                missing.append(name)
        elif first or isinstance(scope[name], types.ModuleType):
            _variable(walk, scope[name], f"{variable}[{name!r}]", name, chains, False)
        else:
            walk.add_names({part for chain in chains for part in chain})
    if missing:  # built-in functions, as long as no global hides them
        hidden = program.constant(frozenset(missing))
        program.fail_if(f"not {hidden}.isdisjoint({variable})", " or ".join(sorted(missing)))


def _variable(
    walk: Walk, value: Any, source: str, label: str, chains: Iterable[tuple[str, ...]], everything: bool
) -> None:
    """A variable, and the chains of attributes that follow it in code."""
    if isinstance(value, types.ModuleType):
        for chain in sorted(chains):
            _chain(walk, value, source, label, chain)
    else:
        walk.visit(value, source, label, everything)
        walk.add_names({part for chain in chains for part in chain})


# -- Python modules


def _module_name(walk: Walk, module: types.ModuleType, source: str, label: str) -> str:
    """A variable for a module; checks that ``source`` still is that module."""
    variable = walk.seen.get(id(module))
    if variable is None:
        variable = walk.name(module, source, label)
        walk.program.fail_if(f"{variable} is not {walk.program.weak(module)}", label)
    else:
        walk.program.fail_if(f"{source} is not {variable}", label)
    return variable


def visit_python_module(walk: Walk, value: types.ModuleType, source: str, label: str, everything: bool) -> None:
    """A module that is used as an object: whichever of its names occur."""
    _open_module(walk, value, source, label, dynamic=True)


def _open_module(walk: Walk, module: types.ModuleType, source: str, label: str, dynamic: bool) -> None:
    variable = _module_name(walk, module, source, label)
    if module_kind(module.__name__) != USER:
        return
    space = walk.modules.get(id(module))
    if space is None:
        names = walk.program.let(f"{variable}.__dict__", label)
        space = Space(module.__dict__, lambda name: f"{names}[{name!r}]", label, dynamic=dynamic, skip=_MODULE_PLUMBING)
        walk.modules[id(module)] = space
        walk.open(space)
    elif dynamic and not space.dynamic:
        space.dynamic = True
        walk.look(space, ())


def _chain(walk: Walk, module: types.ModuleType, source: str, label: str, chain: tuple[str, ...]) -> None:
    """Follow ``module.name.name...`` to what it ends at."""
    if not chain:
        walk.visit(module, source, label)
        return
    name, rest = chain[0], chain[1:]
    walk.notice((name,))
    variable = _module_name(walk, module, source, label)
    here, inner = f"{variable}.{name}", join(label, name)
    try:
        value = getattr(module, name)
    except AttributeError:
        walk.program.fail_if(f"hasattr({variable}, {name!r})", inner)
        return
    if isinstance(value, types.ModuleType):
        _chain(walk, value, here, inner, rest)
        return
    if module_kind(module.__name__) == USER:
        walk.visit(value, here, inner)
    else:
        visit_library_value(walk, value, here, inner)
    walk.add_names(set(rest))


def visit_library_value(walk: Walk, value: Any, source: str, label: str) -> None:
    """An attribute of a library's module: replaced by nobody but a monkeypatch."""
    impure = isinstance(value, os._Environ) or value is sys.modules or impure_function(value)
    if impure or (isinstance(value, type) and impure_class(value)):
        walk.refuse(f"uses {label}")
    elif isinstance(value, types.FunctionType) and code_kind(value.__code__, value.__globals__.get("__name__")) == USER:
        walk.visit(value, source, label)
    elif isinstance(value, (list, dict, set)) or is_plain(value):
        walk.visit(value, source, label, True)
    else:
        walk.program.fail_if(f"{source} is not {walk.program.constant(value)}", label)


def visit_imported(walk: Walk, name: str, wanted: tuple[str, ...], dynamic: bool) -> None:
    """A module imported by f: its ``wanted`` names, or it and the packages around it as objects.

    Looked at again after the run, if it is not there yet.
    """
    parts = name.split(".")
    paths = [name] if wanted else [".".join(parts[: i + 1]) for i in range(len(parts))]
    for path in paths:
        module = sys.modules.get(path)
        if not isinstance(module, types.ModuleType):
            walk.late_imports.append((name, wanted, dynamic))
        elif not wanted:
            _open_module(walk, module, walk.program.weak(module), path, dynamic)
        else:
            for each in wanted:
                _chain(walk, module, walk.program.weak(module), path, (each,))


# -- what is called like a function


def _parts(walk: Walk, value: Any, source: str, label: str, everything: bool, parts: tuple[str, ...]) -> None:
    variable = walk.name(value, source, label)
    walk.program.fail_if(f"{variable}.__class__ is not {walk.program.constant(type(value))}", label)
    for part in parts:
        inner = "self" if part == "__self__" and not label else label
        walk.visit(getattr(value, part), f"{variable}.{part}", inner, everything)


@visits(types.MethodType)
def visit_method(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A bound method."""
    _parts(walk, value, source, label, everything, ("__func__", "__self__"))


@visits(property)
def visit_property(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A property of a class."""
    _parts(walk, value, source, label, everything, ("fget", "fset"))


@visits(functools.cached_property)
def visit_cached_property(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A property that is kept by the instance once it is known."""
    _parts(walk, value, source, label, everything, ("func",))


@visits(contextlib._GeneratorContextManager)
def visit_context(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A context manager that decorates functions: it starts its generator anew at every call."""
    _parts(walk, value, source, label, everything, ("func", "args", "kwds"))


@visits(operator.attrgetter, operator.itemgetter, operator.methodcaller)
def visit_getter(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A function that looks up names, which it carries."""
    carried = value.__reduce__()[1]
    if not is_plain(carried):
        walk.refuse(f"captures {quoted(label)}, a {type(value).__name__} that carries objects")
        return
    walk.program.fail_if(f"{source} is not {walk.program.constant(value)}", label)
    walk.add_names({part for text in carried if isinstance(text, str) for part in text.split(".")})


@visits(staticmethod, classmethod)
def visit_static(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A function of a class."""
    _parts(walk, value, source, label, everything, ("__func__",))


@visits(functools.partial)
def visit_partial(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A function with some arguments."""
    _parts(walk, value, source, label, everything, ("func", "args", "keywords"))


@visits(
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
)
def visit_builtin(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A function written in C: the same one, or the same method of a guarded object."""
    if impure_function(value):
        walk.refuse(f"uses {label}")
        return
    owner = getattr(value, "__self__", None)
    if owner is None or isinstance(owner, (types.ModuleType, type)):
        walk.program.fail_if(f"{source} is not {walk.program.constant(value)}", label)
        return
    variable = walk.name(value, source, label)
    walk.program.fail_if(f"{variable}.__name__ != {value.__name__!r}", label)
    walk.visit(owner, f"{variable}.__self__", label, everything)


#: What ``functools.singledispatch`` remembers of its registry, which is guarded.
_CACHE_CELLS = ("dispatch_cache", "cache_token")
_MODULE_PLUMBING = frozenset(
    (
        "__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__path__",
        "__spec__",
    )
)  # fmt: skip
