"""What the site makes of three kinds of pages. On a code host they are plain Markdown.

* An `index.md` is a list of links. On the site its pages are also the navigation, in that order.
* A tutorial has blocks of Python. On the site they are the cells of a notebook, which is run.
* A page of the API is a table of names. On the site their docstrings stand in its place.
"""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the tests read pages without Sphinx
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
NOTEBOOK = """---
file_format: mystnb
kernelspec:
  name: python3
---
"""
ROW = re.compile(r"^\| \[`(\w+)`\]\([^)]+\) \| (.*) \|$")


def read(app: "Sphinx", docname: str, source: list[str]) -> None:
    """Change the text of a page before it is parsed."""
    text, folder = source[0], str(PurePosixPath(docname).parent)
    if docname.endswith("/index"):
        text += navigation(docname, text)
    if folder == "docs/tutorials":
        text = NOTEBOOK + re.sub(r"(?m)^```python$", "```{code-cell}", text)
    if folder == "docs/reference/api":
        text = documented(text)
    source[0] = text


def navigation(docname: str, text: str) -> str:
    """Hidden tables of contents, one for each second heading and with its words as caption."""
    _, *sections = re.split(r"(?m)^## ", text)
    captioned = docname == "docs/index"
    trees, seen = [], {docname}
    for section in sections if captioned else [text]:
        pages = {page: title for page, title in linked(docname, section).items() if page not in seen}
        seen |= set(pages)
        caption = f":caption: {section.splitlines()[0]}\n" if captioned else ""
        lines = "".join(f"\n{title} </{page}>" for page, title in pages.items())
        if pages:
            trees.append(f"\n```{{toctree}}\n:hidden:\n{caption}{lines}\n```\n")
    return "".join(trees)


def linked(docname: str, text: str) -> dict[str, str]:
    """The pages to which a text links, as Sphinx names them, and the words of the first link."""
    folder, pages = (ROOT / docname).parent, dict[str, str]()
    for words, target in re.findall(r"\[([^\]]+)\]\(([^)#\s]+\.md)[)#]", text):
        page = (folder / target).resolve().relative_to(ROOT).with_suffix("").as_posix()
        pages.setdefault(page, re.sub(r"\s+", " ", words.replace("`", "")))
    return pages


def documented(text: str) -> str:
    """A page whose first line in backticks is a module: its table becomes the docstrings."""
    named = re.search(r"(?m)^Module: `([\w.]+)`", text)
    if not named:
        return text
    lines: list[str] = []
    for line in text.splitlines():
        row = ROW.match(line)
        if row:
            lines += ["```{eval-rst}", directive(named[1], *row.groups()), "```", ""]
        elif not line.startswith("|"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def directive(module: str, name: str, summary: str) -> str:
    """The docstring of a name; of a type or a constant, which has none, its line of the table."""
    value = resolved(module, name)
    head = f".. py:currentmodule:: {module}\n\n"
    if inspect.isclass(value) and value.__module__.startswith("grass_optax"):
        return f"{head}.. autoclass:: {module}.{name}\n   :members:\n"
    if inspect.isroutine(value):
        return f"{head}.. autofunction:: {module}.{name}\n"
    return f"{head}.. py:data:: {name}\n\n   {summary}\n"


def resolved(module: str, name: str) -> Any:
    """What a public name is. `grass_optax.layouts` is a module under another name."""
    package, _, attribute = module.partition(".")
    home = importlib.import_module(package)
    return getattr(getattr(home, attribute) if attribute else home, name)


def signature(
    app: "Sphinx", kind: str, name: str, value: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """The signature as the source writes it: `ArrayLike`, and not the eight types that it means."""
    if not inspect.isfunction(value):
        return None
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    assert isinstance(function, ast.FunctionDef)
    inputs = function.args
    if kind == "method" and inputs.args:  # self or cls
        inputs.args = inputs.args[1:]
    return f"({ast.unparse(inputs)})", ast.unparse(function.returns) if function.returns else None


def skip_fields(app: "Sphinx", kind: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Fields of a state stand under `Attributes:` of its docstring, and not again as members."""
    ours = isinstance(value, property | classmethod) or str(getattr(value, "__module__", "")).startswith("grass_optax")
    return None if ours else True


def escape(app: "Sphinx", kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Let plain English through reStructuredText: |x| is a norm, and a name may have a plural s.

    Lines of formulas, after a double colon, and of examples are left as they are.
    """
    literal = None  # the indent of the paragraph that announced a block
    in_example = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip() and literal is not None and indent <= literal:
            literal = None
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>> "))
        if literal is None and not in_example:
            lines[i] = re.sub(r"(`[^`]+`)s\b", r"\1\\ s", line.replace("|", r"\|"))
            literal = indent if line.endswith("::") else None


def find(app: "Sphinx", env: Any, node: Any, content: Any) -> Any:
    """Docstrings say `bases.Cosine` wherever they are: look it up in the library."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.startswith("grass_optax."):
        return None
    python, full = env.get_domain("py"), f"grass_optax.{target}"
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)


def setup(app: "Sphinx") -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", read)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", find)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon's
    return {"parallel_read_safe": True}
