"""What a piece of Python code may read, and whose code it is: found from its bytecode and its file."""

from __future__ import annotations

import dis
import functools
import os
import sys
import sysconfig
import types
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

LIBRARY = 0
"""Code whose reads are not recorded: PyTorch, NumPy, JAX, the standard library, Crelle."""
USER = 1
"""Code whose reads are all recorded."""
LAYER = 2
"""PyTorch code that reads attributes of objects which belong to the user: layers and distributions."""
IMPURE = 3
"""Standard library whose answers differ from call to call, or that acts on the world."""

IMPORTING = 4
"""The import system: what runs under it, runs once."""

#: Packages of which f may use functions, but that hold nothing of the user's; those that PyTorch itself needs included.
_LIBRARY_PACKAGES = frozenset(
    (
        "crelle", "torch", "functorch", "numpy", "jax", "jaxlib", "scipy", "sympy", "mpmath", "networkx", "jinja2",
        "fsspec", "filelock", "typing_extensions", "packaging", "triton", "optree", "yaml", "psutil", "setuptools",
        "pkg_resources", "_distutils_hack",
    )
)  # fmt: skip
_IMPURE_FILES = (
    "random.py", "secrets.py", "uuid.py", "tempfile.py", "subprocess.py", "socket.py", "pathlib.py", "shutil.py",
    "logging/__init__.py", "<frozen os>", "os.py", "threading.py", "concurrent/futures/thread.py",
    "concurrent/futures/process.py", "multiprocessing/pool.py", "asyncio/runners.py",
)  # fmt: skip
_IMPURE_TORCH = ("torch/random.py", "torch/serialization.py")
#: Module code that hands modules' attributes on: what it reads itself is guarded by hand.
_PLUMBING = ("torch/nn/modules/module.py",)
_LAYERS = ("torch/nn/modules/", "torch/nn/utils/", "torch/distributions/")

#: Reading attributes by a name that is computed: everything an object holds counts as read.
DYNAMIC = frozenset(
    (
        "getattr", "hasattr", "setattr", "delattr", "vars", "dir", "globals", "locals", "eval", "exec", "asdict",
        "astuple", "fields", "replace", "copy", "deepcopy", "attrgetter", "methodcaller", "pickle", "__dict__",
        "__getattribute__", "__slots__", "__match_args__",
    )
)  # fmt: skip
#: Walking over the parts of a module instead of naming one.
MODULE_WALKS = frozenset(
    (
        "_modules", "_parameters", "_buffers", "modules", "children", "named_modules", "named_children", "parameters",
        "named_parameters", "buffers", "named_buffers", "state_dict", "functional_call", "functional_call_",
        "stack_module_state", "parameters_to_vector", "make_functional", "apply", "get_submodule", "get_parameter",
        "get_buffer",
    )
)  # fmt: skip


class Import(NamedTuple):
    """An import inside a function: ``from ..name import wanted`` has level 2; nothing is wanted by ``import name``."""

    name: str
    level: int
    wanted: tuple[str, ...]


@dataclass(slots=True)
class Reads:
    """Names that some code and the functions defined inside it may look up.

    Attributes:
        globals: per global name, the attributes that follow it: ``torch.nn.functional`` is ``("nn", "functional")``.
        cells: the same for variables of enclosing functions.
        names: attributes looked up on anything else: locals, results of calls.
        imports: modules imported while running.
        inner: code objects of the functions defined inside.
    """

    globals: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    cells: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    imports: set[Import] = field(default_factory=set)
    inner: list[types.CodeType] = field(default_factory=list)


_ATTRIBUTE = frozenset(("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER_ATTR"))
_GLOBAL = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"))
_CELL = frozenset(("LOAD_DEREF", "STORE_DEREF", "DELETE_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"))
_SILENT = frozenset(("EXTENDED_ARG", "CACHE", "NOP"))


def reads_of(code: types.CodeType) -> Reads:
    """Everything that ``code`` and the functions defined inside it may look up by name."""
    reads = Reads()
    pending = [code]
    while pending:
        current = pending.pop()
        _scan(current, reads)
        for constant in current.co_consts:
            if isinstance(constant, types.CodeType):
                reads.inner.append(constant)
                pending.append(constant)
    return reads


def _scan(code: types.CodeType, reads: Reads) -> None:
    head: tuple[dict[str, set[tuple[str, ...]]], str] | None = None
    chain: list[str] = []
    constants: list[Any] = []

    def close() -> None:
        if head is not None:
            head[0].setdefault(head[1], set()).add(tuple(chain))

    for instruction in dis.get_instructions(code):
        op, value = instruction.opname, instruction.argval
        if op in _SILENT:
            continue
        if op in _ATTRIBUTE:
            if head is None:
                reads.names.add(value)
            else:
                chain.append(value)
            continue
        close()
        head, chain = None, []
        if op in _GLOBAL:
            head = (reads.globals, value)
        elif op in _CELL:
            head = (reads.cells, value)
        elif op == "IMPORT_NAME":
            level, wanted = constants[-2:]
            reads.imports.add(Import(value, level, wanted or ()))
        elif op in ("LOAD_CONST", "LOAD_SMALL_INT"):
            constants.append(value)
        elif op == "MATCH_CLASS":
            reads.names.add("__match_args__")
    close()


_SITES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_STDLIB = tuple({sysconfig.get_path(key) + os.sep for key in ("stdlib", "platstdlib")})
_TORCH = os.path.dirname(os.path.dirname(torch.__file__)) + os.sep
_CRELLE = os.path.dirname(sys.modules["crelle"].__file__ or "") + os.sep


def _roots_of_libraries() -> list[str]:
    """Where the libraries that are loaded lie, which need not be a folder for packages."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _LIBRARY_PACKAGES]
    return [os.path.dirname(file) + os.sep for file in files if file and file.endswith("__init__.py")]


@functools.lru_cache(maxsize=20_000)
def file_kind(file: str) -> int:
    """Whose code a file holds. Names that no file has (``<stdin>``, a notebook's cell) are the user's."""
    if file == "<frozen importlib._bootstrap>":
        return IMPORTING
    if file.startswith("<frozen"):
        return IMPURE if file in _IMPURE_FILES else LIBRARY
    if file.startswith("<eval_with_key>"):  # written by torch.fx: a graph, which reads attributes of its module
        return LAYER
    if file.startswith(_CRELLE):
        return LIBRARY
    path = file.replace(os.sep, "/")
    if file.startswith(_TORCH + "torch" + os.sep):
        inner = path[len(_TORCH) :]
        if inner in _IMPURE_TORCH:
            return IMPURE
        return LAYER if inner.startswith(_LAYERS) and inner not in _PLUMBING else LIBRARY
    if any(file.startswith(root) for root in _roots_of_libraries()):
        return LIBRARY
    for site in _SITES:
        _, found, rest = file.rpartition(site)
        if found:
            return LIBRARY if rest.partition(os.sep)[0].removesuffix(".py") in _LIBRARY_PACKAGES else USER
    if file.startswith(_STDLIB):
        return IMPURE if path.endswith(tuple("/" + name for name in _IMPURE_FILES)) else LIBRARY
    return USER


def code_kind(code: types.CodeType, module: Any) -> int:
    """Whose code it is; ``module`` is the ``__name__`` among its globals, which tells for generated code."""
    file = code.co_filename
    if file.startswith("<") and not file.startswith(("<frozen", "<eval_with_key>")):
        return module_kind(module) if isinstance(module, str) else USER
    return file_kind(file)


def module_kind(name: str) -> int:
    """Whose a module is, by its name."""
    if name == "__main__":
        return USER
    if name.startswith("namedtuple_"):
        return LIBRARY
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return file_kind(file)
    return LIBRARY if name.partition(".")[0] in sys.stdlib_module_names or name in _LIBRARY_PACKAGES else USER


@functools.lru_cache(maxsize=20_000)
def _kind_of_module_of_class(module: str) -> int:
    return module_kind(module)


def class_kind(cls: type) -> int:
    """Whose a class is."""
    module: Any = cls.__module__  # a class may set it to anything
    if not isinstance(module, str):
        return USER
    if module == "__main__":
        return USER
    if module == "torch" or module.startswith("torch._C"):
        return LIBRARY
    return _kind_of_module_of_class(module)


_IMPURE_OWNERS = frozenset(("time", "_random", "posix", "nt", "_io", "io", "_socket", "_secrets", "_ctypes", "_queue"))
_IMPURE_BUILTINS = frozenset(("print", "input", "open", "breakpoint", "globals", "__import__"))
_CLOCK_METHODS = frozenset(("now", "utcnow", "today"))
_IMPURE_CLASSES = frozenset(
    (
        ("_random", "Random"), ("random", "Random"), ("random", "SystemRandom"), ("torch._C", "Generator"),
        ("numpy.random.mtrand", "RandomState"), ("numpy.random._generator", "Generator"), ("_io", "TextIOWrapper"),
        ("_io", "BufferedReader"), ("_io", "BufferedWriter"), ("_io", "FileIO"), ("_io", "StringIO"),
        ("_io", "BytesIO"),
    )
)  # fmt: skip


def impure_class(cls: type) -> bool:
    """Whether objects of this class answer differently from call to call: generators of random numbers, files."""
    return any((base.__module__, base.__name__) in _IMPURE_CLASSES for base in cls.__mro__)


def impure_function(function: Any) -> bool:
    """Whether a function belongs to a source of random numbers or sets one, or gets modules by computed names."""
    module = getattr(function, "__module__", None)
    return module in ("random", "secrets", "importlib", "numpy.random", "torch.random") or impure_class(
        type(getattr(function, "__self__", None))
    )


def impure_builtin(function: Any) -> str:
    """What a built-in function does that repeating a trace would not do (``time.time``), or an empty string."""
    name = getattr(function, "__name__", "")
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or ""
    if isinstance(owner, types.ModuleType):
        module = owner.__name__
    if module == "builtins":
        return name if name in _IMPURE_BUILTINS else ""
    if module in _IMPURE_OWNERS or module.startswith("numpy.random"):
        return f"{'os' if module in ('posix', 'nt') else module.removeprefix('_')}.{name}"
    if isinstance(owner, type):
        return f"{owner.__name__}.{name}" if name in _CLOCK_METHODS and owner.__module__ == "datetime" else ""
    if owner is not None and impure_class(type(owner)):
        return f"{type(owner).__name__}.{name}"
    return ""
