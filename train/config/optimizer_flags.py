"""The flags of an optimizer. Those that change its method have the names of the library."""

import dataclasses
from typing import Annotated, Literal

import tyro

from models.config import CONFIGS
from train.config.optimizers import NO_GAP, OPTIMIZERS, OptimizerName

HAAR = "haar"
BLOCKS = "blocks"
BASES = (HAAR, "gaussian", BLOCKS, "columns", "cosine")
BasisName = Annotated[str, tyro.conf.arg(metavar="BASIS")]
WITH_JUMPS = "random_walk_with_jumps"
RuleName = Literal["random_jump", "random_walk", "random_walk_with_jumps", "tracking", "svd", "frozen"]
TransportName = Literal["rotate", "keep", "reset", "first_moment_only"]
ResidualName = Literal["recovery", "dropped", "sign"]
CompletionName = Literal["none", "isotropic"]
MomentPrecision = Literal["float32", "bfloat16", "float8"]
BasisPrecision = Literal["float32", "bfloat16"]
Decay = Literal["matrices", "all"]
ClipBy = Literal["two_pass", "previous", "layer"]
_GRASSJUMP = OPTIMIZERS["grassjump"].pretraining("tiny")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerFlags:
    """The optimizer. Rank and interval apply to the subspace methods."""

    optimizer: OptimizerName = "grassjump"
    """Optimizer to train with."""
    learning_rate: float = _GRASSJUMP.learning_rate
    """Peak learning rate; the default depends on the optimizer and the model."""
    adam_learning_rate: Annotated[
        float | None,
        tyro.conf.arg(
            help="Peak learning rate of parameters that are not split (embeddings, head, norms; norms only for "
            "column_sgd). Default: --learning-rate."
        ),
    ] = None
    rule: RuleName = "random_jump"
    """Of assemble: where a subspace goes. Walks, tracking and frozen start from the gradient's."""
    transport: TransportName = "rotate"
    """Of assemble: what the moments become when it goes there; rotate is the papers' AO."""
    residual: ResidualName = "recovery"
    """Of assemble: what becomes of the gradient outside it; recovery is the papers' RS."""
    rank: int = CONFIGS["tiny"].hidden_size // 4
    """Dimension of the subspaces; by default a quarter of the hidden size."""
    basis: BasisName = HAAR
    """Random bases of grassjump: haar, gaussian, blocks, blocks:NUMBER, columns or cosine."""
    store_basis: bool = True
    """Keep these bases in the state. Otherwise they are drawn again at each step."""
    step_size: Annotated[
        float | None,
        tyro.conf.arg(
            help="Of a walk the angle, in radians; of tracking the papers' eta. None: a random angle for a walk, the "
            "best one for tracking."
        ),
    ] = None
    walk_rank: int = 1
    """Directions that a walk turns."""
    jump_every: int = 5  # the rarer of those that experiments.bases compares
    """Refreshes of random_walk_with_jumps from one jump to the next."""
    tracking_rank: int = 1
    """Directions that tracking turns."""
    completion: CompletionName = "none"
    """isotropic: rotated second moments also get what a new subspace leaves behind."""
    max_norm_growth: float | None = 1.01
    """Most that the recovered part may grow by in a step, the papers' zeta. None: no limit."""
    update_proj_gap: int = _GRASSJUMP.update_proj_gap or NO_GAP
    """Steps between subspaces (badam: blocks); the default depends on optimizer and model."""
    scale: float = _GRASSJUMP.scale
    """Factor of the low-rank update (adamw, muon: of the kernels' rate); the default varies."""
    weight_decay: float = 0.0
    """Decoupled weight decay: an update also takes this times the learning rate off a weight."""
    decay: Decay = "matrices"
    """What decays: the kernels of the layers (lora: their factors), or all parameters."""
    clip: float = 1.0
    """Clip the gradient to this global norm; 0 for no clipping."""
    mu_dtype: MomentPrecision = "float32"
    """Precision of the first moments; float8 also stores a scale per column."""
    nu_dtype: MomentPrecision = "float32"
    """Precision of the second moments."""
    basis_dtype: BasisPrecision = "float32"
    """Precision of bases in the state."""
    update_in_backward: bool = False
    """Update each layer as soon as its gradient exists, to save memory."""
    clip_by: Annotated[
        ClipBy,
        tyro.conf.arg(
            help="With --update-in-backward, clip by the global norm (two_pass: a second backward pass), that of the "
            "previous update (previous), or each layer's own (layer)."
        ),
    ] = "two_pass"
    keep_every: Annotated[
        int,
        tyro.conf.arg(
            help="With --update-in-backward, save the input of every N-th layer only: less memory, more time."
        ),
    ] = 1

    @property
    def blocks(self) -> int | None:
        """The number of blocks that `basis` names."""
        _, colon, number = self.basis.partition(":")
        return int(number) if colon else None


def default_optimizer(name: OptimizerName, model: str) -> OptimizerFlags:
    """Return the flags of an optimizer with its own defaults for a model."""
    recipe = OPTIMIZERS[name].pretraining(model)
    return OptimizerFlags(
        optimizer=name,
        learning_rate=recipe.learning_rate,
        scale=recipe.scale,
        rank=CONFIGS[model].hidden_size // 4,
        update_proj_gap=recipe.update_proj_gap or NO_GAP,
    )
