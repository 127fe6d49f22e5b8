"""The pages of the API name everything that is public, once each, with the first line of its
docstring.

Run `python -m tests.docs.test_api` to write their tables anew.
"""

import inspect
import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grass_optax
from grass_optax import bases, layouts, methods, residual, state, subspaces, transport
from grass_optax._linalg import grassmann

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "reference" / "api"
OPTIMIZERS = [name for name in methods.__all__ if f"scale_by_{name}" in methods.__all__]
DIRECTIONS = [name for name in methods.__all__ if name.startswith("scale_by_")]
BACKWARD = ["update_in_backward", "ScannedLoss", "Clip", "BackwardReport"]
MODULES = {
    "subspaces": subspaces, "transport": transport, "residual": residual, "bases": bases, "state": state,
    "layouts": layouts, "grassmann": grassmann,
}  # fmt: skip
BUILDING = [
    name
    for name in grass_optax.__all__
    if name not in {*OPTIMIZERS, *DIRECTIONS, *BACKWARD, *state.__all__}
    and not isinstance(getattr(grass_optax, name), types.ModuleType)
]
PAGES: dict[str, tuple[types.ModuleType, list[str]]] = {
    "optimizers": (grass_optax, OPTIMIZERS),
    "directions": (grass_optax, DIRECTIONS),
    "building": (grass_optax, BUILDING),
    "backward": (grass_optax, BACKWARD),
    **{page: (module, module.__all__) for page, module in MODULES.items()},
}
# Types and constants have no docstring of their own.
VALUES = {
    "RandomBasis": 'A string: "haar", "gaussian", "blocks", "columns" or "cosine".',
    "Transport": "A function of the inner state and the rotation of each leaf to the new inner state.",
    "Completion": 'A string: "none" or "isotropic".',
    "BasisLike": "An array (..., m, r), or a `Basis`.",
    "DimensionNumbersOrFn": "A tree of `MuonDimensionNumbers` or None, a prefix of one, a function to one, or None.",
    "SPLIT": 'The label "split", of leaves that are split.',
    "ADAM": 'The label "adam", of leaves that are left to Adam.',
    "MATRIX": "The dimension numbers of a plain matrix: (input, output).",
}


def home(module: types.ModuleType, name: str) -> Path:
    """The file that defines a name."""
    value = getattr(module, name)
    if name not in VALUES:
        return Path(inspect.getfile(inspect.unwrap(value)))  # tests check the shapes of some
    pattern = re.compile(rf"(?m)^{name}(: \w+)? = |^(\w+, )*{name}(, \w+)* = ")
    files = sorted((ROOT / "grass_optax").rglob("*.py"))
    return next(file for file in files if pattern.search(file.read_text()))


def row(module: types.ModuleType, name: str) -> str:
    value: Any = getattr(module, name)
    summary = VALUES[name] if name in VALUES else inspect.getdoc(value).splitlines()[0]
    escaped = re.sub(r"(?<!\\)\|", r"\\|", summary)
    return f"| [`{name}`]({os.path.relpath(home(module, name), API)}) | {escaped} |"


def table(page: str) -> str:
    module, names = PAGES[page]
    return "\n".join(["| name | |", "|---|---|", *(row(module, name) for name in names)])


def tables(text: str) -> Iterator[str]:
    yield from re.findall(r"(?m)^\| name .*\n(?:\|.*\n?)+", text)


@pytest.mark.parametrize("page", PAGES)
def test_the_table_of_a_page_is_that_of_its_module(page: str) -> None:
    (written,) = tables((API / f"{page}.md").read_text())
    assert written.strip() == table(page), "write it with: python -m tests.docs.test_api"


@pytest.mark.parametrize("page", PAGES)
def test_a_cell_of_a_table_is_a_whole_sentence(page: str) -> None:
    """The first line of a docstring is all of its first sentence."""
    rows = table(page).splitlines()[2:]
    assert [cell for cell in rows if not cell.endswith(". |")] == []


def test_every_public_name_has_one_page() -> None:
    listed = [name for page in ("optimizers", "directions", "building", "backward") for name in PAGES[page][1]]
    named = {*listed, *MODULES, *state.__all__, "methods"}
    assert len(set(listed)) == len(listed)
    assert set(grass_optax.__all__) <= named
    assert {file.stem for file in API.glob("*.md")} == {*PAGES, "index"}


def test_pages_name_the_modules_that_users_import() -> None:
    """The site looks up the names of a table there."""
    for page, (_, names) in PAGES.items():
        (module,) = re.findall(r"(?m)^Module: `([\w.]+)`", (API / f"{page}.md").read_text())
        value = grass_optax
        for attribute in module.split(".")[1:]:
            value = getattr(value, attribute)
        assert all(hasattr(value, name) for name in names)


if __name__ == "__main__":
    for page in PAGES:
        file = API / f"{page}.md"
        text = file.read_text()
        (old,) = tables(text)
        file.write_text(text.replace(old.strip(), table(page)))
        sys.stdout.write(f"{file}\n")
