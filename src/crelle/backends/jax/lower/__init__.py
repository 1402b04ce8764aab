"""From a JAX function to a :class:`~crelle.tangent.program.TangentProgram`."""

from crelle.backends.jax.lower import contract, control, indexing, lanes, movement  # noqa: F401  (they declare rules)
from crelle.backends.jax.lower.program import lower

__all__ = ["lower"]
