"""Colourings: the fewest products that give every entry of a sparse matrix. No framework is imported here.

SciPy is imported when first used, and Numba when a problem is large.
"""

from __future__ import annotations

from crelle.colorings._choose import color_both, color_columns, color_rows, color_symmetric, coloring
from crelle.colorings._coloring import Coloring
from crelle.colorings._orders import ORDERS

__all__ = ["ORDERS", "Coloring", "color_both", "color_columns", "color_rows", "color_symmetric", "coloring"]
