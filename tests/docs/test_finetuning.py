"""docs/guides/finetuning.md has the defaults of the optimizers, and its commands run.

Run as a module, this prints its table.
"""

import re
import sys
from pathlib import Path

import pytest

from tests.docs.commands import commands_of, run, world
from train.config.finetune import finetuning_optimizer
from train.config.optimizers import OPTIMIZERS

__all__ = ["world"]
PAGE = Path(__file__).parents[2] / "docs" / "guides" / "finetuning.md"
README = Path(__file__).parents[2] / "README.md"


def table() -> list[str]:
    """The rows of the page's table."""
    rows = []
    for name, row in OPTIMIZERS.items():
        flags = finetuning_optimizer(name)
        scale = f"{flags.scale:g}" if row.has_scale else "none"
        interval = str(flags.update_proj_gap) if row.update_proj_gap else "none"
        rows.append(f"| `{name}` | {flags.learning_rate:g} | {scale} | {interval} | {row.finetuning.source} |")
    return rows


def test_the_page_has_the_defaults_of_every_optimizer() -> None:
    assert re.findall(r"(?m)^\| `[a-z].*$", PAGE.read_text()) == table()


def test_the_commands_of_the_readme_that_start_from_weights_run(world: Path) -> None:
    section = README.read_text().split("### Start from somebody's weights")[1].split("\n### ")[0]
    commands = commands_of(section)
    assert [words[0] for words in commands] == ["import", "finetune", "export"]
    for words in commands:
        run(words)
    assert (world / "exported" / "qwen2" / "model.safetensors").exists()


@pytest.mark.long
def test_the_commands_of_the_page_run(world: Path) -> None:
    commands = commands_of(PAGE.read_text())
    assert len(commands) == 13
    for words in commands:
        run(words)
    assert {path.name for path in (world / "exported").iterdir()} == {"qwen2", "stars"}


if __name__ == "__main__":
    sys.stdout.write("\n".join(table()) + "\n")
