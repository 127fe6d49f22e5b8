"""The tables of docs/results are those of the runs beside them."""

from pathlib import Path
from typing import Any

import pytest

from experiments import bases, finetuning
from experiments.papers import ackley

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize("module", [bases, finetuning, ackley], ids=["bases", "finetuning", "ackley"])
def test_the_tables_of_a_page_are_those_of_its_runs(module: Any) -> None:
    page = (RESULTS / module.RESULTS.name).with_suffix(".md").read_text()
    tables = page.split("-->\n", 1)[1].split("<!-- end of tables -->")[0].strip()
    assert tables == module.report(module.STUDY.read(RESULTS / module.RESULTS.name))
