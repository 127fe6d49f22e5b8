"""Weights are read from a checkpoint without the rest of its state."""

import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from tests.train.storage.stripped import leave
from tests.train.storage.test_checkpoint import STATE
from train.config.run import UserError
from train.storage import weights
from train.storage.checkpoint import Checkpoints
from train.storage.weights import kept_step, restore_params, restore_params_on_host, save_params

WEIGHTS = {
    "embed": {"embedding": np.arange(12, dtype=np.float32).reshape(3, 4)},
    "layers": {"q": {"kernel": np.linspace(-1, 1, 24, dtype=ml_dtypes.bfloat16).reshape(2, 4, 3)}},
    "head": np.arange(6, dtype=np.float16).reshape(2, 3).T,
}
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), WEIGHTS)


def on_device(tree: Any) -> Any:
    sharding = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def assert_equal(tree: Any, expected: Any) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), y)


def test_weights_alone_are_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK_BYTES", 16)  # several chunks and files
    monkeypatch.setattr(weights, "FILE_BYTES", 16)
    save_params(tmp_path / "c", WEIGHTS)
    assert_equal(restore_params_on_host(tmp_path / "c", None, SHAPES), WEIGHTS)
    assert_equal(restore_params(tmp_path / "c", 0, on_device(SHAPES)), WEIGHTS)


def test_weights_are_read_without_the_rest_of_a_state(tmp_path: Path) -> None:
    state = {"params": jax.tree.map(jnp.asarray, WEIGHTS), "opt_state": STATE, "step": jnp.asarray(1)}
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (4, 6):
            checkpoints.save(step, state)
    read = restore_params_on_host(tmp_path / "c", 4, SHAPES)
    assert_equal(read, WEIGHTS)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(read))
    assert_equal(restore_params(tmp_path / "c", None, on_device(SHAPES)), WEIGHTS)
    assert kept_step(tmp_path / "c", None) == 6


def test_weights_are_read_if_the_rest_of_a_state_is_gone(tmp_path: Path) -> None:
    state = {"params": jax.tree.map(jnp.asarray, WEIGHTS), "opt_state": STATE, "step": jnp.asarray(1)}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, state)
    bare = shutil.copytree(tmp_path / "c", tmp_path / "bare")
    removed = leave("params", tmp_path / "c" / "4")
    assert {re.split("[./]", key)[0] for key in removed} == {"opt_state", "step"}
    assert_equal(restore_params_on_host(tmp_path / "c", 4, SHAPES), WEIGHTS)
    assert_equal(restore_params(tmp_path / "c", 4, on_device(SHAPES)), WEIGHTS)
    leave("opt_state", bare / "4")
    with pytest.raises(ValueError, match="NOT_FOUND"):  # numbers that are gone cannot be read unnoticed
        restore_params_on_host(bare, 4, SHAPES)


def test_a_checkpoint_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint: train or import a model first"):
        kept_step(tmp_path / "c", None)
    save_params(tmp_path / "c", WEIGHTS)
    with pytest.raises(UserError, match="has no checkpoint of step 7: it has 0"):
        kept_step(tmp_path / "c", 7)
