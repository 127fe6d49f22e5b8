"""Axis 3: what becomes of the part of the gradient outside the subspace?

A residual is an Optax transformation of R = G - S S^T G, so `optax.chain`, `optax.masked` and
`optax.partition` of one work. What the step knows comes in one extra argument, `split`: `grad`,
`projected` (S^T G), `direction` (what the inner optimizer returned for it) and
`updated_inner_state`, `basis` and `previous_basis`, `inner_state` and `previous_inner_state` (after
and before the transport). Pass None instead of a residual to drop R.

`Marks` records how the step feeds a residual. A residual marked `per_column` receives the column
norms (..., 1, n) instead of R; the ratio of output to input is each column's factor. Without the
mark it receives R and must return the same factors times R. A chain of residuals has no marks and
is given R; `per_column` marks it again.
"""

from grass_optax.residual.compensated import ColumnEnergyState, compensation
from grass_optax.residual.feedback import error_feedback
from grass_optax.residual.folded import block_scaling, unfolded_adam
from grass_optax.residual.limit import NormGrowthLimitState, norm_growth_limit
from grass_optax.residual.marks import ErrorFeedbackState, Marks, Residual, marked, per_column
from grass_optax.residual.scaling import (
    channel_scaling,
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
    "compensation",
    "sign",
    "error_feedback",
    "unfolded_adam",
    "block_scaling",
    "recovery_scaling",
    "recovery_factors",
    "norm_growth_limit",
    "per_column",
    "marked",
    "Residual",
    "Marks",
    "NormGrowthLimitState",
    "ErrorFeedbackState",
    "ColumnEnergyState",
]
