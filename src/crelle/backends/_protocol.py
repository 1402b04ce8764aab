"""What a framework must offer: the dozen functions of a backend, and the trace that it hands to the planner.

Data flows one way: a backend traces a call into a :class:`Trace` (types and pass costs), the planner chooses a
:class:`Method` from the costs, and the trace builds a runner for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from crelle._arrays import ArrayType
from crelle._request import Request
from crelle._select import Selected
from crelle.tangent.cost import PassCost, Rates
from crelle.tangent.program import TangentProgram

if TYPE_CHECKING:
    from crelle._compressed import Ways
    from crelle.pattern import SparsityPattern


@dataclass(slots=True)
class Call:
    """One call of a transform, bound to a backend.

    Attributes:
        f: the function, as a function of positional and keyword arguments (modules are already adapted).
        name: how f is called in messages.
        args, kwargs: the arguments as given; ``args[i]`` for i in ``argnums`` are differentiated.
        active: the leaves of the differentiated arguments, in tree order.
        in_tree: tree of the differentiated argument, or of the tuple of them where ``argnums`` is a tuple.
        inputs, names: types of the active leaves, and their paths (``x``, ``params['w']``).
        leaves, tree: all leaves of ``(args, kwargs)``, and their tree.
        signature: equal for calls that may share a plan: trees, types of all arrays, values of everything else.
        abstract: no values are known (inside ``jit``, ``vmap``, ``grad``, or for shapes alone).
        memo: what the backend learnt of f in this call, if it keeps something.
        frozen: nobody will change the differentiated arrays in place: an operator needs no copies of them.
    """

    f: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    request: Request
    backend: Backend
    active: list[Any]
    in_tree: Any
    inputs: tuple[ArrayType, ...]
    names: tuple[str, ...]
    leaves: list[Any]
    tree: Any
    signature: Hashable
    abstract: bool
    memo: Any = None
    frozen: bool = False

    @property
    def text(self) -> str:
        """``jacobian(f)``, for headlines of errors."""
        return f"crelle.{self.request.kind}({self.name})"


@dataclass(frozen=True, slots=True)
class Method:
    """How to compute: the mode, the seeds in a batch (``None``: all at once), and which rows or columns.

    ``side`` says what one seed yields: a row (``"rows"``) or a column (``"cols"``) of the flat m × n matrix. With
    ``ways`` the seeds are sums of unit vectors of a colour, and each product is made in the mode ``base``.
    """

    mode: str
    side: str
    chunk: int | None
    selected: Selected
    ways: Ways | None = field(default=None, compare=False)
    base: str = ""

    @property
    def plain(self) -> Method:
        """The same products with unit vectors as seeds."""
        return self if self.ways is None else Method(self.base, self.side, None, self.selected)


@dataclass(slots=True)
class CheckReport:
    """Outcome of comparing one random product with an independent one.

    Attributes:
        error: largest absolute difference of the two products; ``scale`` their largest magnitude.
        reference: what it was compared with (``VJP``, ``JVP``, ``unbatched HVP``).
        nonfinite: where NaN or inf was found ("value" or "derivative", and the entry), or empty.
        deterministic: whether f gave the same value twice.
        blame: what is known of the cause: operations that are suspected, empty if nothing is.
        tolerance: what ``error / scale`` may be where the backend knows that it cannot do better, 0 otherwise.
    """

    error: float
    scale: float
    reference: str
    nonfinite: str = ""
    deterministic: bool = True
    blame: str = ""
    tolerance: float = 0.0


Runner = Callable[[Call, Any], Any]
"""Computes the user's answer from a call and the captured values that :meth:`Trace.match` returned."""


class Trace(Protocol):
    """One function, traced at one signature.

    Attributes:
        outputs: types of the leaves of f's result.
        costs: cost of one pass for every mode that can be used.
        unavailable: for every mode that cannot be used, the reason.
        units: per mode, what a pass is called (``JVP``) and how many one seed takes.
        loop_modes: modes whose seeds may also go one at a time: the way out where a framework's batching is wrong.
        notes: what the plan must say: fallbacks, zeros, assumptions.
    """

    outputs: tuple[ArrayType, ...]
    costs: Mapping[str, PassCost]
    unavailable: Mapping[str, str]
    units: Mapping[str, tuple[str, int]]
    loop_modes: tuple[str, ...]
    notes: list[str]

    def ways(self, call: Call) -> Ways | None:
        """Coloured products that give the whole matrix, whatever numbers f captures; ``None`` where there are none."""
        ...

    def match(self, call: Call) -> Any | None:
        """The values captured by f as of now, if the trace still describes it; ``None`` if f has changed."""
        ...

    def holds(self, call: Call, captured: Any) -> bool:
        """Whether f still is what it was, and captures the same values, when a frozen plan is called."""
        ...

    def build(self, method: Method) -> Runner:
        """A runner for ``method``."""
        ...

    def check(self, call: Call, captured: Any, answer: Any, method: Method) -> CheckReport:
        """Compare one random product of ``answer`` with an unbatched, independent JVP or VJP."""
        ...

    def temporary_bytes(self, method: Method, call: Call, captured: Any) -> int | None:
        """Measured working set of ``method`` beyond inputs and result, or ``None`` where it cannot be known."""
        ...


class Compressed(Protocol):
    """What computes the entries of a sparse matrix for one function at one signature.

    Attributes:
        ways: pattern, colours, and where entries are found.
        outputs: the types whose raveled elements are the rows; ``f_outputs`` those that f returns.
        price: cost of one product.
        notes: what the plan must say.
        blame: what is suspected if the result is wrong.
    """

    ways: Ways
    outputs: tuple[ArrayType, ...]
    f_outputs: tuple[ArrayType, ...]
    price: PassCost
    notes: tuple[str, ...]
    blame: str

    def match(self, call: Call) -> Any | None:
        """The values captured by f as of now, if the pattern still describes it."""
        ...

    def values(self, call: Call, captured: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The entries in CSR order, and a function that puts the matrix into the user's answer (value, aux)."""
        ...


@dataclass(slots=True)
class Adapted:
    """A function made plain: what an ``nn.Module`` becomes."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    name: str
    notes: list[str] = field(default_factory=list)


class Backend(Protocol):
    """A framework. Everything above ``backends/`` sees arrays only through these functions."""

    name: str

    @property
    def version(self) -> str:
        """Version of the framework."""
        ...

    def is_array(self, leaf: Any) -> bool:
        """Whether this framework owns the leaf (arrays, tracers, shape structs)."""
        ...

    def flatten(self, tree: Any) -> tuple[list[Any], Any]:
        """Leaves and tree definition, by the framework's own rules."""
        ...

    def unflatten(self, tree_def: Any, leaves: Sequence[Any]) -> Any:
        """Inverse of :meth:`flatten`."""
        ...

    def paths(self, tree: Any) -> list[str]:
        """The path of each leaf inside the tree: ``['w'][0]``, empty for a leaf alone."""
        ...

    def array_type(self, leaf: Any) -> ArrayType:
        """Type of an array or of a number that the framework would convert."""
        ...

    def static_key(self, leaf: Any) -> Hashable:
        """What must be equal for two leaves to share a trace: the type of an array, the value of anything else."""
        ...

    def is_abstract(self, leaves: Sequence[Any]) -> bool:
        """Whether any leaf has no concrete value, or a transformation of the framework is active."""
        ...

    def adapt(self, f: Callable[..., Any], args: tuple[Any, ...], request: Request) -> Adapted | None:
        """Turn a module into a plain function, or ``None`` if f is one already."""
        ...

    def ambient(self) -> Hashable:
        """Global state that a trace depends on: grad mode, autocast, default dtype, x64 flag."""
        ...

    def trace(self, call: Call) -> Trace:
        """Trace f at the call's signature. Falls back to an eager trace, with a note, where f cannot be traced."""
        ...

    def eager(self, call: Call, reason: str) -> Trace:
        """A trace that holds no graph and runs f anew each time."""
        ...

    def tangent_program(self, call: Call, known: bool = False) -> TangentProgram:
        """The derivative of f as linear maps: at the types of the call, or at its values if ``known``."""
        ...

    def compressed(self, call: Call, given: SparsityPattern | None) -> Compressed:
        """What computes the entries of a sparse matrix; with the user's pattern, if there is one."""
        ...

    def sparse(self, pattern: SparsityPattern) -> Callable[[Any], Any]:
        """What makes the framework's own sparse array of entries in CSR order."""
        ...

    def placer(self, place: Any) -> Callable[[Any], Any]:
        """What makes ``data[place]`` of entries, zero where place is -1."""
        ...

    def array_like(self, leaf: Any, values: Any) -> Any:
        """An array of the framework with the dtype and device of a leaf, and these values from the host."""
        ...

    def to_host(self, leaf: Any) -> Any:
        """The values of an array as a NumPy array."""
        ...

    def rates(self, device: str) -> Rates:
        """Speed of a device."""
        ...

    def available_memory(self, device: str) -> int | None:
        """Free bytes on a device, ``None`` if unknown."""
        ...

    def block_until_ready(self, answer: Any) -> None:
        """Wait for asynchronous work, for timing."""
        ...
