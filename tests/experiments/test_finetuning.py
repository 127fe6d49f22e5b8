"""The study of fine-tuning: rates from trials, scales by rank, and a run from its texts to its
metrics.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from experiments import finetuning, texts
from experiments.finetuning import CONTESTANTS, TRIED, Contestant, Outcome, Run, Table, run_of
from models import to_hf_config
from tests.models.small import BERT
from train.program.task import drawn
from train.storage.checkpoint import save_params
from train.storage.folder import RunFolder
from train.storage.model import StoredModel

SMALL = Table("Two words", "toxicity", ("pearson", "eval_loss"), 8, 5, 2, 8, batch_size=8)
OUTCOME = Outcome(
    {"pearson": 0.5, "eval_loss": 0.1}, {"pearson": 0.0, "eval_loss": 0.2}, 2.0, 1.0, 10**6, "none", "cpu"
)


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
    assert finetuning.SEED_OF_TRIALS not in finetuning.SEEDS


def test_a_rate_is_chosen_when_all_were_tried() -> None:
    trials = finetuning.trials_of(SMALL, Contestant("galore", 8))
    assert all(run.is_trial for run in trials)
    outcomes = outcomes_of(trials, (0.3, 0.6, 0.5))
    assert finetuning.best_rates(SMALL, outcomes)["galore"] == trials[1].learning_rate
    fewer = dict(list(outcomes.items())[:2])
    assert finetuning.best_rates(SMALL, fewer)["galore"] == finetuning.default_rate("galore")


def test_runs_are_compared_seed_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(finetuning.TABLES, "cpu", (SMALL,))
    runs = [run for run in finetuning.runs_of(SMALL, {}) if run.optimizer == "adamw" or run.rank == 4]
    runs = [run for run in runs if run.optimizer in ("adamw", "galore") and run.seed < 2]
    text = finetuning.report(outcomes_of(runs, (0.5, 0.6, 0.7, 0.4)))
    rows = {line.split(" | ")[0]: line for line in text.splitlines()}
    assert "| 2 | 0.600 ± 0.141 | 0.100 ± 0.000 | - | 2 | 1 | 1.0 |" in rows["| adamw"]
    assert "| 4 | 3e-05 | 2 | 0.500 ± 0.141 | 0.100 ± 0.000 | +0.100, -0.300 |" in rows["| galore"]
    assert "| 0.000 | 0.200 |" in rows["| the same guess"]


def small_model(folder: Path) -> Path:
    """An encoder of a few thousand parameters, which knows two words."""
    network = dataclasses.replace(BERT, num_labels=None)
    words = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "good", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    folder.mkdir()
    StoredModel(settings=to_hf_config(network), tokenizer=tokenizer).write(folder)
    save_params(RunFolder(folder).checkpoints, jax.tree.map(np.asarray, drawn(network, 0)))
    return folder


def test_a_run_learns_and_is_identified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = small_model(tmp_path / "model")
    monkeypatch.setattr(finetuning, "minilm", lambda: model)
    labels = {"good bad good": 0.5, "good good": 1.0, "bad": 0.0}
    for file in texts.files("toxicity", is_trial=False):
        path = Path(file.removeprefix("files:"))
        path.parent.mkdir(parents=True, exist_ok=True)
        records = [{"text": text, "label": label} for text, label in labels.items()] * 9
        path.write_text("\n".join(map(json.dumps, records)))
    monkeypatch.setattr(finetuning, "prepare", lambda _: None)
    run = run_of(SMALL, Contestant("grassjump", 8), 3e-3, 0)
    found = finetuning.train(run)
    assert found.guess["pearson"] == 0
    np.testing.assert_allclose(found.guess["eval_loss"], np.var(list(labels.values())), rtol=1e-6)
    assert found.metrics["eval_loss"] < found.guess["eval_loss"] / 2
    assert found.metrics["pearson"] > 0.8
    assert found.corpus == finetuning.fingerprint(run)
