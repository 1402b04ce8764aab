"""What f can see besides its arguments: found by walking from f along the names that occur in the code that ran.

The walk starts before f runs and goes on whenever a function runs for the first time, before its body does: so what the
checks compare with is what f found, and what f changes shows as a check that fails right after the trace.
"""

from __future__ import annotations

import enum
import functools
import os
import sys
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crelle.backends.torch import module_captures
from crelle.backends.torch.code_reads import (
    DYNAMIC,
    LAYER,
    LIBRARY,
    MODULE_WALKS,
    USER,
    Reads,
    class_kind,
    code_kind,
    impure_class,
    impure_function,
    module_kind,
    reads_of,
)
from crelle.backends.torch.guard_program import Program
from crelle.backends.torch.plain import is_plain

#: More objects than this are not guarded: the checks would take as long as f.
MAX_OBJECTS = 10_000
#: Larger NumPy arrays are not compared by content.
MAX_ARRAY_BYTES = 1 << 20


@dataclass(slots=True)
class Captured:
    """A tensor that f can see: where the compiled checks have it, what it is called, and its version when found."""

    source: str
    tensor: Tensor
    label: str
    version: int


@dataclass(slots=True)
class Space:
    """Names that can be looked up on one object; those that occur in code are visited, the others wait.

    Attributes:
        items: the live mapping of names to values.
        source: gives source for a name.
        label: of the object.
        dynamic: whether reading by computed names reaches it.
        walked: whether walking over the parts of a module reaches it.
        everything: whether all names count as read.
        skip: names that are guarded otherwise.
    """

    items: Mapping[str, Any]
    source: Callable[[str], str]
    label: str
    dynamic: bool = True
    walked: bool = False
    everything: bool = False
    skip: frozenset[str] = frozenset()
    done: set[str] = field(default_factory=set)


class Captures:
    """The walk, and the program of checks that it writes.

    Attributes:
        program: the checks.
        tensors: captured tensors by ``id``.
        problem: why f cannot be guarded, or empty.
    """

    def __init__(self) -> None:
        self.program = Program()
        self.tensors: dict[int, Captured] = {}
        self.problem = ""
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []
        self._todo: deque[tuple[Any, str, str, bool]] = deque()
        self._spaces: list[Space] = []
        self._names: set[str] = set()
        self._dynamic = self._walks = False
        self._functions: dict[int, list[tuple[types.FunctionType, str, str]]] = {}
        self._found: set[int] = set()
        self._ran: dict[int, types.CodeType] = {}
        self._reads: dict[int, Reads] = {}
        self._scopes: dict[int, str] = {}
        self._read_globals: set[tuple[int, str]] = set()
        self._caches: list[tuple[Any, str, str]] = []
        self._late_imports: list[tuple[str, int, dict[str, Any]]] = []
        self.global_hooks_seen = False

    # -- what the recording tells

    def start(self, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Visit f, and those arguments that are neither tensors nor plain values nor trees of them."""
        self.visit(f, "f", "")
        for i, value in enumerate(args):
            if not _is_tree(value):
                self.visit(value, f"args[{i}]", f"argument {i}", True)
        for key, value in kwargs.items():
            if not _is_tree(value):
                self.visit(value, f"kwargs[{key!r}]", key, True)
        self._drain()

    def refuse(self, reason: str) -> None:
        """Give up: f cannot be guarded."""
        self.problem = self.problem or reason
        self._todo.clear()

    def ran(self, code: types.CodeType, kind: int, adapter: bool = False) -> None:
        """Code is about to run; ``adapter``: it need not be found from f."""
        if id(code) in self._ran or self.problem:
            return
        self._ran[id(code)] = code
        reads = self._reads_of(code)
        if kind == LAYER:
            walks = MODULE_WALKS | DYNAMIC if "/nn/modules/" in code.co_filename.replace(os.sep, "/") else frozenset()
            self._found.add(id(code))
            self._add_names(reads.names - walks)
        else:
            for inner in reads.inner:
                self._ran.setdefault(id(inner), inner)
                self._found.add(id(inner))
            heads = {*reads.globals, *reads.cells}
            self._notice(heads)
            if adapter:
                self._found.add(id(code))
            self._add_names({*reads.names, code.co_name})
            for each in (code, *reads.inner):
                for function, source, label in self._functions.pop(id(each), ()):
                    self._expand_function(function, source, label)
        self._drain()

    def finish(self) -> None:
        """All code has run: what has not been found by now cannot be guarded."""
        late, self._late_imports = self._late_imports, []
        for name, level, scope in late:
            self._import(name, level, scope)
        self._drain()
        for key, code in self._ran.items():
            if key not in self._found and not self.problem:
                self.refuse(f"calls {code.co_qualname}, which cannot be found from f")
        for cache, source, label in self._caches:
            # what it remembers cannot be seen; as long as it is not asked anything new it gives the same
            self.program.require(f"{source}.cache_info()[1:]", tuple(cache.cache_info()[1:]), label)
        for captured in self.tensors.values():
            if not self.problem and _version(captured.tensor) != captured.version:
                self.refuse(f"changes {captured.label} in place")

    def forget(self) -> None:
        """Let go of every object that was walked over."""
        for store in (self._alive, self._spaces, self._functions, self._ran, self._reads, self._todo, self.tensors, self._caches):
            store.clear()

    # -- names

    def _reads_of(self, code: types.CodeType) -> Reads:
        reads = self._reads.get(id(code))
        if reads is None:
            reads = self._reads[id(code)] = reads_of(code)
        return reads

    def _notice(self, names: Iterable[str]) -> None:
        """Turn on what computed names, or walks over modules, could reach."""
        if not self._dynamic and not DYNAMIC.isdisjoint(names):
            self._dynamic = True
            for space in list(self._spaces):
                self._look(space, ())
        if not self._walks and not MODULE_WALKS.isdisjoint(names):
            self._walks = True
            for space in list(self._spaces):
                self._look(space, ())

    def _add_names(self, names: set[str]) -> None:
        new = names - self._names
        if new:
            self._names |= new
            self._notice(new)
            for space in list(self._spaces):
                self._look(space, new)

    def _look(self, space: Space, names: Iterable[str]) -> None:
        if space.everything or (space.dynamic and self._dynamic) or (space.walked and self._walks):
            names = list(space.items)
        for name in names:
            if name in space.items and name not in space.done and name not in space.skip:
                space.done.add(name)
                self.visit(space.items[name], space.source(name), _join(space.label, name), space.everything)

    def open(self, space: Space) -> None:
        """Visit the names of an object as they occur."""
        self._spaces.append(space)
        self._look(space, self._names)

    # -- objects

    def visit(self, value: Any, source: str, label: str, everything: bool = False) -> None:
        """Guard ``value``, which the checks find as ``source``; ``everything``: whether its use is out of sight."""
        if not self.problem:
            self._todo.append((value, source, label, everything))

    def _drain(self) -> None:
        while self._todo and not self.problem:
            self._visit(*self._todo.popleft())

    def name(self, value: Any, source: str, label: str) -> str:
        """A variable for ``value``; later visits only check that it is the same object."""
        variable = self.program.let(source, label)
        self._seen[id(value)] = variable
        self._alive.append(value)
        if len(self._alive) > MAX_OBJECTS:
            self.refuse(f"can see more than {MAX_OBJECTS:,} Python objects")
        return variable

    def _visit(self, value: Any, source: str, label: str, everything: bool) -> None:
        program = self.program
        if is_plain(value):
            program.require(source, value, label)
            return
        seen = self._seen.get(id(value))
        if seen is not None:
            program.fail_if(f"{source} is not {seen}", label)
            return
        kind = type(value)
        visitor = _VISITORS.get(kind)
        if visitor is not None:
            visitor(self, value, source, label, everything)
        elif isinstance(value, Tensor):
            self._tensor(value, source, label)
        elif isinstance(value, nn.Module):
            module_captures.visit_module(self, value, source, label, everything)
        elif isinstance(value, type):
            self._class(value, source, label)
        elif isinstance(value, types.ModuleType):
            self._module(value, source, label)
        elif isinstance(value, functools.partial):
            self._parts(value, source, label, everything, ("func", "args", "keywords"))
        elif isinstance(value, enum.Enum) or _is_inert(value):
            program.fail_if(f"{source} is not {program.constant(value)}", label)
        elif impure_class(kind):
            self.refuse(f"uses {_quoted(label)}, a {kind.__name__}")
        elif isinstance(value, (tuple, list, dict)):
            self._container_subclass(value, source, label, everything)
        else:
            self._object(value, source, label, everything)

    def _tensor(self, value: Tensor, source: str, label: str) -> None:
        if type(value) not in (Tensor, nn.Parameter):
            self.refuse(f"captures {_quoted(label)}, a {type(value).__name__}, which is a subclass of Tensor")
            return
        variable = self.name(value, source, label)
        self.tensors[id(value)] = Captured(variable, value, label, _version(value))
        if value.__dict__:
            self.open(Space(value.__dict__, lambda name: f"{variable}.{name}", label))
        if value.is_leaf:
            self.open(Space(_Gradient(value), lambda name: f"{variable}.{name}", label, dynamic=False))

    def _parts(self, value: Any, source: str, label: str, everything: bool, parts: tuple[str, ...]) -> None:
        """An object that is no more than a few others: partial, bound method, property."""
        variable = self.name(value, source, label)
        self.program.fail_if(f"{variable}.__class__ is not {self.program.constant(type(value))}", label)
        for part in parts:
            inner = "self" if part == "__self__" and not label else label
            self.visit(getattr(value, part), f"{variable}.{part}", inner, everything)

    def _method(self, value: Any, source: str, label: str, everything: bool) -> None:
        self._parts(value, source, label, everything, ("__func__", "__self__"))

    def _property(self, value: Any, source: str, label: str, everything: bool) -> None:
        self._parts(value, source, label, everything, ("fget", "fset"))

    def _static(self, value: Any, source: str, label: str, everything: bool) -> None:
        self._parts(value, source, label, everything, ("__func__",))

    def _cached_function(self, value: Any, source: str, label: str, everything: bool) -> None:
        variable = self.name(value, source, label)
        self.visit(value.__wrapped__, f"{variable}.__wrapped__", label, everything)
        self._caches.append((value, variable, label))

    def _builtin(self, value: Any, source: str, label: str, everything: bool) -> None:
        owner = getattr(value, "__self__", None)
        if owner is None or isinstance(owner, (types.ModuleType, type)):
            if impure_function(value):
                self.refuse(f"uses {label}")
            self.program.fail_if(f"{source} is not {self.program.constant(value)}", label)
            return
        variable = self.name(value, source, label)
        self.program.fail_if(f"{variable}.__name__ != {value.__name__!r}", label)
        self.visit(owner, f"{variable}.__self__", label, everything)

    def _array(self, value: np.ndarray[Any, Any], source: str, label: str, everything: bool) -> None:
        if value.dtype.hasobject:
            self.refuse(f"captures {_quoted(label)}, a NumPy array of Python objects")
        elif value.nbytes > MAX_ARRAY_BYTES:
            self.refuse(f"captures {_quoted(label)}, a NumPy array of {value.nbytes / 1e6:.0f} MB (a tensor is not copied)")
        else:
            variable = self.name(value, source, label)
            content = [self.program.constant(part) for part in (value.dtype, value.shape, value.tobytes())]
            self.program.fail_if(f"not same_array({variable}, {', '.join(content)})", label)

    # -- containers

    def _sequence(self, value: Any, source: str, label: str, everything: bool) -> None:
        program = self.program
        variable = self.name(value, source, label)
        program.fail_if(
            f"{variable}.__class__ is not {self._class_name(type(value), variable, label)} or len({variable}) != {len(value)}", label
        )
        if len(value) > 16 and all(map(is_plain, value)):
            self._plain_items(f"list({variable})", list(value), label)
            return
        for i, item in enumerate(value):
            self.visit(item, f"{variable}[{i}]", f"{label}[{i}]", everything)

    def _plain_items(self, source: str, items: list[Any], label: str) -> None:
        if len(items) > MAX_OBJECTS:
            self.refuse(f"can see {_quoted(label)}, which holds {len(items):,} Python objects")
            return
        k = self.program.constant(items)
        self.program.fail_if(f"not same_items({source}, {k})", label)

    def _dict(self, value: Any, source: str, label: str, everything: bool) -> None:
        program = self.program
        variable = self.name(value, source, label)
        program.fail_if(f"{variable}.__class__ is not {self._class_name(type(value), variable, label)}", label)
        keys = list(value)
        if not all(is_plain(key) or isinstance(key, type) for key in keys):
            self.refuse(f"captures {_quoted(label)}, a {type(value).__name__} with keys that are objects")
            return
        if all(type(key) is str for key in keys) and len(keys) <= MAX_OBJECTS:
            program.fail_if(f"[*{variable}] != {program.constant(keys)}", label)
        else:
            self._plain_items(f"[*{variable}]", keys, label)
        if isinstance(value, defaultdict):
            self.visit(value.default_factory, f"{variable}.default_factory", label, everything)
        values = list(value.values())
        if len(values) > 16 and all(map(is_plain, values)):
            self._plain_items(f"[*{variable}.values()]", values, label)
            return
        for key, item in zip(keys, values, strict=True):
            index = repr(key) if type(key) in (str, int) else program.constant(key)
            self.visit(item, f"{variable}[{index}]", f"{label}[{key!r}]", everything)

    def _set(self, value: Any, source: str, label: str, everything: bool) -> None:
        variable = self.name(value, source, label)
        self.program.fail_if(f"{variable}.__class__ is not {self.program.constant(type(value))}", label)
        items = list(value)
        if not all(is_plain(item) or isinstance(item, (type, types.BuiltinFunctionType)) for item in items):
            self.refuse(f"captures {_quoted(label)}, a set of objects")
            return
        self._plain_items(f"[*{variable}]", items, label)

    def _container_subclass(self, value: Any, source: str, label: str, everything: bool) -> None:
        kind = type(value)
        base = next(b for b in (tuple, list, dict) if isinstance(value, b))
        plain = ("__getitem__", "__iter__", "__len__", "keys", "values", "items", "get")
        if kind not in (Counter, OrderedDict, defaultdict) and any(
            hasattr(base, name) and getattr(kind, name) is not getattr(base, name) for name in plain
        ):
            self.refuse(f"captures {_quoted(label)}, a {kind.__name__}, which looks up its items in its own way")
            return
        (self._dict if base is dict else self._sequence)(value, source, label, everything)
        if getattr(value, "__dict__", None) and not self.problem:
            variable = self._seen[id(value)]
            self.open(Space(value.__dict__, lambda name: f"{variable}.__dict__[{name!r}]", label, everything=everything))

    # -- functions

    def _function(self, value: types.FunctionType, source: str, label: str, everything: bool) -> None:
        program, code = self.program, value.__code__
        kind = code_kind(code, value.__globals__.get("__name__"))
        if impure_function(value):
            self.refuse(f"uses {label}")
        if kind != USER and not value.__closure__:
            program.fail_if(f"{source} is not {program.constant(value)}", label)
            return
        variable = self.name(value, source, label)
        k = program.constant(code)
        program.fail_if(
            f"{variable}.__class__ is not Function or {variable}.__code__ is not {k} and {variable}.__code__ != {k}",
            label or value.__name__,
        )
        if kind != USER:  # a wrapper made by a library: what it wraps is used out of sight
            self._cells(value, variable, Reads(), True)
            return
        program.fail_if(f"len({variable}.__dict__) != {len(value.__dict__)}", label or value.__name__)
        if value.__dict__:
            self.open(Space(value.__dict__, lambda name: f"{variable}.__dict__[{name!r}]", label or value.__name__))
        if id(code) in self._ran:
            self._expand_function(value, variable, label)
        else:
            self._functions.setdefault(id(code), []).append((value, variable, label))

    def _expand_function(self, value: types.FunctionType, variable: str, label: str) -> None:
        """Guard what a function that runs can see: cells, defaults, globals."""
        self._found.add(id(value.__code__))
        reads = self._reads_of(value.__code__)
        self._cells(value, variable, reads, False)
        names = value.__code__.co_varnames[: value.__code__.co_argcount]
        defaults = value.__defaults__
        if defaults is None:
            self.program.fail_if(f"{variable}.__defaults__ is not None", label)
        else:
            held = self.program.let(f"{variable}.__defaults__", label)
            self.program.fail_if(f"len({held}) != {len(defaults)}", label)
            for i, (name, item) in enumerate(zip(names[-len(defaults) :], defaults, strict=True)):
                self.visit(item, f"{held}[{i}]", name)
        if value.__kwdefaults__ is None:
            self.program.fail_if(f"{variable}.__kwdefaults__ is not None", label)
        else:
            self.visit(value.__kwdefaults__, f"{variable}.__kwdefaults__", label)
        self._globals(value.__globals__, f"{variable}.__globals__", reads, label or value.__name__)
        for name, level in reads.imports:
            self._import(name, level, value.__globals__)

    def _cells(self, value: types.FunctionType, variable: str, reads: Reads, everything: bool) -> None:
        if not value.__closure__:
            return
        cells = self.program.let(f"{variable}.__closure__", value.__name__)
        for i, (name, cell) in enumerate(zip(value.__code__.co_freevars, value.__closure__, strict=True)):
            source = f"{cells}[{i}].cell_contents"
            try:
                content = cell.cell_contents
            except ValueError:
                self.refuse(f"reads {name!r}, which is not defined yet")
                return
            self._head(content, source, name, reads.cells.get(name, {()}), everything)

    def _globals(self, scope: dict[str, Any], source: str, reads: Reads, label: str) -> None:
        variable = self._scopes.get(id(scope))
        if variable is None:
            variable = self._scopes[id(scope)] = self.program.let(source, label)
            self._alive.append(scope)
        else:
            self.program.fail_if(f"{source} is not {variable}", label)
        missing = []
        for name, chains in reads.globals.items():
            first = (id(scope), name) not in self._read_globals
            self._read_globals.add((id(scope), name))
            if name in scope:
                if first or isinstance(scope[name], types.ModuleType):
                    self._head(scope[name], f"{variable}[{name!r}]", name, chains, False)
                else:
                    self._add_names({part for chain in chains for part in chain})
            elif first:
                missing.append(name)
        if missing:
            k = self.program.constant(frozenset(missing))
            self.program.fail_if(f"not {k}.isdisjoint({variable})", " or ".join(sorted(missing)))

    def _head(self, value: Any, source: str, label: str, chains: Iterable[tuple[str, ...]], everything: bool) -> None:
        """A variable with the attribute chains that follow it in code."""
        if isinstance(value, types.ModuleType):
            for chain in sorted(chains):
                self._chain(value, source, label, chain)
        else:
            self.visit(value, source, label, everything)
            self._add_names({part for chain in chains for part in chain})

    # -- Python modules and classes

    def _import(self, name: str, level: int, scope: dict[str, Any]) -> None:
        if level:
            package = (scope.get("__package__") or "").split(".")
            name = ".".join(package[: len(package) - level + 1] + ([name] if name else []))
        parts = name.split(".")
        for i in range(len(parts)):
            module = sys.modules.get(".".join(parts[: i + 1]))
            if isinstance(module, types.ModuleType):
                self.visit(module, self.program.weak(module), module.__name__)
            else:
                self._late_imports.append((name, 0, scope))

    def _module_name(self, module: types.ModuleType, source: str, label: str) -> str:
        variable = self._seen.get(id(module))
        if variable is None:
            variable = self.name(module, source, label)
            self.program.fail_if(f"{variable} is not {self.program.weak(module)}", label)
        return variable

    def _module(self, module: types.ModuleType, source: str, label: str, everything: bool = False) -> None:
        variable = self._module_name(module, source, label)
        if module_kind(module.__name__) == USER:
            space = self.program.let(f"{variable}.__dict__", label)
            self.open(Space(module.__dict__, lambda name: f"{space}[{name!r}]", label, dynamic=False))

    def _chain(self, module: types.ModuleType, source: str, label: str, chain: tuple[str, ...]) -> None:
        """Follow ``module.name.name...`` to what it ends at."""
        if not chain:
            if id(module) in self._seen and module_kind(module.__name__) != USER:
                self.program.fail_if(f"{source} is not {self._seen[id(module)]}", label)
            else:
                self.visit(module, source, label)
            return
        known = self._seen.get(id(module))
        if known is not None:
            self.program.fail_if(f"{source} is not {known}", label)
        variable = self._module_name(module, source, label)
        name, rest = chain[0], chain[1:]
        self._notice((name,))
        value = getattr(module, name, _chain_end)
        if value is _chain_end:
            self.refuse(f"reads {label}.{name}, which does not exist")
            return
        here, inner = f"{variable}.{name}", _join(label, name)
        if isinstance(value, types.ModuleType):
            self._chain(value, here, inner, rest)
            return
        if module_kind(module.__name__) == USER:
            self.visit(value, here, inner)
        else:
            self._library_value(value, here, inner)
        self._add_names(set(rest))

    def _library_value(self, value: Any, source: str, label: str) -> None:
        """An attribute of a library's module: replaced by nobody but a monkeypatch."""
        if isinstance(value, types.FunctionType) and code_kind(value.__code__, value.__globals__.get("__name__")) == USER:
            self.visit(value, source, label)
        elif (isinstance(value, type) and impure_class(value)) or isinstance(value, os._Environ):
            self.refuse(f"uses {label}")
        elif impure_function(value):
            self.refuse(f"uses {label}")
        elif is_plain(value):
            self.program.require(source, value, label)
        else:
            self.program.fail_if(f"{source} is not {self.program.constant(value)}", label)

    def _class(self, value: type, source: str, label: str) -> None:
        variable = self.name(value, source, label)
        if class_kind(value) != USER:
            self.program.fail_if(f"{variable} is not {self.program.constant(value)}", label)
            if impure_class(value):
                self.refuse(f"uses {label}")
            return
        self.program.fail_if(f"{variable} is not {self.program.weak(value)}", label)
        for i, base in enumerate(value.__mro__):
            if class_kind(base) != USER:
                continue
            if i and id(base) in self._seen:
                continue
            owner = variable if i == 0 else self.name(base, f"{variable}.__mro__[{i}]", label)
            space = self.program.let(f"{owner}.__dict__", label)
            self.program.fail_if(f"len({space}) != {len(base.__dict__)}", base.__name__)
            items = {k: v for k, v in base.__dict__.items() if k not in _CLASS_PLUMBING and not isinstance(v, _DESCRIPTORS)}
            self.open(Space(items, lambda name, space=space: f"{space}[{name!r}]", base.__name__))  # type: ignore[misc]

    def _class_name(self, cls: type, owner: str, label: str) -> str:
        """A variable for the class of what ``owner`` names; made, with guards on the class, where there is none yet."""
        known = self._seen.get(id(cls))
        if known is None:
            if class_kind(cls) != USER:
                return self.program.constant(cls)
            self._class(cls, f"{owner}.__class__", label)
            known = self._seen[id(cls)]
        return known

    # -- objects of users' classes

    def _object(self, value: Any, source: str, label: str, everything: bool) -> None:
        cls = type(value)
        attributes = getattr(value, "__dict__", None)
        slots = _slots(cls)
        if not _has_visible_state(cls) or not (attributes is not None or slots is not None):
            what = "an iterator" if hasattr(cls, "__next__") else f"a {cls.__name__}, whose state cannot be seen"
            self.refuse(f"captures {_quoted(label)}, {what}")
            return
        variable = self.name(value, source, label)
        self.program.fail_if(f"{variable}.__class__ is not {self._class_name(cls, variable, label)}", label)
        everything = everything or class_kind(cls) == LIBRARY
        if isinstance(attributes, dict):
            space = self.program.let(f"{variable}.__dict__", label)
            self.program.fail_if(f"len({space}) != {len(attributes)}", label)
            self.open(Space(attributes, lambda name: f"{space}[{name!r}]", label, everything=everything))
        present = {name: getattr(value, name) for name in slots or () if hasattr(value, name)}
        for name in slots or ():
            if name not in present:
                self.program.fail_if(f"hasattr({variable}, {name!r})", _join(label, name))
        if present:
            self.open(Space(_Slots(value, present), lambda name: f"{variable}.{name}", label, everything=everything))

    def _weak_reference(self, value: Any, source: str, label: str, everything: bool) -> None:
        self.refuse(f"captures {_quoted(label)}, a weak reference")

    def layer_class(self, cls: type, variable: str, label: str) -> None:
        """The class of a module; of PyTorch's own layers, only ``forward`` is looked at."""
        fresh = id(cls) not in self._seen and class_kind(cls) != USER
        self.program.fail_if(f"{variable}.__class__ is not {self._class_name(cls, variable, label)}", label)
        if fresh:
            self._seen[id(cls)] = name = self.program.constant(cls)
            self._alive.append(cls)
            self._library_value(cls.forward, f"{name}.forward", f"{cls.__name__}.forward")  # type: ignore[attr-defined]


class _Gradient(Mapping[str, Any]):
    """The attributes of a leaf tensor that are objects of their own."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __getitem__(self, name: str) -> Any:
        if name != "grad":
            raise KeyError(name)
        return self._tensor.grad

    def __contains__(self, name: object) -> bool:
        return name == "grad"

    def __iter__(self) -> Any:
        return iter(("grad",))

    def __len__(self) -> int:
        return 1


class _Slots(Mapping[str, Any]):
    """The slots of an object that are filled."""

    def __init__(self, owner: Any, present: Mapping[str, Any]) -> None:
        self._owner, self._names = owner, tuple(present)

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


_chain_end = object()
#: How a class finds slots and fields of a tuple: part of the class, not of what f reads.
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, type(namedtuple("_", "field").field))
_CLASS_PLUMBING = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__abstractmethods__", "_abc_impl",
     "__parameters__", "__orig_bases__", "__slots__", "__match_args__", "__dataclass_fields__", "__dataclass_params__",
     "__hash__", "__static_attributes__", "__firstlineno__", "__slotnames__")
)  # fmt: skip
_HEAP_TYPE = 1 << 9
_INERT_MODULES = ("typing", "torch._ops", "torch._library", "torch._C", "logging", "operator", "_operator")


def _is_inert(value: Any) -> bool:
    """Objects of which it is enough to know that they are the same ones."""
    module = type(value).__module__
    if isinstance(value, np.ufunc | types.CodeType | types.GenericAlias | types.UnionType):
        return True
    if isinstance(value, torch.ScriptObject) or impure_class(type(value)):
        return False
    return any(module == name or module.startswith(name + ".") for name in _INERT_MODULES)


def _has_visible_state(cls: type) -> bool:
    visible = all(base in (object, types.SimpleNamespace) or base.__flags__ & _HEAP_TYPE for base in cls.__mro__)
    return visible and not issubclass(cls, (weakref.ref, torch.ScriptObject))


def _slots(cls: type) -> tuple[str, ...] | None:
    found: list[str] = []
    any_slots = False
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__")
        if slots is None:
            continue
        any_slots = True
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name in ("__dict__", "__weakref__"):
                continue
            private = name.startswith("__") and not name.endswith("__")
            found.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return tuple(found) if any_slots else None


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _join(label: str, name: str) -> str:
    return f"{label}.{name}" if label else name


def _quoted(label: str) -> str:
    return f"`{label}`" if label else "f"


def _is_tree(value: Any) -> bool:
    """Whether an argument is a tensor, an array, a plain value or a tree of them: all of which a signature holds."""
    if isinstance(value, (Tensor, np.ndarray)) or is_plain(value):
        return True
    if type(value) in (list, tuple):
        return all(map(_is_tree, value))
    return type(value) is dict and all(map(_is_tree, value.values()))


_VISITORS: dict[type, Callable[..., None]] = {
    list: Captures._sequence,
    tuple: Captures._sequence,
    deque: Captures._sequence,
    dict: Captures._dict,
    OrderedDict: Captures._dict,
    defaultdict: Captures._dict,
    types.MappingProxyType: Captures._dict,
    set: Captures._set,
    frozenset: Captures._set,
    types.FunctionType: Captures._function,
    types.MethodType: Captures._method,
    property: Captures._property,
    staticmethod: Captures._static,
    classmethod: Captures._static,
    functools._lru_cache_wrapper: Captures._cached_function,
    types.BuiltinFunctionType: Captures._builtin,
    types.MethodWrapperType: Captures._builtin,
    np.ndarray: Captures._array,
    weakref.ref: Captures._weak_reference,
}
for _descriptor in (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType):
    _VISITORS[_descriptor] = Captures._builtin
