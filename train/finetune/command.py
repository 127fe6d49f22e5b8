"""`finetune`: a run from the weights of a model to its end; the rest is as in `pretrain`."""

import dataclasses

from train.config.finetune import LANGUAGE, Finetune
from train.config.run import UserError, default_cache_dir
from train.config.validate import check_finetuning, check_profile, check_schedule
from train.finetune.labelling import labelling_work
from train.finetune.language import language_work
from train.loop.run import is_finished, refuse_different_processes, train
from train.loop.start import state_of_model, step_of_model
from train.loop.stopping import EarlyStop
from train.program.program import make_program, refuse_untraceable
from train.program.sharding import make_mesh
from train.storage.folder import RunFolder
from train.storage.model import read_model
from train.system.compilation import keep_programs
from train.system.devices import require_devices


def run_finetune(config: Finetune) -> None:
    """Fine-tune as configured; return when finished, or after a signal, when the state is saved."""
    require_devices()
    keep_programs(default_cache_dir())
    refuse_different_processes(config)
    folder = RunFolder(config.run_dir)
    if is_finished(config, folder):
        return
    model = read_model(config.run_dir if config.resume else config.start.init_from)
    check_finetuning(config, model.architecture)
    mesh = make_mesh(config.devices.mesh, config.data.batch_size)
    if not config.resume:
        step = step_of_model(config.start.init_from, config.start.init_step)
        config = dataclasses.replace(config, start=dataclasses.replace(config.start, init_step=step))
    work = (language_work if config.data.task == LANGUAGE else labelling_work)(config, model, mesh)
    if config.resume and folder.fingerprint() != work.data.fingerprint:
        raise UserError(
            f"--data {config.data.data} no longer holds the examples of this run: restore them, or start a new run in "
            "another --run-dir."
        )
    schedule = config.schedule.in_updates(work.rows, config.data.batch_size)
    check_schedule(schedule)
    if not config.resume:
        check_profile(config.report.profile, schedule.steps)
    program = make_program(
        mesh,
        work.task,
        config.optimizer,
        schedule,
        config.data.seed,
        frozen=config.start.freeze,
        accumulate=config.data.accumulate,
        weights=config.start.weights,
    )
    if mesh.size > 1:
        refuse_untraceable(program, config.optimizer.optimizer, config.devices.mesh)
    with folder.opened(config, work.data.fingerprint, work.model):
        train(
            config,
            program,
            work.data,
            folder,
            title=f"{config.start.init_from} with {config.optimizer.optimizer}",
            command="finetune",
            steps=schedule.steps,
            start=lambda: state_of_model(config.start.init_from, config.start.init_step, program, config.data.seed),
            early_stop=_early_stop(config),
        )


def _early_stop(config: Finetune) -> EarlyStop | None:
    flags = config.report
    return EarlyStop(metric=flags.metric, patience=flags.patience) if flags.patience or flags.keep_best else None
