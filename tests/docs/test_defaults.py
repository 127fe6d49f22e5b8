"""docs/reference/defaults.md has the tables of `python -m train presets`, and the rule between
sizes is the one it states.
"""

import math
from pathlib import Path

import pytest

from models.config import CONFIGS
from train.__main__ import main
from train.config.optimizers import OPTIMIZERS
from train.config.recipes import FINETUNING, PRETRAINING, TINY

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "defaults.md").read_text()


def test_the_page_has_the_tables_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 7
    assert [table for table in tables if table not in PAGE] == []


def test_a_size_is_shown_with_the_sources_of_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--model", "1b"]) == 0
    shown = capsys.readouterr().out
    assert "| `1b` | 1,339,082,752 |" in shown
    assert "| `grassjump` | 0.0001 | 0.25, 100 | Table 7 of arXiv 2510.01878 |" in shown
    assert "| `ldadam` | 0.001 | 1, 1 | that of 350m |" in shown
    assert main(["presets", "--model", "2b"]) == 2
    assert "--model 2b is unknown: choose one of tiny, 9m" in capsys.readouterr().err


def test_every_optimizer_has_numbers_and_every_size_is_a_model() -> None:
    assert PRETRAINING.keys() == OPTIMIZERS.keys()
    assert FINETUNING.keys() <= OPTIMIZERS.keys()
    for sizes in PRETRAINING.values():
        assert TINY in sizes
        assert sizes.keys() <= CONFIGS.keys()


def test_between_two_sizes_a_number_is_a_power_of_the_hidden_size() -> None:
    """COAP has numbers at widths of 128 and 2048: at 512, the middle, each is a geometric mean."""
    small, middle, large = (OPTIMIZERS["coap"].pretraining(size) for size in ("tiny", "60m", "1b"))
    assert middle.learning_rate == float(f"{math.sqrt(small.learning_rate * large.learning_rate):.1e}")
    assert middle.scale == math.sqrt(small.scale * large.scale) == 0.5
    assert middle.update_proj_gap == 36 == round(math.sqrt(32 * 40))
    assert middle.source == "between tiny and 1b"
    assert OPTIMIZERS["coap"].pretraining("70b") == large._replace(source="that of 1b")
    assert OPTIMIZERS["coap"].pretraining("9m") == small._replace(source="that of tiny")
