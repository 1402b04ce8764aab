"""``crelle.check``: is a derivative that somebody wrote by hand right? The comparison, and what it found.

What the mistake looks like is guessed in ``_mistakes``. Nothing here knows a framework.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crelle import _mistakes
from crelle._arrays import ArrayType
from crelle._call import backend_of, describe_arguments, function_name
from crelle._errors import CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle._products import hvp, jvp, vjp
from crelle._transforms import gradient, hessian, jacobian
from crelle.backends._protocol import Backend

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[..., Any]

#: What ``kind=`` accepts; the last three take a vector as their last argument.
KINDS = ("jacobian", "gradient", "hessian", "vjp", "jvp", "hvp")
PRODUCTS = ("vjp", "jvp", "hvp")
#: A difference of this many estimated errors of the reference is no mistake.
SLACK = 10.0
#: Differences below sqrt(eps) times this, relative to the largest entry of an array, are rounding.
ROUNDING = 1e-2
#: An estimated error above this share of the largest entry is worth a note.
VAGUE = 1e-3


@dataclass(frozen=True, slots=True)
class Compared:
    """One entry of the two derivatives.

    Attributes:
        where: path and index: ``[0, 1]``, ``['w'][2, 0]``.
        yours, reference: the two values.
        difference: absolute.
        error: estimated error of the reference; 0 where it comes from derivative rules.
    """

    where: str
    yours: complex
    reference: complex
    difference: float
    error: float


@dataclass(frozen=True)
class CheckResult:
    """What :func:`crelle.check` found. True if the derivative is right; prints as a report.

    Attributes:
        ok: every entry agrees within the tolerance.
        kind, function, derivative: what was compared, and the names of the two functions.
        entries, wrong: number of entries, and of those that disagree.
        max_abs: largest absolute difference.
        max_rel: largest difference relative to the larger of the two values: 2 for a wrong sign, 1 for a missing entry.
        rtol, atol: the tolerance, without the estimated error of the reference.
        worst: the entries that are off most, in units of what they may be off.
        likely: what the mistake looks like; empty if nothing is recognised.
        reference: how the reference was computed.
        notes: what limits the comparison.
    """

    ok: bool
    kind: str
    function: str
    derivative: str
    entries: int
    wrong: int
    max_abs: float
    max_rel: float
    rtol: float
    atol: float
    worst: tuple[Compared, ...]
    likely: tuple[str, ...]
    reference: str
    notes: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        found = "right" if self.ok else f"wrong in {self.wrong:,} of {self.entries:,} entries"
        return f"<CheckResult: {self.derivative} as {self.kind} of {self.function}, {found}>"

    def __str__(self) -> str:
        rows = [("largest", f"difference {self.max_abs:.3g}, relative {self.max_rel:.3g}")]
        rows.append(("reference", self.reference))
        rows += [("likely" if i == 0 else "", text) for i, text in enumerate(self.likely)]
        rows += [("notes" if i == 0 else "", text) for i, text in enumerate(self.notes)]
        lines = [self._headline(), *(f"  {key:<10}{text}" for key, text in rows)]
        return "\n".join([*lines, *(("", *self._table()) if not self.ok else ())])

    def _headline(self) -> str:
        if self.ok:
            count = "its entry agrees" if self.entries == 1 else f"all {self.entries:,} entries agree"
            return f"{self.derivative} is the {self.kind} of {self.function}: {count}"
        count = f"{self.wrong:,} of {self.entries:,} entries wrong"
        return f"{self.derivative} is not the {self.kind} of {self.function}: {count}"

    def _cells(self) -> list[tuple[str, ...]]:
        estimated = any(entry.error for entry in self.worst)
        head = ("entry", "yours", "reference", "difference", *(("error of reference",) if estimated else ()))
        body = [
            (e.where, _number(e.yours), _number(e.reference), f"{e.difference:.3g}",
             *((f"{e.error:.1g}",) if estimated else ()))
            for e in self.worst
        ]  # fmt: skip
        return [head, *body]

    def _table(self) -> list[str]:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return ["  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]

    def _repr_html_(self) -> str:
        rows = [
            "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, row in zip(["th", *["td"] * len(self.worst)], self._cells(), strict=True)
        ]
        caption = "<br>".join(html.escape(text) for text in (self._headline(), *self.likely))
        return f"<table><caption>{caption}</caption>{'' if self.ok else ''.join(rows)}</table>"


def check(
    f: Function,
    derivative: Function,
    *args: Any,
    kind: str = "jacobian",
    argnums: int | tuple[int, ...] = 0,
    rtol: float | None = None,
    atol: float | None = None,
    worst: int = 5,
    u: Any = None,
    **kwargs: Any,
) -> CheckResult:
    """Compare a derivative D that was written by hand with ∂f(x)/∂x: is |D(x) − ∂f(x)/∂x| ≤ atol + rtol |∂f(x)/∂x|?

    The reference is ``crelle.jacobian(f)`` and its relatives: derivative rules in JAX and PyTorch; for NumPy functions
    differences and complex steps, and ten times their estimated error is added to the tolerance.

    Args:
        f: the function, of JAX, PyTorch or NumPy arrays.
        derivative: called as ``derivative(*args, **kwargs)``; for products as ``derivative(*args, u, **kwargs)``. It
            returns what :func:`crelle.jacobian` would, in shape and tree: ``[c, a, b]`` for an output ``[c]`` and an
            input ``[a, b]``.
        *args, **kwargs: the point, as for f.
        kind: ``"jacobian"``, ``"gradient"``, ``"hessian"``, or a product with a vector: ``"vjp"`` (uᵀJ), ``"jvp"``
            (J u), ``"hvp"`` (H u).
        argnums: which arguments the derivative is with respect to; a tuple expects a tuple.
        rtol: relative tolerance; sqrt(eps) of the least precise array if left out.
        atol: absolute tolerance; rounding of the largest entry if left out.
        worst: how many entries to report.
        u: the vector of a product; random if left out.

    Returns:
        A :class:`CheckResult`: true if it is right; it prints what is wrong, where, and what the mistake looks like.

    Raises:
        CrelleTypeError: the derivative returns something that is not like the reference.
        CrelleShapeError: its shape is another.

    Cost:
        One Jacobian or Hessian, or one product.

    >>> import numpy as np
    >>> def f(x):
    ...     return np.array([x[0] ** 2 - x[1] ** 2, 2 * x[0] * x[1]])
    >>> def by_hand(x):
    ...     return np.array([[2 * x[0], 2 * x[1]], [2 * x[1], 2 * x[0]]])
    >>> print(check(f, by_hand, np.array([1.5, 0.5])))
    by_hand is not the jacobian of f: 1 of 4 entries wrong
      largest   difference 2, relative 2
      reference crelle.jacobian, dense complex-step, numpy
      likely    the sign of entry [0, 1]
    <BLANKLINE>
      entry   yours  reference  difference  error of reference
      [0, 1]  1      -1         2           ...
    """
    what = f"crelle.check({function_name(f)}, {function_name(derivative)})"
    _check_keywords(what, f, derivative, kind, worst, rtol, atol)
    backend = backend_of(f, args, kwargs, what)
    reference = _reference(f, args, kwargs, kind, argnums, u, backend)
    given = derivative(*args, *reference.vector, **kwargs)
    yours = _like(what, given, reference.derivative, backend)
    expected = backend.flatten(reference.derivative)[0]
    errors = [_array(leaf) for leaf in backend.flatten(reference.error)[0]] if reference.error is not None else None
    blocks = [
        _Block(path, mine, _array(leaf), np.zeros(np.shape(_array(leaf))) if errors is None else errors[i].real)
        for i, (path, mine, leaf) in enumerate(zip(backend.paths(reference.derivative), yours, expected, strict=True))
    ]
    epsilon = max((backend.array_type(leaf).epsilon for leaf in (*expected, *_arrays_of(backend, args))), default=0.0)
    return _compare(blocks, kind, f, derivative, reference, epsilon, rtol, atol, worst)


@dataclass(frozen=True, slots=True)
class _Reference:
    derivative: Any
    error: Any
    vector: tuple[Any, ...]
    text: str


@dataclass(slots=True)
class _Block:
    """One array of the two derivatives, and what its entries may be off."""

    path: str
    yours: Array
    reference: Array
    error: Array
    allowed: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def difference(self) -> Array:
        """Absolute; 0 where both are the same infinity or NaN, inf where one of them is."""
        with np.errstate(all="ignore"):
            off = np.abs(self.yours - self.reference)
        same = (self.yours == self.reference) | (np.isnan(self.yours) & np.isnan(self.reference))
        return np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))


def _check_keywords(
    what: str, f: Any, derivative: Any, kind: str, worst: Any, rtol: float | None, atol: float | None
) -> None:
    for name, value in (("f", f), ("derivative", derivative)):
        if not callable(value):
            raise CrelleTypeError(
                describe(
                    f"crelle.check(f, derivative, x): {name} is not a function but of type {type(value).__name__}",
                    expected="the function, and the function that computes its derivative, and then the arguments",
                    likely="an array in the place of the derivative" if hasattr(value, "shape") else None,
                    try_="crelle.check(f, my_jacobian, x)",
                )
            )
    if kind not in KINDS:
        raise CrelleValueError(describe(f"{what}: kind={kind!r} is not known", expected=" | ".join(map(repr, KINDS))))
    if isinstance(worst, bool) or not isinstance(worst, int) or worst < 1:
        raise CrelleValueError(describe(f"{what}: worst={worst!r}", expected="how many entries to report: 1 or more"))
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not value >= 0:
            raise CrelleValueError(describe(f"{what}: {name}={value!r}", expected="a number that is not negative"))


# -- the reference


def _reference(
    f: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    kind: str,
    argnums: int | tuple[int, ...],
    u: Any,
    backend: Backend,
) -> _Reference:
    by_differences = backend.name == "numpy"
    if kind not in PRODUCTS:
        make = {"jacobian": jacobian, "gradient": gradient, "hessian": hessian}[kind]
        transform = make(f, argnums, error=by_differences)
        answer = transform(*args, **kwargs)
        plan = transform.plan(*args, **kwargs)
        text = f"crelle.{kind}, {plan.method}, {backend.name}"
        derivative, error = answer if by_differences else (answer, None)
        return _Reference(derivative, error, (), text)
    positions = argnums if isinstance(argnums, tuple) else (argnums,)
    active = tuple(args[i] for i in positions)
    single = not isinstance(argnums, tuple)

    def of_active(*some: Any) -> Any:
        changed = list(args)
        for i, value in zip(positions, some, strict=True):
            changed[i] = value
        return f(*changed, **kwargs)

    of_active.__name__ = function_name(f)
    if u is None:
        u = _random_like(of_active(*active) if kind == "vjp" else active[0] if single else active, backend)
    if by_differences:
        return _product_by_differences(of_active, active, kind, u, single, backend)
    vector = (u,) if single and kind != "vjp" else u
    if kind == "vjp":
        product = vjp(of_active, *active)[1](u)
        product = product[0] if single else product
    elif kind == "jvp":
        product = jvp(of_active, active, vector)[1]
    else:
        product = hvp(of_active, active, vector)
    return _Reference(product, None, (u,), f"crelle.{kind}, {backend.name}")


def _product_by_differences(
    f: Function, active: tuple[Any, ...], kind: str, u: Any, single: bool, backend: Backend
) -> _Reference:
    """The product with the whole matrix, and its error with the errors of the entries."""
    every = tuple(range(len(active)))
    make = hessian if kind == "hvp" else jacobian
    holomorphic = any(np.iscomplexobj(leaf) for leaf in backend.flatten(active)[0])
    value, matrix, error = make(f, every, flatten=True, error=True, value=True, holomorphic=holomorphic)(*active)
    flat = np.concatenate([np.ravel(leaf) for leaf in backend.flatten(u)[0]])
    if kind == "vjp":
        matrix, error = matrix.T, error.T
    expected = matrix.shape[1]
    if flat.size != expected:
        raise CrelleShapeError(
            describe(
                f"crelle.check: u has {flat.size:,} entries, and the {kind} takes {expected:,}",
                called=f"u: {describe_arguments((u,), {})}",
                expected="the shape of f(x)" if kind == "vjp" else "the shape of x",
            )
        )
    shape_of = value if kind == "jvp" else active[0] if single else active
    leaves, treedef = backend.flatten(shape_of)
    cuts = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]

    def shaped(vector: Array) -> Any:
        parts = np.split(vector, cuts)
        return backend.unflatten(treedef, [p.reshape(np.shape(leaf)) for p, leaf in zip(parts, leaves, strict=True)])

    text = f"crelle.{make.__name__} times u, numpy"
    return _Reference(shaped(matrix @ flat), shaped(error @ np.abs(flat)), (u,), text)


def _random_like(tree: Any, backend: Backend) -> Any:
    """A tree of the same shapes with random entries, of the framework's own arrays."""
    rng = np.random.default_rng(1841)
    leaves, treedef = backend.flatten(tree)
    return backend.unflatten(treedef, [_as(leaf, _random(rng, backend.array_type(leaf))) for leaf in leaves])


def _random(rng: np.random.Generator, kind: ArrayType) -> Array:
    values = rng.standard_normal(kind.shape)
    return np.asarray(values + 1j * rng.standard_normal(kind.shape) if kind.is_complex else values)


def _as(leaf: Any, values: Array) -> Any:
    """The values as an array of the framework, dtype and device of a leaf, whatever it is."""
    if hasattr(leaf, "new_tensor"):
        return leaf.new_tensor(values.tolist())
    if isinstance(leaf, np.ndarray):
        return values.astype(leaf.dtype)
    if hasattr(leaf, "__array_namespace__"):
        return leaf.__array_namespace__().asarray(values, dtype=leaf.dtype)
    return np.asarray(values, np.asarray(leaf).dtype)[()]


# -- making the two comparable


def _array(leaf: Any) -> Array:
    """The values of any framework's array in double precision, on the host."""
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu().resolve_conj().resolve_neg()
        leaf = leaf.double() if not leaf.is_complex() else leaf
        leaf = leaf.numpy()
    array = np.asarray(leaf)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _arrays_of(backend: Backend, args: tuple[Any, ...]) -> list[Any]:
    found = [leaf for leaf in backend.flatten(args)[0] if backend.is_array(leaf)]
    return [leaf for leaf in found if backend.array_type(leaf).is_float or backend.array_type(leaf).is_complex]


def _like(what: str, given: Any, reference: Any, backend: Backend) -> list[Array]:
    """The leaves of what the user's function returned, once they are like the reference."""
    expected, treedef = backend.flatten(reference)
    given = _unwrapped(given, reference, backend)
    leaves, given_tree = backend.flatten(given)
    if given_tree != treedef:
        raise CrelleTypeError(
            describe(
                f"{what}: the derivative returned another tree than the reference",
                called=f"yours:     {describe_arguments((given,), {})}",
                found=f"reference: {describe_arguments((reference,), {})}",
                expected="the tree of the output, with the tree of the input in each of its leaves",
            )
        )
    paths = backend.paths(reference)
    return [_leaf_like(what, *some, backend) for some in zip(paths, leaves, expected, strict=True)]


def _unwrapped(given: Any, reference: Any, backend: Backend) -> Any:
    """Nested lists of numbers are an array, and a tuple of one product is that product, where one array is expected."""
    if (
        len(backend.flatten(reference)[0]) != 1
        or not isinstance(given, (list, tuple))
        or type(given) is type(reference)
    ):
        return given
    if len(given) == 1 and np.shape(given[0]) == np.shape(reference):
        return given[0]
    try:
        return np.array([[_array(x) for x in row] if isinstance(row, (list, tuple)) else _array(row) for row in given])
    except (TypeError, ValueError):
        return given


def _leaf_like(what: str, path: str, given: Any, expected: Any, backend: Backend) -> Array:
    want = backend.array_type(expected)
    try:
        mine = _array(given)
    except (TypeError, ValueError):
        raise CrelleTypeError(
            describe(
                f"{what}: the derivative returned {given!r} of type {type(given).__name__}{_at(path)}",
                expected=str(want),
                likely="a missing return statement" if given is None else None,
            )
        ) from None
    if mine.shape != want.shape:
        got = ArrayType(str(getattr(given, "dtype", mine.dtype)).removeprefix("torch."), mine.shape)
        raise CrelleShapeError(
            describe(
                f"{what}: yours {got}, expected {want}{_at(path)}{_hint(mine.shape, want.shape)}",
                expected="the shape of the output, followed by the shape of the input",
            )
        )
    return mine


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _hint(mine: tuple[int, ...], want: tuple[int, ...]) -> str:
    if len(mine) == len(want) == 2 and mine == want[::-1]:
        return ": transposed?"
    if [d for d in mine if d != 1] == [d for d in want if d != 1]:
        return ": an axis of length 1 too many or too few?"
    if sorted(mine) == sorted(want):
        return ": axes in another order?"
    if np.prod(mine) == np.prod(want):
        return f": reshape({', '.join(map(str, want))})?"
    if len(mine) == len(want) and sum(a != b for a, b in zip(mine, want, strict=True)) == 1:
        axis = next(k for k, (a, b) in enumerate(zip(mine, want, strict=True)) if a != b)
        noun = ("row", "column")[axis] if len(want) == 2 else f"slice of axis {axis}"
        count = want[axis] - mine[axis]
        return f": {abs(count)} {noun}{'' if abs(count) == 1 else 's'} {'missing' if count > 0 else 'too many'}?"
    return ""


# -- comparing


def _compare(
    blocks: list[_Block],
    kind: str,
    f: Function,
    derivative: Function,
    reference: _Reference,
    epsilon: float,
    rtol: float | None,
    atol: float | None,
    worst: int,
) -> CheckResult:
    root = float(np.sqrt(epsilon))
    relative = root if rtol is None else float(rtol)
    largest = max((_largest(b.reference) for b in blocks), default=0.0)
    for b in blocks:
        absolute = ROUNDING * root * _largest(b.reference) if atol is None else float(atol)
        with np.errstate(all="ignore"):
            allowed = absolute + relative * np.abs(b.reference) + SLACK * b.error
        b.allowed = np.where(np.isfinite(allowed), allowed, 0.0)
    ranked: list[tuple[float, Compared]] = []
    wrong = entries = 0
    max_abs = max_rel = 0.0
    for b in blocks:
        off = b.difference
        entries += off.size
        wrong += int(np.sum(off > b.allowed))
        if not off.size:
            continue
        with np.errstate(all="ignore"):
            ratio = np.where(off == 0, 0.0, off / b.allowed)
            share = np.where(off == 0, 0.0, off / np.maximum(np.abs(b.yours), np.abs(b.reference)))
            share = np.where(np.isnan(share), np.inf, share)
        max_abs, max_rel = max(max_abs, float(off.max())), max(max_rel, float(share.max()))
        for flat in np.argsort(-ratio, axis=None, kind="stable")[:worst]:
            index = tuple(int(k) for k in np.unravel_index(flat, off.shape))
            where = b.path + (f"[{', '.join(map(str, index))}]" if index else "") or "value"
            one = Compared(
                where, b.yours[index].item(), b.reference[index].item(), float(off[index]), float(b.error[index])
            )
            ranked.append((float(ratio[index]), one))
    ranked.sort(key=lambda pair: -pair[0])
    chosen = [one for ratio, one in ranked[:worst] if wrong == 0 or ratio > 1]
    likely = () if not wrong else _mistakes.recognise(
        [(b.path, b.yours, b.reference, b.allowed) for b in blocks], kind
    )  # fmt: skip
    return CheckResult(
        ok=wrong == 0,
        kind=kind,
        function=function_name(f),
        derivative="the derivative" if getattr(derivative, "__name__", "") == "<lambda>" else function_name(derivative),
        entries=entries,
        wrong=wrong,
        max_abs=max_abs,
        max_rel=max_rel,
        rtol=relative,
        atol=ROUNDING * root * largest if atol is None else float(atol),
        worst=tuple(chosen),
        likely=tuple(likely),
        reference=reference.text,
        notes=tuple(_notes(blocks)),
    )


def _largest(array: Array) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max(initial=0.0))


def _notes(blocks: list[_Block]) -> list[str]:
    notes = []
    vague = [b.error for b in blocks if np.any(b.error > VAGUE * _largest(b.reference))]
    if vague:
        worst = max(_largest(error) for error in vague)
        notes.append(f"the reference is uncertain, by up to {worst:.1g}: f has a kink here, or is noisy")
    if any(not np.all(np.isfinite(b.reference)) for b in blocks):
        notes.append("the reference is not finite everywhere: f is not differentiable here (norm or sqrt at 0, log(0))")
    return notes


def _number(value: complex) -> str:
    return f"{value:.8g}"
