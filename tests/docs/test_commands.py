"""The commands of all pages, and those of the measurements on a GPU, have flags that exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from train.__main__ import parse
from train.config.run import UserError

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md")))]
MISSING = "has no model.json|contains no run to resume|No such file"  # what the commands are given is not here
OPERATORS = {"|", "||", "&&", ">", "2>&1"}


def commands_of(text: str) -> list[list[str]]:
    """Return the words after `-m train` of each command in the shell blocks of a page."""
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    found = []
    for line in blocks.splitlines():
        words = shlex.split(line, comments=True)
        if "train" in words[1:] and words[words.index("train") - 1] == "-m":
            words = words[words.index("train") + 1 :]
            found.append(words[: next((i for i, word in enumerate(words) if word in OPERATORS), None)])
    return found


COMMANDS = [
    pytest.param(words, id=f"{page}-{i}")
    for page in PAGES
    for i, words in enumerate(commands_of((ROOT / page).read_text()))
    if "--help" not in words
]


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) > 50


def refusal_of(words: list[str]) -> str:
    """Return why a command is refused, without running it."""
    try:
        parse(words)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_a_page_is_understood(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reason = refusal_of(words)
    assert not reason or re.search(MISSING, reason), reason


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_runs_on_a_gpu_are_understood(tmp_path: Path) -> None:
    """Of `gpu.sh card`, with a Python that only writes down how it was called."""
    executable(tmp_path / "nvidia-smi", "echo 143771")
    executable(tmp_path / "python", f'echo "$XLA_PYTHON_CLIENT_MEM_FRACTION $*" >> {tmp_path}/calls')
    subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", tmp_path / "results", "card"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": str(tmp_path / "python")},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    calls = [line.partition("-m train ") for line in (tmp_path / "calls").read_text().splitlines()]
    runs = {Path(parse(words.split()).run_dir).name: fraction.strip() for fraction, train, words in calls if train}
    assert runs == {
        "card": "0.1592",  # 24e9 bytes of 143771 MiB
        "card-bfloat16": "0.1592",
        "plain": "",
        "in-backward": "",
        "in-backward-unclipped": "",
    }
