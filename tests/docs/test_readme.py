"""What the documentation says is what the code does: examples run, the method table names what
exists.
"""

import contextlib
import doctest
import functools
import importlib
import inspect
import re
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import pytest

import grass_optax
from grass_optax import methods, residual, subspaces, transport
from tests.util import METHODS, OF_CHEAP_KINDS, assert_same, long_but, make, optimizer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MODULES_WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "grass_optax").rglob("*.py"))
    if ">>> " in path.read_text()
]


# Those of methods of some kinds, and all others.
EXAMPLES_BY_DEFAULT = [
    module
    for module in MODULES_WITH_EXAMPLES
    if not module.startswith("grass_optax.methods._") or module.rpartition("._")[2] in OF_CHEAP_KINDS
]


def code_blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_library_example_of_the_readme_trains():
    (example,) = code_blocks(README, "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    namespace = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(example, namespace)
        params, loss = namespace["params"], namespace["loss"]
        assert loss(params) < 0.1 * loss(jax.tree.map(jnp.zeros_like, params))


def test_the_sketches_of_the_readme_run():
    """The snippets that show one call: they run as they stand."""
    sketches = code_blocks(README, "py")
    namespace = {"jax": jax, "jnp": jnp, "optax": optax, "grass_optax": grass_optax}
    for sketch in sketches:
        exec(sketch, namespace)
        shape = (2, 200, 300) if "dimension_numbers" in sketch else (200, 300)
        params = {"w": jnp.ones(shape)}
        updates, _ = namespace["tx"].update(params, namespace["tx"].init(params), params)
        assert updates["w"].shape == shape
    assert len(sketches) == 2


def test_the_sketch_of_dimension_numbers_splits_a_stack():
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
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def parts_of(name):
    """Names of the functions that make a method's rule, transport and residual."""
    made, given = [], []

    def listed(f):
        @functools.wraps(f)
        def wrapper(*args, **kwargs):
            made.append((f(*args, **kwargs), f.__name__))
            return made[-1][0]

        return wrapper

    def assemble(*parts, **options):
        given.extend(parts)
        return methods.assemble(*parts, **options)

    home = sys.modules[METHODS[name].scale_by.__module__]
    makers = ("grass_optax.subspaces", "grass_optax.transport", "grass_optax.residual")
    with contextlib.ExitStack() as stack:
        for module in (subspaces, transport, residual, home):
            for attribute, f in list(vars(module).items()):
                if inspect.isfunction(f) and f.__module__.startswith(makers):
                    stack.enter_context(mock.patch.object(module, attribute, listed(f)))
        stack.enter_context(mock.patch.object(home, "assemble", assemble, create=True))
        make(name)
    return ["dropped" if part is None else next(n for one, n in made if one is part) for part in given]


def test_the_methods_are_counted():
    assert len(METHODS) == 21, "write the new number on these pages, and here"
    assert "nineteen rival methods" in README
    assert "the twenty-one above" in README
    assert "nineteen rival methods" in (ROOT / "docs" / "index.md").read_text()
    assert "nineteen other optimizers" in (ROOT / "CITATION.cff").read_text()


def test_method_table_names_every_method_and_its_parts():
    rows = method_table()
    assert sorted(rows) == sorted(METHODS)
    for name, row in rows.items():
        beside_the_split = ["none"] * 3
        assert (parts_of(name) or beside_the_split) == [row[axis] for axis in ("rule", "transport", "residual")]
        number, _, link = row["paper"].strip("[)").partition("](")
        assert link == f"https://arxiv.org/abs/{number}"
        assert number in METHODS[name].scale_by.__doc__


@pytest.mark.parametrize("name", [name for name, row in method_table().items() if row["rule"] != "none"])
def test_state_per_matrix_is_what_the_table_says(name):
    formula = re.sub(r"(\d|[mnr])(?=[mnr])", r"\1*", method_table()[name]["state per matrix"]).replace("^", "**")
    m, n, r = 8, 12, 1 if name == "apollo_mini" else 3
    numbers = eval(formula, {"m": m, "n": n, "r": r})
    report = grass_optax.memory_report(optimizer(name, rank=3), {"w": jnp.ones((m, n))})
    assert report.leaves[0].state_bytes == 4 * numbers


def test_the_worked_example_of_a_new_method_runs():
    namespace = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in code_blocks((ROOT / "docs" / "guides" / "new_method.md").read_text(), "python"):
            exec(block, namespace)
        params, loss = namespace["params"], namespace["loss"]
        assert loss(params) < 0.1 * loss(jax.tree.map(jnp.zeros_like, params))
        assert "grass" not in METHODS
        grad = jax.random.normal(jax.random.key(1), (3, 20, 30))
        dims = optax.contrib.MuonDimensionNumbers(1, 2)
        stacked = namespace["split_by_subspace"](
            subspaces.stateless_rule(namespace["largest_rows"]), optax.identity(), transport.reset(), None, rank=5,
            update_proj_gap=2, weight_dimension_numbers=dims,
        )  # fmt: skip
        kept, _ = stacked.update(grad, stacked.init(grad))
        norms = jnp.linalg.norm(grad, axis=-1)
        chosen = norms >= jnp.sort(norms, axis=-1)[:, -5:-4]
        assert_same(kept, jnp.where(chosen[..., None], grad, 0))
        for tx in namespace["variants"]:
            updates, state = tx.update(grad[0], tx.init(grad[0]))
            assert jnp.all(jnp.isfinite(updates))


@pytest.mark.parametrize("module", long_but(EXAMPLES_BY_DEFAULT, MODULES_WITH_EXAMPLES))
def test_the_examples_of_docstrings_run(module):
    module = importlib.import_module(module)
    names = {"jnp": jnp, "jax": jax, "optax": optax, "grass_optax": grass_optax}
    names |= {name: getattr(grass_optax, name) for name in grass_optax.__all__}
    with jax.numpy_dtype_promotion("standard"):  # Optax's schedules mix types
        result = doctest.testmod(module, extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_an_example_a_formula_and_a_source(name):
    alias, direction = (getattr(grass_optax, prefix + name).__doc__ for prefix in ("", "scale_by_"))
    for text in (alias, direction):
        assert ">>>" in text
        assert "arxiv.org/abs/" in text
    assert re.search(r"eq\. |Algorithm ", direction)
    assert f"scale_by_{name}" in alias


def test_commands_of_the_readme_exist():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    commands = [line for block in code_blocks(README, "sh") for line in block.splitlines()]
    made = [line.split()[1] for line in commands if line.startswith("make ")]
    assert {"train", "test"} <= set(made) <= targets
