"""Print what the experiments are, how many runs they have, and what these would cost."""

from experiments.papers import (
    ablation,
    completion,
    equal_memory,
    interval,
    limiter,
    long_ratio,
    long_run,
    main_comparison,
    rank,
    ratio,
    sizes,
    step_size,
    wall_time,
)
from experiments.papers.scales import SCALES, seconds_of
from experiments.papers.tables import duration
from experiments.study import row

MODULES = (
    main_comparison, ratio, equal_memory, ablation, rank, interval, completion, limiter, step_size, long_run,
    long_ratio, sizes, wall_time,
)  # fmt: skip


def overview() -> str:
    """A Markdown table: the runs of each experiment at each scale, and an estimate of the time."""
    scales = {name: scale for name, scale in SCALES.items() if name != "cpu-english"}  # as cpu
    lines = [row("experiment", "of", *(f"`--scale {name}`" for name in scales)), "|---|---|" + "---:|" * len(scales)]
    for module in MODULES:
        experiment, costs = module.EXPERIMENT, []
        for scale in scales.values():
            runs = list(dict.fromkeys([*experiment.trials(scale, {}), *experiment.runs(scale, {})]))
            costs.append(f"{len(runs)} runs, {duration(sum(seconds_of(run, scale) for run in runs))}")
        lines.append(row(f"`{module.__name__.rpartition('.')[2]}`", experiment.source, *costs))
    return "\n".join(lines)


if __name__ == "__main__":
    print(overview())
