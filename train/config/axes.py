"""Which flags act on an optimizer, and what those that change its method may be."""

from collections.abc import Iterator

from models.config import TransformerConfig
from train.config.optimizer_flags import WITH_JUMPS, OptimizerFlags
from train.config.optimizers import OPTIMIZERS

AXES = ("rule", "transport", "residual")
OF_THE_AXES = (
    *("basis", "store_basis", "step_size", "walk_rank", "jump_every", "tracking_rank"),
    *("completion", "max_norm_growth"),
)
_WALKS = ("random_walk", WITH_JUMPS)


def idle(flags: OptimizerFlags) -> list[str]:
    """Return the flags of an optimizer that change nothing, among those that only some have."""
    row = OPTIMIZERS[flags.optimizer]
    acts = {
        "rank": "rank" in row.takes,
        "update_proj_gap": row.update_proj_gap is not None,
        "scale": row.has_scale,
        "mu_dtype": row.package in ("grass_optax", "axes"),
        "nu_dtype": row.package in ("grass_optax", "axes"),
        "basis_dtype": row.splits and row.stores_bases and flags.store_basis and not _holds_no_floats(flags),
        "decay": flags.weight_decay > 0,
        **{name: name in row.takes for name in (*AXES, *OF_THE_AXES)},
    }
    if row.package == "axes":
        acts |= _on_the_axes(flags)
    return [name for name, is_used in acts.items() if not is_used]


def _on_the_axes(flags: OptimizerFlags) -> dict[str, bool]:
    """Whether each flag acts on the method that --rule, --transport and --residual make."""
    stands_still = flags.rule == "frozen" and flags.transport != "reset"  # rotated by the identity
    return {
        "transport": not stands_still,
        "update_proj_gap": not stands_still,
        "basis": flags.rule == "random_jump",
        "store_basis": flags.rule == "random_jump",
        "step_size": flags.rule in (*_WALKS, "tracking"),
        "walk_rank": flags.rule in _WALKS,
        "jump_every": flags.rule == WITH_JUMPS,
        "tracking_rank": flags.rule == "tracking",
        "completion": flags.transport == "rotate" and not stands_still,
        "max_norm_growth": flags.residual == "recovery",
    }


def _holds_no_floats(flags: OptimizerFlags) -> bool:
    """Whether random bases are indices, or nothing but a draw."""
    return flags.rule == "random_jump" and flags.basis in ("columns", "cosine")


def described(flags: OptimizerFlags) -> str:
    """Return the optimizer, with its axes if they are flags."""
    if OPTIMIZERS[flags.optimizer].package != "axes":
        return flags.optimizer
    return f"{flags.optimizer} with {', '.join(f'--{axis} {getattr(flags, axis)}' for axis in AXES)}"


def wrong_axes(flags: OptimizerFlags, network: TransformerConfig) -> Iterator[tuple[str, object, str]]:
    """Yield (flag, value, what it must be) for each flag of the method that cannot be used."""
    unused = idle(flags)
    for name in ("step_size", "max_norm_growth"):
        value = getattr(flags, name)
        if value is not None and not value > 0:
            yield name, value, "must be positive, or None"
    if flags.jump_every < 2:
        yield "jump_every", flags.jump_every, "must be at least 2: --rule random_jump always jumps"
    for name in ("walk_rank", "tracking_rank"):
        value = getattr(flags, name)
        if value < 1:
            yield name, value, "must be at least 1"
        most = min(flags.rank, _narrowest(network, flags.rank) - flags.rank)
        if name not in unused and value > most:
            yield name, value, f"must be at most {most}: a subspace of --rank {flags.rank} has no more to turn"


def _narrowest(network: TransformerConfig, rank: int) -> int:
    """Return the least dimension of a kernel that has subspaces of a rank."""
    kv_heads = getattr(network, "kv_heads", network.num_heads)
    sizes = (network.hidden_size, network.intermediate_size, kv_heads * network.head_dim)
    return min(size for size in sizes if size > rank)
