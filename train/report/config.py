"""The configuration of a report."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html into the folder of a run: curves, settings, machine, results.

    A finished run has it already. A run that is not finished may continue meanwhile.
    """

    run_dir: Path
    """Folder of a run."""
