"""The tables of docs/results are those of the runs beside them."""

from pathlib import Path
from typing import Any

import pytest

from experiments import bases, finetuning
from experiments.papers import ackley

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize(
    ("name", "study", "report"),
    [
        ("bases", bases.CONTEST.study, bases.CONTEST.report),
        ("finetuning", finetuning.STUDY, finetuning.report),
        ("ackley", ackley.STUDY, ackley.report),
    ],
    ids=["bases", "finetuning", "ackley"],
)
def test_the_tables_of_a_page_are_those_of_its_runs(name: str, study: Any, report: Any) -> None:
    page = (RESULTS / f"{name}.md").read_text()
    tables = page.split("-->\n", 1)[1].split("<!-- end of tables -->")[0].strip()
    assert tables == report(study.read(RESULTS / f"{name}.jsonl"))
