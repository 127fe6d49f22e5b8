"""A script for one of two processes with four devices each, which checks what they agree on.

`test_processes` starts both. It is no test module: pytest would have to run inside each process.
"""

import functools
import os
import signal
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from train.config.machine_flags import ProcessFlags
from train.config.run import DataFlags, UserError
from train.data.windows import training_rows, training_windows
from train.program.sharding import AXES, batch_sharding, place_batch
from train.storage.folder import RunFolder
from train.system.processes import (
    SharedStopSignals,
    everywhere,
    gathered,
    is_first,
    joined,
    on_first,
    refuse_different,
)
from train.system.signals import Stopped, exiting_on_signals

TOKENS = np.arange(1000, dtype=np.uint16)
CONFIG = DataFlags(batch_size=8, seq_len=4, seed=3)


def fail(where: int) -> None:
    if jax.process_index() == where:
        raise UserError(f"no text here, in {where}")


def check_messages() -> None:
    """Texts of any length arrive unchanged, and errors arrive everywhere."""
    here = jax.process_index()
    assert gathered("é" * (1 + 2 * here)) == ["é", "ééé"]
    assert gathered("") == ["", ""]
    assert on_first(lambda: {"from": jax.process_index()}) == {"from": 0}
    assert everywhere(lambda: here) == here
    assert is_first() == (here == 0)
    for where in range(2):
        with pytest.raises(UserError, match=f"process {where} of 2: no text here, in {where}"):
            everywhere(lambda where=where: fail(where))
    with pytest.raises(UserError, match="process 0 of 2: no text here, in 0"):
        on_first(lambda: fail(0))
    refuse_different({"data": {"seed": 1}})
    with pytest.raises(UserError, match="process 1 was given --log-every 4, but process 0 --log-every 3: give all"):
        refuse_different({"data": {"seed": 1}, "report": {"log_every": 3 + here}})


def check_batches(shape: tuple[int, int, int]) -> None:
    """Each process reads only the rows of its devices, each row once, and together they have the
    whole batch.
    """
    mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)
    like = jax.ShapeDtypeStruct((8, 5), np.int32, sharding=batch_sharding(mesh))
    windows, step = training_windows(TOKENS, CONFIG), 11
    read = list[int]()

    def rows(start: int, stop: int) -> np.ndarray:
        read.extend(range(start, stop))
        return training_rows(windows, step, 8)(start, stop)

    batch = place_batch(like, rows)
    whole = windows.batch(8)[step]
    own = {row for shard in batch.addressable_shards for row in range(*shard.index[0].indices(8))}
    assert sorted(read) == sorted(own)
    assert len(own) == (8 if shape[2] == 8 else 4)
    for shard in batch.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    gathered = jax.jit(lambda x: x, out_shardings=jax.sharding.NamedSharding(mesh, jax.P()))(batch)
    np.testing.assert_array_equal(gathered, whole)


def check_shared_folders() -> None:
    """A folder is shared if it contains the token of process 0, not if it just contains a run."""
    with tempfile.TemporaryDirectory() as folder:
        shared, own = RunFolder(Path(on_first(lambda: folder))), RunFolder(Path(folder))
        token = on_first(shared.leave_token)
        everywhere(lambda: shared.wait_for_token(token))
        own.leave_token()
        token = on_first(own.leave_token)
        with pytest.raises(UserError, match="process 1 of 2: --run-dir .* is not the folder that process 0 writes to"):
            everywhere(lambda: own.wait_for_token(token, patience=0.5))
        gathered("")  # keeps the folder of process 0 until both are done


def check_a_signal_before_the_first_step() -> None:
    """It stops a run that resumes at step 10, in both processes at the same step.

    SIGINT is forwarded as SIGTERM, so this tests both.
    """
    with SharedStopSignals() as signals:
        if jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(3)  # JAX checks for signals once a second, and has agreed on a step by then
        stopped_at = next(filter(functools.partial(is_stopped, signals), range(10, 100)), None)
    assert gathered(str(stopped_at)) == ["10", "10"]


def is_stopped(signals: SharedStopSignals, step: int) -> bool:
    gathered("")  # stands for an update: neither is ahead
    try:
        signals.poll(step)
    except Stopped:
        return True
    return False


if __name__ == "__main__":
    # In the order of the trainer: JAX takes SIGTERM over.
    with exiting_on_signals(), joined(ProcessFlags(distributed=True, heartbeat_timeout=20), "Resume."):
        assert (jax.process_count(), jax.device_count()) == (2, 8)
        check_messages()
        for mesh_shape in ((8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)):
            check_batches(mesh_shape)
        check_shared_folders()
        check_a_signal_before_the_first_step()
        print("all agreed")
