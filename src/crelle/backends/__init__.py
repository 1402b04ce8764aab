"""Finding the framework of some arrays, without importing one for the user."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

from crelle._errors import CrelleTypeError, describe
from crelle.backends._protocol import Backend

#: Framework module -> backend module, in the order in which they are asked; NumPy last, the others take its arrays.
_BACKENDS = {"jax": "crelle.backends.jax", "torch": "crelle.backends.torch", "numpy": "crelle.backends.numpy"}
_loaded: dict[str, Backend] = {}
_by_type: dict[type, str | None] = {}


def get_backend(name: str) -> Backend:
    """The backend of that name; imports the framework, so call it only once an input has shown that it is there."""
    if name not in _loaded:
        _loaded[name] = importlib.import_module(_BACKENDS[name]).BACKEND
    return _loaded[name]


def framework_of(leaf: Any) -> str | None:
    """Name of the framework that owns a leaf by its type, ``None`` for anything that is no array."""
    kind = type(leaf)
    if kind not in _by_type:
        _by_type[kind] = next(
            (name for name in _BACKENDS if name in sys.modules and get_backend(name).is_array(leaf)), None
        )
    return _by_type[kind]


def find_backend(what: str, leaves: Iterable[Any], described: str) -> Backend:
    """The one framework among the leaves; NumPy arrays may accompany another framework's.

    Args:
        what: the call, for the error's headline.
        leaves: all leaves of the arguments.
        described: the arguments in words.
    """
    found = {name for leaf in leaves if (name := framework_of(leaf))}
    if found >= {"jax", "torch"}:
        raise CrelleTypeError(
            describe(
                f"{what}: the arguments mix JAX and PyTorch arrays",
                called=described,
                expected="arrays of one framework",
                try_="convert one of them, e.g. jax.dlpack.from_dlpack(tensor) or torch.from_dlpack(array)",
            )
        )
    for name in _BACKENDS:
        if name in found:
            return get_backend(name)
    raise CrelleTypeError(
        describe(
            f"{what}: no argument is an array",
            called=described,
            expected="at least one jax.Array, torch.Tensor or numpy.ndarray",
            likely="a plain number does not say which framework f is written in",
            try_="wrap it: jnp.asarray(x), torch.tensor(x) or np.asarray(x)",
        )
    )
