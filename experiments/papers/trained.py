"""Runs of the papers' tables: ordinary runs of `pretrain`, each in a process and folder of its own.

A run that was interrupted resumes from its last checkpoint. A finished one leaves a line in
docs/results, and its folder without checkpoints.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import english
from experiments.provenance import made_by
from experiments.study import Study
from train.config.optimizer_flags import OptimizerFlags
from train.config.run import DIVERGED, DataFlags, ModelFlags, PrecisionName, Pretrain, UserError, defaults
from train.config.schedule import ScheduleFlags
from train.data.tokens import load_tokens
from train.loop.child import LOG, last_line, run_child
from train.storage.folder import RunFolder
from train.storage.metrics import Row, read_rows
from train.system.files import write_whole

RUNS = Path("runs/papers")  # a folder for each run
OUTCOME = "outcome.json"  # in it, when it is finished
# From how many updates on a run is evaluated on its way, and how often. Shorter ones would take a
# sixth longer.
LONG, EVALUATIONS = 1000, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The settings of a run. Every other one is the default of `pretrain` for the model."""

    model: str
    precision: PrecisionName
    data: str
    batch_size: int
    accumulate: int
    steps: int
    seed: int
    optimizer: str
    learning_rate: float
    scale: float
    rank: int
    update_proj_gap: int
    basis: str
    rule: Any
    transport: Any
    residual: Any
    step_size: float | None
    walk_rank: int
    tracking_rank: int
    completion: Any
    max_norm_growth: float | None
    diagnostics: bool = False

    def at(self, **settings: Any) -> "Run":
        """The same run with other settings."""
        return dataclasses.replace(self, **settings)

    @property
    def name(self) -> str:
        """The name of its folder: what it trains, and a hash of all its settings."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{self.model}-{self.optimizer}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def config(self) -> Pretrain:
        """The configuration of `pretrain`, in the folder that experiments share."""
        usual = defaults(
            Pretrain(
                run_dir=RUNS / self.name,
                model=ModelFlags(model=self.model),
                data=DataFlags(data=self.data),
                optimizer=OptimizerFlags(optimizer=self.optimizer),
                schedule=ScheduleFlags(steps=self.steps),
            )
        )
        own = {field.name for field in dataclasses.fields(OptimizerFlags)}
        flags = {name: value for name, value in dataclasses.asdict(self).items() if name in own}
        batch: dict[str, Any] = {"batch_size": self.batch_size, "accumulate": self.accumulate, "seed": self.seed}
        return dataclasses.replace(
            usual,
            model=dataclasses.replace(usual.model, precision=self.precision),
            data=dataclasses.replace(usual.data, **batch),
            optimizer=dataclasses.replace(usual.optimizer, **flags),
            report=dataclasses.replace(
                usual.report,
                sample_tokens=0,
                save_every=1000,
                save_minutes=10.0,
                diagnostics=self.diagnostics,
                eval_every=self.steps // EVALUATIONS if self.steps >= LONG else 0,
            ),
        )


class Outcome(NamedTuple):
    """The result of a run; a diverged one has no loss."""

    eval_loss: float | None
    seconds: float | None  # of its updates, without compilation and evaluation
    optimizer_bytes: int | None
    peak_memory_bytes: int | None  # if the backend reports it
    device: str
    corpus: str  # fingerprint of the tokens
    commit: str
    date: str
    processor: str = "unknown"  # of the host
    curve: list[list[float]] | None = None  # of a long run: updates, seconds and loss of its evaluations


def train(run: Run, subfolder: str = "") -> Outcome:
    """Train, or resume, until the run ends; a run that another experiment made is not repeated.

    Those in a subfolder are shared with nobody.
    """
    path = RUNS / subfolder / run.name
    kept = path / OUTCOME
    if not kept.exists():
        write_whole(kept, json.dumps(_trained(run, RunFolder(path))._asdict()) + "\n")
    return Outcome(**json.loads(kept.read_text()))


def _trained(run: Run, folder: RunFolder) -> Outcome:
    made = made_by()
    status = run_child(run.config(), folder, lambda: None)
    if status != DIVERGED and not folder.summary.exists():
        raise UserError(f"{run} ended with status {status}: {last_line(folder.path / LOG)}")
    rows = read_rows(folder.metrics)
    summary = {} if status == DIVERGED else json.loads(folder.summary.read_text())
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    return Outcome(
        eval_loss=summary.get("eval_loss"),
        seconds=max((row["seconds"] for row in rows if "seconds" in row), default=None),
        optimizer_bytes=summary.get("optimizer_bytes"),
        peak_memory_bytes=summary.get("peak_memory_bytes"),
        device=summary.get("device", "unknown"),
        corpus=folder.stored().fingerprint,
        curve=_curve(rows) if run.steps >= LONG else None,
        **made,
    )


def _curve(rows: Sequence[Row]) -> list[list[float]]:
    return [[row["step"], row["seconds"], row["eval_loss"]] for row in rows if row.get("eval_loss") is not None]


def fingerprint(run: Run) -> str:
    """Prepare the tokens of a run, and identify them."""
    if run.data == english.DATA:
        english.prepare()
    config = run.config()
    return load_tokens(config.data, config.model.vocab_size).fingerprint


STUDY = Study(
    run=Run,
    outcome=Outcome,
    train=train,
    text=lambda run: (run.data, run.model),
    fingerprint=fingerprint,
    origin="--data: give the same text",
)
