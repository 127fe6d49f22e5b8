"""`presets`: tables in Markdown, which docs/reference/defaults.md has too."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from models.config import CONFIGS
from models.parameters import count_parameters
from train.config.axes import AXES, OF_THE_AXES
from train.config.optimizer_flags import OptimizerFlags, default_optimizer
from train.config.optimizers import OPTIMIZERS, Optimizer
from train.config.presets import PRESETS
from train.config.recipes import PRETRAINING
from train.config.run import BATCHES, OTHER_BATCH, UserError
from train.presets.config import Presets

ROWS = [row for row in OPTIMIZERS.values() if not row.only_finetunes]


def run_presets(config: Presets) -> None:
    """Print the tables."""
    if config.model is None:
        print(
            "\n\n".join(
                [sizes(CONFIGS), rates(), scales_and_intervals(), sources(), knobs(), columns_of_papers(), notes()]
            )
        )
    elif config.model in CONFIGS:
        print(f"{sizes([config.model])}\n\n{of_model(config.model)}")
    else:
        raise UserError(f"--model {config.model} is unknown: choose one of {', '.join(CONFIGS)}.")


def sizes(models: Iterable[str]) -> str:
    """Return the table of sizes; the rank and the batch are defaults of the trainer."""
    rows = []
    for name in models:
        network = CONFIGS[name]
        rank = default_optimizer("grassjump", name).rank
        shape = (network.hidden_size, network.intermediate_size, network.num_layers, network.num_heads)
        batch = "{} x {}".format(*BATCHES.get(name, OTHER_BATCH))
        rows.append(
            (f"`{name}`", f"{count_parameters(network):,}", *map(str, shape), f"{network.vocab_size}", str(rank), batch)
        )
    return table(("model", "parameters", "hidden", "inner", "layers", "heads", "vocabulary", "rank", "batch"), rows)


def rates() -> str:
    """Return the table of learning rates; those in italics follow from their neighbours."""
    return by_size("learning rate", lambda row, model: f"{row.pretraining(model).learning_rate:g}")


def scales_and_intervals() -> str:
    """Return the table of scales and intervals."""
    return by_size("scale, interval", _scale_and_interval)


def by_size(title: str, cell: Callable[[Optimizer, str], str]) -> str:
    """Return a table of optimizers and sizes."""
    rows = [(f"`{row.name}`", *(_marked(row, model, cell(row, model)) for model in CONFIGS)) for row in ROWS]
    return table((title, *CONFIGS), rows)


def sources() -> str:
    """Return the table of where numbers come from."""
    rows = []
    for row in ROWS:
        found: dict[str, list[str]] = {}
        for size in CONFIGS:
            if size in PRETRAINING[row.name]:
                found.setdefault(PRETRAINING[row.name][size].source, []).append(size)
        rows += [(f"`{row.name}`", ", ".join(of), source) for source, of in found.items()]
    return table(("optimizer", "sizes", "source"), rows)


def knobs() -> str:
    """Return the table of the flags that change a method, and of the optimizers that have them."""
    rows = []
    for field in dataclasses.fields(OptimizerFlags):
        if field.name in (*AXES, *OF_THE_AXES):
            names = ", ".join(f"`{row.name}`" for row in ROWS if field.name in row.takes)
            rows.append((f"`--{field.name.replace('_', '-')}`", f"{field.default}", names))
    return table(("flag", "default", "optimizers"), rows)


def columns_of_papers() -> str:
    """Return the table of presets, a row for each column of the papers' tables."""
    rows = [
        (
            f"`{name}`",
            f"`{one.model}`",
            f"{one.learning_rate:g}",
            str(one.rank),
            str(one.update_proj_gap),
            f"{one.step_size:g}",
            f"{one.batch_size} = {one.windows} x {one.accumulate}",
            f"{one.steps:,}",
            one.source,
        )
        for name, one in PRESETS.items()
    ]
    head = ("preset", "model", "learning rate", "rank", "interval", "eta of tracking", "windows", "updates", "source")
    return table(head, rows)


def notes() -> str:
    """Return where the papers' tables differ from the presets."""
    found: dict[str, list[str]] = {}
    for name, one in PRESETS.items():
        if one.note:
            found.setdefault(one.note, []).append(f"`{name}`")
    return table(("presets", "note"), [(", ".join(names), note) for note, names in found.items()])


def of_model(model: str) -> str:
    """Return the table of the defaults for one size."""
    rows = []
    for row in ROWS:
        recipe = row.pretraining(model)
        rows.append((f"`{row.name}`", f"{recipe.learning_rate:g}", _scale_and_interval(row, model), recipe.source))
    return table(("optimizer", "learning rate", "scale, interval", "source"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))


def _marked(row: Optimizer, model: str, cell: str) -> str:
    return cell if model in PRETRAINING[row.name] else f"*{cell}*"


def _scale_and_interval(row: Optimizer, model: str) -> str:
    recipe = row.pretraining(model)
    scale = f"{recipe.scale:g}" if row.has_scale else "none"
    return scale if recipe.update_proj_gap is None else f"{scale}, {recipe.update_proj_gap}"
