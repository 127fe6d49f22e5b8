"""docs/reference/methods.md says what the arrays of a state would take."""

from pathlib import Path

import pytest

from benchmarks import memory
from tests.util import long_but

DOCS = (Path(__file__).parents[2] / "docs" / "reference" / "methods.md").read_text().split("## Switches")[0]


def documented():
    """Gigabytes by method and size."""
    header, _, *rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in DOCS.splitlines() if line.startswith("|")
    ]
    sizes = [cell.split()[0] for cell in header[1:-1]]
    return {row[0]: dict(zip(sizes, row[1:-1], strict=True)) for row in rows}


@pytest.mark.parametrize("size", long_but(("60m", "7b"), memory.RANKS))
def test_table_is_what_the_states_take(size):
    measured = {name: f"{size_bytes / 1e9:.3f}" for name, size_bytes in memory.state_bytes(size).items()}
    assert {name: row[size] for name, row in documented().items()} == measured


def test_every_optimizer_is_in_the_table():
    assert set(documented()) == set(memory.PRETRAINING)


def test_the_largest_size_is_what_its_formulas_give():
    """The largest size by hand: 32 layers of four matrices 4096 x 4096 and three 4096 x 11008, and
    what Adam keeps.
    """
    layers, d, f, r, vocabulary = 32, 4096, 11008, 1024, 32000
    rest = 2 * (2 * vocabulary * d + 2 * layers * d + d)  # embedding, head, and the norms
    shapes = [(d, d)] * 4 + [(d, f)] * 3
    numbers = {
        "adamw": sum(2 * m * n for m, n in shapes),
        "galore": sum(m * r + 2 * n * r for m, n in shapes),
        "grassjump": sum(m * r + 2 * n * r + 2 for m, n in shapes),
        "apollo": sum(2 * n * r + 2 for m, n in shapes),
        "apollo_mini": sum(2 * n + 2 for m, n in shapes),
        "ldadam": sum(m * n + m * r + 2 * n * r for m, n in shapes),
        "frugal": sum(2 * n * r for m, n in shapes),
        "sumo": sum(m * r + n * r for m, n in shapes),
        "badam": sum(2 * m * n for m, n in shapes) / layers,
    }
    found = memory.state_bytes("7b")
    for name, per_layer in numbers.items():
        counts = found[name] - 4 * (rest + layers * per_layer)
        assert 0 <= counts < 200, name  # a few scalars: counts of updates
