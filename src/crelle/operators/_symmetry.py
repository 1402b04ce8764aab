"""Whether a Hessian is symmetric: a derivative rule of a user's own can make it a matrix that is not."""

from __future__ import annotations

from crelle._errors import CrelleCheckError, describe
from crelle.operators._operator import Operator
from crelle.operators._vectors import vectors_of

#: ‖H - Hᵀ‖/‖H‖ that rounding explains, by the precision of the arrays.
_ROUNDING = {"float64": 1e-6, "complex128": 1e-6, "float32": 1e-2, "complex64": 1e-2, "float16": 0.3, "bfloat16": 0.3}
#: ... and that differences explain: derivatives of NumPy functions.
_DIFFERENCES = 1e-2


def verify_symmetry(operator: Operator, what: str) -> None:
    """Compare uᵀHv with vᵀHu for random signs u, v: two products, once for each operator.

    What is symmetric by construction (AᵀA), or at the user's word (``crelle.operator(A, symmetric=True)``), is not
    compared, and neither is anything while JAX traces.

    Args:
        what: the question that needs it, for the message: ``"eigsh"``.

    Raises:
        CrelleShapeError: the matrix is not square.
        CrelleTypeError: it is not known to be symmetric.
        CrelleCheckError: it is said to be symmetric, and is not.
    """
    operator._verify_symmetric(what)
    if operator._symmetry_verified or not operator._from_derivatives or not operator.shape[0]:
        return
    vectors = vectors_of(operator.backend)
    signs = vectors.source(1857, vectors.empty(operator.domain)).rademacher(2, operator.shape[0])
    products = operator._products(signs)
    gap = abs((products[0] * signs[1]).sum() - (products[1] * signs[0]).sum())
    size = (abs(products) ** 2).sum() / 2  # of ‖H‖² on average
    if operator.backend.is_abstract([gap]):
        return
    asymmetry, scale = float(gap), float(size) ** 0.5
    allowed = max(_ROUNDING.get(t.dtype, 0.3) for t in operator.domain.types)
    if operator.backend.name == "numpy":
        allowed = max(allowed, _DIFFERENCES)
    if asymmetry > allowed * scale:  # never for NaN: whoever asked for the products says which of them holds it
        raise CrelleCheckError(
            describe(
                f"{operator!r}.{what}: the matrix is not symmetric",
                called=f"uᵀHv and vᵀHu differ by {asymmetry / scale:.2g} of ‖H‖, for random signs u and v",
                expected=f"at most {allowed:g}: what rounding explains",
                likely="a derivative rule of your own (custom_jvp, custom_vjp, autograd.Function), "
                "a detached or stopped value, or randomness in the function",
                try_="crelle.jacobian of the gradient for a matrix that need not be symmetric; "
                "crelle.operator(H, symmetric=True) to go on all the same",
            )
        )
    operator._symmetry_verified = True
