"""A study: training runs that differ in a few settings, and a file with a line for each of them.

A line is written when its run is finished. Started again, a study makes only the runs that its file
does not have, so it can be stopped and resumed.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grass_optax import captured_energy
from train.config.run import DataFlags, ModelFlags, OptimizerFlags, Pretrain, ScheduleFlags, UserError, defaults
from train.data.tokenizer import token_bytes
from train.data.windows import Tokens, held_out_batches, load_tokens, training_rows, training_windows
from train.pretrain.evaluation import evaluate
from train.program.optimizer import make_schedule
from train.program.program import pretraining
from train.program.sharding import make_mesh
from train.program.step import TrainState, first_state, make_train_step
from train.program.task import LanguageModel, Params, Rows

PROBE_EVERY = 10  # steps from one measurement of the captured energy to the next


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One run. Everything else is the default of `pretrain` for the model."""

    contestant: str
    rank: int
    update_proj_gap: int
    learning_rate: float
    seed: int
    model: str = "tiny"
    steps: int = 300

    def at(self, **settings: Any) -> "Run":
        """The same run with other settings."""
        return dataclasses.replace(self, **settings)


class Outcome(NamedTuple):
    """The result of a run."""

    eval_loss: float
    energy: float  # mean over matrices and steps of ||S^T G|| / ||G||
    seconds: float
    corpus: str  # fingerprint of the tokens
    device: str


# The optimizer of a run, given its learning rate
MakeOptimizer = Callable[[Run, optax.Schedule], optax.GradientTransformation]


def train(run: Run, make_optimizer: MakeOptimizer) -> Outcome:
    """Train without checkpoints, and evaluate at the end."""
    began = time.perf_counter()
    config = settings(run)
    task, data = pretraining(config.model, config.data, make_mesh("", config.data.batch_size)), config.data
    schedule = make_schedule(run.learning_rate, config.schedule)
    tx = optax.chain(optax.clip_by_global_norm(config.optimizer.clip), make_optimizer(run, schedule))
    tokens = load_tokens(data, config.model.vocab_size)
    windows = training_windows(tokens.train, data)
    step = jax.jit(make_train_step(task.loss, tx, schedule), donate_argnums=0)
    probe, energies = jax.jit(functools.partial(mean_energy, task)), []
    state = jax.jit(lambda: first_state(task.draw(data.seed), tx))()
    for i in range(run.steps):
        rows = Rows(training_rows(windows, i, data.batch_size)(0, data.batch_size))
        # Between two refreshes, and of a gradient that chose no basis
        if i % PROBE_EVERY == PROBE_EVERY // 2:
            energies.append(probe(state, rows))
        state, _ = step(state, rows)
    return Outcome(
        eval_loss=held_out_loss(task, state.params, tokens, config),
        energy=float(np.mean(jax.device_get(energies))),
        seconds=time.perf_counter() - began,
        corpus=tokens.fingerprint,
        device=jax.devices()[0].device_kind,
    )


def mean_energy(task: LanguageModel, state: TrainState, rows: Rows) -> jax.Array:
    """The captured energy of the gradient of a batch, averaged over all matrices."""
    grads = jax.grad(task.loss)(state.params, rows)
    return jnp.stack([leaf.captured.mean() for leaf in captured_energy(state.opt_state, grads).values()]).mean()


def held_out_loss(task: LanguageModel, params: Params, tokens: Tokens, config: Pretrain) -> float:
    """The loss that `pretrain` reports at the end."""
    losses = jax.jit(task.predict)

    def of_batch(batch: np.ndarray) -> np.ndarray:
        whole = np.resize(batch, (config.data.batch_size, batch.shape[1]))
        return np.asarray(losses(params, Rows(whole)))[: len(batch)]

    batches = held_out_batches(tokens.held_out, config.data, config.report.eval_batches)
    return evaluate(of_batch, batches, token_bytes(tokens.tokenizer)).eval_loss


def settings(run: Run) -> Pretrain:
    """The configuration that `pretrain` would have."""
    parsed = Pretrain(
        run_dir=Path(),
        model=ModelFlags(model=run.model),
        data=DataFlags(seed=run.seed),
        optimizer=OptimizerFlags(),
        schedule=ScheduleFlags(steps=run.steps),
    )
    config = defaults(parsed)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, seed=run.seed))


def make(runs: Iterable[Run], path: Path, make_optimizer: MakeOptimizer, workers: int) -> None:
    """Make the runs that the file does not have, in this order, `workers` at a time.

    Raises:
      UserError: If the runs that it has were trained on another text.
    """
    done = read(path)
    missing = [run for run in dict.fromkeys(runs) if run not in done]
    for model in {run.model for run in missing}:
        _refuse_other_text(model, done, path)
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(workers):
        numbers.put(number)
    with (
        open(path, "a") as file,
        ProcessPoolExecutor(workers, context, initializer=_keep_to_own_cores, initargs=(numbers, workers)) as pool,
    ):
        started = {pool.submit(train, run, make_optimizer): run for run in missing}
        try:
            for count, future in enumerate(as_completed(started), 1):
                run, outcome = started[future], future.result()
                file.write(json.dumps(dataclasses.asdict(run) | outcome._asdict()) + "\n")
                file.flush()
                print(f"[{count}/{len(missing)}] {run} {outcome}", flush=True)
        finally:  # after an error, do not make hundreds of runs that nobody would write
            pool.shutdown(cancel_futures=True)


def _refuse_other_text(model: str, done: Mapping[Run, Outcome], path: Path) -> None:
    """Prepare the tokens, once for all workers, and compare them with those of finished runs."""
    config = settings(Run(contestant="", rank=1, update_proj_gap=1, learning_rate=1.0, seed=0, model=model))
    corpus = load_tokens(config.data, config.model.vocab_size).fingerprint
    if any(run.model == model and outcome.corpus != corpus for run, outcome in done.items()):
        raise UserError(
            f"the runs of {model} in {path} were trained on another text than the standard library of this Python: use "
            "the Python that they were made with, or pass another --results file."
        )


def _keep_to_own_cores(numbers: Any, workers: int) -> None:
    """Give this process its share of the cores: a program this small does not keep two busy.

    An accelerator is shared by all.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if hasattr(os, "sched_setaffinity"):
        cores, number = sorted(os.sched_getaffinity(0)), numbers.get()
        os.sched_setaffinity(0, cores[number::workers] or cores)


def read(path: Path) -> dict[Run, Outcome]:
    """The finished runs of a file."""
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    names = [field.name for field in dataclasses.fields(Run)]
    return {
        Run(**{name: row.pop(name) for name in names}): Outcome(**row)
        for row in rows
    }  # fmt: skip
