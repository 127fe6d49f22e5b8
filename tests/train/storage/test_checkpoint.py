"""Checkpoints come back exactly, and remains of a kill are ignored."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from train.config.run import UserError
from train.storage import checkpoint
from train.storage.checkpoint import (
    Checkpoints,
    kept_step,
    restore_params,
    restore_params_on_host,
    save_params,
)

STATE = {"w": jnp.arange(6.0).reshape(2, 3), "count": jnp.asarray(3), "b": (jnp.ones(2),)}
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), STATE)


def test_the_last_two_checkpoints_are_kept_and_come_back_exactly(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
        for step in (1, 2, 30):
            checkpoints.save(step, jax.tree.map(lambda x, step=step: x * step, STATE))
        assert checkpoints.latest == 30
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "30"]
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored = checkpoints.restore(30, ABSTRACT)
    assert jax.tree.structure(restored) == jax.tree.structure(STATE)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(STATE), strict=True):
        np.testing.assert_array_equal(new, old * 30)
        assert new.dtype == old.dtype


def test_the_best_checkpoint_is_kept_beside_the_last_two(tmp_path: Path) -> None:
    def kept() -> list[str]:
        return sorted(path.name for path in (tmp_path / "c").iterdir())

    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in range(1, 7):
            checkpoints.best_step = min(step, 2)
            checkpoints.save(step, STATE)
    assert kept() == ["2", "5", "6"]
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.best_step = 2
        checkpoints.save(7, STATE)
        assert kept() == ["2", "6", "7"]
        checkpoints.best_step = 7
        checkpoints.save(8, STATE)
    assert kept() == ["7", "8"]


def test_remains_of_a_kill_are_no_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, STATE)
        checkpoints.save(2, STATE)
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")  # killed while writing 3
    for path in (folder / "1").rglob("*"):  # killed while removing 1
        if path.is_file():
            path.unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest == 2
        checkpoints.restore(2, ABSTRACT)
        checkpoints.save(3, STATE)
        assert checkpoints.latest == 3
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]


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
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 16)  # several chunks and files
    monkeypatch.setattr(checkpoint, "FILE_BYTES", 16)
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


def test_a_checkpoint_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint: train or import a model first"):
        kept_step(tmp_path / "c", None)
    save_params(tmp_path / "c", WEIGHTS)
    with pytest.raises(UserError, match="has no checkpoint of step 7: it has 0"):
        kept_step(tmp_path / "c", 7)
