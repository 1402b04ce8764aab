"""The Laplacian of a scalar function, exact: by Hessian-vector products or forward, whichever is cheaper."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from crelle import _check
from crelle._arrays import ArrayType, types_text
from crelle._call import bind, function_name
from crelle._divergence import answer_of, by_sample, total, verify_batch, verify_samples
from crelle._errors import CrelleCheckError, CrelleShapeError, CrelleTypeError, CrelleValueError, describe
from crelle._patterns import product_of
from crelle._plan import Candidate, Plan
from crelle._planner import DEFAULT_SHARE
from crelle._prepare import space_for
from crelle._reduced import Reduced
from crelle._request import make_request
from crelle._sparse import Sparse
from crelle.backends._protocol import Call
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import PassCost, pass_seconds
from crelle.tangent.report import outputs_of

MODES = ("auto", "coloured", "forward")


def laplacian(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    batched: bool = False,
    value: bool = False,
    mode: str = "auto",
    check: bool = True,
    pattern: Any = None,
) -> Laplacian:
    """Δf(x) = Σ_i ∂²f(x) / ∂x[i]², exact: the trace of the Hessian of a scalar function f.

    Two ways are priced. Coloured: Hessian-vector products that give the diagonal, one for each group of inputs that
    have no second derivative in common. Forward: f is run once with the tangents of all groups and the Laplacian beside
    every value; that is about half the work where the Hessian is dense.

    Args:
        f: a function of arrays that returns a scalar.
        argnums: which positional arguments to differentiate.
        batched: f maps ``[B, ...]`` to ``[B]`` sample by sample; the answer is then one Laplacian a sample, [B].
        value: also return f(x), as ``(f(x), laplacian)``.
        mode: ``"auto"``, ``"coloured"`` or ``"forward"``.
        check: compare with an independent Hessian-vector product when a plan first runs.
        pattern: where the Hessian may be nonzero, if you know.

    Returns:
        A callable with ``.plan(x)``; its answer has shape [], or [B].

    Raises:
        CrelleShapeError: f does not return a scalar; or, ``batched``, [B], or a sample reads another one.
        CrelleValueError: ``mode="forward"`` of a function that cannot be run so.

    Cost:
        k Hessian-vector products, or one forward pass with k tangents, for k groups: k = 1 for a sum of functions of
        one input each, k = n where the Hessian is dense (R. Li et al., *Forward Laplacian*, Nature Machine Intelligence
        6, 2024).

    >>> import numpy as np
    >>> print(laplacian(lambda x: (x ** 2).sum())(np.array([1.0, 2.0, 3.0])).round(3))
    6.0
    """
    if mode not in MODES:
        raise CrelleValueError(
            describe(f"mode={mode!r} is not known to crelle.laplacian", expected=" | ".join(map(repr, MODES)))
        )
    return Laplacian(f, argnums, batched, value, mode, check, pattern)


class Forward(Protocol):
    """What ``backends/<name>/laplacian.py`` offers as ``ForwardLaplacian``.

    Attributes:
        colors: the seed that each input belongs to; -1 for none.
        seeds, chunk: how many tangents, and how many at a time.
        price, products: the cost of a whole run, and of the products that it stands for.
    """

    colors: Any
    seeds: int
    chunk: int | None
    price: PassCost
    products: PassCost

    def values(self, call: Call, captured: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The Laplacian, and what puts it into the user's answer."""
        ...

    def along(self, call: Call, captured: Any, color: int) -> float:
        """The second derivative along the seed of one colour, of the sum over samples."""
        ...


class _Way:
    """Forward or by products, for one preparation."""

    def __init__(self, forward: Forward | None, why: str, chosen: bool) -> None:
        self.forward, self.why, self.chosen = forward, why, chosen
        self.untried, self.checked = True, ""


#: By mode, for what is prepared.
_ways: WeakKeyDictionary[Sparse, dict[str, _Way]] = WeakKeyDictionary()


class Laplacian(Reduced):
    """The Laplacian of a function: call it for the answer, ask ``.plan`` how it is found."""

    def __init__(
        self, f: Callable[..., Any], argnums: int | tuple[int, ...], batched: bool, value: bool, mode: str, check: bool,
        pattern: Any,
    ) -> None:  # fmt: skip
        self.text = f"crelle.laplacian({function_name(f)})"
        self.batched, self.mode, self._wants_value, self._of = batched, mode, value, f
        request = make_request(
            "hessian", f, argnums=argnums, memory=None, mode="auto", chunk=None, wrt="inputs", format="triplets",
            part="diagonal", value=value and not batched, has_aux=batched, holomorphic=False, check=check,
        )  # fmt: skip
        given = None if pattern is None else SparsityPattern.from_(pattern)
        super().__init__(
            "laplacian", _summed(f, self.text) if batched else f, request, by_sample(self.text) if batched else total,
            given, self._verify_batch if batched else None, answer_of(batched),
        )  # fmt: skip
        self._space = space_for(f, ("laplacian", batched, request))

    def _answered(self, call: Call, found: Any) -> Any:
        way = self._way(call, found)
        if way.chosen and way.untried and not call.abstract:
            way.untried = False
            if call.request.check:
                self._checked(call, found[1], way)
        if way.chosen:
            assert way.forward is not None
            data, finish = way.forward.values(call, found[1])
            answer = finish(data)
        else:
            answer = super()._answered(call, found)
        if not self.batched:
            return answer
        return (answer[1], answer[0]) if self._wants_value else answer[0]

    def _planned(self, call: Call, found: Any) -> Plan:
        made, way = super()._planned(call, found), self._way(call, found)
        if self.batched:  # of f, not of the sum of what it returns
            made = replace(made, outputs=(ArrayType(made.outputs[0].dtype, call.inputs[0].shape[:1]),))
        if way.forward is None:
            none = Candidate("forward Laplacian", "", -1, None, math.inf, 0, way.why)
            return replace(made, candidates=(*made.candidates, none))
        rates, forward = call.backend.rates(made.device), way.forward
        coloured = made.candidates[0]
        seconds = (pass_seconds(forward.price, rates, 1, 1), pass_seconds(forward.products, rates, 1, 1))
        scale = seconds[1] / coloured.seconds if coloured.seconds else 1.0
        others = [replace(c, seconds=c.seconds * scale) for c in made.candidates]
        others[0] = replace(others[0], bytes=int(forward.products.peak_bytes))
        chunks = 1 if forward.chunk is None else math.ceil(forward.seeds / forward.chunk)
        mine = Candidate("forward Laplacian", "second-order JVP", forward.seeds, forward.chunk, seconds[0],
                         int(forward.price.peak_bytes / chunks))  # fmt: skip
        first, rest = (mine, others) if way.chosen else (others[0], [mine, *others[1:]])
        rest = [replace(c, reason=self._reason(c, first)) for c in rest]
        return replace(
            made, mode=first.mode, unit=first.unit, passes=first.passes, chunk=first.chunk, seconds=first.seconds,
            bytes=first.bytes, candidates=(first, *rest), checked=way.checked if way.chosen else made.checked,
            notes=() if way.chosen else made.notes,
        )  # fmt: skip

    def _reason(self, candidate: Candidate, chosen: Candidate) -> str:
        text = f"{candidate.seconds / max(chosen.seconds, 1e-12):.3g}×"
        return text if self.mode == "auto" else f"{text}; mode={self.mode!r} was asked for"

    # -- which way

    def _way(self, call: Call, found: Any) -> _Way:
        if not isinstance(found[0], Sparse):
            self._refuse_forced(call, "f cannot be traced")
            return _Way(None, "f cannot be traced", False)
        kept = _ways.setdefault(found[0], {})
        if self.mode not in kept:
            way = self._choose(call, found[0], found[1])
            if way.forward is None:
                self._refuse_forced(call, way.why)
            kept[self.mode] = way
        return kept[self.mode]

    def _refuse_forced(self, call: Call, why: str) -> None:
        if self.mode == "forward":
            raise CrelleValueError(
                describe(
                    f"{self.text}: mode='forward' cannot be used here",
                    called=types_text(call.inputs, call.names),
                    likely=why,
                    try_="mode='coloured', or leave mode= out",
                )
            )

    def _choose(self, call: Call, sparse: Sparse, captured: Any) -> _Way:
        """By price; only where something varies."""
        ways = sparse.compressed.ways
        coloring = ways.constant or ways.coloring
        if ways.coloring is None or coloring is None:
            return _Way(None, "the diagonal is the same for every input: nothing is run", False)
        try:
            module = importlib.import_module(f"crelle.backends.{call.backend.name}.laplacian")
        except ModuleNotFoundError:
            return _Way(None, f"not offered for {call.backend.name}", False)
        colors = np.full(ways.pattern.shape[1], -1)
        wanted, found = ways.pattern.indices, coloring.column_colors
        assert found is not None
        colors[wanted] = found[wanted]
        device = call.inputs[0].device
        available = call.backend.available_memory(device)
        memory = None if available is None else int(available * DEFAULT_SHARE)
        try:
            forward = module.ForwardLaplacian(call, sparse.compressed, captured, colors, self.batched, memory)
        except Exception as error:  # an operation without a forward rule
            text = f"{type(error).__name__}: {error}".split("\n")[0][:120]
            return _Way(None, text.removeprefix("NoForwardLaplacian: "), False)
        rates = call.backend.rates(device)
        mine, theirs = (pass_seconds(price, rates, 1, 1) for price in (forward.price, forward.products))
        chosen = self.mode == "forward" or (self.mode == "auto" and mine < theirs)
        return _Way(forward, "", chosen)

    def _checked(self, call: Call, captured: Any, way: _Way) -> None:
        """Check the forward way; should it fail, the other way is taken, if that is left to choose."""
        try:
            self._check(call, captured, way)
        except CrelleCheckError:
            if self.mode == "forward":
                way.untried = True
                raise
            way.forward, way.chosen, way.why = None, False, "failed the check"

    def _check(self, call: Call, captured: Any, way: _Way) -> None:
        """Compare one seed with a Hessian-vector product; with random signs, so that a coupling inside of it shows.

        Raises:
            CrelleCheckError: they differ.
        """
        rng, forward = np.random.default_rng(0), way.forward
        assert forward is not None
        colors = forward.colors
        color = int(rng.integers(forward.seeds))
        vector = np.where(colors == color, rng.choice((-1.0, 1.0), len(colors)), 0.0)
        try:
            terms = vector * product_of(call, vector, False, call.inputs)
        except Exception:  # no rule for it
            way.checked = "no: no Hessian-vector product could be run"
            return
        found, expected = forward.along(call, captured, color), float(terms.sum())
        scale = max(float(np.abs(terms).sum()), abs(found))
        epsilon = max((t.epsilon for t in call.inputs), default=2.0**-52)
        tolerance = min(_check.TOLERANCE * epsilon**0.5, _check.COARSEST)
        error = abs(found - expected)
        relative = error / scale if scale else error
        if np.isfinite(relative) and relative > tolerance and error > _check.ROUNDING * epsilon:
            raise CrelleCheckError(
                describe(
                    f"{self.text}: the forward Laplacian is wrong",
                    called=types_text(call.inputs, call.names),
                    expected=f"a second derivative within {tolerance:.0e} of an independent HVP; "
                    f"it is off by {relative:.0e}",
                    likely="the pattern that was passed misses entries, or a rule of f is not its derivative",
                    try_="mode='coloured', or pattern=",
                )
            )
        way.checked = f"1 second derivative against an independent HVP, relative error {relative:.0e}"

    def _verify_batch(self, call: Call, outputs: tuple[ArrayType, ...]) -> None:
        request = make_request(
            "jacobian", self._of, argnums=self.request.argnums, memory=None, mode="auto", chunk=None, wrt="inputs"
        )
        own = bind(self._of, call.args, call.kwargs, request)
        try:
            returned = outputs_of(call.backend.tangent_program(own))
        except CrelleTypeError:  # it cannot be traced: the dense matrix will tell
            return
        verify_batch(self.text, call, returned, "[B, ...] to [B]")
        verify_samples(self.text, own, returned)


def _summed(f: Callable[..., Any], text: str) -> Callable[..., Any]:
    """The sum over samples, which has their Laplacians on the diagonal of its Hessian; with f(x) as aux."""

    def summed(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        value = f(*args, **kwargs)
        shape = getattr(value, "shape", None)
        if shape is None or len(shape) != 1:
            returned = type(value).__name__ if shape is None else f"an array of shape {list(shape)}"
            raise CrelleShapeError(
                describe(
                    f"{text}: batched=True, and f returned {returned}",
                    expected="one number for each sample: an array of shape [B]",
                    try_="leave batched= out if f returns a scalar, or f(x)[:, 0]",
                )
            )
        return value.sum(), value

    if callable(f):
        summed.__name__ = function_name(f)
    return summed
