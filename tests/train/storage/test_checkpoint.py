"""Checkpoints come back exactly, and remains of a kill are ignored."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from train.storage.checkpoint import Checkpoints

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
        checkpoints.finish()
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
