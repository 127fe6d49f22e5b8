"""`finetune` for language models: the data and the first weights; the rest is as in `pretrain`."""

import dataclasses
from collections.abc import Callable
from typing import cast

import grain
import jax
import numpy as np
from flax import nnx

from models.config import LlamaConfig
from train.config.finetune import Finetune
from train.config.run import UserError
from train.config.validate import check_finetuning
from train.data.examples import ExampleData, load_examples, shuffled
from train.data.windows import training_rows
from train.loop.run import is_finished, refuse_different_processes, train
from train.loop.trainer import Data, Predict
from train.pretrain.sample import write_sample
from train.program.program import Program, make_program, refuse_untraceable
from train.program.sharding import make_mesh
from train.program.step import TrainState
from train.program.task import LanguageModel, Params, Rows
from train.storage.checkpoint import checkpoint_step, restore_params
from train.storage.folder import RunFolder
from train.storage.model import StoredModel, read_model
from train.system.processes import is_first, on_first


def run_finetune(config: Finetune) -> None:
    """Fine-tune as configured; return when finished, or after a signal, when the state is saved."""
    refuse_different_processes(config)
    folder = RunFolder(config.run_dir)
    model = read_model(config.run_dir if config.resume else config.start.init_from)
    check_finetuning(config, model.network.hidden_size)
    mesh = make_mesh(config.devices.mesh, config.data.batch_size)
    if is_finished(config, folder):
        return
    if not config.resume:
        config = _with_step(config)
    examples = _load(config, model)
    task = LanguageModel(
        network=_network(config, model), batch_size=config.data.batch_size, seq_len=config.data.seq_len, is_packed=True
    )
    schedule = config.schedule.schedule(len(examples.training), config.data.batch_size)
    program = make_program(mesh, task, config.optimizer, schedule, config.data.seed, frozen=config.start.freeze)
    if mesh.size > 1:
        refuse_untraceable(program, config.optimizer.optimizer, config.devices.mesh)
    if config.resume and folder.fingerprint() != examples.fingerprint:
        raise UserError(
            f"--data {config.data.data} no longer holds the examples of this run: restore them, or start a new run in "
            "another --run-dir."
        )
    stored = dataclasses.replace(model, settings={**model.settings, "torch_dtype": task.network.param_dtype})
    with folder.opened(config, examples.fingerprint, stored):
        title = f"{config.start.init_from} with {config.optimizer.optimizer}"
        data = _data(config, task, model, examples)
        start = _first_state(config, program, model)
        train(config, program, data, folder, title=title, command="finetune", steps=schedule.steps, start=start)


def _with_step(config: Finetune) -> Finetune:
    """Name the checkpoint to start from: the newest of now, should there be newer ones later."""
    step = on_first(lambda: checkpoint_step(RunFolder(config.start.init_from).checkpoints, config.start.init_step))
    return dataclasses.replace(config, start=dataclasses.replace(config.start, init_step=step))


def _load(config: Finetune, model: StoredModel) -> ExampleData:
    """Read the examples; each process reads them all."""
    say = print if is_first() else lambda _: None
    flags = config.data
    if flags.seq_len > model.window:
        say(f"note: --seq-len {flags.seq_len} is more than the {model.window} tokens that the model was trained for")
    return load_examples(flags.data, flags.held_out, model.tokenizer, model.end_of_text, flags.seq_len, say)


def _network(config: Finetune, model: StoredModel) -> LlamaConfig:
    start = config.start
    param_dtype = start.param_dtype or model.network.param_dtype
    if param_dtype == "float16":
        raise UserError(
            f"the weights of {start.init_from} are float16, whose small updates are lost: add --param-dtype float32 or "
            "--param-dtype bfloat16."
        )
    return dataclasses.replace(model.network, dtype=start.dtype, param_dtype=param_dtype, remat=start.remat)


def _first_state(config: Finetune, program: Program, model: StoredModel) -> Callable[[], TrainState]:
    """Return the function that reads the weights, where each device reads its own shards."""
    stored = jax.numpy.dtype(model.network.param_dtype)

    def start() -> TrainState:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, stored, sharding=x.sharding), program.state.params
        )
        checkpoints = RunFolder(config.start.init_from).checkpoints
        params = restore_params(checkpoints, checkpoint_step(checkpoints, config.start.init_step), abstract)
        params = jax.tree.map(lambda x, like: x.astype(like.dtype), params, program.state.params)
        return program.first_state(params)

    return start


def _data(config: Finetune, task: LanguageModel, model: StoredModel, examples: ExampleData) -> Data:
    training = shuffled(examples.training, config.data.seed)
    held_out = grain.MapDataset.source(examples.held_out).seed(0).shuffle()
    batches: grain.MapDataset = held_out.batch(config.data.batch_size, drop_remainder=False)
    batches = batches[: config.report.eval_batches or None]

    def rows(step: int) -> Callable[[int, int], Rows]:
        return training_rows(training, step, config.data.batch_size)

    def sample(params: Params) -> str:
        report = config.report
        flags = dataclasses.replace(report, sample_prompt=report.sample_prompt or examples.prompt)
        llama = nnx.merge(task.graphdef, params)
        return write_sample(llama, model.tokenizer, flags, window=model.window, seed=config.data.seed)

    return Data(
        fingerprint=examples.fingerprint,
        rows=rows,
        evaluate=lambda predict: mean_loss(predict, [cast(Rows, batch) for batch in batches]),
        sample=sample,
    )


def mean_loss(predict: Predict, batches: list[Rows]) -> dict[str, float]:
    """Return the mean loss of the targets of held-out rows, in nats per token."""
    nats, count = 0.0, 0
    for batch in batches:
        is_target = np.asarray(batch.is_target)[:, 1:]
        nats += float(np.asarray(predict(batch), np.float64)[is_target].sum())
        count += int(is_target.sum())
    return {"eval_loss": nats / count}
