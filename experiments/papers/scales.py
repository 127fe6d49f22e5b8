"""How large the runs of an experiment are: what a CPU can do, a GPU, or what the papers have."""

import dataclasses

from experiments import english
from experiments.papers.trained import Run
from models.config import CONFIGS
from models.parameters import count_parameters

C4 = "hf:allenai/c4,en"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of runs.

    Attributes:
      preset: The settings of the trainer's --preset; None for the defaults of `model`.
      model: Size of the model, if there is no preset.
      data: The text.
      steps: Updates.
      update_proj_gap: Updates between two subspaces, where they are not what is swept.
      seeds: Those that are reported.
      seed_of_rates: The one by which learning rates are chosen.
      is_paper: Whether everything is as in the papers, which have one rate for all methods.
      flops_per_second: What an estimate of the time assumes.
    """

    preset: str | None
    model: str
    data: str
    steps: int
    update_proj_gap: int
    seeds: tuple[int, ...] = (0, 1, 2)
    seed_of_rates: int = 100
    is_paper: bool = False
    flops_per_second: float

    @property
    def rank(self) -> int:
        """The dimension of the subspaces, where it is not what is swept."""
        return rank_of(self.model)


def rank_of(model: str) -> int:
    """The papers' rank, a quarter of the hidden size."""
    return CONFIGS[model].hidden_size // 4


_CPU = Scale(
    preset=None,
    model="tiny",
    data="stdlib",
    steps=300,
    update_proj_gap=20,
    flops_per_second=4e10,
)
SCALES = {
    "cpu": _CPU,
    "cpu-english": dataclasses.replace(_CPU, data=english.DATA),
    "gpu": Scale(
        preset="subtrack-60m",
        model="60m",
        data=C4,
        steps=10_000,
        update_proj_gap=100,
        flops_per_second=1e14,
    ),
    "paper": Scale(
        preset="paper-1b",
        model="1b",
        data=C4,
        steps=10_000,
        update_proj_gap=100,
        seeds=(0,),
        is_paper=True,
        flops_per_second=5e13,  # an A6000's in the papers: 417 minutes for AdamW
    ),
}


def seconds_of(run: Run, scale: Scale) -> float:
    """An estimate of the time of a run, from six operations for each parameter and token."""
    tokens = run.steps * run.batch_size * run.config().data.seq_len
    return 6 * count_parameters(CONFIGS[run.model]) * tokens / scale.flops_per_second
