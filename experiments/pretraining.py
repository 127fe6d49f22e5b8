"""Runs of studies that train a model from scratch, as `pretrain` does but without checkpoints."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.provenance import made_by
from experiments.study import Study
from grass_optax import captured_energy
from train.config.optimizer_flags import OptimizerFlags
from train.config.run import DataFlags, ModelFlags, Pretrain, defaults
from train.config.schedule import ScheduleFlags
from train.data.cache import Tokens
from train.data.tokenizer import token_bytes
from train.data.tokens import load_tokens
from train.data.windows import held_out_batches, training_rows, training_windows
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
    scale: float = 0.25  # of the matrices, the default of GrassJump and GrassWalk
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
    commit: str = "unknown"
    date: str = "unknown"
    processor: str = "unknown"


# The optimizer of a run, given its learning rate
MakeOptimizer = Callable[[Run, optax.Schedule], optax.GradientTransformation]


def train(run: Run, make_optimizer: MakeOptimizer) -> Outcome:
    """Train without checkpoints, and evaluate at the end."""
    made, began = made_by(), time.perf_counter()
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
        **made,
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
    return evaluate(of_batch, batches, token_bytes(tokens.tokenizer, tokens.end_of_text)).eval_loss


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


def fingerprint(run: Run) -> str:
    """Prepare the tokens of a run, and identify them."""
    config = settings(run)
    return load_tokens(config.data, config.model.vocab_size).fingerprint


def study_of(make_optimizer: MakeOptimizer) -> Study[Run, Outcome]:
    """The study that trains with these optimizers."""
    return Study(
        run=Run,
        outcome=Outcome,
        train=functools.partial(train, make_optimizer=make_optimizer),
        text=lambda run: run.model,
        fingerprint=fingerprint,
        origin="the standard library of this Python: use the Python that they were made with",
    )
