"""Runs of studies that fine-tune MiniLM on labelled texts: as `finetune` does, but without
checkpoints.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.provenance import made_by
from experiments.study import Study
from experiments.texts import LABEL, SETS, files, minilm, prepare
from train.config.finetune import RANK, REGRESSION, EpochFlags, ExampleFlags, Finetune, StartFlags, finetuning_optimizer
from train.config.optimizers import NO_GAP
from train.data.labelled import read_labelled
from train.finetune.labelling import labelling_work
from train.loop.start import state_of_model
from train.program.labelling import Texts
from train.program.program import Program, make_program
from train.program.sharding import make_mesh, place_batch
from train.program.task import Params
from train.storage.folder import RunFolder
from train.storage.model import read_model
from train.storage.weights import kept_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run. Everything else is the default of `finetune` for the optimizer."""

    texts: str  # a key of `SETS`
    is_trial: bool  # of a rate, without the texts for tests
    optimizer: str
    rank: int | None  # None: the optimizer has none
    scale: float
    update_proj_gap: int | None
    learning_rate: float
    seed: int
    epochs: float
    batch_size: int
    seq_len: int


class Outcome(NamedTuple):
    """The result of a run."""

    metrics: Mapping[str, float]  # of the texts to test on
    guess: Mapping[str, float]  # those of the same prediction for all texts
    seconds: float  # of training, without compilation and tests
    cpu_seconds: float  # the same of the processor alone, which other programs do not lengthen
    optimizer_bytes: int
    corpus: str  # fingerprint of texts, labels and tokens
    device: str
    commit: str = "unknown"
    date: str = "unknown"
    processor: str = "unknown"


def train(run: Run) -> Outcome:
    """Fine-tune without checkpoints, and test at the end."""
    made, config = made_by(), settings(run)
    model = read_model(config.start.init_from)
    mesh = make_mesh("", run.batch_size)
    work = labelling_work(config, model, mesh)
    schedule = config.schedule.in_updates(work.rows, run.batch_size)
    program = make_program(mesh, work.task, config.optimizer, schedule, run.seed)
    step = program.train_step.lower(program.state, program.batch).compile()
    state = state_of_model(config.start.init_from, config.start.init_step, program, run.seed)
    began, cpu_began = time.perf_counter(), time.process_time()
    for i in range(schedule.steps):
        state, report = step(state, place_batch(program.batch, work.data.rows(i)))
    jax.block_until_ready((state, report))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    constant = guess(run)
    return Outcome(
        metrics=work.data.evaluate(lambda texts: predictions(program, state.params, texts)),
        guess=work.data.evaluate(lambda texts: np.tile(constant, (len(texts.labels), 1))),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        optimizer_bytes=program.optimizer_bytes,
        corpus=work.data.fingerprint,
        device=jax.devices()[0].device_kind,
        **made,
    )


def predictions(program: Program, params: Params, texts: Texts) -> np.ndarray:
    """The predictions for up to one batch; a short one is padded by repeating rows."""
    whole = jax.tree.map(lambda x, like: np.resize(x, like.shape), texts, program.batch)
    batch = place_batch(program.batch, lambda start, stop: jax.tree.map(lambda x: x[start:stop], whole))
    return np.asarray(program.predict(params, batch))[: len(texts.labels)]


def guess(run: Run) -> np.ndarray:
    """The best constant prediction: the mean of the labels, or the logarithms of their parts."""
    of_set = SETS[run.texts]
    is_regression = of_set.task == REGRESSION
    texts = read_labelled(files(run.texts, run.is_trial).training, of_set.fields, LABEL, is_regression)
    labels = [text.label for text in texts]
    if is_regression:
        return np.array([np.mean(np.array(labels, np.float64))])
    counts = Counter(map(str, labels))
    return np.log([counts[name] / len(labels) for name in sorted(counts)])


def settings(run: Run) -> Finetune:
    """The configuration that `finetune` would have."""
    of_set, parts, start = SETS[run.texts], files(run.texts, run.is_trial), minilm()
    return Finetune(
        run_dir=Path(),
        start=StartFlags(init_from=start, init_step=kept_step(RunFolder(start).checkpoints, None)),
        data=ExampleFlags(
            data=parts.training,
            held_out=parts.test,
            task=of_set.task,
            text_fields=of_set.fields,
            label_field=LABEL,
            batch_size=run.batch_size,
            seq_len=run.seq_len,
            seed=run.seed,
        ),
        optimizer=dataclasses.replace(
            finetuning_optimizer(run.optimizer),
            learning_rate=run.learning_rate,
            rank=run.rank or RANK,
            scale=run.scale,
            update_proj_gap=run.update_proj_gap or NO_GAP,
        ),
        schedule=EpochFlags(epochs=run.epochs),
    )


def fingerprint(run: Run) -> str:
    """Prepare model and texts of a run, and identify the texts."""
    prepare(run.texts)
    config = settings(run)
    return labelling_work(config, read_model(config.start.init_from), make_mesh("", 1)).data.fingerprint


STUDY = Study(
    run=Run,
    outcome=Outcome,
    train=train,
    text=lambda run: f"{run.texts} in rows of {run.seq_len} tokens, {'trials' if run.is_trial else 'tests'}",
    fingerprint=fingerprint,
    origin="that of the packages and the tokenizer: use the code that they were made with",
)
