"""What the site makes of the pages, without building it: `make docs` does that."""

import ast
import importlib.util
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"
PAGES = [
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")),
]


def module(name: str) -> types.ModuleType:
    """A file of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", SITE / f"{name}.py")
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


pages, check_links = module("pages"), module("check_links")


def read(page: str) -> str:
    """A page as Sphinx parses it."""
    source = [(ROOT / f"{page}.md").read_text()]
    pages.read(None, page, source)
    return source[0]


def navigated(index: str) -> list[str]:
    """The pages below an index, in the order of the navigation."""
    children = re.findall(r"(?m)^.+ </(.+)>$", read(index))
    return [page for child in children for page in (child, *(navigated(child) if child.endswith("/index") else ()))]


def test_the_navigation_holds_every_page_once() -> None:
    names = navigated("docs/index")
    every = {page.relative_to(ROOT).with_suffix("").as_posix() for page in PAGES} - {"docs/index"}
    assert sorted(names) == sorted(every)


def test_the_navigation_has_the_sections_and_words_of_the_index() -> None:
    text = read("docs/index")
    captions = re.findall(r"(?m)^:caption: (.*)$", text)
    assert captions == re.findall(r"(?m)^## (.*)$", (ROOT / "docs" / "index.md").read_text())
    assert "\nComing from optax.contrib.galore </docs/guides/migrating>\n" in text


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_a_tutorial_is_a_notebook(page: Path) -> None:
    text = read(f"docs/tutorials/{page.stem}")
    assert text.startswith("---\nfile_format: mystnb\n")
    assert text.count("```{code-cell}\n") == page.read_text().count("```python\n") > 3
    assert "```python" not in text


def test_the_tables_of_the_api_become_docstrings() -> None:
    text = read("docs/reference/api/optimizers")
    assert "```{eval-rst}\n.. py:currentmodule:: grass_optax\n\n.. autofunction:: grass_optax.grassjump\n" in text
    assert "\n|" not in text
    layouts = read("docs/reference/api/layouts")
    assert ".. autoclass:: grass_optax.layouts.MatrixLayout\n" in layouts
    assert ".. py:data:: BasisLike\n" in read("docs/reference/api/bases")  # a class, but of another package
    assert '.. py:data:: SPLIT\n\n   The label "split", of leaves that are split.\n' in layouts


def test_a_signature_is_that_of_the_source() -> None:
    def f(x: "int | None" = None, *, rate: "list[int]") -> "str":
        return f"{x}{rate}"

    assert pages.signature(None, "function", "f", f, None, "", "") == (
        "(x: 'int | None'=None, *, rate: 'list[int]')",
        "'str'",
    )
    assert pages.signature(None, "class", "int", int, None, "", "") is None


def test_formulas_and_examples_are_left_as_they_are() -> None:
    lines = ["The norm |x| of `Array`s::", "", "  |x|", "", "and |y|", "", ">>> f(|x|)", "1|2", "", "|z|"]
    pages.escape(None, "function", "f", None, None, lines)
    assert lines == [
        "The norm \\|x\\| of `Array`\\ s::", "", "  |x|", "", "and \\|y\\|", "", ">>> f(|x|)", "1|2", "", "\\|z\\|",
    ]  # fmt: skip


def test_links_that_lead_nowhere_are_reported(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<h1 id="here"></h1><a href="../a.html#there">a</a>')
    (tmp_path / "a.html").write_text(
        '<i id="there"></i><a href="b/#here"></a><a href="b/#gone"></a><a href="c.html"></a><a href="#no"></a>'
        '<a href="https://example.org/x#y"></a><img src="b/none.png">'
    )
    broken, outside = check_links.check(tmp_path)
    assert broken == [f"a.html: {link}" for link in ("#no", "b/#gone", "b/none.png", "c.html")]
    assert outside == {"https://example.org/x#y"}


def test_the_extra_has_what_the_tutorials_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["docs"]]
    extra = {re.split(r"[<>=\[]", line)[0].replace("orbax-checkpoint", "orbax") for line in lines}
    blocks = [
        block
        for page in (ROOT / "docs" / "tutorials").glob("*.md")
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    nodes = [node for block in blocks for node in ast.walk(ast.parse(block))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    needed = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"grass_optax", "numpy"}
    assert needed <= extra, "numpy comes with jax"
