"""Data sets of Hugging Face as streams: `hf:NAME[,CONFIG][,SPLIT]`.

The stream is read anew whenever it is needed. Nothing of it is stored, so an interrupted
preparation begins again.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from train.config.run import HUB, UserError
from train.data.records import text_of

TRAINING = "train"
VALIDATION = ("validation", "valid", "val", "dev")


class Part(NamedTuple):
    """One split: its texts with their names, and the side that it is on, or None."""

    texts: Iterator[tuple[str, str]]
    is_held_out: bool | None


def hub_parts(data: str) -> Iterator[Part]:
    """Yield the parts of a data set: its validation split, if it has one, and that to train on.

    The former comes first, so that a text in both is held out only.

    Raises:
      UserError: If the package or the data set is missing, or has no such split.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError(f"--data {data} requires the package datasets: pip install datasets.") from error
    name, config, split = ([*data.removeprefix(HUB).split(","), "", ""])[:3]
    try:
        splits = dict(datasets.load_dataset(name, config or None, streaming=True))
    except Exception as error:  # of several packages, from missing files to a missing network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--data {data} cannot be opened: {reason}") from error
    training = split or (TRAINING if TRAINING in splits else next(iter(splits)) if len(splits) == 1 else "")
    if training not in splits:
        raise UserError(
            f"--data {data} has the splits {', '.join(splits)}: name that to train on, as {HUB}NAME,CONFIG,SPLIT."
        )
    validation = next((other for other in VALIDATION if other in splits and other != training), None)
    if validation:
        yield Part(_texts(name, validation, splits[validation]), True)
    yield Part(_texts(name, training, splits[training]), False if validation else None)


def _texts(name: str, split: str, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    rows, number = iter(rows), 0
    while True:
        try:
            row = next(rows, None)
        except Exception as error:  # of several packages, mostly of the network
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{HUB}{name} broke off after {number} texts: {reason}: run the command again.") from error
        if row is None:
            return
        number += 1
        place = f"{name}:{split}:{number}"
        yield place, text_of(place, row)
