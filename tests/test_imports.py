"""Who may import whom, and what the public names are."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import grass_optax

ROOT = Path(__file__).parent.parent
OURS = ("grass_optax", "hlo", "models", "train", "tests", "benchmarks", "experiments")
LIBRARY = {"jax", "optax", "jaxtyping", "numpy"}
# package -> packages of this repository that it may import
ARROWS = {"grass_optax": set(), "models": set(), "train": {"hlo", "models"}}


def imported(path):
    """Top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(path.parent.name if node.level else node.module.split(".")[0])
    return names


def files(package):
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", ARROWS)
def test_arrows_between_packages(package):
    for path in files(package):
        allowed = ARROWS[package] | {package}
        if path == ROOT / "train" / "program" / "optimizer.py":
            allowed = allowed | {"grass_optax"}
        assert imported(path) & set(OURS) <= allowed, path


def test_the_library_needs_jax_and_optax_only():
    for path in files("grass_optax"):
        assert imported(path) - set(sys.stdlib_module_names) <= LIBRARY | {"grass_optax"}, path


def test_models_know_no_optimizer():
    assert not any("optax" in imported(path) for path in files("models"))


METHODS = [
    "grassjump", "grasswalk", "subtrack", "subtrack_grad", "galore", "golore", "fira", "apollo", "apollo_mini",
    "ldadam", "frugal", "online_subspace_descent", "coap", "sumo", "badam", "column_sgd",
]  # fmt: skip


def test_public_names():
    assert set(grass_optax.__all__) == {
        *METHODS, *(f"scale_by_{name}" for name in METHODS), "assemble", "with_rates", "split_by_subspace",
        "SplitState", "block_coordinate", "in_float32",
        "methods", "subspaces", "transport", "residual", "bases", "state",
        "layouts", "grassmann", "state_shardings", "memory_report", "MemoryReport",
    }  # fmt: skip


def test_dir_shows_public_names_only():
    assert {name for name in dir(grass_optax) if not name.startswith("_")} == set(grass_optax.__all__)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_function_and_no_module(name):
    assert callable(getattr(grass_optax, name))
    with pytest.raises(ImportError):
        importlib.import_module(f"grass_optax.{name}")
