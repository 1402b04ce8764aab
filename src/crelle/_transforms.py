"""What is asked: ``jacobian``, ``hessian`` and ``gradient``. Each is callable and has ``.plan``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crelle._arrays import ArrayType, total_size
from crelle._call import bind, function_name
from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle._norms import ask
from crelle._patterns import found_pattern, given_pattern
from crelle._plan import Plan
from crelle._prepare import frozen, prepared_for, space_for
from crelle._request import Request, make_request
from crelle._sparse import sparse_for
from crelle.backends._protocol import Call
from crelle.pattern import SparsityPattern
from crelle.tangent.program import TangentProgram
from crelle.tangent.report import lines, structure_of
from crelle.tangent.structure import Structure, find_structure

if TYPE_CHECKING:
    from crelle.operators._operator import Operator


class Transform:
    """A derivative of a function: call it for the answer, ask ``.plan`` how the answer is found."""

    def __init__(self, f: Callable[..., Any], request: Request, plan: Plan | None = None, pattern: Any = None) -> None:
        if plan is not None and plan.kind != request.kind:
            raise CrelleTypeError(
                describe(
                    f"crelle.{request.kind}(f, plan=): the plan is for a {plan.kind}",
                    expected=f"a plan made by crelle.{request.kind}(f).plan(...)",
                )
            )
        if plan is not None:
            request = replace(request, mode=plan.mode, chunk=plan.chunk)
        self.function, self.request, self.preferred = f, request, plan
        self.given = None if pattern is None else _as_pattern(pattern)
        self._space = space_for(f, (request, request.selection.key))
        self.__name__ = f"{request.kind}({function_name(f)})"
        self.__doc__ = f"{request.kind.capitalize()} of {function_name(f)}."

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self._bind(args, kwargs)
        if self.request.format != "dense":
            sparse, captured = sparse_for(call, self._space, self.given)
            return sparse.answer(call, captured)
        prepared, captured = prepared_for(call, self._space)
        return prepared.run(call, captured)

    def plan(self, *args: Any, analyze: bool = False, **kwargs: Any) -> Plan:
        """How the answer is found at these inputs: a printable :class:`Plan`, which can also be called.

        Args:
            *args: as for f; JAX also takes ``jax.ShapeDtypeStruct``.
            analyze: run every usable candidate and add measured columns, as SQL's EXPLAIN ANALYZE does.
        """
        call = self._bind(args, kwargs)
        if self.request.format != "dense":
            sparse, captured = sparse_for(call, self._space, self.given)
            self._verify_values(call, analyze)
            return sparse.frozen(call, captured, self._bind, analyze)
        prepared, captured = prepared_for(call, self._space)
        self._verify_values(call, analyze)
        if analyze:
            prepared.plan = prepared.analyzed(call, captured)
        structure = lines(call) if self.request.kind != "gradient" else None
        return replace(frozen(call, prepared, captured, self._bind), _structure=structure)

    def _verify_values(self, call: Call, analyze: bool) -> None:
        if analyze and call.abstract:
            raise CrelleTypeError(
                describe(f"{call.text}: analyze=True runs f, and there are no values to run it on",
                         try_="pass arrays instead of shapes, outside of any transformation")
            )  # fmt: skip

    def program(self, *args: Any, local: bool = False, **kwargs: Any) -> TangentProgram:
        """v ↦ Jv (Hv for a Hessian) as a list of linear maps: the chain rule of f at these types, printable.

        Args:
            *args: as for f; shapes without values are enough unless ``local``.
            local: take the values of the arguments as known, too.

        Raises:
            CrelleTypeError: f cannot be traced.
        """
        call = self._bind(args, kwargs)
        return call.backend.tangent_program(call, local)

    def pattern(self, *args: Any, local: bool = False, **kwargs: Any) -> SparsityPattern:
        """P[i, j] is True where ∂f[i]/∂x[j] may be nonzero, for any x of this shape; of the flat m × n matrix.

        Read off the linearised function, by its derivative rules: it may be larger than the truth, never smaller
        (Griewank & Walther, *Evaluating Derivatives*, 2nd ed., SIAM 2008, ch. 7).

        Args:
            *args: as for f; shapes without values are enough unless ``local``.
            local: the pattern at this very point.

        Raises:
            CrelleTypeError: f cannot be traced.

        Cost:
            One trace of f and its derivative, and a few array operations for each of its linear maps.
        """
        call = self._bind(args, kwargs)
        return found_pattern(call, local) if self.given is None else self._given(call)

    def _given(self, call: Call) -> SparsityPattern:
        assert self.given is not None
        outputs = call.inputs
        if self.request.kind == "jacobian":
            outputs = prepared_for(call, self._space)[0].trace.outputs
        return given_pattern(call, self.given, total_size(outputs))

    def structure(self, *args: Any, local: bool = False, **kwargs: Any) -> Structure:
        """What the pattern says of the matrix: diagonal, banded, block-diagonal over a batch, constant parts, rank.

        Args:
            *args: as for f; shapes without values are enough unless ``local``.
            local: the structure at this very point.

        Raises:
            CrelleTypeError: f cannot be traced.
        """
        call = self._bind(args, kwargs)
        if self.given is not None:
            return find_structure(
                self._given(call), call.inputs, input_names=call.names, symmetric=self.request.kind == "hessian"
            )
        return structure_of(call.backend.tangent_program(call, local), call)

    def at(
        self,
        *args: Any,
        data: Any = None,
        batch_size: int | None = None,
        reduction: str | None = None,
        memory: int | str | None = None,
        **kwargs: Any,
    ) -> Operator:
        """v ↦ J v and u ↦ Jᵀu (H v for a Hessian) at this point: a linear operator, for which f is evaluated once.

        With ``data`` it belongs to the whole data set: the Hessian of the loss over all batches, Σ_b (N_b/N) H_b, or
        the rows of all Jacobians, one batch below the other. A batch is a tuple or list of further arguments of f, a
        dict of keyword arguments, or one array: ``crelle.hessian(loss).at(params, data=loader)`` for
        ``loss(params, x, y)``. As many batches as fit into ``memory`` are linearised once; the others at every product.

        Args:
            *args: as for f; with ``data``, those that come before the batch.
            data: an iterable of batches that can be gone through again, such as a ``DataLoader`` or a list; or, with
                ``batch_size``, an array or a tuple, list or dict of arrays.
            batch_size: cut arrays into batches of so many samples.
            reduction: how f sums up the samples of a batch: ``"mean"``, the default, or ``"sum"``; for Hessians.
            memory: how much the kept linearisations may take: bytes, or a text such as ``"2GB"``; half of what is free
                if left out.
            **kwargs: as for f. Without ``data`` the three before are handed to f, too; an argument of f with one of
                these four names is otherwise bound with ``functools.partial``.

        Raises:
            CrelleTypeError: the transform stands for a gradient, or for a part of a matrix; data that are no batches.
            CrelleShapeError: a batch that does not fit; outputs without a leading axis of samples (Jacobians).
            CrelleValueError: no batch at all, or a data set or function that is not the same twice: shuffling,
                augmentation, dropout. ``check=False`` of the transform accepts them.

        Cost:
            One evaluation of f and its derivative; then about one evaluation for each product, 1.3 to 2 gradients for
            a Hessian. PyTorch keeps the graph of the evaluation, JAX the coefficients, as long as the operator lives.
            With ``data`` this holds for each batch; a block of vectors goes through the data in one pass.
        """
        if data is not None:
            from crelle.operators._over import operator_over

            return operator_over(self, args, kwargs, data, batch_size, reduction or "mean", memory)
        from crelle.operators._derivatives import operator_at

        ours = {"batch_size": batch_size, "reduction": reduction, "memory": memory}
        kwargs |= {name: value for name, value in ours.items() if value is not None}
        return operator_at(self._bind(args, kwargs), self._space)

    def diagonal(self, *args: Any, **kwargs: Any) -> Any:
        """d[i] = J[i, i], flat [min(m, n)]: computed alone, as ``format="diagonal"`` does.

        Cost:
            One product for each colour of the diagonal: often 1, and n where every entry varies.
        """
        return self._ask("diagonal", args, kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Σ_i J[i, i] of a square matrix, exact; shape []. At the price of the diagonal."""
        return self._ask("trace", args, kwargs)

    def row_sums(self, *args: Any, **kwargs: Any) -> Any:
        """s[i] = Σ_j J[i, j] = (J·1)[i], shaped like the output of f: one JVP (one HVP for a Hessian)."""
        return self._ask("row_sums", args, kwargs)

    def col_sums(self, *args: Any, **kwargs: Any) -> Any:
        """s[j] = Σ_i J[i, j] = (1ᵀJ)[j], shaped like the differentiated input: one VJP (one HVP for a Hessian)."""
        return self._ask("col_sums", args, kwargs)

    def row_norms(self, *args: Any, **kwargs: Any) -> Any:
        """‖J[i, :]‖₂ for every output i, shaped like the output of f; from the entries that are not zero.

        Where a row is zero the derivative of its norm is taken to be zero.
        """
        return self._ask("row_norms", args, kwargs)

    def col_norms(self, *args: Any, **kwargs: Any) -> Any:
        """‖J[:, j]‖₂ for every input j, shaped like the differentiated input: the square root of diag(JᵀJ)."""
        return self._ask("col_norms", args, kwargs)

    def frobenius_norm(self, *args: Any, **kwargs: Any) -> Any:
        """(Σ_ij |J[i, j]|²)^½, of shape []; from the entries that are not zero."""
        return self._ask("frobenius_norm", args, kwargs)

    def _ask(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return ask(name, self.function, self.request, self.given, args, kwargs)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        call = bind(self.function, args, kwargs, self.request)
        plan = self.preferred
        if plan is not None and not _fits(plan, call):
            raise CrelleValueError(
                describe(
                    f"{call.text}: the plan that was passed does not fit",
                    called=f"{call.backend.name}, {', '.join(map(str, call.inputs))}",
                    expected=f"{plan.backend}, {', '.join(map(str, plan.inputs))}",
                    try_="leave plan= out, or make a plan for these inputs",
                )
            )
        return call

    def __repr__(self) -> str:
        defaults = Request(self.request.kind)
        changed = [
            f", {name}={getattr(self.request, name)!r}"
            for name in (
                "argnums",
                "mode",
                "chunk",
                "memory",
                "wrt",
                "format",
                "part",
                "flatten",
                "value",
                "has_aux",
                "holomorphic",
            )
            if getattr(self.request, name) != getattr(defaults, name)
        ]
        asked = self.request.selection
        changed += [
            f", {name}={getattr(asked, name)!r}"
            for name in ("rows", "cols", "entries")
            if getattr(asked, name) is not None
        ]
        return f"crelle.{self.request.kind}({function_name(self.function)}{''.join(changed)})"


def _as_pattern(pattern: Any) -> SparsityPattern:
    return pattern if isinstance(pattern, SparsityPattern) else SparsityPattern.from_(pattern)


def _fits(plan: Plan, call: Call) -> bool:
    same = plan.backend == call.backend.name and len(plan.inputs) == len(call.inputs)
    return same and all(map(ArrayType.fits, plan.inputs, call.inputs))


def jacobian(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    holomorphic: bool = False,
    value: bool = False,
    error: bool = False,
    flatten: bool = False,
    rows: Any = None,
    cols: Any = None,
    entries: Any = None,
    mode: str = "auto",
    chunk: int | None = None,
    memory: int | str | None = None,
    check: bool = True,
    compile: bool = False,
    wrt: str = "inputs",
    format: str = "dense",
    part: Any = None,
    plan: Plan | None = None,
    pattern: Any = None,
) -> Transform:
    """J[i, j] = ∂f(x)[i] / ∂x[j]: a function that returns the Jacobian of f.

    A drop-in for ``jax.jacfwd``, ``jax.jacrev``, ``torch.func.jacfwd`` and ``torch.func.jacrev``: for an input of shape
    ``[a, b]`` and an output of shape ``[c]`` the result has shape ``[c, a, b]``; trees of outputs hold trees of inputs.

    Args:
        f: a function of JAX, PyTorch or NumPy arrays, or an ``nn.Module``.
        argnums: which positional arguments to differentiate; a tuple gives a tuple.
        has_aux: f returns ``(output, aux)``; the result is then ``(jacobian, aux)``.
        holomorphic: f is a holomorphic function of complex arrays.
        value: also return f(x), as ``(f(x), jacobian)``, at no extra evaluation.
        error: NumPy functions: also return the estimated error of each entry, as ``(jacobian, error)``, or
            ``(f(x), jacobian, error)`` with ``value=True``; aux stands beside f(x), or last.
        flatten: return one m × n matrix over the raveled trees.
        rows, cols: an integer, slice, list or mask: only these rows or columns of the flat matrix are computed.
        entries: ``(i, j)`` or a list of pairs: only these entries of the flat matrix.
        mode: ``"auto"``, ``"forward"``, ``"reverse"``; for NumPy functions ``"central"``, ``"complex-step"``.
        chunk: seeds in one batch; chosen by price and memory if left out.
        memory: bound on the working set beyond inputs and result: bytes, or a text such as ``"500MB"``.
        check: compare one random product with an independent JVP or VJP when a plan first runs.
        compile: PyTorch: hand the traced graph to ``torch.compile``.
        wrt: ``"inputs"``, or ``"params"`` for the parameters of an ``nn.Module`` as a dict.
        format: what the matrix is handed over as. ``"dense"``, or, computed with the fewest products that its pattern
            allows, as ``"sparse"`` (the framework's own sparse array), ``"csr"``, ``"csc"``, ``"coo"`` (SciPy, on the
            host), ``"triplets"`` (rows, columns, values): a matrix of raveled output × raveled input, or a tree of such
            blocks; or the whole matrix as ``"blocks"`` ([B, m, n] of a block-diagonal one), ``"banded"`` (LAPACK's
            storage), ``"diagonal"``. NumPy functions need ``pattern=`` for it.
        part: with such a format, the entries that are wanted; others are zero in the result, and cost nothing:
            ``"diagonal"``, ``"lower"``, ``"upper"`` (with the diagonal), ``("band", below, above)``,
            ``("blocks", rows, columns)`` along the diagonal, or any pattern. ``format="diagonal"`` implies the first.
        plan: take mode and chunk over from this plan, for example a loaded one.
        pattern: where the matrix may be nonzero, if you know: a :class:`crelle.SparsityPattern`, or anything that
            ``SparsityPattern.from_`` takes. ``.pattern`` and ``.structure`` then do not look for it.

    Returns:
        A callable with ``.plan(x)``.

    Raises:
        CrelleTypeError, CrelleValueError: unusable keywords now, unusable arguments when called.
        CrelleCheckError: the first-run check failed.

    Cost:
        The cheaper of n JVPs and m VJPs by the price of the traced passes (Griewank & Walther, *Evaluating
        Derivatives*, 2nd ed., SIAM 2008, ch. 3).

    >>> import numpy as np
    >>> J = jacobian(lambda x: np.array([x[0] ** 2 - x[1] ** 2, 2 * x[0] * x[1]]))
    >>> J(np.array([1.5, 0.5])).round(6)
    array([[ 3., -1.],
           [ 1.,  3.]])
    """
    request = make_request(
        "jacobian", f, argnums=argnums, memory=memory, mode=mode, chunk=chunk, wrt=wrt, rows=rows, cols=cols,
        entries=entries, format=format, part=part, has_aux=has_aux, holomorphic=holomorphic, value=value,
        error=error, flatten=flatten, check=check, compile=compile,
    )  # fmt: skip
    return Transform(f, request, plan, pattern)


def hessian(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    holomorphic: bool = False,
    value: bool = False,
    error: bool = False,
    flatten: bool = False,
    rows: Any = None,
    cols: Any = None,
    entries: Any = None,
    mode: str = "auto",
    chunk: int | None = None,
    memory: int | str | None = None,
    check: bool = True,
    compile: bool = False,
    wrt: str = "inputs",
    format: str = "dense",
    part: Any = None,
    plan: Plan | None = None,
    pattern: Any = None,
) -> Transform:
    """H[i, j] = ∂²f(x) / ∂x[i] ∂x[j]: a function that returns the Hessian of a scalar function f.

    A drop-in for ``jax.hessian`` and ``torch.func.hessian``: for an input of shape ``[a]`` the result has shape
    ``[a, a]``; a tree of inputs gives a tree of trees. Keywords are those of :func:`jacobian`.

    Args:
        mode: ``"auto"``, ``"forward-over-reverse"``, ``"reverse-over-forward"``, ``"reverse-over-reverse"``,
            ``"forward-over-forward"`` (n (n + 1) / 2 passes of f, by symmetry); ``"central"`` for NumPy functions.

    Raises:
        CrelleShapeError: f does not return a scalar.

    Cost:
        n Hessian-vector products, or n (n + 1) / 2 second-order forward passes (Griewank & Walther 2008, ch. 5).

    >>> import numpy as np
    >>> hessian(lambda x: x[0] ** 2 * x[1] + x[1] ** 3)(np.array([1.0, 2.0])).round(4)
    array([[ 4.,  2.],
           [ 2., 12.]])
    """
    request = make_request(
        "hessian", f, argnums=argnums, memory=memory, mode=mode, chunk=chunk, wrt=wrt, rows=rows, cols=cols,
        entries=entries, format=format, part=part, has_aux=has_aux, holomorphic=holomorphic, value=value,
        error=error, flatten=flatten, check=check, compile=compile,
    )  # fmt: skip
    return Transform(f, request, plan, pattern)


def gradient(
    f: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    holomorphic: bool = False,
    value: bool = False,
    error: bool = False,
    flatten: bool = False,
    mode: str = "auto",
    memory: int | str | None = None,
    check: bool = True,
    compile: bool = False,
    wrt: str = "inputs",
    plan: Plan | None = None,
) -> Transform:
    """g[j] = ∂f(x) / ∂x[j]: a function that returns the gradient of a scalar function f, shaped like its input.

    A drop-in for ``jax.grad`` and ``torch.func.grad``; ``value=True`` is ``value_and_grad``. Keywords are those of
    :func:`jacobian`.

    Raises:
        CrelleShapeError: f does not return a scalar.

    Cost:
        One VJP.

    >>> import numpy as np
    >>> gradient(lambda x: (x ** 2).sum())(np.array([1.0, 2.0])).round(6)
    array([2., 4.])
    """
    request = make_request(
        "gradient", f, argnums=argnums, memory=memory, mode=mode, chunk=None, wrt=wrt, has_aux=has_aux,
        holomorphic=holomorphic, value=value, error=error, flatten=flatten, check=check, compile=compile,
    )  # fmt: skip
    return Transform(f, request, plan)
