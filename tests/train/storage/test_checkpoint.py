"""Checkpoints come back exactly, and remains of a kill are ignored."""

import errno
import os
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.config.run import UserError
from train.storage import checkpoint
from train.storage.checkpoint import Checkpoints, steps_in
from train.storage.checksums import size_of

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


def spoilt(folder: Path) -> None:
    path = max(
        (path for path in (folder / "default").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, jax.tree.map(lambda x, step=step: x * step, STATE))
    spoilt(tmp_path / "c" / "2")
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest == 1
        np.testing.assert_array_equal(checkpoints.restore(1, ABSTRACT)["w"], STATE["w"])
        checkpoints.save(2, STATE)  # the run makes it again
    (line,) = capsys.readouterr().out.splitlines()
    assert "c/2 is damaged (" in line
    assert "has changed since it was written), so the run resumes from step 1; it is kept as 2.damaged" in line
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2", "2.damaged"]
    for step in (1, 2):
        spoilt(tmp_path / "c" / str(step))
    with pytest.raises(UserError, match=r"all checkpoints in .* are damaged \(2: .*; 1: .*\): restore one"):
        Checkpoints(tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "2", "2.damaged"]


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, STATE)
        checkpoints.finish()
        with monkeypatch.context() as patched:
            patched.setattr("train.system.files.os.fsync", full)
            checkpoints.save(2, STATE)
            with pytest.raises(
                UserError, match="step 2 cannot be written .*No space left.* newest is that of step 1: free"
            ):
                checkpoints.finish()
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]
        checkpoints.save(3, STATE)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "3"]


def test_an_error_of_the_storage_library_is_one_sentence_too(tmp_path: Path) -> None:
    """Past a limit on the size of files its writes fail as on a full disk, with its own error. Each
    but the first would print a traceback, which pytest turns into a failure.
    """
    large = {str(i): jax.random.bits(jax.random.key(i), (100_000,)) for i in range(20)}
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, STATE)
        checkpoints.finish()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
        try:
            checkpoints.save(2, large)
            with pytest.raises(
                UserError, match=r"step 2 cannot be written .*\(File too large\); the newest is that of"
            ):
                checkpoints.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]
        checkpoints.save(3, large)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "3"]


def random_state(seed: int) -> dict[str, jax.Array]:
    return {"w": jax.random.bits(jax.random.key(seed), (100_000,))}


def shrink_disk(monkeypatch: pytest.MonkeyPatch, folder: Path, size: int) -> None:
    """Pretend that `folder` is on a disk of so many bytes."""
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=size - size_of(folder)))


def test_on_a_tight_disk_the_oldest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But neither the newest nor the best, and none if that does not help."""
    folder = tmp_path / "c"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, random_state(step))
        checkpoints.finish()
        whole = size_of(folder)
        shrink_disk(monkeypatch, folder, whole + 1000)
        checkpoints.save(4, random_state(4))
        checkpoints.finish()
        assert steps_in(folder) == [2, 3, 4]
        checkpoints.best_step = 2
        checkpoints.save(5, random_state(5))
        checkpoints.finish()
        assert steps_in(folder) == [2, 4, 5]
        shrink_disk(monkeypatch, folder, whole - 100_000)
        with pytest.raises(UserError, match=r"step 6 cannot be .* take 0.4 MB, but .* 0.3 MB\); the newest .* step 5"):
            checkpoints.save(6, random_state(6))
        assert steps_in(folder) == [2, 4, 5]


def test_the_room_that_is_needed_is_that_of_the_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is compressed. Before there is one, all bytes of the state are assumed."""
    folder, zeros = tmp_path / "c", {"w": jnp.zeros(100_000)}
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, zeros)
        checkpoints.finish()
        shrink_disk(monkeypatch, folder, 200_000)
        checkpoints.save(2, zeros)
        checkpoints.finish()
        assert steps_in(folder) == [1, 2]
        with pytest.raises(UserError, match=r"has room for 0 MB, but a checkpoint needs up to 5 MB: free space"):
            checkpoints.refuse_full_disk(5 * 10**6)
