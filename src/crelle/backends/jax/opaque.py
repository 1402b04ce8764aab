"""Functions with derivative rules of the user's own: Python code that may mean something else at every call.

The rule cannot be compared, but the derivative that it yields can: it is traced at each call, and what was compiled for
an equal one is run. That is cheaper than dispatching the derivative operation by operation, and never stale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.extend import core as jex

from crelle.backends._protocol import Method
from crelle.backends.jax import keys

#: Compiled programs kept, and compilations after which nothing is compiled any more: the rule changes all the time.
KEPT = 4
LIMIT = 8


class OpaquePrograms:
    """Compiled derivatives by their own key."""

    def __init__(self) -> None:
        self._programs: OrderedDict[Hashable, Any] = OrderedDict()
        self._compiled = 0

    def run(
        self,
        method: Method,
        compute: Callable[..., Any],
        consts: Any,
        dynamic: Any,
        jaxpr: jex.Jaxpr | None,
        frozen: dict[tuple[str, int | None], Callable[[Any], Any]],
    ) -> tuple[Any, Any, Any]:
        """``compute`` at these arrays, through a program that was compiled for an equal derivative if there is one.

        Args:
            frozen: empty, or what was run the last time: a plan that is called does not look again.
        """
        way = method.mode, method.chunk
        if way in frozen:
            return frozen[way](dynamic)  # type: ignore[no-any-return]
        if self._compiled > LIMIT:
            return compute(None, consts, dynamic, jaxpr)  # type: ignore[no-any-return]
        program, shapes = jax.make_jaxpr(
            lambda consts, dynamic: compute(None, consts, dynamic, jaxpr), return_shape=True
        )(consts, dynamic)
        key = keys.jaxpr_key(program)
        if key.opaque:  # a rule is left that was not differentiated: its meaning matters to nobody but cannot be told
            return compute(None, consts, dynamic, jaxpr)  # type: ignore[no-any-return]
        full = *way, key
        if full not in self._programs:
            self._programs[full] = jax.jit(_runner(program.jaxpr))
            self._compiled += 1
            if len(self._programs) > KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(full)
        compiled, held, tree = self._programs[full], program.consts, jax.tree.structure(shapes)

        def frozen_run(dynamic: Any) -> Any:
            return jax.tree.unflatten(tree, compiled(held, jax.tree.leaves((consts, dynamic))))

        frozen[way] = frozen_run
        return frozen_run(dynamic)  # type: ignore[no-any-return]


def _runner(jaxpr: jex.Jaxpr) -> Callable[..., Any]:
    return lambda consts, arguments: jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, consts))(*arguments)
