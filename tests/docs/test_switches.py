"""docs/reference/methods.md is what the methods pass to the split.

Run as a module, this prints its table.
"""

import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from grass_optax._split import split
from tests.util import METHODS, make

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "methods.md"
DEFAULTS = {
    "lift": "yes",
    "store_basis": "yes",
    "initial": "the rule",
    "inner": "Adam",
    "orthonormal": "yes",
    "keyed": "no",
    "moves": "no",
    "fixed": "no",
    "per_column": "no",
    "removed_fraction": "1",
    "feedback": "no",
}


def configuration(name):
    """What a method passes to `split_by_subspace`, or None for one that does not split."""
    configurations = []

    def recorded(**arguments):
        configurations.append(split_config(**arguments))
        return configurations[-1]

    split_config = split.SplitConfig
    with mock.patch.object(split, "SplitConfig", recorded):
        make(name)
    return configurations[0] if configurations else None


def inner_name(config):
    """An Adam of its own also reads what the step knows."""
    state = jax.eval_shape(config.inner.init, jnp.ones((3, 8)))
    try:
        jax.eval_shape(config.inner.update, jnp.ones((3, 8)), state)
    except TypeError:
        return "its own"
    return "Adam" if isinstance(state, optax.ScaleByAdamState) else "its own"


def feeds_back(residual):
    """Whether its state, as it is at the start, adds anything to a gradient."""
    state = jax.eval_shape(residual.init, jnp.ones((8, 12)))
    return residual.marks.feedback is not None and residual.marks.feedback(state) is not None


def switches(config):
    """The switches of a method as the table shows them."""
    rule, marks = config.rule, config.residual and config.residual.marks
    spelled = {True: "yes", False: "no"}
    row = {
        "lift": spelled[config.lift],
        "store_basis": spelled[config.store_basis],
        "initial": "the rule" if config.initial is rule else "another rule",
        "inner": inner_name(config),
        "orthonormal": spelled[rule.orthonormal],
        "keyed": spelled[rule.keyed],
        "moves": spelled[rule.moves],
        "fixed": spelled[rule.fixed],
    }
    if marks:
        row |= {
            "per_column": spelled[marks.per_column],
            "removed_fraction": f"{marks.removed_fraction:g}",
            "feedback": spelled[feeds_back(config.residual)],
        }
    return row


def table():
    """The page's table."""
    rows = [["method", *(f"`{name}`" for name in DEFAULTS)], ["---"] * (len(DEFAULTS) + 1)]
    rows.append(["*unless stated otherwise*", *DEFAULTS.values()])
    for name in METHODS:
        if config := configuration(name):
            row = switches(config)
            different = [row[switch] if row.get(switch, usual) != usual else "" for switch, usual in DEFAULTS.items()]
            rows.append([f"`{name}`", *different])
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows)


def test_the_table_is_what_the_methods_pass():
    assert table() in PAGE.read_text()


def test_every_subspace_method_is_in_it():
    assert "`grassjump`" in table()
    assert table().count("\n") == 2 + sum(configuration(name) is not None for name in METHODS)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
