"""The commands of a page, and a folder in which they run: the models that they name, made small,
and their data.
"""

import dataclasses
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.train.foreign import NETWORK, write_foreign
from tests.train.foreign_encoders import NETWORKS, write_encoder
from train.__main__ import main

START = ["python", "-m", "train"]
HAS_TRANSFORMERS = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def commands_of(text: str) -> list[list[str]]:
    """Return the words after `python -m train` of each command."""
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    assert all(words[:3] == START for words in split)
    return [words[3:] for words in split]


def run(words: list[str]) -> None:
    """Run a command, which must succeed."""
    if not HAS_TRANSFORMERS:
        words = [word for word in words if word != "--verify"]
    assert main(words) == 0, words


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to run them in, which is the current one."""
    monkeypatch.chdir(tmp_path)
    write_foreign(
        tmp_path / "Qwen2-1.5B",
        dataclasses.replace(NETWORK, hidden_size=32, num_kv_heads=None, qkv_bias=True, tied_head=True),
    )
    write_encoder(tmp_path / "roberta-base", network=NETWORKS["roberta"], family="roberta")
    (tmp_path / "my").mkdir()
    rows: list[dict[str, str]] = [{"prompt": f"the old man {i}", "completion": " read"} for i in range(20)]
    (tmp_path / "my" / "a.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"text": "A lamp was lit."}])))
    reviews = [f"the {'small' if i % 2 else 'old'} house {i},{i % 2}" for i in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,stars", *reviews]))
    pairs = [f"the sea {i}\tthe man\t{i % 2}\t{i / 40}" for i in range(40)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["question\tanswer\tis_right\tsimilarity", *pairs]))
    return tmp_path
