"""The walk from f, along the names that occur in the code that runs, to every object that f can see.

It starts before f runs, and goes on whenever a function runs for the first time, before its body does. So what the
checks compare with is what f found, and what f changes shows as a check that fails right after the run.
"""

from __future__ import annotations

import functools
import os
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from crelle.backends.torch.guards.code import DYNAMIC, LAYER, MODULE_WALKS, Reads, reads_of
from crelle.backends.torch.guards.plain import is_plain
from crelle.backends.torch.guards.program import Program

#: More objects than this are not guarded: the checks would take as long as f.
MAX_OBJECTS = 10_000


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
        mapping: source of the mapping itself, where its order could matter.
        dynamic: whether reading by computed names reaches it.
        walked: whether walking over the parts of a module reaches it.
        everything: whether all names count as read.
        skip: names that are guarded otherwise.
    """

    items: Mapping[str, Any]
    source: Callable[[str], str]
    label: str
    mapping: str = ""
    dynamic: bool = True
    walked: bool = False
    everything: bool = False
    skip: frozenset[str] = frozenset()
    done: set[str] = field(default_factory=set)


class Visitor(Protocol):
    """Guards one kind of object; ``source``: how the checks find it; ``everything``: its use is out of sight."""

    def __call__(self, walk: Walk, value: Any, source: str, label: str, everything: bool, /) -> None: ...


#: Who guards which type; filled by the modules that know them.
VISITORS: dict[type, Visitor] = {}
#: Asked in order for all other types: a test, and who guards what passes it.
FALLBACKS: list[tuple[Callable[[Any], bool], Visitor]] = []


def visits(*types_: type) -> Callable[[Visitor], Visitor]:
    """Declare who guards objects of exactly these types."""

    def declare(visitor: Visitor) -> Visitor:
        VISITORS.update(dict.fromkeys(types_, visitor))
        return visitor

    return declare


class Walk:
    """The walk, and the program of checks that it writes.

    Attributes:
        program: the checks.
        tensors: captured tensors by ``id``.
        problem: why f cannot be guarded, or empty.
        seen: the variable that holds an object, by ``id``.
        caches: functions that remember their results, with source and label.
        late_imports: arguments of ``visit_imported`` for modules that were not there yet.
        modules: names of Python modules that f uses as objects.
        hooks_of_all: whether the hooks that PyTorch runs for all modules are guarded.
    """

    def __init__(self) -> None:
        self.program = Program()
        self.tensors: dict[int, Captured] = {}
        self.problem = ""
        self.seen: dict[int, str] = {}
        self.caches: list[tuple[Any, str, str]] = []
        self.late_imports: list[tuple[str, tuple[str, ...], bool]] = []
        self.modules: dict[int, Space] = {}
        self.scopes: dict[int, str] = {}
        self.read_globals: set[tuple[int, str]] = set()
        self.hooks_of_all = False
        self._alive: list[Any] = []
        self._todo: deque[tuple[Any, str, str, bool]] = deque()
        self._spaces: list[Space] = []
        self._names: set[str] = set()
        self._dynamic = self._walks = False
        self._waiting: dict[int, list[Callable[[], None]]] = {}
        self._found: set[int] = set()
        self._ran: dict[int, types.CodeType] = {}
        self._reads: dict[int, Reads] = {}

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
        reads = self.reads_of(code)
        if kind == LAYER or adapter:
            self._found.add(id(code))
        if kind == LAYER:
            layers = "/nn/modules/" in code.co_filename.replace(os.sep, "/")
            self.add_names(reads.names - MODULE_WALKS - DYNAMIC if layers else reads.names)
        else:
            for inner in reads.inner:
                self._ran.setdefault(id(inner), inner)
                self._found.add(id(inner))
            self.notice({*reads.globals, *reads.cells})
            self.add_names({*reads.names, code.co_name})
            for each in (code, *reads.inner):
                for expand in self._waiting.pop(id(each), ()):
                    expand()
        self._drain()

    def when_runs(self, code: types.CodeType, expand: Callable[[], None]) -> None:
        """Call ``expand`` as soon as a function with this code runs: what it can see counts from then on."""

        def found() -> None:
            self._found.add(id(code))
            expand()

        if id(code) in self._ran:
            found()
        else:
            self._waiting.setdefault(id(code), []).append(found)

    def finish(self) -> None:
        """All code has run: what has not been found by now cannot be guarded."""
        self._drain()
        for key, code in self._ran.items():
            if key not in self._found:
                self.refuse(f"calls {code.co_qualname}, which cannot be found from f")
        for cache, source, label in self.caches:
            # what it remembers cannot be seen; as long as it is not asked anything new it gives the same
            self.program.require(f"{source}.cache_info()[1:]", tuple(cache.cache_info()[1:]), label)
        for captured in self.tensors.values():
            if self._dynamic:
                self.program.fail_if(
                    f"len({captured.source}.__dict__) != {len(captured.tensor.__dict__)}", captured.label
                )
            if version(captured.tensor) != captured.version:
                self.refuse(f"changes {captured.label} in place")

    def forget(self) -> None:
        """Let go of every object that was walked over."""
        for held in (self._alive, self._spaces, self._todo, self.caches, self.late_imports):
            held.clear()
        for table in (self._waiting, self._ran, self._reads, self.tensors, self.modules):
            table.clear()

    # -- names

    def reads_of(self, code: types.CodeType) -> Reads:
        """What code can look up; found once."""
        reads = self._reads.get(id(code))
        if reads is None:
            reads = self._reads[id(code)] = reads_of(code)
        return reads

    def notice(self, names: Iterable[str]) -> None:
        """Turn on what computed names, or walks over modules, could reach."""
        dynamic = self._dynamic or not DYNAMIC.isdisjoint(names)
        walks = self._walks or not MODULE_WALKS.isdisjoint(names)
        if (dynamic, walks) != (self._dynamic, self._walks):
            self._dynamic, self._walks = dynamic, walks
            for space in list(self._spaces):
                self.look(space, ())

    def add_names(self, names: set[str]) -> None:
        """Names that occur in code that runs: objects that have such attributes are walked on."""
        new = names - self._names
        if new:
            self._names |= new
            self.notice(new)
            for space in list(self._spaces):
                self.look(space, new)

    def open(self, space: Space) -> None:
        """Visit the names of an object as they occur."""
        self._spaces.append(space)
        self.look(space, self._names)

    def look(self, space: Space, names: Iterable[str]) -> None:
        """Visit those of ``names`` that a space has, or all of its names where computed ones could reach it."""
        if space.everything or (space.dynamic and self._dynamic) or (space.walked and self._walks):
            names = list(space.items)
            if space.mapping:
                keys, space.mapping = space.mapping, ""
                self.program.fail_if(f"[*{keys}] != {self.program.constant(names)}", space.label)
        for name in names:
            if name in space.items and name not in space.done and name not in space.skip:
                space.done.add(name)
                self.visit(space.items[name], space.source(name), join(space.label, name), space.everything)

    # -- objects

    def visit(self, value: Any, source: str, label: str, everything: bool = False) -> None:
        """Guard ``value``, which the checks find as ``source``; ``everything``: whether its use is out of sight."""
        if not self.problem:
            self._todo.append((value, source, label, everything))

    def name(self, value: Any, source: str, label: str) -> str:
        """A variable for ``value``; later visits only check that it is the same object."""
        variable = self.program.let(source, label)
        self.seen[id(value)] = variable
        self._alive.append(value)
        if len(self._alive) > MAX_OBJECTS:
            self.refuse(f"can see more than {MAX_OBJECTS:,} Python objects")
        return variable

    def keep(self, value: Any, variable: str) -> None:
        """Remember that ``variable``, made otherwise, holds ``value``."""
        self.seen[id(value)] = variable
        self._alive.append(value)

    def _drain(self) -> None:
        while self._todo and not self.problem:
            self._visit(*self._todo.popleft())

    def _visit(self, value: Any, source: str, label: str, everything: bool) -> None:
        if is_plain(value):
            self.program.require(source, value, label)
            return
        seen = self.seen.get(id(value))
        # a chain names a module without looking into it
        if seen is not None and not isinstance(value, types.ModuleType):
            self.program.fail_if(f"{source} is not {seen}", label)
            return
        visitor = VISITORS.get(type(value))
        if visitor is None:
            visitor = next(guard for test, guard in FALLBACKS if test(value))
        visitor(self, value, source, label, everything)


def join(label: str, name: str) -> str:
    """``model`` and ``weight``: ``model.weight``."""
    return f"{label}.{name}" if label else name


def quoted(label: str) -> str:
    """The object of a message."""
    return f"`{label}`" if label else "f"


def version(tensor: Tensor) -> int:
    """The count of in-place changes."""
    return -1 if tensor.is_inference() else tensor._version


def _is_tree(value: Any) -> bool:
    """Whether an argument is a tensor, an array, a plain value or a tree of them: all of which a signature holds."""
    if isinstance(value, (Tensor, np.ndarray)) or is_plain(value):
        return True
    if type(value) in (list, tuple):
        return all(map(_is_tree, value))
    return type(value) is dict and all(map(_is_tree, value.values()))


@visits(Tensor, nn.Parameter)
def visit_tensor(walk: Walk, value: Tensor, source: str, label: str, everything: bool) -> None:
    """A tensor: it may become another one of the same kind, which is then used."""
    variable = walk.name(value, source, label)
    walk.tensors[id(value)] = Captured(variable, value, label, version(value))
    if value.__dict__:
        walk.open(Space(value.__dict__, lambda name: f"{variable}.{name}", label))
    if value.is_leaf:
        walk.open(Space(_Gradient(value), lambda name: f"{variable}.{name}", label, dynamic=False))


class _Gradient(Mapping[str, Any]):
    """The attribute of a leaf tensor that is a tensor of its own."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __getitem__(self, name: str) -> Any:
        if name != "grad":
            raise KeyError(name)
        return self._tensor.grad

    def __iter__(self) -> Any:
        return iter(("grad",))

    def __len__(self) -> int:
        return 1


@visits(functools._lru_cache_wrapper)
def visit_cached(walk: Walk, value: Any, source: str, label: str, everything: bool) -> None:
    """A function that remembers its results."""
    variable = walk.name(value, source, label)
    walk.visit(value.__wrapped__, f"{variable}.__wrapped__", label, everything)
    walk.caches.append((value, variable, label))
