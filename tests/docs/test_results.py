"""The tables of docs/results are those of the runs beside them."""

from pathlib import Path
from typing import Any

import pytest

from experiments import bases, finetuning, losses_of_transports
from experiments.papers import (
    ackley,
    completion,
    equal_memory,
    limiter,
    long_ratio,
    long_run,
    main_comparison,
    rank,
    ratio,
    step_size,
    subspaces,
)
from experiments.papers.tables import report
from experiments.papers.trained import STUDY

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.parametrize(
    ("name", "study", "report_of"),
    [
        ("bases", bases.CONTEST.study, bases.CONTEST.report),
        ("losses_of_transports", losses_of_transports.CONTEST.study, losses_of_transports.CONTEST.report),
        ("finetuning", finetuning.STUDY, finetuning.report),
        ("ackley", ackley.STUDY, ackley.report),
        ("subspaces", subspaces.STUDY, subspaces.report),
    ],
    ids=["bases", "losses_of_transports", "finetuning", "ackley", "subspaces"],
)
def test_the_tables_of_a_page_are_those_of_its_runs(name: str, study: Any, report_of: Any) -> None:
    assert tables_of(name) == report_of(study.read(RESULTS / f"{name}.jsonl"))


@pytest.mark.parametrize(
    "module",
    [main_comparison, ratio, equal_memory, long_run, long_ratio, completion, rank, step_size, limiter],
    ids=lambda module: module.EXPERIMENT.name,
)
def test_the_tables_of_a_paper_are_those_of_the_runs_that_experiments_share(module: Any) -> None:
    assert tables_of(module.EXPERIMENT.name) == report(module.EXPERIMENT, STUDY.read(RESULTS / "papers.jsonl"))


def tables_of(name: str) -> str:
    """The tables between the marks of a page."""
    page = (RESULTS / f"{name}.md").read_text()
    return page.split("-->\n", 1)[1].split("<!-- end of tables -->")[0].strip()
