"""Binding a call: which framework, which leaves are differentiated, and whether they can be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from crelle._arrays import ArrayType
from crelle._errors import CrelleTypeError, CrelleValueError, describe
from crelle._origin import returns_jax_arrays
from crelle._request import Request
from crelle.backends import find_backend, framework_of, get_backend
from crelle.backends._protocol import Backend, Call


def function_name(f: Callable[..., Any]) -> str:
    """A short name for messages: ``residual``, ``partial(residual)``, ``MLP``."""
    if isinstance(f, functools.partial):
        return f"partial({function_name(f.func)})"
    name = getattr(f, "__name__", None) or type(f).__name__
    return "f" if name == "<lambda>" else str(name)


def describe_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """``f64[3], {'w': f32[2,2]}, n=3``: the arguments with arrays replaced by their types."""
    parts = [_describe(arg) for arg in args] + [f"{key}={_describe(value)}" for key, value in kwargs.items()]
    return ", ".join(parts) or "no arguments"


def _describe(tree: Any) -> str:
    if isinstance(tree, dict):
        items = [f"{key!r}: {_describe(value)}" for key, value in list(tree.items())[:4]]
        return "{" + ", ".join(items + ["..."] * (len(tree) > 4)) + "}"
    if isinstance(tree, (list, tuple)):
        items = [_describe(value) for value in tree[:4]] + ["..."] * (len(tree) > 4)
        return ("[{}]" if isinstance(tree, list) else "({})").format(", ".join(items))
    name = framework_of(tree)
    if name:
        return str(get_backend(name).array_type(tree))
    text = repr(tree)
    return text if len(text) <= 40 else f"<{type(tree).__name__}>"


def bind(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Call:
    """Bind one call; every complaint about the arguments is made here.

    Raises:
        CrelleTypeError: no array, mixed frameworks, too few arguments, an argument that cannot be differentiated.
        CrelleValueError: arrays on different devices.
    """
    name = function_name(f)
    what = f"crelle.{request.kind}({name})"
    backend = backend_of(f, args, kwargs, what)
    if request.error and backend.name != "numpy":
        raise CrelleValueError(
            describe(
                f"{what}: error=True is for NumPy functions, whose derivatives are differences",
                called=describe_arguments(args, kwargs),
                likely=f"derivatives of {backend.name} functions are exact to rounding",
                try_="leave error= out",
            )
        )
    adapted = backend.adapt(f, args, request)
    if adapted is not None:
        f, args, name = adapted.f, adapted.args, adapted.name
    elif request.wrt == "params":
        raise CrelleTypeError(
            describe(
                f"{what}: wrt='params' needs an nn.Module, and {name} is a plain function",
                try_="make the parameters an argument and differentiate that: f(params, x), argnums=0",
            )
        )
    count = len(args)
    for i in request.argnums_tuple:
        if not -count <= i < count:
            raise CrelleTypeError(
                describe(
                    f"{what}: argnums={request.argnums} names argument {i}, and the call has {count}",
                    called=describe_arguments(args, kwargs),
                    likely="an argument is missing, or was passed by keyword, and those are not differentiated",
                )
            )
    if len({i % count for i in request.argnums_tuple}) < len(request.argnums_tuple):
        raise CrelleTypeError(
            describe(
                f"{what}: argnums={request.argnums} names an argument twice",
                called=describe_arguments(args, kwargs),
                expected="each argument once",
            )
        )
    wanted = tuple(args[i] for i in request.argnums_tuple)
    active, in_tree = backend.flatten(wanted if isinstance(request.argnums, tuple) else wanted[0])
    try:
        inputs = tuple([backend.array_type(leaf) for leaf in active])
        plain = all(t.is_float for t in inputs)
    except TypeError:
        inputs, plain = (), False
    names = argument_names(f, request.argnums_tuple)
    if not plain or len(active) != 1 or len(wanted) != 1:
        names = tuple(names[k] + path for k, tree in enumerate(wanted) for path in backend.paths(tree))
        _check_active(what, active, names, backend, args, kwargs)
        inputs = tuple([backend.array_type(leaf) for leaf in active])
        if backend.name != "jax":  # JAX moves arrays that were not put on a device, and looks at all arguments
            _check_devices(what, inputs, names)
    leaves, tree = backend.flatten((args, kwargs))
    static = tuple([backend.static_key(leaf) for leaf in leaves])
    return Call(
        f, name, args, kwargs, request, backend, active, in_tree, inputs, names, leaves, tree,
        (tree, static, backend.ambient()), backend.is_abstract(leaves),
    )  # fmt: skip


def backend_of(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> Backend:
    """The one framework of a call: of the arrays among its arguments, or of the module that is called."""
    stack: list[Any] = [*args, *kwargs.values()]
    if len(stack) == 1 and (only := framework_of(stack[0])) not in (None, "numpy"):
        return get_backend(only)
    leaves = []
    while stack:  # trees of any framework: dicts and sequences are enough to find out which one it is
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
        elif framework_of(item) or not hasattr(item, "__dataclass_fields__"):
            leaves.append(item)
        else:
            stack.extend(getattr(item, key, None) for key in item.__dataclass_fields__)
    found = {name for leaf in leaves if (name := framework_of(leaf))}
    if not found and (owner := framework_of(f)):
        return get_backend(owner)  # a module may have no array argument at all
    if found <= {"numpy"} and returns_jax_arrays(f, args, kwargs, only_named=bool(found)):
        return get_backend("jax")
    return find_backend(what, leaves, describe_arguments(args, kwargs))


def argument_names(f: Callable[..., Any], argnums: tuple[int, ...]) -> tuple[str, ...]:
    """What f calls these arguments, or their numbers where it does not say."""
    code = getattr(f, "__code__", None)
    if code is None:
        return tuple(f"argument {i}" for i in argnums)
    positional = code.co_varnames[: code.co_argcount]
    if positional[:1] == ("self",) and hasattr(f, "__self__"):
        positional = positional[1:]
    return tuple(positional[i] if 0 <= i < len(positional) else f"argument {i}" for i in argnums)


def _check_active(
    what: str,
    active: list[Any],
    names: tuple[str, ...],
    backend: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    called = describe_arguments(args, kwargs)
    if not active:
        raise CrelleTypeError(
            describe(f"{what}: the differentiated argument holds no array", called=called, expected="one array or more")
        )
    for leaf, name in zip(active, names, strict=True):
        try:
            kind: ArrayType = backend.array_type(leaf)
        except TypeError:
            raise CrelleTypeError(
                describe(
                    f"{what}: {name} is {leaf!r} of type {type(leaf).__name__}, which cannot be differentiated",
                    called=called,
                    expected="arrays, or trees of arrays",
                    try_="pass it by keyword, or choose other argnums=",
                )
            ) from None
        if kind.is_float or kind.is_complex:
            continue
        raise CrelleTypeError(
            describe(
                f"{what}: {name} is {kind}, and only floating-point arguments have a derivative",
                called=called,
                likely="an integer or boolean array where a float was meant",
                try_=f"convert it ({_cast(backend.name)}), or choose other argnums=",
            )
        )


def _cast(backend: str) -> str:
    return {"jax": "x.astype(float)", "torch": "x.double()", "numpy": "x.astype(float)"}[backend]


def _check_devices(what: str, inputs: tuple[ArrayType, ...], names: tuple[str, ...]) -> None:
    if len({t.device for t in inputs if t.device}) > 1:
        where = "\n".join(f"{name}: {t} on {t.device}" for t, name in zip(inputs, names, strict=True))
        raise CrelleValueError(
            describe(f"{what}: the differentiated arrays are on different devices", called=where,
                     expected="one device", try_="move them with .to(device)")
        )  # fmt: skip
