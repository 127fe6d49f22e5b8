"""The table of an experiment in Markdown, and how much is left to do."""

import statistics
from collections.abc import Mapping

from experiments.papers.experiment import Arm, Experiment, Rates
from experiments.papers.scales import SCALES, Scale, seconds_of
from experiments.papers.trained import Outcome, Run
from experiments.provenance import made_on
from experiments.study import caption, row, spread
from train.config.optimizers import OPTIMIZERS

RATES = "rate x scale"  # the learning rate, and how much faster than the rest the matrices learn
LEFT, RIGHT = "---", "---:"
COLUMNS = {
    "method": LEFT,
    "setting": LEFT,
    RATES: RIGHT,
    "seeds": RIGHT,
    "loss": RIGHT,
    "from the first, by seed": LEFT,
    "minutes": RIGHT,
    "state, MB": RIGHT,
    "peak, GB": RIGHT,
    "printed": RIGHT,
}
Found = dict[int, Outcome]  # by seed


def report(experiment: Experiment, outcomes: Mapping[Run, Outcome]) -> str:
    """The tables of all scales that have runs."""
    texts = [table(experiment, name, outcomes) for name in SCALES]
    return "\n\n".join(text for text in texts if text)


def table(experiment: Experiment, name: str, outcomes: Mapping[Run, Outcome]) -> str:
    """The table of a scale, without columns that would be empty; empty if it has no runs."""
    scale = SCALES[name]
    arms, found = experiment.arms(scale), found_by_arm(experiment, scale, outcomes)
    if not any(found):
        return ""
    rows, first = list[dict[str, str]](), dict[float | None, Found]()  # the first row of each setting
    for arm, of_seed in zip(arms, found, strict=True):
        if of_seed:
            reference = first.setdefault(arm.x, of_seed)
            rates = rates_text(experiment.best(scale, arm, outcomes))
            rows.append(cells(experiment, arm, of_seed, reference) | {RATES: rates})
    columns = [column for column in COLUMNS if any(cell[column] != "-" for cell in rows)]
    interval = _in_common(experiment, scale, "update_proj_gap", scale.update_proj_gap)
    size = size_of(experiment, scale) + (f", T = {interval}" if interval else "")
    made = made_on((outcome for of_seed in found for outcome in of_seed.values()), scale.data)
    lines = [
        caption(f"**{experiment.title}**, --scale {name}: {size}; {made}."),
        "",
        row(*columns),
        f"|{'|'.join(COLUMNS[column] for column in columns)}|",
        *(row(*(cell[column] for column in columns)) for cell in rows),
    ]
    missing, untried = (
        [run for run in runs(scale, outcomes) if run not in outcomes] for runs in (experiment.runs, experiment.trials)
    )
    if missing or untried:
        trials = f", {len(untried)} or more that choose rates" if untried else ""
        lines += ["", f"Not made yet: {len(missing)} runs of the table{trials}."]
    return "\n".join(lines)


def found_by_arm(experiment: Experiment, scale: Scale, outcomes: Mapping[Run, Outcome]) -> list[Found]:
    """The outcomes of each arm by seed, at its rates; none as long as there is nothing to compare:
    the first arm has no runs, or only one point of a figure has. Others may share what there is.
    """
    arms = experiment.arms(scale)
    found = [
        {seed: outcomes[run] for seed, run in experiment.by_seed(scale, arm, outcomes).items() if run in outcomes}
        for arm in arms
    ]
    points = {arm.x for arm, of_seed in zip(arms, found, strict=True) if of_seed}
    return found if found[0] and (not experiment.x or len(points) > 1) else [{} for _ in arms]


def size_of(experiment: Experiment, scale: Scale) -> str:
    """What all runs of an experiment have in common."""
    arms = experiment.arms(scale)
    one_model = not all(arm.model or arm.preset for arm in arms)
    one_length = not any("steps" in arm.settings for arm in arms)
    rank = _in_common(experiment, scale, "rank", scale.rank)
    of_rank = (f"r = {rank}" if rank else "") if one_model else "r = m/4"
    parts = (scale.model if one_model else "", f"{scale.steps} steps" if one_length else "", of_rank)
    return ", ".join(filter(None, parts))


def _in_common(experiment: Experiment, scale: Scale, name: str, usual: int) -> str:
    """The value of a setting: the usual one if a row has it, else what the rows have; nothing if a
    method has several.
    """
    values = {(arm.method, arm.settings.get(name, usual)) for arm in experiment.arms(scale) if _has(arm, name)}
    if len(values) > len({method for method, _ in values}):
        return ""
    of_all = sorted({value for _, value in values})
    return str(usual) if usual in of_all or not of_all else " or ".join(map(str, of_all))


def _has(arm: Arm, name: str) -> bool:
    row = OPTIMIZERS[arm.optimizer]
    return name in row.takes if name == "rank" else row.update_proj_gap is not None


def rates_text(rates: Rates) -> str:
    """The rates of an arm, and whether they are still the trainer's."""
    return f"{rates.learning_rate:g} x {rates.scale:g}{'' if rates.is_final else ', not searched'}"


def cells(experiment: Experiment, arm: Arm, found: Found, reference: Found) -> dict[str, str]:
    """What the runs of an arm have to say, by column."""
    losses, base = losses_of(found), losses_of(reference)
    differences = [f"{losses[seed] - base[seed]:+.3f}" for seed in losses if seed in base]
    seconds, state, peak = (known(found, name) for name in ("seconds", "optimizer_bytes", "peak_memory_bytes"))
    return {
        "method": arm.method,
        "setting": "-" if arm.x is None else f"{experiment.x.split(',')[0]} = {arm.x:g}",
        "seeds": str(len(found)),
        "loss": "diverged" if len(losses) < len(found) else spread(list(losses.values())),
        "from the first, by seed": "-" if found is reference else ", ".join(differences) or "-",
        "minutes": f"{statistics.median(seconds) / 60:.2f}" if seconds else "-",
        "state, MB": f"{state[0] / 1e6:.2f}" if state else "-",
        "peak, GB": f"{max(peak) / 1e9:.2f}" if peak else "-",
        "printed": arm.printed,
    }


def known(found: Found, name: str) -> list[float]:
    """A figure of the runs that have it."""
    return [value for outcome in found.values() if (value := getattr(outcome, name)) is not None]


def losses_of(found: Found) -> dict[int, float]:
    """The losses of the seeds that did not diverge."""
    return {seed: outcome.eval_loss for seed, outcome in found.items() if outcome.eval_loss is not None}


def to_do(experiment: Experiment, scale: Scale, outcomes: Mapping[Run, Outcome]) -> str:
    """The runs that are missing, and an estimate of their time."""
    runs = [*experiment.trials(scale, outcomes), *experiment.runs(scale, outcomes)]
    missing = [run for run in dict.fromkeys(runs) if run not in outcomes]
    lines = []
    for run in missing:
        shown = f"{run.optimizer} rate {run.learning_rate:g} scale {run.scale:g} r {run.rank} T {run.update_proj_gap}"
        lines.append(f"{shown} steps {run.steps} seed {run.seed}: {duration(seconds_of(run, scale))}")
    total = sum(seconds_of(run, scale) for run in missing)
    return "\n".join([*lines, f"{len(missing)} runs are missing: about {duration(total)} of one after another"])


def duration(seconds: float) -> str:
    """A time in the largest unit of which there is one."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
