"""`report`: the page about a run, from its files."""

from train.config.run import UserError
from train.report.config import Report
from train.storage.folder import RunFolder, rows_of_any_version
from train.watch.page import Results, write_report


def run_report(config: Report) -> None:
    """Write the report, and print where it is."""
    folder = RunFolder(config.run_dir)
    if not folder.config.exists():
        raise UserError(f"--run-dir {config.run_dir} contains no run: give a folder with a config.json.")
    stored = folder.stored()
    sample = folder.sample.read_text().removesuffix("\n") if folder.sample.exists() else None
    write_report(folder, Results(rows_of_any_version(folder, stored.config), sample, folder.results()))
    print(f"written: {folder.report}")
