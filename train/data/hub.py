"""Data sets of Hugging Face: `hf:NAME[@REVISION][,CONFIG][,SPLIT]`, read as streams.

The package `datasets` opens them. NAME may be a folder of files, too.
"""

import importlib.metadata
import itertools
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from train.config.run import HUB, UserError
from train.data.paths import State, state_of
from train.data.records import text_of

TRAINING = "train"
VALIDATION = ("validation", "valid", "val", "dev")
TEXT, PACKAGE = "text", "datasets"


class DatasetName(NamedTuple):
    """What a --data says.

    Attributes:
      data: All of it.
      repository: Its name on the hub, or a folder here.
      revision, config, split: May be empty.
    """

    data: str
    repository: str
    revision: str
    config: str
    split: str

    @classmethod
    def of(cls, data: str) -> Self:
        """Parse a --data.

        Raises:
          UserError: If it has no name, or more parts.
        """
        place, config, split, *more = [*data.removeprefix(HUB).split(","), "", ""]
        place = os.path.expanduser(place)
        repository, _, revision = (place, "", "") if os.path.isdir(place) else place.partition("@")
        if not repository or any(more):
            raise UserError(
                f"--data {data} is not of the form {HUB}NAME@REVISION,CONFIG,SPLIT; all but NAME may be empty."
            )
        if os.path.isdir(repository) and revision:
            raise UserError(f"--data {data} names a revision, but {repository} is a folder here, which has none.")
        return cls(data, repository, revision, config, split)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder here, and not on the hub."""
        return os.path.isdir(self.repository)

    def state(self) -> State:
        """Return size and time of change of the files of a folder; nothing for the hub."""
        folder = Path(self.repository)
        paths = sorted(folder.rglob("*")) if self.is_folder else []
        return state_of(x for x in paths if not any(part.startswith(".") for part in x.relative_to(folder).parts))

    def sides(self, splits: Sequence[str]) -> dict[str, bool | None]:
        """Return the splits to read, each with the side that it is on, or None.

        The validation split comes first, so that a text in both is held out only.

        Raises:
          UserError: If the split to train on is missing.
        """
        only = splits[0] if len(splits) == 1 else ""
        training = self.split or (TRAINING if TRAINING in splits else only)
        if training not in splits:
            raise UserError(
                f"--data {self.data} has the splits {', '.join(splits)}: name one of them, as {HUB}NAME,CONFIG,SPLIT."
            )
        validation = next((name for name in VALIDATION if name in splits and name != training), None)
        return {validation: True, training: False} if validation else {training: None}


class OpenDataset(NamedTuple):
    """A data set at one revision.

    Attributes:
      repository: Its name.
      revision: The revision; empty for a folder.
      splits: Its splits, as the package gives them.
    """

    repository: str
    revision: str
    splits: dict[str, Any]

    @classmethod
    def open(cls, name: DatasetName, revision: str = "") -> Self:
        """Open a data set, at the exact `revision` if it is given.

        Raises:
          UserError: If the package or the data set is missing.
        """
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise UserError(f"--data {name.data} requires the package datasets: pip install '.[hf]'.") from error
        try:
            exact = "" if name.is_folder else revision or _exact_revision(name)
            splits = datasets.load_dataset(name.repository, name.config or None, revision=exact or None, streaming=True)
        except Exception as error:  # of several packages, from missing files to a missing network
            raise UserError(f"--data {name.data} cannot be opened: {_reason(error)}") from error
        return cls(name.repository, exact, {str(split): stream for split, stream in splits.items()})


class Stream:
    """The texts of a split, from any place on. Rows whose text is null are left out."""

    def __init__(self, opened: OpenDataset, split: str, rows: int = 0, position: Any = None) -> None:
        """Start after `rows` rows. Their position saves reading them again, but other versions of
        the package have others.
        """
        self.rows, self.without_text, self._to_skip = rows, 0, rows
        self._place, self._stream = f"{opened.repository}:{split}", opened.splits[split]
        if TEXT in (self._stream.column_names or ()):
            self._stream = self._stream.select_columns([TEXT])  # others need not be decoded
        if position and position[PACKAGE] == _version():
            self._to_skip = 0
            self._stream.load_state_dict(position["state"])

    def position(self) -> dict[str, Any]:
        """Return the position after the last row, as JSON can hold it."""
        return {PACKAGE: _version(), "state": self._stream.state_dict()}

    def texts(self) -> Generator[str, None, None]:
        """Yield the texts that are left.

        Raises:
          UserError: If the stream breaks off, or a row has no text.
        """
        stream = itertools.islice(self._stream, self._to_skip, None)
        while True:
            try:
                row = next(stream, None)
            except Exception as error:  # of several packages, mostly of the network
                raise UserError(
                    f"{HUB}{self._place} broke off after {self.rows} rows: {_reason(error)}: run the command again; if "
                    "it breaks off there again, the data set is damaged there."
                ) from error
            if row is None:
                return
            self.rows += 1
            if TEXT in row and row[TEXT] is None:
                self.without_text += 1
            else:
                yield text_of(f"{self._place}:{self.rows}", row)


def _version() -> str:
    return importlib.metadata.version(PACKAGE)


def _exact_revision(name: DatasetName) -> str:
    import huggingface_hub

    return str(huggingface_hub.HfApi().dataset_info(name.repository, revision=name.revision or None).sha)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
