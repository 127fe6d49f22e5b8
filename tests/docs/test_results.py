"""The tables of docs/results are those of the runs beside them."""

from pathlib import Path

from experiments import bases
from experiments.study import read

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_the_tables_of_bases_are_those_of_its_runs() -> None:
    page = (RESULTS / "bases.md").read_text()
    tables = page.split("-->\n", 1)[1].split("<!-- end of tables -->")[0].strip()
    assert tables == bases.report(read(RESULTS / "bases.jsonl"))
