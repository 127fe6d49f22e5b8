"""`report`: the page about a run, from its files."""

import json
from collections.abc import Sequence

from train.config.finetune import LANGUAGE, Finetune
from train.config.run import UserError
from train.config.stored import Run
from train.report.config import Report
from train.storage.folder import RunFolder
from train.storage.metrics import Row, completed, read_rows
from train.watch.page import Results, write_report


def run_report(config: Report) -> None:
    """Write the report, and print where it is."""
    folder = RunFolder(config.run_dir)
    if not folder.config.exists():
        raise UserError(f"--run-dir {config.run_dir} contains no run: give a folder with a config.json.")
    stored = folder.stored()
    sample = folder.sample.read_text().removesuffix("\n") if folder.sample.exists() else None
    summary = json.loads(folder.summary.read_text()) if folder.summary.exists() else None
    write_report(folder, Results(_rows(folder, stored.config), sample, summary))
    print(f"written: {folder.report}")


def _rows(folder: RunFolder, run: Run) -> Sequence[Row]:
    """Return the rows; those of older versions get what they lack, unless only the data know it."""
    rows = read_rows(folder.metrics)
    if isinstance(run, Finetune) and run.data.task != LANGUAGE:
        return rows
    is_old = any("tokens" not in row for row in rows)
    return list(completed(rows, run.data.batch_size * run.data.seq_len)) if is_old else rows
