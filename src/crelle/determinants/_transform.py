"""``crelle.slogdet``: what is asked, prepared once for a function at a signature, and reused while f is the same."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np

from crelle._arrays import ArrayType, total_size, types_text
from crelle._call import bind, function_name
from crelle._errors import CrelleCheckError, CrelleTypeError, describe
from crelle._patterns import given_pattern
from crelle._plan import Candidate, Plan
from crelle._prepare import Space, prepared_for, space_for
from crelle._request import Request, make_request
from crelle._sparse import Sparse, sparse_for
from crelle.backends._protocol import Backend, Call
from crelle.determinants._blocks import form_of_pattern
from crelle.determinants._cuts import between, chain
from crelle.determinants._factors import Factor, factor_of, without_empty
from crelle.determinants._recipe import Recipe, recipe_of, singular
from crelle.determinants._result import CannotFactor, SlogdetResult
from crelle.determinants._samples import Samples, count_samples, refuse_coupling, samples_of, verify_square
from crelle.pattern import SparsityPattern
from crelle.tangent.cost import pass_seconds
from crelle.tangent.program import TangentProgram

#: Up to this size the first answer is compared with the dense Jacobian's.
CHECKED = 64
#: Factors of one kind that are told apart in a plan.
_SHOWN = 8


class Linear(Protocol):
    """A linearisation of which parts can be run: what ``backends/<name>/determinant.py`` prepares."""

    program: TangentProgram
    outputs: tuple[ArrayType, ...]
    conjugates: str  # why it is not linear over the complex numbers, empty if it is

    def match(self, call: Call) -> Any | None:
        """What :meth:`build`'s result needs of a call, ``None`` if f has changed."""
        ...

    def build(self, factors: Sequence[Factor], recipe: Recipe) -> Callable[[Call, Any], Any]:
        """(call, what it needs) -> the user's answer."""
        ...


class Rules(Protocol):
    """What a backend offers for determinants."""

    def prepare(self, call: Call) -> Linear:
        """The linearisation of the function of a call."""
        ...

    def total(self, entries: Any, recipe: Recipe, tables: dict[str, Any]) -> SlogdetResult:
        """The determinants of all samples from the entries of all blocks."""
        ...

    def of_matrices(self, matrices: Any) -> SlogdetResult:
        """Of a dense matrix, or of a stack of them."""
        ...


def rules_of(backend: Backend) -> Rules:
    """The rules of a backend; their module is imported when a determinant is first asked for."""
    return cast(Rules, importlib.import_module(f"crelle.backends.{backend.name}.determinant"))


class Prepared:
    """One function at one signature: its factors, or why it has none."""

    def __init__(self, call: Call, batched: bool) -> None:
        try:
            self.linear = rules_of(call.backend).prepare(call)
        except CrelleTypeError as error:  # the dense way says so itself, if f is what is wrong
            raise CannotFactor(str(error).split("\n")[0].partition(": ")[2]) from None
        program, outputs = without_empty(self.linear.program), self.linear.outputs
        self.outputs = outputs
        verify_square(call, outputs)
        verify_holomorphic(call, self.linear.conjugates)
        count = count_samples(call, outputs) if batched else 1
        samples = Samples(call, program, outputs, count)
        self.notes: list[str] = []
        cuts = chain(program) if program.columns else []
        if cuts and _is_complex(call) and any("conj" in m.name for m in program.maps):
            # PyTorch conjugates twice on the way, and what lies between is not linear over the complex numbers
            cuts = [program.inputs, program.outputs]
        self.factors: list[Factor] = []
        self.singular = ""
        if cuts is None:
            self.singular = "structurally singular: fewer numbers than inputs pass through f"
        else:
            self.factors = [factor_of(between(program, a, b), self.notes) for a, b in pairwise(cuts)]
            missing = [f for f in self.factors if f.form.missing.size]
            if missing:
                row = int(missing[0].form.missing[0])
                self.singular = f"structurally singular: no entry is left for row {row:,} of a factor"
        if self.singular and count > 1:
            raise CannotFactor("the pattern is singular, perhaps not for every sample")
        if self.singular:
            self.factors = []
            recipe = singular(count, batched)
        else:
            forms = [(f.form, None if f.coloring is None else f.pattern) for f in self.factors]
            ends = [(samples.of(f.outputs), samples.of(f.inputs)) for f in self.factors]
            recipe = recipe_of(forms, ends, count, batched)
        self.recipe = recipe
        self.notes += program.notes
        self.run = self.linear.build(self.factors, recipe)
        self.untried, self.checked = True, ""

    @property
    def passes(self) -> int:
        """Products at each point, each with one factor alone."""
        return sum(f.passes for f in self.factors)

    def words(self) -> list[str]:
        """What is done, for the plan."""
        if self.singular:
            return [f"{self.singular}: sign 0, log|det| -inf, nothing is run"]
        lines = []
        if len(self.factors) > 1:
            lines.append(f"det J is the product of the determinants of {len(self.factors):,} factors, cut where f "
                         f"passes through {self.linear.program.columns:,} numbers")  # fmt: skip
        kinds = Counter(f.words for f in self.factors)
        lines += [f"{times:,} × {words}" if len(self.factors) > 1 else words for words, times in
                  list(kinds.items())[:_SHOWN]]  # fmt: skip
        if len(kinds) > _SHOWN:
            lines.append(f"and {len(kinds) - _SHOWN:,} other kinds of factors")
        if self.recipe.sparse:
            sizes = ", ".join(f"{b.size:,}×{b.size:,}" for b in self.recipe.sparse[:3])
            lines.append(f"sparse blocks by SuperLU on the host: {sizes}")
        return lines


class Slogdet:
    """The determinant of a Jacobian: call it for the answer, ask ``.plan`` how it is found."""

    def __init__(self, f: Callable[..., Any], request: Request, batched: bool, given: SparsityPattern | None) -> None:
        self.function, self.request, self.batched, self.given = f, request, batched, given
        self._space = space_for(f, ("slogdet", request, batched))
        self.__name__ = f"slogdet({function_name(f)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self._bind(args, kwargs)
        if self.given is not None:
            return self._of_given(call, self.given)
        found = self._prepared(call)
        if isinstance(found, str):
            return self._dense(call)
        prepared, captured = found
        answer = prepared.run(call, captured)
        if prepared.untried and not call.abstract:
            if self.request.check and prepared.linear.program.columns <= CHECKED:
                prepared.checked = self._check(call, answer)
            prepared.untried = False
        return answer

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """How the determinant is found at these inputs, and why."""
        call = self._bind(args, kwargs)
        if self.given is not None:
            sparse, _, recipe, _ = self._sparse(call, self.given)
            plan = sparse.plan(call)
            blocks = f"{recipe.table.size:,} diagonal blocks of the pattern that was passed are computed"
            return replace(plan, kind="slogdet", result=self._result(plan.outputs), notes=(blocks, *plan.notes))
        found = self._prepared(call)
        if isinstance(found, str):
            plan = prepared_for(self._jacobian_call(call), self._dense_space())[0].plan
            verify_square(call, plan.outputs)
            notes = (f"not factored: {found}", *plan.notes) if found else plan.notes
            return replace(plan, kind="slogdet", result=self._result(plan.outputs), notes=notes, _run=None)
        return self._plan(call, found[0])

    def __repr__(self) -> str:
        return f"crelle.slogdet({function_name(self.function)}{', batched=True' if self.batched else ''})"

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        call = bind(self.function, args, kwargs, self.request)
        if _is_complex(call):  # what is not holomorphic is refused
            call.request = replace(call.request, holomorphic=True)
        return call

    # -- from factors

    def _prepared(self, call: Call) -> tuple[Prepared, Any] | str:
        """What is prepared for f as it is now with what it captures; a text where it has no factors, why."""
        if call.backend.name == "numpy":
            return ""
        kept: list[Any] = self._space.at(call.signature)
        for prepared in kept:
            captured = prepared.linear.match(call)
            if captured is not None:
                return prepared, captured
        try:
            made = Prepared(call, self.batched)
        except CannotFactor as error:
            return str(error)
        captured = made.linear.match(call)
        if captured is None:
            return "f changes while it is looked at"
        if not call.abstract:
            kept.insert(0, made)
            del kept[4:]
        return made, captured

    def _plan(self, call: Call, prepared: Prepared) -> Plan:
        device = call.inputs[0].device if call.inputs else ""
        rates, n = call.backend.rates(device), total_size(call.inputs)
        price = prepared.linear.program.cost()
        seconds = sum(pass_seconds(f.price, rates, f.passes, 1) for f in prepared.factors if f.passes)
        held = max((int(f.passes * f.price.peak_bytes) for f in prepared.factors), default=0)
        unit = "VJP" if prepared.linear.program.transposed else "JVP"
        name = "by structure" if not prepared.singular else "by structure: singular"
        chosen = Candidate(name, unit, prepared.passes, None, seconds, held)
        dense = pass_seconds(price, rates, n, 1)
        ratio = dense / seconds if seconds else np.inf
        other = Candidate("forward" if unit == "JVP" else "reverse", unit, n, None, dense, int(n * price.peak_bytes),
                          reason=f"{ratio:.3g}×, and a dense factorisation")  # fmt: skip
        return Plan(
            kind="slogdet", function=call.name, inputs=call.inputs, outputs=prepared.outputs, input_names=call.names,
            backend=call.backend.name, version=call.backend.version, device=device, mode=chosen.mode, unit=chosen.unit,
            passes=prepared.passes, chunk=None, seconds=seconds, bytes=held, memory=None, candidates=(chosen, other),
            result=self._result(prepared.outputs), notes=(*prepared.words(), *dict.fromkeys(prepared.notes)),
            checked=prepared.checked,
        )  # fmt: skip

    def _result(self, outputs: tuple[ArrayType, ...]) -> str:
        shape = outputs[0].shape[:1] if self.batched and outputs else ()
        return f"(sign, log|det|), each {types_text((ArrayType(outputs[0].dtype if outputs else 'float64', shape),))}"

    def _check(self, call: Call, answer: Any) -> str:
        """Compare with the dense Jacobian.

        Raises:
            CrelleCheckError: the determinants differ by more than its condition explains.
        """
        _, found, _ = self._taken_apart(answer)
        if min((t.itemsize for t in call.inputs), default=8) < 4:
            return "no: numbers of 16 bits tell too little"
        try:
            matrix, _ = self._matrix(replace(call, request=replace(call.request, check=False)))
        except Exception as error:  # a rule that is missing for batches
            return f"no: the dense Jacobian could not be formed ({type(error).__name__})"
        # times 1: PyTorch may leave a conjugate for later, which NumPy does not know
        host = np.asarray(call.backend.to_host(1 * matrix)).astype(complex if _is_complex(call) else float)
        matrices = self._blocks(call, host) if self.batched else host
        sign, log = np.linalg.slogdet(matrices)
        signs, logs = (np.asarray(call.backend.to_host(1 * part)) for part in found)
        epsilon = max((t.epsilon for t in call.inputs), default=2.0**-52)
        with np.errstate(all="ignore"):
            close = (np.abs(signs - sign) < 0.1) & (np.abs(logs - log) <= 1e-2 * epsilon**0.25 * (1 + np.abs(log)))
            same = close | ((signs == sign) & (logs == log)) | ~np.isfinite(matrices).all((-2, -1))
            if not np.all(same) and np.isfinite(matrices).all():
                same = same | (np.linalg.cond(matrices) * len(host) * epsilon > 1e-3)
        if not np.all(same):
            raise CrelleCheckError(
                describe(
                    f"{call.text}: the determinant by structure is wrong",
                    called=types_text(call.inputs, call.names),
                    expected=f"sign {sign}, log|det| {log}, as of the dense Jacobian",
                    found=f"sign {signs}, log|det| {logs}",
                    likely="an operation whose derivative is not linear, or not what it says",
                    try_="slogdet of crelle.jacobian(f, flatten=True)(x)",
                )
            )
        with np.errstate(all="ignore"):
            largest = np.nanmax(np.abs(np.append(logs - log, 0.0)), initial=0.0)
        return f"against the dense Jacobian, log|det| differs by {largest:.0e}"

    # -- from the dense matrix

    def _jacobian_call(self, call: Call) -> Call:
        request = replace(call.request, kind="jacobian")
        return bind(self.function, call.args if call.f is self.function else self._args(call), call.kwargs, request)

    def _args(self, call: Call) -> tuple[Any, ...]:
        return call.args[1:] if self.request.wrt == "params" else call.args

    def _dense_space(self) -> Space:
        return space_for(self.function, ("slogdet of the dense matrix", self.request))

    def _matrix(self, call: Call) -> tuple[Any, Any]:
        """(the flat Jacobian, the answer that it is part of)."""
        dense = self._jacobian_call(call)
        prepared, captured = prepared_for(dense, self._dense_space())
        verify_square(call, prepared.trace.outputs)
        if self.batched:
            count_samples(call, prepared.trace.outputs)
        answer = prepared.run(dense, captured)
        return self._taken_apart(answer)[1], answer

    def _dense(self, call: Call) -> Any:
        matrix, answer = self._matrix(call)
        if self.batched:
            if not call.abstract:
                self._blocks(call, np.asarray(call.backend.to_host(matrix)))
            matrix = self._blocks(call, matrix, check=False)
        before, _, after = self._taken_apart(answer)
        result: Any = rules_of(call.backend).of_matrices(matrix)
        return (*before, result, *after) if before or after else result

    def _blocks(self, call: Call, matrix: Any, check: bool = True) -> Any:
        """The diagonal blocks of the samples, [B, n, n]; the batch axis comes first in every array."""
        count, n = call.inputs[0].shape[0], matrix.shape[0]
        cols = np.argsort(samples_of(call.inputs, count), kind="stable").reshape(count, -1)
        outputs = prepared_for(self._jacobian_call(call), self._dense_space())[0].trace.outputs
        of_row = samples_of(tuple(outputs), count)
        rows = np.argsort(of_row, kind="stable").reshape(count, -1)
        if check:
            ends = [samples_of(call.inputs, count), of_row]
            apart = (matrix != 0) & (ends[1][:, None] != ends[0][None, :])
            wrong = np.flatnonzero(apart.any(1))
            column = np.zeros(n, np.int64)
            column[wrong] = apart[wrong].argmax(1)
            refuse_coupling(call, wrong, column, ends)
        return matrix[rows[:, :, None], cols[:, None, :]]

    def _taken_apart(self, answer: Any) -> tuple[tuple[Any, ...], Any, tuple[Any, ...]]:
        """What stands before the matrix or result in an answer, it, and what stands after it."""
        if self.request.value:
            return (answer[0],), answer[1], ()
        return ((), answer[0], (answer[1],)) if self.request.has_aux else ((), answer, ())

    # -- from a pattern of the user

    def _sparse(self, call: Call, pattern: SparsityPattern) -> tuple[Sparse, Any, Recipe, Call]:
        given_pattern(call, pattern, pattern.shape[0])
        form = form_of_pattern(pattern) if pattern.shape[0] == pattern.shape[1] else None
        part = pattern
        if form is not None:
            inside = form.block[pattern.rows] == form.block_of_column[pattern.indices]
            part = SparsityPattern.from_triplets(pattern.rows[inside], pattern.indices[inside], pattern.shape)
        kind = "jacobian" if call.backend.name == "numpy" else self.request.kind  # its modes are listed by kind
        request = replace(call.request, kind=kind, format="triplets", part=part, flatten=True)
        asked = replace(call, request=request)
        sparse, captured = sparse_for(asked, self._space, pattern)
        outputs = sparse.compressed.f_outputs
        verify_square(call, outputs)
        assert form is not None
        count = count_samples(call, outputs) if self.batched else 1
        ends = (samples_of(outputs, count), samples_of(call.inputs, count))
        if self.batched:
            column = np.zeros(pattern.shape[0], np.int64)
            wrong = np.flatnonzero(ends[0][pattern.rows] != ends[1][pattern.indices])
            column[pattern.rows[wrong]] = pattern.indices[wrong]
            refuse_coupling(call, pattern.rows[wrong], column, [ends[1], ends[0]])
        if form.missing.size:
            return sparse, captured, singular(count, self.batched), asked
        return sparse, captured, recipe_of([(form, part)], [ends], count, self.batched), asked

    def _of_given(self, call: Call, pattern: SparsityPattern) -> Any:
        sparse, captured, recipe, asked = self._sparse(call, pattern)
        data, finish = sparse.entries(asked, captured)
        tables: dict[str, Any] = dict(recipe.arrays)
        return finish(rules_of(call.backend).total(data, recipe, tables))


def verify_holomorphic(call: Call, conjugates: str) -> None:
    """Refuse derivatives of complex arguments that are linear over the reals only.

    Raises:
        CrelleTypeError: a tangent is conjugated, or its real part is taken.
    """
    if conjugates and _is_complex(call):
        raise CrelleTypeError(
            describe(
                f"{call.text}: f is not holomorphic, and has no complex Jacobian",
                called=types_text(call.inputs, call.names),
                expected="a function that reads its complex argument z, and not its conjugate",
                likely=conjugates,
                try_="the real and imaginary parts as real arguments and results",
            )
        )


def _is_complex(call: Call) -> bool:
    return any(t.is_complex for t in call.inputs)


def slogdet(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    batched: bool = False,
    has_aux: bool = False,
    value: bool = False,
    wrt: str = "inputs",
    pattern: Any = None,
    check: bool = True,
) -> Slogdet:
    """(s, l) with det J = s · exp(l), J[i, j] = ∂f(x)[i] / ∂x[j]: of the Jacobian of raveled outputs by raveled inputs.

    Found by structure. Where f passes through exactly n numbers, J is a product, and det J the product of the
    determinants of its factors. Each is brought to block triangular form, and only its diagonal blocks are computed,
    without what does not take part in them: the networks inside coupling and autoregressive layers are not
    differentiated at all. Blocks of one size go through one batched factorisation, large sparse ones through SuperLU.

    Args:
        f: a function of JAX, PyTorch or NumPy arrays, or an ``nn.Module``, with as many outputs as inputs.
        argnums: which positional arguments to differentiate.
        batched: f maps [B, ...] to [B, ...] sample by sample; the result has shape [B]. Otherwise such a function
            gives the determinant of the whole: the product over the samples.
        has_aux: f returns ``(output, aux)``; the result is then ``(result, aux)``.
        value: also return f(x), as ``(f(x), result)``.
        wrt: ``"inputs"``, or ``"params"`` for the parameters of an ``nn.Module``.
        pattern: where J may be nonzero, if you know: it is then not looked for, and J is taken as one factor.
        check: compare the first answer with the dense Jacobian, up to 64 × 64.

    Returns:
        A callable with ``.plan(x)``. Its result is a named pair ``(sign, logabsdet)`` of arrays, as of
        ``numpy.linalg.slogdet``: (0, -inf) for a singular J. Differentiable where f is, twice.

    Raises:
        CrelleShapeError: J is not square, or there is no batch axis.
        CrelleValueError: samples read each other.
        CrelleCheckError: the first answer is wrong.

    Cost:
        For each factor one product for each colour of its diagonal blocks: one for a triangular layer of any size. A
        dense block of size s costs s products and O(s³) (Duff and Reid 1978; Pothen and Fan 1990, for the form).

    >>> import numpy as np
    >>> slogdet(lambda x: np.array([x[0] * x[1], x[1] ** 3]))(np.array([2.0, 3.0])).logabsdet.round(6)
    np.float64(4.394449)
    """
    for name, flag in (("batched", batched),):
        if not isinstance(flag, bool):
            raise CrelleTypeError(describe(f"{name}={flag!r} is not a flag", expected="True or False"))
    request = make_request(
        "jacobian", f, argnums=argnums, memory=None, mode="auto", chunk=None, wrt=wrt, has_aux=has_aux, value=value,
        check=check, flatten=True,
    )  # fmt: skip
    given = None if pattern is None else SparsityPattern.from_(pattern)
    return Slogdet(f, replace(request, kind="slogdet"), batched, given)
