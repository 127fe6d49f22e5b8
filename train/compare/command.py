"""The comparison of optimizers: one ordinary run after another, each in a process and a folder of
its own.

A process of its own, because the peak of memory is a number of a process, and because what one run
leaves behind must not slow down the next. This process starts no backend of JAX: the accelerator is
all the run's.

What there is to do follows from the folders alone: a run with results is done, one that diverged is
done too, one that was cut off goes on from its last checkpoint. So nothing is lost by a kill, and
the same command goes on.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from train.compare.config import Cell, Compare, arguments, cells, common_flags, run_of
from train.compare.record import (
    COMPARISON,
    CURVES,
    LOG,
    TABLE,
    Record,
    kept_record,
    last_line,
    mark_diverged,
    result_of,
    results,
)
from train.compare.report import best_of_each, write_report
from train.config.run import DIVERGED, UserError
from train.config.validate import check_comparison, refuse_conflicts, refuse_other_flags
from train.data.windows import held_out_batches, load_tokens, training_windows
from train.pretrain.folder import CHECKPOINTS, CONFIG, is_finished, stored
from train.system.files import locked
from train.system.signals import Stopped, StopSignals

PAUSE = 0.05  # seconds between two looks at a run


def compare(config: Compare) -> None:
    """Make the runs that are still to be made and print the table; after a signal, leave what can
    go on.
    """
    check_comparison(config)
    _refuse_conflicts(config, None)
    record = Record(common_flags(config), _prepare(config))
    with locked(config.run_dir, f"another process is comparing in --run-dir {config.run_dir}: wait for its end."):
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
            _say(f"{signal}: stopped, and nothing is lost; to go on, give the same command again")
        else:
            _say(f"\n{table}\nwritten to {config.run_dir}: {TABLE}, {COMPARISON}, {CURVES}")


def _refuse_conflicts(config: Compare, record: Record | None) -> None:
    """Refuse a folder that holds something else, or a comparison of other flags or of another
    text.
    """
    kept = kept_record(config.run_dir)
    if kept is None:
        return
    refuse_other_flags(config.run_dir, common_flags(config), kept.flags)
    if record and record.data_fingerprint != kept.data_fingerprint:
        raise UserError(
            f"--data {config.data.data} is no longer the text of the comparison in {config.run_dir}: "
            "bring that text back, or choose another --run-dir."
        )


def _prepare(config: Compare) -> str:
    """Turn the text into tokens, once for all runs, and return their fingerprint."""
    tokens = load_tokens(config.data, config.model.vocab_size)
    training_windows(tokens.train, config.data)  # an error if there is too little text
    held_out_batches(tokens.held_out, config.data, 1)
    return tokens.fingerprint


def _make(config: Compare, cell: Cell, title: str, fingerprint: str, poll: Callable[[], None]) -> None:
    """Make a run, or what is left of it."""
    folder = config.run_dir / cell.folder
    if not result_of(cell, folder):
        poll()
        is_begun = (folder / CONFIG).exists()
        _say(f"{title}: {'goes on' if is_begun else 'starts'}")
        began = time.monotonic()
        _train(config, cell, is_begun, poll)
        title = f"{title} ({time.monotonic() - began:.0f} s)"
    made = stored(folder)
    refuse_conflicts(run_of(config, cell), made.config)  # of a run by another version, with other defaults
    if made.fingerprint != fingerprint:
        raise UserError(f"the text changed during the comparison, and {folder} saw another: remove it and go on.")
    _say(f"{title}: {result_of(cell, folder)}")


def _train(config: Compare, cell: Cell, is_begun: bool, poll: Callable[[], None]) -> None:
    """Run `pretrain` to its end, whatever that is."""
    run = run_of(config, cell)
    run.run_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "train", *arguments(run), *(["--resume"] if is_begun else [])]
    with open(run.run_dir / LOG, "ab") as log:
        # A process group of its own: of Ctrl-C on a terminal it gets to know through this process,
        # once.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
        status = _end_of(process, poll)
    if status == DIVERGED:
        mark_diverged(run.run_dir)
    elif not is_finished(run.run_dir):
        raise UserError(_failure(cell, run.run_dir / LOG, status))


def remove_checkpoints(config: Compare) -> None:
    """Keep the weights of the best run of each optimizer only: a sweep of the rest would fill the
    disk.
    """
    found = results(config)
    for result in set(found) - set(best_of_each(found)):
        shutil.rmtree(config.run_dir / result.folder / CHECKPOINTS, ignore_errors=True)


def _end_of(process: subprocess.Popen[bytes], poll: Callable[[], None]) -> int:
    """Wait for a run and return its status; if `poll` raises, have the run save itself first."""
    try:
        while process.poll() is None:
            poll()
            time.sleep(PAUSE)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.returncode


def _failure(cell: Cell, log: Path, status: int) -> str:
    return (
        f"the run {cell.folder} ended with status {status} and said last: {last_line(log)} (all of it is in {log}). "
        f"Mend that, or leave {cell.optimizer} out of --optimizers, then give the command again: it goes on."
    )


def _say(line: str) -> None:
    print(line, flush=True)
