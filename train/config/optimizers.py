"""The optimizers: one row each, with all facts that trainer, benchmarks and tests need.

Scales and intervals repeat the defaults of the `grass_optax` functions (which follow the papers) so
that `--help` need not import JAX; a test keeps them in sync.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

SPLIT_ARGUMENTS = frozenset({"rank", "update_proj_gap", "scale", "key", "map_stacks"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning:
    """Defaults for fine-tuning at a rank of 8, and where they come from.

    Attributes:
      learning_rate: Peak learning rate.
      scale: Factor of the low-rank part; None for that of pretraining.
      update_proj_gap: Steps between two subspaces or blocks; None for that of pretraining.
      source: Where they come from.
    """

    learning_rate: float
    scale: float | None = None
    update_proj_gap: int | None = None
    source: str


# Their rates on GLUE are 1e-5 to 3e-5, by task; the scale is 2 at rank 8 and 4 at rank 4.
GLUE = Finetuning(
    learning_rate=3e-5,
    scale=2.0,
    update_proj_gap=500,
    source="GaLore's and SubTrack-Grad's for RoBERTa on GLUE (arXiv 2403.03507, 2502.01586)",
)
FULL_RANK = Finetuning(learning_rate=3e-5, source="the rate of full fine-tuning in the same tables, not tuned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The facts about one optimizer.

    Attributes:
      name: Name of the function, and of the optimizer on the command line.
      learning_rate: Default peak learning rate of the trainer, for the model `tiny` and `scale`.
      learning_rate_source: Where this rate comes from.
      scale: Default factor of the low-rank part. For a baseline, factor of the rate of the kernels.
      update_proj_gap: Default number of steps between two subspaces, or between two blocks; None if
        the optimizer has no such interval.
      package: The package that provides it; all but those of grass_optax are baselines, and those
        of train only fine-tune.
      takes: Which of `rank`, `update_proj_gap` (under its own name), `scale`, `key`,
        `map_stacks`, `basis` and `blocks` the function takes.
      gap_argument: The function's own name for the interval.
      run_fractions: Further required arguments that count updates, each as a fraction of the run.
      scale_enters_as_root: The update is proportional to the square root of `scale`.
      static_integers: Its own integer arguments, which `optax.inject_hyperparams` must not trace.
      splits: Built on `split_by_subspace`.
      draws: Its bases, or its blocks, depend on `key`.
      recovers: Also updates along the part of the gradient outside the subspace.
      svd: How much of its refreshes factorise the gradient with an exact SVD.
      finetuning: Defaults for fine-tuning.
    """

    name: str
    learning_rate: float
    learning_rate_source: str
    scale: float = 1.0
    update_proj_gap: int | None = None
    package: Literal["grass_optax", "optax", "train"] = "grass_optax"
    takes: frozenset[str] = SPLIT_ARGUMENTS
    gap_argument: str = "update_proj_gap"
    run_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    scale_enters_as_root: bool = False
    static_integers: tuple[str, ...] = ()
    splits: bool = True
    draws: bool = True
    recovers: bool = False
    svd: Literal["never", "sometimes", "always"] = "never"
    finetuning: Finetuning = FULL_RANK

    @property
    def is_baseline(self) -> bool:
        """Whether it is no method of grass_optax."""
        return self.package != "grass_optax"

    @property
    def only_finetunes(self) -> bool:
        """Whether most parameters stay as they are."""
        return self.package == "train"

    @property
    def refreshes(self) -> bool:
        """Whether some steps do extra work: False if all steps are alike."""
        return self.update_proj_gap not in (None, 1)

    @property
    def has_scale(self) -> bool:
        """Whether `scale` has a meaning."""
        return self.is_baseline or "scale" in self.takes

    def arguments(self, **settings: Any) -> dict[str, Any]:
        """Return those of `settings` that the function takes, under its own names."""
        own_names = {"update_proj_gap": self.gap_argument}
        named = {own_names.get(name, name): value for name, value in settings.items()}
        return {name: value for name, value in named.items() if name in self.takes}


_SWEEP = "best of a sweep by factors of 2 at 300 steps"
_BETTER_OF_TWO = "better of 0.003 and 0.01 at 100 steps of 8 windows"
_GALORE = "GaLore's, not tuned"

OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        Optimizer(
            name="grassjump",
            learning_rate=5e-3,
            learning_rate_source=_SWEEP,
            scale=0.25,
            update_proj_gap=100,
            takes=SPLIT_ARGUMENTS | {"basis", "blocks"},
            static_integers=("blocks",),
            recovers=True,
            finetuning=GLUE,
        ),
        Optimizer(
            name="grasswalk",
            learning_rate=1e-2,
            learning_rate_source=_SWEEP,
            scale=0.25,
            update_proj_gap=100,
            static_integers=("walk_rank",),
            recovers=True,
            finetuning=GLUE,
        ),
        Optimizer(
            name="subtrack",
            learning_rate=1e-2,
            learning_rate_source=_GALORE,
            scale=0.25,
            update_proj_gap=200,
            static_integers=("tracking_rank",),
            recovers=True,
            finetuning=GLUE,
        ),
        Optimizer(
            name="subtrack_grad",
            learning_rate=1e-2,
            learning_rate_source=_GALORE,
            scale=0.25,
            update_proj_gap=200,
            static_integers=("tracking_rank",),
            finetuning=GLUE,
        ),
        Optimizer(
            name="galore",
            learning_rate=1e-2,
            learning_rate_source=_GALORE,
            scale=0.25,
            update_proj_gap=200,
            draws=False,
            svd="always",
            finetuning=GLUE,
        ),
        Optimizer(
            name="golore",
            learning_rate=1e-2,
            learning_rate_source=_GALORE,
            scale=0.25,
            update_proj_gap=200,
            run_fractions={"random_start": 0.8},  # GoLore@20% of arXiv 2410.11289: random in the last fifth
            svd="sometimes",
            finetuning=GLUE,
        ),
        Optimizer(
            name="fira",
            learning_rate=1e-2,
            learning_rate_source=_GALORE,
            scale=0.25,
            update_proj_gap=200,
            draws=False,
            recovers=True,
            svd="always",
            finetuning=GLUE,
        ),
        Optimizer(
            name="apollo",
            learning_rate=1e-2,
            learning_rate_source=_GALORE,
            update_proj_gap=200,
            scale_enters_as_root=True,
            recovers=True,
        ),
        Optimizer(
            name="apollo_mini",
            learning_rate=3e-3,
            learning_rate_source=_BETTER_OF_TWO,
            scale=128.0,
            update_proj_gap=200,
            takes=SPLIT_ARGUMENTS - {"rank"},
            scale_enters_as_root=True,
            recovers=True,
        ),
        Optimizer(
            name="ldadam",
            learning_rate=1e-3,
            learning_rate_source="that of its scripts; 0.003 and 0.01 were as good",
            update_proj_gap=1,
        ),
        Optimizer(
            name="frugal",
            learning_rate=3e-3,
            learning_rate_source="best of 0.001, 0.003 and 0.01 at 100 steps of 8 windows",
            update_proj_gap=200,
        ),
        Optimizer(
            name="badam",
            learning_rate=1e-3,
            learning_rate_source="Adam's default, not tuned; BAdam is made for fine-tuning",
            update_proj_gap=100,
            takes=frozenset({"switch_gap", "key"}),  # it updates one block of weights at a time, all at one rate
            gap_argument="switch_gap",
            splits=False,
            finetuning=Finetuning(
                learning_rate=1e-5, update_proj_gap=100, source="BAdam's for RoBERTa on SuperGLUE (arXiv 2404.02827)"
            ),
        ),
        Optimizer(
            name="online_subspace_descent",
            learning_rate=3e-3,
            learning_rate_source=_BETTER_OF_TWO,
            update_proj_gap=200,
        ),
        Optimizer(
            name="coap",
            learning_rate=3e-3,
            learning_rate_source=_BETTER_OF_TWO,
            update_proj_gap=32,
            static_integers=("refreshes_per_svd",),
            svd="sometimes",
        ),
        Optimizer(
            name="sumo",
            learning_rate=1e-2,
            learning_rate_source=_GALORE,
            update_proj_gap=200,
        ),
        Optimizer(
            name="column_sgd",
            learning_rate=3e-3,
            learning_rate_source=_BETTER_OF_TWO,
            takes=frozenset({"scale"}),
            splits=False,
            draws=False,
        ),
        Optimizer(
            name="adamw",
            learning_rate=3e-3,
            learning_rate_source="best of a sweep by factors of 3 at 300 steps",
            package="optax",
            takes=frozenset(),
            splits=False,
            draws=False,
        ),
        Optimizer(
            name="muon",
            learning_rate=3e-3,
            learning_rate_source="AdamW's, as its updates have the size of AdamW's",
            package="optax",
            takes=frozenset(),
            splits=False,
            draws=False,
        ),
        Optimizer(
            name="lora",
            learning_rate=2e-3,
            learning_rate_source="not tuned; LoRA is made for fine-tuning",
            scale=2.0,  # alpha = 16 at a rank of 8
            package="train",
            takes=frozenset({"rank", "key"}),
            splits=False,
            finetuning=Finetuning(learning_rate=5e-4, source="LoRA's for RoBERTa on GLUE (arXiv 2106.09685, Table 9)"),
        ),
    )
}

if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]  # the choices of the command line
NO_GAP = 100  # value of --update-proj-gap for an optimizer that has no interval
