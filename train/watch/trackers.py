"""The trackers of a run: each gets every step once, however often the run is killed.

A tracker gets the rows of metrics.jsonl, those of one step at once. A number on disk says which
step it got last. It is written before the step is sent: a kill in between may lose that step, and
none is ever sent twice. When a run resumes, a tracker gets the rows that it lacks, all of them if
it is new.
"""

import contextlib
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from train.config.run import TrackerName
from train.config.stored import Settings
from train.storage.folder import TRACKERS
from train.storage.metrics import Row, is_update
from train.system.files import write_whole
from train.watch.services import SERVICES, Service, Session


class LastStep:
    """The last step that a tracker got, on disk."""

    def __init__(self, path: Path) -> None:
        self.value = int(path.read_text()) if path.exists() else -1
        self._path = path

    def advance(self, step: int) -> None:
        """Store a step."""
        self.value = step
        # In place and of fixed width: one small write, which a kill does not split.
        with self._path.open("r+" if self._path.exists() else "w") as file:
            file.write(f"{step:<16}\n")


class Trackers:
    """Passes rows on to services; one that fails is dropped, with a warning."""

    def __init__(
        self, names: Sequence[TrackerName], folder: Path, settings: Settings, say: Callable[[str], None]
    ) -> None:
        """Start the services; `say` prints warnings."""
        self._say = say
        self._services: dict[TrackerName, tuple[Service, LastStep]] = {}
        self._step, self._numbers = -1, dict[str, float]()  # of the step whose rows are not complete
        for name in names:
            with self._surviving(name):
                session = Session(folder, _identity(folder / TRACKERS / "identity"), settings)
                self._services[name] = SERVICES[name](session), LastStep(folder / TRACKERS / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, (service, _last) in list(self._services.items()):
            with self._surviving(name):
                service.close()

    def add(self, row: Row) -> None:
        """Take a row; the step before it is then complete and sent."""
        if row["step"] != self._step:
            self.flush()
            self._step = row["step"]
        self._numbers |= named(row)

    def flush(self) -> None:
        """Send the step in hand, because the run has no more rows of it."""
        for name, (service, last) in list(self._services.items()):
            if self._numbers and self._step > last.value:
                with self._surviving(name):
                    last.advance(self._step)
                    service.log(self._step, self._numbers)
        self._numbers = {}

    @contextlib.contextmanager
    def _surviving(self, name: TrackerName) -> Iterator[None]:
        """Drop the service after an exception: no service is worth a run."""
        try:
            yield
        except Exception as error:  # packages of others raise what they like
            self._services.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._say(f"warning: --log {name} failed and is switched off, but the run continues: {reason}")


def named(row: Row) -> dict[str, float]:
    """Return the numbers of a row by the names that trackers show, such as train/loss; without nan
    and infinity, which are null in the file that a resumed run reads.
    """
    finite = {name: value for name, value in row.items() if value is not None and math.isfinite(value)}
    if is_update(row):
        return {f"train/{name}": value for name, value in finite.items() if name != "step"}
    evaluation = {name: value for name, value in finite.items() if name not in ("step", "seconds", "tokens")}
    return {f"eval/{name.removeprefix('eval_')}": value for name, value in evaluation.items()}


def _identity(path: Path) -> str:
    """Return a random word, the same each time."""
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_whole(path, secrets.token_hex(8))
    return path.read_text()
