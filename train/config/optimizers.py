"""The optimizers: one row each, with all facts that trainer, benchmarks and tests need.

What depends on the size of the model is in `train.config.recipes`, through the methods of a row.
Scales and intervals repeat the defaults of the `grass_optax` functions (which follow the papers) so
that `--help` need not import JAX; a test keeps them in sync.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from train.config.recipes import FINETUNING, FULL_RANK, PRETRAINING, Defaults, Recipe, of_size

SPLIT_ARGUMENTS = frozenset({"rank", "update_proj_gap", "scale", "key", "map_stacks"})
_FOLDED = SPLIT_ARGUMENTS - {"update_proj_gap", "map_stacks"}  # no refreshes and no products
_GROWTH, _TURN, _COMPLETION = {"max_norm_growth"}, {"step_size", "tracking_rank"}, {"completion"}
# What else the flags may change, under the names of the library.
KNOBS = frozenset({"basis", "blocks", "store_basis", "step_size", "walk_rank", "tracking_rank"}) | _COMPLETION | _GROWTH


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The facts about one optimizer.

    Attributes:
      name: Name of the function, and of the optimizer on the command line.
      scale: Default factor of the low-rank part. For a baseline, factor of the rate of the kernels.
      update_proj_gap: Default number of steps between two subspaces, or between two blocks; None if
        the optimizer has no such interval.
      package: The package that provides it; those of train only fine-tune. "axes" is the function
        of grass_optax that makes a method from its axes, which the flags name.
      takes: Which of `SPLIT_ARGUMENTS`, the interval under its own name, and `KNOBS` it takes; of
        "axes", its own flags too.
      gap_argument: The function's own name for the interval.
      run_fractions: Further required arguments that count updates, each as a fraction of the run.
      scale_enters_as_root: The update is proportional to the square root of `scale`.
      static_integers: Its own integer arguments, which `optax.inject_hyperparams` must not trace.
      splits: Built on `split_by_subspace`.
      stores_bases: The state of the trainer's optimizer holds its bases.
      updates_apart: Each layer can be updated without the others.
      draws: Its bases, or its blocks, depend on `key`.
      recovers: Also updates along the part of the gradient outside the subspace.
      svd: How much of its refreshes factorise the gradient with an exact SVD.
    """

    name: str
    scale: float = 1.0
    update_proj_gap: int | None = None
    package: Literal["grass_optax", "axes", "optax", "train"] = "grass_optax"
    takes: frozenset[str] = SPLIT_ARGUMENTS
    gap_argument: str = "update_proj_gap"
    run_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    scale_enters_as_root: bool = False
    static_integers: tuple[str, ...] = ()
    splits: bool = True
    stores_bases: bool = True
    updates_apart: bool = True
    draws: bool = True
    recovers: bool = False
    svd: Literal["never", "sometimes", "always"] = "never"

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
    def shows_subspaces(self) -> bool:
        """Whether the state of the trainer's optimizer shows its subspaces: it holds the bases, or
        they are fixed.
        """
        return self.splits and (self.stores_bases or not self.draws)

    @property
    def has_scale(self) -> bool:
        """Whether `scale` has a meaning."""
        return self.is_baseline or "scale" in self.takes

    def pretraining(self, model: str) -> Defaults:
        """Return the defaults for pretraining a model."""
        return of_size({size: self._completed(recipe) for size, recipe in PRETRAINING[self.name].items()}, model)

    @property
    def finetuning(self) -> Defaults:
        """The defaults for fine-tuning."""
        return self._completed(FINETUNING.get(self.name, FULL_RANK))

    def _completed(self, recipe: Recipe) -> Defaults:
        return Defaults(
            recipe.learning_rate,
            self.scale if recipe.scale is None else recipe.scale,
            recipe.update_proj_gap or self.update_proj_gap,
            recipe.source,
        )

    def arguments(self, **settings: Any) -> dict[str, Any]:
        """Return those of `settings` that the function takes, under its own names."""
        own_names = {"update_proj_gap": self.gap_argument}
        named = {own_names.get(name, name): value for name, value in settings.items()}
        return {name: value for name, value in named.items() if name in self.takes}


OPTIMIZERS: dict[str, Optimizer] = {
    row.name: row
    for row in (
        Optimizer(
            name="grassjump",
            scale=0.25,
            update_proj_gap=100,
            takes=SPLIT_ARGUMENTS | _GROWTH | _COMPLETION | {"basis", "blocks", "store_basis"},
            static_integers=("blocks",),
            recovers=True,
        ),
        Optimizer(
            name="grasswalk",
            scale=0.25,
            update_proj_gap=100,
            takes=SPLIT_ARGUMENTS | _GROWTH | _COMPLETION | {"step_size", "walk_rank"},
            static_integers=("walk_rank",),
            recovers=True,
        ),
        Optimizer(
            name="subtrack",
            scale=0.25,
            update_proj_gap=200,
            takes=SPLIT_ARGUMENTS | _GROWTH | _COMPLETION | _TURN,
            static_integers=("tracking_rank",),
            recovers=True,
        ),
        Optimizer(
            name="subtrack_grad",
            scale=0.25,
            update_proj_gap=200,
            takes=SPLIT_ARGUMENTS | _TURN,
            static_integers=("tracking_rank",),
        ),
        Optimizer(name="galore", scale=0.25, update_proj_gap=200, draws=False, svd="always"),
        Optimizer(
            name="golore",
            scale=0.25,
            update_proj_gap=200,
            run_fractions={"random_start": 0.8},  # GoLore@20% of arXiv 2410.11289: random in the last fifth
            svd="sometimes",
        ),
        Optimizer(
            name="fira",
            scale=0.25,
            update_proj_gap=200,
            takes=SPLIT_ARGUMENTS | _GROWTH,
            draws=False,
            recovers=True,
            svd="always",
        ),
        Optimizer(
            name="apollo",
            update_proj_gap=200,
            takes=SPLIT_ARGUMENTS | _GROWTH,
            stores_bases=False,
            scale_enters_as_root=True,
            recovers=True,
        ),
        Optimizer(
            name="apollo_mini",
            scale=128.0,
            update_proj_gap=200,
            takes=SPLIT_ARGUMENTS - {"rank"} | _GROWTH,
            stores_bases=False,
            scale_enters_as_root=True,
            recovers=True,
        ),
        Optimizer(name="ldadam", update_proj_gap=1),
        Optimizer(name="frugal", update_proj_gap=200, stores_bases=False),
        Optimizer(
            name="foam",
            scale=0.25,
            takes=_FOLDED,
            stores_bases=False,
            draws=False,
            recovers=True,
        ),
        Optimizer(
            name="gwt",
            scale=0.25,
            takes=_FOLDED | _GROWTH,
            stores_bases=False,
            draws=False,
            recovers=True,
        ),
        Optimizer(
            name="badam",
            update_proj_gap=100,
            takes=frozenset({"switch_gap", "key"}),  # it updates one block of weights at a time, all at one rate
            gap_argument="switch_gap",
            splits=False,
            updates_apart=False,
        ),
        Optimizer(name="online_subspace_descent", update_proj_gap=200),
        Optimizer(
            name="alice",
            scale=0.3,
            update_proj_gap=200,
            takes=SPLIT_ARGUMENTS | _GROWTH,
            static_integers=("leading",),
            recovers=True,
        ),
        Optimizer(name="coap", update_proj_gap=32, static_integers=("refreshes_per_svd",), svd="sometimes"),
        Optimizer(name="sumo", update_proj_gap=200),
        Optimizer(name="column_sgd", takes=frozenset({"scale"}), splits=False, draws=False),
        Optimizer(
            name="racs",
            scale=0.05,
            takes=frozenset({"scale"}) | _GROWTH,
            static_integers=("iterations",),
            splits=False,
            draws=False,
        ),
        Optimizer(
            name="sinkgd",
            scale=0.05,
            takes=frozenset({"scale"}),
            static_integers=("iterations",),
            splits=False,
            draws=False,
        ),
        Optimizer(
            name="assemble",
            scale=0.25,
            update_proj_gap=100,
            package="axes",
            takes=SPLIT_ARGUMENTS | KNOBS | {"rule", "transport", "residual", "jump_every"},
            svd="sometimes",
        ),
        Optimizer(name="adamw", package="optax", takes=frozenset(), splits=False, draws=False),
        Optimizer(name="muon", package="optax", takes=frozenset(), splits=False, draws=False),
        Optimizer(
            name="lora",
            scale=2.0,  # alpha = 16 at a rank of 8
            package="train",
            takes=frozenset({"rank", "key"}),
            splits=False,
            updates_apart=False,
        ),
    )
}

if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]  # the choices of the command line
NO_GAP = 100  # value of --update-proj-gap for an optimizer that has no interval
