"""Aten graphs to tangent programs.

``walk`` follows a graph and knows what is linear in the tangents; a rule for each operation appends linear maps. Where
there is none, ``unknown`` decomposes or probes the operation, or takes it to be dense and says so.
"""

from crelle.backends.torch.lower.program import lower

__all__ = ["lower"]
