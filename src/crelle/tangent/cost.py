"""What one derivative pass costs, and how long work of that cost takes on a machine. Framework-free."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class PassCost:
    """Cost of one pass of a tangent program, read from the traced graph.

    The *linear* fields are paid once per seed, the *primal* ones once per linearisation. ``ops`` counts operations:
    in an eager framework each costs a launch, whatever the number of seeds in the batch.

    Attributes:
        flops: multiplications and additions that depend on the seed, outside of matrix products.
        matmul_flops: the same inside matrix products and convolutions, which run at another rate.
        bytes: bytes read and written per seed by operations that depend on it.
        coefficient_bytes: bytes of coefficients read once per batch of seeds.
        ops: operations that depend on the seed.
        peak_bytes: largest sum of live seed-dependent values at one time, per seed.
        residual_bytes: bytes of coefficients that the linearisation keeps.
        primal_flops, primal_bytes, primal_ops: the part that does not depend on the seed.
    """

    flops: float = 0.0
    matmul_flops: float = 0.0
    bytes: float = 0.0
    coefficient_bytes: float = 0.0
    ops: int = 0
    peak_bytes: float = 0.0
    residual_bytes: float = 0.0
    primal_flops: float = 0.0
    primal_bytes: float = 0.0
    primal_ops: int = 0

    def scaled(self, factor: float) -> PassCost:
        """The same pass with its work per seed made dearer; memory and the primal part stay."""
        return replace(
            self, flops=self.flops * factor, matmul_flops=self.matmul_flops * factor, bytes=self.bytes * factor
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, for saving."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed of a device under one framework. Orders of magnitude are enough: they rank candidates.

    Attributes:
        matmul: flops per second in large matrix products.
        elementwise: flops per second outside of them.
        bandwidth: bytes per second from and to memory.
        launch: seconds per operation and batch (dispatch in eager frameworks, loop overhead in compiled ones).
        call: seconds of fixed cost per evaluation.
    """

    matmul: float
    elementwise: float
    bandwidth: float
    launch: float
    call: float


def pass_seconds(cost: PassCost, rates: Rates, seeds: int, batches: int) -> float:
    """Estimated seconds for ``seeds`` seeds pushed through in ``batches`` batches, linearisation included."""
    per_seed = cost.matmul_flops / rates.matmul + cost.flops / rates.elementwise + cost.bytes / rates.bandwidth
    per_batch = cost.ops * rates.launch + cost.coefficient_bytes / rates.bandwidth
    once = cost.primal_flops / rates.elementwise + cost.primal_bytes / rates.bandwidth + cost.primal_ops * rates.launch
    return rates.call + once + batches * per_batch + seeds * per_seed
