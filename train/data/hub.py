"""Data sets of Hugging Face as streams: `hf:NAME[,CONFIG][,SPLIT]`."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple, Self

from train.config.run import HUB, UserError
from train.data.paths import state_of
from train.data.records import text_of

TRAINING = "train"
VALIDATION = ("validation", "valid", "val", "dev")


class Splits(NamedTuple):
    """The splits of one revision of a data set.

    Attributes:
      data: The --data that names it.
      identity: What a position in a stream depends on: revision, and version of the package.
      streams: The splits by name.
    """

    data: str
    identity: str
    streams: dict[str, Any]

    @classmethod
    def open(cls, data: str, identity: str | None = None) -> Self:
        """Open a data set, at the revision of an earlier `identity` if it is given.

        Raises:
          UserError: If the package or the data set is missing.
        """
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise UserError(f"--data {data} requires the package datasets: pip install datasets.") from error
        name, config, _ = _parts_of(data)
        try:
            is_here = Path(name).is_dir()
            revision = _state_of_folder(Path(name)) if is_here else _revision_on_hub(name, identity)
            pinned = None if is_here else revision
            found = datasets.load_dataset(name, config or None, streaming=True, revision=pinned)
        except Exception as error:  # of several packages, from missing files to a missing network
            raise UserError(f"--data {data} cannot be opened: {_reason(error)}") from error
        identity = json.dumps({"revision": revision, "datasets": datasets.__version__})
        return cls(data, identity, {str(split): stream for split, stream in found.items()})

    def chosen(self) -> dict[str, bool | None]:
        """Return the splits to read, each with the side that it is on, or None.

        The validation split comes first, so that a text in both is held out only.

        Raises:
          UserError: If the split to train on is missing.
        """
        split = _parts_of(self.data)[2]
        only = next(iter(self.streams)) if len(self.streams) == 1 else ""
        training = split or (TRAINING if TRAINING in self.streams else only)
        if training not in self.streams:
            raise UserError(
                f"--data {self.data} has the splits {', '.join(self.streams)}: name that to train on, as "
                f"{HUB}NAME,CONFIG,SPLIT."
            )
        validation = next((name for name in VALIDATION if name in self.streams and name != training), None)
        return {validation: True, training: False} if validation else {training: None}


class Stream:
    """The texts of a split, from any position on."""

    def __init__(self, splits: Splits, split: str, done: int, position: Any) -> None:
        """`position` is that after `done` texts; None at the beginning."""
        self._place, self._rows, self._done = f"{_parts_of(splits.data)[0]}:{split}", splits.streams[split], done
        if position is not None:
            self._rows.load_state_dict(position)

    def position(self) -> Any:
        """Return the position after the last text, as JSON can hold it."""
        return self._rows.state_dict()

    def texts(self) -> Generator[str, None, None]:
        """Yield the texts that are left.

        Raises:
          UserError: If the stream breaks off, or a row has no text.
        """
        rows = iter(self._rows)
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # of several packages, mostly of the network
                raise UserError(
                    f"{HUB}{self._place} broke off after {self._done} texts: {_reason(error)}: run the command "
                    "again, which continues there."
                ) from error
            if row is None:
                return
            self._done += 1
            yield text_of(f"{self._place}:{self._done}", row)


def _parts_of(data: str) -> tuple[str, str, str]:
    """The name, configuration and split of a --data; the last two may be empty."""
    name, config, split = [*data.removeprefix(HUB).split(","), "", ""][:3]
    return name, config, split


def _revision_on_hub(name: str, identity: str | None) -> str:
    if identity is not None:
        return str(json.loads(identity)["revision"])
    import huggingface_hub

    return str(huggingface_hub.HfApi().dataset_info(name).sha)


def _state_of_folder(folder: Path) -> str:
    return json.dumps(state_of(sorted(path for path in folder.rglob("*") if path.is_file())))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
