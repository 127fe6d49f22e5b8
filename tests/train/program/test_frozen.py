"""Frozen parameters stay, have no state, and are named by patterns."""

import dataclasses

import jax
import numpy as np
import pytest

from models import LlamaConfig
from train.config.optimizer_flags import OptimizerFlags
from train.config.optimizers import OPTIMIZERS
from train.config.run import UserError
from train.config.schedule import ScheduleFlags
from train.program.frozen import joined, parted
from train.program.program import Program, make_program
from train.program.sharding import make_mesh
from train.program.task import LanguageModel, Rows

NETWORK = LlamaConfig(vocab_size=11, hidden_size=16, intermediate_size=24, num_heads=2, num_layers=2)
TASK = LanguageModel(network=NETWORK, batch_size=2, seq_len=8)
TOKENS = np.arange(18, dtype=np.int32).reshape(2, 9) % 11
FLAGS = OptimizerFlags(rank=4, update_proj_gap=2)


def program(*frozen: str, optimizer: str = "grassjump") -> Program:
    flags = dataclasses.replace(FLAGS, optimizer=optimizer, scale=OPTIMIZERS[optimizer].scale)
    return make_program(make_mesh("", 2), TASK, flags, ScheduleFlags(steps=9, warmup=1), 0, frozen=frozen)


def test_parts_are_joined_to_the_whole() -> None:
    tree = {"a": {"x": 1, "y": 2}, "b": 3}
    trained, frozen = parted(tree, ("a/*",))
    assert trained == {"a": {"x": None, "y": None}, "b": 3}
    assert frozen == {"a": {"x": 1, "y": 2}, "b": None}
    assert joined(trained, frozen) == tree


@pytest.mark.parametrize("optimizer", ["grassjump", "badam", "adamw", "muon", "column_sgd"])
def test_frozen_parameters_stay_and_the_others_are_updated(optimizer: str) -> None:
    made = program("embed/*", "layers/mlp/*", optimizer=optimizer)
    state = made.draw_state()
    before = jax.tree.map(np.asarray, state.params)
    for _ in range(4):
        state, report = made.train_step(state, Rows(TOKENS))
    assert np.isfinite(report.loss)
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/"): not np.array_equal(x, y)
        for (path, x), y in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(state.params), strict=True)
    }
    frozen = {"embed/embedding", "layers/mlp/gate/kernel", "layers/mlp/up/kernel", "layers/mlp/down/kernel"}
    assert not any(changed[path] for path in frozen)
    # BAdam updates one block of weights at a time.
    assert optimizer == "badam" or all(is_changed for path, is_changed in changed.items() if path not in frozen)


def test_frozen_parameters_have_no_optimizer_state() -> None:
    adam = 2 * 4 * 11 * 16  # two moments, in float32
    assert program().optimizer_bytes - program("embed/*").optimizer_bytes == adam


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("embedding",), r"--freeze embedding names no parameter: they are embed/embedding, layers/"),
        (("*",), r"--freeze \* leaves nothing to train"),
    ],
)
def test_wrong_patterns_are_refused(frozen: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        program(*frozen)
