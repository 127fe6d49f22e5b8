"""The runs of fine-tuning: contestants, tables, and how their learning rates are chosen.

The learning rate of a contestant is one of which neither a quarter nor four times is better, by
trials on a seed of their own, trained and scored on parts of the texts to train on. Until all are
made, it is the trainer's default.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from experiments import search
from experiments.labelling import Outcome, Run
from train.config.finetune import RANK, finetuning_optimizer
from train.config.optimizers import OPTIMIZERS

SEEDS, SEED_OF_TRIALS = (0, 1, 2), 100


class Contestant(NamedTuple):
    """An optimizer at a rank."""

    optimizer: str
    rank: int | None

    @property
    def name(self) -> str:
        """The optimizer and, if it has one, the rank."""
        return self.optimizer if self.rank is None else f"{self.optimizer}, r = {self.rank}"


CONTESTANTS = (
    Contestant("adamw", None),
    Contestant("badam", None),
    *(Contestant(name, r) for r in (4, 8) for name in ("galore", "subtrack_grad", "grasswalk", "grassjump", "lora")),
    Contestant("apollo_mini", None),
)
TRIED = tuple(contestant for contestant in CONTESTANTS if contestant.rank in (None, RANK))


class Table(NamedTuple):
    """A task, its metrics, of which the first chooses the rates, and how it is trained."""

    title: str
    texts: str
    metrics: tuple[str, ...]
    epochs: float
    update_proj_gap: int
    switch_gap: int  # of badam
    seq_len: int
    batch_size: int = 16


# Metrics as in the papers: Pearson for numbers, else accuracy. `full` has their 30 epochs, ranks,
# scales and, except for the small set, intervals; `cpu` has five subspaces a run, as have the
# papers' comparisons of time, and BAdam takes its six layers twice.
TABLES: dict[str, tuple[Table, ...]] = {
    "cpu": (
        Table("Toxicity", "toxicity", ("pearson", "eval_loss"), 1, 10, 4, 32),
        Table("Reuters R8, 640 texts", "r8, 640 texts", ("accuracy", "f1"), 2, 16, 6, 64),
        Table("BoolQ, 640 texts", "boolq, 640 texts", ("accuracy", "eval_loss"), 2, 16, 6, 128),
    ),
    "full": (
        Table("Toxicity, 30 epochs", "toxicity", ("pearson", "eval_loss"), 30, 75, 50, 64),
        Table("Reuters R8", "r8", ("accuracy", "f1"), 30, 500, 100, 256),
        Table("BoolQ", "boolq", ("accuracy", "f1"), 30, 500, 100, 256),
    ),
}
NAMES = {"pearson": "Pearson", "eval_loss": "loss", "accuracy": "accuracy", "f1": "F1"}


def default_rate(optimizer: str) -> float:
    """The trainer's default rate for fine-tuning."""
    return finetuning_optimizer(optimizer).learning_rate


def run_of(table: Table, contestant: Contestant, learning_rate: float, seed: int, is_trial: bool = False) -> Run:
    """A run of a table."""
    name, rank = contestant
    flags = finetuning_optimizer(name)
    gap = table.switch_gap if name == "badam" else table.update_proj_gap
    return Run(
        texts=table.texts,
        is_trial=is_trial,
        optimizer=name,
        rank=rank,
        scale=flags.scale if rank is None else flags.scale * RANK / rank,
        update_proj_gap=None if OPTIMIZERS[name].update_proj_gap is None else gap,
        learning_rate=learning_rate,
        seed=seed,
        epochs=table.epochs,
        batch_size=table.batch_size,
        seq_len=table.seq_len,
    )


def trial(table: Table, contestant: Contestant, factor: float) -> Run:
    """The trial of a factor of the default rate."""
    return run_of(table, contestant, factor * default_rate(contestant.optimizer), SEED_OF_TRIALS, is_trial=True)


def factor_at(point: search.Point) -> float:
    """A factor of the default rate, which is that of a large model: the search starts at four."""
    return 4.0 ** (1 + point[0])


def worth_at(
    table: Table, contestant: Contestant, outcomes: Mapping[Run, Outcome]
) -> Callable[[search.Point], tuple[float, float] | None]:
    """What the search minimizes: the first metric with a minus and, of equal ones, the loss."""

    def worth(point: search.Point) -> tuple[float, float] | None:
        outcome = outcomes.get(trial(table, contestant, factor_at(point)))
        return outcome and (-outcome.metrics[table.metrics[0]], outcome.metrics["eval_loss"])

    return worth


def factors_of(table: Table, contestant: Contestant, outcomes: Mapping[Run, Outcome]) -> list[float]:
    """The factors to be tried, as far as is known."""
    return sorted(map(factor_at, search.trials(worth_at(table, contestant, outcomes), axes=1)))


def missing_trials(table: Table, outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The trials to be made next."""
    trials = [trial(table, one, factor) for one in TRIED for factor in factors_of(table, one, outcomes)]
    return [run for run in trials if run not in outcomes]


def runs_of(table: Table, outcomes: Mapping[Run, Outcome]) -> list[Run]:
    """The runs of a table: whole seeds first, so that one cut short is comparable."""
    rates = best_rates(table, outcomes)
    return [
        run_of(table, contestant, rates[contestant.optimizer], seed) for seed in SEEDS for contestant in CONTESTANTS
    ]


def best_rates(table: Table, outcomes: Mapping[Run, Outcome]) -> dict[str, float]:
    """The learning rate of each optimizer, chosen at one rank: the default until it is found."""
    found = {one.optimizer: search.best(worth_at(table, one, outcomes), axes=1) for one in TRIED}
    return {name: (factor_at(point) if point else 1.0) * default_rate(name) for name, point in found.items()}
