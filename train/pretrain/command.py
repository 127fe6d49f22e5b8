"""`pretrain`: a run from its configuration to its end, across interruptions, in one or more
processes.
"""

import contextlib
from collections.abc import Callable, Iterator

import jax
from flax import nnx

from models import count_parameters
from train.config.run import Pretrain
from train.config.stored import settings_of
from train.config.validate import check
from train.data.tokenizer import token_bytes
from train.data.windows import Tokens, held_out_batches, load_tokens, training_rows, training_windows
from train.pretrain.evaluation import evaluate
from train.pretrain.loop import Data, Tools, Trainer
from train.pretrain.progress import Display
from train.pretrain.sample import write_sample
from train.program.program import Program, make_program, pretraining, refuse_untraceable
from train.program.sharding import make_mesh
from train.program.task import LanguageModel, Params, Rows
from train.storage.checkpoint import Checkpoints
from train.storage.folder import RunFolder
from train.storage.metrics import Metrics
from train.storage.model import of_a_run
from train.system.processes import SharedStopSignals, everywhere, is_first, on_first, refuse_different
from train.system.signals import Stopped, StopSignals


def run_pretrain(config: Pretrain) -> None:
    """Train as configured; return when finished, or after a signal, when the state is saved."""
    _refuse_different_processes(config)
    check(config)
    mesh = make_mesh(config.devices.mesh, config.data.batch_size)
    task = pretraining(config.model, config.data)
    program = make_program(mesh, task, config.optimizer, config.schedule, config.data.seed)
    if mesh.size > 1:
        refuse_untraceable(program, config.optimizer.optimizer, config.devices.mesh)
    folder = RunFolder(config.run_dir)
    if config.resume and folder.is_finished():
        if is_first():
            print(f"the run in {folder.path} is finished: see {folder.summary}")
        return
    if not config.resume:
        folder.refuse_used()
    tokens = _load(config, folder.fingerprint() if config.resume else None)
    model = of_a_run(task.network, task.seq_len, tokens.tokenizer)
    with folder.opened(config, tokens.fingerprint, model):
        _train(config, program, _data(config, task, tokens), folder)


def _refuse_different_processes(config: Pretrain) -> None:
    settings = settings_of(config)
    del settings["data"]["cache_dir"]  # each machine may have its own
    refuse_different({"": {"resume": config.resume}, **settings})


def _load(config: Pretrain, fingerprint: str | None) -> Tokens:
    def load(expected: str | None) -> Tokens:
        say = print if is_first() else lambda _: None
        tokens = load_tokens(config.data, config.model.vocab_size, expected, say)
        training_windows(tokens.train, config.data)  # raises if there is too little text
        held_out_batches(tokens.held_out, config.data, 1)
        return tokens

    if jax.process_count() == 1:
        return load(fingerprint)
    # Process 0 prepares the text. On machines that share no cache the others prepare it too, and
    # must arrive at the same tokens.
    first = on_first(lambda: load(fingerprint).fingerprint)
    return everywhere(lambda: load(first))


def _data(config: Pretrain, task: LanguageModel, tokens: Tokens) -> Data:
    training = training_windows(tokens.train, config.data)
    held_out = held_out_batches(tokens.held_out, config.data, config.report.eval_batches)
    size = token_bytes(tokens.tokenizer)

    def rows(step: int) -> Callable[[int, int], Rows]:
        read = training_rows(training, step, config.data.batch_size)
        return lambda start, stop: Rows(read(start, stop))

    def sample(params: Params) -> str:
        model = nnx.merge(task.graphdef, params)
        return write_sample(model, tokens.tokenizer, config.report, window=task.seq_len, seed=config.data.seed)

    return Data(
        fingerprint=tokens.fingerprint,
        rows=rows,
        evaluate=lambda predict: evaluate(lambda windows: predict(Rows(windows)), held_out, size)._asdict(),
        sample=sample,
    )


@contextlib.contextmanager
def _polling() -> Iterator[Callable[[int], None]]:
    """Handle signals while entered: the function yielded raises `Stopped` after one."""
    if jax.process_count() > 1:
        with SharedStopSignals() as shared:
            yield shared.poll
    else:
        with StopSignals() as signals:
            yield lambda _: signals.poll()


def _train(config: Pretrain, program: Program, data: Data, folder: RunFolder) -> None:
    with (
        _polling() as poll,
        Display(config.schedule.steps, config.report.log_every, quiet=not is_first()) as display,
        Checkpoints(folder.checkpoints) as checkpoints,
        Metrics(folder.metrics if is_first() else None, checkpoints.latest or 0) as metrics,
    ):
        display.say(
            f"{config.model.model} with {config.optimizer.optimizer}: {count_parameters(config.model.build()):,} "
            f"parameters, {program.optimizer_bytes:,} bytes of optimizer state"
        )
        tools = Tools(folder=folder, display=display, metrics=metrics, checkpoints=checkpoints, poll=poll)
        trainer = Trainer(program, data, tools, config.report, steps=config.schedule.steps)
        try:
            trainer.train()
        except Stopped as signal:
            trainer.save()
            display.say(
                f"{signal}: saved after step {trainer.step}; to resume: "
                f"python -m train pretrain --run-dir {folder.path} --resume"
            )
