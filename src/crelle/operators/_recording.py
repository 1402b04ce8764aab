"""Whether a product is the user's own, and to be recorded for differentiation, or one of an estimate's many.

``A @ v`` in PyTorch can be differentiated with respect to whatever A was made of. The products inside an estimate
must not be: parameters require gradients in most networks, and a record would hold every vector of a Lanczos basis.
"""

from __future__ import annotations

import threading
from types import TracebackType


class _State(threading.local):
    asked = False


_state = _State()


class asked_by_user:
    """Around the products of ``A @ v``: what they depend on is recorded, where the framework records; or is not."""

    def __init__(self, asked: bool = True) -> None:
        self._asked = asked

    def __enter__(self) -> None:
        self._before, _state.asked = _state.asked, self._asked

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _state.asked = self._before


def is_asked_by_user() -> bool:
    """Whether :class:`asked_by_user` is in force."""
    return _state.asked
