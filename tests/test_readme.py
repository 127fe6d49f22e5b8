"""What the documentation says is what the code does: examples run, the method table names what exists."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import grass_optax

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
METHODS = [name for name in grass_optax.__all__ if hasattr(grass_optax, f"scale_by_{name}")]
MODULES_WITH_EXAMPLES = ["methods", "diagnostics"]


def code_blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_library_example_runs():
    (example,) = code_blocks(README, "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    namespace = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(example, namespace)
        params, loss = namespace["params"], namespace["loss"]
        assert loss(params) < 0.1 * loss(jax.tree.map(jnp.zeros_like, params))


def test_sketches_build():
    """The snippets that show one call: they run as they stand."""
    sketches = code_blocks(README, "py")
    namespace = {"jax": jax, "jnp": jnp, "optax": optax, "grass_optax": grass_optax}
    for sketch in sketches:
        exec(sketch, namespace)
        params = {"w": jnp.ones((200, 300))}
        updates, _ = namespace["tx"].update(params, namespace["tx"].init(params), params)
        assert updates["w"].shape == (200, 300)
    assert len(sketches) == 2


def test_sketch_of_dimension_numbers():
    namespace = {"jax": jax, "grass_optax": grass_optax}
    exec(next(sketch for sketch in code_blocks(README, "py") if "dimension_numbers" in sketch), namespace)
    state = namespace["tx"].init({"stack": jnp.ones((3, 200, 300)), "bias": jnp.ones(4)})
    assert optax.tree_utils.tree_get(state, "basis")["stack"].shape == (3, 200, 128)


def method_table():
    """Rows of README's method table as dicts."""
    lines = [line for line in README.splitlines() if line.startswith("|")]
    start = next(i for i, line in enumerate(lines) if line.startswith("| method"))
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[start:]]
    header, rows = cells[0], [row for row in cells[2:] if len(row) == len(cells[0])]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_method_table_names_every_method_and_its_parts():
    rows = {row["method"]: row for row in method_table()}
    assert sorted(rows) == sorted(METHODS)
    for name, row in rows.items():
        expression = inspect.getsource(getattr(grass_optax.methods, f"_{name}"))
        assert f"subspaces.{row['rule']}(" in expression
        assert f"transport.{row['transport']}(" in expression
        assert f"residual.{row['residual']}(" in expression


@pytest.mark.parametrize("name", METHODS)
def test_state_per_matrix_is_what_the_table_says(name):
    (row,) = (row for row in method_table() if row["method"] == name)
    m, n, r = 8, 12, 3
    numbers = eval(row["state per matrix"].replace("mr", "m*r").replace("nr", "*n*r"), {"m": m, "n": n, "r": r})
    report = grass_optax.memory_report(getattr(grass_optax, name)(0.1, rank=r), {"w": jnp.ones((m, n))})
    assert report.leaves[0].state_bytes == 4 * numbers


@pytest.mark.parametrize("module", MODULES_WITH_EXAMPLES)
def test_docstring_examples(module):
    module = importlib.import_module(f"grass_optax.{module}")
    names = {"jnp": jnp, "jax": jax, "optax": optax, "grass_optax": grass_optax}
    with jax.numpy_dtype_promotion("standard"):  # Optax's schedules mix types
        result = doctest.testmod(module, extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_an_example_a_formula_and_a_source(name):
    text = getattr(grass_optax, name).__doc__
    assert ">>>" in text
    assert "arXiv" in text
    assert "eq." in text
    assert ">>>" in getattr(grass_optax, f"scale_by_{name}").__doc__


def test_commands_of_the_readme_exist():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    commands = [line for block in code_blocks(README, "sh") for line in block.splitlines()]
    made = [line.split()[1] for line in commands if line.startswith("make ")]
    assert {"train", "test"} <= set(made) <= targets
