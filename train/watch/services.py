"""The services that runs can be logged to, each behind the same three functions.

Their packages are imported when a run starts to log, and no sooner.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from train.config.run import TrackerName
from train.config.stored import Settings

PROJECT = "grass_optax"  # WANDB_PROJECT and TRACKIO_PROJECT name another


class Session(NamedTuple):
    """The run that is logged.

    Attributes:
      folder: Its folder.
      identity: A random word that stays the same when the run resumes.
      settings: Its settings.
    """

    folder: Path
    identity: str
    settings: Settings


class Service(Protocol):
    """Where numbers are logged."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step, later than all before."""

    def close(self) -> None:
        """Write what is not written."""


class TensorBoard:
    """Event files in the folder of the run, a new one each time that the run resumes.

    They are written without a thread, so that a full disk is an exception and no endless wait.
    """

    def __init__(self, session: Session) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder = session.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")  # by itself, it names seconds

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write one event that holds all numbers."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._writer.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases. Its environment variables apply, such as WANDB_MODE=offline."""

    def __init__(self, session: Session) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=session.identity,
            name=session.folder.name,
            dir=session.folder,
            config=session.settings,
            resume="allow",
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Queue the numbers."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is queued."""
        self._run.finish()


class Trackio:
    """Trackio: a local database, or a server that its environment variables name."""

    def __init__(self, session: Session) -> None:
        import trackio

        self._run: Any = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{session.folder.name}-{session.identity[:6]}",  # its runs are found by their names
            config=dict(session.settings),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Queue the numbers."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Send what is queued."""
        self._run.finish()


SERVICES: dict[TrackerName, Callable[[Session], Service]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
