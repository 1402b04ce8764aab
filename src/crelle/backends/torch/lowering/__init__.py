"""From an aten graph to a :class:`~crelle.tangent.program.TangentProgram`."""

from crelle.backends.torch.lowering import movement, pointwise, reduce, special, windows  # noqa: F401  (they declare rules)
from crelle.backends.torch.lowering.program import lower

__all__ = ["lower"]
