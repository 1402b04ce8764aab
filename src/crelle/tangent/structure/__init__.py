"""Structure of a Jacobian or Hessian, read from its pattern: batches, bands, blocks, triangles, rank."""

from crelle.tangent.structure.batch import AxisPart, BatchAxis
from crelle.tangent.structure.blocks import Blocks, Separable
from crelle.tangent.structure.find import find_structure
from crelle.tangent.structure.result import Structure
from crelle.tangent.structure.triangular import BlockTriangular

__all__ = ["AxisPart", "BatchAxis", "BlockTriangular", "Blocks", "Separable", "Structure", "find_structure"]
