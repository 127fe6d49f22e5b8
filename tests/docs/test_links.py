"""Every link, every anchor and every path in the documentation leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Of the project: not the runs that somebody made in it.
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."} - {"runs"}
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
SOURCES = [
    path
    for folder in ("benchmarks", "docs", "grass_optax", "hlo", "models", "reference", "tests", "train")
    for ending in ("*.py", "*.sh", "*.sbatch", "*.txt")
    for path in sorted((ROOT / folder).rglob(ending))
]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page):
    """The text of a page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text())


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", prose(page))
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def test_there_are_pages():
    assert {"README.md", "CHANGELOG.md", "index.md", "sharding.md"} <= {page.name for page in PAGES}


@every_page
def test_relative_links_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_paths_in_backticks_exist(page):
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        path = re.fullmatch(r"((?:\w+)/[\w./-]*)(?:::\w+)?", code)
        if path and path[1].split("/")[0] in FOLDERS:
            assert (ROOT / path[1]).exists(), code


def test_pages_that_are_mentioned_exist():
    """In the sources too: "see docs/guides/sharding.md"."""
    mentioned = [
        (str(file.relative_to(ROOT)), page)
        for file in (*PAGES, *SOURCES)
        for page in re.findall(r"(?<![\w/.])docs/[\w/]+\.(?:md|sbatch)", file.read_text())
    ]
    assert len(mentioned) > 20
    assert [(file, page) for file, page in mentioned if not (ROOT / page).exists()] == []


def test_every_page_can_be_reached_from_the_index():
    """In one click, or through the index of its folder."""
    reached = set()
    for index in sorted((ROOT / "docs").rglob("index.md")):
        targets = re.findall(r"\]\(([^)#\s]+)", index.read_text())
        reached |= {(index.parent / target).resolve() for target in targets} | {index}
    assert set((ROOT / "docs").rglob("*.md")) <= reached


def test_the_mathematics_is_three_clicks_from_the_readme():
    """README, then the NumPy algorithm or the page that maps it to the library's files."""
    readme = (ROOT / "README.md").read_text()
    assert "(reference/grass.py)" in readme[: readme.index("## ")]
    assert "(docs/algorithm.md)" in readme[: readme.index("## ")]
    algorithm = (ROOT / "docs" / "algorithm.md").read_text()
    for file in ("_split/split.py", "transport.py", "residual/", "subspaces/random.py"):
        assert f"`grass_optax/{file}`" in algorithm
