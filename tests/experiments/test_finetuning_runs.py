"""The runs of fine-tuning: rates from trials, scales by rank."""

from collections.abc import Sequence

from experiments import finetuning_runs
from experiments.finetuning_runs import CONTESTANTS, TRIED, Contestant, Table, run_of
from experiments.labelling import Outcome, Run

SMALL = Table("Two words", "toxicity", ("pearson", "eval_loss"), 8, 5, 2, 8, batch_size=8)
OUTCOME = Outcome(
    {"pearson": 0.5, "eval_loss": 0.1}, {"pearson": 0.0, "eval_loss": 0.2}, 2.0, 1.0, 10**6, "none", "cpu"
)

GALORE = Contestant("galore", 8)


def outcome(pearson: float) -> Outcome:
    return OUTCOME._replace(metrics=OUTCOME.metrics | {"pearson": pearson})


def outcomes_of(runs: Sequence[Run], values: Sequence[float]) -> dict[Run, Outcome]:
    return {run: outcome(value) for run, value in zip(runs, values, strict=True)}


def test_the_scale_falls_with_the_rank() -> None:
    scales = {
        contestant: run_of(SMALL, contestant, 1e-4, 0).scale
        for contestant in CONTESTANTS
        if contestant.optimizer in ("galore", "adamw")
    }
    assert scales == {("adamw", None): 1, ("galore", 4): 4, ("galore", 8): 2}


def test_every_optimizer_has_trials() -> None:
    assert {contestant.optimizer for contestant in TRIED} == {contestant.optimizer for contestant in CONTESTANTS}
    assert finetuning_runs.SEED_OF_TRIALS not in finetuning_runs.SEEDS


def trials_of(optimizer: finetuning_runs.Contestant, *factors: float) -> list[Run]:
    return [finetuning_runs.trial(SMALL, optimizer, factor) for factor in factors]


def test_a_rate_is_chosen_when_its_neighbours_were_tried() -> None:
    trials = trials_of(GALORE, 1.0, 4.0, 16.0)
    assert all(run.is_trial for run in trials)
    assert [run for run in finetuning_runs.missing_trials(SMALL, {}) if run.optimizer == "galore"] == trials
    outcomes = outcomes_of(trials, (0.3, 0.6, 0.5))
    assert finetuning_runs.best_rates(SMALL, outcomes)["galore"] == 4 * finetuning_runs.default_rate("galore")
    fewer = dict(list(outcomes.items())[:2])
    assert finetuning_runs.best_rates(SMALL, fewer)["galore"] == finetuning_runs.default_rate("galore")


def test_the_next_rate_is_tried_while_the_largest_is_the_best() -> None:
    outcomes = outcomes_of(trials_of(GALORE, 1.0, 4.0, 16.0), (0.3, 0.4, 0.5))
    [larger] = [run for run in finetuning_runs.missing_trials(SMALL, outcomes) if run.optimizer == "galore"]
    assert [larger] == trials_of(GALORE, 64.0)
    assert finetuning_runs.best_rates(SMALL, outcomes)["galore"] == finetuning_runs.default_rate("galore")
    outcomes[larger] = outcome(0.45)
    assert finetuning_runs.best_rates(SMALL, outcomes)["galore"] == 16 * finetuning_runs.default_rate("galore")
