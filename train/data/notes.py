"""Notes on texts that were read, so that a text that has not changed is not read again."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from train.config.run import FILES, STDLIB, DataFlags
from train.data.cache import LAYOUT
from train.data.hub import DatasetName
from train.data.paths import State

NAMED = 3  # files in a message


class Note(NamedTuple):
    """What was known of a --data when it was last read."""

    fingerprint: str
    state: State


def note_path(config: DataFlags, vocab_size: int) -> Path:
    """Return the file of the note of a --data, whatever the folder that the command is run in."""
    data = config.data
    if data == STDLIB:  # of this environment
        data = f"{STDLIB} {sys.prefix}"
    elif data.startswith(FILES):
        data = FILES + os.path.abspath(os.path.expanduser(data.removeprefix(FILES)))
    elif (name := DatasetName.of(data)).is_folder:
        data = repr((os.path.abspath(name.repository), name.config, name.split))
    tokenizer: object = vocab_size
    if config.tokenizer is not None:
        content = config.tokenizer.read_bytes() if config.tokenizer.is_file() else b""
        tokenizer = [hashlib.sha256(content).hexdigest(), config.end_of_text]
    identity = json.dumps([LAYOUT, data, config.data_megabytes, config.skip_unreadable, tokenizer])
    return config.cache_dir / "sources" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"


def read_note(path: Path) -> Note | None:
    """Read a note, if there is one."""
    try:
        content = json.loads(path.read_text())
        return Note(str(content["fingerprint"]), dict(content["state"]))
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None  # there is none, or it is damaged: the text is read


def changed_files(before: State, now: State) -> str:
    """Name the files that differ; return nothing if none does."""
    differing = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    named = [
        f"{name} ({'new' if name not in before else 'missing' if name not in now else 'changed'})"
        for name in differing[:NAMED]
    ]
    return ", ".join([*named, *([f"and {len(differing) - NAMED} more"] if len(differing) > NAMED else [])])
