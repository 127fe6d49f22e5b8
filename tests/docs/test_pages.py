"""The pages follow the style sheet of CONTRIBUTING.md, and their code runs."""

import re
from pathlib import Path

import jax
import pytest

from tests.util import long_but

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PROSE, CODE = 100, 120
AVOIDED = r"\b(mend|mends|tells|is told|are told|goes on|go on|but for|in place of|so many)\b"
EXAMPLES = ["migrating", "moments", "training", "maxtext", "tunix"]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_code(page):
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text())


@every_page
def test_prose_is_wrapped(page):
    """Tables excepted, so that a diff shows what changed."""
    lines = without_code(page).splitlines()
    assert [line for line in lines if len(line) > PROSE and not line.startswith("|")] == []
    assert [line for line in page.read_text().splitlines() if len(line) > CODE and not line.startswith("|")] == []


@every_page
def test_no_space_is_where_nobody_sees_it(page):
    text = page.read_text()
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    assert re.findall(r"(?m)^ \S.*", without_code(page)) == []


@every_page
def test_words_are_those_of_the_style_sheet(page):
    text = without_code(page)
    if page.name == "CONTRIBUTING.md":  # it lists them
        text = text[: text.index("## English")]
    assert re.findall(AVOIDED, text) == []


DECISIONS = ROOT / "docs" / "decisions"


@pytest.mark.parametrize("page", sorted(page.name for page in DECISIONS.glob("*.md") if page.name != "index.md"))
def test_every_decision_is_listed_in_the_order_of_its_page(page):
    listed = re.findall(rf"(?m)^\* \[(.*?)\]\({page}#", re.sub(r"\n  ", " ", (DECISIONS / "index.md").read_text()))
    assert listed == re.findall(r"(?m)^## (.*)", (DECISIONS / page).read_text())


@pytest.mark.parametrize("page", long_but(EXAMPLES, [*EXAMPLES, "diagnostics"]))
def test_examples_run(page):
    """Those of the other guides are run by the tests of what they show."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guides" / f"{page}.md").read_text(), re.DOTALL)
    assert blocks
    with jax.numpy_dtype_promotion("standard"):
        names: dict[str, object] = {}
        for block in blocks:
            exec(block, names)
