"""docs/guides/watching.md has every column of metrics.jsonl and every tracker.

Run as a module, this prints its tables.
"""

import re
import sys
from pathlib import Path

from train.config.bounds import TRACKERS
from train.storage.quantities import BOTH, COLUMNS, DIAGNOSTICS, LOSS, UPDATES

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "watching.md"


def table() -> list[str]:
    """The rows of the page's table of columns."""
    rows = []
    for name, quantity in COLUMNS.items():
        of = "both" if name in BOTH else "updates" if name in UPDATES else "evaluations"
        unit = "that of the loss" if quantity.unit == LOSS else quantity.unit
        rows.append(f"| `{name}` | {of} | {unit} | {quantity.meaning} |")
    return rows


def table_of_subspaces() -> list[str]:
    """The rows of the page's table of what is measured of subspaces."""
    return [f"| `{name}` | {quantity.unit} | {quantity.meaning} |" for name, quantity in DIAGNOSTICS.items()]


def test_the_page_has_every_quantity_of_the_subspaces() -> None:
    quantities = PAGE.read_text().split("## Subspaces")[1].split("\n## ")[0]
    assert re.findall(r"(?m)^\| `.*$", quantities) == table_of_subspaces()


def test_the_page_has_every_column_and_every_tracker() -> None:
    columns = PAGE.read_text().split("## metrics.jsonl")[1].split("\n## ")[0]
    assert re.findall(r"(?m)^\| `.*$", columns) == table()
    trackers = PAGE.read_text().split("## Trackers")[1].split("\n## ")[0]
    assert dict(re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", trackers)) == TRACKERS


if __name__ == "__main__":
    sys.stdout.write("\n".join([*table(), "", *table_of_subspaces()]) + "\n")
