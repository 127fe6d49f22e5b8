"""`pretrain`: a run from its configuration to its end, across interruptions, in one or more
processes.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import nnx

from train.config.beginning import check_start, with_tokenizer_of
from train.config.run import Pretrain
from train.config.validate import check
from train.data.cache import Tokens
from train.data.tokenizer import token_bytes
from train.data.tokens import load_tokens
from train.data.windows import held_out_batches, training_rows, training_windows
from train.loop.given import Data
from train.loop.run import is_finished, refuse_different_processes, train
from train.loop.start import state_of_model, step_of_model
from train.loop.stopping import EarlyStop
from train.pretrain.evaluation import evaluate
from train.pretrain.sample import write_sample
from train.program.program import Program, make_program, pretraining, refuse_untraceable
from train.program.sharding import make_mesh
from train.program.step import TrainState
from train.program.task import LanguageModel, Params, Rows
from train.storage.folder import RunFolder
from train.storage.model import StoredModel, of_a_run
from train.system.compilation import keep_programs
from train.system.devices import require_devices
from train.system.processes import everywhere, is_first, on_first


def run_pretrain(config: Pretrain) -> None:
    """Train as configured; return when finished, or after a signal, when the state is saved."""
    require_devices()
    keep_programs(config.data.cache_dir)
    refuse_different_processes(config)
    check(config)
    if not config.resume and config.start.init_from is not None:
        check_start(config.model, config.data, config.start.init_from)
        step = step_of_model(config.start.init_from, config.start.init_step)
        config = dataclasses.replace(config, start=dataclasses.replace(config.start, init_step=step))
    mesh = make_mesh(config.devices.mesh, config.data.batch_size)
    task = pretraining(config.model, config.data, mesh)
    program = make_program(
        mesh,
        task,
        config.optimizer,
        config.schedule,
        config.data.seed,
        accumulate=config.data.accumulate,
        weights=config.model.weights,
    )
    if mesh.size > 1:
        refuse_untraceable(program, config.optimizer.optimizer, config.devices.mesh)
    folder = RunFolder(config.run_dir)
    if is_finished(config, folder):
        return
    tokens = _load(config, folder)
    model = of_a_run(task.network, task.seq_len, tokens.tokenizer, tokens.end_of_text)
    with folder.opened(config, tokens.fingerprint, model):
        title = f"{config.model.model} with {config.optimizer.optimizer}"
        data = _data(config, task, tokens, model)
        best = EarlyStop(metric="eval_loss", patience=0) if config.report.keep_best else None
        train(
            config,
            program,
            data,
            folder,
            title=title,
            command="pretrain",
            steps=config.schedule.steps,
            start=_start(config, program),
            early_stop=best,
        )


def _start(config: Pretrain, program: Program) -> Callable[[], TrainState] | None:
    """Return what reads the first state, if it is not drawn."""
    init_from, step = config.start.init_from, config.start.init_step
    return None if init_from is None else functools.partial(state_of_model, init_from, step, program, config.data.seed)


def _load(config: Pretrain, folder: RunFolder) -> Tokens:
    """Return the tokens; a run that resumes has its own tokenizer, and needs the same text."""
    fingerprint, flags, is_moved = None, config.data, False
    if config.resume:
        fingerprint = folder.fingerprint()
        flags = with_tokenizer_of(flags, folder.path)
        is_moved = on_first(lambda: folder.stored().config.data.data != flags.data)

    def load(expected: str | None) -> Tokens:
        say = print if is_first() else lambda _: None
        tokens = load_tokens(flags, config.model.vocab_size, expected, say, must_look=is_moved)
        training_windows(tokens.train, config.data)  # raises if there is too little text
        held_out_batches(tokens.held_out, config.data, 1)
        return tokens

    if jax.process_count() == 1:
        return load(fingerprint)
    # Process 0 prepares the text. On machines that share no cache the others prepare it too, and
    # must arrive at the same tokens.
    first = on_first(lambda: load(fingerprint).fingerprint)
    return everywhere(lambda: load(first))


def _data(config: Pretrain, task: LanguageModel, tokens: Tokens, stored: StoredModel) -> Data:
    training = training_windows(tokens.train, config.data)
    held_out = held_out_batches(tokens.held_out, config.data, config.report.eval_batches)
    size = token_bytes(tokens.tokenizer, tokens.end_of_text)

    def rows(step: int) -> Callable[[int, int], Rows]:
        read = training_rows(training, step, config.data.batch_size)
        return lambda start, stop: Rows(read(start, stop))

    def sample(params: Params) -> str:
        return write_sample(nnx.merge(task.graphdef, params), stored, config.report, config.data.seed)

    return Data(
        fingerprint=tokens.fingerprint,
        rows=rows,
        evaluate=lambda predict: evaluate(lambda windows: predict(Rows(windows)), held_out, size)._asdict(),
        sample=sample,
    )
