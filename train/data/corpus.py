"""The text to train on: deduplicated documents, split into training and held-out sets.

A document is a text file, or a record of another one (`train.data.records`). `documents` reads
them and `split` divides them. The result depends only on the texts, and on their names if a limit
truncates the corpus.
"""

import hashlib
import importlib.metadata
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from train.config.run import STDLIB, UserError
from train.data.records import read_records, text_of

HELD_OUT = 0.05  # of the bytes
# Packages whose Python files are part of the stdlib corpus: dependencies of this trainer.
DEPENDENCIES = (
    "flax",
    "grain",
    "jax",
    "matplotlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "rich",
    "tyro",
)


class Document(NamedTuple):
    """A text, its size in UTF-8, and the SHA-256 that identifies and orders it."""

    name: str
    text: str
    bytes: int
    sha256: str


class Split(NamedTuple):
    """Training and held-out documents, each ordered by SHA-256."""

    train: list[Document]
    held_out: list[Document]


def documents(source: str, megabytes: float = 0.0) -> list[Document]:
    """Read `stdlib` or `files:GLOB`, at most `megabytes` (0: all), ordered by SHA-256."""
    is_stdlib = source == STDLIB
    texts = _python_texts() if is_stdlib else ((name, text_of(name, record)) for name, record in read_records(source))
    budget = megabytes * 1e6 or float("inf")
    by_digest: dict[str, Document] = {}
    for name, text in texts:
        document = _document(name, text)
        if document.bytes > budget:
            break
        if document.bytes and document.sha256 not in by_digest:
            by_digest[document.sha256] = document
            budget -= document.bytes
    if not by_digest:
        raise UserError(
            f"--data {source} has no text within --data-megabytes {megabytes:g}: raise the limit or choose other text."
        )
    return [by_digest[digest] for digest in sorted(by_digest)]


def split(documents: list[Document]) -> Split:
    """Hold out 5 % of the bytes, in whole documents; a single document is cut near its end."""
    if len(documents) == 1:
        return _cut(documents[0])
    room = HELD_OUT * sum(document.bytes for document in documents)
    held_out = []
    for document in documents:
        if document.bytes <= room:
            held_out.append(document)
            room -= document.bytes
    held_out = held_out or [min(documents, key=lambda document: document.bytes)]
    digests = {document.sha256 for document in held_out}
    return Split([document for document in documents if document.sha256 not in digests], held_out)


def _document(name: str, text: str) -> Document:
    encoded = text.encode()
    return Document(name, text, len(encoded), hashlib.sha256(encoded).hexdigest())


def _cut(document: Document) -> Split:
    at = round(len(document.text) * (1 - HELD_OUT))
    return Split(
        [_document(f"{document.name} (start)", document.text[:at])],
        [_document(f"{document.name} (end)", document.text[at:])],
    )


def _python_texts() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of the Python files of the standard library and of `DEPENDENCIES`."""
    paths = dict(_standard_library())
    for distribution in DEPENDENCIES:
        for file in importlib.metadata.files(distribution) or []:
            if file.suffix == ".py":
                paths[f"{distribution}:{file.as_posix()}"] = Path(str(file.locate()))
    # Ordered by a hash, so that a truncated corpus is a mixture, and the same on every machine.
    for name in sorted(paths, key=lambda name: hashlib.sha256(name.encode()).digest()):
        try:
            yield name, paths[name].read_bytes().decode()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # the standard library tests unusual encodings; packagers may omit files


def _standard_library() -> Iterator[tuple[str, Path]]:
    root = sysconfig.get_path("stdlib")
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in ("site-packages", "dist-packages")]
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                yield f"stdlib:{path.relative_to(root).as_posix()}", path
