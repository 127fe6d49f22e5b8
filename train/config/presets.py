"""The papers' settings, whole columns of their tables: what --preset stands for.

The tables print some shapes that their own codes do not have. The models here are those of the
released configurations; the notes say where the two differ.
"""

import dataclasses
from typing import TYPE_CHECKING, Literal

from train.config.axes import idle
from train.config.optimizer_flags import OptimizerFlags, RuleName
from train.config.optimizers import OPTIMIZERS

# What all columns share, beside a gradient clip of 1 and 1000 updates of warm-up, which are the
# defaults of runs as long as theirs.
SCALE = 0.25
PRECISION: Literal["bfloat16"] = "bfloat16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A column of a table.

    Attributes:
      model: Size of the model.
      rank: Dimension of the subspaces.
      learning_rate: Peak learning rate of all methods.
      update_proj_gap: Steps between subspaces, of all methods that choose them now and then.
      step_size: The papers' eta, of the methods that track.
      windows: Windows per micro-batch.
      accumulate: Micro-batches per update.
      steps: Updates.
      switch_gap: Steps between blocks of BAdam; None for its own.
      source: The table.
      note: What the table prints differently, or what it leaves open.
    """

    model: str
    rank: int
    learning_rate: float
    update_proj_gap: int
    step_size: float
    windows: int
    accumulate: int
    steps: int
    switch_gap: int | None = None
    source: str
    note: str = ""

    @property
    def batch_size(self) -> int:
        """Windows per update."""
        return self.windows * self.accumulate

    def optimizer(self, flags: OptimizerFlags, rule: RuleName) -> OptimizerFlags:
        """Return the flags of an optimizer, with those that the table gives.

        The scale is that of the methods whose own it is. LDAdam moves its subspaces at every step
        by definition, and a walk has the law of the papers' eta without a step size. What
        assemble does is said by `rule`, the value of --rule.
        """
        row = OPTIMIZERS[flags.optimizer]
        gap = self.update_proj_gap if row.refreshes else flags.update_proj_gap
        if row.name == "badam":
            gap = self.switch_gap or flags.update_proj_gap
        tracks = "tracking_rank" not in idle(dataclasses.replace(flags, rule=rule))
        return dataclasses.replace(
            flags,
            rank=self.rank,
            learning_rate=self.learning_rate,
            update_proj_gap=gap,
            scale=SCALE if row.scale == SCALE else flags.scale,
            step_size=self.step_size if tracks else None,
        )


_TABLE_7, _TABLE_14 = "arXiv 2510.01878, Table 7", "arXiv 2502.01586, Table 14"
_HEADS = "the table prints 24 heads and 32 layers; the released configuration, and the text, have 32 and 24"


def _subtrack(model: str, rank: int, learning_rate: float, windows: int, note: str = "") -> Preset:
    return Preset(
        model=model,
        rank=rank,
        learning_rate=learning_rate,
        update_proj_gap=200,
        step_size=10.0,
        windows=windows,
        accumulate=2,
        steps=10_000,
        switch_gap=100,
        source=_TABLE_14,
        note=note,
    )


PRESETS: dict[str, Preset] = {
    "paper-1b": Preset(
        model="1b",
        rank=512,
        learning_rate=1e-4,
        update_proj_gap=100,
        step_size=1e4,
        windows=32,
        accumulate=2,
        steps=10_000,
        source=_TABLE_7,
        note=_HEADS,
    ),
    "paper-7b": Preset(
        model="7b",
        rank=1024,
        learning_rate=1e-4,
        update_proj_gap=500,
        step_size=1e4,
        windows=8,
        accumulate=4,
        steps=100_000,
        source=_TABLE_7,
    ),
    "paper-qwen-1.5b": Preset(
        model="qwen2-1.5b",
        rank=256,
        learning_rate=1e-4,
        update_proj_gap=100,
        step_size=1e4,
        windows=16,
        accumulate=4,
        steps=10_000,
        source=_TABLE_7,
        note="keys and values are 1536 x 256, so at this rank they have no subspace and get Adam",
    ),
    "subtrack-60m": _subtrack("60m", 128, 1e-3, 128),
    "subtrack-130m": _subtrack("130m", 256, 1e-3, 128),
    "subtrack-350m": _subtrack("350m", 256, 1e-3, 64),
    "subtrack-1b": _subtrack("1b", 512, 1e-5, 8, _HEADS),
    "subtrack-3b": _subtrack(
        "3b", 512, 1e-5, 8, "the table prints the shape of 7B; the released configuration has 2560, 6848, 32 and 32"
    ),
}
if TYPE_CHECKING:
    PresetName = str
else:
    PresetName = Literal[tuple(PRESETS)]  # the choices of the command line
