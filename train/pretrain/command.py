"""A run from its configuration to its end, through any number of interruptions, in one process or
several.
"""

import contextlib
from collections.abc import Callable, Iterator

import jax
from jax.sharding import Mesh

from train.config.run import Pretrain, flags
from train.config.validate import check
from train.data.windows import Tokens, held_out_batches, load_tokens, training_windows
from train.pretrain import folder as run_dir
from train.pretrain.checkpoint import Checkpoints
from train.pretrain.loop import Data, Tools, Trainer
from train.pretrain.metrics import Metrics
from train.pretrain.progress import Display
from train.program.program import refuse_untraceable
from train.program.sharding import make_mesh, param_shardings
from train.program.step import abstract_params
from train.system.files import locked
from train.system.processes import SharedStopSignals, everywhere, is_first, on_first, refuse_different
from train.system.signals import Stopped, StopSignals


def pretrain(config: Pretrain) -> None:
    """Train as configured; return when finished, or when stopped by a signal and saved."""
    refuse_different(flags(config) | {"resume": config.resume, "cache_dir": None})  # a cache may be a machine's own
    check(config)
    mesh = make_mesh(config.devices.mesh, config.data.batch_size)
    param_shardings(mesh, abstract_params(config.model.build()))  # for its errors, before anything is written
    if mesh.size > 1:
        refuse_untraceable(config, mesh)
    folder = config.run_dir
    if config.resume and on_first(lambda: run_dir.is_finished(folder)):
        if is_first():
            print(f"the run in {folder} is finished: see {folder / run_dir.SUMMARY}")
        return
    if not config.resume:
        on_first(lambda: run_dir.refuse_used(folder))
    data = _load(config, on_first(lambda: run_dir.stored(folder).fingerprint) if config.resume else None)
    with contextlib.ExitStack() as held:
        token = on_first(lambda: _open(config, data.tokens.fingerprint, held))
        everywhere(lambda: run_dir.wait_for_token(folder, token))
        _train(config, mesh, data)


def _open(config: Pretrain, fingerprint: str, held: contextlib.ExitStack) -> str:
    """Hold the folder of the run, write or check what it is, and return the token that others find
    there.
    """
    folder = config.run_dir
    held.enter_context(locked(folder, f"another process is training in --run-dir {folder}: wait for its end."))
    if config.resume:
        run_dir.tell_new_versions(folder)
    else:
        run_dir.refuse_used(folder)
        run_dir.store(config, fingerprint)
    return run_dir.leave_token(folder)


def _load(config: Pretrain, fingerprint: str | None) -> Data:
    def load(wanted: str | None) -> Data:
        say = print if is_first() else lambda _: None
        return _datasets(config, load_tokens(config.data, config.model.vocab_size, wanted, say))

    if jax.process_count() == 1:
        return load(fingerprint)
    # Process 0 prepares the text; on machines that share no cache the others do too, and have to
    # find the same.
    found = on_first(lambda: load(fingerprint).tokens.fingerprint)
    return everywhere(lambda: load(found))


def _datasets(config: Pretrain, tokens: Tokens) -> Data:
    held_out = held_out_batches(tokens.held_out, config.data, config.report.eval_batches)
    return Data(tokens, training_windows(tokens.train, config.data), held_out)


@contextlib.contextmanager
def _polling() -> Iterator[Callable[[int], None]]:
    """While entered, signals are left to the function that this gives."""
    if jax.process_count() > 1:
        with SharedStopSignals() as shared:
            yield shared.poll
    else:
        with StopSignals() as signals:
            yield lambda _: signals.poll()


def _train(config: Pretrain, mesh: Mesh, data: Data) -> None:
    metrics_file = config.run_dir / run_dir.METRICS if is_first() else None
    with (
        _polling() as poll,
        Display(config.schedule.steps, config.report.log_every, quiet=not is_first()) as display,
        Checkpoints(config.run_dir / run_dir.CHECKPOINTS) as checkpoints,
        Metrics(metrics_file, checkpoints.latest or 0) as metrics,
    ):
        trainer = Trainer(config, mesh, data, Tools(display, metrics, checkpoints, poll))
        try:
            trainer.train()
        except Stopped as signal:
            trainer.save()
            display.say(
                f"{signal}: saved after step {trainer.step}; to go on: "
                f"python -m train pretrain --run-dir {config.run_dir} --resume"
            )
