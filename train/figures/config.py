"""The configuration of the figures."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """Draw the papers' figures of one run or of several: losses, and what --diagnostics measured.

    A run may continue meanwhile.
    """

    run_dir: tuple[Path, ...]
    """Folders of runs."""
    out: Path | None = None
    """Folder of the figures; by default figures/ in the folder of the first run."""
