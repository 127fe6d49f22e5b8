"""The house: which folder may import which, what is public, and how long a file may be."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import grass_optax
from grass_optax import methods
from tests.util import METHODS

ROOT = Path(__file__).parents[1]

# --- packages -------------------------------------------------------------------------------------

# package -> packages of this repository that it may import
PACKAGES = {
    "grass_optax": set(),
    "hlo": set(),
    "models": set(),
    "reference": set(),
    "train": {"hlo", "models"},
    "benchmarks": {"grass_optax", "hlo", "models", "train"},
    "experiments": {"grass_optax", "models", "train"},
}
OURS = {*PACKAGES, "tests"}
# The one file of the trainer that knows the library.
WITH_THE_LIBRARY = {
    ROOT / "train" / "program" / f"{name}.py" for name in ("optimizer", "kernels", "measurements", "narrow_weights")
}
LIBRARY_NEEDS = {"jax", "optax", "jaxtyping", "numpy"}


def files(package):
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Dotted names of all that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_of(path):
    return {name.split(".")[0] for name in imports(path)}


def test_every_package_is_under_these_rules():
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders - {"tests", "docs"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_between_packages_run_one_way(package):
    assert files(package)
    for path in files(package):
        allowed = PACKAGES[package] | {package} | ({"grass_optax"} if path in WITH_THE_LIBRARY else set())
        assert packages_of(path) & OURS <= allowed, path


def test_the_library_needs_jax_and_optax_only():
    for path in files("grass_optax"):
        assert packages_of(path) - set(sys.stdlib_module_names) <= LIBRARY_NEEDS | {"grass_optax"}, path


def test_the_reference_needs_numpy_only():
    for path in files("reference"):
        assert packages_of(path) - set(sys.stdlib_module_names) <= {"numpy", "reference"}, path


def test_models_know_no_optimizer():
    assert not any("optax" in packages_of(path) for path in files("models"))


# --- folders of the library -----------------------------------------------------------------------

# From the ground up. A file imports from its own folder and from lower floors.
FLOORS = [
    {"_checks"},
    {"_linalg"},
    {"_trees"},
    {"_inner", "bases"},
    {"subspaces", "transport", "residual"},
    {"_split", "_blocks", "_backward"},
    {"state", "methods"},
]
FLOOR = {folder: floor for floor, folders in enumerate(FLOORS) for folder in sorted(folders)}
FOLDERS = {path.stem for path in (ROOT / "grass_optax").iterdir() if path.suffix == ".py" or path.is_dir()} - {
    "__init__", "__pycache__"
}  # fmt: skip


def folder_of(name):
    """The folder of a dotted name of the library, or the file in its place; None for others."""
    parts = name.split(".")
    if parts[0] != "grass_optax":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "__init__"


def test_every_folder_has_its_floor():
    assert set(FLOOR) == FOLDERS


@pytest.mark.parametrize("folder", FLOOR)
def test_arrows_between_folders_run_downwards(folder):
    for path in files("grass_optax"):
        if folder_of(module_of(path)) != folder:
            continue
        for name in imports(path):
            target = folder_of(name)
            assert target in (None, folder) or FLOOR.get(target, len(FLOORS)) < FLOOR[folder], f"{path} imports {name}"


# --- names ----------------------------------------------------------------------------------------


def private(name):
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


@pytest.mark.parametrize("package", [package for package in PACKAGES if package != "grass_optax"])
def test_nobody_outside_imports_a_private_name(package):
    for path in files(package):
        ours = [name for name in imports(path) if name.split(".")[0] in PACKAGES]
        assert not [name for name in ours if private(name)], path


def test_documentation_imports_no_private_name():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        lines = re.findall(r"(?m)^ *(?:from|import) +grass_optax\S*.*$", path.read_text())
        assert not [line for line in lines if re.search(r"\b_[a-z]", line)], path


def public_functions(path):
    """Functions and classes that a file defines, or that a package takes from its modules."""
    tree = ast.parse(path.read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if path.name == "__init__.py":
        package = importlib.import_module(module_of(path))
        defined |= {name for name, value in vars(package).items() if callable(value)}
    return {name for name in defined if not name.startswith("_")}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_named_like_a_function_of_its_package(package):
    """`import package.name as m` would give one or the other, by the order of imports."""
    for init in files(package):
        if init.name != "__init__.py":
            continue
        inside = [path for path in init.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
        functions = set().union(*(public_functions(path) for path in inside if path.suffix == ".py"))
        assert not functions & {path.stem for path in inside}, init.parent


@pytest.mark.parametrize("path", files("grass_optax"), ids=module_of)
def test_a_library_file_is_under_260_lines(path):
    assert len(path.read_text().splitlines()) < 260


def test_what_is_public_is_what_is_exported():
    assert {name for name in dir(grass_optax) if not name.startswith("_")} == set(grass_optax.__all__)
    assert {folder for folder in FOLDERS if not folder.startswith("_")} <= set(grass_optax.__all__)


# What `grass_optax.methods` offers beside methods: what a method of one's own is written with.
FOR_NEW_METHODS = {"assemble", "with_rates"}


def test_every_method_is_exported_with_its_direction_and_is_under_the_laws():
    directions = {name for name in methods.__all__ if name.startswith("scale_by_")}
    names = {name.removeprefix("scale_by_") for name in directions}
    assert set(methods.__all__) - names - directions <= FOR_NEW_METHODS
    assert names == set(METHODS)
    assert names | directions <= set(grass_optax.__all__)
    assert all(inspect.isfunction(getattr(grass_optax, name)) for name in names | directions)
