"""What a run measures of its subspaces."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import grass_optax
from train.config.optimizer_flags import OptimizerFlags
from train.program.optimizer import gradient_clip
from train.program.task import Params


def diagnostics(
    config: OptimizerFlags, before: optax.OptState, after: optax.OptState, grads: Params
) -> dict[str, dict[str, jax.Array]]:
    """Return what an update says of its subspaces: quantity -> type of layer -> array with the
    layers first. `train.storage.quantities.DIAGNOSTICS` says what each is.

    Args:
      config: Flags of the optimizer.
      before, after: Its states around the update.
      grads: The gradient, not clipped.
    """
    grads, _ = gradient_clip(config).update(grads, optax.EmptyState())
    energy = grass_optax.captured_energy(after, grads, key=0)
    tangent, change = grass_optax.error_tangent(after, grads), grass_optax.subspace_change(before, after)
    by_leaf: dict[str, dict[str, Any]] = {
        "captured": {path: x.captured for path, x in energy.items()},
        "captured_by_random": {path: jnp.full_like(x.captured, x.of_random) for path, x in energy.items()},
        "captured_by_best": {path: x.of_best for path, x in energy.items()},
        "tangent_singular_values": {path: x.singular_values for path, x in tangent.items()},
        "tangent_norm": {path: x.norm for path, x in tangent.items()},
        "tangent_relative": {path: x.relative for path, x in tangent.items()},
        "overlap": {path: x.overlap for path, x in change.items()},
        "angle_mean": {path: jnp.mean(x.angles, axis=-1) for path, x in change.items()},
        "angle_largest": {path: x.angles[..., -1] for path, x in change.items()},
    }
    if config.max_norm_growth is not None and _limits(after):
        recovered = grass_optax.recovered_residual(before, after, grads, max_norm_growth=config.max_norm_growth)
        by_leaf["recovered"] = {path: x.relative for path, x in recovered.items()}
        by_leaf["limited"] = {path: x.limited.astype(jnp.float32) for path, x in recovered.items()}
    return {name: _by_layer(values, name == "tangent_singular_values") for name, values in by_leaf.items()}


def _by_layer(values: dict[str, Any], trailing: int) -> dict[str, jax.Array]:
    of_types = grass_optax.by_layer(values, trailing)
    return {kind: jnp.stack(list(layers.values())) for kind, layers in of_types.items()}


def _limits(state: optax.OptState) -> bool:
    """Whether a residual is recovered with a limit; that of gwt is inside its subspace."""
    kind = grass_optax.residual.NormGrowthLimitState
    residuals = [residual for _, residual in optax.tree_utils.tree_get_all_with_path(state, "residual_state")]
    return any(isinstance(x, kind) for x in jax.tree.leaves(residuals, is_leaf=lambda x: isinstance(x, kind)))
