"""Axis 3: what becomes of the part of the gradient outside the subspace?

A residual is an Optax transformation of R = G - S S^T G, so `optax.chain`, `optax.masked` and
`optax.partition` of one work. What the step knows comes in one extra argument, `split`: `grad`,
`projected` (S^T G), `direction` (what the inner optimizer returned for it), `basis` and
`previous_basis`, `inner_state` and `previous_inner_state` (after and before the transport). Pass
None instead of a residual to drop R.

A record, `Marks`, says how the step feeds a residual. Most residuals only multiply column i of R by
a number. A residual marked `per_column` is never given R, which then need not be formed. It gets
the norms of R's columns (..., 1, n), and the ratio of its output to its input is the factor of each
column. Given R itself, it must multiply the columns by the same factors. A chain of residuals has
no marks and is given R; `per_column` marks it again.
"""

from grass_optax.residual.feedback import error_feedback
from grass_optax.residual.marks import ErrorFeedbackState, Marks, Residual, marked, per_column
from grass_optax.residual.scaling import (
    NormGrowthLimitState,
    channel_scaling,
    norm_growth_limit,
    recovery,
    recovery_factors,
    recovery_scaling,
    sign,
    tensor_scaling,
)

__all__ = [
    "recovery",
    "channel_scaling",
    "tensor_scaling",
    "sign",
    "error_feedback",
    "recovery_scaling",
    "recovery_factors",
    "norm_growth_limit",
    "per_column",
    "marked",
    "Residual",
    "Marks",
    "NormGrowthLimitState",
    "ErrorFeedbackState",
]
