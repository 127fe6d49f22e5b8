"""Where documents come from: the standard library, files, or a data set of Hugging Face.

A source is read as a stream, as often as needed, and always in the same order.
"""

import functools
import hashlib
import importlib.metadata
import itertools
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from train.config.run import FILES, HUB, STDLIB, UserError
from train.data.download import Sides, SplitFiles, fetch
from train.data.formats import BLOCK, Unreadable, blocks_of_text, format_of, records_of, says_json
from train.data.hub import DatasetName, OpenDataset, Stream
from train.data.paths import State, paths_of, state_of
from train.data.records import text_of

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
    """A text in pieces.

    Attributes:
      name: Where it is.
      pieces: Its text, in pieces of at most `BLOCK` characters.
      is_held_out: The side that the source puts it on, or None.
    """

    name: str
    pieces: Iterator[str]
    is_held_out: bool | None = None


class Source(NamedTuple):
    """Where documents come from.

    Attributes:
      state: What identifies files without reading them; empty if there are none.
      parts: The documents, file by file. A file that cannot be read raises `Unreadable`, and the
        next can still be read.
      prepare: Downloads what is missing, as `parts` does otherwise.
      counts_whole: A limit of size has been applied by whole documents.
    """

    state: Callable[[], State]
    parts: Callable[[], Iterable[Iterator[Document]]]
    prepare: Callable[[], object] = tuple
    counts_whole: bool = False


def open_source(
    data: str, megabytes: float, cache_dir: Path, say: Callable[[str], None] = print, *, is_alone: bool = False
) -> Source:
    """Return the source of a --data, which reads at most `megabytes` (0: all) of stdlib or `hf:`.

    A data set of Hugging Face is downloaded to `cache_dir` when it is first read; if it `is_alone`,
    without its validation split.

    Raises:
      UserError: If no file matches.
    """
    if data == STDLIB:
        return Source(
            lambda: state_of(_python_files().values()), lambda: [_python_documents(megabytes)], counts_whole=True
        )
    if data.startswith(HUB):
        return _of_hub(DatasetName.of(data), megabytes, cache_dir, say, is_alone)
    assert data.startswith(FILES)
    paths = paths_of(data)
    return Source(lambda: state_of(paths), lambda: map(_documents_of, paths))


def in_pieces(blocks: Iterable[str]) -> Iterator[str]:
    """Yield a text in pieces of at most `BLOCK` characters that end at lines, or before spaces."""
    rest = ""
    for block in itertools.chain(blocks, [""]):
        rest += block
        while len(rest) > BLOCK or (rest and not block):
            end = len(rest) if len(rest) <= BLOCK else _boundary(rest)
            yield rest[:end]
            rest = rest[end:]


def _boundary(text: str) -> int:
    line = text.rfind("\n", BLOCK // 2, BLOCK)
    space = text.rfind(" ", BLOCK // 2, BLOCK)
    return line + 1 if line >= 0 else space if space >= 0 else BLOCK


def _blocks(text: str) -> Iterator[str]:
    for at in range(0, len(text), BLOCK):
        yield text[at : at + BLOCK]


def _documents_of(path: Path) -> Iterator[Document]:
    if (kind := format_of(path)) == "text":
        yield Document(str(path), in_pieces(blocks_of_text(path)))
        return
    try:
        yield from _of_texts((name, text_of(name, record)) for name, record in records_of(path, kind))
    except UserError as error:
        if isinstance(error, Unreadable) or kind != "lines" or says_json(path):
            raise
        raise Unreadable(f"{error} Its first lines are JSON: convert it, or restrict the pattern.") from error


def _of_hub(name: DatasetName, megabytes: float, cache_dir: Path, say: Callable[[str], None], is_alone: bool) -> Source:
    def sides(splits: Sequence[str]) -> dict[str, bool | None]:
        return dict.fromkeys([*name.sides(splits)][-1:]) if is_alone else name.sides(splits)

    @functools.cache  # files that are added meanwhile are not those of this source
    def files() -> list[SplitFiles]:
        return fetch(name, sides, megabytes, cache_dir, say)

    if name.is_folder:
        once = functools.cache(say)  # a source is read twice
        return Source(name.state, lambda: _of_folder(name, sides, once))
    return Source(dict, lambda: (_of_texts(_stored(split.paths), split.is_held_out) for split in files()), files)


def _of_folder(name: DatasetName, sides: Sides, say: Callable[[str], None]) -> Iterator[Iterator[Document]]:
    opened = OpenDataset.open(name)
    for split, side in sides(list(opened.splits)).items():
        stream = Stream(opened, split)
        yield _of_texts(((f"{name.repository}:{split}:{stream.rows}", text) for text in stream.texts()), side)
        if stream.without_text:
            say(f"rows of {split} without text, which were left out: {stream.without_text}")


def _stored(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield the texts of downloaded files."""
    for path in paths:
        try:
            yield from ((name, text_of(name, record)) for name, record in records_of(path, "lines"))
        except UserError as error:
            if getattr(error.__cause__, "errno", None) is not None:  # the file may be whole
                raise UserError(str(error)) from error
            raise UserError(
                f"{path}, which was downloaded, is damaged: remove it, then run the command again, which downloads it "
                "and what follows it again."
            ) from error


def _of_texts(texts: Iterable[tuple[str, str]], is_held_out: bool | None = None) -> Iterator[Document]:
    for name, text in texts:
        yield Document(name, in_pieces(_blocks(text)), is_held_out)


def _python_documents(megabytes: float) -> Iterator[Document]:
    """Yield Python files within a limit, without repetitions, ordered by SHA-256."""
    budget = megabytes * 1e6 or float("inf")
    texts: dict[bytes, tuple[str, str]] = {}
    for name, text in _python_texts():
        encoded = text.encode()
        if len(encoded) > budget:
            break
        if encoded and (digest := hashlib.sha256(encoded).digest()) not in texts:
            texts[digest] = name, text
            budget -= len(encoded)
    return _of_texts(texts[digest] for digest in sorted(texts))


def _python_texts() -> Iterator[tuple[str, str]]:
    paths = _python_files()
    # Ordered by a hash, so that a truncated corpus is a mixture, and the same on every machine.
    for name in sorted(paths, key=lambda name: hashlib.sha256(name.encode()).digest()):
        try:
            yield name, paths[name].read_bytes().decode()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # the standard library tests unusual encodings; packagers may omit files


def _python_files() -> dict[str, Path]:
    """The Python files of the standard library and of `DEPENDENCIES`, by name."""
    paths = dict(_standard_library())
    for distribution in DEPENDENCIES:
        for file in importlib.metadata.files(distribution) or []:
            if file.suffix == ".py":
                paths[f"{distribution}:{file.as_posix()}"] = Path(str(file.locate()))
    return paths


def _standard_library() -> Iterator[tuple[str, Path]]:
    root = sysconfig.get_path("stdlib")
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in ("site-packages", "dist-packages")]
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                yield f"stdlib:{path.relative_to(root).as_posix()}", path
