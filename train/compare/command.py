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

from train.compare.choice import all_cells, count_runs, results, shown
from train.compare.config import Comparison
from train.compare.grid import Cell, common_settings, run_of
from train.compare.prepare import fingerprint_of, with_step
from train.compare.record import (
    COMPARISON,
    CURVES,
    TABLE,
    Record,
    mark_diverged,
    result_of,
    stored_record,
)
from train.compare.report import write_report
from train.compare.validate import check_comparison, refuse_other_settings
from train.config.resumed import refuse_conflicts
from train.config.run import DIVERGED, UserError
from train.config.stored import Run
from train.loop.child import LOG, last_line, run_child
from train.storage.folder import RunFolder
from train.system.files import locked
from train.system.signals import Stopped, StopSignals


def run_compare(config: Comparison) -> None:
    """Make the missing runs and print the table; stop at a signal, ready to resume."""
    check_comparison(config)
    config = with_step(config, stored_record(config.run_dir))
    _refuse_conflicts(config, None)
    record = Record(common_settings(config), fingerprint_of(config))
    refusal = f"another process is comparing in --run-dir {config.run_dir}: wait until it has finished."
    with locked(config.run_dir, refusal):
        _refuse_conflicts(config, record)
        table = write_report(config, record)
        try:
            with StopSignals() as signals:
                for number, cell in enumerate(all_cells(config), 1):
                    title = f"[{number}/{count_runs(config, results(config))}] {cell.folder}"
                    _make(config, cell, title, record.data_fingerprint, signals.poll)
                    table = write_report(config, record)
                    remove_checkpoints(config)
        except Stopped as signal:
            _say(f"{signal}: stopped, and nothing is lost; run the same command again to resume")
        else:
            written = [name for name in (TABLE, COMPARISON, CURVES) if (config.run_dir / name).exists()]
            _say(f"\n{table}\nwritten to {config.run_dir}: {', '.join(written)}")


def _refuse_conflicts(config: Comparison, record: Record | None) -> None:
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


def _make(config: Comparison, cell: Cell, title: str, fingerprint: str, poll: Callable[[], None]) -> None:
    """Start a run, or resume it."""
    folder, run = RunFolder(config.run_dir / cell.folder), run_of(config, cell)
    if not result_of(cell, folder.path, config.metrics):
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
    _say(f"{title}: {result_of(cell, folder.path, config.metrics)}")


def _train(cell: Cell, run: Run, folder: RunFolder, poll: Callable[[], None]) -> None:
    """Train until the run ends, and check how it ended."""
    status = run_child(run, folder, poll)
    if status == DIVERGED:
        mark_diverged(folder.path)
    elif not folder.summary.exists():
        log = folder.path / LOG
        last = last_line(log).rstrip(".")
        raise UserError(
            f"the run {cell.folder} exited with status {status}; the last line of its log {log} is: {last}. "
            f"Fix this, or remove {cell.optimizer} from --optimizers, then run the command again to resume."
        )


def remove_checkpoints(config: Comparison) -> None:
    """Remove the checkpoints of all finished runs except those of the table: a sweep would fill the
    disk.
    """
    done = results(config)
    in_table = {run.cell for entry in shown(config, done) for run in entry.runs}
    for cell in done.keys() - in_table:
        shutil.rmtree(RunFolder(config.run_dir / cell.folder).checkpoints, ignore_errors=True)


def _say(line: str) -> None:
    print(line, flush=True)
