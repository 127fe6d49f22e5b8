"""`compare`: one ordinary run after another, each in a separate process and folder.

Separate processes, because peak memory is measured per process, and so that no run slows down the
next. This process initialises no JAX backend: the accelerator belongs to the runs.

What is left to do follows from the folders alone: a run with results is done, and so is one that
diverged; an interrupted run resumes from its last checkpoint. So a kill loses nothing, and running
the command again resumes.
"""

import shutil
import time
from collections.abc import Callable

from train.compare.config import Cell, Compare, cells, common_settings, run_of
from train.compare.record import (
    COMPARISON,
    CURVES,
    TABLE,
    Record,
    mark_diverged,
    result_of,
    results,
    stored_record,
)
from train.compare.report import best_of_each, write_report
from train.compare.validate import check_comparison, refuse_other_settings
from train.config.run import DIVERGED, Pretrain, UserError
from train.config.validate import refuse_conflicts
from train.data.windows import held_out_batches, load_tokens, training_windows
from train.loop.child import LOG, last_line, run_child
from train.storage.folder import RunFolder
from train.system.files import locked
from train.system.signals import Stopped, StopSignals


def run_compare(config: Compare) -> None:
    """Make the missing runs and print the table; stop at a signal, ready to resume."""
    check_comparison(config)
    _refuse_conflicts(config, None)
    record = Record(common_settings(config), _prepare(config))
    refusal = f"another process is comparing in --run-dir {config.run_dir}: wait until it has finished."
    with locked(config.run_dir, refusal):
        _refuse_conflicts(config, record)
        table = write_report(config, record)
        try:
            with StopSignals() as signals:
                for number, cell in enumerate(cells(config), 1):
                    title = f"[{number}/{len(cells(config))}] {cell.folder}"
                    _make(config, cell, title, record.data_fingerprint, signals.poll)
                    table = write_report(config, record)
                    remove_checkpoints(config)
        except Stopped as signal:
            _say(f"{signal}: stopped, and nothing is lost; run the same command again to resume")
        else:
            written = [name for name in (TABLE, COMPARISON, CURVES) if (config.run_dir / name).exists()]
            _say(f"\n{table}\nwritten to {config.run_dir}: {', '.join(written)}")


def _refuse_conflicts(config: Compare, record: Record | None) -> None:
    """Refuse a folder that contains something else, or a comparison with other settings or text."""
    stored = stored_record(config.run_dir)
    if stored is None:
        return
    refuse_other_settings(config.run_dir, common_settings(config), stored.settings)
    if record and record.data_fingerprint != stored.data_fingerprint:
        raise UserError(
            f"--data {config.data.data} is no longer the text of the comparison in {config.run_dir}: "
            "restore that text, or choose another --run-dir."
        )


def _prepare(config: Compare) -> str:
    """Tokenize the text, once for all runs, and return its fingerprint."""
    tokens = load_tokens(config.data, config.model.vocab_size)
    training_windows(tokens.train, config.data)  # raises if there is too little text
    held_out_batches(tokens.held_out, config.data, 1)
    return tokens.fingerprint


def _make(config: Compare, cell: Cell, title: str, fingerprint: str, poll: Callable[[], None]) -> None:
    """Start a run, or resume it."""
    folder, run = RunFolder(config.run_dir / cell.folder), run_of(config, cell)
    if not result_of(cell, folder.path):
        poll()
        is_begun = folder.config.exists()
        _say(f"{title}: {'resumes' if is_begun else 'starts'}")
        began = time.monotonic()
        _train(cell, run, folder, poll)
        title = f"{title} ({time.monotonic() - began:.0f} s)"
    stored = folder.stored()
    refuse_conflicts(run, stored.config)  # if another version made it, with other defaults
    if stored.fingerprint != fingerprint:
        raise UserError(
            f"the text changed during the comparison, and {folder.path} was trained on another text: remove this "
            "folder, then run the command again."
        )
    _say(f"{title}: {result_of(cell, folder.path)}")


def _train(cell: Cell, run: Pretrain, folder: RunFolder, poll: Callable[[], None]) -> None:
    """Run `pretrain` until it ends, and check how it ended."""
    status = run_child(run, folder, poll)
    if status == DIVERGED:
        mark_diverged(folder.path)
    elif not folder.summary.exists():
        log = folder.path / LOG
        raise UserError(
            f"the run {cell.folder} exited with status {status}; the last line of its log {log} is: {last_line(log)}. "
            f"Fix this, or remove {cell.optimizer} from --optimizers, then run the command again to resume."
        )


def remove_checkpoints(config: Compare) -> None:
    """Remove all checkpoints except those of the best run of each optimizer: a sweep would fill the
    disk.
    """
    finished = results(config)
    for result in set(finished) - set(best_of_each(finished)):
        shutil.rmtree(RunFolder(config.run_dir / result.folder).checkpoints, ignore_errors=True)


def _say(line: str) -> None:
    print(line, flush=True)
