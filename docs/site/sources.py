"""Files to which pages link, as pages of the site: the code of the library among them.

On a code host such a link opens the file. The site has no code host beside it, so it shows the file
itself, with its lines numbered.
"""

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
SCHEME, FOLDER = "source:", "source"
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)\)")
CODE = re.compile(r"(?ms)^```.*?^```")


def mark(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give links to what is no page the scheme `source:`, and the path from the root."""
    folder = (ROOT / docname).parent

    def marked(link: re.Match[str]) -> str:
        file = (folder / link[1]).resolve()
        if not file.exists() or file.suffix in {".md", ".png"}:  # pages, and images in them
            return link[0]
        return f"]({SCHEME}{file.relative_to(ROOT).as_posix()})"

    blocks = CODE.findall(source[0])
    prose = [LINK.sub(marked, part) for part in CODE.split(source[0])]
    source[0] = prose[0] + "".join(block + part for block, part in zip(blocks, prose[1:], strict=True))


def resolve(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Point the marked links at the pages of their files, and remember these."""
    for node in doctree.findall(nodes.reference):
        uri = node.get("refuri", "")
        if uri.startswith(SCHEME):
            path, hash_, line = uri.removeprefix(SCHEME).partition("#")
            node["refuri"] = app.builder.get_relative_uri(docname, f"{FOLDER}/{path}") + hash_ + line
            linked(app).add(path)


def of_object(domain: str, info: dict[str, str]) -> str | None:
    """The marked link to the line that defines a documented object, for `sphinx.ext.linkcode`."""
    value: Any = importlib.import_module(info["module"].partition(".")[0])
    for name in (*info["module"].split(".")[1:], *info["fullname"].split(".")):
        value = getattr(value, name)
    value = value.fget if isinstance(value, property) else value
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return None
    file = Path(inspect.getfile(value))
    if ROOT not in file.parents or "site-packages" in file.parts:  # a type of another package
        return None
    return f"{SCHEME}{file.relative_to(ROOT).as_posix()}#L-{inspect.getsourcelines(value)[1]}"


def linked(app: Sphinx) -> set[str]:
    """The files to which the pages written so far link."""
    if not hasattr(app, "linked_sources"):
        app.linked_sources = set()  # type: ignore[attr-defined]
    return app.linked_sources  # type: ignore[attr-defined, no-any-return]


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file and for each folder, with its files."""
    waiting, done = sorted(linked(app)), set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        file = ROOT / path
        if file.is_dir():
            files = sorted(x for x in file.iterdir() if x.is_file() and x.suffix in (".py", ".md", ".sh", ".json"))
            body = listing(path, [x.name for x in files])
            waiting += [f"{path}/{x.name}" for x in files]
        else:
            body = code(file)
        yield f"{FOLDER}/{path}", {"title": path, "body": f"<h1><code>{path}</code></h1>{body}"}, "page.html"


def listing(path: str, names: list[str]) -> str:
    """Links from the page of a folder, which lies beside it, to those of its files."""
    folder = os.path.basename(path)
    return "<ul>" + "".join(f'<li><a href="{folder}/{name}.html">{name}</a></li>' for name in names) + "</ul>"


def code(file: Path) -> str:
    """The lines of a file as HTML, with anchors L-1, L-2, ..."""
    try:
        lexer = get_lexer_for_filename(file.name)
    except ClassNotFound:
        lexer = TextLexer()
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    return f'<div class="highlight-default notranslate">{highlight(file.read_text(), lexer, formatter)}</div>'


def redirect(app: Sphinx, error: Exception | None) -> None:
    """The root of the site leads to the first page."""
    if error is None:
        page = f"{app.config.root_doc}.html"
        head = f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={page}">'
        text = f'<!doctype html><html lang="en"><head>{head}<title>grass_optax</title></head>'
        (Path(app.outdir) / "index.html").write_text(f'{text}<body><a href="{page}">grass_optax</a></body></html>\n')


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx. Links are collected while pages are written, in one process."""
    app.connect("source-read", mark)
    app.connect("doctree-resolved", resolve)
    app.connect("html-collect-pages", pages)
    app.connect("build-finished", redirect)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
